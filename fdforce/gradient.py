"""The method: gradients of force losses from first-order derivatives alone.

Smith, Lubbers, Thompson and Barros, "Simple and efficient algorithms for training machine learning
potentials to force data", arXiv:2006.05475 (S20), Eqs. 2-10. With g = dL/df the gradient of a force
loss is minus the directional derivative of dE/dtheta along g,

    dL/dtheta = -d/d eta  dE/dtheta [r + eta g],    eta = epsilon a0 / g0,    g0 = max_i |g_i|,

taken by a finite difference over displaced replicas. A loss of the virial W = -dE/ds adds the
strain direction H = dL/dW, which moves positions and cell alike. The energy term rides on the same
weighted backward pass. This module imports numpy alone and knows no model: anything with the three
calls of the `EnergyModel` seam, or two plain callables, can be trained through it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

COMPLEX_STEP = 1e-20


class Stencil(NamedTuple):
    """Finite-difference formula ``f'(0) ~ sum_k slope_k f(node_k eta) / eta``.

    ``mean`` are weights that reproduce f(0) to the same order, for the energy term; the entries
    ``centre_slope`` and ``centre_mean`` belong to f(0) itself.
    """

    nodes: tuple[float, ...]
    slope: tuple[float, ...]
    mean: tuple[float, ...]
    centre_slope: float
    centre_mean: float
    order: int


STENCILS = {
    "central": Stencil((1, -1), (1 / 2, -1 / 2), (1 / 2, 1 / 2), 0, 0, 2),
    "forward": Stencil((1,), (1,), (0,), -1, 1, 1),
    "central4": Stencil(
        (1, -1, 2, -2), (2 / 3, -2 / 3, -1 / 12, 1 / 12), (2 / 3, 2 / 3, -1 / 6, -1 / 6), 0, 0, 4
    ),
    "complex": Stencil((1j,), (-1j,), (1,), 0, 0, 0),
}
"""name -> formula. ``complex`` is exact: the real part of its weighted sum (docs/method.md)."""


@dataclass
class GradientStep:
    """Result of one evaluation of the loss and its gradient.

    Attributes
    ----------
    gradient : ndarray, or a list or dict of arrays
        dL/dtheta, in kind of what the model returns.
    loss : float or None
        L, with the energy term where there is one; None for a given direction without labels.
    loss_error : float or None
        Err[L~] of S20, Eq. 12: relative error of the force loss estimated from the energies of the
        replicas. None where those are not available.
    eta : ndarray, shape (S,), or float
        Step of every structure.
    forces : ndarray, shape (N, 3), or a list of such
    details : dict
        ``defect``, ``force_loss``, ``slope`` and ``scale`` per structure, for the monitor; ``terms``.
    """

    gradient: Any
    loss: float
    loss_error: float | None
    eta: Any
    forces: Any
    details: dict = field(default_factory=dict, repr=False)


def find_stencil(name: str) -> Stencil:
    """Look a stencil up by name; raises ValueError with the choices."""
    if name not in STENCILS:
        raise ValueError(f"stencil = {name!r}: choose one of {', '.join(STENCILS)}")
    return STENCILS[name]


def step_lengths(
    direction, strain, structure, n_structures, *, epsilon, length_scale, reach, g0=None
):
    """eta = epsilon a0 / g0 of every structure (S20, Eqs. 9 and 10).

    Parameters
    ----------
    direction : ndarray, shape (N, 3)
        g.
    strain : ndarray, shape (S, 3, 3), or None
        H; counts as the displacement ``reach * |H|_2``.
    structure : ndarray, shape (N,)
        Structure of each atom.
    n_structures : int
    epsilon : float
    length_scale : float, Å
        a0.
    reach : float, Å
        Distance over which the strain displaces a neighbour, the cutoff.
    g0 : float, optional
        A fixed g0 in place of the largest |g_i|.

    Returns
    -------
    ndarray, shape (S,)
        0 where g vanishes: there is nothing to displace and no force gradient.
    """
    if g0 is not None:
        return np.full(n_structures, epsilon * length_scale / g0)
    largest = np.zeros(n_structures)
    with np.errstate(invalid="ignore"):  # forces that are not finite give a step that is not
        np.maximum.at(largest, structure, np.sqrt(np.einsum("ij,ij->i", direction, direction)))
    if strain is not None:
        finite = np.isfinite(strain).all(axis=(1, 2))
        norm = np.linalg.norm(np.where(finite[:, None, None], strain, 0), 2, axis=(1, 2))
        largest = np.maximum(largest, reach * np.where(finite, norm, np.nan))
    still = largest == 0
    return np.where(still, 0.0, epsilon * length_scale / np.where(still, 1, largest))


def loss_gradient(
    model,
    batch,
    loss: Callable,
    *,
    epsilon: float = 1e-5,
    length_scale: float = 1.0,
    stencil: str = "central",
    g0: float | None = None,
) -> GradientStep:
    """Loss of a batch and its gradient with respect to the parameters.

    One forward and force pass at r, then one forward and one weighted gradient pass over the
    replicas r + eta g and r - eta g.

    Parameters
    ----------
    model : EnergyModel
        With forward(batch), forces(state) and gradient(state, weights).
    batch : Batch
        With ``structure``, ``cutoff`` and ``displaced(direction, eta, strain)``.
    loss : callable
        ``loss(batch, energy, forces, virial)`` returning an object with ``value``, ``force_loss``,
        ``d_energy`` (or None), ``d_forces`` and ``d_virial`` (or None).
    epsilon : float
        Largest displacement in units of a0.
    length_scale : float, Å
        a0.
    stencil : str
        A key of `STENCILS`.
    g0 : float, optional
        Fixed scale in place of the largest |g_i| of each structure (S20, appendix A).

    Returns
    -------
    GradientStep

    Raises
    ------
    ValueError
        Unknown stencil.
    """
    formula = find_stencil(stencil)
    state = model.forward(batch)
    forces, virial = model.forces(state)
    terms = loss(batch, state.energy, forces, virial)
    direction, strain = terms.d_forces, terms.d_virial
    if strain is not None and not np.any(strain):
        strain = None
    n_structures = len(state.energy)
    if stencil == "complex":
        epsilon = COMPLEX_STEP
    eta = step_lengths(
        direction, strain, batch.structure, n_structures,
        epsilon=epsilon, length_scale=length_scale, reach=batch.cutoff, g0=g0,
    )  # fmt: skip
    moving = eta != 0
    inverse_eta = np.where(moving, 1 / np.where(moving, eta, 1), 0.0)
    d_energy = np.zeros(n_structures) if terms.d_energy is None else terms.d_energy

    def weights(mean, slope):
        return mean * d_energy - slope * inverse_eta

    if not moving.any() and terms.d_energy is not None:
        # energies alone: nothing to displace
        zero = np.zeros(n_structures)
        details = {"force_loss": zero, "slope": zero, "scale": zero, "defect": zero, "terms": terms}
        gradient = _real(model.gradient(state, d_energy))
        return GradientStep(gradient, terms.value, 0.0, eta, forces, details)
    nodes = np.array(formula.nodes)
    replicas = model.forward(batch.displaced(direction, nodes[:, None] * eta, strain))
    on_replicas = [weights(m, s) for m, s in zip(formula.mean, formula.slope, strict=True)]
    gradient = model.gradient(replicas, np.concatenate(on_replicas))
    if formula.centre_slope or formula.centre_mean:
        centre = weights(formula.centre_mean, formula.centre_slope)
        gradient = _combine([1, 1], [gradient, model.gradient(state, centre)])
    gradient = _real(gradient)

    slope, of_g, of_f = (
        np.bincount(batch.structure, np.einsum("ij,ij->i", a, b), minlength=n_structures)
        for a, b in ((direction, forces), (direction, direction), (forces, forces))
    )
    if strain is not None:
        slope += np.einsum("sij,sij->s", strain, virial)
    details = {"force_loss": terms.force_loss, "slope": slope, "terms": terms, "defect": None}
    details["scale"] = np.sqrt(of_g * of_f)  # |g||f|, to which the monitor relates the defect
    if replicas.energy is not None and (state.energy is not None or not formula.centre_slope):
        energies = np.reshape(replicas.energy, (len(nodes), n_structures))
        estimate = np.tensordot(formula.slope, energies, 1)
        if formula.centre_slope:
            estimate = estimate + formula.centre_slope * state.energy
        # dE/d eta along the direction is -g.f - H:W
        details["defect"] = np.where(moving, -np.real(estimate) * inverse_eta - slope, 0.0)
    error = None
    if details["defect"] is not None and terms.value is not None:
        error = relative_loss_error(details["defect"], terms.force_loss)
    return GradientStep(gradient, terms.value, error, eta, forces, details)


def relative_loss_error(defect, force_loss) -> float:
    """Err[L~] = |L~ - L| / |L| over structures (S20, Eqs. 12-14).

    For a squared loss L~ - L is half the defect, the difference between the energy slope along g
    from the replicas and from the forces.
    """
    scale = np.linalg.norm(force_loss)
    return float(0.5 * np.linalg.norm(defect) / scale) if scale > 0 else 0.0


# The method for plain callables.


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

    def forward(self, batch):
        if batch.replicas:
            return _Point(batch)
        result = self.energy_and_forces(*_arguments(batch.positions, batch.cell))
        if not isinstance(result, tuple) or len(result) not in (2, 3):
            raise ValueError(
                "energy_and_forces must return the tuple (energy, forces) or "
                f"(energy, forces, stress), not {type(result).__name__}"
            )
        point = _Point(batch, None if result[0] is None else np.array([result[0]], dtype=float))
        point.energy = np.zeros(1) if point.energy is None else point.energy
        point.forces = np.asarray(result[1], dtype=np.float64)
        if point.forces.shape != batch.positions.shape:
            raise ValueError(
                f"energy_and_forces returned forces of shape {point.forces.shape} for positions of "
                f"shape {batch.positions.shape}"
            )
        point.virial = np.zeros((1, 3, 3))
        if len(result) == 3 and batch.cell is not None:
            volume = abs(np.linalg.det(batch.cell))
            point.virial = -volume * full_stress(result[2])[None]
            self.with_stress = True
        return point

    def forces(self, state):
        return state.forces, state.virial

    def gradient(self, state, weights):
        points = state.batch.replicas or ((state.batch.positions, state.batch.cell),)
        results = [self.energy_gradient(*_arguments(*point)) for point in points]
        if all(isinstance(result, tuple) for result in results):
            state.energy = np.array([np.squeeze(energy) for energy, _ in results])
            results = [gradient for _, gradient in results]
        return _combine(weights, results)


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
        Fixed in place of the largest |g_i|.

    Returns
    -------
    GradientStep
        ``gradient`` in kind, ``loss``, ``loss_error`` (None without energies), ``eta``, ``forces``.

    Raises
    ------
    ValueError
        Arrays of the wrong shape, a stress without a cell, or an unknown stencil.

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
    if reference_forces is None and direction is None:
        raise ValueError("give reference_forces, or a direction in place of dL/df")
    cell = _shaped(cell, "cell", (3, 3))
    if reference_stress is not None and cell is None:
        raise ValueError("reference_stress needs the cell as well")
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
    return step


def force_loss_gradients(
    energy_and_forces: Callable,
    energy_gradient: Callable,
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
    energy_and_forces, energy_gradient : callable
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
    steps = [
        force_loss_gradient(
            energy_and_forces, energy_gradient, positions[s], references[s],
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
        gradient=_combine(np.ones(n), [step.gradient for step in steps]),
        loss=None if any(s.loss is None for s in steps) else sum(s.loss for s in steps),
        loss_error=error,
        eta=[step.eta for step in steps],
        forces=[step.forces for step in steps],
        details={"steps": steps},
    )


def full_stress(stress):
    """3x3 tensor of a stress given as such or in ASE's Voigt order xx yy zz yz xz xy."""
    stress = np.asarray(stress, dtype=np.float64)
    if stress.shape == (6,):
        return stress[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
    if stress.shape != (3, 3):
        raise ValueError(f"stress has shape {stress.shape}; expected (3, 3) or (6,)")
    return 0.5 * (stress + stress.T)


def _arguments(positions, cell):
    return (positions,) if cell is None else (positions, cell)


def _shaped(value, name, shape):
    if value is None:
        return None
    value = np.asarray(value, dtype=np.float64)
    if value.shape != shape:
        raise ValueError(f"{name} has shape {value.shape}; expected {shape}")
    return value


def _combine(weights, gradients):
    """``sum_k weights[k] * gradients[k]`` for arrays, or lists or dicts of arrays, in kind."""
    first = gradients[0]
    if isinstance(first, dict):
        return {key: _combine(weights, [g[key] for g in gradients]) for key in first}
    if isinstance(first, list):
        return [_combine(weights, list(parts)) for parts in zip(*gradients, strict=True)]
    total = weights[0] * np.asarray(first)
    for weight, gradient in zip(weights[1:], gradients[1:], strict=True):
        total = total + weight * np.asarray(gradient)
    return total


def _real(gradient):
    if isinstance(gradient, dict):
        return {key: _real(value) for key, value in gradient.items()}
    if isinstance(gradient, list):
        return [_real(value) for value in gradient]
    return np.real(gradient)
