"""Behler's symmetry functions with n2p2's definitions and order, or in ænet's layout."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from ase.data import atomic_numbers
from numpy.polynomial import legendre

from fdforce.descriptors.features import (
    check_elements,
    compute_features,
    pair_arguments,
    settings_of,
)
from fdforce.errors import ConfigError

CORES = ("e", "p1", "p2", "p3", "p4")
SUBTYPES = (*CORES, "p1a", "p2a", "p3a", "p4a")
CUTOFF_TYPES = range(9)
ORDERS = ("n2p2", "given")

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


class SymmetryFunctions:
    """Behler's symmetry functions, as n2p2 defines, writes and orders them.

    ``functions`` holds lines as they follow the keyword ``symfunction_short`` of n2p2, or
    dictionaries with the same numbers; lengths are in Å, angles in degrees. ``El`` is the central
    element, ``f`` the cutoff function, and sums over pairs take each pair once:

    ==================================================  ===========================================
    ``El 2 El1 eta shift cutoff``                       sum_j exp(-eta (r - shift)^2) f(r)
    ``El 3 El1 El2 eta lambda zeta cutoff [shift]``     2^(1-zeta) sum_{j<k} (1 + lambda cos)^zeta
                                                        times exp(-eta (r - shift)^2) f(r) of all
                                                        three sides
    ``El 9 El1 El2 eta lambda zeta cutoff [shift]``     the same with the two sides at the centre
    ``El 12 eta shift cutoff``                          type 2, every neighbour times its atomic
                                                        number
    ``El 13 eta shift lambda zeta cutoff``              type 3, with both atomic numbers
    ``El 20 El1 inner cutoff core``                     sum_j C(r), compact between inner and cutoff
    ``El 21 El1 El2 inner cutoff left right core``      sum_{j<k} C(theta) times C(r) of all sides
    ``El 22 El1 El2 inner cutoff left right core``      the same with the two sides at the centre
    ``El 23 inner cutoff core``                         types 20, 21 and 22 with atomic numbers
    ``El 24 inner cutoff left right core``
    ``El 25 inner cutoff left right core``
    ``El cos El1 kappa cutoff``                         sum_j cos(kappa r) f(r); ænet's G3, not in
                                                        n2p2
    ==================================================  ===========================================

    The core of a compact function is ``p1`` to ``p4`` (polynomials), ``p1a`` to ``p4a`` (the same,
    lopsided in distances) or ``e``. An angular window may reach beyond 0 or 180 only if it is
    centred there; three atoms exactly in a line count, where n2p2 may drop them. Sources: Behler,
    J. Chem. Phys. 134, 074106 (2011) and Int. J. Quantum Chem. 115, 1032 (2015); Gastegger et al.,
    J. Chem. Phys. 148, 241709 (2018); Bircher, Singraber and Dellago, Mach. Learn.: Sci. Technol.
    2, 035026 (2021).

    Functions belong to a central element, and elements may have different numbers of them: atoms
    with fewer have features that are zero at the end. A label names what a feature is for every
    element, "none" where it is such a zero.

    ``functions="auto"`` makes a set for `elements`: for every neighbour element the plain sum of
    the cutoff and ``n_radial - 1`` Gaussian shells (type 2) equally spaced between 1 Å and
    `radial_cutoff`, as wide as they are apart; for every pair of elements type 9 with ``n_angular``
    widths ``angular_cutoff / k``, k = 1, 2 .., each with zeta 1, 2, 4, 16 and lambda ±1.

    Parameters
    ----------
    elements : sequence of str
        Every element that an atom may see.
    functions : sequence of str or dict, or "auto"
    cutoff_type : int
        n2p2's number of f: with x = r / cutoff 0 hard, 1 (cos(pi x) + 1) / 2, 2 tanh^3(1 - x),
        3 the same over tanh^3(1), 4 exp(1 - 1 / (1 - x^2)), 5 to 8 polynomials of degree 3 to 9.
        Compact functions have none.
    cutoff_alpha : float
        f is 1 up to this fraction of the cutoff, and x counts from there. Types 2 and 3 ignore it.
    radial_cutoff, angular_cutoff : float, Å
    n_radial, n_angular : int
        Of "auto" alone, as is the line above.
    order : "n2p2" or "given"
        Order of the functions of an element: sorted as in n2p2's files (elements by atomic number,
        whatever the order of `elements`), or as they were given.

    Attributes
    ----------
    functions : list of str
        Lines in the order given; those that "auto" made.

    Raises
    ------
    ConfigError
        A line that cannot be read, an element that is not among `elements` or has no function, a
        number out of range.
    """

    name = "symmetry_functions"
    setting_help = {
        "functions": 'lines of n2p2\'s symfunction_short in Å, or "auto"',
        "cutoff_type": "n2p2's number of the cutoff function, 0 to 8",
        "cutoff_alpha": "fraction of the cutoff up to which the cutoff function is 1",
        "radial_cutoff": 'reach of the radial functions of "auto" (Å)',
        "angular_cutoff": 'reach of the angular functions of "auto" (Å)',
        "n_radial": 'radial functions of "auto" for each neighbour element',
        "n_angular": 'widths of the angular functions of "auto", 8 functions each',
        "order": 'order of the functions: "n2p2" or "given"',
    }

    def __init__(
        self,
        elements: Sequence[str],
        functions: str | list[str] = "auto",
        cutoff_type: int = 1,
        cutoff_alpha: float = 0.0,
        radial_cutoff: float = 6.0,
        angular_cutoff: float = 5.0,
        n_radial: int = 8,
        n_angular: int = 2,
        order: str = "n2p2",
    ):
        self.elements = tuple(elements)
        self.cutoff_type, self.cutoff_alpha = cutoff_type, float(cutoff_alpha)
        self.radial_cutoff, self.angular_cutoff = float(radial_cutoff), float(angular_cutoff)
        self.n_radial, self.n_angular = n_radial, n_angular
        self.order = order
        self._check()
        if isinstance(functions, str):
            if functions != "auto":
                raise ConfigError(f'functions = {functions!r}: give a list of lines, or "auto"')
            functions = automatic_functions(
                self.elements, self.radial_cutoff, self.angular_cutoff, n_radial, n_angular
            )
        elif list(functions) == ["auto"]:
            functions = automatic_functions(
                self.elements, self.radial_cutoff, self.angular_cutoff, n_radial, n_angular
            )
        parsed = [_parse(function, self.elements) for function in functions]
        self.functions = [str(function) for function in parsed]
        self._functions = self._sorted(parsed)

    def _check(self):
        check_elements(self.elements)
        for element in self.elements:
            if not atomic_numbers.get(element):
                raise ConfigError(f"elements: {element!r} is no chemical element")
        for key in ("radial_cutoff", "angular_cutoff"):
            if not 0 < getattr(self, key) < math.inf:
                raise ConfigError(f"{key} = {getattr(self, key)}: must be above 0 Å")
        for key, least in (("n_radial", 1), ("n_angular", 0)):
            if int(getattr(self, key)) != getattr(self, key) or getattr(self, key) < least:
                raise ConfigError(
                    f"{key} = {getattr(self, key)}: must be a whole number, at least {least}"
                )
        if self.cutoff_type not in CUTOFF_TYPES:
            raise ConfigError(f"cutoff_type = {self.cutoff_type}: choose one of 0 to 8")
        if not 0 <= self.cutoff_alpha < 1:
            raise ConfigError(f"cutoff_alpha = {self.cutoff_alpha}: must be at least 0 and below 1")
        if self.order not in ORDERS:
            raise ConfigError(f"order = {self.order!r}: choose one of {', '.join(ORDERS)}")

    def _sorted(self, functions):
        by_number = sorted(self.elements, key=atomic_numbers.get)
        index = {element: k for k, element in enumerate(by_number)}
        lists = []
        for element in self.elements:
            own = [f for f in functions if f.element == element]
            if not own:
                raise ConfigError(f"functions: none has {element} as its central element")
            lists.append(
                sorted(own, key=lambda f: f.sort_key(index)) if self.order == "n2p2" else own
            )
        return lists

    @classmethod
    def from_aenet(cls, setups: Sequence[str]) -> SymmetryFunctions:
        """Functions of ænet's fingerprint setups of type Behler2011, in ænet's order.

        Neighbour element by neighbour element first the radial functions, then the angular ones
        with that and each element from it on; within these in the order of the setup.

        Parameters
        ----------
        setups : sequence of str
            The text of one .stp file for every element.

        Raises
        ------
        ConfigError
            Another type of setup, an unknown function, or setups whose ``ENV`` differ.
        """
        elements, lines = None, []
        for text in setups:
            try:
                centre, environment, functions = _read_setup(text)
            except (IndexError, ValueError) as error:
                raise ConfigError(f"setup cannot be read: {error}") from None
            elements = elements or environment
            if environment != elements:
                raise ConfigError(f"ENV {environment}: all setups must have the same, {elements}")
            lines += [f"{centre} {function}" for function in functions]
        return cls(elements, lines, cutoff_type=1, order="given")

    @property
    def settings(self) -> dict:
        """Arguments that make an equal descriptor."""
        return settings_of(self)

    @cached_property
    def cutoff(self) -> float:
        """Largest distance at which a neighbour counts, Å."""
        return max(f.numbers["cutoff"] for own in self._functions for f in own)

    @cached_property
    def n_features(self) -> int:
        return max(map(len, self._functions))

    @property
    def n_functions(self) -> list[int]:
        """Number of functions of each element."""
        return list(map(len, self._functions))

    @property
    def labels(self) -> list[str]:
        """A name for every feature, in order."""
        labels = []
        for k in range(self.n_features):
            names = [own[k].rest if k < len(own) else "none" for own in self._functions]
            if len(set(names)) == 1:
                labels.append(names[0])
            else:
                pairs = zip(self.elements, names)
                labels.append("; ".join(f"{element}: {name}" for element, name in pairs))
        return labels

    def compute(self, atoms) -> np.ndarray:
        """Features of every atom.

        Parameters
        ----------
        atoms : ase.Atoms

        Returns
        -------
        ndarray, shape (n_atoms, n_features), float64

        Raises
        ------
        DataError
            An element that the descriptor does not know, or positions that are not finite.
        """
        return compute_features(self, atoms)

    def forward(self, batch, mean, scale, *, keep=True):
        """As `Descriptor.forward`; keeps nothing.

        To start from the positions again is faster than to remember every pair of neighbours.
        """
        return self._program.forward(batch, mean, scale, keep)

    def backward(self, batch, d_features, kept, scale):
        """As `Descriptor.backward`."""
        return self._program.backward(batch, d_features, scale)

    @cached_property
    def _program(self):
        program = Program(
            [atomic_numbers[element] for element in self.elements],
            self.n_features,
            self.cutoff_type,
            self.cutoff_alpha,
        )
        index = {element: k for k, element in enumerate(self.elements)}
        for s, own in enumerate(self._functions):
            for feature, function in enumerate(own):
                _add_function(program, s, feature, function, index)
        return program


def _add_function(program, s, feature, function, index):
    p = function.numbers
    if function.type in COMPACT_TYPES:
        factor = compact(p["inner"], p["cutoff"], p["core"])
        angular = window(p["left"], p["right"], p["core"]) if "left" in p else None
    elif function.type == "cos":
        factor, angular = cosine(p["kappa"], p["cutoff"]), None
    else:
        factor = gaussian(p["eta"], p["shift"], p["cutoff"])
        angular = power(p["lambda"], p["zeta"]) if "lambda" in p else None
    # 2^(1 - zeta) (1 + lambda cos)^zeta is twice the power
    weight = 2.0 if angular and angular[0] == "power" else 1.0
    narrow, weighted = function.type in NARROW_TYPES, function.type in WEIGHTED_TYPES
    if angular is not None:
        pair = None if weighted else tuple(sorted(index[e] for e in function.neighbors))
        program.add_angular(s, feature, angular, factor, narrow, pair, weight)
        return
    for element, z in index.items():
        if weighted:
            program.add_radial(s, feature, factor, z, atomic_numbers[element])
        elif element in function.neighbors:
            program.add_radial(s, feature, factor, z, 1.0)


def scale_lengths(functions: Sequence[str], unit: float) -> list[str]:
    """Lines in Å from lines in another unit of length.

    Parameters
    ----------
    functions : sequence of str
    unit : float, Å
        0.529177... for a file in Bohr.
    """
    power_of = {
        "eta": -2, "shift": 1, "cutoff": 1, "inner": 1, "kappa": -1
    }  # fmt: skip
    result = []
    for line in functions:
        f = _parse(line, None)
        numbers = {
            name: value * unit ** power_of[name] if name in power_of else value
            for name, value in f.numbers.items()
        }
        result.append(str(replace(f, numbers=numbers)))
    return result


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


def _parse(line, elements) -> Function:
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
    if word in FORMS:
        return word
    return int(word) if word.isdecimal() and int(word) in FORMS else None


def _number(value, name, line):
    try:
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


def _read_setup(text):
    """Central element, environment and functions (without the element) of a Behler2011 setup."""
    lines = [line.strip() for line in text.split("\n")]

    def after(keyword):
        for k, line in enumerate(lines):
            if line.upper().startswith(keyword):
                return k
        raise ConfigError(f"setup: no line begins with {keyword}")

    centre = lines[after("ATOM")].split()[1]
    at = after("ENV")
    environment = [line.split()[0] for line in lines[at + 1 : at + 1 + int(lines[at].split()[1])]]
    at = after("FUNCTIONS")
    if "behler2011" not in lines[at].lower():
        raise ConfigError(f"setup: {lines[at]!r}, expected FUNCTIONS type=Behler2011")
    by_neighbours = {}
    for line in lines[at + 2 : at + 2 + int(lines[at + 1])]:
        found = dict(re.findall(r"(\w+)\s*=\s*(\S+)", line))
        p = {key.lower(): value for key, value in found.items()}

        def number(key, p=p, line=line):
            if key not in p:
                raise ConfigError(f"setup: {line!r} has no {key}")
            return float(re.sub("[dD]", "e", p[key]))

        kind, one, other = p.get("g"), p.get("type2"), p.get("type3")
        pair = [one] if other is None else sorted((one, other), key=environment.index)
        if kind == "1":
            line = f"2 {one} 0 0 {number('rc')!r}"
        elif kind == "2":
            line = f"2 {one} {number('eta')!r} {number('rs')!r} {number('rc')!r}"
        elif kind == "3":
            line = f"cos {one} {number('kappa')!r} {number('rc')!r}"
        elif kind in ("4", "5"):
            numbers = [number(key) for key in ("eta", "lambda", "zeta", "rc")]
            line = " ".join(["3" if kind == "4" else "9", *pair, *map(repr, numbers)])
        else:
            raise ConfigError(f"setup: {line!r}, expected G=1 to G=5")
        key = tuple(environment.index(element) for element in pair)
        by_neighbours.setdefault(key, []).append(line)
    # (0,), (0, 0), (0, 1), (1,), (1, 1): a tuple precedes those that continue it
    return (
        centre,
        environment,
        [line for key in sorted(by_neighbours) for line in by_neighbours[key]],
    )


# What the kernels work through. A factor is (kind, three numbers, cutoff or None, reach), an
# angular ("power", lambda, zeta) or ("window", centre, inverse half width, core, end).

GAUSSIAN, COSINE, COMPACT = range(3)
POWER, WINDOW, PRODUCT, REAL_POWER = range(4)
MOST_ZETA = 1024
MOST_DEGREE = 32
"""Up to this integer zeta wide functions may be sums over products of densities."""


def gaussian(eta, shift, cutoff):
    """exp(-eta (r - shift)^2) f(r)."""
    return (GAUSSIAN, float(eta), float(shift) if eta else 0.0, 0.0, float(cutoff), float(cutoff))


def cosine(kappa, cutoff):
    """cos(kappa r) f(r)."""
    return (COSINE, float(kappa), 0.0, 0.0, float(cutoff), float(cutoff))


def compact(inner, cutoff, core):
    """A core between inner and cutoff."""
    code = COMPACT + CORES.index(core.removesuffix("a")) + (5 if core.endswith("a") else 0)
    return (code, (inner + cutoff) / 2, 2 / (cutoff - inner), 0.0, None, float(cutoff))


def power(sign, zeta):
    """((1 + lambda cos) / 2)^zeta."""
    return ("power", float(sign), float(zeta))


def window(left, right, core):
    """A core between two angles (degrees)."""
    centre, half_width = math.radians((left + right) / 2), math.radians((right - left) / 2)
    end = {0.0: -1.0, 180.0: 1.0}.get((left + right) / 2, 0.0)
    return ("window", centre, 1 / half_width, float(CORES.index(core.removesuffix("a"))), end)


class Program:
    """Sums over neighbours and pairs of them, collected and then laid out for the kernels.

    Parameters
    ----------
    numbers : sequence of float
        Weight of a neighbour of each species where weights count.
    n_features : int
    cutoff_type : int
    cutoff_alpha : float
    """

    way = "fastest"
    """Of wide functions with an integer zeta: "pairs", "densities" or the "fastest" of them."""

    def __init__(self, numbers, n_features, cutoff_type=1, cutoff_alpha=0.0):
        self.numbers = list(numbers)
        self.n_features = n_features
        self.cutoff_type, self.cutoff_alpha = cutoff_type, cutoff_alpha
        n = len(self.numbers)
        self._radials = {(s, z): [] for s in range(n) for z in range(n)}
        self._blocks = [{} for _ in range(n)]

    def add_radial(self, s, feature, factor, z, weight):
        """feature += weight sum_j factor(r_ij) over neighbours of species z of an atom s."""
        self._radials[s, z].append((factor, feature, float(weight)))

    def add_angular(self, s, feature, angular, factor, narrow, pair, weight):
        """feature += weight sum_{j<k} angular factor factor (factor, if narrow).

        Over neighbours of the two species z1 <= z2 of `pair`, or all, times both `numbers`, if it
        is None.
        """
        key = ((-1, -1) if pair is None else pair) + (int(narrow),)
        groups = self._blocks[s].setdefault(key, {})
        groups.setdefault(factor, []).append((angular, feature, float(weight)))

    def forward(self, batch, mean, scale, keep):
        """As `Descriptor.forward`."""
        from fdforce.kernels.cpu.symmetry_functions import symmetry_functions_forward

        dtype = np.dtype(np.complex128) if np.iscomplexobj(batch.positions) else mean.dtype
        features = np.empty((batch.n_atoms, self.n_features), dtype)
        symmetry_functions_forward(
            *pair_arguments(batch), *self._arguments(dtype),
            mean.astype(dtype, copy=False), scale.astype(dtype, copy=False), features,
        )  # fmt: skip
        return features, np.empty((batch.n_atoms if keep else 0, 0), dtype)

    def backward(self, batch, d_features, scale):
        """As `Descriptor.backward`."""
        from fdforce.kernels.cpu.symmetry_functions import symmetry_functions_backward

        dtype = batch.positions.dtype
        d_positions = np.zeros((len(batch.chunks) - 1, batch.n_atoms, 3), dtype)
        d_strain = np.zeros((batch.n_atoms, 6), dtype)
        symmetry_functions_backward(
            d_features, *pair_arguments(batch), *self._arguments(d_features.dtype),
            scale.astype(d_features.dtype, copy=False), d_positions, d_strain,
        )  # fmt: skip
        return d_positions.sum(axis=0), d_strain

    @cached_property
    def _tables(self):
        return _lay_out(self)

    @cached_property
    def _cache(self):
        return {}

    def _arguments(self, dtype):
        dtype = np.dtype(dtype)
        if dtype not in self._cache:
            self._cache[dtype] = [
                table.astype(dtype) if kind == "working" else table
                for kind, table in self._tables_with_cores(dtype)
            ]
        return self._cache[dtype]

    def _tables_with_cores(self, dtype):
        single = dtype == np.float32
        cores = np.array([
            [1, 80 if single else 600, 1e-4 if single else 1e-7, 0, 0, 0],
            [1, 2, 0, 0, 0, -6],
            [1, 3, 6, 0, 0, -30],
            [1, 4, 10, 20, 0, -140],
            [1, 5, 15, 35, 70, -630],
        ])  # fmt: skip
        series = np.zeros((2, 12))
        series[0, :11] = [_taylor(2 * k + 1, k) / 2 for k in range(11)]
        series[1] = [-np.pi / 2 * _taylor(2 * k, k) for k in range(12)]
        return [
            ("", self.cutoff_type), ("working", series), ("working", cores), *self._tables
        ]  # fmt: skip


def _taylor(order, sign):
    return (-1) ** sign * math.pi**order / math.factorial(order)


def _integers(rows, width):
    return np.array(rows, dtype=np.int64).reshape(-1, width)


def _starts(counts):
    return np.concatenate(([0], np.cumsum(counts))).astype(np.int64)


def _lay_out(program):
    """Arguments of the kernels after `cores`, with what becomes the working dtype marked."""
    n = len(program.numbers)
    factors, factor_start, radials = [], [0], []
    cutoffs = {}
    row_factors, row_reach = [], []
    blocks, block_start, block_reach = [], [0], []
    angulars, groups, members = [], [], []
    densities, density_start, density_uses, density_members = [], [0], [], []
    polynomials, costs = {}, []
    radial_counts, largest = [], [0, 0, 0, 0]
    for s in range(n):
        own = program._blocks[s]
        used = [{factor for factor, _, _ in program._radials[s, z]} for z in range(n)]
        for (z1, z2, _), by_factor in own.items():
            for z in range(n) if z1 < 0 else {z1, z2}:
                used[z] |= set(by_factor)
        ordered = sorted(set().union(*used), key=lambda f: (f[4] is not None, f[4] or 0, f))
        place = {factor: len(factors) + k for k, factor in enumerate(ordered)}
        factors += ordered
        factor_start.append(len(factors))
        largest[0] = max(largest[0], len(ordered))
        for z in range(n):
            row_factors.append(sorted(place[factor] for factor in used[z]))
            row_reach.append(max((factor[5] for factor in used[z]), default=0.0))
            radial_counts.append(len(program._radials[s, z]))
            radials += [(place[f], feature, w) for f, feature, w in program._radials[s, z]]
        own, by_density = _split(own)
        costs.append(_costs(own, by_density, n, program.way))
        for factor in sorted(by_density, key=place.get):
            list_ = sorted(by_density[factor], key=lambda member: member[:2])
            degree = int(max(angular[2] for _, _, angular, _, _ in list_))
            uses = [any(z in (z1, z2) or z1 < 0 for z1, z2, *_ in list_) for z in range(n)]
            first = len(density_members)
            for z1, z2, angular, feature, weight in list_:
                polynomial = polynomials.setdefault(angular, len(polynomials))
                density_members.append((z1, z2, feature, polynomial, weight))
            densities.append((place[factor], degree, first, len(density_members)))
            density_uses.append(uses)
            largest[3] = max(largest[3], degree)
        density_start.append(len(densities))
        for (z1, z2, narrow, either), by_factor in sorted(own.items()):
            wanted = dict.fromkeys(a for list_ in by_factor.values() for a, _, _ in list_)
            recipe, angular_place = _recipe(wanted)
            block = [z1, z2, narrow, either, len(angulars)]
            angulars += recipe
            block += [len(angulars), len(groups)]
            for factor in sorted(by_factor, key=place.get):
                list_ = by_factor[factor]
                groups.append((place[factor], len(members), len(members) + len(list_)))
                members += [(angular_place[a], feature, w) for a, feature, w in list_]
            blocks.append([*block, len(groups)])
            block_reach.append(max(factor[5] for factor in by_factor))
            largest[1] = max(largest[1], len(recipe))
            largest[2] = max(largest[2], len(by_factor))
        block_start.append(len(blocks))
    for factor in factors:
        if factor[4] is not None:
            cutoffs.setdefault(factor[4], len(cutoffs))
    alpha = program.cutoff_alpha
    norm = 1 / math.tanh(1) ** 3 if program.cutoff_type == 3 else 1.0
    cutoff_rows = [(c, alpha * c, 1 / (c - alpha * c), norm) for c in cutoffs]
    working = "working"
    return [
        (working, np.array(cutoff_rows or np.ones((1, 4)))),
        (working, np.array([f[1:4] for f in factors]).reshape(-1, 3)),
        ("", _integers([(f[0], cutoffs.get(f[4], -1)) for f in factors], 2)),
        ("", np.array(factor_start, dtype=np.int64)),
        ("", np.array(row_reach)),
        ("", _starts([len(row) for row in row_factors])),
        ("", np.array([a for row in row_factors for a in row], dtype=np.int64)),
        ("", _starts(radial_counts)),
        ("", _integers([r[:2] for r in radials], 2)),
        (working, np.array([r[2] for r in radials], dtype=np.float64)),
        (working, np.array(program.numbers, dtype=np.float64)),
        ("", np.array(block_start, dtype=np.int64)),
        ("", _integers(blocks, 8)),
        ("", np.array(block_reach, dtype=np.float64)),
        ("", _integers([a[:3] for a in angulars], 3)),
        (working, np.array([a[3] for a in angulars], dtype=np.float64).reshape(-1, 4)),
        ("", _integers(groups, 3)),
        ("", _integers([m[:2] for m in members], 2)),
        (working, np.array([m[2] for m in members], dtype=np.float64)),
        ("", _integers(densities, 4)),
        ("", np.array(density_start, dtype=np.int64)),
        ("", np.array(density_uses, dtype=np.int64).reshape(-1, n)),
        ("", _integers([m[:4] for m in density_members], 4)),
        ("", np.array([m[4] for m in density_members], dtype=np.float64)),
        ("", _legendre_series(polynomials, largest[3])),
        ("", _recursion(largest[3])),
        ("", _norm(largest[3])),
        ("", np.array(costs)),
        ("", np.array(largest, dtype=np.int64)),
    ]


def _split(blocks):
    """Blocks with a mark on those that densities can give, and the members of these by factor."""
    marked, by_density = {}, {}
    for (z1, z2, narrow), by_factor in blocks.items():
        for factor, list_ in by_factor.items():
            for angular, feature, weight in list_:
                polynomial = angular[0] == "power" and angular[2] in range(1, MOST_DEGREE + 1)
                either = int(polynomial and not narrow)
                groups = marked.setdefault((z1, z2, narrow, either), {})
                groups.setdefault(factor, []).append((angular, feature, weight))
                if either:
                    member = (z1, z2, angular, feature, weight)
                    by_density.setdefault(factor, []).append(member)
    return marked, by_density


def _costs(blocks, by_density, n, way):
    """Nanoseconds of forward and backward by densities and by pairs (`costs` of the kernels).

    Measured on silicon, MgO and ethanol, zeta up to 4, 16 and 32 and 1 to 4 factors. Where pairs
    have to be visited anyway, for other wide functions, the others are not that expensive.
    """
    either = {key: groups for key, groups in blocks.items() if key[3]}
    if way != "fastest" or not either:
        return [0.0, 0.0, 1.0 if way == "densities" else -1.0, 0.0, 0.0]
    fixed = per_neighbour = 0.0
    for members in by_density.values():
        size = (max(angular[2] for _, _, angular, _, _ in members) + 1) ** 2
        pairs = {member[:2] for member in members}
        species = {z for pair in pairs for z in (range(n) if pair[0] < 0 else pair)}
        fixed += (500 + 3.5 * size) * len(species) + 2 * size * len(pairs)
        per_neighbour += 0.36 * size
    n_members = sum(len(list_) for groups in either.values() for list_ in groups.values())
    shared = any((z1, z2, 0, 0) in blocks for z1, z2, _, _ in either)
    per_pair = (5 if shared else 15) + 0.6 * n_members / len(either)
    reach = max(factor[5] for factor in by_density)
    return [fixed, per_neighbour, 600.0 * len(either), per_pair, reach]


def _legendre_series(polynomials, degree):
    """c_l of ((1 + lambda x) / 2)^zeta = sum_l c_l P_l(x), and their sum, the value at 1."""
    series = np.zeros((len(polynomials), degree + 2))
    # exact for products of degree 2 degree + 1, without differences of large numbers
    x, weights = legendre.leggauss(degree + 1)
    values = legendre.legvander(x, degree) * weights[:, None]
    scale = np.arange(degree + 1) + 0.5
    for (_, sign, zeta), row in polynomials.items():
        series[row, :-1] = scale * (((1 + sign * x) / 2) ** zeta @ values)
        series[row, int(zeta) + 1 :] = 0.0
        series[row, -1] = ((1 + sign) / 2) ** zeta
    return series


def _recursion(degree):
    """Q_m,l+1 = z Q_ml - b_ml Q_m,l-1 for the monic derivatives of the Legendre polynomials."""
    m, l = np.mgrid[: degree + 1, : degree + 4]
    return np.where(l >= m, (l * l - m * m) / (4.0 * l * l - 1), 0.0)


def _norm(degree):
    """norm_ml of the addition theorem sum_m norm_ml Re(D_ml conj D'_ml) = sum_jk P_l(u_j u_k)."""
    norm = np.zeros((degree + 1, degree + 1))
    for m in range(degree + 1):
        for l in range(m, degree + 1):
            leading = math.factorial(2 * l) / (2**l * math.factorial(l) * math.factorial(l - m))
            ratio = math.factorial(l - m) / math.factorial(l + m)
            norm[m, l] = (1 if m == 0 else 2) * ratio * leading**2
    return norm


def _recipe(wanted):
    """How to make angulars: rows (how, one, other, numbers), and the place of each angular."""
    rows, place = [], {}

    def make(angular):
        if angular in place:
            return place[angular]
        one, other, table = 0, 0, (0.0,) * 4
        if angular[0] == "window":
            how, table = WINDOW, angular[1:]
        else:
            _, sign, zeta = angular
            table = (sign / 2, zeta, 0.0, 0.0)
            if zeta != int(zeta) or zeta > MOST_ZETA:
                how = REAL_POWER
            elif zeta == 1:
                how = POWER
            else:
                # powers of two by squaring, others from the largest of those and the rest
                square = 2 ** (int(zeta).bit_length() - 1)
                part = square / 2 if zeta == square else square
                how = PRODUCT
                one, other = make(("power", sign, part)), make(("power", sign, zeta - part))
        place[angular] = len(rows)
        rows.append((how, one, other, table))
        return place[angular]

    for angular in sorted(wanted):
        make(angular)
    return rows, place
