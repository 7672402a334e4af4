"""Time of symmetry functions and their forces, per atom on one thread.

    python scripts/measure_symmetry_functions.py [--json times.json] [--repeat 4]

Crystals of 64 * repeat^3 / 8 atoms, positions off by 0.05 Å (standard deviation), the cutoff as
given, no skin. "Si, 27 functions" is a set of the size of n2p2's examples for one element: 9 radial
functions (type 2, one with a shift) and 18 angular ones (type 3: three eta, zeta 1, 4 and 16,
lambda -1 and 1), all with one cutoff, in diamond silicon. "wide" has type 9 instead of type 3.
"auto" is `functions="auto"` as it comes. A time is the shortest of many; "E+F" is forward and
backward of the descriptor, "network" the same through two hidden layers of 15. Run it on a
quiet machine.
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402
from ase.build import bulk  # noqa: E402

from fdforce.batch import make_batch  # noqa: E402
from fdforce.descriptors.symmetry_functions import SymmetryFunctions  # noqa: E402
from fdforce.descriptors.weighted_symmetry_functions import (  # noqa: E402
    WeightedSymmetryFunctions,
)
from fdforce.models import ElementalNetworks  # noqa: E402
from fdforce.neighbors import build_pairs  # noqa: E402
from fdforce.structures import read_structures  # noqa: E402

ETAS = (0.001, 0.02, 0.035, 0.06, 0.1, 0.2, 0.4, 0.6)


def silicon_set(cutoff, angular=3):
    """27 functions of silicon."""
    lines = [f"Si 2 Si {eta} 0 {cutoff}" for eta in ETAS] + [f"Si 2 Si 2 3 {cutoff}"]
    lines += [
        f"Si {angular} Si Si {eta} {sign} {zeta} {cutoff}"
        for eta in (0.001, 0.02, 0.06) for zeta in (1, 4, 16) for sign in (-1, 1)
    ]  # fmt: skip
    return SymmetryFunctions(["Si"], lines)


def rattled(atoms, repeat):
    atoms = atoms.repeat(repeat)
    atoms.rattle(0.05, seed=0)
    return atoms


def cases(repeat):
    """name -> (structure, descriptor)."""
    silicon = rattled(bulk("Si", "diamond", a=5.431, cubic=True), repeat)
    salt = rattled(bulk("MgO", "rocksalt", a=4.21, cubic=True), repeat)
    found = {}
    for cutoff in (5.0, 5.6, 6.0):
        found[f"Si, 27 functions, {cutoff} Å"] = (silicon, silicon_set(cutoff))
    found["Si, 27 functions, wide, 5.6 Å"] = (silicon, silicon_set(5.6, 9))
    found["Si, auto"] = (silicon, SymmetryFunctions(["Si"]))
    found["MgO, auto"] = (salt, SymmetryFunctions(["Mg", "O"]))
    found["MgO, weighted"] = (salt, WeightedSymmetryFunctions(["Mg", "O"]))
    return found


def shortest(function, seconds):
    """Shortest time of a call, in seconds."""
    function()
    times, end = [], time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        begun = time.perf_counter()
        function()
        times.append(time.perf_counter() - begun)
    return min(times)


def measure(atoms, descriptor, dtype, seconds):
    structures, _ = read_structures([atoms], elements=descriptor.elements)
    batch = make_batch(structures, build_pairs(structures, descriptor.cutoff, skin=0.0))
    mean = np.zeros((len(descriptor.elements), descriptor.n_features), dtype)
    scale = mean + mean.dtype.type(1)
    features, kept = descriptor.forward(batch, mean, scale)
    d_features = np.ones_like(features)
    model = ElementalNetworks(descriptor, (15, 15), "tanh", dtype=dtype)
    model.standardise([batch])
    micro = 1e6 / len(atoms)
    forward = shortest(lambda: descriptor.forward(batch, mean, scale), seconds) * micro
    backward = shortest(lambda: descriptor.backward(batch, d_features, kept, scale), seconds)
    network = shortest(lambda: model.forces(model.forward(batch)), seconds) * micro
    return {
        "neighbours": len(batch.neighbor) / len(atoms),
        "features": descriptor.n_features,
        "forward_us_per_atom": forward,
        "energy_forces_us_per_atom": forward + backward * micro,
        "network_us_per_atom": network,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeat", type=int, default=4, help="cubic cells along each side")
    parser.add_argument("--seconds", type=float, default=1.0, help="spent on each time")
    arguments = parser.parse_args()
    results = {"processor": platform.processor() or platform.machine(), "times": []}
    for name, (atoms, descriptor) in cases(arguments.repeat).items():
        for dtype in (np.float64, np.float32):
            row = measure(atoms, descriptor, dtype, arguments.seconds)
            results["times"].append({"name": name, "dtype": dtype.__name__, **row})
            print(
                f"{name:30s} {dtype.__name__:8s} {row['neighbours']:6.1f} neighbours "
                f"{row['features']:4d} features   forward {row['forward_us_per_atom']:7.2f}  "
                f"E+F {row['energy_forces_us_per_atom']:7.2f}  "
                f"network {row['network_us_per_atom']:7.2f} us/atom"
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
