"""Memory and time of training from a data cache, against the same set in memory.

    python scripts/measure_cache.py OUT.json [--structures 100000] [--epochs 2] [--folder FOLDER]
        [--set table.key=value ...]

A synthetic set, two thirds molecules of 9 to 15 atoms and one third periodic cells of 8, with
energies and forces of a Morse potential, is written once as extended xyz. Processes of their own
then train on it in memory, pack it into a cache, and train from the cache, with one thread. The
models are small, so that reading weighs more than it does in practice. OUT.json has the peak
memory of each process, MB; of every epoch its seconds of wall clock and of user and system time;
and what comes out of the two fits, which is the same. User and system time are the ones to compare
where other work shares the machine.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# what a process imports counts for its children too, up to the moment that they begin
import numpy as np

SETTINGS = {"cutoff": 4.0, "radial_order": 4, "angular_order": 2, "hidden": [16, 16]}
DEPTH, STEEPNESS, LENGTH = 0.4, 1.6, 1.5
"""Of the Morse potential: eV, 1/Å, Å."""
SPACING = 1.6
"""Å, of the grids that atoms are placed on before they are displaced at random."""


def morse(positions, images):
    """Energy (eV) and forces (eV/Å) of atoms and their images at `images`, shape (n, 3)."""
    d = positions[None, :, None] + images - positions[:, None, None]
    r = np.linalg.norm(d, axis=-1)
    near = (r > 1e-9) & (r < 8.0)
    r = np.where(near, r, 1.0)
    decay = np.exp(-STEEPNESS * (r - LENGTH))
    energy = np.where(near, DEPTH * (decay**2 - 2 * decay), 0.0)
    slope = np.where(near, 2 * STEEPNESS * DEPTH * (decay - decay**2), 0.0)
    return 0.5 * energy.sum(), (slope[..., None] * d / r[..., None]).sum(axis=(1, 2))


def make(path, n):
    """Write n structures."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    corners = grid[(grid < 2).all(axis=1)]
    shifts = grid - 1
    with open(path, "w", encoding="utf-8") as file:
        for s in range(n):
            if s % 3 == 2:
                length, places, names = (
                    4.2,
                    corners * 2.1,
                    np.array(["Mg", "O"])[corners.sum(1) % 2],
                )
                images = shifts * length
                of_cell = f'Lattice="{length} 0 0 0 {length} 0 0 0 {length}" pbc="T T T"'
            else:
                places = rng.permutation(grid)[: rng.integers(9, 16)] * SPACING
                names, images = rng.choice(["H", "C", "O"], len(places)), np.zeros((1, 3))
                of_cell = 'pbc="F F F"'
            positions = places + rng.uniform(-0.2, 0.2, places.shape)
            energy, forces = morse(positions, images)
            file.write(
                f"{len(positions)}\n{of_cell} Properties=species:S:1:pos:R:3:forces:R:3 "
                f"energy={energy:.9f}\n"
            )
            for name, numbers in zip(names, np.hstack([positions, forces]), strict=True):
                file.write(f"{name} {' '.join(f'{x:.8f}' for x in numbers)}\n")


def settings_of(options, cache):
    """Tables of a configuration."""
    from fdforce.config import merge_overrides

    tables = {
        "data": {"train": [str(options.data)], "valid": 0.05, "cache": cache},
        "model": dict(SETTINGS),
        "training": {"threads": 1, "epochs": options.epochs},
    }
    for table, values in merge_overrides(options.set).items():
        tables.setdefault(table, {}).update(values)
    return tables


def usage():
    """Wall clock, user and system time (s), and peak memory so far (MB)."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    scale = 1e6 if sys.platform == "darwin" else 1e6 / 1024
    return np.array([time.perf_counter(), used.ru_utime, used.ru_stime, used.ru_maxrss / scale])


def train(options, cache):
    """Fit; what it took."""
    import fdforce

    marks = []
    begun = usage()
    with tempfile.TemporaryDirectory() as run:
        warm_up(run)
        ready = usage()
        result = fdforce.fit(
            settings_of(options, cache), out=Path(run) / "run", log=lambda line: None,
            on_epoch=lambda *_: marks.append(usage()),
        )  # fmt: skip
    ended = usage()
    epochs = np.diff([ready, *marks], axis=0)[:, :3]
    return {
        "peak_memory_mb": float(ended[3]),
        "peak_memory_mb_begin": float(ready[3]),
        "peak_memory_mb_epochs": float(marks[-1][3]),
        "seconds_total": float(ended[0] - begun[0]),
        # the first one holds the reading of the data
        "first_epoch": dict(zip(("wall", "user", "system"), epochs[0], strict=True)),
        "epochs": [dict(zip(("wall", "user", "system"), row, strict=True)) for row in epochs[1:]],
        "seconds": result.history["seconds"].tolist(),
        "train_loss": result.history["train_loss"].tolist(),
        "valid_loss": result.history["valid_loss"].tolist(),
        "metrics": result.metrics,
    }


def warm_up(folder):
    """Compile the kernels on a few structures."""
    import fdforce

    path = Path(folder) / "few.extxyz"
    make(path, 12)
    fdforce.fit(
        train=[str(path)], valid=0.3, epochs=1, threads=1, out=Path(folder) / "few",
        log=lambda line: None, **SETTINGS,
    )  # fmt: skip


def pack(options, cache):
    """Read the set into the cache and list its pairs; what it took."""
    from fdforce.cached_structures import list_pairs
    from fdforce.config import config_from_dict
    from fdforce.neighbors import TRAINING_SKIN
    from fdforce.problem import read_parts

    begun = usage()
    config = config_from_dict(settings_of(options, cache))
    structures = read_parts(config, lambda line: None).train
    read = usage()
    pairs = list_pairs(structures, config.model.cutoff, skin=TRAINING_SKIN, log=lambda line: None)
    ended = usage()
    size = sum(path.stat().st_size for path in Path(cache).rglob("*") if path.is_file())
    return {
        "peak_memory_mb": float(ended[3]),
        "seconds_reading": float(read[0] - begun[0]),
        "seconds_pairs": float(ended[0] - read[0]),
        "cache_mb": size / 1e6,
        "n_pairs": len(pairs.neighbor),
    }


def apart(mode, options):
    """What a process of its own finds."""
    command = [sys.executable, __file__, *sys.argv[1:], "--mode", mode, "--data", options.data]
    environment = os.environ | {"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def measure(options):
    """All processes, one after another."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        options.data = str(Path(folder) / "set.extxyz")
        apart("make", options)
        found = {mode: apart(mode, options) for mode in ("memory", "pack", "cache")}
        size = Path(options.data).stat().st_size / 1e6
    memory, cache = found["memory"], found["cache"]
    same = all(memory[key] == cache[key] for key in ("train_loss", "valid_loss", "metrics"))
    speed = {}
    for name, clocks in (("wall", ["wall"]), ("user", ["user"]), ("cpu", ["user", "system"])):
        spent = [sum(row[c] for row in of["epochs"] for c in clocks) for of in (memory, cache)]
        speed[name] = spent[0] / spent[1] if memory["epochs"] else None
    from fdforce.provenance import environment

    return {
        "structures": options.structures, "file_mb": size, "settings": SETTINGS,
        "changes": options.set, **found, "same_results": same,
        "speed_of_cache_over_memory": speed, "environment": environment(),
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--structures", type=int, default=100_000)
    parser.add_argument("--epochs", type=int, default=2, help="the first holds the reading")
    parser.add_argument("--folder", help="for the data and the cache; the system's by default")
    parser.add_argument("--set", action="append", default=[], metavar="table.key=value")
    parser.add_argument(
        "--mode", choices=("make", "memory", "pack", "cache"), help=argparse.SUPPRESS
    )
    parser.add_argument("--data", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.mode is None:
        found = measure(options)
        options.out.write_text(json.dumps(found, indent=1))
        print(json.dumps({key: found[key] for key in found if key != "environment"}, indent=1))
        return
    cache = str(Path(options.data).parent / "cache")
    if options.mode == "make":
        found = make(options.data, options.structures)
    elif options.mode == "pack":
        found = pack(options, cache)
    else:
        found = train(options, cache if options.mode == "cache" else "")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
