"""Lines, units and names of n2p2's text files."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from ase.data import atomic_numbers

from fdforce.errors import ConfigError, FdforceError
from fdforce.units import BOHR, HARTREE

UNITS = {
    "ev-angstrom": (1.0, 1.0),
    "hartree-bohr": (HARTREE, BOHR),
}
"""name -> energy (eV) and length (Å)."""


def units_of(name: str) -> tuple[float, float]:
    """Units of energy (eV) and length (Å) by name."""
    if name not in UNITS:
        raise ConfigError(f"units = {name!r}: choose one of {', '.join(UNITS)}")
    return UNITS[name]


def split_path(path: Path | str) -> tuple[Path, dict[str, str]]:
    """A path and the options behind its ``#``: ``input.data#units=hartree-bohr,set=test``.

    n2p2's files say nothing of their units; where a file is named in a configuration, its name can.
    """
    path = Path(path)
    name, mark, rest = path.name.partition("#")
    if not mark or path.exists():
        return path, {}
    options = dict(part.partition("=")[::2] for part in rest.split(","))
    allowed = {"units": tuple(UNITS), "set": ("train", "test")}
    for key, value in options.items():
        if value not in allowed.get(key, ()):
            known = "; ".join(f"{key}={'|'.join(values)}" for key, values in allowed.items())
            raise ConfigError(f"{path}: {key}={value} after '#': choose from {known}")
    return path.with_name(name), options


@contextlib.contextmanager
def readable(path: Path, error: type[FdforceError]):
    """Turn what the system or a damaged archive says into an error that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
        raise error(f"{path}: damaged or truncated archive ({problem})") from problem
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror or problem})") from problem


def open_text(path: Path):
    """A text file, perhaps compressed; bytes that are not UTF-8 (comments) become U+FFFD."""
    opener = gzip.open if path.suffix == ".gz" else open
    return opener(path, "rt", encoding="utf-8", errors="replace")


def read_lines(
    path: Path, error: type[FdforceError], comments: str = "#"
) -> Iterator[tuple[int, list[str]]]:
    """Number and words of every line that is not empty without its comment."""
    with readable(path, error), open_text(path) as file:
        for number, line in enumerate(file, 1):
            for mark in comments:
                line = line.partition(mark)[0]
            if words := line.split():
                yield number, words


def check_element(word: str) -> str:
    """The symbol of an element; ValueError otherwise."""
    if not atomic_numbers.get(word):
        raise ValueError(f"{word!r} is no chemical element")
    return word
