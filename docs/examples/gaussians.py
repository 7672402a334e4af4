"""A descriptor of one's own: Gaussians of the distances to the neighbours of each element."""

import numpy as np
from numba import njit

from fdforce.descriptors.features import compute_features


@njit(cache=True, error_model="numpy")
def separation(positions, cell, i, j, shift, pair):
    """d_ij and its length, in the dtype of the positions: float64 or complex128."""
    d = positions[j] - positions[i]
    for a in range(3):
        for b in range(3):
            d[b] += shift[a, pair] * cell[a, b]
    return d, np.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])


@njit(cache=True, error_model="numpy")
def gaussians_forward(
    positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift, chunks,
    place, centres, sharpness, cutoff, mean, scale, features,
):  # fmt: skip
    """G_zk = sum_j exp(-sharpness (r_ij - centre_k)^2) (1 - (r_ij / cutoff)^2)^3."""
    n_species, n = len(mean), len(centres)
    for atom in range(len(positions)):
        i = atom % len(species)
        row = features[place[atom]]
        row[:] = 0
        for z in range(n_species):
            for pair in range(row_begin[i * n_species + z], row_end[i * n_species + z]):
                j = offsets[structure[atom]] + neighbor[pair]
                _, r = separation(positions, cells[structure[atom]], atom, j, shift, pair)
                if r.real >= cutoff:
                    continue
                x = 1 - (r / cutoff) ** 2
                for k in range(n):
                    row[z * n + k] += np.exp(-sharpness * (r - centres[k]) ** 2) * x * x * x
        for k in range(len(row)):
            row[k] = (row[k] - mean[species[i], k]) * scale[species[i], k]


@njit(cache=True, error_model="numpy")
def gaussians_backward(
    d_features, positions, cells, structure, species, offsets, row_begin, row_end, neighbor, shift,
    chunks, place, centres, sharpness, cutoff, scale, d_positions, d_strain,
):  # fmt: skip
    """Adds dE/dr and each atom's share of dE/d strain, xx yy zz yz xz xy."""
    n_species, n = len(scale), len(centres)
    for atom in range(len(positions)):
        i = atom % len(species)
        row = d_features[place[atom]]
        for z in range(n_species):
            for pair in range(row_begin[i * n_species + z], row_end[i * n_species + z]):
                j = offsets[structure[atom]] + neighbor[pair]
                d, r = separation(positions, cells[structure[atom]], atom, j, shift, pair)
                if r.real >= cutoff:
                    continue
                x = 1 - (r / cutoff) ** 2
                slope = 0.0 * r
                for k in range(n):
                    from_centre = r - centres[k]
                    value = np.exp(-sharpness * from_centre**2)
                    inner = -2 * sharpness * from_centre * x - 6 * r / cutoff**2
                    slope += row[z * n + k] * scale[species[i], z * n + k] * value * x * x * inner
                for a in range(3):
                    d_positions[j, a] += slope * d[a] / r
                    d_positions[atom, a] -= slope * d[a] / r
                    d_strain[atom, a] += slope * d[a] * d[a] / r
                d_strain[atom, 3] += slope * d[1] * d[2] / r
                d_strain[atom, 4] += slope * d[0] * d[2] / r
                d_strain[atom, 5] += slope * d[0] * d[1] / r


class Gaussians:
    """Gaussians of distances, `n_gaussians` for each element of the neighbour.

    Parameters
    ----------
    elements : sequence of str
    reach : float, Å
    n_gaussians : int
    """

    name = "gaussians"
    setting_help = {"reach": "cutoff (Å)", "n_gaussians": "functions for each element"}

    def __init__(self, elements, reach: float = 5.0, n_gaussians: int = 8):
        self.elements = tuple(elements)
        self.reach = self.cutoff = float(reach)
        self.n_gaussians = int(n_gaussians)
        self.n_features = len(self.elements) * self.n_gaussians

    @property
    def labels(self):
        """A name for every feature."""
        return [f"{z} {c:.2f} Å" for z in self.elements for c in self._functions[0]]

    @property
    def settings(self):
        """Arguments that make an equal descriptor."""
        return {"elements": list(self.elements), **{k: getattr(self, k) for k in self.setting_help}}

    @property
    def _functions(self):
        centres = np.linspace(0.7, self.reach, self.n_gaussians)
        return centres, (self.n_gaussians / self.reach) ** 2, self.reach

    def compute(self, atoms):
        """Features of every atom, (n_atoms, n_features)."""
        return compute_features(self, atoms)

    def forward(self, batch, mean, scale, *, keep=True):
        """Features of a batch; nothing has to be kept for `backward`."""
        dtype = np.complex128 if np.iscomplexobj(batch.positions) else mean.dtype
        features = np.empty((batch.n_atoms, self.n_features), dtype)
        gaussians_forward(*batch.pair_arguments, *self._functions, mean, scale, features)
        return features, [None] if keep else []

    def backward(self, batch, d_features, kept, scale):
        """Derivatives with respect to positions and strain."""
        d_positions = np.zeros((batch.n_atoms, 3))
        d_strain = np.zeros((batch.n_atoms, 6))
        gaussians_backward(
            d_features, *batch.pair_arguments, *self._functions, scale, d_positions, d_strain
        )
        return d_positions, d_strain
