"""ANI atomic environment vectors with TorchANI's constants and layout."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cached_property, partial

import numpy as np

from fdforce.descriptors.chebyshev import COSINE_TERMS, SINE_TERMS, _taylor
from fdforce.descriptors.features import (
    Tables,
    check_elements,
    compute_features,
    settings_of,
    working_dtype,
)
from fdforce.errors import ConfigError

SQUEEZE = 0.95
"""Factor of the cosine before the angle is taken; part of ANI."""


def _evenly(start, stop, number):
    """``number`` points from start on, stop excluded."""
    return [start + k * (stop - start) / number for k in range(number)]


ANI1X = dict(
    radial_cutoff=5.2,
    radial_eta=16.0,
    radial_shifts=_evenly(0.9, 5.2, 16),
    angular_cutoff=3.5,
    angular_eta=8.0,
    zeta=32.0,
    angle_shifts=_evenly(np.pi / 16, np.pi + np.pi / 16, 8),
    angular_shifts=_evenly(0.9, 3.5, 4),
)
ANI2X = dict(
    radial_cutoff=5.1,
    radial_eta=19.7,
    radial_shifts=_evenly(0.8, 5.1, 16),
    angular_cutoff=3.5,
    angular_eta=12.5,
    zeta=14.1,
    angle_shifts=_evenly(np.pi / 8, np.pi + np.pi / 8, 4),
    angular_shifts=_evenly(0.8, 3.5, 8),
)


class AtomicEnvironmentVector:
    """Radial and angular symmetry functions of ANI, for every element and pair of elements.

    With f the half-cosine cutoff, the features of an atom are, for each element,
    ``1/4 sum_j exp(-radial_eta (r_ij - s)^2) f(r_ij; R)`` over its neighbours j of that element,
    one for every s of `radial_shifts`; then, for each pair of elements,
    ``2 sum_jk [(1 + cos(theta - w)) / 2]^zeta exp(-angular_eta ((r_ij + r_ik)/2 - s)^2)
    f(r_ij; A) f(r_ik; A)`` over pairs of such neighbours, one for every s of `angular_shifts` and
    w of `angle_shifts`, w running first. theta is arccos(0.95 cos theta_jik). Source: Smith, Isayev
    and Roitberg, Chem. Sci. 8, 3192 (2017), as implemented in TorchANI (which has the factors 1/4
    and 0.95). The defaults are those of ANI-1x.

    Parameters
    ----------
    elements : sequence of str
        Every element that an atom may see.
    radial_cutoff, angular_cutoff : float, Å
        R and A.
    radial_eta, angular_eta : float, 1/Å^2
    radial_shifts, angular_shifts : sequence of float, Å
    zeta : float
        Sharpness of the angular functions. Whole numbers are faster.
    angle_shifts : sequence of float, radians

    Raises
    ------
    ConfigError
        A cutoff or eta is not positive, zeta is below 1, there are no shifts, or an element is
        missing or repeated.
    """

    name = "atomic_environment_vector"
    on_gpu = True
    setting_help = {
        "radial_cutoff": "reach of the radial functions (Å)",
        "radial_eta": "sharpness of the radial functions (1/Å²)",
        "radial_shifts": "centres of the radial functions (Å)",
        "angular_cutoff": "reach of the angular functions (Å)",
        "angular_eta": "sharpness of the angular functions in the distance (1/Å²)",
        "zeta": "sharpness of the angular functions in the angle, at least 1",
        "angle_shifts": "centres of the angular functions in the angle (radians)",
        "angular_shifts": "centres of the angular functions in the distance (Å)",
    }

    def __init__(
        self,
        elements: Sequence[str],
        radial_cutoff: float = ANI1X["radial_cutoff"],
        radial_eta: float = ANI1X["radial_eta"],
        radial_shifts: list[float] = ANI1X["radial_shifts"],
        angular_cutoff: float = ANI1X["angular_cutoff"],
        angular_eta: float = ANI1X["angular_eta"],
        zeta: float = ANI1X["zeta"],
        angle_shifts: list[float] = ANI1X["angle_shifts"],
        angular_shifts: list[float] = ANI1X["angular_shifts"],
    ):
        self.elements = tuple(elements)
        self.radial_cutoff = float(radial_cutoff)
        self.radial_eta = float(radial_eta)
        self.radial_shifts = tuple(float(shift) for shift in radial_shifts)
        self.angular_cutoff = float(angular_cutoff)
        self.angular_eta = float(angular_eta)
        self.zeta = float(zeta)
        self.angle_shifts = tuple(float(shift) for shift in angle_shifts)
        self.angular_shifts = tuple(float(shift) for shift in angular_shifts)
        self._check()

    def _check(self):
        check_elements(self.elements)
        for key, unit in (
            ("radial_cutoff", "Å"), ("angular_cutoff", "Å"),
            ("radial_eta", "1/Å^2"), ("angular_eta", "1/Å^2"),
        ):  # fmt: skip
            if not 0 < getattr(self, key) < np.inf:
                raise ConfigError(f"{key} = {getattr(self, key)}: must be above 0 {unit}")
        if not 1 <= self.zeta < np.inf:
            raise ConfigError(f"zeta = {self.zeta}: must be at least 1")
        for key in ("radial_shifts", "angle_shifts", "angular_shifts"):
            shifts = getattr(self, key)
            if not shifts or not np.isfinite(shifts).all():
                raise ConfigError(f"{key} = {list(shifts)}: must be one or more numbers")

    @classmethod
    def ani1x(cls, elements: Sequence[str] = ("H", "C", "N", "O")) -> AtomicEnvironmentVector:
        """The vector of ANI-1x, 384 features for its four elements."""
        return cls(elements, **ANI1X)

    @classmethod
    def ani2x(
        cls, elements: Sequence[str] = ("H", "C", "N", "O", "S", "F", "Cl")
    ) -> AtomicEnvironmentVector:
        """The vector of ANI-2x, 1008 features for its seven elements."""
        return cls(elements, **ANI2X)

    @property
    def settings(self) -> dict:
        """Arguments that make an equal descriptor."""
        return settings_of(self)

    @property
    def cutoff(self) -> float:
        """Largest distance at which a neighbour counts, Å."""
        return max(self.radial_cutoff, self.angular_cutoff)

    @property
    def n_features(self) -> int:
        n = len(self.elements)
        per_pair = len(self.angular_shifts) * len(self.angle_shifts)
        return n * len(self.radial_shifts) + n * (n + 1) // 2 * per_pair

    @property
    def labels(self) -> list[str]:
        """A name for every feature, in order."""
        labels = [
            f"radial {element} {m}"
            for element in self.elements
            for m in range(len(self.radial_shifts))
        ]
        pairs = itertools.combinations_with_replacement(self.elements, 2)
        return labels + [
            f"angular {one}-{other} {a} {z}"
            for one, other in pairs
            for a in range(len(self.angular_shifts))
            for z in range(len(self.angle_shifts))
        ]

    def compute(self, atoms) -> np.ndarray:
        """Features of every atom.

        Parameters
        ----------
        atoms : ase.Atoms

        Returns
        -------
        ndarray, shape (n_atoms, n_features), float64

        Raises
        ------
        DataError
            An element that the descriptor does not know, or positions that are not finite.
        """
        return compute_features(self, atoms)

    def forward(self, batch, mean, scale, *, keep=True):
        """As `Descriptor.forward`; `backward` needs nothing but the positions."""
        device, dtype = batch.device, working_dtype(batch, mean)
        tables = self._tables.on(device, dtype)
        features = device.empty((batch.n_atoms, self.n_features), dtype)
        device.kernels("atomic_environment").atomic_environment_forward(
            *batch.pair_arguments,
            tables["constants"], tables["inverse_cutoff"], tables["sine"], tables["radial_shifts"],
            tables["angular_shifts"], tables["angle_cosine"], tables["angle_sine"], self._power,
            device.cast(mean, dtype), device.cast(scale, dtype), features,
        )  # fmt: skip
        return features, device.empty((batch.n_atoms if keep else 0, 0), dtype)

    def backward(self, batch, d_features, kept, scale):
        """As `Descriptor.backward`."""
        device, dtype = batch.device, np.dtype(d_features.dtype)
        tables, slopes = self._tables.on(device, dtype), device.slopes(batch, dtype)
        device.kernels("atomic_environment").atomic_environment_backward(
            d_features, *batch.pair_arguments,
            tables["constants"], tables["inverse_cutoff"], tables["sine"], tables["cosine"],
            tables["radial_shifts"], tables["angular_shifts"], tables["angle_cosine"],
            tables["angle_sine"], self._power, device.cast(scale, dtype), *slopes.arrays,
        )  # fmt: skip
        return slopes.totals()

    @property
    def _power(self):
        return int(self.zeta) if self.zeta == int(self.zeta) else 0

    @cached_property
    def _tables(self) -> Tables:
        return Tables(partial(_make_tables, self), double=("inverse_cutoff",))


def _make_tables(descriptor):
    inverse_cutoff = np.array([1 / descriptor.radial_cutoff, 1 / descriptor.angular_cutoff])
    constants = [1, 0.5, *inverse_cutoff, descriptor.radial_eta, descriptor.angular_eta]
    return {
        "constants": np.array([*constants, descriptor.zeta, SQUEEZE]),
        "inverse_cutoff": inverse_cutoff,
        "sine": np.array([_taylor(2 * k + 1, k) / 2 for k in range(SINE_TERMS)]),
        "cosine": np.array([-np.pi / 2 * _taylor(2 * k, k) for k in range(COSINE_TERMS)]),
        "radial_shifts": np.array(descriptor.radial_shifts),
        "angular_shifts": np.array(descriptor.angular_shifts),
        "angle_cosine": np.cos(descriptor.angle_shifts),
        "angle_sine": np.sin(descriptor.angle_shifts),
    }
