"""A loss, its derivatives and the sums of the monitor; formulas of `fdforce.losses`.

`loss_sums` adds up each structure, `loss_totals` the batch, and `loss_slopes` takes derivatives
with what that gave. Labels that are NaN are absent. Energies and virials count by structure, errors
are those of the module docstring of `fdforce.losses.weighted_loss`.

=============  ==================  ================================================================
kind           integer             a constant below
parameter      float64             delta of Huber's loss, the smoothing of l1
weights        (3,) float64        a of energies, forces and virials, at this share of the run
units          (3,) float64        of an energy error, the length of a force, the norm of a virial
shares         (3,) float64        what the weights of structures are multiplied with to give c
energy_sizes   (S,) float64        what errors of energies are divided by: atoms, or 1
weight         (S, 3) float64      of energy, forces and virial of a structure
of_species     (n_species,)        weights of elements
threshold      float64             of a force error, in root mean squares of the batch; 0: none
sums           (S, N_SUMS)         below
totals         (N_TOTALS,)         over the batch: c rho(x) of the three terms, or c x^2 for rmse;
                                   squared force errors, labelled components
=============  ==================  ================================================================
"""

import math

import numpy as np

from .reductions import block_sum
from .runtime import cuda, launch, launch_over

SQUARED, HUBER, L1, RMSE = range(4)

N_TERMS = 3
(
    ENERGY, FORCES, VIRIAL,  # c rho(x), or c x^2 for rmse
    ENERGY_SQUARE, ENERGY_SIZE, ENERGY_COUNT,  # of energies per atom
    FORCE_SQUARE, FORCE_SIZE, FORCE_COUNT,  # of force components; labelled atoms
    STRESS_SQUARE, STRESS_SIZE, STRESS_COUNT,  # of the six components of stresses
) = range(12)  # fmt: skip
N_SUMS = 12
N_TOTALS = 5

(FORCE_LOSS, SLOPE, OF_G, OF_F, OF_STRAIN, OF_VIRIAL) = range(6)
N_MONITOR = 6


@cuda.jit(device=True)
def _penalty(kind, parameter, square):
    """rho(x) for x^2."""
    if kind == HUBER:
        if square <= parameter * parameter:
            return square
        return parameter * (2.0 * math.sqrt(square) - parameter)
    if kind == L1:
        return math.sqrt(square + parameter * parameter) - parameter
    return square


@cuda.jit(device=True)
def _ratio(kind, parameter, square, total):
    """rho'(x) / x; of rmse 1 / value, with ``total`` the sum of c x^2."""
    if kind == HUBER:
        return 2.0 if square <= parameter * parameter else 2.0 * parameter / math.sqrt(square)
    if kind == L1:
        return 1.0 / math.sqrt(square + parameter * parameter)
    if kind == RMSE:
        return 0.0 if total == 0.0 else 1.0 / math.sqrt(total)
    return 2.0


@cuda.jit(device=True)
def _error(prediction, label):
    """0 where the label is absent; what is not finite in a prediction stays visible."""
    return 0.0 if math.isnan(label) else prediction - label


@cuda.jit
def _sums_kernel(
    energy, forces, virial, target_energy, target_forces, target_virial, weight, energy_sizes,
    species, offsets, volumes, kind, parameter, units, shares, of_species, sums,
):  # fmt: skip
    buffer = cuda.shared.array(0, sums.dtype)
    s, t = cuda.blockIdx.x, cuda.threadIdx.x
    rho, square_sum, size_sum, labelled = 0.0, 0.0, 0.0, 0.0
    for atom in range(offsets[s] + t, offsets[s + 1], cuda.blockDim.x):
        square = 0.0
        for axis in range(3):
            error = _error(forces[atom, axis], target_forces[atom, axis])
            square += error * error
            size_sum += abs(error)
        if not math.isnan(target_forces[atom, 0]):
            labelled += 1.0
        square_sum += square
        rho += of_species[species[atom]] * _penalty(kind, parameter, square / units[1] ** 2)
    rho, square_sum = block_sum(buffer, rho), block_sum(buffer, square_sum)
    size_sum, labelled = block_sum(buffer, size_sum), block_sum(buffer, labelled)
    if t > 0:
        return
    n = np.float64(offsets[s + 1] - offsets[s])
    error = _error(energy[s], target_energy[s])
    sums[s, ENERGY] = (
        shares[0] * weight[s, 0]
        * _penalty(kind, parameter, (error / energy_sizes[s] / units[0]) ** 2)
    )  # fmt: skip
    sums[s, ENERGY_SQUARE] = (error / n) ** 2
    sums[s, ENERGY_SIZE] = abs(error / n)
    sums[s, ENERGY_COUNT] = 0.0 if math.isnan(target_energy[s]) else 1.0
    sums[s, FORCES] = shares[1] * weight[s, 1] * rho
    sums[s, FORCE_SQUARE] = square_sum
    sums[s, FORCE_SIZE] = size_sum
    sums[s, FORCE_COUNT] = 3.0 * labelled
    square, upper, size = 0.0, 0.0, 0.0
    has_virial = not math.isnan(target_virial[s, 0, 0])
    if has_virial:
        for row in range(3):
            for column in range(3):
                error = _error(virial[s, row, column], target_virial[s, row, column]) / n
                square += error * error
                if row <= column:
                    stress = error * n / volumes[s]
                    upper += stress * stress
                    size += abs(stress)
    sums[s, VIRIAL] = (
        shares[2] * weight[s, 2] * _penalty(kind, parameter, square / units[2] ** 2)
        if has_virial else 0.0
    )  # fmt: skip
    sums[s, STRESS_SQUARE] = upper
    sums[s, STRESS_SIZE] = size
    sums[s, STRESS_COUNT] = 6.0 if has_virial else 0.0


def loss_sums(
    energy, forces, virial, target_energy, target_forces, target_virial, weight, energy_sizes,
    species, offsets, volumes, kind, parameter, units, shares, of_species, sums,
):  # fmt: skip
    """What every structure adds to the loss and to the errors."""
    launch(_sums_kernel, sums.shape[0], 8)(
        energy, forces, virial, target_energy, target_forces, target_virial, weight, energy_sizes,
        species, offsets, volumes, kind, parameter, units, shares, of_species, sums,
    )  # fmt: skip


@cuda.jit
def _totals_kernel(sums, totals):
    buffer = cuda.shared.array(0, totals.dtype)
    for k in range(N_TOTALS):
        column = k if k < N_TERMS else (FORCE_SQUARE if k == N_TERMS else FORCE_COUNT)
        total = 0.0
        for s in range(cuda.threadIdx.x, sums.shape[0], cuda.blockDim.x):
            total += sums[s, column]
        total = block_sum(buffer, total)
        if cuda.threadIdx.x == 0:
            totals[k] = total


def loss_totals(sums, totals):
    """Sums over the batch that derivatives need."""
    launch(_totals_kernel, 1, 8)(sums, totals)


@cuda.jit
def _slopes_kernel(
    energy, forces, virial, target_energy, target_forces, target_virial, weight, energy_sizes,
    species, offsets, kind, parameter, weights, units, shares, of_species, threshold, totals,
    d_energy, d_forces, d_virial, monitor,
):  # fmt: skip
    buffer = cuda.shared.array(0, d_energy.dtype)
    s, t = cuda.blockIdx.x, cuda.threadIdx.x
    least = threshold * threshold * totals[N_TERMS] / max(totals[N_TERMS + 1] / 3.0, 1.0)
    loss, slope, of_g, of_f = 0.0, 0.0, 0.0, 0.0
    for atom in range(offsets[s] + t, offsets[s + 1], cuda.blockDim.x):
        square = 0.0
        for axis in range(3):
            square += _error(forces[atom, axis], target_forces[atom, axis]) ** 2
        factor = shares[1] * weight[s, 1] * of_species[species[atom]]
        factor *= weights[1] / units[1] ** 2
        factor *= _ratio(kind, parameter, square / units[1] ** 2, totals[1])
        if threshold > 0.0 and square <= least:
            factor = 0.0
        loss += 0.5 * factor * square
        for axis in range(3):
            f = forces[atom, axis]
            g = factor * _error(f, target_forces[atom, axis])
            d_forces[atom, axis] = g
            slope += g * f
            of_g += g * g
            of_f += f * f
    loss, slope = block_sum(buffer, loss), block_sum(buffer, slope)
    of_g, of_f = block_sum(buffer, of_g), block_sum(buffer, of_f)
    if t > 0:
        return
    n = np.float64(offsets[s + 1] - offsets[s])
    error = _error(energy[s], target_energy[s])
    square = (error / energy_sizes[s] / units[0]) ** 2
    factor = weights[0] / units[0] ** 2 * shares[0] * weight[s, 0]
    factor *= _ratio(kind, parameter, square, totals[0])
    d_energy[s] = factor / energy_sizes[s] ** 2 * error
    square, of_strain, of_virial = 0.0, 0.0, 0.0
    has_virial = not math.isnan(target_virial[s, 0, 0])
    if has_virial:
        for row in range(3):
            for column in range(3):
                error = _error(virial[s, row, column], target_virial[s, row, column]) / n
                square += error * error
    factor = weights[2] / units[2] ** 2 * shares[2] * weight[s, 2]
    factor *= _ratio(kind, parameter, square / units[2] ** 2, totals[2])
    for row in range(3):
        for column in range(3):
            w, h = virial[s, row, column], 0.0
            if has_virial:
                h = factor / n * (_error(w, target_virial[s, row, column]) / n)
            d_virial[s, row, column] = h
            slope += h * w
            of_strain += h * h
            of_virial += w * w
    monitor[s, FORCE_LOSS] = loss + (0.5 * factor * square if has_virial else 0.0)
    monitor[s, SLOPE] = slope
    monitor[s, OF_G] = of_g
    monitor[s, OF_F] = of_f
    monitor[s, OF_STRAIN] = of_strain
    monitor[s, OF_VIRIAL] = of_virial


def loss_slopes(
    energy, forces, virial, target_energy, target_forces, target_virial, weight, energy_sizes,
    species, offsets, kind, parameter, weights, units, shares, of_species, threshold, totals,
    d_energy, d_forces, d_virial, monitor,
):  # fmt: skip
    """dL/dE (S,), g = dL/df (N, 3), H = dL/dW (S, 3, 3), and the sums of the monitor (S, 6)."""
    launch(_slopes_kernel, d_energy.size, 8)(
        energy, forces, virial, target_energy, target_forces, target_virial, weight, energy_sizes,
        species, offsets, kind, parameter, weights, units, shares, of_species, threshold, totals,
        d_energy, d_forces, d_virial, monitor,
    )  # fmt: skip


@cuda.jit
def _weights_kernel(d_energy, eta, mean, slope, weights):
    k = cuda.grid(1)
    n_structures = d_energy.size
    if k >= weights.size:
        return
    node, s = k // n_structures, k % n_structures
    inverse = 0.0 if eta[s] == 0.0 else 1.0 / eta[s]
    weights[k] = mean[node] * d_energy[s] - slope[node] * inverse


def replica_weights(d_energy, eta, mean, slope, weights):
    """Weights of dE/dtheta of every replica (n_nodes * S,), for the energy and the force loss."""
    launch_over(_weights_kernel, weights.size)(d_energy, eta, mean, slope, weights)
