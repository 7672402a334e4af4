"""Behler's symmetry functions with n2p2's definitions and order, or in ænet's layout."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from ase.data import atomic_numbers

from fdforce.descriptors.features import check_elements, compute_features, settings_of
from fdforce.descriptors.symmetry_function_lines import (
    COMPACT_TYPES,
    NARROW_TYPES,
    WEIGHTED_TYPES,
    Function,
    automatic_functions,
    parse,
)
from fdforce.descriptors.symmetry_function_program import (
    Program,
    compact,
    cosine,
    gaussian,
    power,
    window,
)
from fdforce.errors import ConfigError

CUTOFF_TYPES = range(9)
ORDERS = ("n2p2", "given")


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
    on_gpu = True
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
        parsed = [parse(function, self.elements) for function in functions]
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
        with that and each element from it on; within these by their G, and then in the order of
        the setup.

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

    def functions_of(self, element: str) -> list[Function]:
        """Functions of a central element, in the order of its features."""
        return list(self._functions[self.elements.index(element)])

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
        f = parse(line, None)
        numbers = {
            name: value * unit ** power_of[name] if name in power_of else value
            for name, value in f.numbers.items()
        }
        result.append(str(replace(f, numbers=numbers)))
    return result


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
        by_neighbours.setdefault((key, kind), []).append(line)
    # (0,), (0, 0), (0, 1), (1,), (1, 1): a tuple precedes those that continue it
    return (
        centre,
        environment,
        [line for key in sorted(by_neighbours) for line in by_neighbours[key]],
    )
