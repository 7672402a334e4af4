"""Power spectrum of the density of an atom's neighbours, and invariants of third order."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cached_property, partial

import numpy as np

from fdforce.descriptors.chebyshev import _addition_norm
from fdforce.descriptors.features import (
    Tables,
    check_elements,
    compute_features,
    element_spins,
    settings_of,
    working_dtype,
)
from fdforce.errors import ConfigError
from fdforce.threads import single_blas

ELEMENT_PAIRS = ("auto", "all", "diagonal", "weighted")
MOST_ELEMENTS = 3
"""``auto`` keeps all pairs of so many elements; the number of features grows with its square."""


class PowerSpectrum:
    """Invariants of the neighbour density ``A_znlm = sum_j R_n(r_ij) Y_lm(direction of j)``.

    The sum runs over the neighbours j of element z. The features of an atom are A_zn00, for every
    z and n, then ``sum_m A_znlm A_z'n'lm`` for every l and every pair of (z, n) and (z', n'). With
    Y_lm normalised to the addition theorem that is a sum over pairs of neighbours, j = k included,
    ``sum_jk R_n(r_ij) R_n'(r_ik) P_l(cos theta_jik)``: the atomic cluster expansion to correlation
    order 2 (Drautz, Phys. Rev. B 99, 014104 (2019)), the power spectrum of SOAP (Bartók, Kondor
    and Csányi, Phys. Rev. B 87, 184115 (2013)) and the angular descriptor of NEP (Fan et al.,
    Phys. Rev. B 104, 104309 (2021)), which differ in radial functions and in the pairs they keep.

    R_n is the Chebyshev polynomial T_n(2x - 1) of x = r/R times a cutoff, 1 minus the smooth step
    of 7th order, with three continuous derivatives, over 1 + b x^2, which makes near neighbours
    count more (as the scaling of Willatt, Musil and Ceriotti, Phys. Chem. Chem. Phys. 20, 29661
    (2018), does for SOAP).

    Parameters
    ----------
    elements : sequence of str
        Every element that an atom may see.
    cutoff : float, Å
        R.
    radial_order : int
        Highest n.
    angular_order : int
        Highest l.
    element_pairs : {"auto", "all", "diagonal", "weighted"}
        Whether pairs of neighbours of different elements count, each pair of elements for itself;
        only those of the same element; or, with features whose number does not grow with the
        elements, all pairs in one density of all elements and one in which a neighbour has the
        spin of its element as a weight (as in `Chebyshev`).
        "auto" is "all" up to three elements and "weighted" beyond.
    four_body : int
        2 adds, for every z and n, the two invariants of third order of the densities of l = 1 and
        2: v.Qv and Tr Q^3 with the vector v and the traceless tensor Q. 0 leaves them out.
    damping : float
        `feature_weight` is (1 + d)^-damping with d the sum of all n and l of a feature. A model
        that standardises its features multiplies their scale with it, so that what varies fast in
        space counts less.
    max_degree : int
        Pairs with n + n' + 2 l beyond this are left out, 0 for none: the total-degree truncation of
        the atomic cluster expansion. Orders can then be high where they matter.
    distance_damping : float
        b.

    Raises
    ------
    ConfigError
        The cutoff is not positive, an order or the damping is negative, `element_pairs` or
        `four_body` is unknown, or an element is missing or repeated.
    """

    name = "power_spectrum"
    on_gpu = True
    setting_help = {
        "cutoff": "reach of the density (Å)",
        "radial_order": "highest order n of the radial functions",
        "angular_order": "highest order l of the spherical harmonics",
        "element_pairs": "pairs of neighbour elements; auto: all, weighted beyond 3 elements",
        "four_body": "2: invariants of third order too; 0: none",
        "damping": "features of order d = n + n' + 2 l weigh (1 + d)^-damping",
        "max_degree": "keeps features with n + n' + 2 l up to this; 0 = all",
        "distance_damping": "a neighbour weighs 1 / (1 + distance_damping (r / cutoff)^2)",
    }

    def __init__(
        self,
        elements: Sequence[str],
        cutoff: float = 6.0,
        radial_order: int = 8,
        angular_order: int = 5,
        element_pairs: str = "auto",
        four_body: int = 0,
        damping: float = 2.0,
        max_degree: int = 12,
        distance_damping: float = 10.0,
    ):
        self.elements = tuple(elements)
        self.cutoff = float(cutoff)
        for key, value in (
            ("radial_order", radial_order), ("angular_order", angular_order),
            ("max_degree", max_degree), ("four_body", four_body),
        ):  # fmt: skip
            if int(value) != value:
                raise ConfigError(f"{key} = {value}: must be a whole number")
        self.radial_order = int(radial_order)
        self.angular_order = int(angular_order)
        self.max_degree = int(max_degree)
        if element_pairs == "auto":
            element_pairs = "all" if len(self.elements) <= MOST_ELEMENTS else "weighted"
        self.element_pairs = element_pairs
        self.four_body = int(four_body)
        self.damping = float(damping)
        self.distance_damping = float(distance_damping)
        self._check()

    def _check(self):
        check_elements(self.elements)
        if not 0 < self.cutoff < np.inf:
            raise ConfigError(f"cutoff = {self.cutoff}: must be above 0 Å")
        for key in (
            "radial_order", "angular_order", "max_degree", "damping", "distance_damping"
        ):  # fmt: skip
            if not 0 <= getattr(self, key) < np.inf:
                raise ConfigError(f"{key} = {getattr(self, key)}: must be at least 0")
        if self.element_pairs not in ELEMENT_PAIRS:
            choices = ", ".join(ELEMENT_PAIRS)
            raise ConfigError(f"element_pairs = {self.element_pairs!r}: choose one of {choices}")
        if self.four_body not in (0, 2):
            raise ConfigError(f"four_body = {self.four_body}: must be 0 or 2")
        if self.four_body > self.angular_order:
            raise ConfigError(
                f"four_body = {self.four_body}: needs an angular_order of at least 2, "
                f"not {self.angular_order}"
            )

    @property
    def settings(self) -> dict:
        """Arguments that make an equal descriptor."""
        return settings_of(self)

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the densities: elements, or with "weighted" pairs all of them and their spin."""
        if self.element_pairs != "weighted":
            return self.elements
        return ("all",) if len(self.elements) == 1 else ("all", "spin")

    @cached_property
    def channel_weights(self) -> np.ndarray:
        """Weight of an element in each density, shape (n_channels, n_elements)."""
        n = len(self.elements)
        if self.element_pairs != "weighted":
            return np.eye(n)
        return np.array([np.ones(n), element_spins(n)])[: len(self.channels)]

    @cached_property
    def _columns(self):
        """(channel, n) of every column of the density."""
        return list(itertools.product(self.channels, range(self.radial_order + 1)))

    @cached_property
    def _pairs(self):
        """Pairs of columns of every power spectrum, l after l, and the first pair of every l."""
        columns, pairs, starts = self._columns, [], [0]
        for l in range(self.angular_order + 1):
            for a, (z, n) in enumerate(columns):
                for b, (y, m) in enumerate(columns[a:], a):
                    together = y == z or self.element_pairs == "all"
                    if together and n + m + 2 * l <= (self.max_degree or np.inf):
                        pairs.append((a, b))
            starts.append(len(pairs))
        return np.array(pairs, dtype=np.int64).reshape(-1, 2), np.array(starts)

    @cached_property
    def _contents(self):
        """Label and sum of all n and l of every feature."""
        columns, (pairs, starts) = self._columns, self._pairs
        contents = [(f"radial {z} {n}", n) for z, n in columns]
        for l, (begin, end) in enumerate(itertools.pairwise(starts)):
            for a, b in pairs[begin:end]:
                (z, n), (y, m) = columns[a], columns[b]
                contents.append((f"power {l} {z} {n} {y} {m}", n + m + 2 * l))
        if self.four_body:
            contents += [(f"cubic 112 {z} {n}", 3 * n + 4) for z, n in columns]
            contents += [(f"cubic 222 {z} {n}", 3 * n + 6) for z, n in columns]
        return contents

    @property
    def n_features(self) -> int:
        return len(self._contents)

    @property
    def labels(self) -> list[str]:
        """A name for every feature, in order."""
        return [label for label, _ in self._contents]

    @property
    def feature_weight(self) -> np.ndarray:
        """What the scale of standardised features is multiplied with, shape (n_features,)."""
        return (1.0 + np.array([degree for _, degree in self._contents])) ** -self.damping

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
        """As `Descriptor.forward`; kept is A, (n_atoms, (angular_order + 1)^2, n_columns)."""
        device, dtype = batch.device, working_dtype(batch, mean)
        tables = self._tables.on(device, dtype)
        *pairs, work, place = batch.pair_arguments
        n_components, n_columns = (self.angular_order + 1) ** 2, len(self._columns)
        density = device.empty((batch.n_atoms, n_components, n_columns), dtype)
        features = device.empty((batch.n_atoms, self.n_features), dtype)
        with single_blas():
            device.kernels("density").density_forward(
                *pairs, work, *self._density_arguments(tables), density
            )
            device.kernels("power_spectrum").power_spectrum_forward(
                density, batch.species, work, place, dtype.type(1), tables["norm"],
                tables["pairs"], tables["pair_start"], bool(self.four_body),
                device.cast(mean, dtype), device.cast(scale, dtype), features,
            )  # fmt: skip
        return features, density if keep else device.empty((0, n_components, n_columns), dtype)

    def backward(self, batch, d_features, density, scale):
        """As `Descriptor.backward`."""
        device, dtype = batch.device, np.dtype(d_features.dtype)
        tables, slopes = self._tables.on(device, dtype), device.slopes(batch, dtype)
        *pairs, work, place = batch.pair_arguments
        d_density = device.zeros(density.shape, dtype)
        with single_blas():
            device.kernels("power_spectrum").power_spectrum_backward(
                d_features, density, batch.species, work, place, dtype.type(1), tables["norm"],
                tables["pairs"], tables["pair_start"], bool(self.four_body),
                device.cast(scale, dtype), d_density,
            )  # fmt: skip
            device.kernels("density").density_backward(
                d_density, *pairs, work, *self._density_arguments(tables), *slopes.arrays
            )
        return slopes.totals()

    def _density_arguments(self, tables):
        return (
            tables["constants"], tables["inverse_cutoff"], tables["recursion"], tables["weights"],
            self.radial_order + 1,
        )  # fmt: skip

    @cached_property
    def _tables(self) -> Tables:
        return Tables(partial(_make_tables, self), double=("inverse_cutoff",))


def _make_tables(descriptor):
    degree = descriptor.angular_order
    recursion = np.zeros((degree + 1, degree + 4))
    norm = []
    for m in range(degree + 1):
        for l in range(m, degree + 4):
            recursion[m, l] = (l * l - m * m) / (4 * l * l - 1)
    for l in range(degree + 1):
        norm += [_addition_norm(l, (q + 1) // 2) for q in range(2 * l + 1)]
    pairs, pair_start = descriptor._pairs
    return {
        "constants": [1, 0.5, 1 / descriptor.cutoff, descriptor.distance_damping],
        "inverse_cutoff": np.array([1 / descriptor.cutoff, 1 / descriptor.cutoff]),
        "recursion": recursion,
        "norm": norm,
        "weights": descriptor.channel_weights,
        "pairs": pairs,
        "pair_start": pair_start,
    }
