"""Accuracy, speed and memory on a GPU, and where the time of a step goes.

    python scripts/measure_gpu.py OUT.json [--part accuracy|training|speed|all] [--small]

accuracy: gradients of the examples' force loss against the complex step of the processor, with the
epsilon that the scan on the device recommends, in both precisions. training: the same fit on both
devices, with five seeds on the processor for the spread. speed: a step on rutile (Chebyshev 6.5/20
and 5.0/6, 15-15, float32) in batches of 32 structures and of 300,000 atoms, of 2560 molecules with
the descriptor and networks of ANI-1x, and energies and forces of 1000 aluminium atoms; the largest
batch once more with a synchronisation around every launch, for the share of each kernel, beside the
measured ceilings of the device. --small takes sizes that compute-sanitizer or the simulator can do
(NUMBA_ENABLE_CUDASIM=1). Structures repeat where a batch holds more than there are; times are those
of whole steps, from the numbers of the structures to the gradient on the host.
"""

import argparse
import json
import tempfile
import time
from copy import copy as shallow_copy
from functools import partial
from itertools import pairwise
from pathlib import Path

import ase.build
import ase.spacegroup
import numpy as np

from fdforce.computation import HostComputation
from fdforce.cuda.computation import DeviceComputation
from fdforce.cuda.data import DeviceData
from fdforce.cuda.device import list_devices, runtime
from fdforce.cuda.gradient import DeviceGradient
from fdforce.cuda.networks import DeviceNetworks
from fdforce.cuda.timing import work_on_device
from fdforce.data_set import DataSet, residual_target
from fdforce.descriptors import AtomicEnvironmentVector, Chebyshev
from fdforce.epsilon import default_epsilons, scan
from fdforce.examples import example_files
from fdforce.losses import Target, make_loss
from fdforce.models import ElementalNetworks
from fdforce.neighbors import TRAINING_SKIN, build_pairs
from fdforce.provenance import environment
from fdforce.structures import read_structures

STEPS, SECONDS = 20, 5.0
"""Steps that are timed, or as many as fit into so many seconds; the median counts."""


cuda = runtime().cuda


@cuda.jit
def copy(source, target):
    k = cuda.grid(1)
    if k < source.size:
        target[k] = source[k]


@cuda.jit
def multiply(x, rounds):
    k = cuda.grid(1)
    a = x[k]
    b, c, d = a + a, a * a, a + a + a
    for _ in range(rounds):
        a = a * b + c
        b = b * a + d
        c = c * d + a
        d = d * c + b
    x[k] = a + b + c + d


def rutile(n, rng):
    """n rattled cells of 48 atoms."""
    cell = ase.spacegroup.crystal(
        ("Ti", "O"), [(0, 0, 0), (0.3, 0.3, 0)], spacegroup=136,
        cellpar=[4.6, 4.6, 2.95, 90, 90, 90],
    ) * (2, 2, 2)  # fmt: skip
    return [_rattled(cell, rng) for _ in range(n)]


def molecules(n, rng):
    """n rattled molecules of 3 to 14 atoms."""
    names = "CH3CH2OH", "C6H6", "CH3CHO", "C2H6NH", "CH3COOH", "H2O", "C3H8", "CH3CONH2"
    return [_rattled(ase.build.molecule(names[k % len(names)]), rng) for k in range(n)]


def _rattled(atoms, rng):
    atoms = atoms.copy()
    atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
    return atoms


def labelled(model, frames, rng):
    """A data set with labels at random, and a squared loss."""
    structures, _ = read_structures(frames, elements=model.elements, keep_isolated=True)
    pairs = build_pairs(structures, model.cutoff, skin=TRAINING_SKIN)
    target = Target(
        rng.normal(size=len(structures)), rng.normal(size=(structures.n_atoms, 3)),
        np.full((len(structures), 3, 3), np.nan), np.ones(len(structures)),
    )  # fmt: skip
    loss = make_loss("squared", mean_atoms=structures.n_atoms / len(structures))
    return DataSet(structures, target, pairs), loss


def scaled(model, data):
    """The model with standardised features."""
    model.standardise([data.batch(np.arange(min(len(data), 32)), 1)[0]])
    return model


def median_time(run):
    """Median seconds of a call that ends with a synchronisation."""
    start = time.perf_counter()
    run()  # compiles
    if runtime().SIMULATED:
        return time.perf_counter() - start
    times, began = [], time.perf_counter()
    while len(times) < STEPS and (len(times) < 3 or time.perf_counter() - began < SECONDS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def speed_of(model, data, loss, n_structures):
    """Seconds of a gradient and of energies and forces of a batch, and what they come to."""
    work = work_on_device(model, data, loss, epsilon=1e-3, stencil="central")
    indices = np.resize(np.arange(len(data)), n_structures)
    atoms = int(data.structures.counts[indices].sum())
    gradient, both = (
        median_time(partial(work[name], indices)) for name in ("gradient", "forces")
    )  # fmt: skip
    return {
        "structures": n_structures, "atoms": atoms, "neighbors": data.pairs.mean_neighbors,
        "gradient_s": gradient, "gradient_atoms_per_s": atoms / gradient,
        "forces_s": both, "forces_atoms_per_s": atoms / both,
    }  # fmt: skip


def host_speed(model, data, loss, threads=2):
    """Atoms per second of gradients on the processor, in batches of 32 structures."""
    from fdforce.threads import limit_threads

    indices = np.arange(min(len(data), 32))
    atoms = int(data.structures.counts[indices].sum())
    with limit_threads(threads) as threads:
        computation = HostComputation(model, threads)
        seconds = median_time(lambda: computation.gradient(data, indices, loss, epsilon=1e-5))
    return {"threads": threads, "gradient_atoms_per_s": atoms / seconds}


def kernel_shares(run):
    """Seconds of every kernel in one run, with a synchronisation around each launch."""
    import sys

    seconds = {}

    def timed(launch):
        def shaped(kernel, *shape, **options):
            launched = launch(kernel, *shape, **options)
            name = getattr(kernel, "py_func", kernel)
            name = f"{name.__module__.rpartition('.')[2]}.{name.__name__}"

            def call(*arguments):
                cuda.synchronize()
                start = time.perf_counter()
                launched(*arguments)
                cuda.synchronize()
                seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start

            return call

        return shaped

    kept = []
    for name, module in list(sys.modules.items()):
        if name.startswith("fdforce.kernels.cuda.") and not name.endswith(".runtime"):
            for attribute in ("launch", "launch_over"):
                if hasattr(module, attribute):
                    kept.append((module, attribute, getattr(module, attribute)))
                    setattr(module, attribute, timed(getattr(module, attribute)))
    try:
        run()
    finally:
        for module, attribute, launch in kept:
            setattr(module, attribute, launch)
    total = sum(seconds.values())
    order = sorted(seconds, key=seconds.get, reverse=True)
    return {name: {"seconds": seconds[name], "share": seconds[name] / total} for name in order}


def ceilings(small):
    """Bytes per second of a copy, and operations per second of fused multiply-adds in float32."""
    n, threads = (2**10, 32) if small else (2**28, 256)
    source, target = (cuda.to_device(np.full(n, 0.01, np.float32)) for _ in range(2))

    def run_copy():
        copy[n // threads, threads](source, target)
        cuda.synchronize()

    rounds = 4 if small else 4096
    m = n if small else 2**22

    def run_multiply():
        multiply[m // threads, threads](target, rounds)
        cuda.synchronize()

    return {
        "bytes_per_s": 8 * n / median_time(run_copy),
        "float32_flops_per_s": 8 * rounds * m / median_time(run_multiply),
    }


def cublas(kernels, widths, atoms):
    """Seconds of the products of a network's forward pass through cuBLAS, beside our kernel.

    None without CuPy. Ours include biases, activations and slopes.
    """
    try:
        import cupy
    except ImportError:
        return None
    inputs = [cupy.ones((atoms, n), cupy.float32) for n in widths[:-1]]
    weights = [cupy.ones((a, b), cupy.float32) for a, b in pairwise(widths)]

    def products():
        for x, w in zip(inputs, weights, strict=True):
            x @ w
        cupy.cuda.Device().synchronize()

    ours = kernels["networks._forward_kernel"]["seconds"]
    flops = 2 * atoms * sum(a * b for a, b in pairwise(widths))
    theirs = median_time(products)
    return {"cublas_s": theirs, "cublas_flops_per_s": flops / theirs, "ours_three_replicas_s": ours}


def speed(small):
    """The table of docs/gpu.md."""
    rng = np.random.default_rng(0)
    found = {"ceilings": ceilings(small)}
    titania = Chebyshev(
        ("Ti", "O"), radial_cutoff=6.5, radial_order=20, angular_cutoff=5.0, angular_order=6
    )
    frames = rutile(2 if small else 256, rng)
    if small:
        frames = [frame[:3] for frame in frames]
    model = ElementalNetworks(titania, (15, 15), "tanh", dtype=np.float32)
    data, loss = labelled(model, frames, rng)
    scaled(model, data)
    found["tio2_32"] = speed_of(model, data, loss, 2 if small else 32)
    found["tio2_host"] = host_speed(model, data, loss)
    atoms = data.structures.n_atoms / len(data)
    large = 3 if small else int(300_000 / atoms) + 1
    found["tio2_300k"] = speed_of(model, data, loss, large)
    ratio = found["tio2_300k"]["gradient_atoms_per_s"]
    found["over_two_cores"] = ratio / found["tio2_host"]["gradient_atoms_per_s"]
    networks = DeviceComputation(model).networks
    steps = DeviceGradient(networks, DeviceData(networks.device, data))
    indices = np.resize(np.arange(len(data)), large)
    found["tio2_300k_kernels"] = kernel_shares(lambda: steps(indices, loss, epsilon=1e-3))

    ani = ElementalNetworks(
        AtomicEnvironmentVector(("H", "C", "N", "O")),
        {"H": (160, 128, 96), "C": (144, 112, 96), "N": (128, 112, 96), "O": (128, 112, 96)},
        "celu", dtype=np.float32,
    )  # fmt: skip
    data, loss = labelled(ani, molecules(2 if small else 256, rng), rng)
    found["ani_2560"] = speed_of(scaled(ani, data), data, loss, 2 if small else 2560)
    indices = np.resize(np.arange(len(data)), 2 if small else 2560)
    networks = DeviceComputation(ani).networks
    steps = DeviceGradient(networks, DeviceData(networks.device, data))
    found["ani_2560_kernels"] = kernel_shares(lambda: steps(indices, loss, epsilon=1e-3))
    # all atoms as if they were carbon, at r, r+ and r-
    found["ani_2560_cublas"] = cublas(
        found["ani_2560_kernels"], (384, 144, 112, 96, 1), 3 * found["ani_2560"]["atoms"]
    )

    aluminium = ase.build.bulk("Al", cubic=True) * ((1, 1, 1) if small else (5, 5, 10))
    aluminium.rattle(0.05, seed=0)
    model = ElementalNetworks(
        Chebyshev(("Al",), radial_cutoff=6.5, radial_order=15, angular_cutoff=5.0, angular_order=6),
        (32, 32), "silu", dtype=np.float32,
    )  # fmt: skip
    data, loss = labelled(model, [aluminium], rng)
    found["al_1000"] = speed_of(scaled(model, data), data, loss, 1)
    return found


def accuracy(small):
    """Err[grad L~] on the examples against the complex step, at the recommended epsilon."""
    found = {}
    for path in (example_files(name)[0] for name in ("ethanol", "diamond")):
        structures, _ = read_structures(path)
        structures = structures.select(np.arange(1 if small else 8))
        for precision in ("float64", "float32"):
            settings = (
                dict(radial_order=3, angular_order=2) if small
                else dict(radial_order=15, angular_order=6)
            )  # fmt: skip
            descriptor = Chebyshev(
                structures.elements, radial_cutoff=2.5 if small else 5.0,
                angular_cutoff=2.0 if small else 4.0, **settings,
            )  # fmt: skip
            pairs = build_pairs(structures, descriptor.cutoff, skin=TRAINING_SKIN)
            data = DataSet(structures, residual_target(structures), pairs)
            loss = make_loss("squared", mean_atoms=structures.n_atoms / len(structures))
            model = scaled(ElementalNetworks(descriptor, (15, 15), "tanh"), data)
            exact_model, model.dtype = shallow_copy(model), np.dtype(precision)
            indices = np.arange(len(data))
            exact = HostComputation(exact_model).gradient(data, indices, loss, epsilon=1e-20,
                                                          stencil="complex")  # fmt: skip
            networks = DeviceNetworks(DeviceComputation(model).device, model)
            steps = DeviceGradient(networks, DeviceData(networks.device, data))
            epsilons = [1e-5, 1e-3] if small else default_epsilons(1e-7, 8e-3)
            scanned = scan(lambda e: [steps(indices, loss, epsilon=e)], epsilons,  # noqa: B023
                           precision=precision, truth=[exact.gradient])  # fmt: skip
            step = steps(indices, loss, epsilon=scanned.recommended)
            error = np.linalg.norm(step.gradient - exact.gradient)
            again = steps(indices, loss, epsilon=scanned.recommended)
            found[f"{Path(path).name.split('.')[0]}_{precision}"] = {
                "epsilon": scanned.recommended,
                "err_gradient": float(error / np.linalg.norm(exact.gradient)),
                "err_loss": step.loss_error,
                "same_bits_twice": bool(np.array_equal(step.gradient, again.gradient)),
            }
    return found


def training(small):
    """Errors at the end of the same fit on both devices."""
    import fdforce

    settings = dict(
        train=[str(example_files()[0])], valid=0.1, test=0.1, epochs=1 if small else 40,
        descriptor="chebyshev", radial_cutoff=2.0 if small else 5.0,
        angular_cutoff=1.6 if small else 4.0, radial_order=3 if small else 15,
        angular_order=2 if small else 6, hidden=[4] if small else [15, 15],
        optimizer={"name": "adamw", "batch_size": 400 if small else 32},
        finite_difference={"epsilon": 1e-4},
    )  # fmt: skip
    found, log = {}, (lambda line: None)
    with tempfile.TemporaryDirectory() as folder:
        runs = [("cpu", seed) for seed in range(1 if small else 5)] + [("cuda", 0)]
        for device, seed in runs:
            out = Path(folder) / f"{device}{seed}"
            result = fdforce.fit(out=out, device=device, seed=seed, log=log, **settings)
            found[f"{device}_{seed}"] = result.metrics["test"]
    return found


PARTS = {"accuracy": accuracy, "training": training, "speed": speed}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--part", choices=[*PARTS, "all"], default="all")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    if runtime().SIMULATED:
        runtime().THREADS = 8
    found = {"machine": environment(), "devices": list_devices()}
    for name, part in PARTS.items():
        if options.part in (name, "all"):
            start = time.perf_counter()
            found[name] = part(options.small)
            found[f"{name}_seconds"] = time.perf_counter() - start
            options.out.write_text(json.dumps(found, indent=1))
            print(json.dumps({name: found[name]}, indent=1), flush=True)


if __name__ == "__main__":
    main()
