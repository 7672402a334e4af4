"""``fdforce predict``."""

import tempfile
from pathlib import Path

import click

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
    from fdforce.threads import limit_threads

    output = Path(output)
    file_format = _writable_format(output)
    model = load_model(model, precision=precision)
    frames, warnings = [], []
    with limit_threads(threads) as threads:
        for path in data:
            of_file, warning = _predicted(model, path, threads)
            frames += of_file
            warnings += warning
    _write(output, frames, file_format)
    click.echo(f"{len(frames)} structures: {output}")
    for warning in warnings:
        click.echo(warning, err=True)


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


def _predicted(model, path, threads):
    """The structures of a file with predictions in place of their labels, and warnings."""
    from ase import Atoms

    from fdforce.assessment import assess
    from fdforce.structure_files import read_file
    from fdforce.structures import read_structures

    frames = read_file(path)
    if not frames:
        raise DataError(f"{path}: no structures found")
    # labels are of no use here, and damaged ones should not stop a prediction
    bare = [Atoms(f.numbers, positions=f.positions, cell=f.cell, pbc=f.pbc) for f in frames]
    try:
        structures, _ = read_structures(bare, elements=model.elements, keep_isolated=True)
    except DataError as problem:
        message = str(problem)
        if message.startswith("atoms["):
            message = f"{Path(path).name}{message.removeprefix('atoms')}"
        raise DataError(message) from problem
    assessed = assess(model, structures, threads=threads)
    outside = assessed.outside
    for s, atoms in enumerate(frames):
        _label(atoms, assessed, s, structures.offsets)
    return frames, _mark(frames, outside, structures, Path(path).name) if outside else []


def _mark(frames, outside, structures, name):
    """Write beside atoms that extrapolate how many of their features do, and warn."""
    import numpy as np

    for s in np.unique(outside.structure):
        here = outside.structure == s
        marks = np.zeros(len(frames[s]), dtype=int)
        marks[outside.atom[here]] = outside.count[here]
        frames[s].set_array("features_outside", marks)
    s, atom = outside.structure[0], outside.atom[0]
    return [
        f"warning: {name}: {len(outside)} of {structures.n_atoms} atoms ({outside.n_structures} of "
        f"{len(structures)} structures) have features outside their training range, furthest "
        f"atom {atom} of structure {s}"
    ]


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


def _write(output: Path, frames, file_format):
    """Write to a temporary folder beside the file and move it there when it is complete."""
    import ase.io

    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".predict-", dir=output.parent) as folder:
        temporary = Path(folder) / output.name
        try:
            ase.io.write(temporary, frames, format=file_format)
        except OSError:
            raise
        # ASE's writers raise whatever they tripped over, often that a format holds one structure
        except Exception as problem:
            reason = f"{type(problem).__name__}: {problem}".splitlines()[0]
            raise FdforceError(
                f"{output}: ASE cannot write it as {file_format} ({reason:.200}); take .extxyz"
            ) from problem
        temporary.replace(output)
