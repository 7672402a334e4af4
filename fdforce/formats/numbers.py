"""Numbers in text files: what `float` and `int` take beyond them is refused.

Those read "1_0" as 10, "nan" and "1e999" as what is no number, and digits of other scripts.
"""

from __future__ import annotations

import math
import re

import numpy as np

from fdforce.errors import ModelFileError

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eEdD][+-]?\d+)?", re.ASCII)

_EXPONENT = {ord("d"): "e", ord("D"): "e"}


def to_number(word: str) -> float:
    """A finite number, with E or with Fortran's D; ValueError otherwise."""
    if not NUMBER.fullmatch(word):
        raise ValueError(f"{word[:40]!r} is not a number")
    value = float(word.translate(_EXPONENT))
    if not math.isfinite(value):
        raise ValueError(f"{word[:40]} is too large")
    return value


def to_integer(word: str) -> int:
    """A whole number, at least 0; ValueError otherwise."""
    if not (word.isascii() and word.isdecimal() and len(word) < 10):
        raise ValueError(f"{word[:40]!r} is not a whole number")
    return int(word)


def check_finite(model, path):
    """The model; ModelFileError unless all its numbers are finite, as each of a file may be."""
    names = ("theta", "scale", "reference_energies", "feature_mean", "feature_scale")
    for name in names:
        if not np.isfinite(getattr(model, name)).all():
            raise ModelFileError(
                f"{path}: {name} of the model is not finite; numbers are too large, or too "
                "small to divide by"
            )
    return model
