#!/usr/bin/env python3
"""Generate the example data sets in ``fdforce/data``.

Two systems are sampled by Langevin molecular dynamics on the Hamiltonian that
also gives the labels, computed by tblite (https://tblite.readthedocs.io):

``ethanol``
    one molecule without a cell, GFN2-xTB: energies and forces.
``diamond``
    16 carbon atoms (2x2x2 primitive cells), GFN1-xTB at the Gamma point:
    energies, forces and stress.  The cell gets a new random strain (volume and
    shear) for every stored frame.  GFN1-xTB is used because it is more
    than ten times faster here than GFN2-xTB.

Training and test frames come from different trajectories, with their own random
streams for starting geometry, velocities, thermostat and strains.

Positions and cells are rounded to the written digits *before* the labels are
computed, so that each label belongs to exactly the geometry in the file.

Usage::

    pip install tblite ase numpy
    export OMP_NUM_THREADS=1
    python scripts/make_example_data.py check              # finite differences
    python scripts/make_example_data.py make ethanol diamond
"""

import argparse
import gzip
import io
import time
import zlib
from importlib.metadata import version
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
from tblite.ase import TBLite

DATA = Path(__file__).resolve().parents[1] / "fdforce" / "data"

#: SCF accuracy of tblite (1 is its default; smaller is tighter).
MD_ACCURACY, LABEL_ACCURACY = 1.0, 0.01

#: Lattice constant (Angstrom) close to zero pressure for the 16-atom cell.
DIAMOND_A = 3.63
#: Amplitudes of the uniform random strain: isotropic part, and each component.
ISOTROPIC, COMPONENT = 0.03, 0.02

#: Per system: method, time step (fs), friction (1/fs), MD steps before the first
#: frame and between frames, and {split: {temperature (K): frames per trajectory}}.
SYSTEMS = {
    "ethanol": dict(
        method="GFN2-xTB",
        timestep=0.5,
        friction=0.01,
        equilibrate=2000,
        stride=100,
        trajectories={
            "train": {300: [100] * 3, 600: [100] * 3, 1000: [100] * 4},
            "test": {300: [50] * 2, 600: [50] * 2, 1000: [50] * 2},
        },
    ),
    "diamond": dict(
        method="GFN1-xTB",
        timestep=1.5,
        friction=0.02,
        equilibrate=60,
        stride=14,
        trajectories={
            "train": {300: [50] * 2, 600: [50] * 2, 1000: [50] * 2},
            "test": {300: [20], 600: [20], 1000: [20]},
        },
    ),
}


def calculator(method: str, accuracy: float) -> TBLite:
    return TBLite(method=method, accuracy=accuracy, max_iterations=500, verbosity=0)


def reference_structure(system: str, rng: np.random.Generator) -> Atoms:
    """Starting geometry; the hydroxyl torsion of ethanol is drawn at random."""
    if system == "diamond":
        return bulk("C", "diamond", a=DIAMOND_A) * (2, 2, 2)
    atoms = molecule("CH3CH2OH")
    # Atoms 0 to 3 are C, C, O and the hydrogen on the oxygen.
    atoms.set_dihedral(0, 1, 2, 3, angle=rng.uniform(0.0, 360.0), indices=[3])
    return atoms


def random_strain(rng: np.random.Generator) -> np.ndarray:
    """A symmetric 3x3 strain: an isotropic part plus six random components."""
    strain = rng.uniform(-COMPONENT, COMPONENT, (3, 3))
    strain = np.triu(strain) + np.triu(strain, 1).T
    return strain + rng.uniform(-ISOTROPIC, ISOTROPIC) * np.eye(3)


def label(atoms: Atoms, method: str) -> dict:
    """Round the geometry to the written digits and compute its labels."""
    positions = atoms.get_positions()
    if not atoms.pbc.any():
        positions -= atoms.get_center_of_mass()
    frame = Atoms(atoms.symbols, positions.round(6), cell=atoms.cell[:].round(6), pbc=atoms.pbc)
    frame.calc = calculator(method, LABEL_ACCURACY)
    result = dict(atoms=frame, energy=frame.get_potential_energy(), forces=frame.get_forces())
    if frame.pbc.all():
        result["stress"] = frame.get_stress(voigt=False)
    return result


def run_trajectory(system: str, name: str, temperature: int, frames: int) -> list[dict]:
    """Labelled frames of one trajectory, with its own random stream."""
    setup = SYSTEMS[system]
    rng = np.random.default_rng(zlib.crc32(f"{system}/{name}".encode()))
    atoms = reference_structure(system, rng)
    reference_cell = atoms.cell[:].copy()
    atoms.calc = calculator(setup["method"], MD_ACCURACY)
    # Starting at a minimum, half of the kinetic energy soon becomes potential.
    MaxwellBoltzmannDistribution(atoms, temperature_K=2 * temperature, rng=rng)
    Stationary(atoms)
    timestep, friction = setup["timestep"] * units.fs, setup["friction"] / units.fs
    bath = dict(temperature_K=temperature, friction=friction, rng=rng, fixcm=False)
    dynamics = Langevin(atoms, timestep, **bath)
    dynamics.run(setup["equilibrate"])
    out = []
    for _ in range(frames):
        if atoms.pbc.all():
            cell = reference_cell @ (np.eye(3) + random_strain(rng))
            atoms.set_cell(cell, scale_atoms=True)
        dynamics.run(setup["stride"])
        source = dict(temperature=temperature, trajectory=name, method=setup["method"])
        out.append(label(atoms, setup["method"]) | source)
    return out


def format_frame(frame: dict) -> str:
    """One frame as extended XYZ: Angstrom, eV, eV/Angstrom, eV/Angstrom^3."""

    def join(values, digits):
        # Adding 0.0 turns the -0.0 that rounding can leave into 0.0.
        return " ".join(f"{x:.{digits}f}" for x in np.ravel(values).round(digits) + 0.0)

    atoms = frame["atoms"]
    head = []
    if atoms.pbc.all():
        head.append(f'Lattice="{join(atoms.cell[:], 6)}"')
    head += ["Properties=species:S:1:pos:R:3:forces:R:3", f"energy={frame['energy']:.8f}"]
    if "stress" in frame:
        head.append(f'stress="{join(frame["stress"], 8)}"')
    head += [f"{key}={frame[key]}" for key in ("temperature", "trajectory", "method")]
    head += [f"program=tblite-{version('tblite')}"]
    head += ['pbc="T T T"' if atoms.pbc.all() else 'pbc="F F F"']
    lines = [str(len(atoms)), " ".join(head)]
    for symbol, x, f in zip(atoms.get_chemical_symbols(), atoms.positions, frame["forces"]):
        lines.append(f"{symbol} {join(x, 6)} {join(f, 6)}")
    return "\n".join(lines) + "\n"


def write(path: Path, frames: list[dict]) -> None:
    """Write gzip without a time stamp or name: equal frames give equal bytes."""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=buffer, mode="wb", compresslevel=9, mtime=0) as out:
        out.write("".join(map(format_frame, frames)).encode("ascii"))
    path.write_bytes(buffer.getvalue())


def make(system: str, out: Path) -> None:
    for split, by_temperature in SYSTEMS[system]["trajectories"].items():
        start, frames = time.perf_counter(), []
        for temperature, lengths in by_temperature.items():
            for index, length in enumerate(lengths):
                name = f"{split}-{temperature}K-{index}"
                frames += run_trajectory(system, name, temperature, length)
                elapsed = time.perf_counter() - start
                print(f"{name}: {length} frames, {elapsed:.0f} s", flush=True)
        path = out / f"{system}_{split}.extxyz.gz"
        write(path, frames)
        print(f"{path.name}: {len(frames)} frames, {path.stat().st_size} bytes", flush=True)


def energy_slope(atoms: Atoms, method: str, displacement=0.0, strain=0.0, h=5e-4) -> float:
    """Fourth-order central difference of the energy along a displacement and a strain."""

    def energy(x):
        trial = atoms.copy()
        if atoms.pbc.all():
            trial.set_cell(atoms.cell[:] @ (np.eye(3) + x * strain), scale_atoms=True)
        trial.positions += x * displacement
        trial.calc = calculator(method, LABEL_ACCURACY)
        return trial.get_potential_energy()

    return (8 * (energy(h) - energy(-h)) - energy(2 * h) + energy(-2 * h)) / (12 * h)


def check(system: str) -> None:
    """Print the errors of forces and stress against differences of the energy."""
    method = SYSTEMS[system]["method"]
    rng = np.random.default_rng(7)
    atoms = reference_structure(system, rng)
    atoms.positions += rng.normal(0.0, 0.06, (len(atoms), 3))
    if atoms.pbc.all():
        atoms.set_cell(atoms.cell[:] @ (np.eye(3) + random_strain(rng)), scale_atoms=True)
    frame = label(atoms, method)
    atoms = frame["atoms"]

    def report(what, errors, scale):
        error = np.abs(errors).max()
        print(f"{system}: {what}: error {error:.1e} of {scale:.3f}, relative {error / scale:.1e}")

    errors = []
    for i, k in np.ndindex(len(atoms), 3):
        unit = np.zeros((len(atoms), 3))
        unit[i, k] = 1.0
        errors.append(energy_slope(atoms, method, displacement=unit) + frame["forces"][i, k])
    report("forces (eV/A)", errors, np.abs(frame["forces"]).max())
    if "stress" not in frame:
        return
    errors = []
    for i, j in [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]:
        unit = np.zeros((3, 3))
        unit[i, j] += 0.5
        unit[j, i] += 0.5
        slope = energy_slope(atoms, method, strain=unit)
        errors.append(slope / atoms.get_volume() - frame["stress"][i, j])
    report("stress (eV/A^3)", errors, np.abs(frame["stress"]).max())


def main() -> None:
    parser = argparse.ArgumentParser(description="Make or check the example data sets.")
    parser.add_argument("action", choices=["make", "check"])
    parser.add_argument("systems", nargs="*", metavar="system", help=", ".join(SYSTEMS))
    parser.add_argument("--out", type=Path, default=DATA, help="folder for the files")
    args = parser.parse_args()
    for system in args.systems or SYSTEMS:
        if system not in SYSTEMS:
            parser.error(f"unknown system {system!r}")
        make(system, args.out) if args.action == "make" else check(system)


if __name__ == "__main__":
    main()
