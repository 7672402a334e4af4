"""Energies of the separate atoms, taken off before training so that the rest is small.

Total energies of a data set are mostly a constant per atom of each element, which a network would
have to learn first and in single precision could not even represent beside the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from fdforce.errors import ConfigError

if TYPE_CHECKING:
    from fdforce.structures import Structures


def reference_energies(
    structures: Structures,
    kind: str | Mapping[str, float] = "fit",
    isolated: Mapping[str, float] | None = None,
) -> np.ndarray:
    """Return one energy per element.

    Parameters
    ----------
    structures : Structures
    kind : "fit", "isolated" or mapping of element to eV
        "fit": least squares of the total energies on the composition. Where compositions leave
        some combination of elements undetermined (TiO2 alone says nothing about Ti against O),
        that combination gets the mean energy per atom. "isolated": the energies of the isolated
        atoms in the data. A mapping: taken as it is.
    isolated : mapping of element to eV, optional
        Energies of isolated atoms, as returned by `fdforce.structures.read_structures`.

    Returns
    -------
    ndarray, shape (n_elements,), eV
        In the order of ``structures.elements``. Zero for "fit" without any energy.

    Raises
    ------
    ConfigError
        If an element has no energy in the mapping or no isolated atom, or `kind` is unknown.
    """
    if isinstance(kind, Mapping):
        return _look_up(structures.elements, kind, "the table data.reference_energies has no")
    if kind == "isolated":
        return _look_up(
            structures.elements,
            isolated or {},
            "data.reference_energies is 'isolated', but the data have no isolated atom "
            "(one atom, config_type=IsolatedAtom, with an energy) of",
        )
    if kind == "fit":
        return fit_by_composition(structures.compositions, structures.energies)
    raise ConfigError(
        f"data.reference_energies is {kind!r}; choose 'fit', 'isolated' or a table of eV by element"
    )


def _look_up(elements, table: Mapping[str, float], complaint: str) -> np.ndarray:
    missing = [element for element in elements if element not in table]
    if missing:
        raise ConfigError(f"{complaint} {', '.join(missing)}; add it or use 'fit'")
    energies = np.array([table[element] for element in elements], dtype=np.float64)
    if not np.isfinite(energies).all():
        bad = int(np.argmin(np.isfinite(energies)))
        raise ConfigError(f"data.reference_energies: {elements[bad]} is {energies[bad]}")
    return energies


def fit_by_composition(compositions, energies) -> np.ndarray:
    """The constant per atom of each element that energies are nearest to.

    Where compositions leave some combination of elements undetermined, that combination gets the
    mean energy per atom.

    Parameters
    ----------
    compositions : ndarray, shape (S, n_elements)
        Atoms of each element.
    energies : ndarray, shape (S,), eV
        NaN if absent.

    Returns
    -------
    ndarray, shape (n_elements,), eV
        Zero without any energy.
    """
    labelled = ~np.isnan(energies)
    if not labelled.any():
        return np.zeros(compositions.shape[1])
    composition = compositions[labelled].astype(np.float64)
    energies = energies[labelled]
    mean = energies.sum() / composition.sum()
    residual = energies - mean * composition.sum(axis=1)
    # The shortest correction to the mean. Below this ratio a combination of elements is only
    # constrained by round-off.
    correction, *_ = np.linalg.lstsq(composition, residual, rcond=1e-9)
    return mean + correction
