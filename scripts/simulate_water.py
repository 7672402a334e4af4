"""Liquid water: train, run NVT dynamics at two temperatures, and plot the O-O distribution.

    python scripts/simulate_water.py TRAIN VALID OUT.json [--seconds 600] [--picoseconds 50]
        [--figure OUT.png] [--model MODEL]

Langevin dynamics of the first validation structure with a time step of 0.5 fs. The run is intact
when at every sampled step each hydrogen is within 1.3 Å of the oxygen that it began with, and of
all oxygens nearest to that one. (That no other oxygen be within 1.3 Å would be too much to ask:
short hydrogen bonds at 400 K come to 1.29 Å for a moment, while the bond itself is 1.02 to 1.14 Å
long.) The radial distribution function is a mean over the second half of the run, beside that of
the training data.
"""

import argparse
import datetime
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from ase import units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

import fdforce
from fdforce.provenance import environment
from fdforce.structure_files import read_file

BOND = 1.3
STEP = 0.5
EDGES = np.linspace(2.0, 6.0, 161)


def to_oxygen(atoms):
    """Distances of every hydrogen (row) to every oxygen."""
    oxygen, hydrogen = (np.flatnonzero(atoms.numbers == z) for z in (8, 1))
    return np.array([atoms.get_distances(h, oxygen, mic=True) for h in hydrogen])


def bonds(atoms, own):
    """Longest bond, shortest distance of a hydrogen to another oxygen, and whether all are whole.

    `own` is the oxygen of each hydrogen at the start.
    """
    all_distances = to_oxygen(atoms)
    mine = all_distances[np.arange(len(own)), own]
    whole = (mine < BOND).all() and (all_distances.argmin(axis=1) == own).all()
    all_distances[np.arange(len(own)), own] = np.inf
    return float(mine.max()), float(all_distances.min()), bool(whole)


def distances(atoms):
    """Numbers of O-O pairs in the bins of EDGES over those of an ideal gas."""
    oxygen = atoms[atoms.numbers == 8]
    all_pairs = oxygen.get_all_distances(mic=True)[np.triu_indices(len(oxygen), 1)]
    counts = np.histogram(all_pairs, EDGES)[0]
    shells = 4 / 3 * np.pi * np.diff(EDGES**3)
    return counts / (len(oxygen) * (len(oxygen) - 1) / 2 * shells / atoms.get_volume())


def simulate(model, atoms, temperature, picoseconds, seed=0):
    """Temperature, intactness and distribution function over a run."""
    rng = np.random.default_rng(seed)
    atoms = atoms.copy()
    atoms.calc = fdforce.Calculator(model)
    MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=rng)
    dynamics = Langevin(
        atoms, STEP * units.fs, temperature_K=temperature, friction=0.01 / units.fs, rng=rng,
        fixcm=False,
    )  # fmt: skip
    samples, steps = [], round(picoseconds * 1000 / STEP)

    own = to_oxygen(atoms).argmin(axis=1)

    def sample():
        samples.append((atoms.get_temperature(), bonds(atoms, own), distances(atoms)))

    dynamics.attach(sample, interval=200)
    dynamics.run(steps)
    half = samples[len(samples) // 2 :]
    return {
        "temperature": temperature, "steps": steps,
        "mean_temperature": float(np.mean([t for t, _, _ in half])),
        "intact": all(whole for _, (_, _, whole), _ in samples),
        "broken_samples": [k for k, (_, (_, _, whole), _) in enumerate(samples) if not whole],
        "longest_bond": max(longest for _, (longest, _, _), _ in samples),
        "shortest_to_other_oxygen": min(shortest for _, (_, shortest, _), _ in samples),
        "rdf": np.mean([g for _, _, g in half], axis=0).round(4).tolist(),
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("valid", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--picoseconds", type=float, default=50.0)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--model", type=Path, help="a trained one; no training then")
    arguments = parser.parse_args()
    metrics = None
    if arguments.model:
        model = fdforce.load_model(arguments.model)
    else:
        with tempfile.TemporaryDirectory() as folder:
            result = fdforce.fit(
                train=[str(arguments.train)], valid=str(arguments.valid),
                max_time=arguments.seconds, out=Path(folder) / "run",
            )  # fmt: skip
        model, metrics = result.model, result.metrics
        print(json.dumps(metrics["valid"], indent=1))
    frames = read_file(arguments.train)
    reference = np.mean([distances(atoms) for atoms in frames], axis=0)
    runs = []
    for temperature in (300, 400):
        run = simulate(
            model, read_file(arguments.valid)[0], temperature, arguments.picoseconds
        )  # fmt: skip
        runs.append(run)
        print(f"{temperature} K: mean {run['mean_temperature']:.0f} K, "
              f"{'intact' if run['intact'] else 'NOT intact'}, longest bond "
              f"{run['longest_bond']:.3f} Å", flush=True)  # fmt: skip
    arguments.out.write_text(json.dumps({
        "command": "python scripts/simulate_water.py "
        + " ".join(word.rpartition("/")[2] for word in sys.argv[1:]),
        "date": datetime.date.today().isoformat(), **environment(),
        "metrics": metrics, "edges": EDGES.tolist(),
        "rdf_of_training_data": reference.round(4).tolist(), "runs": runs,
    }, indent=1))  # fmt: skip
    if arguments.figure:
        draw(runs, reference, arguments.figure)


def draw(runs, reference, path):
    """The O-O distribution functions."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    middle = (EDGES[1:] + EDGES[:-1]) / 2
    axis.plot(middle, reference, color="#777777", lw=1, label="training data")
    for run in runs:
        axis.plot(middle, run["rdf"], label=f"{run['temperature']} K")
    axis.set(xlabel="O-O distance (Å)", ylabel="g(r)", ylim=(0, None))
    axis.legend(frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
