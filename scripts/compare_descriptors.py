"""Test errors of descriptors after the same time, on the same data.

    python scripts/compare_descriptors.py 60 out.json NAME=TRAIN[,TEST] ... [--descriptors A ...]

For every data set and descriptor one `fdforce fit` with default networks and the given number of
seconds; a data set without a test file gives 10 % of its structures for one. Prints a table and
writes JSON. Run on a quiet machine.
"""

import argparse
import datetime
import json
import sys
import tempfile
from pathlib import Path

import fdforce
from fdforce.benchmark import benchmark
from fdforce.provenance import environment
from fdforce.threads import limit_threads

DESCRIPTORS = ("chebyshev", "symmetry_functions", "power_spectrum")


def parse(text):
    name, _, settings = text.partition(":")
    pairs = [item.partition("=") for item in settings.split(",") if item]
    return name, {key: json.loads(value) for key, _, value in pairs}


def measure(train, test, seconds, descriptor, settings):
    """Errors on test structures, and times."""
    with tempfile.TemporaryDirectory() as folder:
        result = fdforce.fit(
            train=train, test=test or 0.1, descriptor=descriptor, max_time=seconds,
            out=Path(folder) / "run", log=lambda line: None, **settings,
        )  # fmt: skip
    structures, _ = fdforce.read_structures(train, elements=result.model.elements)
    with limit_threads(1):
        times = benchmark(result.model, structures)
    test_errors = result.metrics["test"]
    return {
        "descriptor": descriptor, "settings": settings,
        "n_features": result.model.descriptor.n_features,
        "epochs": len(result.history["epoch"]),
        "energy_rmse": test_errors["energy_rmse"], "force_rmse": test_errors["force_rmse"],
        "train_force_rmse": result.metrics["train"]["force_rmse"],
        "forces_us_per_atom": times["forces_us_per_atom"],
        "gradient_us_per_atom": times["gradient_us_per_atom"],
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seconds", type=float, help="of each fit")
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("sets", nargs="+", metavar="NAME=TRAIN[,TEST]")
    parser.add_argument(
        "--descriptors", nargs="+", default=DESCRIPTORS, metavar="NAME[:key=value,...]"
    )
    arguments = parser.parse_args()
    rows = []
    print(f"{'data':12}{'descriptor':24}{'features':>9}{'epochs':>8}{'meV/atom':>10}"
          f"{'eV/Å':>9}{'train':>9}{'E+F µs':>9}{'grad µs':>9}")  # fmt: skip
    for one in arguments.sets:
        name, _, files = one.partition("=")
        train, _, test = files.partition(",")
        for text in arguments.descriptors:
            row = {"data": name, **measure(train, test, arguments.seconds, *parse(text))}
            rows.append(row)
            print(
                f"{name:12}{text[:23]:24}{row['n_features']:9}{row['epochs']:8}"
                f"{1e3 * row['energy_rmse']:10.2f}{row['force_rmse']:9.3f}"
                f"{row['train_force_rmse']:9.3f}{row['forces_us_per_atom']:9.1f}"
                f"{row['gradient_us_per_atom']:9.1f}",
                flush=True,
            )
    arguments.out.write_text(json.dumps({
        "command": f"python scripts/compare_descriptors.py {' '.join(map(short, sys.argv[1:]))}",
        "date": datetime.date.today().isoformat(), **environment(),
        "seconds_each": arguments.seconds, "rows": rows,
    }, indent=1))  # fmt: skip


def short(argument):
    """An argument with the folders of its files left out."""
    name, equals, files = argument.rpartition("=")
    return name + equals + ",".join(part.rpartition("/")[2] for part in files.split(","))


if __name__ == "__main__":
    main()
