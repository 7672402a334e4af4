"""Displaced replicas of a batch, and the lengths of the steps."""

import math

from .runtime import cuda, launch, launch_over


@cuda.jit
def _displace_kernel(
    positions, direction, strain, cells, structure, species, place, species_start, eta, nodes,
    replica_positions, replica_cells, replica_structure, replica_place,
):  # fmt: skip
    n_atoms, n_replicas, n_structures = species.size, nodes.size, eta.size
    atom = cuda.grid(1)
    if atom < n_replicas * n_atoms:
        replica, i = atom // n_atoms, atom % n_atoms
        s, z = structure[i], species[i]
        step = nodes[replica] * eta[s]
        for axis in range(3):
            g = direction[i, axis]
            for other in range(3):
                g += strain[s, axis, other] * positions[i, other]
            replica_positions[atom, axis] = positions[i, axis] + step * g
        replica_structure[atom] = replica * n_structures + s
        in_species = species_start[z + 1] - species_start[z]
        earlier = (n_replicas - 1) * species_start[z] + replica * in_species
        replica_place[atom] = place[i] + earlier
    if atom < n_replicas * n_structures:
        replica, s = atom // n_structures, atom % n_structures
        step = nodes[replica] * eta[s]
        for row in range(3):
            for axis in range(3):
                change = 0.0
                for other in range(3):
                    change += cells[s, row, other] * strain[s, other, axis]
                replica_cells[atom, row, axis] = cells[s, row, axis] + step * change


def displace(
    positions, direction, strain, cells, structure, species, place, species_start, eta, nodes,
    replica_positions, replica_cells, replica_structure, replica_place,
):  # fmt: skip
    """Positions, cells, structures and rows of replicas at ``r + node eta (g + H r)``.

    ``strain`` is H, (S, 3, 3), ``eta`` (S,), and ``nodes`` (n_replicas,).
    """
    n = nodes.size * max(species.size, eta.size)
    launch_over(_displace_kernel, n)(
        positions, direction, strain, cells, structure, species, place, species_start, eta, nodes,
        replica_positions, replica_cells, replica_structure, replica_place,
    )  # fmt: skip


@cuda.jit(device=True)
def _spectral_norm(h):
    """Largest absolute eigenvalue, 3 x 3 and symmetric (Smith, Commun. ACM 4, 168 (1961))."""
    a, b, c, d, e, f = h[0, 0], h[1, 1], h[2, 2], h[0, 1], h[0, 2], h[1, 2]
    q = (a + b + c) / 3.0
    off = d * d + e * e + f * f
    p = math.sqrt(((a - q) ** 2 + (b - q) ** 2 + (c - q) ** 2 + 2.0 * off) / 6.0)
    if p == 0.0:
        return abs(q)
    a, b, c, d, e, f = (a - q) / p, (b - q) / p, (c - q) / p, d / p, e / p, f / p
    r = (a * (b * c - f * f) - d * (d * c - f * e) + e * (d * f - b * e)) / 2.0
    angle = math.acos(min(1.0, max(-1.0, r))) / 3.0
    high = q + 2.0 * p * math.cos(angle)
    low = q + 2.0 * p * math.cos(angle + 2.0943951023931953)
    return max(abs(high), abs(low))


@cuda.jit
def _steps_kernel(direction, strain, offsets, length, reach, eta):
    buffer = cuda.shared.array(0, direction.dtype)
    s, t, n_threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    largest = 0.0
    bad = False
    for i in range(offsets[s] + t, offsets[s + 1], n_threads):
        square = direction[i, 0] ** 2 + direction[i, 1] ** 2 + direction[i, 2] ** 2
        bad = bad or not math.isfinite(square)
        largest = max(largest, square)
    buffer[t] = math.nan if bad else math.sqrt(largest)
    cuda.syncthreads()
    if t > 0:
        return
    largest = 0.0
    bad = False
    for k in range(n_threads):
        bad = bad or not math.isfinite(buffer[k])
        largest = max(largest, buffer[k])
    by_strain = reach * _spectral_norm(strain[s])
    bad = bad or not math.isfinite(by_strain)
    largest = max(largest, by_strain)
    if bad:
        eta[s] = math.nan
    else:
        eta[s] = 0.0 if largest == 0.0 else length / largest


def step_lengths(direction, strain, offsets, length, reach, eta):
    """``eta[s] = length / g0`` with g0 the largest ``|g_i|`` of a structure.

    As `fdforce.gradient.step_lengths`: 0 where g vanishes, NaN where it is not finite; ``length``
    is epsilon a0.
    """
    launch(_steps_kernel, offsets.size - 1, 8)(
        direction, strain, offsets, length, reach, eta
    )
