"""Which forces are learnt from: those of a random fraction of the structures, or of the atoms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fdforce.losses import Target
from fdforce.mapped import blocks, converted, release

STREAM = 1
"""Tells this use of the seed from that for the order of the batches."""


def select_forces(
    target: Target, structures, fraction: float, how: str, seed: int, draw: int = 0
) -> Target:
    """Labels with the forces of a random fraction of what has them.

    Parameters
    ----------
    target : Target
    structures : Structures
    fraction : float
        Of the structures, or of the atoms, that have forces; one of them at least, unless 0.
    how : str
        "structures" or "atoms".
    seed, draw : int
        They determine the choice.

    Returns
    -------
    Target
        With NaN for the forces elsewhere; energies and stresses stay.
    """
    if fraction >= 1:
        return target
    labelled = ~np.isnan(target.forces).all(axis=1)
    if how == "structures":
        labelled = np.logical_or.reduceat(labelled, structures.offsets[:-1])
    candidates = np.flatnonzero(labelled)
    number = max(round(fraction * len(candidates)), 1) if fraction else 0
    kept = np.zeros(len(labelled), dtype=bool)
    rng = np.random.default_rng([seed, draw, STREAM])
    kept[rng.permutation(candidates)[:number]] = True
    if how == "structures":
        kept = np.repeat(kept, structures.counts)
    forces = converted(target.forces, target.forces.dtype)
    for rows in blocks(len(forces)):
        forces[rows][~kept[rows]] = np.nan
    release(forces)
    return replace(target, forces=forces)


class ForceDraw:
    """The training set of an epoch, with the forces that are drawn for it.

    Parameters
    ----------
    data : DataSet
        With all labels.
    config : Config
        ``loss.force_fraction``, ``force_selection`` and ``force_redraw``, and the seed.
    """

    def __init__(self, data, config):
        self.data, self.settings, self.seed = data, config.loss, config.training.seed
        self._last = None, None

    def __call__(self, epoch: int):
        """The data set of an epoch (from 0), a function of seed and epoch alone."""
        settings = self.settings
        draw = epoch // settings.force_redraw if settings.force_redraw else 0
        if self._last[0] != draw:
            target = select_forces(
                self.data.target, self.data.structures, settings.force_fraction,
                settings.force_selection, self.seed, draw,
            )  # fmt: skip
            self._last = draw, replace(self.data, target=target)
        return self._last[1]
