"""Numbers, list-directed text and unformatted records as Fortran programs write them."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence

import numpy as np

from fdforce.errors import ModelFileError

_REAL = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:[eEdD]([+-]?[0-9]+)|([+-][0-9]+))?")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_REPEATED = re.compile(r"([0-9]{1,9})\*(.+)")


def real(word: str) -> float:
    """A finite number whose exponent has the letter E, D or none; ValueError for anything else."""
    found = _REAL.fullmatch(word)
    if found is None:
        raise ValueError(f"{word[:40]!r} is not a number")
    number = float(f"{found[1]}e{found[2] or found[3] or 0}")
    if not np.isfinite(number):
        raise ValueError(f"{word[:40]!r} is too large")
    return number


def lines_of(content: bytes) -> list[str]:
    """Lines of a text whose comments may have any encoding.

    `str.splitlines` would end a line within the letter Å, whose second byte is a line end of
    Latin-1.
    """
    return content.decode("latin-1").removesuffix("\n").split("\n") if content else []


def integer(word: str) -> int:
    """A whole number; ValueError for anything else."""
    if _INTEGER.fullmatch(word) is None:
        raise ValueError(f"{word[:40]!r} is not a whole number")
    return int(word)


def logical(word: str) -> bool:
    """T, F, .true., False and the like; ValueError for anything else."""
    letter = word.lstrip(".")[:1].upper()
    if letter not in ("T", "F"):
        raise ValueError(f"{word[:40]!r} is neither T nor F")
    return letter == "T"


class TextReader:
    """Items of a text, each from a new line on, as list-directed input takes them.

    Parameters
    ----------
    where : path
        For messages.
    content : bytes
        Comments may have any encoding.
    """

    def __init__(self, where, content: bytes):
        self.where = where
        self._lines = lines_of(content)
        self._next = 0

    def fail(self, what: str, reason: str):
        """Raise ModelFileError at the last line that was read."""
        raise ModelFileError(f"{self.where}, line {max(self._next, 1)}: {what}: {reason}")

    def _line(self, what):
        if self._next >= len(self._lines):
            self.fail(what, "the file ends before it")
        self._next += 1
        return self._lines[self._next - 1]

    def _words(self, n, what):
        words: list[str] = []
        while len(words) < n:
            for word in self._line(what).split():
                repeated = _REPEATED.fullmatch(word)
                count = int(repeated[1]) if repeated else 1
                if len(words) + count > n:
                    self.fail(what, f"more than the expected {n}")
                words += [repeated[2] if repeated else word] * count
        return words

    def _converted(self, convert, n, what):
        try:
            return [convert(word) for word in self._words(n, what)]
        except ValueError as problem:
            self.fail(what, str(problem))

    def integers(self, n: int, what: str) -> list[int]:
        return self._converted(integer, n, what)

    def reals(self, n: int, what: str) -> np.ndarray:
        return np.array(self._converted(real, n, what), dtype=np.float64)

    def logical(self, what: str) -> bool:
        return self._converted(logical, 1, what)[0]

    def names(self, n: int, width: int, what: str) -> list[str]:
        return self._words(n, what)

    def text(self, width: int, what: str) -> str:
        """The whole of the next line, blanks and all."""
        return self._line(what).strip()

    def end(self) -> None:
        """Raise unless only blank lines are left."""
        while self._next < len(self._lines):
            if self._line("end").strip():
                self.fail("end", "text behind the last number")


class TextWriter:
    """The text that `TextReader` reads: a line for each item, numbers with 17 digits."""

    def __init__(self):
        self._lines = []

    def integers(self, values: Sequence[int]) -> None:
        self._lines.append(" ".join(str(int(value)) for value in values))

    def reals(self, values: Sequence[float]) -> None:
        self._lines.append(" ".join(f"{value:.17g}" for value in values))

    def logical(self, value: bool) -> None:
        self._lines.append(str(bool(value)))

    def names(self, values: Sequence[str], width: int) -> None:
        self._lines.append(" ".join(values))

    def text(self, value: str, width: int) -> None:
        self._lines.append(value)

    def content(self) -> bytes:
        return ("\n".join(self._lines) + "\n").encode("latin-1", "replace")


class RecordReader:
    """Items of an unformatted file, one in each record.

    A record stands between two marks of four bytes that hold its length; numbers are of the byte
    order of the first mark.
    """

    def __init__(self, where, content: bytes):
        self.where = where
        self._content, self._at, self._record = content, 0, 0
        self._order = "<" if content[:4] == b"\4\0\0\0" else ">"

    @staticmethod
    def recognises(content: bytes) -> bool:
        """Whether the first record is one number of four bytes."""
        return content[:4] in (b"\4\0\0\0", b"\0\0\0\4")

    def fail(self, what: str, reason: str):
        """Raise ModelFileError at the last record that was read."""
        raise ModelFileError(f"{self.where}, record {max(self._record, 1)}: {what}: {reason}")

    def _bytes(self, n, what):
        self._record += 1
        begin = self._at + 4
        if begin > len(self._content):
            self.fail(what, "the file ends before it")
        (length,) = struct.unpack(self._order + "i", self._content[self._at : begin])
        if length != n:
            self.fail(what, f"the record has {length} bytes instead of {n}")
        self._at = begin + n + 4
        if self._at > len(self._content):
            self.fail(what, "the file ends within it")
        if self._content[begin - 4 : begin] != self._content[begin + n : self._at]:
            self.fail(what, "the marks before and behind the record differ")
        return self._content[begin : begin + n]

    def integers(self, n: int, what: str) -> list[int]:
        return np.frombuffer(self._bytes(4 * n, what), self._order + "i4").tolist()

    def reals(self, n: int, what: str) -> np.ndarray:
        values = np.frombuffer(self._bytes(8 * n, what), self._order + "f8").astype(np.float64)
        if not np.isfinite(values).all():
            self.fail(what, f"holds {values[~np.isfinite(values)][0]}")
        return values

    def logical(self, what: str) -> bool:
        return self._bytes(4, what) != bytes(4)

    def names(self, n: int, width: int, what: str) -> list[str]:
        joined = self._bytes(n * width, what).decode("latin-1")
        return [joined[k * width : (k + 1) * width].strip() for k in range(n)]

    def text(self, width: int, what: str) -> str:
        return self.names(1, width, what)[0]

    def end(self) -> None:
        """Raise unless nothing is left."""
        if self._at < len(self._content):
            self._record += 1
            self.fail("end", f"{len(self._content) - self._at} bytes behind the last number")


class RecordWriter:
    """The records that `RecordReader` reads, least byte first as on almost all machines."""

    def __init__(self):
        self._parts = []

    def _add(self, content):
        mark = struct.pack("<i", len(content))
        self._parts += [mark, content, mark]

    def integers(self, values: Sequence[int]) -> None:
        self._add(np.array(values, dtype="<i4").tobytes())

    def reals(self, values: Sequence[float]) -> None:
        self._add(np.array(values, dtype="<f8").tobytes())

    def logical(self, value: bool) -> None:
        self.integers([bool(value)])

    def names(self, values: Sequence[str], width: int) -> None:
        padded = "".join(f"{value[:width]:<{width}}" for value in values)
        self._add(padded.encode("latin-1", "replace"))

    def text(self, value: str, width: int) -> None:
        self.names([value], width)

    def content(self) -> bytes:
        return b"".join(self._parts)
