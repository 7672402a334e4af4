"""Wide functions with an integer zeta as products of densities, without a loop over pairs.

Tables and words are those of kernels/cpu/symmetry_functions.py, densities those of
kernels/cpu/chebyshev.py.
"""

from numba import njit

from . import chebyshev as angular
from .chebyshev import _density, _density_series, _derivative_coefficients, _first
from .symmetry_function_pairs import (
    ALONG,
    FACTORS,
    FLAGS,
    GX,
    GY,
    GZ,
    INVERSE,
    LANES,
    LENGTH,
    UX,
    UY,
    UZ,
)  # fmt: skip


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _densities_are_faster(costs, s, far, n):
    """Which way an atom with n neighbours takes."""
    count = 0
    for k in range(n):
        count += 1 if far[LENGTH, k].real < costs[s, 4] else 0
    pairs = 0.5 * count * (count - 1)
    return costs[s, 0] + costs[s, 1] * count < costs[s, 2] + costs[s, 3] * pairs


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _direction_tile(first, count, row, far, near, s):
    """Unit vectors and a factor of some neighbours; returns the count up to whole vectors."""
    full = (count + LANES - 1) // LANES * LANES
    for k in range(count):
        s[angular.X + k] = far[UX, first + k]
        s[angular.Y + k] = far[UY, first + k]
        s[angular.Z + k] = far[UZ, first + k]
        s[angular.F + k] = near[row, first + k]
    nothing = 0.0 * far[0, 0]
    for k in range(count, full):
        s[angular.X + k] = nothing
        s[angular.Y + k] = nothing
        s[angular.Z + k] = nothing
        s[angular.F + k] = nothing
    return full


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _sum_densities(
    densities, uses, g, factor_first, segment, recursion, far, near, s, zero, density, squares
):  # fmt: skip
    """Densities of every neighbour species, and the sums of squares of the factor."""
    degree = densities[g, 1]
    row = FACTORS + densities[g, 0] - factor_first
    for z in range(uses.shape[1]):
        own = density[z]
        for q in range((degree + 1) * (degree + 2)):
            own[q] = zero
        squares[z] = zero
        if uses[g, z]:
            for first in range(segment[z], segment[z + 1], angular.TILE):
                count = min(angular.TILE, segment[z + 1] - first)
                full = _direction_tile(first, count, row, far, near, s)
                squares[z] += _density(s, full, degree, recursion, zero, own)


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _mix_densities(densities, uses, g, numbers, density, squares, zero):
    """The last density: of all species, weighted; the last square too."""
    n_density = (densities[g, 1] + 1) * (densities[g, 1] + 2)
    mixed = len(numbers)
    for q in range(n_density):
        density[mixed, q] = zero
    squares[mixed] = zero
    for z in range(mixed):
        if uses[g, z]:
            w = numbers[z]
            squares[mixed] += w * w * squares[z]
            for q in range(n_density):
                density[mixed, q] += w * density[z, q]


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _density_features(
    densities, uses, g, members, weights, legendre, norm, numbers, density, squares, power, zero,
    raw,
):  # fmt: skip
    """Add products of densities to the features."""
    degree = densities[g, 1]
    before, other, square = -2, -2, zero
    for e in range(densities[g, 2], densities[g, 3]):
        z1, z2 = members[e, 0], members[e, 1]
        if z1 != before or z2 != other:
            before, other = z1, z2
            if z1 < 0:
                _mix_densities(densities, uses, g, numbers, density, squares, zero)
                z1, z2 = len(numbers), len(numbers)
            half = 0.5 if z1 == z2 else 1.0
            square = half * squares[z1] if z1 == z2 else zero
            for l in range(degree + 1):
                power[l] = zero
            for m in range(degree + 1):
                q = _first(m, degree) - 2 * m
                for l in range(m, degree + 1):
                    p = density[z1, q + 2 * l] * density[z2, q + 2 * l]
                    p += density[z1, q + 2 * l + 1] * density[z2, q + 2 * l + 1]
                    power[l] += half * norm[m, l] * p
        row = members[e, 3]
        total = -legendre[row, legendre.shape[1] - 1] * square
        for l in range(degree + 1):
            total += legendre[row, l] * power[l]
        raw[members[e, 2]] += weights[e] * total


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _density_slopes(
    densities, uses, g, members, weights, legendre, norm, numbers, density, squares, power, zero,
    d_raw, d_density, kappa,
):  # fmt: skip
    """Slopes of the energy in the densities, and kappa of its part -kappa/2 sum_j phi_j^2."""
    degree = densities[g, 1]
    n_species = len(numbers)
    n_density = (degree + 1) * (degree + 2)
    for z in range(n_species + 1):
        kappa[z] = zero
        for q in range(n_density):
            d_density[z, q] = zero
    e, end = densities[g, 2], densities[g, 3]
    while e < end:
        z1, z2 = members[e, 0], members[e, 1]
        own = zero
        for l in range(degree + 1):
            power[l] = zero
        while e < end and members[e, 0] == z1 and members[e, 1] == z2:
            row = members[e, 3]
            d = weights[e] * d_raw[members[e, 2]]
            own += d * legendre[row, legendre.shape[1] - 1]
            for l in range(degree + 1):
                power[l] += d * legendre[row, l]
            e += 1
        if z1 < 0:
            _mix_densities(densities, uses, g, numbers, density, squares, zero)
            z1, z2 = n_species, n_species
        if z1 == z2:
            kappa[z1] += own
        for m in range(degree + 1):
            q = _first(m, degree)
            for l in range(m, degree + 1):
                d = norm[m, l] * power[l]
                for _ in range(2):
                    d_density[z1, q] += d * density[z2, q]
                    if z1 != z2:
                        d_density[z2, q] += d * density[z1, q]
                    q += 1
    for z in range(n_species):
        w = numbers[z]
        kappa[z] += w * w * kappa[n_species]
        for q in range(n_density):
            d_density[z, q] += w * d_density[n_species, q]


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _density_gradient(
    densities, uses, g, factor_first, n_factors, segment, recursion, far, near, s, one, d_density,
    dz_density, kappa,
):  # fmt: skip
    """Slopes of the densities to the neighbours."""
    degree = densities[g, 1]
    row = FACTORS + densities[g, 0] - factor_first
    for z in range(uses.shape[1]):
        if not uses[g, z]:
            continue
        _derivative_coefficients(d_density[z], degree, one, dz_density)
        for first in range(segment[z], segment[z + 1], angular.TILE):
            count = min(angular.TILE, segment[z + 1] - first)
            full = _direction_tile(first, count, row, far, near, s)
            _density_series(s, full, degree, recursion, d_density[z], dz_density, one)
            for k in range(count):
                n = first + k
                x, y, t = s[angular.X + k], s[angular.Y + k], s[angular.Z + k]
                gx, gy, gz = s[angular.GX + k], s[angular.GY + k], s[angular.GZ + k]
                f = s[angular.F + k]
                ratio = f * far[INVERSE, n]
                along = near[row + n_factors, n] * (s[angular.VALUE + k] - kappa[z] * f)
                near[ALONG, n] += along - ratio * (x * gx + y * gy + t * gz)
                near[GX, n] += ratio * gx
                near[GY, n] += ratio * gy
                near[GZ, n] += ratio * gz
