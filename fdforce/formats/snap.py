"""SNAP potentials of LAMMPS: NAME.snapcoeff and NAME.snapparam, in units metal.

The reference potential that SNAP is often fitted on top of has no place in these files. A model
with the baseline ``zbl_lammps`` is written with a comment that names it, which `read_potential`
understands; other programs' files say nothing of theirs.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers

from fdforce.archive import write_bytes
from fdforce.descriptors.bispectrum import FLAGS, Bispectrum, components
from fdforce.descriptors.quadratic import Quadratic
from fdforce.errors import ConfigError, ModelFileError
from fdforce.models.linear import LinearModel
from fdforce.models.zbl import LammpsZBL

FILE_FLAGS = (*FLAGS, "quadraticflag")
NUMBERS = ("rcutfac", "twojmax", "rfac0", "rmin0")
PER_ELEMENT = ("sinner", "dinner")
_IGNORED = ("chunksize", "parallelthresh")  # speed of pair_style snap alone
_ZBL_COMMENT = re.compile(r"# baseline zbl_lammps: pair_style zbl (\S+) (\S+)")


def read_potential(path, *, units: str = "ev-angstrom") -> LinearModel:
    """A SNAP potential as a linear model on bispectrum components.

    Parameters
    ----------
    path : path
        NAME.snapcoeff; NAME.snapparam stands beside it.
    units : str
        "ev-angstrom": pair_style snap is used in units metal.

    Raises
    ------
    ModelFileError
        A file is missing, damaged, or holds what is not supported.
    """
    path, parameters = two_files(path, units, ".snapcoeff", ".snapparam")
    settings, zbl = read_parameters(parameters)
    elements, radii, weights, coefficients = read_coefficients(path)
    quadratic = settings.pop("quadraticflag", 0)
    try:
        descriptor = Bispectrum(elements, radelem=radii, wj=weights, **settings)
    except ConfigError as error:
        raise ModelFileError(f"{path}, {parameters.name}: {error}") from None
    expected = expected_coefficients(descriptor, quadratic)
    if coefficients.shape[1] != expected:
        raise ModelFileError(
            f"{path}: {coefficients.shape[1]} coefficients for an element; {expected} belong to "
            f"the settings in {parameters.name}"
        )
    model = LinearModel(Quadratic(descriptor) if quadratic else descriptor)
    set_coefficients(model, coefficients)
    model.baseline = read_zbl(elements, zbl, parameters)
    return model


def write_potential(model, path) -> str:
    """Write NAME.snapcoeff and NAME.snapparam.

    Parameters
    ----------
    model : LinearModel
        On `Bispectrum`, or on `Quadratic` of it.
    path : path
        NAME, with or without ``.snapcoeff``.

    Returns
    -------
    str
        The pair_style and pair_coeff lines of a LAMMPS script.

    Raises
    ------
    ModelFileError
        The files cannot hold the model.
    """
    descriptor, quadratic = bispectrum_of(model, "snap")
    if model.kind != "linear":
        raise ModelFileError(
            f"snap: holds linear models, this one is {model.kind}; export it as mliap"
        )
    zbl = zbl_of(model, "snap")
    prefix = prefix_of(path, (".snapcoeff", ".snapparam"))
    coefficients = symmetric_coefficients(model.coefficients(), descriptor, quadratic)
    settings = {name: getattr(descriptor, name) for name in (*NUMBERS, *FLAGS)}
    settings["quadraticflag"] = int(quadratic)
    if descriptor.switchinnerflag:
        settings |= {name: getattr(descriptor, name) for name in PER_ELEMENT}
    write_files(
        prefix, descriptor.elements, descriptor.radelem, descriptor.wj, coefficients, settings,
        baseline_comment(zbl),
    )  # fmt: skip
    files = f"{prefix}.snapcoeff {prefix}.snapparam {' '.join(descriptor.elements)}"
    return pair_lines(descriptor.elements, "snap", "", files, zbl)


# -- what both formats of LAMMPS ask of files and models ------------------------------------------


def two_files(path, units: str, suffix: str, other: str) -> tuple[Path, Path]:
    """The file that has to be named, by its suffix, and the other one beside it.

    Raises
    ------
    ModelFileError
        Another file is named, or units are that pair styles in units metal do not have.
    """
    path = Path(path)
    if units != "ev-angstrom":
        raise ModelFileError(
            f"{path}: potentials in units metal are in eV and Å; leave --units out"
        )
    if not path.name.endswith(suffix):
        raise ModelFileError(f"{path}: name the {suffix} file, the {other} file beside it")
    return path, path.with_name(path.name.removesuffix(suffix) + other)


def checked_twojmax(value: float, where) -> int:
    """``twojmax`` as a whole number; ModelFileError for one that would take all memory."""
    if value != int(value) or not 0 <= value <= 100:
        raise ModelFileError(f"{where}: twojmax = {value:g}: 0 to 100 is expected")
    return int(value)


def read_zbl(elements, radii, path) -> LammpsZBL | None:
    """The baseline that `read_baseline` found the radii of."""
    try:
        return None if radii is None else LammpsZBL(elements, radii[1], radii[0])
    except ConfigError as error:
        raise ModelFileError(f"{path}: {error}") from None


def bispectrum_of(model, name: str) -> tuple[Bispectrum, bool]:
    """The `Bispectrum` of a model and whether products of it are features as well.

    Raises
    ------
    ModelFileError
        Another descriptor, or an ensemble.
    """
    if model.theta.ndim != 1:
        raise ModelFileError(
            f"{name}: this is an ensemble of {len(model.theta)} models; export one of its members"
        )
    descriptor, quadratic = model.descriptor, False
    if isinstance(descriptor, Quadratic):
        descriptor, quadratic = descriptor.descriptor, True
    if not isinstance(descriptor, Bispectrum):
        raise ModelFileError(
            f"{name}: holds models on the descriptor bispectrum, this one is on "
            f"{model.descriptor.name}; run it in LAMMPS by fix external (docs/lammps.md)"
        )
    return descriptor, quadratic


def zbl_of(model, name: str) -> tuple[float, float] | None:
    """Inner and outer radius of pair_style zbl that the baseline is; None without baseline.

    Raises
    ------
    ModelFileError
        A baseline that is no pair style of LAMMPS.
    """
    baseline = model.baseline
    if baseline is None:
        return None
    if isinstance(baseline, LammpsZBL):
        radii = np.unique(baseline.inner), np.unique(baseline.outer)
        if len(radii[0]) == len(radii[1]) == 1:
            return float(radii[0][0]), float(radii[1][0])
    raise ModelFileError(
        f"{name}: the baseline {baseline.name} is no pair style of LAMMPS; fit with model.baseline "
        "= zbl_lammps or none, or run the model by fix external (docs/lammps.md)"
    )


def pair_lines(elements, style: str, arguments: str, coefficients: str, zbl) -> str:
    """Lines of a LAMMPS script for a pair style, overlaid with zbl where there is one.

    Parameters
    ----------
    elements : sequence of str
        In the order of the atom types.
    style, arguments, coefficients : str
        Name and arguments of the pair style, and those of its pair_coeff after ``* *``.
    zbl : tuple of float, or None
        Inner and outer radius, Å.
    """
    types = ", ".join(f"{k} {element}" for k, element in enumerate(elements, 1))
    lines = [f"# units metal; atom types: {types}"]
    style_line = " ".join(["pair_style", *([] if zbl is None else ["hybrid/overlay"]), style])
    style_line += f" {arguments}" if arguments else ""
    if zbl is None:
        return "\n".join([*lines, style_line, f"pair_coeff * * {coefficients}"])
    lines += [f"{style_line} zbl {zbl[0]!r} {zbl[1]!r}", f"pair_coeff * * {style} {coefficients}"]
    for i, first in enumerate(elements, 1):
        for j, second in enumerate(elements[i - 1 :], i):
            lines.append(f"pair_coeff {i} {j} zbl {atomic_numbers[first]} {atomic_numbers[second]}")
    return "\n".join(lines)


def baseline_comment(zbl) -> list[str]:
    """The line of a file of ours that `read_baseline` reads."""
    return [] if zbl is None else [f"# baseline zbl_lammps: pair_style zbl {zbl[0]!r} {zbl[1]!r}"]


def read_baseline(line: str, path, number: int) -> tuple[float, float] | None:
    """Radii of pair_style zbl, where the line is a comment that names them."""
    found = _ZBL_COMMENT.match(line.strip())
    return found and tuple(as_float(word, path, number) for word in found.groups())


def prefix_of(path, suffixes) -> str:
    """A path without one of the suffixes."""
    prefix = os.fspath(path)
    for suffix in suffixes:
        prefix = prefix.removesuffix(suffix)
    if not Path(prefix).name or Path(prefix).is_dir():
        raise ModelFileError(f"{path}: is a folder; give the name of the files without suffix")
    if re.search(r"\s", prefix):
        raise ModelFileError(f"{prefix!r}: LAMMPS takes no file names with spaces")
    return prefix


def expected_coefficients(descriptor, quadratic) -> int:
    """Numbers of an element, its constant included."""
    n = descriptor.n_features
    return 1 + n + (n * (n + 1) // 2 if quadratic else 0)


def set_coefficients(model, coefficients) -> None:
    """Parameters from rows (constant, coefficients of the plain features) of each element."""
    model.theta = np.column_stack([coefficients[:, 1:], coefficients[:, 0]]).ravel()


# -- equal components ------------------------------------------------------------------------------


def equal_components(descriptor) -> np.ndarray:
    """For every component the first one that is the same function of the positions.

    With ``chemflag = 1``, components of different element triplets are equal where two or three of
    j1, j2, j are: B^{e1 e2 e3}_{j1 j1 j} = B^{e2 e1 e3}_{j1 j1 j}, and so on. LAMMPS counts forces
    as if their coefficients were equal as well.
    """
    plain = components(descriptor.twojmax)
    if not descriptor.chemflag:
        return np.arange(len(plain))
    n = range(len(descriptor.elements))
    first, found = [], {}
    for e in np.ndindex(len(n), len(n), len(n)):
        for j in plain:
            key = tuple(sorted(zip(j, e)))
            first.append(found.setdefault(key, len(first)))
    return np.array(first)


def orbit_mean(values, group) -> np.ndarray:
    """Values (..., K) replaced by their means over equal components."""
    members = (group[:, None] == group).astype(float)
    return values @ (members / members.sum(0))


def symmetric_coefficients(coefficients, descriptor, quadratic) -> np.ndarray:
    """The coefficients of the same energies that equal components share equally."""
    group = equal_components(descriptor)
    k = len(group)
    if (group == np.arange(k)).all():
        return coefficients
    coefficients = coefficients.copy()
    coefficients[:, 1 : 1 + k] = orbit_mean(coefficients[:, 1 : 1 + k], group)
    if quadratic:
        first, second = np.triu_indices(k)
        matrix = np.zeros((len(coefficients), k, k))
        # E = B.A.B / 2: the file has A_kk, which multiplies B_k^2 / 2, and A_kl of k < l
        matrix[:, first, second] = matrix[:, second, first] = coefficients[:, 1 + k :]
        matrix = orbit_mean(orbit_mean(matrix, group).swapaxes(1, 2), group)
        coefficients[:, 1 + k :] = matrix[:, first, second]
    return coefficients


# -- the two files ---------------------------------------------------------------------------------


def read_parameters(path) -> tuple[dict, tuple[float, float] | None]:
    """Settings of a .snapparam file, and radii of the zbl that a comment of ours names.

    Raises
    ------
    ModelFileError
        The file is missing, or holds a keyword or a value that is not supported.
    """
    settings, zbl = {}, None
    for number, line in numbered_lines(path):
        zbl = read_baseline(line, path, number) or zbl
        name, *values = line.split("#")[0].split() or [""]
        if name in ("", *_IGNORED):
            continue
        known = {*FILE_FLAGS, *NUMBERS, *PER_ELEMENT}
        if name not in known:
            raise ModelFileError(
                f"{path}, line {number}: {name} is not supported; known are "
                f"{', '.join(sorted(known))}"
            )
        if not values or (name not in PER_ELEMENT and len(values) > 1):
            raise ModelFileError(
                f"{path}, line {number}: {name} {' '.join(values)}: a number is expected"
            )
        numbers = [as_float(value, path, number, name) for value in values]
        if name in (*FILE_FLAGS, "twojmax") and not numbers[0].is_integer():
            raise ModelFileError(
                f"{path}, line {number}: {name} {values[0]}: a whole number is expected"
            )
        if name in FILE_FLAGS and numbers[0] not in (0, 1):
            raise ModelFileError(f"{path}, line {number}: {name} = {numbers[0]:g}: 0 or 1")
        whole = name in (*FILE_FLAGS, "twojmax")
        settings[name] = (
            numbers if name in PER_ELEMENT else int(numbers[0]) if whole else numbers[0]
        )
    for name in ("rcutfac", "twojmax"):
        if name not in settings:
            raise ModelFileError(f"{path}: {name} is missing")
    checked_twojmax(settings["twojmax"], path)
    if settings.get("switchinnerflag") and not set(PER_ELEMENT) <= settings.keys():
        raise ModelFileError(f"{path}: switchinnerflag = 1 needs sinner and dinner as well")
    return settings, zbl


def read_coefficients(path) -> tuple[list[str], list[float], list[float], np.ndarray]:
    """Elements, radii and weights, and coefficients (n_elements, 1 + K) of a .snapcoeff file.

    Raises
    ------
    ModelFileError
        The file is missing or damaged.
    """
    lines = [(number, line.split("#")[0].split()) for number, line in numbered_lines(path)]
    lines = iter([(number, words) for number, words in lines if words])
    last = 0

    def line(length):
        nonlocal last
        last, words = next(lines, (last, None))
        if words is None:
            raise _damaged(path, last, "the file ends too early")
        if len(words) != length:
            raise _damaged(path, last, f"{length} word(s) expected, {len(words)} found")
        return words

    counts = [_number(word, path, last) for word in line(2)]
    if not all(count.is_integer() and count > 0 for count in counts):
        raise _damaged(path, last, "number of elements and of coefficients expected")
    elements, radii, weights, coefficients = [], [], [], []
    for _ in range(int(counts[0])):
        element, *numbers = line(3)
        if not atomic_numbers.get(element) or element in elements:
            raise _damaged(path, last, f"{element}: an element that was not there is expected")
        elements.append(element)
        radius, weight = (_number(word, path, last) for word in numbers)
        radii.append(radius)
        weights.append(weight)
        coefficients.append([_number(line(1)[0], path, last) for _ in range(int(counts[1]))])
    if next(lines, None) is not None:
        raise _damaged(path, last, "more lines than its first one promises")
    return elements, radii, weights, np.array(coefficients)


def write_files(prefix, elements, radii, weights, coefficients, settings, comments=()) -> None:
    """Write ``prefix.snapcoeff`` and ``prefix.snapparam``, numbers with all their digits.

    Parameters
    ----------
    prefix : str
    elements : sequence of str
    radii, weights : sequence of float
    coefficients : ndarray, shape (n_elements, 1 + K)
        The constant first, eV.
    settings : dict
        Lines of .snapparam.
    comments : sequence of str
        Further lines of it.
    """
    lines = [f"# SNAP of fdforce; coefficients in {Path(prefix).name}.snapcoeff", *comments]
    for name, value in settings.items():
        lines.append(f"{name} {' '.join(repr(x) for x in np.ravel(value).tolist())}")
    write_lines(f"{prefix}.snapparam", lines)
    lines = ["# SNAP of fdforce; LAMMPS units metal", ""]
    lines.append(f"{len(elements)} {coefficients.shape[1]}")
    for element, radius, weight, block in zip(elements, radii, weights, coefficients):
        lines += [f"{element} {float(radius)!r} {float(weight)!r}", *map(repr, block.tolist())]
    write_lines(f"{prefix}.snapcoeff", lines)


def numbered_lines(path) -> list[tuple[int, str]]:
    """Lines of a text file with their numbers."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{path}: cannot be read ({error})") from error
    return list(enumerate(text.split("\n"), 1))


def as_float(word: str, path, line: int, name: str = "") -> float:
    """A finite number as LAMMPS writes it."""
    try:
        value = float(word) if "_" not in word else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        what = f"{name} {word}".strip()
        raise ModelFileError(f"{path}, line {line}: {what}: a number is expected")
    return value


def write_lines(path, lines) -> None:
    """Write a text file, whole or not at all."""
    write_bytes(path, ("\n".join(lines) + "\n").encode())


def _number(word, path, line):
    try:
        return as_float(word, path, line)
    except ModelFileError:
        raise _damaged(path, line, f"{word}: a number is expected") from None


def _damaged(path, line, reason):
    return ModelFileError(f"{path}, line {line}: not a .snapcoeff file ({reason})")
