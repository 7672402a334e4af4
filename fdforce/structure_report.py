"""What is in a data set, and which structures deserve a second look (``fdforce info``)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import atomic_masses, atomic_numbers

from fdforce.mapped import blocks, new_array, release
from fdforce.reference_energies import reference_energies
from fdforce.splitting import find_duplicates
from fdforce.structure_checks import short_pairs
from fdforce.units import GRAM_PER_CM3

if TYPE_CHECKING:
    from fdforce.structures import Structures

SEARCH_RADIUS = 3.0  # Å, for the shortest distances
SHORT_DISTANCE = 0.5  # Å
LARGE_FORCE = 50.0  # eV/Å
LARGE_NET_FORCE = 0.1  # eV/Å per atom
OUTLYING_FORCE = 10.0  # times the rms of all forces
OUTLYING_ENERGY = 6.0  # robust standard deviations


def describe_structures(structures: Structures, isolated: dict[str, float]) -> dict[str, Any]:
    """Summarise a data set.

    Parameters
    ----------
    structures : Structures
    isolated : dict of str to float
        Energies of isolated atoms, eV.

    Returns
    -------
    dict
        Plain numbers, strings, lists and dicts (fit for JSON). ``n_structures``, ``n_atoms``,
        ``atoms_per_structure`` (min, max), ``elements`` (atoms of each), ``periodicity``
        (structures by kind, "TTF" for a slab), ``n_energy``, ``n_forces``, ``n_stress``,
        ``n_weights`` (other than 1), ``config_types``, ``n_trajectories``, ``isolated`` (eV),
        ``energy_per_atom`` (min, mean, max; eV), ``forces`` (rms and max over components, eV/Å),
        ``net_force`` (median and max of the norm, eV/Å), ``shortest_distances`` (Å by pair of
        elements, within 3 Å), ``density`` (min, mean, max; g/cm^3, periodic structures) and
        ``suspicious``, a list of {"structure", "reason"}. None where there is nothing to say.
    """
    atoms_of = structures.compositions.sum(axis=0)
    kinds = Counter("".join("FT"[int(p)] for p in row) for row in structures.periodic)
    distances, closest = _shortest_distances(structures)
    energy_per_atom = structures.energies / structures.counts
    net = net_forces(structures)
    return {
        "n_structures": len(structures),
        "n_atoms": structures.n_atoms,
        "atoms_per_structure": {
            "min": int(structures.counts.min()),
            "max": int(structures.counts.max()),
        },
        "elements": dict(zip(structures.elements, atoms_of.tolist(), strict=True)),
        "periodicity": dict(kinds),
        "n_energy": int(structures.has_energy.sum()),
        "n_forces": int(structures.has_forces.sum()),
        "n_stress": int(structures.has_stress.sum()),
        "n_weights": int((structures.weights != 1.0).sum()),
        "config_types": dict(Counter(t for t in structures.config_types if t)),
        "n_trajectories": len(set(structures.trajectories) - {""}),
        "isolated": dict(isolated),
        "energy_per_atom": _range(energy_per_atom[structures.has_energy]),
        "forces": _size_of_forces(structures),
        "net_force": None
        if np.isnan(net).all()
        else {"median": float(np.nanmedian(net)), "max": float(np.nanmax(net))},
        "shortest_distances": distances,
        "density": _range(_densities(structures)),
        "suspicious": suspicious_structures(structures, closest),
    }


def _range(values: np.ndarray) -> dict[str, float] | None:
    if not values.size:
        return None
    return {"min": float(values.min()), "mean": float(values.mean()), "max": float(values.max())}


def _densities(structures) -> np.ndarray:
    """Return the densities (g/cm^3) of the structures periodic in three directions."""
    mass = np.array([atomic_masses[atomic_numbers[e]] for e in structures.elements])
    volumes = structures.volumes
    bulk = np.isfinite(volumes)
    return GRAM_PER_CM3 * (structures.compositions @ mass)[bulk] / volumes[bulk]


def _size_of_forces(structures) -> dict[str, float] | None:
    squares, count, largest = 0.0, 0, 0.0
    for atoms in blocks(structures.n_atoms):
        forces = structures.forces[atoms]
        forces = forces[np.isfinite(forces)]
        squares += float(np.sum(forces**2))
        count += forces.size
        largest = max(largest, float(np.abs(forces).max(initial=0.0)))
        release(structures.forces)
    return {"rms": (squares / count) ** 0.5, "max": largest} if count else None


def net_forces(structures: Structures) -> np.ndarray:
    """Return the norm of the sum of the forces, shape (n_structures,), eV/Å; NaN where absent."""
    net, bounds = np.empty(len(structures)), structures.offsets
    for part in blocks(len(structures)):
        forces = structures.forces[bounds[part.start] : bounds[part.stop]]
        sums = np.add.reduceat(forces, bounds[part] - bounds[part.start])
        net[part] = np.linalg.norm(sums, axis=1)
        release(structures.forces)
    return net


def _shortest_distances(structures) -> tuple[dict[str, float], np.ndarray]:
    """Return the shortest distance (Å) by pair of elements, and in each structure (inf if none)."""
    n = len(structures.elements)
    by_pair = np.full(n * n, np.inf)
    closest = np.full(len(structures), np.inf)
    for s, (first, second, distance) in enumerate(short_pairs(structures, SEARCH_RADIUS)):
        if distance.size:
            closest[s] = distance.min()
            species = structures.species[structures.offsets[s] : structures.offsets[s + 1]]
            a = species[first.astype(np.int64)]
            b = species[second.astype(np.int64)]
            np.minimum.at(by_pair, np.minimum(a, b) * n + np.maximum(a, b), distance)
    found = np.flatnonzero(np.isfinite(by_pair))
    elements = structures.elements
    names = {f"{elements[k // n]}-{elements[k % n]}": float(by_pair[k]) for k in found}
    return names, closest


def suspicious_structures(structures: Structures, closest: np.ndarray) -> list[dict[str, str]]:
    """List structures that deserve a second look, with the reason.

    Reasons: the same geometry twice, atoms closer than 0.5 Å, a force above 50 eV/Å or ten times
    the rms of the set, an energy per atom more than six robust standard deviations from what the
    composition explains, a net force above 0.1 eV/Å per atom.

    Parameters
    ----------
    structures : Structures
    closest : ndarray, shape (n_structures,), Å
        Shortest distance in each structure.

    Returns
    -------
    list of {"structure": label, "reason": str}
    """
    found = [
        *_copies(structures),
        *((s, f"two atoms are {closest[s]:.3f} Å apart") for s in _where(closest < SHORT_DISTANCE)),
        *_large_forces(structures),
        *_outlying_energies(structures),
        *_net_forces(structures),
    ]
    found.sort(key=lambda item: item[0])
    return [{"structure": structures.labels[s], "reason": reason} for s, reason in found]


def _where(mask: np.ndarray) -> list[int]:
    return np.flatnonzero(mask).tolist()


def _copies(structures):
    group = find_duplicates(structures)
    _, first = np.unique(group, return_index=True)
    original = first[group]
    for s in _where(original != np.arange(len(structures))):
        difference = abs(structures.energies[s] - structures.energies[original[s]])
        differs = f"; its energy differs by {difference:.3g} eV" if difference > 0.0 else ""
        yield s, f"same geometry as {structures.labels[original[s]]}{differs}"


def _large_forces(structures):
    size = _size_of_forces(structures)
    if size is None:
        return
    rms = 3**0.5 * size["rms"]  # of vectors
    norms = new_array(structures.forces, (structures.n_atoms,), np.float64)
    for atoms in blocks(len(norms)):
        norms[atoms] = np.linalg.norm(structures.forces[atoms], axis=1)
        release(structures.forces, norms)
    largest = np.maximum.reduceat(norms, structures.offsets[:-1])
    for s in _where((largest > LARGE_FORCE) | (largest > OUTLYING_FORCE * rms)):
        yield s, f"a force of {largest[s]:.3g} eV/Å (rms of the set {rms:.3g})"


def _outlying_energies(structures):
    explained = structures.compositions @ reference_energies(structures, "fit")
    residual = (structures.energies - explained) / structures.counts
    if np.isnan(residual).all():
        return
    centre = np.nanmedian(residual)
    # The central 80 % of a normal distribution span 2.563 standard deviations. The median
    # deviation would call whole phases outlying where most of a set is one phase.
    sigma = np.ptp(np.nanquantile(residual, [0.1, 0.9])) / 2.563
    # A set of equal energies has no spread to measure by.
    if sigma < 1e-9:
        return
    for s in _where(np.abs(residual - centre) > OUTLYING_ENERGY * sigma):
        off = f"{residual[s] - centre:+.3g} eV from what the composition explains"
        yield s, f"energy per atom {off} (spread of the set {sigma:.3g})"


def _net_forces(structures):
    net = net_forces(structures)
    for s in _where(net > LARGE_NET_FORCE * structures.counts):
        yield s, f"forces add up to {net[s]:.3g} eV/Å, not to zero"
