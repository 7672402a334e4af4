"""Lines of symmetry functions: one function each, as n2p2 writes them, and the automatic set."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from fdforce.descriptors.symmetry_function_program import CORES
from fdforce.errors import ConfigError

SUBTYPES = (*CORES, "p1a", "p2a", "p3a", "p4a")

# what a line has after the central element and the type; n elements come first
GAUSSIAN_3 = ("eta", "lambda", "zeta", "cutoff", "shift")
FORMS = {
    2: (1, ("eta", "shift", "cutoff")),
    3: (2, GAUSSIAN_3),
    9: (2, GAUSSIAN_3),
    12: (0, ("eta", "shift", "cutoff")),
    13: (0, ("eta", "shift", "lambda", "zeta", "cutoff")),
    20: (1, ("inner", "cutoff", "core")),
    21: (2, ("inner", "cutoff", "left", "right", "core")),
    22: (2, ("inner", "cutoff", "left", "right", "core")),
    23: (0, ("inner", "cutoff", "core")),
    24: (0, ("inner", "cutoff", "left", "right", "core")),
    25: (0, ("inner", "cutoff", "left", "right", "core")),
    "cos": (1, ("kappa", "cutoff")),
}
OPTIONAL = ("shift",)
COMPACT_TYPES = range(20, 26)
NARROW_TYPES = (3, 13, 21, 24)
WEIGHTED_TYPES = (12, 13, 23, 24, 25)


@dataclass(frozen=True)
class Function:
    """One symmetry function: a line of `SymmetryFunctions.functions`."""

    element: str
    type: int | str
    neighbors: tuple[str, ...]
    numbers: dict
    """Name of a parameter -> its value, in the order of the line."""

    def __str__(self) -> str:
        return " ".join([self.element, self.rest])

    @property
    def rest(self) -> str:
        """The line without the central element."""
        values = dict(self.numbers)
        if self.type in (3, 9) and values["shift"] == 0:
            del values["shift"]
        return " ".join([str(self.type), *self.neighbors, *map(_short, values.values())])

    def sort_key(self, index) -> tuple:
        """n2p2's order among the functions of one central element."""
        pair = tuple(sorted(index[element] for element in self.neighbors))
        p = {"shift": 0.0, **self.numbers}
        if self.type == 2:
            return (2, p["cutoff"], p["eta"], p["shift"], *pair)
        if self.type in (3, 9):
            names = ("cutoff", "eta", "shift", "zeta", "lambda")
            return (self.type, *(p[name] for name in names), *pair)
        if self.type == 12:
            return (12, p["cutoff"], p["eta"], p["shift"])
        if self.type == 13:
            return (13, p["cutoff"], p["eta"], p["shift"], p["zeta"], p["lambda"])
        if self.type in COMPACT_TYPES:
            window = (p["left"], p["right"]) if "left" in p else ()
            return (self.type, p["core"], *pair, p["cutoff"], p["inner"], *window)
        return (math.inf, p["cutoff"], p["kappa"], *pair)


def _short(value):
    """A number with as many digits as it takes to read it back."""
    return value if isinstance(value, str) else repr(float(value)).removesuffix(".0")


def parse(line, elements) -> Function:
    """A function from a line or a dictionary; elements are checked unless None."""
    function = _from_dict(line) if isinstance(line, dict) else _from_line(line)
    if elements is not None:
        for element in (function.element, *function.neighbors):
            if element not in elements:
                raise ConfigError(
                    f"function {str(function)!r}: {element!r} is not among the elements "
                    f"{', '.join(elements)}"
                )
    _check_numbers(function)
    return function


def _from_line(line):
    words = line.split("#")[0].split()
    if words and words[0] in ("symfunction_short", "symfunction"):
        words = words[1:]
    form = _form_of(words[1]) if len(words) > 1 else None
    if form is None:
        raise ConfigError(
            f"function {line!r}: expected a central element and one of the types "
            f"{', '.join(map(str, FORMS))}"
        )
    n_elements, names = FORMS[form]
    least = len([name for name in names if not (name in OPTIONAL and names[-1] == name)])
    values = words[2 + n_elements :]
    if not least <= len(values) <= len(names):
        expected = " ".join([f"element{k + 1}" for k in range(n_elements)] + list(names))
        raise ConfigError(f"function {line!r}: expected {words[0]} {form} {expected}")
    numbers = {}
    for name, value in itertools.zip_longest(names, values, fillvalue="0"):
        numbers[name] = value if name == "core" else _number(value, name, line)
    return Function(words[0], form, tuple(words[2 : 2 + n_elements]), numbers)


def _from_dict(function):
    values = dict(function)
    form = _form_of(str(values.pop("type", None)))
    if form is None or "element" not in values:
        raise ConfigError(
            f"function {function}: needs an element and a type, one of {', '.join(map(str, FORMS))}"
        )
    n_elements, names = FORMS[form]
    element = values.pop("element")
    neighbors = tuple(values.pop("neighbors", ()))
    if names[-1] == "shift":
        values.setdefault("shift", 0.0)
    if len(neighbors) != n_elements or set(values) != set(names):
        expected = ["element", "type", *(["neighbors"] if n_elements else []), *names]
        raise ConfigError(
            f"function {function}: type {form} has the keys {', '.join(expected)} and "
            f"{n_elements} neighbors"
        )
    numbers = {
        name: values[name] if name == "core" else _number(values[name], name, function)
        for name in names
    }
    return Function(element, form, neighbors, numbers)


def _form_of(word):
    return {str(form): form for form in FORMS}.get(word)


def _number(value, name, line):
    try:
        if "_" in str(value):  # which float takes for a separator of digits
            raise ValueError
        return float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"function {line!r}: {name} = {value!r} is not a number") from None


def _check_numbers(function):
    p = function.numbers

    def refuse(name, what):
        raise ConfigError(f"function {str(function)!r}: {name} = {p[name]} must be {what}")

    for name, value in p.items():
        if name != "core" and not math.isfinite(value):
            refuse(name, "finite")
    if not p["cutoff"] > 0:
        refuse("cutoff", "above 0 Å")
    if p.get("eta", 0) < 0:
        refuse("eta", "at least 0")
    if not -1 <= p.get("lambda", 0) <= 1:
        refuse("lambda", "between -1 and 1")
    if p.get("zeta", 1) < 1:
        refuse("zeta", "at least 1")
    if "core" in p and p["core"] not in SUBTYPES:
        refuse("core", f"one of {', '.join(SUBTYPES)}")
    if "inner" in p and not p["inner"] < p["cutoff"]:
        refuse("inner", "below the cutoff")
    if "left" in p:
        if not p["left"] < p["right"]:
            refuse("left", "below the right end")
        centre = (p["left"] + p["right"]) / 2
        inside = p["left"] >= 0 and p["right"] <= 180
        if not (inside or centre in (0, 180)) or p["right"] - p["left"] > 360:
            refuse("left", "in a window within 0 to 180, or centred on 0 or 180")


def automatic_functions(elements, radial_cutoff, angular_cutoff, n_radial, n_angular) -> list[str]:
    """The functions of "auto" (`SymmetryFunctions`)."""
    shells = [(0.0, 0.0)]
    if n_radial > 1:
        first = min(1.0, radial_cutoff / n_radial)
        gap = (radial_cutoff - first) / (n_radial - 1)
        shells += [(0.5 / gap**2, first + k * gap) for k in range(n_radial - 1)]
    etas = [0.5 * (k / angular_cutoff) ** 2 for k in range(1, n_angular + 1)]
    lines = []
    for centre in elements:
        for element in elements:
            for eta, shift in shells:
                lines.append(f"{centre} 2 {element} {eta:.5g} {shift:.5g} {radial_cutoff:.10g}")
        for one, other in itertools.combinations_with_replacement(elements, 2):
            for eta, zeta, sign in itertools.product(etas, (1, 2, 4, 16), (-1, 1)):
                lines.append(
                    f"{centre} 9 {one} {other} {eta:.5g} {sign} {zeta} {angular_cutoff:.10g}"
                )
    return lines
