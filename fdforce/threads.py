"""How many threads compute."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def limit_threads(threads: int = 0) -> Iterator[int]:
    """Let kernels use so many threads (0: all cores) and matrix products one.

    Yields
    ------
    int
        The number in use, at most that of the cores.
    """
    import numba
    from threadpoolctl import threadpool_limits

    from fdforce.heap import keep_freed_memory

    most = numba.config.NUMBA_NUM_THREADS
    threads = min(threads or available_cores(), most)
    before = numba.get_num_threads()
    numba.set_num_threads(threads)
    try:
        # the products are too small to share, and waiting BLAS threads take the kernels' cores
        keep_freed_memory()
        with threadpool_limits(limits=1, user_api="blas"):
            yield threads
    finally:
        numba.set_num_threads(before)


@functools.cache
def _blas():
    import scipy.linalg.cython_blas  # noqa: F401  the library that Numba's products call
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


def single_blas():
    """Context in which matrix products take one thread, for kernels that make them in parallel.

    `limit_threads` sees to it for commands; this is for calls from outside of it, where OpenBLAS
    would complain of threads within threads.
    """
    return _blas().limit(limits=1)
