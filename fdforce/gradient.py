"""The method: gradients of force losses from first-order derivatives alone.

Smith, Lubbers, Thompson and Barros, "Simple and efficient algorithms for training machine learning
potentials to force data", arXiv:2006.05475 (S20), Eqs. 2-10. With g = dL/df the gradient of a force
loss is minus the directional derivative of dE/dtheta along g,

    dL/dtheta = -d/d eta  dE/dtheta [r + eta g],    eta = epsilon a0 / g0,    g0 = max_i |g_i|,

taken by a finite difference over displaced replicas. A loss of the virial W = -dE/ds adds the
strain direction H = dL/dW, which moves positions and cell alike. The energy term rides on the same
weighted backward pass. This module imports numpy alone and knows no model: anything with the three
calls of the `EnergyModel` seam can be trained through it (`fdforce.callables`: any energy code).
"""

from __future__ import annotations

from collections.abc import Callable
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
        ``defect``, ``force_loss``, ``slope`` and ``scale`` per structure, for the monitor, and
        ``terms``, the result of the loss.
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
        A fixed g0 in place of the largest ``|g_i|``.

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
    largest[~np.isfinite(largest)] = np.nan
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
        Fixed scale in place of the largest ``|g_i|`` of each structure (S20, appendix A).

    Returns
    -------
    GradientStep

    Raises
    ------
    ValueError
        Unknown stencil, or epsilon not above 0.
    """
    formula = find_stencil(stencil)
    if not epsilon > 0 and stencil != "complex":
        raise ValueError(f"epsilon = {epsilon}: must be above 0")
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
        gradient = combine([1, 1], [gradient, model.gradient(state, centre)])
    gradient = _real(gradient)

    slope, of_g, of_f = (
        np.bincount(batch.structure, np.einsum("ij,ij->i", a, b), minlength=n_structures)
        for a, b in ((direction, forces), (direction, direction), (forces, forces))
    )
    if strain is not None:
        slope += np.einsum("sij,sij->s", strain, virial)
    details = {"force_loss": terms.force_loss, "slope": slope, "terms": terms, "defect": None}
    scale = np.sqrt(of_g * of_f)  # |g||f| + |H||W|, to which the monitor relates the defect
    if strain is not None:
        scale += np.linalg.norm(strain, axis=(1, 2)) * np.linalg.norm(virial, axis=(1, 2))
    details["scale"] = scale
    if replicas.energy is not None and (state.energy is not None or not formula.centre_slope):
        energies = np.reshape(replicas.energy, (len(nodes), n_structures))
        estimate = np.array(formula.slope) @ energies
        if formula.centre_slope:
            estimate = estimate + formula.centre_slope * state.energy
        # dE/d eta along the direction is -g.f - H:W
        details["defect"] = np.where(moving, -np.real(estimate) * inverse_eta - slope, 0.0)
    error = None
    if details["defect"] is not None and terms.value is not None:
        error = relative_loss_error(details["defect"], terms.force_loss)
    return GradientStep(gradient, terms.value, error, eta, forces, details)


def relative_loss_error(defect, force_loss) -> float:
    """Err[L~] = ``|L~ - L| / |L|`` over structures (S20, Eqs. 12-14).

    For a squared loss L~ - L is half the defect, the difference between the energy slope along g
    from the replicas and from the forces, and L is g.dF / 2. For any other loss `force_loss` is
    g.dF / 2 too, so that this is the relative error of g.dF; the defect depends on g alone.
    """
    scale = np.linalg.norm(force_loss)
    return float(0.5 * np.linalg.norm(defect) / scale) if scale > 0 else 0.0


def reduce_gradient(steps, places) -> GradientStep:
    """The step of a batch from those of its parts.

    A loss is a mean over structures, so gradients, losses and what the monitor adds up are sums,
    in which each part has the share that its structures have in the batch. Batches too large for a
    device go through here, as would those of several.

    Parameters
    ----------
    steps : sequence of GradientStep
        Of parts of a batch; their loss is no other than a mean over structures.
    places : sequence of ndarray
        Where the structures of each part are in the batch, counted from 0.

    Returns
    -------
    GradientStep
        Without forces; its gradient is None where those of the parts are.
    """
    n_structures = sum(map(len, places))
    shares = [len(place) / n_structures for place in places]
    terms, gradients = [step.details["terms"] for step in steps], [step.gradient for step in steps]

    def joined(parts):
        whole = np.empty(n_structures)
        for part, place in zip(parts, places, strict=True):
            whole[place] = part
        return whole

    details = {
        name: joined([w * step.details[name] for w, step in zip(shares, steps)])
        for name in ("defect", "force_loss", "slope", "scale")
    }
    details["terms"] = type(terms[0]).reduced(terms, shares, joined)
    return GradientStep(
        gradient=None if gradients[0] is None else combine(shares, gradients),
        loss=sum(w * step.loss for w, step in zip(shares, steps)),
        loss_error=relative_loss_error(details["defect"], details["force_loss"]),
        eta=joined([step.eta / w for w, step in zip(shares, steps)]),
        forces=None,
        details=details,
    )


def combine(weights, gradients):
    """``sum_k weights[k] * gradients[k]`` for arrays, or lists or dicts of arrays, in kind."""
    first = gradients[0]
    if isinstance(first, dict):
        return {key: combine(weights, [g[key] for g in gradients]) for key in first}
    if isinstance(first, list):
        return [combine(weights, list(parts)) for parts in zip(*gradients, strict=True)]
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
