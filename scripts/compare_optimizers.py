"""Validation errors against time for every optimizer, on the same data, split and clock.

    python scripts/compare_optimizers.py TRAIN OUT.json --seconds 60 [--figure OUT.png]
        [--optimizers adamw soap:learning_rate=0.003 kalman:covariance=layer ...]
        [--set table.key=value ...]

One fit after the other with the default learning rate of each, 10 % of the structures held out for
the test and 5 % for the validation. Run on a quiet machine, kernels compiled (the first fit is
preceded by an epoch that is not timed).
"""

import argparse
import datetime
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

import fdforce
from fdforce.config import merge_overrides
from fdforce.optimizers import AUTO
from fdforce.provenance import environment

ALL = [name for name in AUTO if name != "least_squares"]


def settings_of(text):
    """Optimizer table of ``name:key=value,...``."""
    name, _, rest = text.partition(":")
    changes = merge_overrides(f"optimizer.{item}" for item in rest.split(",") if item)
    return {"name": name, **changes.get("optimizer", {})}


def train(data, optimizer, changes, **training):
    """History and test errors of one fit."""
    tables = {table: dict(values) for table, values in changes.items()}
    tables["optimizer"] = {**tables.get("optimizer", {}), **optimizer}
    tables["training"] = {**tables.get("training", {}), **training}
    with tempfile.TemporaryDirectory() as folder:
        return fdforce.fit(
            train=[str(data)], test=0.1, valid=0.05, out=Path(folder) / "run",
            log=lambda line: None, **tables,
        )  # fmt: skip


def draw(rows, path):
    """Force and energy error on the validation structures against time, both logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    axes = figure.subplots(1, 2)
    for row in rows:
        for axis, name, factor in zip(axes, ("force", "energy"), (1, 1e3), strict=True):
            best = np.minimum.accumulate(factor * np.array(row[f"valid_{name}_rmse"]))
            axis.plot(row["elapsed"], best, label=row["optimizer"], lw=1.3)
    axes[0].set(ylabel="force RMSE (eV/Å)")
    axes[1].set(ylabel="energy RMSE (meV/atom)")
    for axis in axes:
        axis.set(xlabel="time (s)", xscale="log", yscale="log")
    axes[1].legend(frameon=False, fontsize=8, ncols=2)
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--optimizers", nargs="+", default=ALL, metavar="NAME[:key=value,...]")
    parser.add_argument(
        "--set", dest="changes", nargs="+", action="extend", default=[], metavar="table.key=value"
    )
    arguments = parser.parse_args()
    changes = merge_overrides(arguments.changes)
    train(arguments.train, settings_of(arguments.optimizers[0]), changes, epochs=1)
    rows = []
    for text in arguments.optimizers:
        try:
            result = train(
                arguments.train, settings_of(text), changes, epochs=0, max_time=arguments.seconds
            )
        except fdforce.FdforceError as problem:
            print(f"{text:40s} failed: {problem}")
            continue
        test, history = result.metrics["test"], result.history
        rows.append({
            "optimizer": text, "epochs": len(history["epoch"]),
            "test_energy_rmse": test["energy_rmse"], "test_force_rmse": test["force_rmse"],
            **{
                name: [float(f"{value:.6g}") for value in history[name]]
                for name in ("elapsed", "valid_energy_rmse", "valid_force_rmse")
            },
        })  # fmt: skip
        print(f"{text:40s} {len(history['epoch']):6d} epochs  "
              f"{1e3 * test['energy_rmse']:7.2f} meV/atom  {test['force_rmse']:.4f} eV/Å",
              flush=True)  # fmt: skip
    arguments.out.write_text(json.dumps({
        "command": "python scripts/compare_optimizers.py "
        + " ".join(word.rpartition("/")[2] for word in sys.argv[1:]),
        "date": datetime.date.today().isoformat(), **environment(),
        "seconds_each": arguments.seconds, "rows": rows,
    }, indent=1))  # fmt: skip
    if arguments.figure:
        draw(rows, arguments.figure)


if __name__ == "__main__":
    main()
