"""Sums of symmetry functions, collected and laid out for the kernels.

A factor is (kind, three numbers, cutoff or None, reach), an angular ("power", lambda, zeta) or
("window", centre, inverse half width, core, end).
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
from numpy.polynomial import legendre

from fdforce.descriptors.features import working_dtype

CORES = ("e", "p1", "p2", "p3", "p4")
"""Compact functions; an "a" at the end makes one lopsided."""
GAUSSIAN, COSINE, COMPACT = range(3)
POWER, WINDOW, PRODUCT, REAL_POWER = range(4)
MOST_ZETA = 1024
MOST_DEGREE = 32
"""Up to this integer zeta wide functions may be sums over products of densities."""


def gaussian(eta, shift, cutoff):
    """exp(-eta (r - shift)^2) f(r)."""
    return (GAUSSIAN, float(eta), float(shift) if eta else 0.0, 0.0, float(cutoff), float(cutoff))


def cosine(kappa, cutoff):
    """cos(kappa r) f(r)."""
    return (COSINE, float(kappa), 0.0, 0.0, float(cutoff), float(cutoff))


def compact(inner, cutoff, core):
    """A core between inner and cutoff."""
    code = COMPACT + CORES.index(core.removesuffix("a")) + (5 if core.endswith("a") else 0)
    return (code, (inner + cutoff) / 2, 2 / (cutoff - inner), 0.0, None, float(cutoff))


def power(sign, zeta):
    """((1 + lambda cos) / 2)^zeta."""
    return ("power", float(sign), float(zeta))


def window(left, right, core):
    """A core between two angles (degrees)."""
    centre, half_width = math.radians((left + right) / 2), math.radians((right - left) / 2)
    end = {0.0: -1.0, 180.0: 1.0}.get((left + right) / 2, 0.0)
    return ("window", centre, 1 / half_width, float(CORES.index(core.removesuffix("a"))), end)


class Program:
    """Sums over neighbours and pairs of them, collected and then laid out for the kernels.

    Parameters
    ----------
    numbers : sequence of float
        Weight of a neighbour of each species where weights count.
    n_features : int
    cutoff_type : int
    cutoff_alpha : float
    """

    way = "fastest"
    """Of wide functions with an integer zeta: "pairs", "densities" or the "fastest" of them."""

    def __init__(self, numbers, n_features, cutoff_type=1, cutoff_alpha=0.0):
        self.numbers = list(numbers)
        self.n_features = n_features
        self.cutoff_type, self.cutoff_alpha = cutoff_type, cutoff_alpha
        n = len(self.numbers)
        self._radials = {(s, z): [] for s in range(n) for z in range(n)}
        self._blocks = [{} for _ in range(n)]

    def add_radial(self, s, feature, factor, z, weight):
        """feature += weight sum_j factor(r_ij) over neighbours of species z of an atom s."""
        self._radials[s, z].append((factor, feature, float(weight)))

    def add_angular(self, s, feature, angular, factor, narrow, pair, weight):
        """feature += weight sum_{j<k} angular factor factor (factor, if narrow).

        Over neighbours of the two species z1 <= z2 of `pair`, or all, times both `numbers`, if it
        is None.
        """
        key = ((-1, -1) if pair is None else pair) + (int(narrow),)
        groups = self._blocks[s].setdefault(key, {})
        groups.setdefault(factor, []).append((angular, feature, float(weight)))

    def forward(self, batch, mean, scale, keep):
        """As `Descriptor.forward`."""
        device, dtype = batch.device, working_dtype(batch, mean)
        features = device.empty((batch.n_atoms, self.n_features), dtype)
        device.kernels("symmetry_functions").symmetry_functions_forward(
            *batch.pair_arguments, *self._arguments(device, dtype),
            device.cast(mean, dtype), device.cast(scale, dtype), features,
        )  # fmt: skip
        return features, device.empty((batch.n_atoms if keep else 0, 0), dtype)

    def backward(self, batch, d_features, scale):
        """As `Descriptor.backward`."""
        device, dtype = batch.device, np.dtype(d_features.dtype)
        slopes = device.slopes(batch, dtype)
        device.kernels("symmetry_functions").symmetry_functions_backward(
            d_features, *batch.pair_arguments, *self._arguments(device, dtype),
            device.cast(scale, dtype), *slopes.arrays,
        )  # fmt: skip
        return slopes.totals()

    @cached_property
    def _tables(self):
        return _lay_out(self)

    @cached_property
    def _cache(self):
        return {}

    def __getstate__(self):
        # made again: arrays of a device cannot be copied into another process
        return {name: value for name, value in vars(self).items() if name != "_cache"}

    def _arguments(self, device, dtype):
        """Tables on a device and in a working dtype."""
        key = device.name, dtype
        if key not in self._cache:
            self._cache[key] = [
                table if kind == "host" else device.table(table, dtype if kind else table.dtype)
                for kind, table in self._tables_with_cores(dtype)
            ]
        return self._cache[key]

    def _tables_with_cores(self, dtype):
        single = dtype == np.float32
        cores = np.array([
            [1, 80 if single else 600, 1e-4 if single else 1e-7, 0, 0, 0],
            [1, 2, 0, 0, 0, -6],
            [1, 3, 6, 0, 0, -30],
            [1, 4, 10, 20, 0, -140],
            [1, 5, 15, 35, 70, -630],
        ])  # fmt: skip
        series = np.zeros((2, 12))
        series[0, :11] = [_taylor(2 * k + 1, k) / 2 for k in range(11)]
        series[1] = [-np.pi / 2 * _taylor(2 * k, k) for k in range(12)]
        return [
            ("host", self.cutoff_type), ("working", series), ("working", cores), *self._tables
        ]  # fmt: skip


def _taylor(order, sign):
    return (-1) ** sign * math.pi**order / math.factorial(order)


def _integers(rows, width):
    return np.array(rows, dtype=np.int64).reshape(-1, width)


def _starts(counts):
    return np.concatenate(([0], np.cumsum(counts))).astype(np.int64)


def _lay_out(program):
    """Arguments of the kernels after `cores`.

    Marked is what becomes the working dtype, and what never goes to a device.
    """
    n = len(program.numbers)
    factors, factor_start, radials = [], [0], []
    cutoffs = {}
    row_factors, row_reach = [], []
    blocks, block_start, block_reach = [], [0], []
    angulars, groups, members = [], [], []
    densities, density_start, density_uses, density_members = [], [0], [], []
    polynomials, costs = {}, []
    radial_counts, largest = [], [0, 0, 0, 0, 0, 0]
    for s in range(n):
        own = program._blocks[s]
        used = [{factor for factor, _, _ in program._radials[s, z]} for z in range(n)]
        for (z1, z2, _), by_factor in own.items():
            for z in range(n) if z1 < 0 else {z1, z2}:
                used[z] |= set(by_factor)
        ordered = sorted(set().union(*used), key=lambda f: (f[4] is not None, f[4] or 0, f))
        place = {factor: len(factors) + k for k, factor in enumerate(ordered)}
        factors += ordered
        factor_start.append(len(factors))
        largest[0] = max(largest[0], len(ordered))
        for z in range(n):
            row_factors.append(sorted(place[factor] for factor in used[z]))
            row_reach.append(max((factor[5] for factor in used[z]), default=0.0))
            radial_counts.append(len(program._radials[s, z]))
            radials += [(place[f], feature, w) for f, feature, w in program._radials[s, z]]
        own, by_density = _split(own)
        costs.append(_costs(own, by_density, n, program.way))
        for factor in sorted(by_density, key=place.get):
            list_ = sorted(by_density[factor], key=lambda member: member[:2])
            degree = int(max(angular[2] for _, _, angular, _, _ in list_))
            uses = [any(z in (z1, z2) or z1 < 0 for z1, z2, *_ in list_) for z in range(n)]
            first = len(density_members)
            for z1, z2, angular, feature, weight in list_:
                polynomial = polynomials.setdefault(angular, len(polynomials))
                density_members.append((z1, z2, feature, polynomial, weight))
            densities.append((place[factor], degree, first, len(density_members)))
            density_uses.append(uses)
            largest[3] = max(largest[3], degree)
        density_start.append(len(densities))
        for (z1, z2, narrow, either), by_factor in sorted(own.items()):
            wanted = dict.fromkeys(a for list_ in by_factor.values() for a, _, _ in list_)
            recipe, angular_place = _recipe(wanted)
            block = [z1, z2, narrow, either, len(angulars)]
            angulars += recipe
            block += [len(angulars), len(groups)]
            for factor in sorted(by_factor, key=place.get):
                list_ = by_factor[factor]
                groups.append((place[factor], len(members), len(members) + len(list_)))
                members += [(angular_place[a], feature, w) for a, feature, w in list_]
            blocks.append([*block, len(groups)])
            block_reach.append(max(factor[5] for factor in by_factor))
            largest[1] = max(largest[1], len(recipe))
            largest[2] = max(largest[2], len(by_factor))
            largest[4] = max(largest[4], sum(map(len, by_factor.values())))
        block_start.append(len(blocks))
    largest[5] = max(radial_counts)
    for factor in factors:
        if factor[4] is not None:
            cutoffs.setdefault(factor[4], len(cutoffs))
    alpha = program.cutoff_alpha
    norm = 1 / math.tanh(1) ** 3 if program.cutoff_type == 3 else 1.0
    cutoff_rows = [(c, alpha * c, 1 / (c - alpha * c), norm) for c in cutoffs]
    working = "working"
    return [
        (working, np.array(cutoff_rows or np.ones((1, 4)))),
        (working, np.array([f[1:4] for f in factors]).reshape(-1, 3)),
        ("", _integers([(f[0], cutoffs.get(f[4], -1)) for f in factors], 2)),
        ("", np.array(factor_start, dtype=np.int64)),
        ("", np.array(row_reach)),
        ("", _starts([len(row) for row in row_factors])),
        ("", np.array([a for row in row_factors for a in row], dtype=np.int64)),
        ("", _starts(radial_counts)),
        ("", _integers([r[:2] for r in radials], 2)),
        (working, np.array([r[2] for r in radials], dtype=np.float64)),
        (working, np.array(program.numbers, dtype=np.float64)),
        ("", np.array(block_start, dtype=np.int64)),
        ("", _integers(blocks, 8)),
        ("", np.array(block_reach, dtype=np.float64)),
        ("", _integers([a[:3] for a in angulars], 3)),
        (working, np.array([a[3] for a in angulars], dtype=np.float64).reshape(-1, 4)),
        ("", _integers(groups, 3)),
        ("", _integers([m[:2] for m in members], 2)),
        (working, np.array([m[2] for m in members], dtype=np.float64)),
        ("", _integers(densities, 4)),
        ("", np.array(density_start, dtype=np.int64)),
        ("", np.array(density_uses, dtype=np.int64).reshape(-1, n)),
        ("", _integers([m[:4] for m in density_members], 4)),
        ("", np.array([m[4] for m in density_members], dtype=np.float64)),
        ("", _legendre_series(polynomials, largest[3])),
        ("", _recursion(largest[3])),
        ("", _norm(largest[3])),
        ("", np.array(costs)),
        ("host", np.array(largest, dtype=np.int64)),
    ]


def _split(blocks):
    """Blocks with a mark on those that densities can give, and the members of these by factor."""
    marked, by_density = {}, {}
    for (z1, z2, narrow), by_factor in blocks.items():
        for factor, list_ in by_factor.items():
            for angular, feature, weight in list_:
                polynomial = angular[0] == "power" and angular[2] in range(1, MOST_DEGREE + 1)
                either = int(polynomial and not narrow)
                groups = marked.setdefault((z1, z2, narrow, either), {})
                groups.setdefault(factor, []).append((angular, feature, weight))
                if either:
                    member = (z1, z2, angular, feature, weight)
                    by_density.setdefault(factor, []).append(member)
    return marked, by_density


def _costs(blocks, by_density, n, way):
    """Nanoseconds of forward and backward by densities and by pairs (`costs` of the kernels).

    Measured on silicon, MgO and ethanol, zeta up to 4, 16 and 32 and 1 to 4 factors. Where pairs
    have to be visited anyway, for other wide functions, the others are not that expensive.
    """
    either = {key: groups for key, groups in blocks.items() if key[3]}
    if way != "fastest" or not either:
        return [0.0, 0.0, 1.0 if way == "densities" else -1.0, 0.0, 0.0]
    fixed = per_neighbour = 0.0
    for members in by_density.values():
        size = (max(angular[2] for _, _, angular, _, _ in members) + 1) ** 2
        pairs = {member[:2] for member in members}
        species = {z for pair in pairs for z in (range(n) if pair[0] < 0 else pair)}
        fixed += (500 + 3.5 * size) * len(species) + 2 * size * len(pairs)
        per_neighbour += 0.36 * size
    n_members = sum(len(list_) for groups in either.values() for list_ in groups.values())
    shared = any((z1, z2, 0, 0) in blocks for z1, z2, _, _ in either)
    per_pair = (5 if shared else 15) + 0.6 * n_members / len(either)
    reach = max(factor[5] for factor in by_density)
    return [fixed, per_neighbour, 600.0 * len(either), per_pair, reach]


def _legendre_series(polynomials, degree):
    """c_l of ((1 + lambda x) / 2)^zeta = sum_l c_l P_l(x), and their sum, the value at 1."""
    series = np.zeros((len(polynomials), degree + 2))
    # exact for products of degree 2 degree + 1, without differences of large numbers
    x, weights = legendre.leggauss(degree + 1)
    values = legendre.legvander(x, degree) * weights[:, None]
    scale = np.arange(degree + 1) + 0.5
    for (_, sign, zeta), row in polynomials.items():
        series[row, :-1] = scale * (((1 + sign * x) / 2) ** zeta @ values)
        series[row, int(zeta) + 1 :] = 0.0
        series[row, -1] = ((1 + sign) / 2) ** zeta
    return series


def _recursion(degree):
    """Q_m,l+1 = z Q_ml - b_ml Q_m,l-1 for the monic derivatives of the Legendre polynomials."""
    m, l = np.mgrid[: degree + 1, : degree + 4]
    return np.where(l >= m, (l * l - m * m) / (4.0 * l * l - 1), 0.0)


def _norm(degree):
    """norm_ml of the addition theorem sum_m norm_ml Re(D_ml conj D'_ml) = sum_jk P_l(u_j u_k)."""
    norm = np.zeros((degree + 1, degree + 1))
    for m in range(degree + 1):
        for l in range(m, degree + 1):
            leading = math.factorial(2 * l) / (2**l * math.factorial(l) * math.factorial(l - m))
            ratio = math.factorial(l - m) / math.factorial(l + m)
            norm[m, l] = (1 if m == 0 else 2) * ratio * leading**2
    return norm


def _recipe(wanted):
    """How to make angulars: rows (how, one, other, numbers), and the place of each angular."""
    rows, place = [], {}

    def make(angular):
        if angular in place:
            return place[angular]
        one, other, table = 0, 0, (0.0,) * 4
        if angular[0] == "window":
            how, table = WINDOW, angular[1:]
        else:
            _, sign, zeta = angular
            table = (sign / 2, zeta, 0.0, 0.0)
            if zeta != int(zeta) or zeta > MOST_ZETA:
                how = REAL_POWER
            elif zeta == 1:
                how = POWER
            else:
                # powers of two by squaring, others from the largest of those and the rest
                square = 2 ** (int(zeta).bit_length() - 1)
                part = square / 2 if zeta == square else square
                how = PRODUCT
                one, other = make(("power", sign, part)), make(("power", sign, zeta - part))
        place[angular] = len(rows)
        rows.append((how, one, other, table))
        return place[angular]

    for angular in sorted(wanted):
        make(angular)
    return rows, place
