"""Memory and time of `fdforce.adapters.torch.force_backward` against double backward.

    python scripts/measure_torch_adapter.py [--json docs/figures/torch_adapter.json]

The batch: 128 chain molecules of 8 heavy atoms (C, N, O) and their hydrogens, with noise; models
with random weights in the architecture of ANI-1x (TorchANI) and SchNet (SchNetPack, 128 features,
3 interactions); a loss of energies and forces. Every measurement is a process of its own with one
thread and four steps, repeated three times. Times are the shortest of the steps, wall clock and
processor time. Memory is the median of the peaks of the processes, less the peak of one that has
imported everything and holds model and batch.
"""

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from importlib.metadata import version

import numpy as np

MOLECULES, HEAVY = 128, 8
METHODS = {
    "double backward": None,
    "central": {"stencil": "central"},
    "forward": {"stencil": "forward"},
}


def molecules():
    """Atomic numbers (S, A), -1 for padding, and positions (S, A, 3)."""
    rng = np.random.default_rng(0)
    single = []
    for _ in range(MOLECULES):
        numbers, positions = [], []
        for k in range(HEAVY):
            element, side = rng.choice([6, 6, 6, 7, 8]), (-1) ** k
            centre = np.array([1.27 * k, 0.45 * side, 0.0])
            numbers.append(element)
            positions.append(centre)
            for height in {6: (0.88, -0.88), 7: (0.88,), 8: ()}[element]:
                numbers.append(1)
                positions.append(centre + np.array([0, 0.6 * side, height]))
        noise = rng.normal(scale=0.05, size=(len(positions), 3))
        single.append((numbers, np.array(positions) + noise))
    most = max(len(numbers) for numbers, _ in single)
    all_numbers, all_positions = np.full((MOLECULES, most), -1), np.zeros((MOLECULES, most, 3))
    for s, (numbers, positions) in enumerate(single):
        all_numbers[s, : len(numbers)], all_positions[s, : len(numbers)] = numbers, positions
    return all_numbers, all_positions


def ani(dtype):
    """Model, energy function and arguments of force_backward, and which atoms are real."""
    import torch
    from torchani.arch import Assembler

    assembler = Assembler(periodic_table_index=True)
    assembler.set_symbols(("H", "C", "N", "O"))
    assembler.set_atomic_networks(ctor="ani1x")
    assembler.set_global_cutoff_fn("cosine")
    assembler.set_aev_computer(angular="ani1x", radial="ani1x", strategy="pyaev")
    assembler.set_neighborlist("all_pairs")
    assembler.set_zeros_as_self_energies()
    model = assembler.assemble(1).to(dtype)
    numbers, positions = (torch.tensor(array) for array in molecules())

    def energy(r):
        return model((numbers, r)).energies

    return model, energy, positions, {}, numbers >= 0


def schnet(dtype):
    import torch

    # the potentials alone: the data loading of SchNetPack 2.1 needs an older PyTorch
    spec = importlib.util.find_spec("schnetpack")
    sys.modules["schnetpack"] = importlib.util.module_from_spec(spec)
    import schnetpack.atomistic
    import schnetpack.nn
    import schnetpack.representation

    representation = schnetpack.representation.SchNet(
        n_atom_basis=128,
        n_interactions=3,
        radial_basis=schnetpack.nn.GaussianRBF(20, 5.0),
        cutoff_fn=schnetpack.nn.CosineCutoff(5.0),
    )
    model = torch.nn.Sequential(representation, schnetpack.atomistic.Atomwise(128)).to(dtype)
    padded_numbers, padded = (torch.tensor(array) for array in molecules())
    atoms = padded_numbers >= 0
    structure = torch.arange(MOLECULES)[:, None].expand_as(atoms)[atoms]
    numbers, positions = padded_numbers[atoms], padded[atoms]
    near = torch.cdist(positions, positions) < 5.1
    near &= (structure[:, None] == structure) & ~torch.eye(len(structure), dtype=bool)
    i, j = torch.nonzero(near, as_tuple=True)

    def energy(r):
        inputs = {
            "_atomic_numbers": numbers,
            "_Rij": r[j] - r[i],
            "_idx_i": i,
            "_idx_j": j,
            "_idx_m": structure,
        }
        return model(inputs)["y"]

    return model, energy, positions, {"structure": structure}, torch.ones_like(numbers) > 0


def measure(case, precision, method):
    """In a process of its own: peak memory (MB), seconds per step and gradient."""
    warnings.simplefilter("ignore")  # other packages' deprecations
    import torch

    from fdforce.adapters.torch import force_backward

    torch.set_num_threads(1)
    torch.manual_seed(0)
    dtype = getattr(torch, precision)
    build = {"ANI-1x": ani, "SchNet": schnet}[case]
    model, energy, positions, options, real = build(dtype)
    positions = positions.to(dtype)
    generator = torch.Generator().manual_seed(1)
    reference = torch.randn(positions.shape, generator=generator, dtype=torch.float64)
    reference = (reference * real[..., None]).to(positions.dtype)

    def loss(energies, forces):
        energy_part = (energies / real.sum() * MOLECULES).square().mean()
        return energy_part + (forces - reference).square().sum() / (3 * real.sum())

    def step():
        if METHODS[method] is not None:
            force_backward(energy, loss, positions, parameters=model, **options, **METHODS[method])
            return
        r = positions.clone().requires_grad_()
        energies = energy(r)
        (slope,) = torch.autograd.grad(energies.sum(), r, create_graph=True)
        loss(energies, -slope).backward()

    wall, busy = [], []
    for _ in range(0 if method == "bare" else 4):
        model.zero_grad()
        begun = time.monotonic(), time.process_time()
        step()
        wall.append(time.monotonic() - begun[0])
        busy.append(time.process_time() - begun[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak": peak, "wall": wall, "cpu": busy, "atoms": int(real.sum())}))


def in_process(*arguments):
    command = [sys.executable, __file__, "--one", *arguments]
    one = {"OMP_NUM_THREADS": "1", "TORCHANI_NO_WARN_EXTENSIONS": "1"}
    result = subprocess.run(
        command, env={**os.environ, **one}, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(result.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="write the results to this file")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        measure(*arguments.one)
        return
    # not above: the measured processes import for themselves what they measure
    from fdforce.provenance import environment

    packages = ("torch", "torchani", "schnetpack", "numpy", "fdforce")
    results = {
        "command": "python scripts/measure_torch_adapter.py",
        "machine": {**environment(), "threads": 1},
        "versions": {name: installed(name) for name in packages},
        "measurements": [],
    }
    columns = "".join(f"{name:>8}{'ratio':>7}" for name in ("MB", "wall s", "CPU s"))
    print(f"{'model':8}{'dtype':9}{'method':17}{columns}")
    for case in ("ANI-1x", "SchNet"):
        for precision in ("float32", "float64"):
            bare = min(in_process(case, precision, "bare")["peak"] for _ in range(2))
            first = None
            for method in METHODS:
                runs = [in_process(case, precision, method) for _ in range(arguments.repeats)]
                memory = float(np.median([run["peak"] for run in runs])) - bare
                wall = min(min(run["wall"]) for run in runs)
                cpu = min(min(run["cpu"]) for run in runs)
                first = first or (memory, wall, cpu)
                row = {
                    "model": case, "dtype": precision, "method": method,
                    "molecules": MOLECULES, "atoms": runs[0]["atoms"],
                    "bare_MB": round(bare, 1), "memory_MB": round(memory, 1),
                    "memory_ratio": round(memory / first[0], 3),
                    "wall_s": round(wall, 4), "wall_ratio": round(wall / first[1], 3),
                    "cpu_s": round(cpu, 4), "cpu_ratio": round(cpu / first[2], 3),
                }  # fmt: skip
                results["measurements"].append(row)
                print(
                    f"{case:8}{precision:9}{method:17}{memory:8.0f}{memory / first[0]:7.2f}"
                    f"{wall:8.3f}{wall / first[1]:7.2f}{cpu:8.3f}{cpu / first[2]:7.2f}",
                    flush=True,
                )
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(results, file, indent=1)
            file.write("\n")


def installed(name):
    if name == "fdforce":
        import fdforce

        return fdforce.__version__
    return version(name)


if __name__ == "__main__":
    main()
