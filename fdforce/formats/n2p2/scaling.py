"""n2p2's scaling.data: range, mean and spread of every symmetry function, and what scaling means.

``e_index sf_index min max mean sigma``: elements by atomic number, functions in n2p2's order.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fdforce.errors import ModelFileError
from fdforce.formats.n2p2.settings import Settings
from fdforce.formats.n2p2.text import read_lines
from fdforce.formats.numbers import to_integer, to_number

NAME = "scaling.data"

HEADER = """\
# Symmetry function scaling data.
# Col  Name     Description
# 1    e_index  Element index.
# 2    sf_index Symmetry function index.
# 3    sf_min   Symmetry function minimum.
# 4    sf_max   Symmetry function maximum.
# 5    sf_mean  Symmetry function mean.
# 6    sf_sigma Symmetry function sigma.
"""


@dataclass(frozen=True)
class Scaling:
    """Of the functions of one element: range, and the input of the network (G - mean) * scale."""

    least: np.ndarray
    largest: np.ndarray
    mean: np.ndarray
    scale: np.ndarray


def read_mode(settings: Settings) -> str:
    """One of "none", "scale", "center", "scale center" and "sigma", chosen as n2p2 does."""
    scale = "scale_symmetry_functions" in settings
    center = "center_symmetry_functions" in settings
    if scale or center:
        return " ".join(name for name, on in (("scale", scale), ("center", center)) if on)
    return "sigma" if "scale_symmetry_functions_sigma" in settings else "none"


def read_scaling(path: Path, settings: Settings, n_functions: list[int]) -> list[Scaling] | None:
    """Range and scaling of every element.

    Parameters
    ----------
    path : Path
    settings : Settings
    n_functions : list of int
        Of the elements by atomic number.

    Returns
    -------
    list of Scaling or None
        None where there is no file and nothing is scaled.

    Raises
    ------
    ModelFileError
        A wrong number of lines or values, or a function that does not vary, by whose range or
        spread n2p2 would divide.
    """
    mode = read_mode(settings)
    if mode == "none" and not path.exists():
        return None
    low, high = settings.number("scale_min_short", 0.0), settings.number("scale_max_short", 1.0)
    if ("scale" in mode.split() or mode == "sigma") and low == high:
        raise ModelFileError(f"{settings.path}: scale_min_short equals scale_max_short")
    lines = _read_table(path)
    result, at = [], 0
    for z, n in enumerate(n_functions, 1):
        rows = lines[at : at + n]
        at += n
        for k, (line, indices, _) in enumerate(rows, 1):
            if indices != (z, k):
                raise ModelFileError(
                    f"{path}, line {line}: element {indices[0]}, function {indices[1]}, where "
                    f"element {z}, function {k} is expected; input.nn has {_counts(n_functions)}"
                )
        if len(rows) < n:
            raise ModelFileError(
                f"{path}: ends after {len(lines)} functions; input.nn has {_counts(n_functions)}"
            )
        result.append(_scaling(path, rows, mode, low, high))
    if len(lines) > at:
        raise ModelFileError(
            f"{path}, line {lines[at][0]}: more functions than the {_counts(n_functions)} of "
            "input.nn"
        )
    return result


def _counts(n_functions):
    return f"{sum(n_functions)} functions ({' + '.join(map(str, n_functions))})"


def _read_table(path):
    """(line, (e_index, sf_index), [min, max, mean, sigma]) of every function."""
    lines = []
    for line, words in read_lines(path, ModelFileError):
        if len(words) == 2 and lines:  # RuNNer ends with the range of the energies
            break
        try:
            if len(words) not in (5, 6):
                raise ValueError(f"{len(words)} values instead of 6")
            indices = tuple(to_integer(word) for word in words[:2])
            values = [to_number(word) for word in words[2:]]
        except ValueError as problem:
            raise ModelFileError(f"{path}, line {line}: {problem}") from None
        lines.append((line, indices, [*values, 0.0][:4]))  # older files have no sigma
    return lines


def _scaling(path, rows, mode, low, high):
    least, largest, mean, sigma = np.array([values for _, _, values in rows]).reshape(-1, 4).T
    if mode == "none":
        return Scaling(least, largest, np.zeros_like(mean), np.ones_like(mean))
    if mode == "center":
        return Scaling(least, largest, mean, np.ones_like(mean))
    divisor = sigma if mode == "sigma" else largest - least
    varies = np.abs(divisor) > np.finfo(np.float64).tiny * max(1, abs(high - low), abs(low))
    if not varies.all():
        line = rows[int(np.argmin(varies))][0]
        what = "sigma is 0" if mode == "sigma" else "min equals max"
        raise ModelFileError(
            f"{path}, line {line}: {what}, by which n2p2 divides; take the function out (nnp-prune)"
        )
    scale = (high - low) / divisor
    origin = least if mode == "scale" else mean
    return Scaling(least, largest, origin - low / scale, scale)


def format_scaling(rows: list[np.ndarray]) -> str:
    """The text of a file.

    Parameters
    ----------
    rows : list of ndarray, shape (n_functions, 4)
        min, max, mean and sigma of the functions of each element.
    """
    lines = [HEADER]
    for z, table in enumerate(rows, 1):
        for k, values in enumerate(table, 1):
            lines.append(f"{z:10d} {k:10d} {' '.join(f'{v:24.16E}' for v in values)}\n")
    return "".join(lines)
