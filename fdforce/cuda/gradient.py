"""The training step on the device: loss, direction, replicas and gradient with one copy back.

The method is that of `fdforce.gradient.loss_gradient`, and the result the same `GradientStep`;
energies, forces and replicas do not leave the device.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from fdforce.cuda.adam import BLOCKS
from fdforce.cuda.batch import DeviceBatch
from fdforce.cuda.data import DeviceData, DeviceTarget
from fdforce.cuda.networks import DeviceNetworks
from fdforce.errors import ConfigError, FdforceError
from fdforce.evaluation import take
from fdforce.gradient import GradientStep, find_stencil, relative_loss_error
from fdforce.losses import HuberLoss, L1Loss, LossTerms, RMSELoss, SquaredLoss
from fdforce.losses.l1 import SMOOTHING

QUANTITIES = ("energy", "force", "stress")


class DeviceLoss:
    """Constants of a loss as its kernels take them.

    Parameters
    ----------
    device : CudaDevice
    loss : WeightedLoss
    batch : DeviceBatch
    data : DataSet
    indices : ndarray
        Structures of the batch in the data set.
    """

    def __init__(self, device, loss, batch, data, indices):
        kinds = device.kernels("losses")
        codes = {
            SquaredLoss: (kinds.SQUARED, 0.0),
            HuberLoss: (kinds.HUBER, getattr(loss, "huber_delta", 0.0)),
            L1Loss: (kinds.L1, SMOOTHING),
            RMSELoss: (kinds.RMSE, 0.0),
        }
        if type(loss) not in codes:
            raise ConfigError(f'{type(loss).__name__} has no kernel for a GPU: take device = "cpu"')
        self.loss, self.device = loss, device
        self.kind, self.parameter = codes[type(loss)]
        n_structures = len(batch.counts)
        if self.kind == kinds.RMSE:
            target = take(data.target, data.structures, np.asarray(indices))
            labels = target.energy, target.forces[:, 0], target.virial[:, 0, 0]
            shares = [1 / max(np.count_nonzero(~np.isnan(label)), 1) for label in labels]
        else:
            shares = np.array([1, 1 / loss.mean_atoms, 1]) / n_structures
        upload = device.upload
        self.shares = upload(shares, np.float64)
        self.weights = upload(loss.weights, np.float64)
        self.units = upload(loss.units, np.float64)
        self.energy_sizes = upload(loss.energy_sizes(batch), np.float64)
        of_species = loss.element_weights or np.ones(len(data.structures.elements))
        self.of_species = upload(of_species, np.float64)

    def sums(self, batch, target, energy, forces, virial, sums):
        """Fill `sums` (S, N_SUMS)."""
        self.device.kernels("losses").loss_sums(
            energy, forces, virial, target.energy, target.forces, target.virial, target.weight,
            self.energy_sizes, batch.species, batch.offsets, batch.volumes, self.kind,
            self.parameter, self.units, self.shares, self.of_species, sums,
        )  # fmt: skip

    def slopes(self, batch, target, energy, forces, virial, sums, out):
        """Fill d_energy, d_forces, d_virial and the sums of the monitor."""
        kernels = self.device.kernels("losses")
        totals = self.device.empty(kernels.N_TOTALS, np.float64)
        kernels.loss_totals(sums, totals)
        kernels.loss_slopes(
            energy, forces, virial, target.energy, target.forces, target.virial, target.weight,
            self.energy_sizes, batch.species, batch.offsets, self.kind, self.parameter,
            self.weights, self.units, self.shares, self.of_species,
            float(self.loss.error_threshold), totals, *out,
        )  # fmt: skip

    def parts(self, sums):
        """Energy, force and stress terms from what was copied to the host, without weights."""
        parts = sums[:, :3].sum(axis=0)
        return np.sqrt(parts) if self.kind == self.device.kernels("losses").RMSE else parts


class Run(NamedTuple):
    """A step between its launches and its results."""

    batch: DeviceBatch
    target: DeviceTarget
    loss: DeviceLoss
    packed: Packed
    gradient: Any
    formula: Any


class DeviceGradient:
    """Gradients of a loss over structures of one data set.

    Parameters
    ----------
    networks : DeviceNetworks
    data : DeviceData
    """

    def __init__(self, networks: DeviceNetworks, data: DeviceData):
        self.device, self.model = networks.device, networks.model
        self.networks, self.data = networks, data

    def __call__(
        self, indices, loss, *, epsilon: float, stencil: str = "central",
        length_scale: float = 1.0, moves: bool = True, keep=None, share: float = 1.0,
        meanwhile=None,
    ) -> GradientStep:  # fmt: skip
        """Loss of some structures and its gradient at the model's present parameters.

        Parameters
        ----------
        indices : sequence of int
        loss : WeightedLoss
        epsilon, stencil, length_scale
            As for `fdforce.gradient.loss_gradient`.
        moves : bool
            False where none of them has a force or stress label: these are evaluated once.
        keep : DeviceAdam, optional
            Has the parameters, and takes the gradient, which then does not come to the host.
        share : float
            Of the structures of a batch that these are, for `keep`.
        meanwhile : callable, optional
            Called while the device computes.

        Returns
        -------
        GradientStep
            Its `forces` are None; the direction and strain in ``details["terms"]`` as well. With
            `keep` the gradient is None too.

        Raises
        ------
        ConfigError
            The complex stencil.
        FdforceError
            A displacement beyond the skin of the pair list.
        """
        formula = find_stencil(stencil)
        if stencil == "complex":
            raise ConfigError("the complex stencil runs on the CPU alone: take another stencil")
        self._check_skin(formula, epsilon * length_scale)
        with self.device.step():
            if moves:
                run = self._of_forces(indices, loss, formula, epsilon * length_scale, keep)
            else:
                run = self._of_energies(indices, loss, keep)
            if keep is not None:  # last of all: what fails is evaluated again
                keep.take(run.gradient, share, run.packed["squares"])
            if meanwhile is not None:
                meanwhile()
            host = run.packed.to_host()  # the one synchronisation
        if keep is not None:
            keep.is_finite = bool(np.isfinite(host["squares"]).all())
        return self._step(run, host)

    def _of_forces(self, indices, loss, formula, length, keep) -> Run:
        """Launch all for structures that are displaced."""
        device, networks = self.device, self.networks
        kernels, losses = device.kernels("replicas"), device.kernels("losses")
        n_nodes = len(formula.nodes)
        run = self._begin(indices, loss, keep, formula, replicas=n_nodes, eta=1)
        batch, target, packed = run.batch, run.target, run.packed
        layout = batch.layout(np.array(formula.nodes))
        mean, slope, centre_mean, centre_slope = (
            device.upload(np.atleast_1d(values), np.float64)
            for values in (formula.mean, formula.slope, formula.centre_mean, formula.centre_slope)
        )
        self.data.fill(batch, target)
        state = networks.forward(batch, packed["energy"])
        d_forces, d_virial = self._slopes_of_loss(run, *networks.forces(state))
        kernels.step_lengths(d_forces, d_virial, batch.offsets, length, batch.cutoff, packed["eta"])
        replicas = batch.displaced(d_forces, packed["eta"], layout, d_virial)
        moved = networks.forward(replicas, packed["replicas"])
        weights = device.empty(n_nodes * len(batch.counts), np.float64)
        losses.replica_weights(packed["d_energy"], packed["eta"], mean, slope, weights)
        networks.gradient(moved, weights, run.gradient)
        if formula.centre_slope or formula.centre_mean:
            weights = device.empty(len(batch.counts), np.float64)
            losses.replica_weights(
                packed["d_energy"], packed["eta"], centre_mean, centre_slope, weights
            )
            of_centre = device.empty(networks.n_parameters, np.float64)
            networks.gradient(state, weights, of_centre)
            device.kernels("reductions").add(run.gradient, of_centre, run.gradient)
        return run

    def _of_energies(self, indices, loss, keep) -> Run:
        """Launch all for structures of which only energies count."""
        device, networks = self.device, self.networks
        run = self._begin(indices, loss, keep)
        self.data.fill(run.batch, run.target)
        # the mark of a displaced batch says that forces will not be asked for
        state = networks.forward(replace(run.batch, displacement=True), run.packed["energy"])
        forces = device.zeros((run.batch.n_atoms, 3), np.float64)
        self._slopes_of_loss(run, forces, device.zeros((len(run.batch.counts), 3, 3), np.float64))
        networks.gradient(state, run.packed["d_energy"], run.gradient)
        return run

    def _begin(self, indices, loss, keep, formula=None, **more) -> Run:
        """Choose structures, and make room for what goes back to the host.

        `more` are arrays of so many numbers for a structure.
        """
        device, networks = self.device, self.networks
        losses = device.kernels("losses")
        batch = self.data.batch(indices, networks.n_parameters)
        target = self.data.target(batch, indices)
        on_device = DeviceLoss(device, loss, batch, self.data.data, indices)
        n, shape = len(batch.counts), (networks.n_parameters,)
        packed = Packed(
            device, energy=(n,), d_energy=(n,), sums=(n, losses.N_SUMS),
            monitor=(n, losses.N_MONITOR), **{name: (k * n,) for name, k in more.items()},
            **({"gradient": shape} if keep is None else {"squares": (BLOCKS,)}),
        )  # fmt: skip
        if keep is None:
            networks.upload(self.model.theta)
            gradient = packed["gradient"]
        else:
            networks.use(keep.working)
            gradient = device.empty(shape, np.float64)
        return Run(batch, target, on_device, packed, gradient, formula)

    def _slopes_of_loss(self, run, forces, virial):
        """dL/df and dL/dW of a batch, while the rest goes where the host will read it."""
        device, batch, packed = self.device, run.batch, run.packed
        d_forces = device.empty((batch.n_atoms, 3), np.float64)
        d_virial = device.empty((len(batch.counts), 3, 3), np.float64)
        result = packed["energy"], forces, virial
        run.loss.sums(batch, run.target, *result, packed["sums"])
        run.loss.slopes(
            batch, run.target, *result, packed["sums"],
            (packed["d_energy"], d_forces, d_virial, packed["monitor"]),
        )  # fmt: skip
        return d_forces, d_virial

    def _step(self, run, host) -> GradientStep:
        """What `loss_gradient` would return, from what has come to the host."""
        losses, loss, formula = self.device.kernels("losses"), run.loss.loss, run.formula
        parts, monitor = run.loss.parts(host["sums"]), host["monitor"]
        zero = np.zeros(len(monitor))
        details = {"defect": zero, "slope": zero, "scale": zero, "force_loss": zero}
        eta = host.get("eta", zero)
        if formula is not None:
            moving = eta != 0
            energies = host["replicas"].reshape(len(formula.nodes), -1)
            estimate = np.array(formula.slope) @ energies + formula.centre_slope * host["energy"]
            slope = monitor[:, losses.SLOPE]
            scale = np.sqrt(monitor[:, losses.OF_G] * monitor[:, losses.OF_F])
            scale = scale + np.sqrt(monitor[:, losses.OF_STRAIN] * monitor[:, losses.OF_VIRIAL])
            details = {
                "defect": np.where(moving, -estimate / np.where(moving, eta, 1) - slope, 0.0),
                "slope": slope, "scale": scale, "force_loss": monitor[:, losses.FORCE_LOSS],
            }  # fmt: skip
        terms = LossTerms(
            value=float(loss.weights @ parts), parts=parts, force_loss=details["force_loss"],
            d_energy=host["d_energy"], d_forces=None, d_virial=None, errors=errors_of(host["sums"]),
        )  # fmt: skip
        details["terms"] = terms
        error = relative_loss_error(details["defect"], details["force_loss"])
        return GradientStep(host.get("gradient"), terms.value, error, eta, None, details)

    def _check_skin(self, formula, length):
        """Both atoms of a pair may move, and the strain moves a pair as far as one of them."""
        change = 3 * max(map(abs, formula.nodes)) * length
        if change > self.data.data.pairs.skin:
            raise FdforceError(
                f"a displacement changes distances by up to {change:.3g} Å, but the pair list "
                f"has a skin of {self.data.data.pairs.skin:.3g} Å: take a smaller epsilon"
            )

    def terms(self, indices, loss) -> LossTerms:
        """Loss and errors of some structures, without a gradient."""
        with self.device.step():
            return self._terms(indices, loss)

    def _terms(self, indices, loss) -> LossTerms:
        device, networks = self.device, self.networks
        losses = device.kernels("losses")
        batch = self.data.batch(indices, networks.n_parameters)
        target = self.data.target(batch, indices)
        on_device = DeviceLoss(device, loss, batch, self.data.data, indices)
        networks.upload(self.model.theta)
        self.data.fill(batch, target)
        state = networks.forward(batch)
        sums = device.empty((len(batch.counts), losses.N_SUMS), np.float64)
        on_device.sums(batch, target, state.energy, *networks.forces(state), sums)
        sums = sums.copy_to_host()
        parts = on_device.parts(sums)
        return LossTerms(
            value=float(loss.weights @ parts), parts=parts, force_loss=None, d_energy=None,
            d_forces=None, d_virial=None, errors=errors_of(sums),
        )  # fmt: skip


class Packed:
    """Arrays of float64 that are parts of one, so that one copy takes them all to the host."""

    def __init__(self, device, **shapes):
        sizes = [math.prod(shape) for shape in shapes.values()]
        ends = list(itertools.accumulate(sizes))
        self._whole, self._shapes = device.empty(ends[-1], np.float64), shapes
        self._places = {
            name: (end - size, end) for name, size, end in zip(shapes, sizes, ends, strict=True)
        }
        memory = self._whole.view(np.uint8)
        self._parts = {
            name: device.part(memory, 8 * first, shapes[name], np.float64)
            for name, (first, _) in self._places.items()
        }

    def __getitem__(self, name):
        return self._parts[name]

    def to_host(self) -> dict:
        """Copies of all parts, by name."""
        whole = self._whole.copy_to_host()
        return {
            name: whole[first:end].reshape(self._shapes[name])
            for name, (first, end) in self._places.items()
        }


def errors_of(sums) -> dict:
    """Sums of squared and absolute errors and their counts, by quantity, from those of a batch."""
    total = sums[:, 3:].sum(axis=0)
    return {name: total[3 * k : 3 * k + 3] for k, name in enumerate(QUANTITIES)}
