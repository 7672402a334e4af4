"""The method for any energy code: plain callables in place of an `EnergyModel`.

A code that returns energies, forces and dE/dtheta is trained to forces by the same routine as
fdforce's own models (`fdforce.gradient`). This module imports numpy alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fdforce.energy_code import full_stress, is_single, layout, read_forces, read_gradient
from fdforce.errors import CodeError
from fdforce.gradient import GradientStep, combine, loss_gradient, relative_loss_error

COARSE_EPSILON = 1e-4
"""Below this displacement differences of float32 gradients are mostly rounding."""


@dataclass
class _Point:
    """State of a `_Callables` model: energies may come only with the gradient."""

    batch: Any
    energy: np.ndarray | None = None


@dataclass(frozen=True)
class _Structure:
    """A batch of one structure for models that are plain callables."""

    positions: np.ndarray
    cell: np.ndarray | None
    cutoff: float
    structure: np.ndarray
    replicas: tuple = ()

    def displaced(self, direction, eta, strain=None):
        replicas = []
        for step in eta[:, 0]:
            positions, cell = self.positions + step * direction, self.cell
            if strain is not None:
                positions = positions + step * self.positions @ strain[0]
                cell = cell + step * cell @ strain[0]
            replicas.append((positions, cell))
        return _Structure(self.positions, self.cell, self.cutoff, self.structure, tuple(replicas))


class _Callables:
    """The EnergyModel seam over ``energy_and_forces`` and ``energy_gradient``."""

    def __init__(self, energy_and_forces, energy_gradient):
        self.energy_and_forces = energy_and_forces
        self.energy_gradient = energy_gradient
        self.with_stress = False
        self.single = False

    def forward(self, batch):
        if batch.replicas:
            return _Point(batch)
        result = self.energy_and_forces(*_arguments(batch.positions, batch.cell))
        energy, forces, stress = read_forces(result, batch.positions.shape)
        point = _Point(batch, np.array([0.0 if energy is None else energy], dtype=np.float64))
        point.forces = forces
        point.virial = np.zeros((1, 3, 3))
        if stress is not None and batch.cell is not None:
            point.virial = -abs(np.linalg.det(batch.cell)) * stress[None]
            self.with_stress = True
        return point

    def forces(self, state):
        return state.forces, state.virial

    def gradient(self, state, weights):
        points = state.batch.replicas or ((state.batch.positions, state.batch.cell),)
        results = [read_gradient(self.energy_gradient(*_arguments(*point))) for point in points]
        energies = [energy for energy, _ in results]
        if all(energy is not None for energy in energies):
            state.energy = np.array(energies)
        layouts = {layout(gradient) for _, gradient in results}
        if len(layouts) > 1:
            raise CodeError(
                "energy_gradient returned dE/dtheta of shapes "
                f"{' and '.join(sorted(layouts))} for the same structure"
            )
        self.single = self.single or any(is_single(gradient) for _, gradient in results)
        return combine(weights, [gradient for _, gradient in results])


@dataclass(frozen=True)
class _Terms:
    value: float | None
    force_loss: np.ndarray
    d_forces: np.ndarray
    d_virial: np.ndarray | None
    d_energy: None = None


def force_loss_gradient(
    energy_and_forces: Callable,
    energy_gradient: Callable,
    positions,
    reference_forces,
    *,
    epsilon: float = 1e-5,
    length_scale: float = 1.0,
    stencil: str = "central",
    cell=None,
    reference_stress=None,
    direction=None,
    weights=None,
    stress_weight: float = 1.0,
    cutoff: float = 6.0,
    g0: float | None = None,
) -> GradientStep:
    """Gradient of a force loss of any energy code, with no second derivatives.

    The loss is ``1/2 sum_i w_i |f_i - f_ref,i|^2``, plus
    ``1/2 stress_weight sum_ab (sigma - sigma_ref)_ab^2`` over the 3x3 tensor when a reference
    stress is given. The model is called once for forces, then once per node of the stencil for
    the parameter gradient (S20, Eq. 7).

    Parameters
    ----------
    energy_and_forces : callable
        ``f(positions) -> (energy, forces)`` or ``(energy, forces, stress)``; with `cell` given
        ``f(positions, cell)``.
    energy_gradient : callable
        Same arguments; returns dE/dtheta as an array, or a list or dict of arrays, or the 2-tuple
        ``(energy, dE/dtheta)``, with which the error monitor comes for free.
    positions, reference_forces : array, shape (n_atoms, 3)
        Å and eV/Å, or any consistent units.
    epsilon : float
        Largest displacement in units of `length_scale`.
    length_scale : float, Å
        a0 (S20, Eq. 10).
    stencil : {"central", "forward", "central4", "complex"}
        "complex" needs a model that accepts complex positions.
    cell : array, shape (3, 3), optional
        Lattice vectors in rows.
    reference_stress : array, shape (3, 3) or (6,), optional
        ASE's sign and Voigt order (xx yy zz yz xz xy), eV/Å^3.
    direction : array, shape (n_atoms, 3), optional
        Replaces dL/df, for other losses of the forces; reference forces may then be None.
    weights : array, shape (n_atoms,) or (n_atoms, 3), optional
        w, factors of the squared force errors.
    stress_weight : float
        Factor of the squared stress errors.
    cutoff : float, Å
        Range of the model, which bounds the displacement that a strain causes.
    g0 : float, optional
        Fixed in place of the largest ``|g_i|``.

    Returns
    -------
    GradientStep
        ``gradient`` in kind, ``loss``, ``loss_error`` (None without energies), ``eta``, ``forces``.

    Raises
    ------
    ValueError
        Arrays of the wrong shape, a stress without a cell, or an unknown stencil.
    CodeError
        A callable returned what cannot be right: wrong shapes or types, NaN. It is a ValueError.

    Examples
    --------
    A spring of stiffness theta between two atoms, whose reference stiffness is 3:

    >>> import numpy as np
    >>> theta = 2.0
    >>> def energy_and_forces(r):
    ...     d = r[1] - r[0]
    ...     return 0.5 * theta * d @ d, theta * np.array([d, -d])
    >>> def energy_gradient(r):
    ...     d = r[1] - r[0]
    ...     return 0.5 * theta * d @ d, np.array([0.5 * d @ d])
    >>> r = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    >>> step = force_loss_gradient(
    ...     energy_and_forces, energy_gradient, r, 1.5 * energy_and_forces(r)[1]
    ... )
    >>> step.loss, step.gradient.round(9)
    (1.0, array([-2.]))
    """
    positions = np.asarray(positions, dtype=np.float64)
    if positions.ndim != 2 or positions.shape[1] != 3:
        raise ValueError(f"positions have shape {positions.shape}; expected (n_atoms, 3)")
    shape = positions.shape
    reference_forces = _shaped(reference_forces, "reference_forces", shape)
    direction = _shaped(direction, "direction", shape)
    for name, given in (("reference_forces", reference_forces), ("direction", direction)):
        if given is not None and not np.isfinite(given).all():
            raise ValueError(
                f"{name} hold numbers that are not finite; give weights of 0 and any number where "
                "a label is missing"
            )
    if g0 is not None and not g0 > 0:
        raise ValueError(f"g0 = {g0}: must be above 0 eV/Å")
    if reference_forces is None and direction is None:
        raise ValueError("give reference_forces, or a direction in place of dL/df")
    cell = _shaped(cell, "cell", (3, 3))
    if reference_stress is not None and cell is None:
        raise ValueError("reference_stress needs the cell as well")
    if reference_stress is not None and not abs(np.linalg.det(cell)) > 0:
        raise ValueError("reference_stress needs a cell with a volume; this one has none")
    if weights is None:
        weights = 1.0
    else:
        weights = np.asarray(weights, dtype=np.float64)
        if weights.shape == shape[:1]:
            weights = weights[:, None]
        elif weights.shape != shape:
            raise ValueError(f"weights have shape {weights.shape}; expected {shape[:1]} or {shape}")
    model = _Callables(energy_and_forces, energy_gradient)

    def loss(batch, energy, forces, virial):
        error = forces - reference_forces if reference_forces is not None else np.zeros(shape)
        g = weights * error if direction is None else direction
        value = 0.5 * float(np.sum(weights * error**2))
        if reference_stress is None:
            labelled = value if reference_forces is not None else None
            return _Terms(labelled, np.array([value]), g, None)
        if not model.with_stress:
            raise ValueError(
                "reference_stress is given, but energy_and_forces returns no stress: "
                "return (energy, forces, stress)"
            )
        volume = abs(np.linalg.det(cell))
        d_stress = -virial / volume - full_stress(reference_stress)
        value += 0.5 * stress_weight * float(np.sum(d_stress**2))
        return _Terms(value, np.array([value]), g, -stress_weight * d_stress / volume)

    batch = _Structure(positions, cell, cutoff, np.zeros(len(positions), dtype=np.int64))
    step = loss_gradient(
        model, batch, loss,
        epsilon=epsilon, length_scale=length_scale, stencil=stencil, g0=g0,
    )  # fmt: skip
    step.eta = float(step.eta[0])
    if model.single and epsilon < COARSE_EPSILON and stencil != "complex":
        warnings.warn(
            f"dE/dtheta comes in float32, for which epsilon = {epsilon:g} is too small: its "
            "differences are mostly rounding. Take about 1e-3 to 1e-2 (`fdforce epsilon` tells), "
            "or compute in float64",
            stacklevel=2,
        )
    if direction is not None:
        step.loss_error = None  # the loss that the direction belongs to is not known
    return step


def force_loss_gradients(
    energy_and_forces: Callable | Sequence[Callable],
    energy_gradient: Callable | Sequence[Callable],
    positions: Sequence,
    reference_forces: Sequence,
    *,
    cell: Sequence | None = None,
    reference_stress: Sequence | None = None,
    direction: Sequence | None = None,
    weights: Sequence | None = None,
    **options,
) -> GradientStep:
    """`force_loss_gradient` over a list of structures, gradients and losses summed.

    Parameters
    ----------
    energy_and_forces, energy_gradient : callable, or sequence of callables
        The same for all structures, or one for each: a callable sees positions alone, so
        structures of different species need their own (`fdforce.EnergyCode`).
    positions, reference_forces : sequence of arrays
    cell, reference_stress, direction, weights : sequence, optional
        An entry for each structure, None where it has none.
    **options
        Passed on to `force_loss_gradient`.

    Returns
    -------
    GradientStep
        ``eta`` and ``forces`` are lists; ``loss_error`` is the L2 norm over structures.

    Raises
    ------
    ValueError
        Sequences of different lengths or none at all, or what `force_loss_gradient` raises.
    """
    n = len(positions)
    if n == 0:
        raise ValueError("positions hold no structure")
    per_structure = {
        "reference_forces": reference_forces, "cell": cell, "reference_stress": reference_stress,
        "direction": direction, "weights": weights,
    }  # fmt: skip
    for name, values in per_structure.items():
        if values is None:
            per_structure[name] = [None] * n
        elif len(values) != n:
            raise ValueError(f"{name} has {len(values)} entries for {n} structures")
    references = per_structure.pop("reference_forces")
    energy_and_forces = for_each(energy_and_forces, n, "energy_and_forces")
    energy_gradient = for_each(energy_gradient, n, "energy_gradient")
    steps = [
        force_loss_gradient(
            energy_and_forces[s], energy_gradient[s], positions[s], references[s],
            **{name: values[s] for name, values in per_structure.items()}, **options,
        )
        for s in range(n)
    ]  # fmt: skip
    defects = [step.details["defect"] for step in steps]
    error = None
    if all(defect is not None for defect in defects) and all(s.loss is not None for s in steps):
        losses = np.concatenate([step.details["force_loss"] for step in steps])
        error = relative_loss_error(np.concatenate(defects), losses)
    return GradientStep(
        gradient=combine(np.ones(n), [step.gradient for step in steps]),
        loss=None if any(s.loss is None for s in steps) else sum(s.loss for s in steps),
        loss_error=error,
        eta=[step.eta for step in steps],
        forces=[step.forces for step in steps],
        details={"steps": steps},
    )


def for_each(function, n: int, name: str) -> list:
    """A callable for each of n structures, of one callable or a sequence of n."""
    if callable(function):
        return [function] * n
    if len(function) != n:
        raise ValueError(f"{name} has {len(function)} callables for {n} structures")
    return list(function)


def _arguments(positions, cell):
    """Copies, for codes that wrap positions into the cell where they stand."""
    return (positions.copy(),) if cell is None else (positions.copy(), cell.copy())


def _shaped(value, name, shape):
    if value is None:
        return None
    value = np.asarray(value, dtype=np.float64)
    if value.shape != shape:
        raise ValueError(f"{name} has shape {value.shape}; expected {shape}")
    return value
