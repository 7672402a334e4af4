"""The measurements of docs/results.md, one command for each.

    python scripts/reproduce_results.py WHAT DATA OUT [--scale 1.0] [--seed 0] [--threads 0]

WHAT is one of tio2, architecture, symmetry, fractions, mlearn, rmd17, lmnto, ensemble; DATA is the
folder with the extxyz files (docs/results.md says which and where they come from); OUT a JSON file.
--scale multiplies every time budget, for a trial. Each fit is `fdforce.fit` with the defaults and
the changes that the rows list, a wall-clock budget that begins with reading the file, and all
cores (or --threads). Run on a quiet machine.
"""

import argparse
import datetime
import json
import sys
import tempfile
import time
from pathlib import Path

import ase.io
import numpy as np
from scipy.spatial.transform import Rotation

import fdforce
from fdforce.provenance import environment
from fdforce.structure_files import read_file

CHEBYSHEV = {
    "descriptor": "chebyshev", "radial_cutoff": 6.5, "radial_order": 20,
    "angular_cutoff": 5.0, "angular_order": 6,
}  # fmt: skip
"""The descriptor of the ænet-PyTorch example."""


class Bench:
    """Fits with their rows, on data of one folder."""

    def __init__(self, data: Path, scale: float, seed: int, threads: int, scratch: Path, keep):
        self.data, self.scale, self.seed = data, scale, seed
        self.threads, self.scratch, self.keep = threads, scratch, keep
        self.rows = []

    def file(self, name):
        return str(self.data / f"{name}.extxyz.gz")

    def write(self, frames, name):
        """A data set made from another one."""
        path = self.scratch / f"{name}.extxyz"
        ase.io.write(path, frames)
        return str(path)

    def fit(self, name, seconds, train, test, valid=0.05, ensemble=1, **tables):
        """One fit; its row is printed and kept."""
        training = {"seed": self.seed, "threads": self.threads, **tables.pop("training", {})}
        if seconds:
            training["max_time"] = seconds * self.scale
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            result = fdforce.fit(
                train=train, test=test, valid=valid, out=Path(folder) / "run", training=training,
                ensemble=ensemble, log=lambda line: None, **tables,
            )  # fmt: skip
        row = {
            "name": name, "settings": tables, "wall_seconds": time.monotonic() - begun,
            "epochs": len(result.history["epoch"]), "metrics": result.metrics,
        }  # fmt: skip
        self.rows.append(row)
        self.keep(self.rows)  # a measurement that is stopped leaves the rows it has
        test, fitted = result.metrics["test"], result.metrics["train"]
        print(f"{name:36s} {row['epochs']:6d} epochs {row['wall_seconds']:6.0f} s  test "
              f"{1e3 * test['energy_rmse']:7.2f} ({1e3 * test['energy_mae']:.2f}) meV/atom  "
              f"{1e3 * test['force_rmse']:6.1f} ({1e3 * test['force_mae']:.1f}) meV/Å  train "
              f"{1e3 * fitted['energy_rmse']:.2f}, {1e3 * (fitted['force_rmse'] or 0):.1f}",
              flush=True)  # fmt: skip
        return result


def tio2(bench):
    """90/10: the recipe in 300 s and in 30 minutes."""
    for seconds in (300, 1800):
        bench.fit(f"TiO2 {seconds} s", seconds, bench.file("tio2_aenet"), 0.1)


def architecture(bench):
    """Like for like: ænet-PyTorch's networks and descriptor, with 25 % of the forces and all."""
    model = {**CHEBYSHEV, "hidden": [5, 5], "activation": "tanh"}
    for optimizer in ("kalman", "adamw"):
        for fraction in (0.25, 1.0):
            bench.fit(f"56-5-5-1, {optimizer}, {100 * fraction:.0f} % of the forces", 300,
                      bench.file("tio2_aenet"), 0.1, model=model, optimizer={"name": optimizer},
                      loss={"force_fraction": fraction})  # fmt: skip


def symmetry(bench):
    """The same data with species relabelled, atoms permuted and cells rotated, and other seeds."""
    frames = read_file(bench.file("tio2_aenet"))
    plain = bench.write(frames, "plain")
    rng = np.random.default_rng(bench.seed)
    for atoms in frames:
        forces = atoms.get_forces()
        order, turn = rng.permutation(len(atoms)), Rotation.random(random_state=rng).as_matrix()
        energy = atoms.get_potential_energy()
        atoms.set_cell(atoms.cell.array @ turn.T)
        atoms.positions = atoms.positions @ turn.T
        atoms.calc = None
        for key in [*atoms.arrays]:
            if key not in ("numbers", "positions"):
                del atoms.arrays[key]
        moved = atoms[order]
        atoms.numbers, atoms.positions = moved.numbers, moved.positions
        atoms.info["energy"] = energy
        atoms.arrays["forces"] = (forces @ turn.T)[order]
    turned = bench.write(frames, "turned")
    for name, train, seed, elements in (
        ("as it is, seed 0", plain, 0, []), ("seed 1", plain, 1, []), ("seed 2", plain, 2, []),
        ("elements Ti, O", plain, 0, ["Ti", "O"]), ("elements O, Ti", plain, 0, ["O", "Ti"]),
        ("permuted and rotated", turned, 0, []),
    ):  # fmt: skip
        bench.fit(name, 60, train, 0.1, training={"seed": seed}, model={"elements": elements})


def fractions(bench):
    """Training on the forces of some structures, for the same time."""
    for fraction in (0.1, 0.2, 1.0):
        for redraw in (0,) if fraction == 1 else (0, 1):
            name = f"{100 * fraction:.0f} % of the forces"
            bench.fit(f"{name}, redrawn" if redraw else name, 120, bench.file("tio2_aenet"), 0.1,
                      loss={"force_fraction": fraction, "force_redraw": redraw})  # fmt: skip


def mlearn(bench):
    """Zuo et al. 2020."""
    for element in ("Ni", "Cu", "Mo"):
        names = (f"mlearn_{element}_training", f"mlearn_{element}_test")
        bench.fit(element, 570, *(bench.file(name) for name in names))


def rmd17(bench):
    """1000 training structures, split 1."""
    for molecule, seconds in (("malonaldehyde", 600), ("ethanol", 600), ("aspirin", 1200)):
        names = (f"rmd17_{molecule}_train_01", f"rmd17_{molecule}_test_01")
        bench.fit(molecule, seconds, *(bench.file(name) for name in names))


def lmnto(bench, copies=10, most=0.02):
    """Energies alone, with Taylor-expanded copies, and with forces, for the same time."""
    frames = read_file(bench.file("lmnto"))
    rng = np.random.default_rng(bench.seed)
    order = rng.permutation(len(frames))
    held, kept = (order[: len(frames) // 10], order[len(frames) // 10 :])
    test = bench.write([frames[i] for i in held], "lmnto_test")
    whole = bench.write([frames[i] for i in kept], "lmnto_train")
    bare, expanded = [], []
    for i in kept:
        atoms, energy, forces = (
            frames[i], frames[i].get_potential_energy(), frames[i].get_forces()
        )  # fmt: skip
        for copy in range(copies + 1):
            moved = ase.Atoms(
                atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc
            )
            shift = rng.uniform(-most, most, size=(len(atoms), 3)) * (copy > 0)
            moved.positions += shift
            moved.info["energy"] = energy - np.sum(shift * forces)  # Cooper et al. 2020, Eq. 5
            expanded.append(moved)
            if not copy:
                bare.append(moved)
    for name, train in (
        ("energies", bench.write(bare, "lmnto_energies")),
        (f"energies and {copies} expanded copies", bench.write(expanded, "lmnto_expanded")),
        ("energies and forces", whole),
    ):
        bench.fit(name, 300, train, test)


def ensemble(bench, members=8):
    """S20's Table I: an ensemble and its members, from energies alone and with forces."""
    for name, loss in (("energies", {"force_weight": 0.0}), ("energies and forces", {})):
        bench.fit(f"{members} members, {name}", 480, bench.file("tio2_aenet"), 0.1, valid=0.1,
                  ensemble=members, loss=loss)  # fmt: skip


MEASUREMENTS = {
    "tio2": tio2, "architecture": architecture, "symmetry": symmetry, "fractions": fractions,
    "mlearn": mlearn, "rmd17": rmd17, "lmnto": lmnto, "ensemble": ensemble,
}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=MEASUREMENTS)
    parser.add_argument("data", type=Path, help="folder of the data sets")
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    command = " ".join(word.rpartition("/")[2] for word in sys.argv[1:])
    report = {
        "command": f"python scripts/reproduce_results.py {command}",
        "date": datetime.date.today().isoformat(), **environment(), "rows": [],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(
            arguments.data, arguments.scale, arguments.seed, arguments.threads, Path(scratch),
            lambda rows: arguments.out.write_text(json.dumps(report | {"rows": rows}, indent=1)),
        )  # fmt: skip
        MEASUREMENTS[arguments.what](bench)


if __name__ == "__main__":
    main()
