"""The simulator as these tests run it finds wrong barriers, which a GPU may let pass."""

import numpy as np
import pytest

from fdforce.kernels.cuda.runtime import SIMULATED, cuda
from tests.cuda.on_device import put

pytestmark = pytest.mark.skipif(not SIMULATED, reason="of the simulator, not of a GPU")


@cuda.jit
def _reversed_kernel(values, barriers):
    buffer = cuda.shared.array(0, values.dtype)
    t, n = cuda.threadIdx.x, cuda.blockDim.x
    k = cuda.blockIdx.x * n + t
    buffer[t] = values[k]
    if t < barriers:
        cuda.syncthreads()
    # the value of the thread before
    values[k] = buffer[max(t - 1, 0)]


def run(barriers):
    values = put(np.arange(16.0))
    _reversed_kernel[2, 8, 0, 64](values, barriers)
    return values.copy_to_host()


def test_barriers():
    expected = np.concatenate([np.maximum(np.arange(8) - 1, 0), np.maximum(np.arange(8) + 7, 8)])
    assert np.array_equal(run(8), expected)
    assert not np.array_equal(run(0), expected)  # by one block of two, whichever side it reads
    with pytest.raises(RuntimeError, match="3 threads wait in syncthreads for 5 that have ended"):
        run(3)
    assert np.array_equal(run(8), expected)  # nothing is left of the failure


def test_errors_say_which_thread():
    with pytest.raises(IndexError) as caught:
        _reversed_kernel[1, 8, 0, 64](put(np.arange(6.0)), 8)
    assert caught.value.__notes__ == ["in (6, 0, 0) of block (0, 0, 0)"]
