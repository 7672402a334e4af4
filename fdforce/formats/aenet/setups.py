"""Fingerprint setups (``.stp``), one for each element, as descriptors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ase.data import atomic_numbers

from fdforce.descriptors import Chebyshev, ElementalChebyshev, SymmetryFunctions
from fdforce.errors import ConfigError, FdforceError
from fdforce.formats.aenet.fortran import integer, lines_of, real

CHEBYSHEV, BEHLER = "Chebyshev", "Behler2011"

CHEBYSHEV_KEYS = {
    "radial_Rc": "radial_cutoff",
    "radial_N": "radial_order",
    "angular_Rc": "angular_cutoff",
    "angular_N": "angular_order",
}

PARAMETERS = {
    1: ("Rc",),
    2: ("Rc", "Rs", "eta"),
    3: ("Rc", "kappa"),
    4: ("Rc", "lambda", "zeta", "eta"),
    5: ("Rc", "lambda", "zeta", "eta"),
}
"""Of Behler's functions by their G, in the order of a network file."""


@dataclass(frozen=True)
class Setup:
    """Fingerprint of one element.

    Attributes
    ----------
    element : str
    environment : tuple of str
        ``ENV``.
    kind : str
        `CHEBYSHEV` or `BEHLER`.
    numbers : dict
        Settings of `Chebyshev`.
    functions : tuple of str
        Behler's functions as lines of a ``.stp``.
    shortest : float, Å
        ``RMIN``.
    """

    element: str
    environment: tuple[str, ...]
    kind: str
    numbers: dict
    functions: tuple[str, ...]
    shortest: float = 1.0

    def __str__(self) -> str:
        head = ["ATOM " + self.element, f"ENV {len(self.environment)}", *self.environment]
        if self.kind == BEHLER:
            body = ["FUNCTIONS type=Behler2011", str(len(self.functions)), *self.functions]
        else:
            numbers = (f"{key}={self.numbers[name]!r}" for key, name in CHEBYSHEV_KEYS.items())
            body = ["BASIS type=Chebyshev", " ".join(numbers)]
        return "\n".join([*head, f"RMIN {self.shortest!r}", *body]) + "\n"


def read_setup(path, error: type[FdforceError]) -> Setup:
    """Read a ``.stp``.

    Parameters
    ----------
    path : path
    error : type
        Raised with file and line where it cannot be read.
    """
    try:
        lines = lines_of(Path(path).read_bytes())
    except OSError as problem:
        raise error(f"{path}: cannot be read: {problem.strerror}") from problem
    return _SetupReader(path, lines, error).setup()


class _SetupReader:
    def __init__(self, path, lines, error):
        self.path, self.error = path, error
        self.lines, self.at = lines, 0

    def fail(self, reason):
        raise self.error(f"{self.path}, line {self.at}: {reason}")

    def raw(self, what):
        if self.at >= len(self.lines):
            self.fail(f"the file ends before {what}")
        self.at += 1
        return self.lines[self.at - 1].strip()

    def line(self, what):
        """The next line that is neither blank nor a comment."""
        while True:
            line = self.raw(what)
            if line and line[0] not in "!#%":
                return line

    def converted(self, convert, word, what):
        try:
            return convert(word)
        except ValueError as problem:
            self.fail(f"{what}: {problem}")

    def words(self, line, n):
        words = line.split()
        if len(words) < n:
            self.fail(f"{line[:60]!r}: {n - 1} more expected")
        return words

    def setup(self):
        found = {}
        while any(line.strip() and line.strip()[0] not in "!#%" for line in self.lines[self.at :]):
            line = self.line("")
            keyword = line.split()[0].upper()
            if keyword == "DESCR":
                while "end descr" not in self.raw("END DESCR").lower():
                    pass
            elif keyword == "ATOM":
                found["element"] = self.words(line, 2)[1]
            elif keyword == "ENV":
                n = self.converted(integer, self.words(line, 2)[1], "ENV")
                found["environment"] = self.environment(n)
            elif keyword == "RMIN":
                found["shortest"] = self.converted(real, self.words(line, 2)[1], "RMIN")
            elif keyword in ("BASIS", "FUNCTIONS", "SYMMFUNC"):
                if "kind" in found:
                    self.fail("a second fingerprint")
                self.fingerprint(line, keyword, found)
            else:
                self.fail(f"{line[:60]!r}: unknown keyword {keyword}")
        for name, keyword in (("element", "ATOM"), ("environment", "ENV"), ("kind", "BASIS")):
            if name not in found:
                self.fail(f"no {keyword}")
        for line in found["functions"]:
            for name in re.findall(r"type[23]\s*=\s*(\S+)", line):
                if name not in found["environment"]:
                    self.fail(f"{line!r}: {name} is not in ENV")
        return Setup(**found)

    def environment(self, n):
        names = []
        for _ in range(n):
            name = self.line("the elements of ENV").split()[0]
            if name in names or atomic_numbers.get(name, 0) < 1:
                self.fail(f"ENV: {name[:20]!r}, expected {n} elements, each once")
            names.append(name)
        return tuple(names)

    def fingerprint(self, line, keyword, found):
        kind = re.search(r"type\s*=\s*(\S+)", line)
        kinds = {CHEBYSHEV.lower(): "BASIS", BEHLER.lower(): "FUNCTIONS"}
        name = kind[1].lower() if kind else ""
        if kinds.get(name) != keyword.replace("SYMMFUNC", "FUNCTIONS"):
            self.fail(f"{line!r}: expected BASIS type=Chebyshev or FUNCTIONS type=Behler2011")
        found |= {"numbers": {}, "functions": ()}
        if keyword == "BASIS":
            found["kind"] = CHEBYSHEV
            words = dict(re.findall(r"(\w+)\s*=\s*(\S+)", self.raw("the settings of the basis")))
            for key, setting in CHEBYSHEV_KEYS.items():
                if key not in words:
                    self.fail(f"no {key}")
                convert = integer if key.endswith("_N") else real
                found["numbers"][setting] = self.converted(convert, words[key], key)
            return
        found["kind"] = BEHLER
        n = self.converted(integer, self.raw("the number of functions"), "number of functions")
        found["functions"] = tuple(self.function() for _ in range(n))

    def function(self):
        line = self.raw("the last function")
        words = dict(re.findall(r"(\w+)\s*=\s*(\S+)", line))
        g = self.converted(integer, words.get("G", "0"), "G")
        if g not in PARAMETERS:
            self.fail(f"{line!r}: expected G=1 to G=5")
        neighbors = [words.get(key) for key in ("type2", "type3")[: 1 if g < 4 else 2]]
        if None in neighbors or not set(PARAMETERS[g]) <= set(words):
            keys = ("type2", "type3")[: len(neighbors)] + PARAMETERS[g]
            self.fail(f"{line!r}: G={g} needs {', '.join(keys)}")
        return function_line(
            g, neighbors, [self.converted(real, words[key], key) for key in PARAMETERS[g]]
        )


def function_line(g: int, neighbors: Sequence[str], values: Sequence[float]) -> str:
    """A function of Behler's as a line of a ``.stp``; values in the order of `PARAMETERS`."""
    words = [f"G={g}"] + [f"type{k + 2}={name}" for k, name in enumerate(neighbors)]
    words += [f"{key}={float(value)!r}" for key, value in zip(PARAMETERS[g], values)]
    return " ".join(words)


def descriptor_of(setups: Sequence[Setup], elements: Sequence[str]):
    """The descriptor of a setup for each of the elements.

    Parameters
    ----------
    setups : sequence of Setup
        One for each of the elements, in their order.
    elements : sequence of str
        In the order of ``TYPES``.

    Returns
    -------
    Chebyshev, ElementalChebyshev or SymmetryFunctions
        Of these elements; `Chebyshev` in the order of ``ENV``.

    Raises
    ------
    ConfigError
        Setups of different kinds, an ``ENV`` with other elements, or one that ænet evaluates
        wrongly.
    """
    for setup in setups:
        if setup.kind != setups[0].kind:
            raise ConfigError(
                f"the fingerprint of {setups[0].element} is {setups[0].kind} and that of "
                f"{setup.element} {setup.kind}; ænet cannot mix them"
            )
        if sorted(setup.environment) != sorted(elements):
            raise ConfigError(
                f"ENV of {setup.element} is {' '.join(setup.environment)}, but the elements are "
                f"{' '.join(elements)}; fdforce needs all of them, and no other, in every ENV"
            )
    if setups[0].kind == BEHLER:
        for setup in setups:
            if setup.environment != tuple(elements):
                raise ConfigError(
                    f"ENV of {setup.element} is {' '.join(setup.environment)}, but TYPES "
                    f"{' '.join(elements)}: ænet evaluates Behler2011 wrongly unless they agree"
                )
        return SymmetryFunctions.from_aenet([str(setup) for setup in setups])
    first = setups[0]
    same = all(
        (setup.environment, setup.numbers) == (first.environment, first.numbers) for setup in setups
    )
    if same:
        return Chebyshev(first.environment, **first.numbers)
    settings = {s.element: {**s.numbers, "environment": s.environment} for s in setups}
    return ElementalChebyshev.of(elements, settings)


def stale_spins(setup: Setup) -> bool:
    """Whether ænet computes the weighted angular features wrongly.

    Between the radial and the angular cutoff it takes the spin of whichever neighbour came before.
    """
    numbers = setup.numbers
    return (
        setup.kind == CHEBYSHEV
        and len(setup.environment) > 1
        and numbers["angular_cutoff"] > numbers["radial_cutoff"]
    )
