"""Arrays in files, mapped into memory: what a set too large for memory is made of.

A `numpy.memmap` is an array like any other; its pages are read when they are used, and the system
takes them back when it needs the room. Arrays made from mapped ones lie in temporary files beside
them. Everything here leaves ordinary arrays what they are.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fdforce.errors import DataError

BLOCK = 2**16
"""Rows of an array that are worked on at a time."""

SMALL = 2**20
"""Bytes below which an array is kept in memory, wherever it comes from."""


def blocks(n: int, size: int | None = None) -> Iterator[slice]:
    """Divide n rows into slices of `BLOCK`, or of `size`."""
    size = size or BLOCK
    for first in range(0, n, size):
        yield slice(first, min(first + size, n))


def pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    """The rows of an array, `BLOCK` at a time; those of a mapped one do not stay in memory."""
    for rows in blocks(len(array)):
        yield array[rows]
        release(array)


def is_mapped(array) -> bool:
    """Whether an array lies in a file; a copy of such an array has its type, but no file."""
    return isinstance(array, np.memmap) and array.filename is not None


def new_array(like: np.ndarray, shape, dtype) -> np.ndarray:
    """An array to be filled: in memory, or in a temporary file beside `like` where that is mapped.

    Parameters
    ----------
    like : ndarray
        What the new array is made from.
    shape : tuple of int
    dtype : dtype

    Returns
    -------
    ndarray

    Raises
    ------
    DataError
        There is no room for the file.
    """
    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if not is_mapped(like) or nbytes < SMALL:
        return np.empty(shape, dtype)
    folder = Path(like.filename).parent
    handle, path = tempfile.mkstemp(prefix=".scratch-", dir=folder)
    try:
        with os.fdopen(handle, "r+b") as file:
            reserve(file, nbytes, folder)
        return np.memmap(path, dtype=dtype, mode="r+", shape=shape)
    finally:
        with contextlib.suppress(PermissionError):  # Windows keeps the name of a mapped file
            os.unlink(path)  # the file itself lasts as long as its map


def reserve(file, nbytes: int, folder) -> None:
    """Give a file its full size: to write to a hole of a mapped file on a full disk is fatal.

    Raises
    ------
    DataError
        There is no room for it.
    """
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, nbytes)
        elif shutil.disk_usage(folder).free < nbytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        else:
            file.truncate(nbytes)
    except OSError as problem:
        raise no_room(folder, nbytes, problem) from problem


def no_room(folder, nbytes: int, problem: OSError) -> DataError:
    """The error that a folder cannot take so many bytes."""
    return DataError(
        f"{folder}: packed data of at least {nbytes / 1e6:.0f} MB cannot be written there "
        f"({problem.strerror or problem}); make room, or let data.cache be another folder"
    )


def open_array(path) -> np.ndarray:
    """Map a .npy file, so that changes to the array never reach the file.

    Kernels know it for an ordinary array in that way; one that is read-only would have them
    compiled once more.
    """
    return np.load(path, mmap_mode="c", allow_pickle=False)


def converted(values: np.ndarray, dtype) -> np.ndarray:
    """A copy as another dtype; of a mapped array, in a file as well."""
    copied = new_array(values, values.shape, dtype)
    for rows in blocks(len(values)):
        copied[rows] = values[rows]
        release(values, copied)
    return copied


def release(*arrays) -> None:
    """Let go of the pages of mapped arrays; they are read again when they are used.

    The system would take them itself when it needs them, but until then they count as memory of
    the process.
    """
    if hasattr(mmap, "MADV_DONTNEED"):
        for array in arrays:
            if isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap):
                array.base.madvise(mmap.MADV_DONTNEED)


class GrowingFile:
    """A .npy file whose rows are appended; it is complete after `close`.

    Parameters
    ----------
    path : path
    dtype : dtype
    row : tuple of int
        Shape of a row.
    """

    def __init__(self, path, dtype, row: tuple[int, ...] = ()):
        self.dtype, self.row, self.rows = np.dtype(dtype), row, 0
        self._file = open(path, "w+b")  # noqa: SIM115 -- closed by `close`
        self._write_header((0, *row))
        self._start = self._file.tell()

    def append(self, rows: np.ndarray) -> None:
        """Add rows at the end."""
        rows = np.ascontiguousarray(rows, self.dtype).reshape(-1, *self.row)
        self._file.write(memoryview(rows).cast("B") if rows.size else b"")
        self.rows += len(rows)

    def truncate(self, rows: int) -> None:
        """Forget all rows but the first ones."""
        self._file.seek(self._start + rows * self.dtype.itemsize * int(np.prod(self.row)))
        self._file.truncate()
        self.rows = rows

    def close(self, shape: tuple[int, ...] = ()) -> None:
        """Write the shape, of all rows unless it is given, and have the disk take the file."""
        with self._file as file:
            file.seek(0)
            self._write_header(shape or (self.rows, *self.row))
            file.flush()
            os.fsync(file.fileno())

    def abandon(self) -> None:
        """Close a file that is not needed, or is closed already."""
        with contextlib.suppress(OSError):
            self._file.close()

    def _write_header(self, shape):
        # it is filled up to 128 bytes, so that every shape has room
        descr = np.lib.format.dtype_to_descr(self.dtype)
        np.lib.format.write_array_header_1_0(
            self._file, {"descr": descr, "fortran_order": False, "shape": shape}
        )
