"""Chebyshev descriptors with ænet's definition and layout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property, partial

import numpy as np
from numpy.polynomial import chebyshev, legendre

from fdforce.descriptors.features import (
    Tables,
    check_elements,
    compute_features,
    element_spins,
    settings_of,
    working_dtype,
)
from fdforce.errors import ConfigError

SINE_TERMS = 11
COSINE_TERMS = 12


class Chebyshev:
    """Radial and angular Chebyshev expansion of an atom's environment.

    With f the half-cosine cutoff, the features of an atom are the sums over neighbours
    ``sum_j T_n(2 r_ij / R - 1) f(r_ij; R)``, n = 0 .. radial_order, then those over pairs of
    neighbours ``sum_{j<k} T_n(cos theta_jik) f(r_ij; A) f(r_ik; A)``, n = 0 .. angular_order, and
    for more than one element both again with a neighbour weighted by the spin of its element:
    -n/2 .. n/2 in the order of `elements`, without 0 when n is even. Source: Artrith, Urban and
    Ceder, Phys. Rev. B 96, 014112 (2017), Eqs. 4-9, as implemented in ænet.

    Parameters
    ----------
    elements : sequence of str
        Every element that an atom may see, in ænet's ``ENV`` order.
    radial_cutoff, angular_cutoff : float, Å
        R and A.
    radial_order, angular_order : int
        Highest order of each expansion.

    Raises
    ------
    ConfigError
        A cutoff is not positive, an order is negative, or an element is missing or repeated.
    """

    name = "chebyshev"
    on_gpu = True
    setting_help = {
        "radial_cutoff": "reach of the radial descriptors (Å)",
        "radial_order": "highest order of the radial descriptors",
        "angular_cutoff": "reach of the angular descriptors (Å)",
        "angular_order": "highest order of the angular descriptors",
    }

    def __init__(
        self,
        elements: Sequence[str],
        radial_cutoff: float = 6.0,
        radial_order: int = 15,
        angular_cutoff: float = 5.0,
        angular_order: int = 6,
    ):
        self.elements = tuple(elements)
        self.radial_cutoff = float(radial_cutoff)
        for name, order in (("radial_order", radial_order), ("angular_order", angular_order)):
            if int(order) != order:
                raise ConfigError(f"{name} = {order}: must be a whole number")
        self.radial_order = int(radial_order)
        self.angular_cutoff = float(angular_cutoff)
        self.angular_order = int(angular_order)
        self._check()

    def _check(self):
        check_elements(self.elements)
        for key in ("radial_cutoff", "angular_cutoff"):
            if not getattr(self, key) > 0:
                raise ConfigError(f"{key} = {getattr(self, key)}: must be above 0 Å")
        for key in ("radial_order", "angular_order"):
            if getattr(self, key) < 0:
                raise ConfigError(f"{key} = {getattr(self, key)}: must be at least 0")

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
        return (self.radial_order + self.angular_order + 2) * (1 if len(self.elements) == 1 else 2)

    @property
    def labels(self) -> list[str]:
        """A name for every feature, in order."""
        plain = [f"radial {n}" for n in range(self.radial_order + 1)]
        plain += [f"angular {n}" for n in range(self.angular_order + 1)]
        return plain if len(self.elements) == 1 else plain + [f"{name}, spin" for name in plain]

    @property
    def spins(self) -> np.ndarray:
        """Weight of each element in the second half of the features, shape (n_elements,)."""
        return element_spins(len(self.elements))

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
        """As `Descriptor.forward`; kept are the densities of neighbours, by element."""
        device, dtype = batch.device, working_dtype(batch, mean)
        tables = self._tables.on(device, dtype)
        features = device.empty((batch.n_atoms, self.n_features), dtype)
        n_density = (self.angular_order + 1) * (self.angular_order + 2)
        kept = batch.n_atoms if keep else 0
        densities = device.empty((kept, len(self.elements), n_density), dtype)
        device.kernels("chebyshev").chebyshev_forward(
            *batch.pair_arguments,
            tables["constants"], tables["inverse_cutoff"], tables["sine"], tables["recursion"],
            tables["norm"], tables["legendre"], tables["spins"],
            device.cast(mean, dtype), device.cast(scale, dtype), self.radial_order,
            features, densities,
        )  # fmt: skip
        return features, densities

    def backward(self, batch, d_features, densities, scale):
        """As `Descriptor.backward`."""
        slopes = batch.device.slopes(batch, np.dtype(d_features.dtype))
        self._add_slopes(batch, d_features, densities, scale, slopes.arrays)
        return slopes.totals()

    def _add_slopes(self, batch, d_features, densities, scale, arrays):
        device, dtype = batch.device, np.dtype(d_features.dtype)
        tables = self._tables.on(device, dtype)
        device.kernels("chebyshev").chebyshev_backward(
            d_features, densities, *batch.pair_arguments,
            tables["constants"], tables["inverse_cutoff"], tables["sine"], tables["cosine"],
            tables["recursion"], tables["norm"], tables["legendre"], tables["spins"],
            device.cast(scale, dtype), self.radial_order, *arrays,
        )  # fmt: skip

    @cached_property
    def _tables(self) -> Tables:
        return Tables(partial(_make_tables, self), double=("inverse_cutoff",))


def _make_tables(descriptor):
    degree = descriptor.angular_order
    recursion = np.zeros((degree + 1, degree + 4))
    norm = np.zeros((degree + 1, degree + 1))
    for m in range(degree + 1):
        for l in range(m, degree + 4):
            recursion[m, l] = (l * l - m * m) / (4 * l * l - 1)
        for l in range(m, degree + 1):
            norm[m, l] = _addition_norm(l, m)
    n = len(descriptor.elements)
    inverse_cutoff = np.array([1 / descriptor.radial_cutoff, 1 / descriptor.angular_cutoff])
    return {
        "constants": np.array([1, 0.5, *inverse_cutoff]),
        "inverse_cutoff": inverse_cutoff,
        "sine": np.array([_taylor(2 * k + 1, k) / 2 for k in range(SINE_TERMS)]),
        "cosine": np.array([-np.pi / 2 * _taylor(2 * k, k) for k in range(COSINE_TERMS)]),
        "recursion": recursion,
        "norm": norm,
        "legendre": np.stack(
            [_legendre_of_chebyshev(k, degree) / 2 for k in range(degree + 1)], axis=1
        ),
        "spins": np.tile(descriptor.spins, (n, 1)),
    }


def _taylor(power, sign):
    return (-1) ** sign * math.pi**power / math.factorial(power)


def _addition_norm(l, m):
    """sum_m norm_ml |Q_ml(z) (x + i y)^m|^2 = P_l(1): norm of the monic derivative of P_l."""
    leading = math.factorial(2 * l) / (2**l * math.factorial(l) * math.factorial(l - m))
    ratio = math.factorial(l - m) / math.factorial(l + m)
    return (1 if m == 0 else 2) * ratio * leading**2


def _legendre_of_chebyshev(n, degree):
    """Coefficients c_nl of T_n = sum_l c_nl P_l, l = 0 .. degree."""
    series = legendre.poly2leg(chebyshev.cheb2poly(np.eye(n + 1)[n]))
    return np.pad(series, (0, degree + 1 - len(series)))
