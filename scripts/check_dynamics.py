#!/usr/bin/env python3
"""Check that trained potentials can be used: energy conservation, relaxation, stability.

Trains a potential on each of the two examples inside the package (or takes ``--model``) and runs

- constant-energy dynamics, 10 ps with steps of 0.5 fs: ethanol at 300 K, diamond at 300 and 600 K;
- relaxations to 0.01 eV/Å: the molecule with BFGS, the solid and its cell with FIRE;
- Langevin dynamics at 1000 K for 20 ps, from the relaxed geometry and from one compressed by 15 %
  in volume and by 15 % in length, with the short-range baseline and without it.

Prints a table and writes the same numbers as JSON. About 8 minutes on two cores.

Usage::

    python scripts/check_dynamics.py --out dynamics.json
    python scripts/check_dynamics.py --model ethanol=runs/a/model.npz
"""

import argparse
import copy
import json
import os
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from ase import units
from ase.filters import FrechetCellFilter
from ase.io import read
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import Stationary, ZeroRotation
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS, FIRE

import fdforce
from fdforce.examples import example_files

TIMESTEP = 0.5  # fs
FORCE_GOAL = 0.01  # eV/Å
HOT = 1000  # K
FRICTION = 0.01 / units.fs
#: Temperatures (K) of the constant-energy runs.
TEMPERATURES = {"ethanol": (300,), "diamond": (300, 600)}
#: Factors of all lengths at the start of the stability runs.
COMPRESSIONS = {"relaxed": 1.0, "-15 % volume": 0.85 ** (1 / 3), "-15 % length": 0.85}
#: Stable is a run below this temperature (K), more where it starts with the energy of a
#: compression, and above this distance (Å) ...
HOTTEST, CLOSEST = 4 * HOT, 0.3
#: ... and intact one in which no atom is farther (Å) from all others; atoms that leave say that
#: bonds longer than those of the data are too weak, which is no failure of the dynamics.
LOOSEST = 2.2
WATCH_EVERY = 10  # steps


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", default=[], metavar="EXAMPLE=MODEL.npz")
    parser.add_argument("--seconds", type=float, default=80, help="of training, per example")
    parser.add_argument("--nve-ps", type=float, default=10, help="length of constant-energy runs")
    parser.add_argument("--nvt-ps", type=float, default=20, help="length of stability runs")
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("dynamics.json"))
    options = parser.parse_args()
    given = dict(entry.split("=", 1) for entry in options.model)
    results = {"machine": machine(options.threads), "systems": {}}
    for name in TEMPERATURES:
        model = fdforce.load_model(given[name]) if name in given else train(name, options)
        results["systems"][name] = check(name, model, options)
    options.out.write_text(json.dumps(results, indent=1))
    print(f"written: {options.out}")


def machine(threads):
    """Where and with what the numbers were made."""
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        processor = models[0] if models else processor
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": threads,
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "numba", "ase")},
        "fdforce": fdforce.__version__,
    }


def train(name, options):
    """Train with the defaults for so many seconds."""
    training, test = (str(path) for path in example_files(name))
    with tempfile.TemporaryDirectory() as folder:
        result = fdforce.fit(
            train=[training], test=[test], max_time=options.seconds, threads=options.threads,
            out=Path(folder) / name,
        )  # fmt: skip
    errors = result.metrics["test"]
    print(
        f"{name}: test energy {1000 * errors['energy_rmse']:.2f} meV/atom, "
        f"forces {1000 * errors['force_rmse']:.0f} meV/Å"
    )
    return result.model


def check(name, model, options):
    """Every check of one system; returns a dict of dicts."""
    start = read(example_files(name)[0], index=0)
    start.calc = None
    outer = None if model.baseline is None else np.round(model.baseline.outer, 3).tolist()
    found = {"baseline_outer": outer, "elements": list(model.elements)}
    relaxed, found["relaxation"] = relax(start, model, options)
    show(name, "relaxation", found["relaxation"])
    found["conservation"] = {}
    for temperature in TEMPERATURES[name]:
        row = conserve(relaxed, model, temperature, options)
        found["conservation"][f"{temperature} K"] = row
        show(name, f"NVE {temperature} K", row)
    found["stability"] = {}
    bare = copy.copy(model)
    bare.baseline = None
    for kind, potential in (("baseline", model), ("no baseline", bare)):
        for label, factor in COMPRESSIONS.items():
            row = survive(relaxed, potential, factor, options)
            found["stability"][f"{label}, {kind}"] = row
            show(name, f"NVT {HOT} K, {label}, {kind}", row)
    return found


def relax(start, model, options):
    """Relax a rattled geometry, in three directions periodic ones with their strained cell."""
    atoms = with_model(start, model, options)
    rng = np.random.default_rng(options.seed)
    solid = atoms.pbc.all()
    if solid:
        strain = rng.uniform(-0.02, 0.02, size=(3, 3))
        atoms.set_cell(atoms.cell @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
    atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
    target = FrechetCellFilter(atoms) if solid else atoms
    optimizer = (FIRE if solid else BFGS)(target, logfile=None)
    converged = optimizer.run(fmax=FORCE_GOAL, steps=500)
    row = {
        "ok": bool(converged),
        "steps": optimizer.get_number_of_steps(),
        "max_force": float(np.linalg.norm(target.get_forces(), axis=1).max()),
        "energy_per_atom": atoms.get_potential_energy() / len(atoms),
    }
    if solid:
        row["volume_per_atom"] = atoms.get_volume() / len(atoms)
        row["max_stress"] = float(np.abs(atoms.get_stress()).max())
    return atoms, row


def conserve(relaxed, model, temperature, options):
    """Drift of the total energy by a linear fit and its largest deviation from the mean."""
    atoms = with_model(relaxed, model, options)
    # half of this kinetic energy goes into the potential
    set_velocities(atoms, 2 * temperature, options.seed)
    dynamics = VelocityVerlet(atoms, TIMESTEP * units.fs)
    n_steps = round(1000 * options.nve_ps / TIMESTEP)
    energies, temperatures = [], []

    def watch():
        energies.append(1000 * atoms.get_total_energy() / len(atoms))
        temperatures.append(atoms.get_temperature())

    dynamics.attach(watch, interval=1)
    began = time.perf_counter()
    dynamics.run(n_steps)
    seconds = time.perf_counter() - began
    picoseconds = np.arange(len(energies)) * TIMESTEP / 1000
    energies = np.array(energies)
    drift = np.polyfit(picoseconds, energies, 1)[0] * options.nve_ps
    deviation = np.abs(energies - energies.mean()).max()
    return {
        "ok": bool(abs(drift) < 1 and deviation < 1),
        "drift_meV_per_atom": drift,
        "max_deviation_meV_per_atom": deviation,
        "mean_temperature": float(np.mean(temperatures)),
        "list_builds": atoms.calc.n_builds,
        "us_per_step": 1e6 * seconds / n_steps,
    }


def survive(relaxed, model, factor, options):
    """Extremes of a hot run; it ends early where numbers stop being finite or atoms fly."""
    atoms = with_model(relaxed, model, options)
    atoms.set_cell(atoms.cell * factor, scale_atoms=False)
    atoms.positions *= factor
    set_velocities(atoms, HOT, options.seed)
    # the energy of compression becomes heat
    stored = atoms.get_potential_energy() - relaxed.get_potential_energy()
    limit = HOTTEST + max(stored, 0.0) / (1.5 * len(atoms) * units.kB)
    rng = np.random.default_rng(options.seed)
    dynamics = Langevin(
        atoms, TIMESTEP * units.fs, temperature_K=HOT, friction=FRICTION, fixcm=False, rng=rng
    )
    n_steps = round(1000 * options.nvt_ps / TIMESTEP)
    row = {
        "ok": True, "hottest": 0.0, "mean_temperature": 0.0, "largest_force": 0.0,
        "closest": np.inf, "loosest": 0.0, "picoseconds": 0.0,
    }  # fmt: skip
    sums, began = [], time.perf_counter()
    try:
        for _ in range(n_steps // WATCH_EVERY):
            dynamics.run(WATCH_EVERY)
            note(row, atoms)
            sums.append(atoms.get_temperature())
            row["picoseconds"] += WATCH_EVERY * TIMESTEP / 1000
            if not (row["hottest"] < 100 * HOT):
                break
    except fdforce.FdforceError as problem:
        row["error"] = str(problem)
    row["mean_temperature"] = float(np.mean(sums)) if sums else np.nan
    row["us_per_step"] = 1e6 * (time.perf_counter() - began) / (len(sums) * WATCH_EVERY + 1)
    row["ok"] = bool(
        "error" not in row
        and np.isfinite(row["largest_force"])
        and row["hottest"] < limit
        and row["closest"] > CLOSEST
    )
    row["intact"] = bool(row["loosest"] < LOOSEST)
    return row


def note(row, atoms):
    """Take extremes of temperature, forces and distances down."""
    distances = atoms.get_all_distances(mic=bool(atoms.pbc.any()))
    np.fill_diagonal(distances, np.inf)
    nearest = distances.min(axis=1)
    # np.maximum keeps NaN, max() does not
    for key, value in (
        ("hottest", atoms.get_temperature()),
        ("largest_force", np.linalg.norm(atoms.get_forces(), axis=1).max()),
        ("loosest", nearest.max()),
    ):
        row[key] = float(np.maximum(row[key], value))
    row["closest"] = float(np.minimum(row["closest"], nearest.min()))


def with_model(atoms, model, options):
    """A copy with a calculator of its own."""
    atoms = atoms.copy()
    atoms.calc = fdforce.Calculator(model, threads=options.threads)
    return atoms


def set_velocities(atoms, temperature, seed):
    """Random velocities; the whole neither moves nor, where nothing repeats, rotates."""
    rng = np.random.default_rng(seed)
    scale = np.sqrt(atoms.get_masses() * units.kB * temperature)
    atoms.set_momenta(scale[:, None] * rng.normal(size=atoms.positions.shape))
    Stationary(atoms)
    if not atoms.pbc.any():
        ZeroRotation(atoms)
    atoms.set_momenta(atoms.get_momenta() * np.sqrt(temperature / atoms.get_temperature()))


def show(name, what, row):
    """One line of the table."""
    numbers = "  ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in row.items()
        if key != "ok"
    )
    print(f"{name:8} {what:42} {'ok  ' if row['ok'] else 'FAIL'} {numbers}", flush=True)


if __name__ == "__main__":
    main()
