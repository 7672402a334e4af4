"""Keep freed memory: the arrays of a training step are made anew in every step.

glibc hands the pages of large freed arrays back to the system, which then fills them with zeros
again for the next step; that costs 5 to 10 % of a step.
"""

from __future__ import annotations

import ctypes
import functools

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_KEPT = 256 * 2**20


@functools.cache
def keep_freed_memory() -> bool:
    """Ask the C library, where it is glibc, to keep up to 256 MB of freed memory.

    Returns
    -------
    bool
        Whether it agreed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return all(mallopt(name, LARGEST_KEPT) for name in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD))
