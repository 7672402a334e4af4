"""The figures of the README on TiO2: speed, memory and accuracy of training to forces.

    python scripts/measure_tio2.py tio2.extxyz.gz --json tio2.json [--seconds 300]

The data are the 1000 structures of the ænet-PyTorch example (Artrith and Urban 2016,
López-Zorrilla et al. 2023) as one extxyz file. Descriptor of the times: Chebyshev, radial 6.5 Å /
20, angular 5.0 Å / 6; the errors are those of the defaults. Every measurement is a process of its
own, one after the other; run it on a quiet machine.
"""

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

DESCRIPTOR = [
    "model.radial_cutoff=6.5", "model.radial_order=20",
    "model.angular_cutoff=5.0", "model.angular_order=6",
]  # fmt: skip


def settings(*keys):
    """--set options."""
    return [word for key in (*DESCRIPTOR, *keys) for word in ("--set", key)]


def fdforce(*arguments):
    """Run the command; returns its output, seconds of wall time and peak memory in MB."""
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "fdforce", *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"fdforce {' '.join(map(str, arguments))}: failed\n{output}")
    return output, time.monotonic() - begun, usage.ru_maxrss / 1024


def benchmark(data, *options):
    output, _, _ = fdforce("benchmark", data, "--json", *options, *settings("model.hidden=[15,15]"))
    return json.loads(output)


def speed(data):
    """Benchmarks of precision, stencil and threads."""
    results = {
        "float64": benchmark(data, "--threads", 1),
        "float64, forward": benchmark(data, "--threads", 1, "--stencil", "forward"),
        "float32": benchmark(data, "--threads", 1, "--precision", "float32"),
        "float64, 2 threads": benchmark(data, "--threads", 2),
    }
    for name, result in results.items():
        print(
            f"{name:20s} energy+forces {result['forces_us_per_atom']:6.2f} us/atom   gradient "
            f"{result['gradient_us_per_atom']:6.2f}   ratio {result['gradient_over_forces']:.2f}"
        )
    one, two = results["float64"], results["float64, 2 threads"]
    results["speed-up on 2 threads"] = one["gradient_us_per_atom"] / two["gradient_us_per_atom"]
    print(f"speed-up on 2 threads {results['speed-up on 2 threads']:.2f}")
    return results


def training_run(data, folder, *options):
    """A training run: errors, seconds per epoch and atom, wall time and peak memory."""
    out = Path(folder) / "run"
    _, seconds, memory = fdforce("fit", data, "--out", out, *options)
    rows = list(csv.DictReader((out / "history.csv").open()))
    metrics = json.loads((out / "metrics.json").read_text())
    epochs = sorted(float(row["seconds"]) for row in rows[1:])
    return {
        "options": [str(option) for option in options],
        "epochs": len(rows),
        "wall_seconds": seconds,
        "peak_memory_mb": memory,
        "median_epoch_us_per_atom": epochs[len(epochs) // 2] / metrics["train"]["n_atoms"] * 1e6,
        "metrics": metrics,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--json", type=Path, default=Path("tio2.json"))
    parser.add_argument("--seconds", type=float, default=300.0, help="budget of the accuracy run")
    parser.add_argument("--seed", type=int, default=0, help="of the accuracy run and its split")
    arguments = parser.parse_args()
    results = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            **{name: version(name) for name in ("fdforce", "numpy", "numba", "scipy", "ase")},
        },
        "speed": speed(arguments.data),
    }
    with tempfile.TemporaryDirectory() as folder:
        run = training_run(
            arguments.data,
            folder,
            "--epochs",
            20,
            "--threads",
            1,
            *settings("model.hidden=[15,15]"),
        )
    results["epoch"] = run
    print(f"one epoch {run['median_epoch_us_per_atom']:.2f} us/atom (1 thread), peak memory "
          f"{run['peak_memory_mb']:.0f} MB")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        run = training_run(
            arguments.data, folder, "--test", 0.1, "--valid", 0.05, "--max-time", arguments.seconds,
            "--seed", arguments.seed,
        )  # fmt: skip
    results["accuracy"] = run
    test = run["metrics"]["test"]
    print(f"{run['epochs']} epochs in {run['wall_seconds']:.0f} s: test energy RMSE "
          f"{1000 * test['energy_rmse']:.2f} meV/atom, force RMSE {test['force_rmse']:.4f} eV/Å, "
          f"peak memory {run['peak_memory_mb']:.0f} MB")  # fmt: skip
    arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
