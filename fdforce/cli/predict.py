"""``fdforce predict``."""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click

from fdforce.cli.messages import to_stderr
from fdforce.cli.options import (
    command,
    data_argument,
    device_option,
    model_argument,
    precision_option,
    threads_option,
)
from fdforce.errors import DataError, FdforceError

_OURS = (
    "energy", "free_energy", "energies", "forces", "stress", "virial", "stresses",
    "energy_std", "forces_std", "features_outside",
)  # fmt: skip


@command("predict", short_help="Write what a model predicts for structures.")
@model_argument
@data_argument
@click.option(
    "-o", "--output", required=True, metavar="OUT", help="File to write; replaced if it exists."
)
@device_option
@precision_option
@threads_option
def predict(model, data, output, device, precision, threads):
    """Write energies, forces and stresses that MODEL (a model.npz) predicts for DATA.

    OUT may have any format that ASE writes; .extxyz keeps everything. Energies are in eV, energies
    per atom (array "energies") in eV, forces in eV/Å and, where periodic in three directions, the
    stress in eV/Å³ with ASE's sign. An ensemble adds the standard deviations of its members,
    energy_std (eV) and the array forces_std (eV/Å). What else the input says of a structure is
    kept. OUT appears when it is complete. Atoms with features outside the range of the training set
    are counted, and in their structures the array "features_outside" says how many features each
    atom has there.

    \b
    Example:
      fdforce predict runs/first/model.npz new.extxyz -o predicted.extxyz
    """
    from fdforce.model_file import load_model
    from fdforce.structure_files import tell_units
    from fdforce.threads import limit_threads

    output = Path(output)
    file_format = _writable_format(output)
    model = load_model(model, precision=precision)
    tell_units(data, to_stderr)
    counts = []
    with limit_threads(threads) as threads, _Writer(output, file_format) as writer:
        for path in data:
            counts.append(_predict_file(model, path, threads, writer, device))
    click.echo(f"{sum(count.structures for count in counts)} structures: {output}")
    for path, count in zip(data, counts, strict=True):
        if count.atoms_outside:
            to_stderr(count.warning(Path(path).name))


def _writable_format(output: Path) -> str:
    """Name of the ASE format; refused before any work is done."""
    from ase.io.formats import UnknownFileTypeError, filetype, ioformats

    if output.is_dir():
        raise FdforceError(f"{output}: is a folder; name a file")
    try:
        name = filetype(str(output), read=False)
        writable = ioformats[name].can_write
    except (UnknownFileTypeError, KeyError):
        writable = False
    if not writable:
        raise FdforceError(f"{output}: ASE writes no such format; take a name in .extxyz")
    return name


@dataclass
class _Count:
    """Structures and atoms of a file, and how many of them extrapolate."""

    structures: int = 0
    atoms: int = 0
    structures_outside: int = 0
    atoms_outside: int = 0
    furthest: tuple = (0.0, 0, 0)
    """How far outside, the atom, and its structure."""

    def add(self, structures, outside, first: int) -> None:
        """Count some more structures, of which the first one is structure `first`."""
        self.structures += len(structures)
        self.atoms += structures.n_atoms
        if not outside:
            return
        self.structures_outside += outside.n_structures
        self.atoms_outside += len(outside)
        if outside.ranges[0] > self.furthest[0]:
            self.furthest = outside.ranges[0], outside.atom[0], first + outside.structure[0]

    def warning(self, name: str) -> str:
        """What a user should know of a file."""
        return (
            f"warning: {name}: {self.atoms_outside} of {self.atoms} atoms "
            f"({self.structures_outside} of {self.structures} structures) have features outside "
            f"their training range, furthest atom {self.furthest[1]} of structure "
            f"{self.furthest[2]}"
        )


def _predict_file(model, path, threads, writer, device) -> _Count:
    """Write the structures of a file with predictions in place of their labels."""
    from fdforce.structure_files import CHUNK_ATOMS, chunks_of, iterate_file

    count = _Count()
    for first, frames in chunks_of(iterate_file(path), CHUNK_ATOMS):
        assessed = _assessed(model, frames, threads, Path(path).name, first, device)
        for s, atoms in enumerate(frames):
            _label(atoms, assessed, s, assessed.structures.offsets)
        if assessed.outside:
            _mark(frames, assessed.outside)
        count.add(assessed.structures, assessed.outside, first)
        writer.write(frames)
    if not count.structures:
        raise DataError(f"{path}: no structures found")
    return count


def _assessed(model, frames, threads, name, first, device):
    from ase import Atoms

    from fdforce.assessment import assess
    from fdforce.structures import read_structures

    # labels are of no use here, and damaged ones should not stop a prediction
    bare = [Atoms(f.numbers, positions=f.positions, cell=f.cell, pbc=f.pbc) for f in frames]
    try:
        structures, _ = read_structures(bare, elements=model.elements, keep_isolated=True)
    except DataError as problem:
        found = re.fullmatch(r"atoms\[(\d+)\](.*)", str(problem), re.DOTALL)
        if not found:
            raise
        raise DataError(f"{name}[{first + int(found[1])}]{found[2]}") from problem
    return assess(model, structures, threads=threads, device=device)


def _mark(frames, outside):
    """Write beside atoms that extrapolate how many of their features do."""
    import numpy as np

    for s in np.unique(outside.structure):
        here = outside.structure == s
        marks = np.zeros(len(frames[s]), dtype=int)
        marks[outside.atom[here]] = outside.count[here]
        frames[s].set_array("features_outside", marks)


def _label(atoms, assessed, s, offsets):
    import numpy as np
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.stress import full_3x3_to_voigt_6_stress

    for name in _OURS:
        atoms.info.pop(name, None)
        atoms.arrays.pop(name, None)
    prediction, of_structure = assessed.prediction, slice(offsets[s], offsets[s + 1])
    results = {
        "energy": float(prediction.energies[s]),
        "energies": prediction.atom_energies[of_structure],
        "forces": prediction.forces[of_structure],
    }
    if not np.isnan(prediction.stresses[s, 0, 0]):
        results["stress"] = full_3x3_to_voigt_6_stress(prediction.stresses[s])
    atoms.calc = SinglePointCalculator(atoms, **results)
    if assessed.members is not None:
        atoms.info["energy_std"] = float(assessed.members.energy_std[s])
        atoms.arrays["forces_std"] = assessed.members.forces_std[of_structure]


class _Writer:
    """Writes into a temporary folder beside a file, and moves it there when it is complete.

    Extended xyz is written as it comes; of other formats ASE wants all structures together.
    """

    def __init__(self, output: Path, file_format: str):
        self.output, self.format = output, file_format
        self.streams = output.suffix == ".extxyz"
        self.kept: list = []

    def __enter__(self):
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(prefix=".predict-", dir=self.output.parent)
        self.temporary = Path(self._folder.name) / self.output.name
        return self

    def __exit__(self, kind, *_):
        try:
            if kind is None:
                if not self.streams:
                    self._write(self.kept)
                self.temporary.replace(self.output)
        finally:
            self._folder.cleanup()

    def write(self, frames: list) -> None:
        """Add structures."""
        if self.streams:
            self._write(frames, append=True)
        else:
            self.kept += frames

    def _write(self, frames, **options):
        import ase.io

        try:
            ase.io.write(self.temporary, frames, format=self.format, **options)
        except OSError:
            raise
        # ASE's writers raise whatever they tripped over, often that a format holds one structure
        except Exception as problem:
            reason = f"{type(problem).__name__}: {problem}".splitlines()[0]
            raise FdforceError(
                f"{self.output}: ASE cannot write it as {self.format} ({reason:.200}); take .extxyz"
            ) from problem
