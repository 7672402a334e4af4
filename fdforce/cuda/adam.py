"""Adam on the device: `fdforce.optimizers.adam` where the gradients are."""

from __future__ import annotations

import numpy as np

from fdforce.optimizers.adam import STABILITY

BLOCKS = 128
"""Of the sums of squares; every thread of the update adds them up."""


class DeviceAdam:
    """Parameters, moments and average during an epoch.

    Parameters
    ----------
    device : CudaDevice
    theta, average : ndarray, shape (P,)
    state : dict
        Of `fdforce.optimizers.adam.init`.
    frozen : ndarray, shape (P,), bool
        Parameters that stay as they are.
    settings : OptimizerConfig
    dtype : dtype
        Of the networks.

    Attributes
    ----------
    working : device array, shape (P,)
        The parameters as the networks take them.
    is_finite : bool
        Whether all numbers of the gradient are finite, as far as has come to the host.
    """

    def __init__(self, device, theta, average, state, *, frozen, settings, dtype):
        self._kernels, table = device.kernels("adam"), device.table
        self.settings, self._step = settings, float(state["step"][0])
        self._theta, self._average = table(theta, np.float64), table(average, np.float64)
        self._mean, self._square = (table(state[name], np.float64) for name in ("mean", "square"))
        self._frozen, self.working = table(frozen, np.bool_), table(theta, dtype)
        self._total = table(np.zeros(len(theta)), np.float64)
        self._squares, self._first = table(np.zeros(BLOCKS), np.float64), True
        self.is_finite = True

    def take(self, gradient, share: float, squares) -> None:
        """Add the gradient (P,) of a part of a batch, which has this share of its structures.

        Parts of the squared norm of all so far go to `squares` (BLOCKS,), for the host.
        """
        self._kernels.take(
            gradient, float(share), self._first, self._frozen, float(self.settings.l2),
            self._theta, self._total, self._squares, squares,
        )  # fmt: skip
        self._first = False

    def forget(self) -> None:
        """Begin a batch."""
        self._first = True

    def update(self, rate: float, divisor: float) -> None:
        """A step along what was taken; the average moves by one over `divisor`."""
        settings = self.settings
        self._step += 1
        self._kernels.update(
            self._total, self._squares, self._frozen, float(rate), float(settings.weight_decay),
            float(settings.l2), float(settings.gradient_clip), settings.beta1, settings.beta2,
            1 - settings.beta1**self._step, 1 - settings.beta2**self._step, STABILITY,
            float(divisor), self._theta, self._mean, self._square, self._average, self.working,
        )  # fmt: skip

    def to_host(self):
        """Parameters, average and state, as they were given."""
        theta, average, mean, square = (
            array.copy_to_host() for array in (self._theta, self._average, self._mean, self._square)
        )
        return theta, average, {"step": np.array([self._step]), "mean": mean, "square": square}
