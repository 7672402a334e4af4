"""Initial parameters from short fits on energies alone and on forces alone.

The fit begins at the mean of the two, as in the examples of PotentialLearning.jl.
"""

from __future__ import annotations

import copy

import numpy as np

from fdforce.config import Config, override
from fdforce.errors import ConfigError
from fdforce.problem import loss_of

ONE_AFTER_THE_OTHER = {
    "energy": {"force_weight": 0.0, "stress_weight": 0.0},
    "forces": {"energy_weight": 0.0, "stress_weight": 0.0},
}
"""Label -> weights of the others."""


def pretrained(trainer, model, train, config: Config, **arguments) -> np.ndarray:
    """Parameters to begin a fit with.

    Parameters
    ----------
    trainer : type
        `Trainer` or a kind of it.
    model : EnergyModel
        Without fixed offsets; left as it is.
    train : DataSet
    config : Config
        ``training.pretraining`` is the number of epochs of each of the two fits, with schedules of
        their own; ``training.max_time`` does not end them, but their time counts against it.
    **arguments
        Of the trainer.

    Returns
    -------
    ndarray, shape (P,)

    Raises
    ------
    ConfigError
        Labels of one of the two kinds are absent.
    """
    training = {"epochs": config.training.pretraining, "max_time": 0.0, "pretraining": 0}
    found = []
    for label, weights in ONE_AFTER_THE_OTHER.items():
        if not getattr(train.structures, f"has_{label}").any():
            raise ConfigError(
                f"training.pretraining = {config.training.pretraining}: no training structure has "
                f"{'an energy' if label == 'energy' else 'forces'}; leave it at 0"
            )
        own = override(config, {"training": training, "loss": weights})
        run = trainer(copy.copy(model), train, None, loss_of(own, train), own, **arguments)
        progress = run.run()
        found.append(progress.average)
    return np.mean(found, axis=0)
