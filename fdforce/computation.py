"""Where the losses and gradients of a fit are computed: on the processor or on a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fdforce.errors import ConfigError
from fdforce.evaluation import groups
from fdforce.mixed_batches import force_aware_gradient


class HostComputation:
    """Losses of a model and their gradients, on the processor.

    Parameters
    ----------
    model : EnergyModel
        Its `theta` at the time of a call counts.
    threads : int
    """

    def __init__(self, model, threads: int = 1):
        self.model, self.threads = model, threads

    def groups(self, data) -> Iterator[np.ndarray]:
        """The structures of a data set in batches that suit `terms`."""
        return groups(data.structures)

    def expect(self, indices) -> None:
        """Hear which structures will be asked for next, or None."""

    def gradient(self, data, indices, loss, **options):
        """`GradientStep` of some structures of a data set; options of `loss_gradient`."""
        return force_aware_gradient(self.model, data, indices, loss, self.threads, **options)

    def terms(self, data, indices, loss):
        """`LossTerms` of some structures of a data set."""
        batch, target = data.batch(indices, self.threads)
        state = self.model.forward(batch)
        return loss(batch, state.energy, *self.model.forces(state), target)


def check_device(config) -> None:
    """Refuse, before any data are read, what the device of a configuration cannot do.

    Raises
    ------
    ConfigError
        No GPU or no package for it, the complex stencil, or a direct fit.
    """
    if config.training.device == "cpu":
        return
    from fdforce.cuda.device import find_device

    find_device()
    for table, key, value in (
        ("finite_difference", "stencil", "complex"), ("optimizer", "name", "least_squares"),
    ):  # fmt: skip
        if getattr(getattr(config, table), key) == value:
            raise ConfigError(
                f'{table}.{key} = {value!r} runs on the processor alone: take device = "cpu"'
            )


def computation_for(settings, model, threads: int, log=print):
    """The computation that ``[training]`` asks for.

    Parameters
    ----------
    settings : object
        With ``device`` and ``device_memory``.
    model : EnergyModel
    threads : int
    log : callable
        Takes a line of text.

    Raises
    ------
    ConfigError
        No GPU, or no package for it.
    """
    if settings.device == "cpu":
        return HostComputation(model, threads)
    from fdforce.cuda.computation import DeviceComputation

    return DeviceComputation(model, share=settings.device_memory, log=log)
