"""NumPy arrays (.npy) in a stream, a few rows at a time: members of an .npz are not seekable."""

from __future__ import annotations

import numpy as np
from numpy.lib import format as npy

from fdforce.errors import DataError


class NpyRows:
    """An array of numbers whose rows are read in order.

    Parameters
    ----------
    file : binary file
        At the beginning of the .npy data.
    where : str
        For messages.

    Attributes
    ----------
    shape : tuple of int
        The first number is that of the rows.
    """

    def __init__(self, file, where: str):
        self._file, self._where, self._read, self._whole = file, where, 0, None
        try:
            version = npy.read_magic(file)
            read_header = {
                (1, 0): npy.read_array_header_1_0,
                (2, 0): npy.read_array_header_2_0,
            }[version]
            self.shape, fortran, self._dtype = read_header(file)
        except (ValueError, KeyError, EOFError) as problem:
            raise DataError(f"{where}: not an array of NumPy, or a damaged one") from problem
        if self._dtype.kind not in "iuf" or not self.shape:
            raise DataError(
                f"{where}: has type {self._dtype} and shape {self.shape}; expected rows of numbers"
            )
        if fortran:  # columns first: rows are known when everything is
            numbers = self._numbers(int(np.prod(self.shape)))
            self._whole = numbers.reshape(self.shape, order="F")

    def read(self, number: int) -> np.ndarray:
        """The next rows, float64; fewer at the end of the array.

        Raises
        ------
        DataError
            If the file ends before the array does.
        """
        number = min(number, self.shape[0] - self._read)
        start, self._read = self._read, self._read + number
        if self._whole is not None:
            return self._whole[start : self._read].astype(np.float64)
        row = self.shape[1:]
        return self._numbers(number * int(np.prod(row))).reshape(number, *row).astype(np.float64)

    def _numbers(self, number: int) -> np.ndarray:
        wanted = number * self._dtype.itemsize
        content = self._file.read(wanted)
        if len(content) < wanted:
            raise DataError(f"{self._where}: the file ends before its {self.shape} numbers do")
        return np.frombuffer(content, dtype=self._dtype)
