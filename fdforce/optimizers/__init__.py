"""Optimizers: each a module with a pair of plain functions and a dict of arrays as state.

``init(theta) -> state`` and ``update(theta, gradient, state, learning_rate, settings) -> theta``;
`state` is changed in place, so that saving its arrays saves the optimizer.
"""

from fdforce.optimizers import adam

OPTIMIZERS = {"adam": adam}
"""name -> module with ``init`` and ``update``."""
