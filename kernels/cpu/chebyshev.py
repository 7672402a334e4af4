"""Chebyshev descriptors: forward and backward by the density trick.

Features of an atom i (Artrith, Urban and Ceder, Phys. Rev. B 96, 014112 (2017), in the layout of
ænet): radial sums ``sum_j T_n(2 r_ij / R - 1) f(r_ij; R)`` and angular sums
``sum_{j<k} T_n(cos theta_jik) f(r_ij; A) f(r_ik; A)`` with the half-cosine cutoff f, once plain
and, for more than one species, once more with every neighbour weighted by the spin of its species.

The angular sums need no loop over pairs of neighbours.  With T_n = sum_l c_nl P_l and the addition
theorem they are ``1/2 sum_l c_nl (sum_m norm_ml |D_ml|^2 - sum_j f_j^2)``, where the density of a
neighbour species is ``D_ml = sum_j f_j Q_ml(z_j) (x_j + i y_j)^m`` over unit vectors (x, y, z).
Q_ml is the monic m-th derivative of the Legendre polynomial P_l:
``Q_{m,l+1} = z Q_ml - b_ml Q_{m,l-1}``, ``b_ml = (l^2 - m^2) / (4 l^2 - 1)``; its derivative is
``(l - m) Q_{m+1,l}``.  A density is stored as (m, l, re/im) with l = m .. degree.

The neighbours of one species are taken in tiles.  Every intermediate quantity of a tile is a slot
of one scratch array at a constant distance from the others, which lets the compiler vectorise over
neighbours without asking at run time whether slots overlap; the recursions advance several orders
per sweep to stay in registers.  A tile is filled up to whole vectors with neighbours beyond both
cutoffs, which add nothing.

Arguments common to both directions are those of every descriptor kernel (kernels/README.md); then

==============  ===========================  =====================================================
constants       (4,)                         1, 1/2, 1/R, 1/A in the dtype of the features
inverse_cutoff  (2,) float64                 1/R, 1/A for the scaled distances
sine, cosine    (11,), (12,)                 Taylor coefficients of sin(pi v)/2 / v and of
                                             -pi/2 cos(pi v) in v^2
recursion       (degree + 1, degree + 4)     b_ml
norm            (degree + 1, degree + 1)     norm_ml of the addition theorem
legendre        (degree + 1, n_angular)      c_nl / 2, column n
spins           (n_species, n_species)       spin of a neighbour (column) seen by an atom (row)
mean, scale     (n_species, n_features)      standardisation of an atom of that species
features        (n_atoms_in_all, n_features) ``(G - mean) * scale``; row ``place[i]`` is atom i
densities       (n_atoms_in_all, n_species,  D_ml, filled by forward, read by backward; may be
                (degree + 1) (degree + 2))   empty for forward alone
==============  ===========================  =====================================================
"""

import numpy as np
from numba import njit, prange, types
from numba.extending import overload

# Sums over neighbours may be reordered; NaN and infinity must survive.
FLAGS = {"contract", "reassoc", "nsz", "arcp"}
LANES = 8
TILE = 128

# Slots of the scratch array.
X, Y, Z, LENGTH = 0, TILE, 2 * TILE, 3 * TILE
V_RADIAL, V_ANGULAR = 4 * TILE, 5 * TILE
F, DF = 6 * TILE, 7 * TILE
A, B, C, D = 8 * TILE, 9 * TILE, 10 * TILE, 11 * TILE
VALUE, SLOPE = 12 * TILE, 13 * TILE
UR, UI, DR, DI = 14 * TILE, 15 * TILE, 16 * TILE, 17 * TILE
GX, GY, GZ = 18 * TILE, 19 * TILE, 20 * TILE
RADIAL_SLOPE = 21 * TILE
N_SLOTS = 22


@njit(cache=True)
def _first(m, degree):
    """Place of the first order l = m in a density."""
    return m * (2 * degree + 3 - m)


def _inverse_sqrt(x):
    """1 / sqrt(x): for real x from single precision by two Newton steps, 1e-7 -> 1e-14 -> 1e-16.

    A double-precision root and division would take half the time of the geometry.
    """
    raise NotImplementedError("compiled by the overload below")


@overload(_inverse_sqrt)
def _inverse_sqrt_overload(x):
    if isinstance(x, types.Complex):
        return lambda x: 1.0 / np.sqrt(x)

    def newton(x):
        y = np.float64(np.float32(1.0) / np.sqrt(np.float32(x)))
        y = y * (1.5 - 0.5 * x * y * y)
        return y * (1.5 - 0.5 * x * y * y)

    return newton


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _geometry(
    positions, cell, neighbor, shift, first, count, padded, atom, base, inverse_cutoff, d, s
):
    """Unit vectors, r, r/R - 1/2 and r/A - 1/2 of one tile; returns the angular count.

    Separations are taken in the dtype of the positions (float64 or complex128) and only then
    rounded to the dtype of the scratch array.
    """
    x0, y0, z0 = positions[atom, 0], positions[atom, 1], positions[atom, 2]
    c00, c01, c02 = cell[0, 0], cell[0, 1], cell[0, 2]
    c10, c11, c12 = cell[1, 0], cell[1, 1], cell[1, 2]
    c20, c21, c22 = cell[2, 0], cell[2, 1], cell[2, 2]
    inverse_radial, inverse_angular = inverse_cutoff[0], inverse_cutoff[1]
    # slices and an unsigned index spare the loops the test for negative indices
    neighbor = neighbor[first : first + count]
    s0, s1, s2 = shift[0, first:], shift[1, first:], shift[2, first:]
    for k in range(count):
        j = np.uintp(base + neighbor[k])
        d[k] = positions[j, 0] - x0
        d[TILE + k] = positions[j, 1] - y0
        d[2 * TILE + k] = positions[j, 2] - z0
    for k in range(count):
        a, b, c = float(s0[k]), float(s1[k]), float(s2[k])
        d[k] += a * c00 + b * c10 + c * c20
        d[TILE + k] += a * c01 + b * c11 + c * c21
        d[2 * TILE + k] += a * c02 + b * c12 + c * c22
    for k in range(count, padded):
        d[k] = 2.0 / min(inverse_radial, inverse_angular)
        d[TILE + k] = 0.0
        d[2 * TILE + k] = 0.0
    near = 0
    for k in range(padded):
        a, b, c = d[k], d[TILE + k], d[2 * TILE + k]
        square = a * a + b * b + c * c
        inverse = _inverse_sqrt(square)
        r = square * inverse
        s[X + k] = a * inverse
        s[Y + k] = b * inverse
        s[Z + k] = c * inverse
        s[LENGTH + k] = r
        s[V_RADIAL + k] = r * inverse_radial - 0.5
        v = r * inverse_angular - 0.5
        s[V_ANGULAR + k] = v
        near = max(near, 0 if v.real >= 0.5 else k + 1)
    return near


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _cutoff(v, count, constants, sine, f):
    """Half-cosine cutoff f = (1 - sin(pi v)) / 2 for v = r/R - 1/2, zero beyond v = 1/2."""
    half = constants[1]
    zero = half - half
    a0, a1, a2, a3, a4, a5 = sine[0], sine[1], sine[2], sine[3], sine[4], sine[5]
    a6, a7, a8, a9, a10 = sine[6], sine[7], sine[8], sine[9], sine[10]
    for k in range(count):
        t = v[k]
        w = t * t
        p = ((((a10 * w + a9) * w + a8) * w + a7) * w + a6) * w + a5
        p = ((((p * w + a4) * w + a3) * w + a2) * w + a1) * w + a0
        # written so that NaN is not taken for far away
        f[k] = zero if t.real >= half.real else half - p * t


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _cutoff_slope(v, count, constants, cosine, df):
    """df/dv = -pi/2 cos(pi v), zero beyond v = 1/2."""
    half = constants[1]
    zero = half - half
    a0, a1, a2, a3, a4, a5 = cosine[0], cosine[1], cosine[2], cosine[3], cosine[4], cosine[5]
    a6, a7, a8, a9, a10, a11 = cosine[6], cosine[7], cosine[8], cosine[9], cosine[10], cosine[11]
    for k in range(count):
        t = v[k]
        w = t * t
        p = ((((a11 * w + a10) * w + a9) * w + a8) * w + a7) * w + a6
        p = (((((p * w + a5) * w + a4) * w + a3) * w + a2) * w + a1) * w + a0
        df[k] = zero if t.real >= half.real else p


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _radial_sums(s, count, order, spin, sums):
    """sums[0, n] += sum_k f_k T_n(2 v_k) and sums[1, n] += spin times that, n = 0 .. order."""
    zero = spin - spin
    a, b, c, d, e, g = zero, zero, zero, zero, zero, zero
    for k in range(count):
        x = s[V_RADIAL + k] + s[V_RADIAL + k]
        x2 = x + x
        u0 = s[F + k]
        u1 = x * u0
        u2 = x2 * u1 - u0
        u3 = x2 * u2 - u1
        u4 = x2 * u3 - u2
        u5 = x2 * u4 - u3
        a += u0
        b += u1
        c += u2
        d += u3
        e += u4
        g += u5
        s[A + k] = u4
        s[B + k] = u5
    sums[0, 0] += a
    sums[0, 1] += b
    sums[0, 2] += c
    sums[0, 3] += d
    sums[0, 4] += e
    sums[0, 5] += g
    sums[1, 0] += spin * a
    sums[1, 1] += spin * b
    sums[1, 2] += spin * c
    sums[1, 3] += spin * d
    sums[1, 4] += spin * e
    sums[1, 5] += spin * g
    for n in range(6, order + 1, 5):
        a, b, c, d, e = zero, zero, zero, zero, zero
        for k in range(count):
            x2 = s[V_RADIAL + k] + s[V_RADIAL + k]
            x2 = x2 + x2
            u0 = s[A + k]
            u1 = s[B + k]
            u2 = x2 * u1 - u0
            u3 = x2 * u2 - u1
            u4 = x2 * u3 - u2
            u5 = x2 * u4 - u3
            u6 = x2 * u5 - u4
            a += u2
            b += u3
            c += u4
            d += u5
            e += u6
            s[A + k] = u5
            s[B + k] = u6
        sums[0, n] += a
        sums[0, n + 1] += b
        sums[0, n + 2] += c
        sums[0, n + 3] += d
        sums[0, n + 4] += e
        sums[1, n] += spin * a
        sums[1, n + 1] += spin * b
        sums[1, n + 2] += spin * c
        sums[1, n + 3] += spin * d
        sums[1, n + 4] += spin * e


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _density(s, count, degree, recursion, zero, density):
    """density[m, l] += sum_k f_k Q_ml(z_k) (x_k + i y_k)^m; returns sum_k f_k^2."""
    square = zero
    for k in range(count):
        w = s[F + k]
        square += w * w
        s[A + k] = w
        s[B + k] = zero
    for m in range(degree + 1):
        b2, b3 = recursion[m, m + 1], recursion[m, m + 2]
        r0, r1, r2, r3 = zero, zero, zero, zero
        i0, i1, i2, i3 = zero, zero, zero, zero
        if m == 0:
            for k in range(count):
                w, t = s[A + k], s[Z + k]
                p2 = t * t - b2
                p3 = t * p2 - b3 * t
                r0 += w
                r1 += w * t
                r2 += w * p2
                r3 += w * p3
                s[C + k] = p2
                s[D + k] = p3
        else:
            for k in range(count):
                a, b, x, y, t = s[A + k], s[B + k], s[X + k], s[Y + k], s[Z + k]
                w = a * x - b * y
                v = a * y + b * x
                p2 = t * t - b2
                p3 = t * p2 - b3 * t
                r0 += w
                r1 += w * t
                r2 += w * p2
                r3 += w * p3
                i0 += v
                i1 += v * t
                i2 += v * p2
                i3 += v * p3
                s[A + k] = w
                s[B + k] = v
                s[C + k] = p2
                s[D + k] = p3
        at = _first(m, degree)
        density[at] += r0
        density[at + 1] += i0
        if m + 1 <= degree:
            density[at + 2] += r1
            density[at + 3] += i1
        if m + 2 <= degree:
            density[at + 4] += r2
            density[at + 5] += i2
        if m + 3 <= degree:
            density[at + 6] += r3
            density[at + 7] += i3
        for l in range(m + 4, degree + 1, 3):
            b0, b1, b2 = recursion[m, l - 1], recursion[m, l], recursion[m, l + 1]
            r0, r1, r2 = zero, zero, zero
            i0, i1, i2 = zero, zero, zero
            for k in range(count):
                w, v, t, p0, p1 = s[A + k], s[B + k], s[Z + k], s[C + k], s[D + k]
                p2 = t * p1 - b0 * p0
                p3 = t * p2 - b1 * p1
                p4 = t * p3 - b2 * p2
                r0 += w * p2
                i0 += v * p2
                r1 += w * p3
                i1 += v * p3
                r2 += w * p4
                i2 += v * p4
                s[C + k] = p3
                s[D + k] = p4
            at = _first(m, degree) + 2 * (l - m)
            density[at] += r0
            density[at + 1] += i0
            if l + 1 <= degree:
                density[at + 2] += r1
                density[at + 3] += i1
            if l + 2 <= degree:
                density[at + 4] += r2
                density[at + 5] += i2
    return square


@njit(cache=True, parallel=True, fastmath=FLAGS, error_model="numpy")
def chebyshev_forward(
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
    chunks, place,
    constants, inverse_cutoff, sine, recursion, norm, legendre, spins, mean, scale, radial_order,
    features, densities,
):  # fmt: skip
    """Features of every atom of every replica, and the densities that backward needs."""
    n_atoms = len(species)
    n_replicas = len(positions) // n_atoms
    n_species = spins.shape[1]
    degree = norm.shape[0] - 1
    n_radial = radial_order + 1
    n_angular = legendre.shape[1]
    n_block = n_radial + n_angular
    n_blocks = features.shape[1] // n_block
    n_density = (degree + 1) * (degree + 2)
    for chunk in prange(len(chunks) - 1):
        s = np.empty(N_SLOTS * TILE, features.dtype)
        d = np.empty(3 * TILE, positions.dtype)
        zero = constants[0] - constants[0]
        radial = np.empty((2, n_radial + 6), features.dtype)
        density = np.empty((2, n_density), features.dtype)
        own = np.empty(n_density, features.dtype)
        self_term = np.empty(2, features.dtype)
        power = np.empty(degree + 1, features.dtype)
        angular = np.empty(n_angular, features.dtype)
        for i in range(chunks[chunk], chunks[chunk + 1]):
            for replica in range(n_replicas):
                atom = replica * n_atoms + i
                base = offsets[structure[atom]]
                radial[:] = zero
                density[:] = zero
                self_term[:] = zero
                for z in range(n_species):
                    if len(densities) > 0:
                        own = densities[atom, z]
                    own[:] = zero
                    spin = spins[species[i], z]
                    end = row_end[i * n_species + z]
                    for first in range(row_begin[i * n_species + z], end, TILE):
                        count = min(TILE, end - first)
                        padded = (count + LANES - 1) // LANES * LANES
                        near = _geometry(
                            positions, cells[structure[atom]], neighbor, shift, first, count,
                            padded, atom, base, inverse_cutoff, d, s,
                        )  # fmt: skip
                        near = (near + LANES - 1) // LANES * LANES
                        _cutoff(s[V_RADIAL:], padded, constants, sine, s[F:])
                        _radial_sums(s, padded, radial_order, spin, radial)
                        _cutoff(s[V_ANGULAR:], near, constants, sine, s[F:])
                        square = _density(s, near, degree, recursion, zero, own)
                        self_term[0] += square
                        self_term[1] += spin * spin * square
                    for q in range(n_density):
                        density[0, q] += own[q]
                        density[1, q] += spin * own[q]
                out = features[place[atom]]
                shift_by, scale_by = mean[species[i]], scale[species[i]]
                for block in range(n_blocks):
                    at = block * n_block
                    for n in range(n_radial):
                        out[at + n] = (radial[block, n] - shift_by[at + n]) * scale_by[at + n]
                    for l in range(degree + 1):
                        power[l] = -self_term[block]
                    for m in range(degree + 1):
                        q = _first(m, degree) - 2 * m
                        for l in range(m, degree + 1):
                            re, im = density[block, q + 2 * l], density[block, q + 2 * l + 1]
                            power[l] += norm[m, l] * (re * re + im * im)
                    for n in range(n_angular):
                        angular[n] = zero
                    for l in range(degree + 1):
                        for n in range(l % 2, n_angular, 2):
                            angular[n] += legendre[l, n] * power[l]
                    at += n_radial
                    for n in range(n_angular):
                        out[at + n] = (angular[n] - shift_by[at + n]) * scale_by[at + n]


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _radial_series(s, count, order, value, slope, one):
    """VALUE = sum_n value_n T_n(2 v), SLOPE = sum_n slope_n T_n(2 v); zeros follow the last."""
    a0, a1, a2, a3, a4, a5 = value[0], value[1], value[2], value[3], value[4], value[5]
    b0, b1, b2, b3, b4, b5 = slope[0], slope[1], slope[2], slope[3], slope[4], slope[5]
    for k in range(count):
        x = s[V_RADIAL + k] + s[V_RADIAL + k]
        x2 = x + x
        u2 = x2 * x - one
        u3 = x2 * u2 - x
        u4 = x2 * u3 - u2
        u5 = x2 * u4 - u3
        s[VALUE + k] = a0 + a1 * x + a2 * u2 + a3 * u3 + a4 * u4 + a5 * u5
        s[SLOPE + k] = b0 + b1 * x + b2 * u2 + b3 * u3 + b4 * u4 + b5 * u5
        s[A + k] = u4
        s[B + k] = u5
    for n in range(6, order + 1, 5):
        a2, a3, a4, a5, a6 = value[n], value[n + 1], value[n + 2], value[n + 3], value[n + 4]
        b2, b3, b4, b5, b6 = slope[n], slope[n + 1], slope[n + 2], slope[n + 3], slope[n + 4]
        for k in range(count):
            x2 = s[V_RADIAL + k] + s[V_RADIAL + k]
            x2 = x2 + x2
            u0 = s[A + k]
            u1 = s[B + k]
            u2 = x2 * u1 - u0
            u3 = x2 * u2 - u1
            u4 = x2 * u3 - u2
            u5 = x2 * u4 - u3
            u6 = x2 * u5 - u4
            s[VALUE + k] += a2 * u2 + a3 * u3 + a4 * u4 + a5 * u5 + a6 * u6
            s[SLOPE + k] += b2 * u2 + b3 * u3 + b4 * u4 + b5 * u5 + b6 * u6
            s[A + k] = u5
            s[B + k] = u6


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _derivative_coefficients(density, degree, one, d_density):
    """d_density[m, l] = (l - m + 1) density[m - 1, l], the z-derivative of the sweep before m."""
    for m in range(1, degree + 1):
        rise = one
        at, below = _first(m, degree), _first(m - 1, degree) + 2
        for k in range(degree + 1 - m):
            d_density[at + 2 * k] = rise * density[below + 2 * k]
            d_density[at + 2 * k + 1] = rise * density[below + 2 * k + 1]
            rise = rise + one


@njit(cache=True, fastmath=FLAGS, error_model="numpy")
def _density_series(s, count, degree, recursion, density, d_density, one):
    """VALUE = sum_ml Re(conj(density_ml) Q_ml(z) (x + i y)^m), GX, GY, GZ its gradient.

    ``d_density`` is that of ``_derivative_coefficients``.
    """
    zero = one - one
    for k in range(count):
        s[VALUE + k] = zero
        s[GX + k] = zero
        s[GY + k] = zero
        s[GZ + k] = zero
        s[A + k] = one
        s[B + k] = zero
    power = zero
    for m in range(degree + 1):
        b2, b3 = recursion[m, m + 1], recursion[m, m + 2]
        at = _first(m, degree)
        left = degree - m
        a0, c0, e0, h0 = density[at], density[at + 1], d_density[at], d_density[at + 1]
        a1, c1, e1, h1 = zero, zero, zero, zero
        a2, c2, e2, h2 = zero, zero, zero, zero
        a3, c3, e3, h3 = zero, zero, zero, zero
        if left >= 1:
            a1, c1, e1, h1 = density[at + 2], density[at + 3], d_density[at + 2], d_density[at + 3]
        if left >= 2:
            a2, c2, e2, h2 = density[at + 4], density[at + 5], d_density[at + 4], d_density[at + 5]
        if left >= 3:
            a3, c3, e3, h3 = density[at + 6], density[at + 7], d_density[at + 6], d_density[at + 7]
        for k in range(count):
            t = s[Z + k]
            p2 = t * t - b2
            p3 = t * p2 - b3 * t
            s[UR + k] = a0 + a1 * t + a2 * p2 + a3 * p3
            s[UI + k] = c0 + c1 * t + c2 * p2 + c3 * p3
            s[DR + k] = e0 + e1 * t + e2 * p2 + e3 * p3
            s[DI + k] = h0 + h1 * t + h2 * p2 + h3 * p3
            s[C + k] = p2
            s[D + k] = p3
        for l in range(m + 4, degree + 1, 2):
            b0, b1 = recursion[m, l - 1], recursion[m, l]
            at = _first(m, degree) + 2 * (l - m)
            a0, c0, e0, h0 = density[at], density[at + 1], d_density[at], d_density[at + 1]
            a1, c1, e1, h1 = zero, zero, zero, zero
            if l < degree:
                a1, c1 = density[at + 2], density[at + 3]
                e1, h1 = d_density[at + 2], d_density[at + 3]
            for k in range(count):
                t, p0, p1 = s[Z + k], s[C + k], s[D + k]
                p2 = t * p1 - b0 * p0
                p3 = t * p2 - b1 * p1
                s[UR + k] += a0 * p2 + a1 * p3
                s[UI + k] += c0 * p2 + c1 * p3
                s[DR + k] += e0 * p2 + e1 * p3
                s[DI + k] += h0 * p2 + h1 * p3
                s[C + k] = p2
                s[D + k] = p3
        if m == 0:
            for k in range(count):
                s[VALUE + k] += s[UR + k]
            continue
        power = power + one
        for k in range(count):
            a, b, x, y = s[A + k], s[B + k], s[X + k], s[Y + k]
            w = a * x - b * y
            v = a * y + b * x
            re, im = s[UR + k], s[UI + k]
            s[VALUE + k] += w * re + v * im
            s[GX + k] += power * (a * re + b * im)
            s[GY + k] += power * (a * im - b * re)
            s[GZ + k] += a * s[DR + k] + b * s[DI + k]
            s[A + k] = w
            s[B + k] = v


@njit(cache=True, parallel=True, fastmath=FLAGS, error_model="numpy")
def chebyshev_backward(
    d_features, densities,
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
    chunks, place,
    constants, inverse_cutoff, sine, cosine, recursion, norm, legendre, spins, scale, radial_order,
    d_positions, d_strain,
):  # fmt: skip
    """Add dE/dr to d_positions (n_chunks, n_atoms_in_all, 3), dE/ds to d_strain (.., 6) per atom.

    ``d_strain`` is in Voigt order xx yy zz yz xz xy; every chunk of atoms adds into its own
    slice of ``d_positions``.
    """
    n_atoms = len(species)
    n_replicas = len(positions) // n_atoms
    n_species = spins.shape[1]
    degree = norm.shape[0] - 1
    n_radial = radial_order + 1
    n_angular = legendre.shape[1]
    n_block = n_radial + n_angular
    n_blocks = d_features.shape[1] // n_block
    n_density = densities.shape[2]
    for chunk in prange(len(chunks) - 1):
        s = np.empty(N_SLOTS * TILE, d_features.dtype)
        d = np.empty(3 * TILE, positions.dtype)
        one, half, to_radial, to_angular = constants[0], constants[1], constants[2], constants[3]
        zero = one - one
        both = np.empty((2, n_density), d_features.dtype)
        d_own = np.zeros(n_density, d_features.dtype)
        dz_own = np.zeros(n_density, d_features.dtype)
        value = np.zeros(n_radial + 6, d_features.dtype)
        slope = np.zeros(n_radial + 6, d_features.dtype)
        d_power = np.empty((2, degree + 1), d_features.dtype)
        d_out = np.empty(d_features.shape[1], d_features.dtype)
        nothing = 0.0 * positions[0, 0]
        for i in range(chunks[chunk], chunks[chunk + 1]):
            for replica in range(n_replicas):
                atom = replica * n_atoms + i
                base = offsets[structure[atom]]
                for n in range(len(d_out)):
                    d_out[n] = d_features[place[atom], n] * scale[species[i], n]
                both[:] = zero
                d_power[:] = zero
                for z in range(n_species):
                    spin = spins[species[i], z]
                    for q in range(n_density):
                        both[0, q] += densities[atom, z, q]
                        both[1, q] += spin * densities[atom, z, q]
                for block in range(n_blocks):
                    for n in range(n_angular):
                        g = d_out[block * n_block + n_radial + n]
                        for l in range(degree + 1):
                            d_power[block, l] += (legendre[l, n] + legendre[l, n]) * g
                fx, fy, fz = nothing, nothing, nothing
                sxx, syy, szz, syz, sxz, sxy = fx, fx, fx, fx, fx, fx
                for z in range(n_species):
                    begin, end = row_begin[i * n_species + z], row_end[i * n_species + z]
                    if begin == end:
                        continue
                    spin = spins[species[i], z]
                    # radial part: e = f(r) P(x), with P and dP/dx as Chebyshev series
                    for n in range(n_radial):
                        value[n] = d_out[n]
                        if n_blocks == 2:
                            value[n] += spin * d_out[n_block + n]
                    slope[n_radial - 1] = zero
                    slope[n_radial] = zero
                    rise = one * radial_order
                    for n in range(n_radial - 2, -1, -1):
                        slope[n] = slope[n + 2] + (rise + rise) * value[n + 1]
                        rise = rise - one
                    slope[0] = half * slope[0]
                    # angular part: e = f(r) V(x, y, z) - kappa f^2 / 2 on the unit sphere
                    kappa = zero
                    for l in range(degree + 1):
                        g0 = d_power[0, l]
                        g1 = spin * d_power[1, l] if n_blocks == 2 else zero
                        kappa += g0 + spin * g1
                        for m in range(l + 1):
                            q = _first(m, degree) + 2 * (l - m)
                            d_own[q] = norm[m, l] * (g0 * both[0, q] + g1 * both[1, q])
                            q += 1
                            d_own[q] = norm[m, l] * (g0 * both[0, q] + g1 * both[1, q])
                    _derivative_coefficients(d_own, degree, one, dz_own)
                    for first in range(begin, end, TILE):
                        count = min(TILE, end - first)
                        padded = (count + LANES - 1) // LANES * LANES
                        near = _geometry(
                            positions, cells[structure[atom]], neighbor, shift, first, count,
                            padded, atom, base, inverse_cutoff, d, s,
                        )  # fmt: skip
                        near = (near + LANES - 1) // LANES * LANES
                        _cutoff(s[V_RADIAL:], padded, constants, sine, s[F:])
                        _cutoff_slope(s[V_RADIAL:], padded, constants, cosine, s[DF:])
                        _radial_series(s, padded, radial_order, value, slope, one)
                        for k in range(padded):
                            f = s[F + k]
                            s[RADIAL_SLOPE + k] = to_radial * (
                                s[DF + k] * s[VALUE + k] + (f + f) * s[SLOPE + k]
                            )
                        _cutoff(s[V_ANGULAR:], near, constants, sine, s[F:])
                        _cutoff_slope(s[V_ANGULAR:], near, constants, cosine, s[DF:])
                        _density_series(s, near, degree, recursion, d_own, dz_own, one)
                        for k in range(near):
                            x, y, t = s[X + k], s[Y + k], s[Z + k]
                            gx, gy, gz = s[GX + k], s[GY + k], s[GZ + k]
                            f = s[F + k]
                            ratio = f / s[LENGTH + k]
                            g = to_angular * s[DF + k] * (s[VALUE + k] - kappa * f)
                            g += s[RADIAL_SLOPE + k] - ratio * (x * gx + y * gy + t * gz)
                            s[GX + k] = g * x + ratio * gx
                            s[GY + k] = g * y + ratio * gy
                            s[GZ + k] = g * t + ratio * gz
                        for k in range(near, padded):
                            g = s[RADIAL_SLOPE + k]
                            s[GX + k] = g * s[X + k]
                            s[GY + k] = g * s[Y + k]
                            s[GZ + k] = g * s[Z + k]
                        for k in range(padded):
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
                        for k in range(count):
                            j = base + neighbor[first + k]
                            d_positions[chunk, j, 0] += s[GX + k]
                            d_positions[chunk, j, 1] += s[GY + k]
                            d_positions[chunk, j, 2] += s[GZ + k]
                d_positions[chunk, atom, 0] -= fx
                d_positions[chunk, atom, 1] -= fy
                d_positions[chunk, atom, 2] -= fz
                d_strain[atom, 0] += sxx
                d_strain[atom, 1] += syy
                d_strain[atom, 2] += szz
                d_strain[atom, 3] += syz
                d_strain[atom, 4] += sxz
                d_strain[atom, 5] += sxy
