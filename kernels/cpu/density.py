"""The density of an atom's neighbours in radial functions and spherical harmonics, and its adjoint.

For every channel c, radial function n and component q of the harmonics,

    A[c, n, q] = sum_j w_c(species of j) R_n(r_ij) Y_q(direction of j)

Invariants of any order are polynomials of these numbers: a kernel takes ``density`` and fills
features, and on the way back turns d_features into ``d_density``, which `density_backward` pulls
back to positions and strain.

Radial functions are R_n = T_n(2x - 1) (1 - x)^4 (1 + 4x + 10x^2 + 20x^3) / (1 + b x^2) with
Chebyshev polynomials of x = r / R: the cutoff is 1 minus the smooth step of 7th order, has three
derivatives that are continuous at R, and the slope -140 x^3 (1 - x)^3; b > 0 makes near neighbours
count more.

Harmonics are not normalised: component q = l^2 + max(2m - 1, 0) is the real and the next one, for
m > 0, the imaginary part of Q_ml(z) (x + i y)^m on the unit sphere, with Q_ml the monic m-th
derivative of the Legendre polynomial P_l: ``Q_{m,l+1} = z Q_ml - b_ml Q_{m,l-1}``, ``b_ml = (l^2 -
m^2) / (4 l^2 - 1)``; its derivative is ``(l - m) Q_{m+1,l}``.  With ``norm_q`` of kernels/cpu/
power_spectrum.py, sum_q norm_q Y_q(u) Y_q(v) over the 2l + 1 components of l is P_l(u.v).

The neighbours of an atom come in tiles, all species in one.  The radial functions of a tile, times
the weights of the channels, and its harmonics are two matrices, (columns, neighbours) and
(components, neighbours), so projection and adjoint are matrix products.

Arguments common to both directions are those of every descriptor kernel (kernels/README.md) but for
``place``: densities stand in the order of the batch, replica after replica. Then

==============  ===========================  =====================================================
constants       (4,)                         1, 1/2, 1/R, b in the dtype of the density
inverse_cutoff  (2,) float64                 1/R, twice
recursion       (degree + 1, degree + 4)     b_ml
weights         (n_channels, n_species)      w_c
n_radial        integer
density         (n_atoms_in_all,             A; column c * n_radial + n
                (degree + 1)^2,
                n_channels * n_radial)
==============  ===========================  =====================================================
"""

import numpy as np
from numba import njit, prange

from .chebyshev import FLAGS, LANES, LENGTH, N_SLOTS, TILE, V_RADIAL, X, Y, Z, _geometry

# Further slots of the scratch array, those of chebyshev.py beyond the geometry.
F, DF, UR, UI, DR, DI = 6 * TILE, 7 * TILE, 8 * TILE, 9 * TILE, 10 * TILE, 11 * TILE
GX, GY, GZ, SLOPE = 12 * TILE, 13 * TILE, 14 * TILE, 15 * TILE
MOST = TILE - 2 * LANES
"""Neighbours in a tile; the geometry of a row may be filled up beyond it."""


@njit(cache=True)
def _number(m, l, degree):
    """Place of Q_ml in an array of them."""
    return m * (2 * degree + 3 - m) // 2 + l - m


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _collect(
    positions, cell, neighbor, shift, first, end, atom, base, inverse_cutoff, z, weights, at,
    d, s, channel, atom_of,
):  # fmt: skip
    """Append pairs first .. end - 1, neighbours of species z, to a tile that holds ``at``.

    Returns the new number in the tile and the first pair that found no room.
    """
    count = min(MOST - at, end - first)
    padded = (at + count + LANES - 1) // LANES * LANES - at
    near = _geometry(
        positions, cell, neighbor, shift, first, count, padded, atom, base, inverse_cutoff,
        d[at:], s[at:],
    )  # fmt: skip
    near = min(near, count)
    for c in range(len(weights)):
        weight = weights[c, z]
        row = channel[c * TILE + at :]
        for k in range(near):
            row[k] = weight
    for k in range(near):
        atom_of[at + k] = base + neighbor[first + k]
    return at + near, first + count


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _round_up(at, n_channels, zero, channel):
    """Whole vectors: those that fill up lie beyond the cutoff, but want a weight."""
    count = (at + LANES - 1) // LANES * LANES
    for c in range(n_channels):
        for k in range(at, count):
            channel[c * TILE + k] = zero
    return count


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _radial_functions(s, count, n_radial, n_channels, constants, channel, out):
    """w_c R_n of every neighbour, shape (n_channels * n_radial, count) as a flat array."""
    one, half, b = constants[0], constants[1], constants[3]
    zero = one - one
    two = one + one
    four = two + two
    ten = four + four + two
    for k in range(count):
        v = s[V_RADIAL + k]
        x, t = half + v, half - v
        t = t * t
        f = t * t * (one + x * (four + x * (ten + (ten + ten) * x))) / (one + b * x * x)
        # written so that NaN is not taken for far away
        s[F + k] = zero if v.real >= half.real else f
    for c in range(n_channels):
        weight = channel[c * TILE :]
        own = out[c * n_radial * count :]
        for k in range(count):
            own[k] = weight[k] * s[F + k]
        if n_radial > 1:
            u = own[count:]
            for k in range(count):
                x = s[V_RADIAL + k]
                u[k] = (x + x) * own[k]
        for n in range(2, n_radial):
            u0, u1, u2 = own[(n - 2) * count :], own[(n - 1) * count :], own[n * count :]
            for k in range(count):
                x = s[V_RADIAL + k]
                x = x + x
                u2[k] = (x + x) * u1[k] - u0[k]


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _sum_channels(count, n_radial, n_channels, channel, d_radial):
    """d_radial of the first channel = sum_c w_c d_radial of channel c."""
    for n in range(n_radial):
        total = d_radial[n * count :]
        for k in range(count):
            total[k] = channel[k] * total[k]
        for c in range(1, n_channels):
            weight = channel[c * TILE :]
            more = d_radial[(c * n_radial + n) * count :]
            for k in range(count):
                total[k] += weight[k] * more[k]


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _radial_slopes(s, count, n_radial, constants, coefficients):
    """SLOPE = sum_n c_n dR_n/dr for coefficients (n_radial, count).

    d/dx [T_n(y) f] = T_n f' + 2 T_n' f with y = 2x - 1; the slopes of the Chebyshev polynomials
    follow T_n' = 2 T_{n-1} + 2 y T_{n-1}' - T_{n-2}'.
    """
    one, half, to_radial, b = constants[0], constants[1], constants[2], constants[3]
    zero = one - one
    two = one + one
    four = two + two
    ten = four + four + two
    steep = ten * (ten + four)
    for k in range(count):
        v = s[V_RADIAL + k]
        x, t = half + v, half - v
        square = t * t
        f = square * square * (one + x * (four + x * (ten + (ten + ten) * x)))
        df = -steep * x * x * x * square * t
        weight = one / (one + b * x * x)
        f = f * weight
        df = (df - f * b * (x + x)) * weight
        far = v.real >= half.real
        s[F + k] = zero if far else f + f
        s[DF + k] = zero if far else df
        s[SLOPE + k] = s[DF + k] * coefficients[k]
    if n_radial > 1:
        c = coefficients[count:]
        for k in range(count):
            x = s[V_RADIAL + k]
            s[SLOPE + k] += (s[DF + k] * (x + x) + s[F + k]) * c[k]
    # T_{n-2}, T_{n-1} and their slopes
    for k in range(count):
        x = s[V_RADIAL + k]
        s[UR + k] = one
        s[UI + k] = x + x
        s[DR + k] = zero
        s[DI + k] = one
    for n in range(2, n_radial):
        c = coefficients[n * count :]
        for k in range(count):
            x = s[V_RADIAL + k]
            x = x + x
            x2 = x + x
            u1, d1 = s[UI + k], s[DI + k]
            u2 = x2 * u1 - s[UR + k]
            d2 = u1 + u1 + x2 * d1 - s[DR + k]
            s[UR + k] = u1
            s[UI + k] = u2
            s[DR + k] = d1
            s[DI + k] = d2
            s[SLOPE + k] += (s[DF + k] * u2 + s[F + k] * d2) * c[k]
    for k in range(count):
        s[SLOPE + k] *= to_radial


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _harmonics(s, count, degree, recursion, one, legendre, powers, out):
    """Q_ml, (x + i y)^m as real and imaginary parts in turn, and Y_q of every neighbour."""
    zero = one - one
    for k in range(count):
        powers[k] = one
        powers[count + k] = zero
    for m in range(degree + 1):
        re, im = powers[2 * m * count :], powers[(2 * m + 1) * count :]
        if m > 0:
            a, b = powers[(2 * m - 2) * count :], powers[(2 * m - 1) * count :]
            for k in range(count):
                x, y = s[X + k], s[Y + k]
                re[k] = a[k] * x - b[k] * y
                im[k] = a[k] * y + b[k] * x
        for l in range(m, degree + 1):
            at = _number(m, l, degree)
            q = legendre[at * count :]
            if l == m:
                for k in range(count):
                    q[k] = one
            elif l == m + 1:
                for k in range(count):
                    q[k] = s[Z + k]
            else:
                q0, q1 = legendre[(at - 2) * count :], legendre[(at - 1) * count :]
                b = recursion[m, l - 1]
                for k in range(count):
                    q[k] = s[Z + k] * q1[k] - b * q0[k]
            y = out[(l * l + max(2 * m - 1, 0)) * count :]
            for k in range(count):
                y[k] = q[k] * re[k]
            if m > 0:
                y = y[count:]
                for k in range(count):
                    y[k] = q[k] * im[k]


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _harmonic_gradient(s, count, degree, one, legendre, powers, coefficients):
    """GX, GY, GZ = gradient of sum_q c_q Y_q for coefficients (components, count)."""
    zero = one - one
    for k in range(count):
        s[GX + k] = zero
        s[GY + k] = zero
        s[GZ + k] = zero
    order = zero
    for m in range(degree + 1):
        for k in range(count):
            s[UR + k] = zero
            s[UI + k] = zero
            s[DR + k] = zero
            s[DI + k] = zero
        rise = zero
        for l in range(m, degree + 1):
            q = legendre[_number(m, l, degree) * count :]
            # its derivative, (l - m) Q_{m+1,l}; for l = m anything finite
            dq = legendre[_number(m + 1, l, degree) * count :] if l > m else q
            at = l * l + max(2 * m - 1, 0)
            c = coefficients[at * count :]
            if m == 0:
                for k in range(count):
                    s[DR + k] += rise * dq[k] * c[k]
            else:
                d = coefficients[(at + 1) * count :]
                for k in range(count):
                    value, slope = q[k], rise * dq[k]
                    s[UR + k] += value * c[k]
                    s[UI + k] += value * d[k]
                    s[DR + k] += slope * c[k]
                    s[DI + k] += slope * d[k]
            rise = rise + one
        re, im = powers[2 * m * count :], powers[(2 * m + 1) * count :]
        for k in range(count):
            s[GZ + k] += re[k] * s[DR + k] + im[k] * s[DI + k]
        if m > 0:
            re, im = powers[(2 * m - 2) * count :], powers[(2 * m - 1) * count :]
            for k in range(count):
                a, b, u, v = re[k], im[k], s[UR + k], s[UI + k]
                s[GX + k] += order * (a * u + b * v)
                s[GY + k] += order * (a * v - b * u)
        order = order + one


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _project(
    s, at, constants, recursion, n_radial, n_channels, channel, radial, legendre, powers,
    harmonics, own, out,
):  # fmt: skip
    """Add a tile of ``at`` neighbours to the density of an atom."""
    n_components, n_columns = out.shape
    one = constants[0]
    count = _round_up(at, n_channels, one - one, channel)
    _radial_functions(s, count, n_radial, n_channels, constants, channel, radial)
    _harmonics(s, count, len(recursion) - 1, recursion, one, legendre, powers, harmonics)
    np.dot(
        harmonics[: n_components * count].reshape(n_components, count),
        radial[: n_columns * count].reshape(n_columns, count).T,
        own,
    )
    for q in range(n_components):
        for a in range(n_columns):
            out[q, a] += own[q, a]


@njit(cache=True, parallel=True, fastmath=FLAGS, error_model="numpy")
def density_forward(
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
    chunks,
    constants, inverse_cutoff, recursion, weights, n_radial,
    density,
):  # fmt: skip
    """Densities of every atom of every replica."""
    n_atoms = len(species)
    n_replicas = len(positions) // n_atoms
    n_channels, n_species = weights.shape
    n_components, n_columns = density.shape[1], density.shape[2]
    for chunk in prange(len(chunks) - 1):
        s = np.empty(N_SLOTS * TILE, density.dtype)
        d = np.empty(3 * TILE, positions.dtype)
        channel = np.empty(n_channels * TILE, density.dtype)
        atom_of = np.empty(TILE, np.int64)
        radial = np.empty(n_columns * TILE, density.dtype)
        legendre = np.empty(n_components * TILE, density.dtype)
        powers = np.empty(2 * len(recursion) * TILE, density.dtype)
        harmonics = np.empty(n_components * TILE, density.dtype)
        own = np.empty((n_components, n_columns), density.dtype)
        zero = constants[0] - constants[0]
        for i in range(chunks[chunk], chunks[chunk + 1]):
            for replica in range(n_replicas):
                atom = replica * n_atoms + i
                base = offsets[structure[atom]]
                out = density[atom]
                out[:] = zero
                at = 0
                for z in range(n_species):
                    first, end = row_begin[i * n_species + z], row_end[i * n_species + z]
                    while first < end:
                        at, first = _collect(
                            positions, cells[structure[atom]], neighbor, shift, first, end, atom,
                            base, inverse_cutoff, z, weights, at, d, s, channel, atom_of,
                        )  # fmt: skip
                        if at == MOST:
                            _project(
                                s, at, constants, recursion, n_radial, n_channels, channel,
                                radial, legendre, powers, harmonics, own, out,
                            )  # fmt: skip
                            at = 0
                if at > 0:
                    _project(
                        s, at, constants, recursion, n_radial, n_channels, channel, radial,
                        legendre, powers, harmonics, own, out,
                    )  # fmt: skip


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _pull_back(
    d_own, s, d, at, constants, recursion, n_radial, n_channels, channel, radial, d_radial,
    legendre, powers, harmonics, d_harmonics, atom_of, d_positions, total,
):  # fmt: skip
    """Slopes of a tile of ``at`` neighbours, added to theirs and to the sums of the atom."""
    n_components, n_columns = d_own.shape
    one = constants[0]
    count = _round_up(at, n_channels, one - one, channel)
    degree = len(recursion) - 1
    _radial_functions(s, count, n_radial, n_channels, constants, channel, radial)
    _harmonics(s, count, degree, recursion, one, legendre, powers, harmonics)
    np.dot(
        d_own,
        radial[: n_columns * count].reshape(n_columns, count),
        d_harmonics[: n_components * count].reshape(n_components, count),
    )
    np.dot(
        d_own.T,
        harmonics[: n_components * count].reshape(n_components, count),
        d_radial[: n_columns * count].reshape(n_columns, count),
    )
    _sum_channels(count, n_radial, n_channels, channel, d_radial)
    _radial_slopes(s, count, n_radial, constants, d_radial)
    _harmonic_gradient(s, count, degree, one, legendre, powers, d_harmonics)
    for k in range(count):
        x, y, t = s[X + k], s[Y + k], s[Z + k]
        gx, gy, gz = s[GX + k], s[GY + k], s[GZ + k]
        inverse = one / s[LENGTH + k]
        g = s[SLOPE + k] - inverse * (x * gx + y * gy + t * gz)
        s[GX + k] = g * x + inverse * gx
        s[GY + k] = g * y + inverse * gy
        s[GZ + k] = g * t + inverse * gz
    # the sums are in the dtype of the positions
    nothing = 0.0 * d[0]
    fx, fy, fz = nothing, nothing, nothing
    sxx, syy, szz, syz, sxz, sxy = fx, fx, fx, fx, fx, fx
    for k in range(at):
        gx, gy, gz = s[GX + k], s[GY + k], s[GZ + k]
        fx += gx
        fy += gy
        fz += gz
        sxx += d[k] * gx
        syy += d[TILE + k] * gy
        szz += d[2 * TILE + k] * gz
        syz += d[TILE + k] * gz
        sxz += d[k] * gz
        sxy += d[k] * gy
    for k in range(at):
        j = atom_of[k]
        d_positions[j, 0] += s[GX + k]
        d_positions[j, 1] += s[GY + k]
        d_positions[j, 2] += s[GZ + k]
    total[0] += fx
    total[1] += fy
    total[2] += fz
    total[3] += sxx
    total[4] += syy
    total[5] += szz
    total[6] += syz
    total[7] += sxz
    total[8] += sxy


@njit(cache=True, parallel=True, fastmath=FLAGS, error_model="numpy")
def density_backward(
    d_density,
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
    chunks,
    constants, inverse_cutoff, recursion, weights, n_radial,
    d_positions, d_strain,
):  # fmt: skip
    """Add dE/dr to d_positions (n_chunks, n_atoms_in_all, 3), dE/ds to d_strain (.., 6) per atom.

    ``d_strain`` is in Voigt order xx yy zz yz xz xy; every chunk of atoms adds into its own
    slice of ``d_positions``.
    """
    n_atoms = len(species)
    n_replicas = len(positions) // n_atoms
    n_channels, n_species = weights.shape
    n_components, n_columns = d_density.shape[1], d_density.shape[2]
    for chunk in prange(len(chunks) - 1):
        s = np.empty(N_SLOTS * TILE, d_density.dtype)
        d = np.empty(3 * TILE, positions.dtype)
        channel = np.empty(n_channels * TILE, d_density.dtype)
        atom_of = np.empty(TILE, np.int64)
        radial = np.empty(n_columns * TILE, d_density.dtype)
        d_radial = np.empty(n_columns * TILE, d_density.dtype)
        legendre = np.empty(n_components * TILE, d_density.dtype)
        powers = np.empty(2 * len(recursion) * TILE, d_density.dtype)
        harmonics = np.empty(n_components * TILE, d_density.dtype)
        d_harmonics = np.empty(n_components * TILE, d_density.dtype)
        total = np.empty(9, d_positions.dtype)
        for i in range(chunks[chunk], chunks[chunk + 1]):
            for replica in range(n_replicas):
                atom = replica * n_atoms + i
                base = offsets[structure[atom]]
                total[:] = 0.0
                at = 0
                for z in range(n_species):
                    first, end = row_begin[i * n_species + z], row_end[i * n_species + z]
                    while first < end:
                        at, first = _collect(
                            positions, cells[structure[atom]], neighbor, shift, first, end, atom,
                            base, inverse_cutoff, z, weights, at, d, s, channel, atom_of,
                        )  # fmt: skip
                        if at == MOST:
                            _pull_back(
                                d_density[atom], s, d, at, constants, recursion, n_radial,
                                n_channels, channel, radial, d_radial, legendre, powers,
                                harmonics, d_harmonics, atom_of, d_positions[chunk], total,
                            )  # fmt: skip
                            at = 0
                if at > 0:
                    _pull_back(
                        d_density[atom], s, d, at, constants, recursion, n_radial, n_channels,
                        channel, radial, d_radial, legendre, powers, harmonics, d_harmonics,
                        atom_of, d_positions[chunk], total,
                    )  # fmt: skip
                for axis in range(3):
                    d_positions[chunk, atom, axis] -= total[axis]
                for axis in range(6):
                    d_strain[atom, axis] += total[3 + axis]
