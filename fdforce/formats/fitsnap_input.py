"""A FitSNAP input file (.in) as a configuration.

Bispectrum settings become the model, the ZBL reference its baseline, groups with their weights the
data and the loss. FitSNAP multiplies rows of energies per atom (eV), forces (eV/Å) and stresses
(bar) by their weights, so squared errors here carry the squares.
"""

from __future__ import annotations

import configparser
import math
from pathlib import Path

from ase.data import atomic_numbers

from fdforce.errors import DataError
from fdforce.formats import Training
from fdforce.formats.fitsnap_json import BAR, json_files, read_structures

NUMBERS = ("twojmax", "rcutfac", "rfac0", "rmin0")
FLAGS = (
    "switchflag", "bzeroflag", "switchinnerflag", "chemflag", "bnormflag", "wselfallflag",
)  # fmt: skip
PER_ELEMENT = {"radelem": "0.5", "wj": "1.0", "sinner": "0.9", "dinner": "0.1"}
"""With FitSNAP's defaults."""
_READ = {
    "BISPECTRUM": {"numTypes", "type", "quadraticflag", *NUMBERS, *FLAGS, *PER_ELEMENT},
    "CALCULATOR": {"calculator", "energy", "force", "stress", "nonlinear"},
    "ESHIFT": None,
    "SOLVER": {"solver"},
    "SCRAPER": {"scraper"},
    "PATH": {"dataPath"},
    "REFERENCE": None,
    "GROUPS": None,
    "PYTORCH": {"layer_sizes"},
}
"""Keys of each section that mean something here; None: all are looked at."""
_OPTIONS = ("group_sections", "group_types", "smartweights", "random_sampling", "random_seed")


def recognises_training(path: Path) -> bool:
    """Whether a path is a FitSNAP input file, or a folder that holds one."""
    return bool(_input_files(path))


def read_training(path: Path, *, units: str = "ev-angstrom") -> Training:
    """The configuration of a FitSNAP input file.

    Parameters
    ----------
    path : Path
        The .in file, or the folder with one.
    units : str
        "ev-angstrom": FitSNAP's units metal.

    Raises
    ------
    DataError
        The file is damaged, or asks for what fdforce does not have.
    """
    files = _input_files(path)
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise DataError(f"{path}: one FitSNAP input file is expected; there are: {names}")
    if units != "ev-angstrom":
        raise DataError(f"{path}: FitSNAP works in eV and Å; leave --units out")
    return _Input(files[0]).training()


def _input_files(path):
    found = sorted(path.glob("*.in")) if path.is_dir() else [path] * (path.suffix == ".in")
    return [file for file in found if file.is_file() and _is_input(file)]


def _is_input(file):
    try:
        lines = {line.strip() for line in file.read_text(encoding="utf-8").split("\n")}
    except (OSError, UnicodeDecodeError):
        return False
    return {"[CALCULATOR]", "[GROUPS]"} <= lines


class _Input:
    """An input file while it is read."""

    def __init__(self, path):
        self.path, self.notes = path, []
        self.parser = configparser.ConfigParser(inline_comment_prefixes="#", interpolation=None)
        self.parser.optionxform = str
        try:
            self.parser.read_string(path.read_text(encoding="utf-8"), str(path))
        except (OSError, ValueError, configparser.Error) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{path}: not a FitSNAP input file ({reason})") from None

    def training(self) -> Training:
        self._refuse()
        elements = self._words("BISPECTRUM", "type", "H")
        if unknown := [name for name in elements if name not in list(atomic_numbers)[1:]]:
            raise self._error("BISPECTRUM", "type", f"{unknown[0]} is no element")
        folders, loss = self._groups()
        nonlinear = self._flag("CALCULATOR", "nonlinear", 0)
        tables = {
            "data": {"train": [str(folder) for folder in folders], **self._data(elements)},
            "model": {**self._model(elements), **self._baseline(elements)},
            "loss": loss,
        }
        if nonlinear:
            tables["model"] |= self._network()
        else:
            tables["data"]["valid"] = 0.0
            tables["model"]["kind"] = "linear"
            tables["optimizer"] = {"name": "least_squares"}
            solver = self._text("SOLVER", "solver", "SVD")
            if solver != "SVD":
                self.notes.append(f"[SOLVER] solver = {solver}: plain least squares are taken")
        self._note_rest()
        return Training(tables, self.notes)

    def _refuse(self):
        """What would lead to another potential than the file asks for."""
        for section, key, default, known in (
            ("CALCULATOR", "calculator", "LAMMPSSNAP", "LAMMPSSNAP"),
            ("SCRAPER", "scraper", "JSON", "JSON"),
            ("SCRAPER", "property_array", "None", "None"),
            ("REFERENCE", "units", "metal", "metal"),
            ("PATH", "groupFile", "None", "None"),
        ):
            if (value := self._text(section, key, default)) != known:
                raise self._error(section, key, f"{value} is not supported, only {known} is")

    def _model(self, elements):
        twojmax = set(self._words("BISPECTRUM", "twojmax", "6"))
        if len(twojmax) != 1:
            raise self._error("BISPECTRUM", "twojmax", "one value for all elements is expected")
        model = {"descriptor": "bispectrum", "elements": elements}
        defaults = {"rcutfac": 4.67637, "rfac0": 0.99363, "rmin0": 0.0}
        for name, default in defaults.items():
            model[name] = self._number("BISPECTRUM", name, self._text("BISPECTRUM", name, default))
        number = self._number("BISPECTRUM", "twojmax", twojmax.pop())
        if not number.is_integer() or not 0 <= number <= 100:
            raise self._error("BISPECTRUM", "twojmax", "a whole number up to 100 is expected")
        model["twojmax"] = int(number)
        for name in FLAGS:
            model[name] = self._flag("BISPECTRUM", name, int(name == "switchflag"))
        for name, default in PER_ELEMENT.items():
            if name in ("sinner", "dinner") and not model["switchinnerflag"]:
                continue
            words = self._words("BISPECTRUM", name, " ".join([default] * len(elements)))
            values = [self._number("BISPECTRUM", name, word) for word in words]
            if len(values) != len(elements):
                raise self._error(
                    "BISPECTRUM", name, f"{len(values)} values for {len(elements)} elements"
                )
            model[name] = values
        model["quadratic"] = bool(self._flag("BISPECTRUM", "quadraticflag", 0))
        if model["bzeroflag"]:
            self.notes.append(
                "bzeroflag = 1: FitSNAP then fits no constant; here every element has one"
            )
        return model

    def _network(self):
        """Hidden layers of [PYTORCH]."""
        words = self._words("PYTORCH", "layer_sizes", "num_desc 512 512 1")
        hidden = [self._number("PYTORCH", "layer_sizes", word) for word in words[1:-1]]
        if not all(1 <= width <= 1e5 and width.is_integer() for width in hidden):
            raise self._error("PYTORCH", "layer_sizes", "whole numbers are expected")
        self.notes.append(
            "networks: every element has one of its own, of softplus units; optimizer and epochs "
            "are those of fdforce"
        )
        return {
            "kind": "elemental_networks",
            "hidden": [int(width) for width in hidden],
            "activation": "softplus",
        }

    def _baseline(self, elements):
        """The reference potential: zero, or zbl with the charges of the elements."""
        words = self._words("REFERENCE", "pair_style", "zero 10.0")
        style = " ".join(words)
        hybrid = words[:1] in (["hybrid/overlay"], ["hybrid"])
        words, zbl = words[1:] if hybrid else words, None
        while words:
            name, words = words[0], words[1:]
            if name == "zero":
                n = sum(1 for word in words[:1] if _is_number(word))
                words = words[n:]
                words = words[1:] if words[:1] in (["full"], ["nocoeff"]) else words
            elif name == "zbl" and len(words) >= 2 and zbl is None:
                zbl, words = words[:2], words[2:]
            else:
                raise self._error(
                    "REFERENCE", "pair_style", f"{style}: zero and zbl are supported; for others "
                    "take a baseline of an ASE calculator (model.baseline)",
                )  # fmt: skip
        if zbl is None:
            return {"baseline": "none"}
        inner, outer = (self._number("REFERENCE", "pair_style", word) for word in zbl)
        if not 0 < inner < outer:
            raise self._error("REFERENCE", "pair_style", f"{style}: 0 < inner < outer is needed")
        self._check_charges(elements, hybrid)
        return {"baseline": "zbl_lammps", "baseline_inner": inner, "baseline_outer": outer}

    def _check_charges(self, elements, hybrid):
        found = {}
        for key, value in self.parser.items("REFERENCE"):
            words = value.split()
            if not key.startswith("pair_coeff") or (hybrid and words[2:3] != ["zbl"]):
                continue
            types, charges = words[:2], words[3:] if hybrid else words[2:]
            numbers = [self._number("REFERENCE", key, word) for word in charges]
            ranges = [self._types(key, word, len(elements)) for word in types]
            if len(numbers) != 2 or len(ranges) != 2:
                raise self._error("REFERENCE", key, f"{value}: two types and two charges expected")
            for i in ranges[0]:
                for j in ranges[1]:
                    if i <= j:
                        found[i, j] = sorted(numbers)
        for i, first in enumerate(elements):
            for j, second in enumerate(elements[i:], i):
                expected = sorted([atomic_numbers[first], atomic_numbers[second]])
                if found.get((i, j)) != expected:
                    raise self._error(
                        "REFERENCE", "pair_coeff", f"zbl of {first} and {second} has the charges "
                        f"{found.get((i, j))} instead of {expected}",
                    )  # fmt: skip

    def _types(self, key, word, n):
        """Indices of atom types: ``*``, ``2``, ``1*3``, ``*2`` or ``2*``."""
        first, star, last = word.partition("*")
        try:
            low = int(first or 1)
            high = int(last or n) if star else low
        except ValueError:
            raise self._error("REFERENCE", key, f"{word} is no atom type") from None
        return range(max(low, 1) - 1, min(high, n))

    def _data(self, elements):
        """Reference energies; ESHIFT is added to the labels there, so it is subtracted here."""
        if not self.parser.has_section("ESHIFT"):
            return {}
        shift = {e: self._number("ESHIFT", e, self._text("ESHIFT", e, 0.0)) for e in elements}
        if not any(shift.values()):
            return {}
        self.notes.append(
            "[ESHIFT]: the model predicts the energies of the files, FitSNAP's potential those "
            "plus ESHIFT"
        )
        return {"reference_energies": {element: -value for element, value in shift.items()}}

    def _groups(self):
        """Folders of the groups and the loss."""
        columns = self._words("GROUPS", "group_sections", "name size eweight fweight vweight")[1:]
        base = self.path.parent / self._text("PATH", "dataPath", "JSON")
        folders, weights, partial, atoms, structures = [], {}, [], 0, 0
        for name, value in self.parser.items("GROUPS"):
            if name in _OPTIONS or name.startswith("vasp_") or name == "BOLTZ":
                continue
            words = value.split()
            if len(words) != len(columns):
                raise self._error(
                    "GROUPS", name, f"{len(words)} values for the columns {' '.join(columns)}"
                )
            row = {c: self._number("GROUPS", name, w) for c, w in zip(columns, words)}
            folder = base / name
            if not folder.is_dir() or not json_files(folder):
                raise self._error("GROUPS", name, f"{folder} holds no .json files")
            size = row.get("training_size", row.get("size", 1.0))
            if size == 0 and not row.get("testing_size"):
                self.notes.append(f"[GROUPS] {name}: left out, its size is 0")
                continue
            if size != 1 or row.get("testing_size"):
                partial.append(name)
            counts, volumes = _sizes(folder)
            factors = [row.get(column, 1.0) for column in ("eweight", "fweight", "vweight")]
            density = sum((n / v) ** 2 for n, v in zip(counts, volumes)) / len(counts)
            factors[2] *= math.sqrt(density)
            folder = folder.resolve()
            if folder.name in weights:
                raise self._error("GROUPS", name, f"another group is called {folder.name} as well")
            if max(map(abs, factors)) > 1e100:
                raise self._error("GROUPS", name, "a weight above 1e100")
            weights[folder.name] = [float(factor) ** 2 for factor in factors]
            folders.append(folder)
            atoms, structures = atoms + sum(counts), structures + len(counts)
        if not folders:
            raise self._error("GROUPS", "groups", "there are none")
        if partial:
            self.notes.append(
                f"[GROUPS] {', '.join(partial)}: sizes are not read, all structures are training "
                "ones; data.test holds out a fraction of all"
            )
        for option in ("smartweights", "BOLTZ"):
            if self._text("GROUPS", option, "0") not in ("0", "0.0", "False"):
                self.notes.append(f"[GROUPS] {option}: weights are taken as they are written")
        self.notes.append(
            "[GROUPS] vweight: stresses count as virials per atom, with the mean density of each "
            "group; off-diagonal ones count twice"
        )
        return folders, self._loss(weights, atoms / structures)

    def _loss(self, weights, mean_atoms):
        """The terms of FitSNAP: errors in eV per atom, eV/Å and bar."""
        use = {key: self._flag("CALCULATOR", key, 1) for key in ("energy", "force", "stress")}
        if not any(use.values()):
            raise self._error("CALCULATOR", "energy", "energy, force and stress are all 0")
        return {
            "kind": "squared",
            "normalise": False,
            "energy_weight": float(use["energy"]),
            "force_weight": 3.0 * mean_atoms * use["force"],
            "stress_weight": 9.0 / BAR**2 * use["stress"],
            "group_weights": weights,
        }

    def _note_rest(self):
        for section in self.parser.sections():
            known = _READ.get(section, set())
            if known is None:
                continue
            rest = [key for key in self.parser.options(section) if key not in known]
            if rest:
                self.notes.append(f"[{section}] {', '.join(rest)}: not read")

    def _text(self, section, key, default):
        return self.parser.get(section, key, fallback=str(default)).strip()

    def _words(self, section, key, default):
        words = self._text(section, key, default).split()
        if not words:
            raise self._error(section, key, "is empty")
        return words

    def _number(self, section, key, word):
        if not _is_number(word):
            raise self._error(section, key, f"{word:.40}: a number is expected")
        return float(word)

    def _flag(self, section, key, default):
        word = self._text(section, key, default).lower()
        values = {"0": 0, "1": 1, "false": 0, "true": 1, "no": 0, "yes": 1, "off": 0, "on": 1}
        if word not in values:
            raise self._error(section, key, f"{word:.40}: 0 or 1 is expected")
        return values[word]

    def _error(self, section, key, reason):
        return DataError(
            f"{self.path}, line {self._line(section, key)}: [{section}] {key}: {reason}"
        )

    def _line(self, section, key):
        """Where a key stands, or else its section."""
        current, place = "", 1
        for number, line in enumerate(self.path.read_text(encoding="utf-8").split("\n"), 1):
            if line.strip().startswith("["):
                current = line.strip()[1:].partition("]")[0]
                place = number if current == section else place
            elif current == section and line.split("=")[0].split(":")[0].strip() == key:
                return number
        return place


def _sizes(folder):
    """Atoms and volumes (Å^3) of the structures of a group."""
    frames = [(len(atoms), atoms.get_volume()) for atoms in read_structures(folder)]
    return zip(*frames) if frames else ([], [])


def _is_number(word):
    try:
        return "_" not in word and math.isfinite(float(word))
    except ValueError:
        return False
