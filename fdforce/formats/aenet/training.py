"""A training directory of ænet or ænet-PyTorch as a configuration.

``generate.in`` names the structures, the fingerprints and the energies of the separate atoms,
``train.in`` the networks and the training. ænet's and ænet-PyTorch's ``train.in`` share a name and
most keywords; what follows METHOD tells them apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from ase.data import atomic_numbers

from fdforce.descriptors import SymmetryFunctions
from fdforce.errors import ConfigError, DataError, FdforceError
from fdforce.formats import Training
from fdforce.formats.aenet.fortran import integer, lines_of, real
from fdforce.formats.aenet.network_file import ACTIVATIONS
from fdforce.formats.aenet.setups import descriptor_of, read_setup, stale_spins
from fdforce.formats.aenet.xsf import parse
from fdforce.models.network_settings import shorten, spell_out

GENERATE = ("TYPES", "SETUPS", "FILES")
TRAIN = ("TRAININGSET", "NETWORKS")

NAMES = {"linear": 0, "tanh": 1, "sigmoid": 2, "mtanh": 3, "twist": 4}
SHORT_NAMES = {"l": 0, "t": 1, "s": 2, "m": 3, "w": 4}

UNUSED = {
    "OUTPUT": "fdforce computes the fingerprints as it trains",
    "TRAININGSET": "fdforce reads the structures themselves",
    "TIMING": "timings are in the log of a run",
    "DEBUG": "",
    "VERBOSITY": "",
    "VERBOSE": "",
    "ITERWRITE": "fdforce writes every epoch",
    "SAMPLING": "fdforce takes the structures in a random order",
    "SAVE_ENERGIES": "`fdforce predict` writes predictions",
    "SAVE_FORCES": "`fdforce predict` writes predictions",
    "SAVE_BATCHES": "",
    "LOAD_BATCHES": "",
    "MEMORY_MODE": "",
    "MAXENERGY": "no structure is left out for its energy",
    "MAXFORCES": "no structure is left out for its forces",
    "PHSEED": "one seed, NPSEED, is for everything",
}
"""Keywords that change nothing here, and why."""


def recognises_training(path) -> bool:
    """Whether a folder, or folders in it, hold a ``generate.in`` or ``train.in`` of ænet's."""
    path = Path(path)
    try:
        return path.is_dir() and any(_find(path, keywords) for keywords in (GENERATE, TRAIN))
    except (OSError, FdforceError):
        return True  # several: said when they are read


def read_training(path, *, units: str = "ev-angstrom") -> Training:
    """What a training directory asks for.

    Parameters
    ----------
    path : path
        A folder with ``generate.in``, the setups it names, and perhaps ``train.in``; or with two
        folders that hold these, as in the example of ænet-PyTorch.
    units : str
        "ev-angstrom", which ænet's files are always in.

    Raises
    ------
    DataError, ConfigError
        A file that is missing or cannot be read, with file and line.
    """
    if units != "ev-angstrom":
        raise ConfigError(f"units = {units!r}: training directories of ænet are in eV and Å")
    path = Path(path)
    generate, train = (_find(path, keywords) for keywords in (GENERATE, TRAIN))
    if generate is None:
        raise DataError(
            f"{path}: {train.name}, but no generate.in, whose structures fdforce needs: the "
            "training set file of generate.x has no cells"
        )
    notes: list[str] = []
    tables = _of_generate(generate, notes)
    if train is None:
        notes.append(f"{path}: no train.in: networks and training are fdforce's own")
    else:
        _of_train(train, tables, notes)
    return Training(tables, notes)


# -- input files -----------------------------------------------------------------------------------


@dataclass
class _Input:
    """Lines of an input file without blank ones and comments, and what was used of them."""

    path: Path
    lines: list[tuple[int, str]]
    used: set[int] = field(default_factory=set)

    def fail(self, number, reason):
        raise DataError(f"{self.path}, line {number}: {reason}")

    def has(self, keyword):
        return any(line.split()[0].upper() == keyword for _, line in self.lines)

    def find(self, keyword, n=0):
        """Number and words of the line of a keyword, and the n lines after it; None without."""
        for k, (number, line) in enumerate(self.lines):
            if k not in self.used and line.split()[0].upper() == keyword:
                self.used |= set(range(k, k + n + 1))
                if k + n >= len(self.lines):
                    self.fail(number, f"{keyword}: the file ends within it")
                return number, line.split()[1:], self.lines[k + 1 : k + n + 1]
        return None

    def value(self, keyword, convert):
        """The number or word behind a keyword; None without the keyword."""
        found = self.find(keyword)
        if found is None:
            return None
        number, words, _ = found
        if not words:
            self.fail(number, f"{keyword} has no value")
        return self.converted(convert, words[0], number, keyword)

    def converted(self, convert, word, number, what):
        try:
            return convert(word)
        except ValueError as problem:
            self.fail(number, f"{what}: {problem}")

    def flag(self, keyword):
        """Whether a keyword is there and not switched off."""
        found = self.find(keyword)
        return found is not None and not (found[1] and found[1][0].lower() in (".false.", "f"))

    def counted(self, keyword):
        """Lines of a block that begins with their number."""
        found = self.find(keyword, 1)
        if found is None:
            return None
        ((number, text),) = found[2]
        n = self.converted(integer, text.split()[0], number, f"number behind {keyword}")
        first = next(k for k, line in enumerate(self.lines) if line[0] == number) + 1
        if n < 1 or first + n > len(self.lines):
            self.fail(number, f"{keyword}: {n} lines, but {len(self.lines) - first} follow")
        self.used |= set(range(first, first + n))
        return self.lines[first : first + n]

    def block(self, keyword, n):
        """The n lines behind a keyword."""
        found = self.find(keyword, n)
        if found is None:
            raise DataError(f"{self.path}: no {keyword}")
        return found[2]

    def left(self):
        """Notes on lines that nobody asked for."""
        notes = []
        for k, (number, line) in enumerate(self.lines):
            if k not in self.used:
                keyword = line.split()[0].upper()
                reason = UNUSED.get(keyword, "fdforce does not know it")
                why = f": {reason}" if reason else ""
                notes.append(f"{self.path.name}, line {number}: {line[:60]} is not used{why}")
        return notes


def _read_input(path) -> _Input:
    try:
        lines = lines_of(path.read_bytes())
    except OSError as problem:
        raise DataError(f"{path}: cannot be read: {problem.strerror}") from problem
    lines = [(k, line.strip()) for k, line in enumerate(lines, 1)]
    return _Input(path, [(k, line) for k, line in lines if line and line[0] not in "!#%"])


def _find(folder, keywords) -> Path | None:
    """The input file with these keywords in a folder, or else in one of its folders."""
    usual = "generate.in" if keywords is GENERATE else "train.in"
    inner = [entry for entry in sorted(folder.iterdir()) if entry.is_dir()]
    for folders in ([folder], inner):
        found = []
        for place in folders:
            files = sorted(file for file in place.glob("*.in") if file.is_file())
            named = [file for file in files if file.name == usual]
            found += [f for f in named or files if all(map(_read_input(f).has, keywords))]
        if len(found) > 1:
            raise DataError(
                f"{folder}: {' and '.join(str(f.relative_to(folder)) for f in found[:2])} are "
                f"both inputs for training; name the one that counts {usual}"
            )
        if found:
            return found[0]
    return None


# -- generate.in -----------------------------------------------------------------------------------


def _of_generate(path, notes) -> dict:
    asked = _read_input(path)
    energies = {}
    for number, line in asked.counted("TYPES"):
        words = line.split()
        if len(words) < 2 or atomic_numbers.get(words[0], 0) < 1 or words[0] in energies:
            asked.fail(number, f"{line[:60]!r}: expected an element and its energy, each once")
        energies[words[0]] = asked.converted(real, words[1], number, "energy of an atom")
    elements = list(energies)
    setups = {}
    for number, line in asked.block("SETUPS", len(elements)):
        words = line.split()
        if len(words) < 2 or words[0] not in elements or words[0] in setups:
            asked.fail(number, f"{line[:60]!r}: expected one of {' '.join(elements)} and its file")
        setups[words[0]] = read_setup(path.parent / words[1], DataError)
        if setups[words[0]].element != words[0]:
            asked.fail(number, f"{words[1]} is the setup of {setups[words[0]].element}")
    files = [_structure_file(asked, number, line) for number, line in asked.counted("FILES")]
    model = _model_of(path, [setups[element] for element in elements], elements, notes)
    data = {"train": [str(file) for file in files], "reference_energies": energies}
    if _kind_of_energies(files) == "cohesive":
        data["reference_energies"] = dict.fromkeys(elements, 0.0)
        notes.append(
            f"{path.name}: the structures have cohesive energies, so the energies of TYPES are "
            "not used and the model predicts cohesive energies"
        )
    loss = {}
    forces, share = asked.flag("FORCES"), asked.value("FORCESPERCENT", real)
    if forces and share is not None:
        if not 0 < share <= 100:
            raise DataError(f"{path}: FORCESPERCENT {share}, expected a number up to 100")
        loss["force_fraction"] = share / 100
    notes += asked.left()
    return {"data": data, "model": model, "loss": loss}


def _structure_file(asked, number, line):
    file = asked.path.parent / line
    if not file.is_file():
        file = asked.path.parent / line.split()[0]
    if not file.is_file():
        asked.fail(number, f"{line}: no such file")
    return file


def _kind_of_energies(files):
    """ "total" or "cohesive"; that all have one kind is seen to here, as each is a file."""
    first = None
    for file in files:
        kind = parse(str(file), file.read_bytes())[1]
        if kind is None:
            raise DataError(f"{file}: no comment '# total energy = X eV'")
        first = first or (kind, file)
        if kind != first[0]:
            raise DataError(
                f"{file}: has a {kind} energy, but {first[1]} a {first[0]} one; keep them apart"
            )
    return first[0]


def _model_of(path, setups, elements, notes):
    try:
        descriptor = descriptor_of(setups, elements)
    except ConfigError as problem:
        raise DataError(f"{path}: {problem}") from None
    settings = descriptor.settings
    for setup in setups:
        notes.append(
            f"{setup.element}: RMIN {setup.shortest} Å is not used: fdforce refuses atoms closer "
            "than 0.3 Å"
        )
        if stale_spins(setup):
            notes.append(
                f"{setup.element}: angular_Rc is beyond radial_Rc, where ænet's own features are "
                "wrong; fdforce's are right, but the model cannot be exported to ænet"
            )
    table = {"elements": settings.pop("elements"), "baseline": "none"}
    if isinstance(descriptor, SymmetryFunctions):
        names = ("functions", "cutoff_type", "order")
        settings = {name: settings[name] for name in names}
    return {**table, "descriptor": descriptor.name, **settings}


# -- train.in --------------------------------------------------------------------------------------


def _of_train(path, tables, notes) -> None:
    asked = _read_input(path)
    elements = tables["model"]["elements"]
    tables["model"] |= _networks(asked, elements, notes)
    _parts(asked, tables["data"], notes)
    training = tables["training"] = {}
    for keyword, key in (("ITERATIONS", "epochs"), ("NPSEED", "seed")):
        value = asked.value(keyword, integer)
        if value is not None:
            training[key] = value
    method = asked.find("METHOD", 1)
    text = method[2][0][1] if method else "bfgs"
    settings = {k.lower(): v for k, v in re.findall(r"(\w+)\s*=\s*(\S+)", text)}
    where = method[2][0][0] if method else 1
    if "method" in settings:
        _of_pytorch(asked, where, settings, tables, notes)
    else:
        _of_fortran(asked, where, text.split()[0].lower(), settings, tables, notes)
    notes += asked.left()


def _networks(asked, elements, notes):
    hidden, activation = {}, {}
    for number, line in asked.block("NETWORKS", len(elements)):
        words = line.split()
        if len(words) < 3 or words[0] not in elements or words[0] in hidden:
            asked.fail(
                number,
                f"{line[:60]!r}: expected one of {' '.join(elements)}, a file, the number of "
                "hidden layers, and nodes:activation of each",
            )
        n = asked.converted(integer, words[2], number, "number of hidden layers")
        layers = words[3 : 3 + n]
        if n < 0 or len(layers) < n:
            asked.fail(number, f"{n} hidden layers, but {len(words) - 3} nodes:activation")
        widths, names = [], []
        for layer in layers:
            width, _, name = layer.partition(":")
            code = {**NAMES, **SHORT_NAMES}.get(name.lower())
            if code is None:
                asked.fail(number, f"{layer}: expected nodes:activation, {', '.join(NAMES)}")
            widths.append(asked.converted(integer, width, number, layer))
            names.append(ACTIVATIONS[code])
        hidden[words[0]], activation[words[0]] = widths, names
        if any((asked.path.parent / (words[1] + end)).is_file() for end in ("", ".ascii")):
            notes.append(
                f"{asked.path.name}, line {number}: there is a {words[1]}, but the run starts "
                "with new networks; `fdforce import aenet` and training.start_from begin with it"
            )
    return shorten(elements, *spell_out(elements, hidden, activation))


def _parts(asked, data, notes):
    share = asked.value("TESTPERCENT", real)
    share = 10.0 if share is None else share
    if not 0 <= share < 100:
        raise DataError(f"{asked.path}: TESTPERCENT {share}, expected 0 to below 100")
    data["valid"], data["test"] = share / 100, 0.0
    notes.append(
        f"{asked.path.name}: TESTPERCENT {share:g} are validated on, and the best epoch is chosen "
        "by them; set data.test for structures that nothing is chosen by"
    )


ONLY_ENERGIES = {"kind": "squared", "energy_weight": 1.0, "force_weight": 0.0, "stress_weight": 0.0}


def _of_fortran(asked, where, name, settings, tables, notes):
    """train.x: energies alone."""
    tables["loss"] = {**ONLY_ENERGIES, "energy_normalisation": "per_atom"}
    notes.append(
        f"{asked.path.name}: train.x learns from energies alone; with --set loss.force_weight=1 "
        "fdforce learns from the forces in the files, too"
    )

    def number(key, default):
        return asked.converted(real, settings.pop(key, default), where, key)

    optimizer = tables["optimizer"] = {}
    if name == "bfgs":
        optimizer["name"] = "lbfgs"
    elif name == "adam":
        optimizer |= {
            "name": "adam", "learning_rate": number("mu", "0.001"), "weight_decay": 0.0,
            "beta1": number("b1", "0.9"), "beta2": number("b2", "0.999"),
            "batch_size": max(int(number("batchsize", "1")), 1),
        }  # fmt: skip
        _constant_rate(tables["training"])
    elif name in ("online_sd", "online_gd"):
        optimizer |= {
            "name": "sgd", "learning_rate": number("alpha", "0.01"), "weight_decay": 0.0,
            "beta1": number("gamma", "0.9"), "batch_size": 1,
        }  # fmt: skip
        _constant_rate(tables["training"])
    elif name in ("ekf", "lm"):
        optimizer["name"] = "kalman"
        notes.append(
            f"{asked.path.name}, line {where}: {name} becomes fdforce's Kalman filter, with its "
            "own settings"
        )
    else:
        asked.fail(where, f"{name!r}: expected bfgs, online_sd, adam, ekf or lm")
    _note_rest(asked, where, settings, notes)


def _of_pytorch(asked, where, settings, tables, notes):
    """ænet-PyTorch: root mean squares of energies and forces, mixed by alpha."""
    name = settings.pop("method").lower()
    if name not in ("adam", "adamw", "adamax", "adagrad", "adadelta"):
        asked.fail(where, f"{name!r}: expected adam, adamw, adamax, adagrad or adadelta")
    optimizer = tables["optimizer"] = {"name": name, "weight_decay": 0.0}
    if "lr" in settings:
        optimizer["learning_rate"] = asked.converted(real, settings.pop("lr"), where, "lr")
    batch = asked.value("BATCHSIZE", integer)
    optimizer["batch_size"] = 256 if batch is None else batch
    penalty = asked.value("REGULARIZATION", real) or 0.0
    optimizer["weight_decay" if name == "adamw" else "l2"] = penalty
    _constant_rate(tables["training"])
    alpha = asked.find("FORCES", 1)
    loss = {"kind": "rmse", "alpha": 0.0, "energy_weight": 1.0, "force_weight": 0.0}
    if alpha is not None:
        number, line = alpha[2][0]
        words = dict(re.findall(r"(\w+)\s*=\s*(\S+)", line.lower()))
        if "alpha" not in words:
            asked.fail(number, f"{line[:60]!r}: expected alpha=")
        value = asked.converted(real, words["alpha"], number, "alpha")
        loss |= {"alpha": value, "force_weight": 1.0}
        loss["force_fraction"] = tables["loss"].get("force_fraction", 1.0)
    else:
        notes.append(f"{asked.path.name}: no FORCES: energies alone are learnt")
    tables["loss"] = {**loss, "stress_weight": 0.0}
    mode = asked.value("MODE", str)
    if mode is not None and mode.lower() != "train":
        notes.append(
            f"{asked.path.name}: MODE {mode} is not used; a fit that begins with a model is "
            "training.start_from, and frozen_layers = 1 keeps its first layer"
        )
    _note_rest(asked, where, settings, notes)


def _constant_rate(training):
    training |= {"schedule": "constant", "warm_up": 0.0}


def _note_rest(asked, where, settings, notes):
    for key, value in settings.items():
        notes.append(f"{asked.path.name}, line {where}: {key}={value} is not used")
