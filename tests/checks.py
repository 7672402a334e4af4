"""Checks that many tests share."""

import numpy as np

from fdforce.batch import make_batch
from fdforce.neighbors import build_pairs
from fdforce.structures import read_structures

COMPLEX_STEP = 1e-20


def batch_of(frames, elements, cutoff, *, indices=None, skin=0.05, n_chunks=1):
    """A batch of `ase.Atoms` frames."""
    structures, _ = read_structures(frames, elements=elements)
    pairs = build_pairs(structures, cutoff, skin=skin)
    return make_batch(structures, pairs, indices, n_chunks=n_chunks)


def voigt(tensor):
    """Components xx yy zz yz xz xy of symmetric tensors (..., 3, 3)."""
    return tensor[..., [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]


def symmetric(rng, n):
    """n random symmetric 3x3 tensors."""
    tensor = rng.normal(size=(n, 3, 3))
    return tensor + tensor.swapaxes(1, 2)


def slope_of(f, x, direction, step):
    """d f(x + t direction) / dt at t = 0 by the five-point formula, error O(step^4)."""
    near = f(x + step * direction) - f(x - step * direction)
    far = f(x + 2 * step * direction) - f(x - 2 * step * direction)
    return (8 * near - far) / (12 * step)


def check_directional(f, df, x, *, step, tolerance, seeds=(0, 1, 2), name="gradient"):
    """Compare the gradient `df(x)` of the scalar `f` with its slopes along random unit directions.

    Parameters
    ----------
    f, df : callable
        A scalar function of an array and its gradient, an array of the same shape.
    x : ndarray
    step : float
        Of the five-point formula, in units of x.
    tolerance : float
        Largest difference relative to |df| / sqrt(n), the typical size of a slope. A slope that
        is small by chance is thus not asked for more digits than the gradient has.
    seeds : sequence of int
        A direction for each.
    """
    gradient = df(x)
    scale = np.linalg.norm(gradient) / np.sqrt(gradient.size)
    assert scale > 0, f"{name}: a gradient that vanishes proves nothing"
    for seed in seeds:
        direction = np.random.default_rng(seed).normal(size=x.shape)
        direction /= np.linalg.norm(direction)
        analytic = float(np.sum(gradient * direction))
        numeric = slope_of(f, x, direction, step)
        error = abs(analytic - numeric) / scale
        print(f"{name}, seed {seed}: analytic {analytic:.12g}, numeric {numeric:.12g}, {error:.1e}")
        assert error < tolerance, (
            f"{name}, seed {seed}: analytic {analytic:.12g}, numeric {numeric:.12g}, "
            f"relative difference {error:.2e} > {tolerance:.0e}"
        )
        # a direction to which the gradient is almost normal would not notice a wrong gradient
        assert abs(analytic) > 1e-2 * scale, f"{name}, seed {seed}: choose another seed"


def relative(a, b):
    """|a - b| / |b| over all entries."""
    return np.linalg.norm(np.asarray(a) - b) / np.linalg.norm(b)
