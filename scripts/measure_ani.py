"""Memory and time of a large HDF5 file in the layout of ANI-1x: packing, training, evaluating.

    python scripts/measure_ani.py OUT.json [--structures 1000000] [--max-time 60] [--folder FOLDER]

Synthetic molecules of 4 to 20 H, C, N and O atoms with energies and forces of a Morse potential,
in groups of one formula each, as in the file of ANI-1x: most of some hundred conformers, a few of
many thousands, float32 positions and forces. Processes of their own then pack it into a cache,
train from there for --max-time seconds of epochs, and evaluate and describe the set. OUT.json has
seconds and peak memory (MB) of each, and what the process took before it began.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measure_cache import DEPTH, LENGTH, SETTINGS, SPACING, STEEPNESS, usage, warm_up

PART = 2000
"""Conformers that are made at a time."""


def conformers(places, n, rng):
    """Positions (n, N, 3), energies (n,) hartree and forces (n, N, 3) hartree/Å."""
    from fdforce.units import HARTREE

    positions = (places + rng.uniform(-0.2, 0.2, (n, *places.shape))).astype(np.float32)
    points = positions.astype(np.float64)
    d = points[:, None] - points[:, :, None]
    r = np.linalg.norm(d, axis=-1) + np.eye(len(places))
    other = 1 - np.eye(len(places))
    decay = np.exp(-STEEPNESS * (r - LENGTH))
    energy = DEPTH * (other * (decay**2 - 2 * decay)).sum(axis=(1, 2)) / 2
    slope = other * 2 * STEEPNESS * DEPTH * (decay - decay**2) / r
    return positions, energy / HARTREE, (slope[..., None] * d).sum(axis=2) / HARTREE


def make(path, n):
    """Write n structures."""
    import h5py

    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    with h5py.File(path, "w") as file:
        left, number = n, 0
        while left:
            size = min(left, max(n // 50, 1) if number % 500 == 0 else int(rng.integers(100, 500)))
            numbers = rng.choice([1, 6, 7, 8], rng.integers(4, 21))
            places = rng.permutation(grid)[: len(numbers)] * SPACING
            group = file.create_group(f"C{number:05d}")
            group["atomic_numbers"] = numbers.astype(np.uint8)
            shape = (size, len(numbers), 3)
            coordinates = group.create_dataset("coordinates", shape, np.float32)
            forces = group.create_dataset("wb97x_dz.forces", shape, np.float32)
            energies = group.create_dataset("wb97x_dz.energy", (size,), np.float64)
            for first in range(0, size, PART):
                part = slice(first, min(first + PART, size))
                found = conformers(places, part.stop - first, rng)
                coordinates[part], energies[part], forces[part] = found
            left, number = left - size, number + 1
    return {"groups": number}


def pack(options):
    """Read the set into the cache."""
    from fdforce.data_cache import read_cached

    structures, _ = read_cached(options.data, options.cache, log=lambda line: None)
    size = sum(path.stat().st_size for path in Path(options.cache).rglob("*") if path.is_file())
    return {"cache_mb": size / 1e6, "structures": len(structures), "atoms": structures.n_atoms}


def train(options):
    """Fit for some time; the pairs are listed before the first epoch."""
    import fdforce

    tables = {
        "data": {"train": [options.data], "valid": 0.01, "cache": options.cache},
        "model": dict(SETTINGS),
        "training": {"threads": 1, "epochs": 1000, "max_time": options.max_time},
    }
    result = fdforce.fit(tables, out=options.run, log=lambda line: None)
    return {"epochs": len(result.history["train_loss"]), "metrics": result.metrics}


def command(*words):
    """A command of fdforce."""
    from click.testing import CliRunner

    from fdforce.cli import main

    done = CliRunner().invoke(main, [*words, "--json"])
    if done.exit_code:
        raise SystemExit(done.output)
    return {"characters": len(done.output)}


def evaluate(options):
    """Evaluate the model of the fit on the whole set."""
    model = str(Path(options.run) / "model.npz")
    return command("evaluate", model, options.data, "--threads", "1", "--cache", options.cache)


def info(options):
    """Describe the whole set."""
    return command("info", options.data, "--cache", options.cache)


MODES = {"pack": pack, "train": train, "evaluate": evaluate, "info": info}


def apart(mode, options):
    """What a process of its own finds."""
    words = [sys.executable, __file__, *sys.argv[1:], "--mode", mode, "--data", options.data]
    environment = os.environ | {"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def measured(mode, options):
    """What a mode finds, with time and memory."""
    with tempfile.TemporaryDirectory() as folder:
        warm_up(folder)
    ready = usage()
    found = MODES[mode](options)
    ended = usage()
    return {
        "seconds": float(ended[0] - ready[0]),
        "cpu_seconds": float((ended - ready)[1:3].sum()),
        "peak_memory_mb": float(ended[3]),
        "peak_memory_mb_begin": float(ready[3]),
        **found,
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--structures", type=int, default=1_000_000)
    parser.add_argument("--max-time", type=float, default=60.0, help="of the fit, seconds")
    parser.add_argument("--folder", help="for the data and the cache; the system's by default")
    parser.add_argument("--mode", choices=["make", *MODES], help=argparse.SUPPRESS)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.mode == "make":
        print(json.dumps(make(options.data, options.structures)))
        return
    if options.mode is not None:
        options.cache = str(Path(options.data).parent / "cache")
        options.run = str(Path(options.data).parent / "run")
        print(json.dumps(measured(options.mode, options)))
        return
    from fdforce.provenance import environment

    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        options.data = str(Path(folder) / "ani.h5")
        begun = time.perf_counter()
        found = {"structures": options.structures, **apart("make", options)}
        found["file_mb"] = Path(options.data).stat().st_size / 1e6
        found["seconds_making"] = time.perf_counter() - begun
        for mode in MODES:
            found[mode] = apart(mode, options)
            print(mode, json.dumps(found[mode]), flush=True)
    found |= {"settings": SETTINGS, "max_time": options.max_time, "environment": environment()}
    options.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
