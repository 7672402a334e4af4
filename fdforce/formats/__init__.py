"""Files of other programs, one module (or package) for each format.

A module offers what its format allows, under these names:

``read_potential(path, *, units) -> model``
    A potential as an `EnergyModel` (`POTENTIALS`). `units` is "ev-angstrom" or "hartree-bohr", for
    formats that do not say; the model is in eV and Å.
``write_potential(model, path) -> str``
    Writes the files of a potential and returns what a user has to paste elsewhere (`POTENTIALS`).
    Raises ModelFileError, before anything is written, where the format cannot hold the model.
``recognises(path) -> bool``, ``read_structures(path) -> iterator of ase.Atoms``
    Structures with labels in eV and Å (`STRUCTURES`); `path` is a file or a folder, recognised by
    its name and first bytes. Structures come one at a time.
``assumed_units(path) -> str``
    A line that says which units a file is taken to be in (`STRUCTURES`), of formats whose files do
    not say.
``write_structures(path, frames) -> int``
    The number of structures written (`STRUCTURES`), frame by frame. Labels are in the calculator
    of a frame. A module that keeps config_type, weight and all other ``info`` says
    ``KEEPS_INFO = True``, and one without place for stresses ``KEEPS_STRESS = False``;
    `fdforce convert` says what is left out.
``recognises_training(path) -> bool``, ``read_training(path, *, units) -> Training``
    A training directory of another program as a configuration (`TRAINING`).

Errors of reading are DataError or ModelFileError with file, line and reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType

POTENTIALS: dict[str, str] = {
    "n2p2": "fdforce.formats.n2p2",
    "aenet": "fdforce.formats.aenet",
    "mliap": "fdforce.formats.mliap",
    "snap": "fdforce.formats.snap",
}
"""name -> module, for `fdforce import` and `fdforce export`."""

STRUCTURES: dict[str, str] = {
    "n2p2": "fdforce.formats.n2p2",
    "ani": "fdforce.formats.ani_hdf5",
    "md17": "fdforce.formats.md17_npz",
    "qm9": "fdforce.formats.qm9_xyz",
    "ase-db": "fdforce.formats.ase_db",
    "deepmd": "fdforce.formats.deepmd_npy",
    "aenet": "fdforce.formats.aenet",
    "fitsnap": "fdforce.formats.fitsnap_json",
    "lammps-data": "fdforce.formats.lammps_data",
    "lammps-dump": "fdforce.formats.lammps_dump",
}
"""name -> module; asked in this order whether they recognise a file, before ASE is."""

WRITTEN = ("extxyz", "ase-db", "deepmd", "n2p2", "aenet")
"""What `fdforce convert` writes; all but extxyz by `write_structures` of their module."""

TRAINING: dict[str, str] = {
    "n2p2": "fdforce.formats.n2p2",
    "aenet": "fdforce.formats.aenet",
    "fitsnap": "fdforce.formats.fitsnap_input",
}
"""name -> module, for `fdforce fit DIRECTORY`."""


@dataclass(frozen=True)
class Training:
    """What a training directory asks for.

    Attributes
    ----------
    tables : dict
        Tables of a configuration; ``data.train`` names files that `read_structures` reads.
    notes : list of str
        A line for everything that is read differently, or not at all; never empty of what is
        ignored.
    """

    tables: dict
    notes: list[str] = field(default_factory=list)


def find_module(registry: dict[str, str], name: str) -> ModuleType:
    """The module of a format."""
    return import_module(registry[name])


def recognised(path: Path) -> ModuleType | None:
    """The module of the first format in `STRUCTURES` that recognises a file or folder."""
    for name in STRUCTURES:
        module = find_module(STRUCTURES, name)
        if module.recognises(path):
            return module
    return None


def recognised_training(path: Path) -> ModuleType | None:
    """The module of the first format in `TRAINING` that recognises a folder."""
    for name in TRAINING:
        module = find_module(TRAINING, name)
        if module.recognises_training(path):
            return module
    return None
