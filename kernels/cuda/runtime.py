"""The one place that imports CUDA: numba-cuda, or whatever follows it.

With ``NUMBA_ENABLE_CUDASIM=1`` the same names run in Python, thread by thread.

What was compiled is kept on disk beside the modules, or in ``NUMBA_CACHE_DIR``: a first step needs
some twenty kernels, about a second each.
"""

import ctypes
import math
import os
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import numba.core.config
import numpy as np

# a batch of a few molecules is a small grid; that is known
numba.core.config.CUDA_LOW_OCCUPANCY_WARNINGS = 0

if find_spec("numba_cuda") is None:
    raise ImportError(
        "computing on a GPU needs the package numba-cuda: pip install 'fdforce[cuda13]' (or "
        "'fdforce[cuda12]' for a driver of CUDA 12), or take device = \"cpu\""
    )

from numba import cuda  # noqa: E402

__all__ = [
    "NEXT", "NONE", "SHARED_BYTES", "SIMULATED", "THREADS", "TWO", "cuda", "cut", "launch",
    "launch_over",
]  # fmt: skip

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
SHARED_BYTES = 48 * 1024
"""Shared memory that every device gives a block without being asked."""

THREADS = 128
"""Threads of a block; fewer where their shared memory would not fit. A power of two."""

# An index that might be negative costs some five instructions, and `range` as many for each turn:
# more than what is done with the number. So inner loops count in unsigned integers, by `while`.
# With a signed integer they would become floating numbers.
NONE, NEXT, TWO = np.uintp(0), np.uintp(1), np.uintp(2)


@cache
def _sources() -> str:
    """Stands for all that a kernel may call or take constants from."""
    folder = Path(__file__).parents[1]
    files = sorted(file for part in ("cpu", "cuda") for file in (folder / part).glob("*.py"))
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


@cache
def _kept(kernel):
    """The kernel, with what is compiled of it kept on disk."""
    if SIMULATED:
        return kernel
    try:
        kernel.enable_caching()
    except RuntimeError:  # no folder that may be written to
        return kernel
    try:
        # numba-cuda looks at the module of the kernel alone, not at those that it calls
        file = kernel._cache._cache_file
        file._source_stamp = file._source_stamp, _sources()
    except AttributeError:  # another version of numba-cuda: rather slow than out of date
        kernel._cache.disable()
    return kernel


def cut(block, first: int, shape: tuple, dtype):
    """Some bytes of a device array of uint8 as an array of this shape and dtype.

    What ``block[first:end].view(dtype).reshape(shape)`` gives in several times as long: a step of
    a small batch spent more on cutting its memory than on launching its kernels. The array does
    not keep the block's memory alive.
    """
    n_bytes = math.prod(shape) * dtype.itemsize
    if SIMULATED:
        return block[first : first + n_bytes].view(dtype).reshape(*shape)
    strides, stride = [], dtype.itemsize
    for n in reversed(shape):
        strides.append(stride)
        stride *= n
    whole = block.gpu_data
    address = ctypes.c_void_p(block.device_ctypes_pointer.value + first)
    memory = cuda.MemoryPointer(whole.context, address, n_bytes)
    return cuda.devicearray.DeviceNDArray(shape, strides[::-1], dtype, gpu_data=memory)


def launch_over(kernel, n: int):
    """The kernel with a thread for each of n things, ready to be called."""
    return _kept(kernel)[-(-n // THREADS), THREADS] if n else _nothing


def launch(
    kernel, blocks, bytes_per_thread: int = 0, bytes_in_all: int = 0, most_threads: int = 1024
):
    """The kernel with so many blocks and what shared memory they need, ready to be called.

    Parameters
    ----------
    blocks : int, or tuple of int
    bytes_per_thread, bytes_in_all : int
        Of dynamic shared memory.
    most_threads : int
        Of a block, where more would have nothing to do. A power of two.

    Raises
    ------
    MemoryError
        Not even one thread fits.
    """
    threads = min(THREADS, most_threads)
    while threads > 1 and threads * bytes_per_thread + bytes_in_all > SHARED_BYTES:
        threads //= 2
    shared = threads * bytes_per_thread + bytes_in_all
    if shared > SHARED_BYTES:
        raise MemoryError(
            f"a block of the GPU needs {shared} bytes of shared memory and has {SHARED_BYTES}: "
            'take fewer features, or device = "cpu"'
        )
    n_blocks = blocks if isinstance(blocks, int) else math.prod(blocks)
    return _kept(kernel)[blocks, threads, 0, shared] if n_blocks else _nothing


def _nothing(*arguments):
    """Launch of no blocks."""
