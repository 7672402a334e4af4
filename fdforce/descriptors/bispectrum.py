"""Bispectrum components of SNAP with LAMMPS' definition, names and order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import cache, cached_property, partial

import numpy as np

from fdforce.descriptors.features import (
    Tables,
    check_elements,
    compute_features,
    settings_of,
    working_dtype,
)
from fdforce.errors import ConfigError

SINE_TERMS = 13
COSINE_TERMS = 14

FLAGS = (
    "switchflag", "bzeroflag", "switchinnerflag", "chemflag", "bnormflag", "wselfallflag",
)  # fmt: skip

# Arguments of the kernels that follow each other in them, and the names of their tables.
GEOMETRY = ("constants", "sine", "cosine", "reach", "pair_table", "switches")
HALF = ("norm", "diagonal", "full", "mirror", "sign")
PRODUCTS = ("out_start", "out", "term_start", "first", "second", "coefficient")
SERIES = (
    "slope_start", "slope_feature", "slope_factor", "series_out", "series_factor", "inverse",
)  # fmt: skip


class Bispectrum:
    """Bispectrum components of the density of neighbours on the 3-sphere.

    The components are those of LAMMPS' ``compute sna/atom``; a linear model on them is SNAP.
    A neighbour at distance r counts with the weight of its element times
    ``(1 + cos(pi (r - rmin0) / (rcut - rmin0))) / 2``. Components B_{j1 j2 j} with
    ``j2 <= j1 <= j <= twojmax`` (twice the angular momenta) are sorted by j1, j2 and j. Source:
    Thompson, Swiler, Trott, Foiles and Tucker, J. Comput. Phys. 285, 316 (2015), and chemflag:
    Cusentino et al., J. Phys. Chem. A 124, 5456 (2020).

    Parameters
    ----------
    elements : sequence of str
        Every element that an atom may see, in the order of LAMMPS' atom types.
    twojmax : int
        Twice the highest angular momentum.
    rcutfac : float
        The cutoff of a pair is ``rcutfac * (radelem_i + radelem_j)``, Å.
    rfac0 : float
        Part of the 3-sphere that distances up to the cutoff fill, at most 1.
    rmin0 : float, Å
        Distance at the pole of the sphere. Atoms have to stay further apart: below it the sphere
        is entered from the other side, which LAMMPS does with a jump.
    switchflag : 0 or 1
        Whether the weight of a neighbour falls to zero at the cutoff. Without, energies jump.
    bzeroflag : 0 or 1
        Whether the components of an isolated atom are subtracted.
    radelem, wj : float or sequence of float
        Radius and weight of each element.
    switchinnerflag : 0 or 1
        Whether weights also fall to zero between ``sinner + dinner`` and ``sinner - dinner``, each
        the mean of those of the two elements.
    sinner, dinner : float or sequence of float, Å
        With ``switchinnerflag=1``, for each element.
    chemflag : 0 or 1
        Whether every element of neighbours has a density of its own. All components then come for
        every triplet of elements (e1, e2, e3) of j1, j2 and j: e1 slowest, components fastest.
    bnormflag : 0 or 1
        Whether B is divided by j + 1.
    wselfallflag : 0 or 1
        With ``chemflag=1``, whether an atom counts in the densities of all elements and not of its
        own alone.

    Raises
    ------
    ConfigError
        A setting is out of its range or has the wrong length.
    """

    name = "bispectrum"
    on_gpu = True
    setting_help = {
        "twojmax": "twice the highest angular momentum",
        "rcutfac": "the cutoff of a pair is rcutfac (radelem_i + radelem_j) (Å)",
        "rfac0": "part of the 3-sphere that distances up to the cutoff fill, at most 1",
        "rmin0": "distance at the pole of the sphere (Å)",
        "switchflag": "1: weights fall to zero at the cutoff",
        "bzeroflag": "1: the components of an isolated atom are subtracted",
        "radelem": "radius of all or of each element",
        "wj": "weight of all or of each element",
        "switchinnerflag": "1: weights also fall to zero at an inner radius",
        "sinner": "switchinnerflag 1: middle of the inner switching, for all or each element (Å)",
        "dinner": "switchinnerflag 1: half of its width, for all or each element (Å)",
        "chemflag": "1: a density for each element of the neighbours",
        "bnormflag": "1: components are divided by j + 1",
        "wselfallflag": "chemflag 1: atoms count in the densities of all elements",
    }

    def __init__(
        self,
        elements: Sequence[str],
        twojmax: int = 6,
        rcutfac: float = 4.67637,
        rfac0: float = 0.99363,
        rmin0: float = 0.0,
        switchflag: int = 1,
        bzeroflag: int = 1,
        radelem: float | list[float] = 0.5,
        wj: float | list[float] = 1.0,
        switchinnerflag: int = 0,
        sinner: float | list[float] = 0.0,
        dinner: float | list[float] = 0.0,
        chemflag: int = 0,
        bnormflag: int = 0,
        wselfallflag: int = 0,
    ):
        self.elements = tuple(elements)
        check_elements(self.elements)
        if int(twojmax) != twojmax or twojmax < 0:
            raise ConfigError(f"twojmax = {twojmax}: must be a whole number, at least 0")
        self.twojmax = int(twojmax)
        self.rcutfac, self.rfac0, self.rmin0 = float(rcutfac), float(rfac0), float(rmin0)
        self.radelem = self._per_element("radelem", radelem)
        self.wj = self._per_element("wj", wj)
        flags = (switchflag, bzeroflag, switchinnerflag, chemflag, bnormflag, wselfallflag)
        for flag, value in zip(FLAGS, flags):
            if value not in (0, 1):
                raise ConfigError(f"{flag} = {value}: must be 0 or 1")
            setattr(self, flag, int(value))
        self.sinner = self._per_element("sinner", sinner)
        self.dinner = self._per_element("dinner", dinner)
        self._check()

    def _per_element(self, name, value):
        values = [float(x) for x in np.ravel(value)]
        if len(values) == 1:
            values *= len(self.elements)
        if len(values) != len(self.elements):
            raise ConfigError(f"{name} has {len(values)} values for {len(self.elements)} elements")
        return values

    def _check(self):
        if not self.rcutfac > 0:
            raise ConfigError(f"rcutfac = {self.rcutfac}: must be above 0")
        if not 0 < self.rfac0 <= 1:
            raise ConfigError(f"rfac0 = {self.rfac0}: must be above 0 and at most 1")
        if not min(self.radelem) > 0:
            raise ConfigError(f"radelem = {self.radelem}: must be above 0")
        if not all(math.isfinite(weight) for weight in self.wj):
            raise ConfigError(f"wj = {self.wj}: must be finite")
        shortest = 2 * self.rcutfac * min(self.radelem)
        if not 0 <= self.rmin0 < shortest:
            raise ConfigError(
                f"rmin0 = {self.rmin0}: must be at least 0 and below the shortest cutoff, "
                f"{shortest:g} Å"
            )
        if self.switchinnerflag:
            if not min(self.dinner) > 0:
                raise ConfigError(
                    f"dinner = {self.dinner}: must be above 0 Å with switchinnerflag = 1"
                )
            if not all(math.isfinite(radius) for radius in self.sinner):
                raise ConfigError(f"sinner = {self.sinner}: must be finite")

    @property
    def settings(self) -> dict:
        """Arguments that make an equal descriptor."""
        return settings_of(self)

    @property
    def cutoff(self) -> float:
        """Largest distance at which a neighbour counts, Å."""
        return float(self._reach.max())

    @property
    def n_features(self) -> int:
        return len(components(self.twojmax)) * self._n_channels**3

    @property
    def labels(self) -> list[str]:
        """A name for every feature, in order: twice the angular momenta j1 j2 j."""
        plain = [f"B {j1} {j2} {j}" for j1, j2, j in components(self.twojmax)]
        if not self.chemflag:
            return plain
        n = self.elements
        return [f"{b}, {e1} {e2} {e3}" for e1 in n for e2 in n for e3 in n for b in plain]

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
        """As `Descriptor.forward`; kept are the sums U over neighbours."""
        device, dtype = batch.device, working_dtype(batch, mean)
        tables = self._tables.on(device, dtype)
        features = device.empty((batch.n_atoms, self.n_features), dtype)
        kept = batch.n_atoms if keep else 0
        sums = device.empty((kept, self._n_channels, 2 * len(tables["norm"])), dtype)
        device.kernels("bispectrum").bispectrum_forward(
            *batch.pair_arguments, *(tables[name] for name in GEOMETRY), tables["own"],
            self.twojmax, *(tables[name] for name in HALF),
            *(tables[f"forward {name}"] for name in PRODUCTS),
            device.sum(mean, tables["isolated"], dtype), device.cast(scale, dtype),
            features, sums,
        )  # fmt: skip
        return features, sums

    def backward(self, batch, d_features, sums, scale):
        """As `Descriptor.backward`."""
        device, dtype = batch.device, np.dtype(d_features.dtype)
        tables, slopes = self._tables.on(device, dtype), device.slopes(batch, dtype)
        device.kernels("bispectrum").bispectrum_backward(
            d_features, sums, *batch.pair_arguments, *(tables[name] for name in GEOMETRY),
            self._n_channels, self.twojmax, *(tables[name] for name in HALF[2:]),
            *(tables[f"backward {name}"] for name in PRODUCTS), len(_made(self.twojmax)),
            *(tables[name] for name in SERIES), device.cast(scale, dtype), *slopes.arrays,
        )  # fmt: skip
        return slopes.totals()

    @property
    def _n_channels(self):
        return len(self.elements) if self.chemflag else 1

    @cached_property
    def _reach(self):
        """Cutoff of every pair of elements."""
        radius = np.array(self.radelem)
        return self.rcutfac * (radius[:, None] + radius)

    @cached_property
    def _own(self):
        """Densities in which an atom of every element counts."""
        if self.chemflag and not self.wselfallflag:
            return np.eye(len(self.elements))
        return np.ones((len(self.elements), self._n_channels))

    @cached_property
    def _isolated(self):
        """What bzeroflag subtracts from the components of each element."""
        j = np.array([j for _, _, j in components(self.twojmax)])
        value = np.ones(len(j)) if self.bnormflag else j + 1.0
        own = self._own
        triplets = np.einsum("za,zb,zc->zabc", own, own, own).reshape(len(own), -1)
        return self.bzeroflag * (triplets[:, :, None] * value).reshape(len(own), -1)

    @cached_property
    def _tables(self) -> Tables:
        return Tables(
            partial(_make_tables, self), double=("reach", "isolated"),
            short=("forward first", "forward second", "backward first", "backward second"),
        )  # fmt: skip


def _make_tables(descriptor):
    n, twojmax = len(descriptor.elements), descriptor.twojmax
    pair_table = np.empty((n, n, 4))
    pair_table[..., 0] = 1 / (descriptor._reach - descriptor.rmin0)
    pair_table[..., 1] = descriptor.wj
    pair_table[..., 2:] = 0.0, 1.0
    if descriptor.switchinnerflag:
        sinner, dinner = np.array(descriptor.sinner), np.array(descriptor.dinner)
        pair_table[..., 2] = (sinner[:, None] + sinner) / 2
        pair_table[..., 3] = 1 / (dinner[:, None] + dinner)
    rfac0 = descriptor.rfac0
    half = _half(twojmax)
    chemical, normalised = descriptor._n_channels > 1, bool(descriptor.bnormflag)
    slope_start, slope_feature, slope_factor = _slopes(twojmax, descriptor._n_channels, normalised)
    series_out, series_factor = _series(twojmax)
    forward = _lists(twojmax, False, chemical, normalised)
    backward = _lists(twojmax, True, chemical, False)
    return {
        "constants": np.array([1, 0.5, rfac0, descriptor.rmin0, np.pi, np.pi * rfac0]),
        "sine": np.array([_taylor(2 * k + 1, k) for k in range(SINE_TERMS)]),
        "cosine": np.array([_taylor(2 * k, k) for k in range(COSINE_TERMS)]),
        "reach": descriptor._reach,
        "pair_table": pair_table,
        "switches": np.array([descriptor.switchflag, descriptor.switchinnerflag]),
        "own": descriptor._own,
        "norm": np.array([_norm(j, k) / _norm(j, p) for j, k, p in half]),
        "diagonal": np.array([float(k == p) for _, k, p in half]),
        "full": np.array([_place(j, k, p) for j, k, p in half]),
        "mirror": np.array([_place(j, j - k, j - p) for j, k, p in half]),
        "sign": np.array([(-1.0) ** (k + p) for _, k, p in half]),
        **{f"forward {name}": table for name, table in zip(PRODUCTS, forward)},
        **{f"backward {name}": table for name, table in zip(PRODUCTS, backward)},
        "slope_start": slope_start,
        "slope_feature": slope_feature,
        "slope_factor": slope_factor,
        "series_out": series_out,
        "series_factor": series_factor,
        "inverse": np.array([2 / (j + 1) for j in range(twojmax)]),
        "isolated": descriptor._isolated,
    }


def _taylor(power, sign):
    return (-1) ** sign * math.pi**power / math.factorial(power)


def _norm(j, k):
    """n_jk: a monomial x^k y^(j - k) over it is a state of angular momentum j / 2."""
    return math.sqrt(math.factorial(k) * math.factorial(j - k))


def _place(j, k, p):
    """Place of (k, p) of level j among all elements."""
    return j * (j + 1) * (2 * j + 1) // 6 + k * (j + 1) + p


@cache
def components(twojmax: int) -> tuple[tuple[int, int, int], ...]:
    """Triples (j1, j2, j), twice the angular momenta, of the components in their order."""
    return tuple(triple for triple in _couplings(twojmax) if triple[2] >= triple[0])


@cache
def _couplings(twojmax):
    """All (j1, j2, j) with j2 <= j1 that couple."""
    return tuple(
        (j1, j2, j)
        for j1 in range(twojmax + 1)
        for j2 in range(j1 + 1)
        for j in range(j1 - j2, min(twojmax, j1 + j2) + 1, 2)
    )


@cache
def _half(twojmax):
    """(j, k, p) with 2 p <= j, column after column."""
    return tuple(
        (j, k, p) for j in range(twojmax + 1) for p in range(j // 2 + 1) for k in range(j + 1)
    )


@cache
def _made(twojmax):
    """Elements (j, k, p) of which every other one is a mirror image, and their places."""
    chosen = [(j, k, p) for j, k, p in _half(twojmax) if 2 * p < j or k <= p]
    return {element: n for n, element in enumerate(chosen)}


@cache
def _clebsch_gordan(j1, j2, j):
    """Coefficients and the indices j1 + m1, j2 + m2, j + m (halved) of those that do not vanish."""
    excess = (j1 + j2 - j) // 2
    fact = math.factorial
    triangle = Fraction(
        (j + 1) * fact(excess) * fact((j + j1 - j2) // 2) * fact((j - j1 + j2) // 2),
        fact((j1 + j2 + j) // 2 + 1),
    )
    found = []
    for m1 in range(j1 + 1):
        for m2 in range(max(0, excess - m1), min(j2, j + excess - m1) + 1):
            m = m1 + m2 - excess
            total = Fraction(0)
            for k in range(excess + 1):
                below = k, excess - k, j1 - m1 - k, m2 - k, m1 - excess + k, j2 - m2 - excess + k
                if min(below) >= 0:
                    total += Fraction((-1) ** k, math.prod(map(fact, below)))
            if total:
                states = map(fact, (m, j - m, m1, j1 - m1, m2, j2 - m2))
                square = triangle * math.prod(states) * total**2
                found.append((math.copysign(math.sqrt(square), total), m1, m2, m))
    coefficients, *indices = zip(*found)
    return np.array(coefficients), *[np.array(index) for index in indices]


@cache
def _lists(twojmax, backward, chemical, normalised):
    """Products u_j1 u_j2 for every element of every Z (out_start .. coefficient of the kernel).

    Forward for the components, with the weight of an element in the sum over half of them and, if
    `normalised`, 1 / (j + 1); backward for all couplings. Within one density the products of (a, b)
    and (b, a) are one for j1 = j2.
    """
    made = _made(twojmax)
    elements = np.array([-1] * _place(twojmax + 1, 0, 0))
    for (j, k, p), n in made.items():
        elements[_place(j, k, p)] = n
    out_start, out, term_start, first, second, coefficient = [0], [], [0], [], [], []
    for j1, j2, j in _couplings(twojmax) if backward else components(twojmax):
        c, m1, m2, m = _clebsch_gordan(j1, j2, j)
        rows, columns = np.indices((len(c), len(c))).reshape(2, -1)
        at = _place(j, m[rows], m[columns])
        use = elements[at] >= 0
        rows, columns, at = rows[use], columns[use], at[use]
        a = _place(j1, m1[rows], m1[columns])
        b = _place(j2, m2[rows], m2[columns])
        if j1 == j2 and not chemical:
            a, b = np.minimum(a, b), np.maximum(a, b)
        keys, which = np.unique(np.stack([at, a, b]), axis=1, return_inverse=True)
        factor = np.bincount(which.ravel(), c[rows] * c[columns])
        if not backward:
            alone = _place(j, j // 2, j // 2) if j % 2 == 0 else -1
            factor *= np.where(keys[0] == alone, 1.0, 2.0)
            factor /= j + 1 if normalised else 1
        places, counts = np.unique(keys[0], return_counts=True)
        out.append(elements[places] if backward else places)
        out_start.append(out_start[-1] + len(places))
        term_start += (term_start[-1] + np.cumsum(counts)).tolist()
        first.append(keys[1])
        second.append(keys[2])
        coefficient.append(factor)
    joined = [np.concatenate(parts) for parts in (first, second, coefficient)]
    return np.array(out_start), np.concatenate(out), np.array(term_start), *joined


@cache
def _slopes(twojmax, n_channels, normalised):
    """Which dE/dB weigh a Z in Y (slope_start, slope_feature, slope_factor of the kernel).

    ``B_{j1 j2 j} = B_{j2 j1 j} = (j + 1) / (j1 + 1) B_{j j2 j1}``, densities exchanged likewise,
    so that the derivative with respect to any of the three factors is a Z.
    """
    number = {triple: n for n, triple in enumerate(_couplings(twojmax))}
    n_components = len(components(twojmax))
    channels = range(n_channels)
    found = [[] for _ in range(n_channels**3 * len(number))]

    def add(one, other, target, feature, factor):
        """The derivative by the last of three (j, channel) couples the first two."""
        one, other = sorted((one, other), reverse=True)
        triple = number[one[0], other[0], target[0]]
        at = (one[1] * n_channels + other[1]) * len(number) + triple
        found[at * n_channels + target[1]].append((feature, factor))

    for e1 in channels:
        for e2 in channels:
            for e3 in channels:
                block = ((e1 * n_channels + e2) * n_channels + e3) * n_components
                for n, (j1, j2, j) in enumerate(components(twojmax)):
                    size = 1 / (j + 1) if normalised else 1.0
                    a, b, c = (j1, e1), (j2, e2), (j, e3)
                    add(a, b, c, block + n, size)
                    add(c, b, a, block + n, size * (j + 1) / (j1 + 1))
                    add(c, a, b, block + n, size * (j + 1) / (j2 + 1))
    start = np.concatenate([[0], np.cumsum([len(entries) for entries in found])])
    feature, factor = zip(*[entry for entries in found for entry in entries])
    return start, np.array(feature), np.array(factor)


@cache
def _series(twojmax):
    """Coefficients X and R of the derivatives of E in terms of Y (series_out, series_factor).

    With all elements (k, p) of P and ``T_j = conj(Y_j) n_jk / n_jp``, dE/da of level j is
    ``sum X[k + 1, p] P[k, p]`` and dE/db is ``sum X[k, p] P[k, p]``,
    ``X[k, p] = (p + 1) T_{j+1}[k, p + 1]``. The half 2 p > j is folded into R.
    """
    made = _made(twojmax)

    def x(j, k, p):
        """X as (element of Y, factor of its real part, factor of its imaginary part)."""
        factor = (p + 1) * _norm(j + 1, k) / _norm(j + 1, p + 1)
        if (j + 1, k, p + 1) in made:
            return made[j + 1, k, p + 1], factor, -factor
        factor *= (-1) ** (k + p + 1)
        return made[j + 1, j + 1 - k, j - p], factor, factor

    out, factors = [], []
    for j in range(twojmax):
        for p in range(j // 2 + 1):
            for k in range(j + 2):
                n, re, im = x(j, k, p)
                m, mirror_re, mirror_im = x(j, j + 1 - k, j - p)
                sign = 0 if 2 * p == j else (-1) ** (k + p)
                out.append((n, m))
                factors.append((re, im, sign * mirror_re, sign * mirror_im))
    return np.array(out, np.int64).reshape(-1, 2), np.array(factors, float).reshape(-1, 4)
