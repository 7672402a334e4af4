"""A linear model fitted in one step, where training would go through epochs."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from fdforce.errors import ConfigError
from fdforce.least_squares import RowWeights, solve, weighted_rows
from fdforce.losses import SquaredLoss
from fdforce.models.linear import LinearModel
from fdforce.training import Trainer

BLOCK_BYTES = 32e6
"""Of the rows that are held at a time."""


class DirectFit(Trainer):
    """Least squares in place of epochs: the minimum of the loss in one.

    It takes what `Trainer` takes and fills the same `Progress`, with one row.

    Raises
    ------
    ConfigError
        The model is not linear, or the loss is not squared.
    """

    unused: ClassVar = {"training": ("pretraining",)}

    def __init__(self, model, train, valid, loss, config, **options):
        super().__init__(model, train, valid, loss, config, **options)
        if not isinstance(model, LinearModel):
            raise ConfigError(
                'optimizer.name = "least_squares" solves linear models: take model.kind = "linear"'
            )
        self._refuse_other_losses()

    def _initial_state(self):
        return {}

    def _refuse_other_losses(self):
        """Least squares know squared errors, with one weight for all forces of a structure.

        Of weights that change over a run they take those of its end.
        """
        settings = self.config.loss
        names = ("element_weights", "error_threshold")
        wrong = [name for name in names if getattr(settings, name)]
        if settings.force_redraw and settings.force_fraction < 1:
            wrong.append("force_redraw")
        if not isinstance(self.loss, SquaredLoss):
            wrong.insert(0, "kind")
        if wrong:
            raise ConfigError(
                f"loss.{wrong[0]} = {getattr(settings, wrong[0])!r}: optimizer.name = "
                '"least_squares" minimises the squared loss with constant weights of structures; '
                f"leave loss.{wrong[0]} out, or take another optimizer"
            )

    def run(self, on_epoch=None):
        """Solve, unless a resumed run has been solved already."""
        if not self.progress.epoch:
            row = self._epoch()
            if on_epoch is not None:
                on_epoch(self.progress, row)
        return self.progress

    def _learn(self, new, monitor):
        solution = solve(self._blocks(), ridge=self.settings.ridge)
        if solution.rank < len(solution.theta):
            self.log(
                f"{len(solution.theta) - solution.rank} of {len(solution.theta)} coefficients are "
                "not determined by the data; the smallest that fit are taken"
            )
        self.model.theta = new.average = solution.theta
        return self._errors(self.train, "train") | {"learning_rate": 0.0}

    def _blocks(self):
        """Rows of the whole loss: its mean over structures is taken over all of them."""
        structures = self.train.structures
        row_bytes = 8 * len(self.model.theta) * 3 * structures.n_atoms / len(structures)
        size = max(int(BLOCK_BYTES / max(row_bytes, 1)), 1)
        blocks = np.array_split(np.arange(len(structures)), -(-len(structures) // size))
        for indices in self.train.in_turn(blocks):
            batch, target = self.train.batch(indices, self.threads)
            energy, forces, virial = self.loss.factors(len(structures), target)
            counts = batch.counts
            sizes = self.loss.energy_sizes(batch)
            weights = RowWeights(energy / sizes**2, forces, virial / counts**2)
            yield weighted_rows(self.model, batch, target, weights)
