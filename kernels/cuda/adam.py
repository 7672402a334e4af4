"""Adam with decoupled weight decay; formulas of `fdforce.optimizers.adam` and `fdforce.training`.

Parameters, moments and the average stay on the device, in double precision. A batch that is
evaluated in parts adds its gradients up first.

=============  ==================  ================================================================
gradient       (P,) float64        of a part of the batch
share          float64             of the structures of the batch that the part has
first          bool                whether it is the first part
total          (P,) float64        the gradient of the batch, so far
frozen         (P,) bool           parameters that stay as they are
l2             float64             penalty l2/2 |theta|^2 of the loss
squares        (n_blocks,)         |total + l2 theta|^2, a part for every block; for_host has
                                   the same
clip           float64             largest norm of the gradient; 0: no limit
correction1    float64             1 - beta^step of the two moments
correction2
stability      float64             added to the root of the mean square
divisor        float64             the average moves by one over this towards the parameters
working        (P,) working dtype  the parameters as the networks take them
=============  ==================  ================================================================
"""

import math

from .reductions import block_sum
from .runtime import NEXT, NONE, cuda, launch, launch_over


@cuda.jit
def _take_kernel(gradient, share, first, frozen, l2, theta, total, squares, for_host):
    buffer = cuda.shared.array(0, total.dtype)
    square = 0.0
    for k in range(cuda.grid(1), total.size, cuda.gridsize(1)):
        value = 0.0 if frozen[k] else share * gradient[k]
        if not first:
            value += total[k]
        total[k] = value
        value += l2 * theta[k]
        square += value * value
    square = block_sum(buffer, square)
    if cuda.threadIdx.x == 0:
        squares[cuda.blockIdx.x] = for_host[cuda.blockIdx.x] = square


def take(gradient, share, first, frozen, l2, theta, total, squares, for_host):
    """Add the gradient of a part of a batch, or begin with it."""
    launch(_take_kernel, squares.size, 8)(
        gradient, share, first, frozen, l2, theta, total, squares, for_host
    )


@cuda.jit
def _update_kernel(
    total, squares, frozen, rate, decay, l2, clip, beta1, beta2, correction1, correction2,
    stability, divisor, theta, mean, square, average, working,
):  # fmt: skip
    k = cuda.grid(1)
    if k >= theta.size:
        return
    value = theta[k]
    g = total[k] + l2 * value
    if clip > 0.0:
        norm, block = 0.0, NONE
        while block < squares.size:
            norm += squares[block]
            block += NEXT
        norm = math.sqrt(norm)
        if norm > clip:
            g *= clip / norm
    mean[k] += (1.0 - beta1) * (g - mean[k])
    square[k] += (1.0 - beta2) * (g * g - square[k])
    if not frozen[k]:
        root = math.sqrt(square[k] / correction2)
        value = value * (1.0 - rate * decay) - rate * (mean[k] / correction1) / (root + stability)
    theta[k] = value
    working[k] = value
    average[k] = value if divisor == 1.0 else average[k] + (value - average[k]) / divisor


def update(
    total, squares, frozen, rate, decay, l2, clip, beta1, beta2, correction1, correction2,
    stability, divisor, theta, mean, square, average, working,
):  # fmt: skip
    """One step of parameters, moments and average."""
    launch_over(_update_kernel, theta.size)(
        total, squares, frozen, rate, decay, l2, clip, beta1, beta2, correction1, correction2,
        stability, divisor, theta, mean, square, average, working,
    )  # fmt: skip
