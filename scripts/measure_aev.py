"""Time of a training gradient of the ANI-1x architecture: fdforce against TorchANI.

    python scripts/measure_aev.py [--dtype float64] [--molecules 256] [--seconds 20] [--json FILE]

The batch: chain molecules of 3 to 6 heavy atoms (C, N, O) and their hydrogens, with noise. The same
model in both programs: 384 features, networks 384-160-128-96-1 with biases and CELU for every
element, the same random parameters, the squared loss of energies and forces. TorchANI takes the
step as its users do, with forces from automatic differentiation and a second backward pass; fdforce
that of ``fdforce benchmark``. One thread each, in turn, and the least time of each counts. Pair
lists: fdforce's are made once for a data set and not timed, TorchANI finds its pairs in every step.

The two gradients are compared. They differ by what the finite difference makes of CELU's second
derivative, which jumps at 0; a hidden unit that changes sign between the replicas costs 1e-5 to
1e-4. PyTorch's own derivative of CELU is wrong by 1.5e-8, for it takes 1/a in single precision.
"""

import argparse
import importlib.metadata
import json
import os
import time
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import numpy as np
from ase import Atoms

from fdforce.batch import make_batch
from fdforce.descriptors.atomic_environment import AtomicEnvironmentVector
from fdforce.gradient import loss_gradient
from fdforce.losses import Target, make_loss
from fdforce.models.elemental_networks import ElementalNetworks
from fdforce.neighbors import TRAINING_SKIN, build_pairs
from fdforce.provenance import environment
from fdforce.structures import read_structures
from fdforce.threads import limit_threads

HIDDEN = (160, 128, 96)
ALPHA = 0.1
"""Of TorchANI's CELU, a (exp(x / a) - 1) below 0; fdforce's has a = 1."""
ELEMENTS = ("H", "C", "N", "O")


def molecules(number):
    """Random chain molecules."""
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(number):
        symbols, positions = [], []
        for k in range(rng.integers(3, 7)):
            element, side = rng.choice(["C", "C", "C", "N", "O"]), (-1) ** k
            centre = np.array([1.27 * k, 0.45 * side, 0.0])
            symbols.append(str(element))
            positions.append(centre)
            for height in {"C": (0.88, -0.88), "N": (0.88,), "O": ()}[element]:
                symbols.append("H")
                positions.append(centre + np.array([0, 0.6 * side, height]))
        noise = rng.normal(scale=0.05, size=(len(positions), 3))
        frames.append(Atoms(symbols, np.array(positions) + noise))
    return frames


class Fdforce:
    def __init__(self, frames, energy, forces, dtype):
        structures, _ = read_structures(frames, elements=ELEMENTS)
        self.model = ElementalNetworks(
            AtomicEnvironmentVector.ani1x(), HIDDEN, "celu", dtype=np.dtype(dtype)
        )
        pairs = build_pairs(structures, self.model.cutoff, skin=TRAINING_SKIN)
        self.batch = make_batch(structures, pairs)
        mean_atoms = structures.n_atoms / len(structures)
        loss = make_loss("squared", mean_atoms=mean_atoms)
        weight = np.ones(len(structures))
        virial = np.full((len(structures), 3, 3), np.nan)
        labels = Target(energy, np.concatenate(forces), virial, weight)
        self.loss = lambda *result: loss(*result, labels)
        self.epsilon = 1e-3 if dtype == "float32" else 1e-5

    def energy_and_forces(self):
        return self.model.forces(self.model.forward(self.batch))

    def step(self, stencil="central"):
        return loss_gradient(
            self.model, self.batch, self.loss, epsilon=self.epsilon, stencil=stencil
        )


class TorchANI:
    def __init__(self, frames, energy, forces, dtype, theta):
        import torch
        from torchani.aev import AEVComputer
        from torchani.nn import ANINetworks, SpeciesConverter

        torch.set_num_threads(1)
        self.torch = torch
        kind = getattr(torch, dtype)
        most = max(len(atoms) for atoms in frames)
        numbers = np.full((len(frames), most), -1)
        positions, self.reference = np.zeros((2, len(frames), most, 3))
        for s, atoms in enumerate(frames):
            numbers[s, : len(atoms)] = atoms.numbers
            positions[s, : len(atoms)] = atoms.positions
            self.reference[s, : len(atoms)] = forces[s]
        self.positions = torch.tensor(positions, dtype=kind)
        self.reference = torch.tensor(self.reference, dtype=kind)
        self.energy = torch.tensor(energy, dtype=kind)
        self.counts = torch.tensor([len(atoms) for atoms in frames], dtype=kind)
        self.species = SpeciesConverter(ELEMENTS)(torch.tensor(numbers))
        self.aev = AEVComputer.like_1x().to(kind)
        for terms, key in ((self.aev.radial, "radial"), (self.aev.angular, "angular")):
            # TorchANI's constants are rounded to single precision
            descriptor = AtomicEnvironmentVector.ani1x()
            shifts = getattr(descriptor, f"{key}_shifts")
            terms.shifts.copy_(torch.tensor(shifts, dtype=torch.float64))
            if key == "angular":
                terms.sections.copy_(torch.tensor(descriptor.angle_shifts, dtype=torch.float64))
        widths = dict.fromkeys(ELEMENTS, HIDDEN)
        self.networks = ANINetworks.build(
            ELEMENTS, 384, widths, out_dim=1, bias=True, activation="celu", default_dims=HIDDEN
        ).to(kind)
        self._set(theta)

    def _layers(self):
        for element in ELEMENTS:
            network = self.networks[element]
            yield from (*network.layers, network.final_layer)

    def _set(self, theta):
        at = 0
        with self.torch.no_grad():
            for layer in self._layers():
                n_out, n_in = layer.weight.shape
                size = n_in * n_out
                first, last = n_in == 384, n_out == 1
                weight = theta[at : at + size].reshape(n_in, n_out).T
                bias = theta[at + size : at + size + n_out]
                # a CELU(x / a): x is a times fdforce's, and so is what it makes of it
                weight = weight * (ALPHA if first else 1) / (ALPHA if last else 1)
                layer.weight.copy_(self.torch.tensor(weight))
                layer.bias.copy_(self.torch.tensor(bias * (1 if last else ALPHA)))
                at += size + n_out

    def gradient(self):
        """In the parameters and the order of fdforce."""
        parts = []
        for layer in self._layers():
            n_out, n_in = layer.weight.shape
            first, last = n_in == 384, n_out == 1
            weight = layer.weight.grad.T.double().numpy()
            parts.append((weight * (ALPHA if first else 1) / (ALPHA if last else 1)).ravel())
            parts.append(layer.bias.grad.double().numpy() * (1 if last else ALPHA))
        return np.concatenate(parts)

    def energies(self, positions):
        return self.networks(self.species, self.aev(self.species, positions))

    def energy_and_forces(self):
        positions = self.positions.clone().requires_grad_()
        energies = self.energies(positions)
        (slope,) = self.torch.autograd.grad(energies.sum(), positions)
        return energies.detach(), -slope

    def step(self):
        self.networks.zero_grad()
        positions = self.positions.clone().requires_grad_()
        energies = self.energies(positions)
        (slope,) = self.torch.autograd.grad(energies.sum(), positions, create_graph=True)
        per_atom = (energies - self.energy) / self.counts
        loss = per_atom.square().mean()
        loss = loss + (slope + self.reference).square().sum() / (3 * self.counts.sum())
        loss.backward()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--molecules", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json", help="write the results to this file")
    arguments = parser.parse_args()
    os.environ.setdefault("TORCHANI_NO_WARN_EXTENSIONS", "1")
    warnings.simplefilter("ignore")  # other packages' deprecations
    frames = molecules(arguments.molecules)
    rng = np.random.default_rng(1)
    energy = rng.normal(size=len(frames))
    forces = [rng.normal(size=(len(atoms), 3)) for atoms in frames]
    n_atoms = sum(len(atoms) for atoms in frames)

    ours = Fdforce(frames, energy, forces, arguments.dtype)
    peer = TorchANI(frames, energy, forces, arguments.dtype, ours.model.theta)
    work = {
        "TorchANI energy+forces": peer.energy_and_forces,
        "TorchANI gradient": peer.step,
        "fdforce energy": lambda: ours.model.forward(ours.batch),
        "fdforce energy+forces": ours.energy_and_forces,
        "fdforce gradient (central)": ours.step,
        "fdforce gradient (forward)": lambda: ours.step("forward"),
    }
    with limit_threads(1):
        for run in work.values():
            run()
        gradient = ours.step().gradient
        error = np.linalg.norm(gradient - peer.gradient()) / np.linalg.norm(peer.gradient())
        least = dict.fromkeys(work, np.inf)
        began = time.perf_counter()
        while time.perf_counter() - began < arguments.seconds:
            for kind, run in work.items():
                start = time.perf_counter()
                run()
                least[kind] = min(least[kind], time.perf_counter() - start)
    print(f"{len(frames)} molecules, {n_atoms} atoms, {arguments.dtype}, one thread")
    print(f"relative difference of the two gradients: {error:.1e}")
    for kind, seconds in least.items():
        print(f"{kind:28}{1e6 * seconds / n_atoms:8.1f} µs/atom")
    ratios = {
        stencil: least["TorchANI gradient"] / least[f"fdforce gradient ({stencil})"]
        for stencil in ("central", "forward")
    }
    for stencil, ratio in ratios.items():
        print(f"TorchANI gradient / fdforce gradient ({stencil}): {ratio:.2f}")
    if arguments.json:
        names = ("fdforce", "torchani", "torch", "numba", "numpy")
        results = {
            "command": "python scripts/measure_aev.py",
            "machine": {"processor": environment()["processor"], "threads": 1},
            "versions": {name: version(name) for name in names},
            "molecules": len(frames),
            "atoms": n_atoms,
            "dtype": arguments.dtype,
            "gradient_difference": error,
            "us_per_atom": {kind: 1e6 * s / n_atoms for kind, s in least.items()},
            "ratios": ratios,
        }
        with open(arguments.json, "w") as file:
            json.dump(results, file, indent=1)
            file.write("\n")


def version(name):
    if name == "fdforce":
        import fdforce

        return fdforce.__version__
    return importlib.metadata.version(name)


if __name__ == "__main__":
    main()
