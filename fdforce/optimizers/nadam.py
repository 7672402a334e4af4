"""NAdam: Adam with Nesterov's momentum.

Dozat, "Incorporating Nesterov momentum into Adam" (2016), with a constant beta1; state of `adam`.
"""

from __future__ import annotations

import numpy as np

from fdforce.optimizers.adam import STABILITY, remember


def update(theta, gradient, state, learning_rate, settings):
    """One step; see `fdforce.optimizers.adam.update`."""
    step = remember(gradient, state, settings)
    beta1, beta2 = settings.beta1, settings.beta2
    ahead = beta1 * state["mean"] / (1 - beta1 ** (step + 1))
    ahead += (1 - beta1) * gradient / (1 - beta1**step)
    root = np.sqrt(state["square"] / (1 - beta2**step))
    return theta - learning_rate * ahead / (root + STABILITY)
