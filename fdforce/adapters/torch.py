"""PyTorch: the gradient of any loss of energies, forces and stress, without double backward.

`force_backward` stands where ``loss.backward()`` stands in a training loop. The module needs a
first derivative only, and the graph of one evaluation at a time is in memory. `energy_code` is for
``fdforce epsilon``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from fdforce.energy_code import EnergyCode
from fdforce.errors import FdforceError
from fdforce.gradient import GradientStep, find_stencil, loss_gradient

try:
    import torch
except ImportError:  # the functions say what to install
    torch = None

EPSILON = {
    "float64": {"central": 1e-7, "forward": 1e-8, "central4": 1e-6},
    "float32": {"central": 5e-4, "forward": 3e-4, "central4": 5e-4},
}
"""Default epsilon by the lowest precision of positions and parameters.

Smaller than for smooth models: activations whose second derivative jumps (CELU, ELU with alpha
other than 1, ReLU) make larger displacements cross kinks (docs/adapters/torch.md).
"""


def force_backward(
    energy: Callable,
    loss: Callable,
    positions: torch.Tensor,
    *,
    parameters: Iterable[torch.Tensor] | torch.nn.Module,
    structure: torch.Tensor | None = None,
    cell: torch.Tensor | None = None,
    epsilon: float | None = None,
    length_scale: float = 1.0,
    stencil: str = "central",
    g0: float | None = None,
    cutoff: float = 6.0,
    displaced_in_double: bool = False,
) -> GradientStep:
    """Add the gradient of a loss of energies, forces and stress to ``.grad`` of the parameters.

    In place of ``loss.backward()``. `energy` is called once for the forces and once per node of
    the stencil for the parameter gradient, one after the other, never with ``create_graph``.
    Every call sees the same random numbers, so that dropout drops the same units.

    Parameters
    ----------
    energy : callable
        ``energy(positions)``, or ``energy(positions, cell)`` when a cell is given; returns a tensor
        of shape (S,), an energy for each structure, or a scalar for a single one. It gets
        positions of the shape, dtype and device of `positions`.
    loss : callable
        ``loss(energy, forces)``, or ``loss(energy, forces, stress)`` when a cell is given; returns
        a scalar tensor. Forces have the shape of `positions`, the stress that of `cell` (full
        tensors, ASE's sign: ``dE/ds / V``). Terms in the parameters themselves, such as a
        penalty on weights, count as well.
    positions : Tensor, shape (N, 3) or (S, A, 3)
        Å, float32 or float64. The second form holds S structures padded to A atoms.
    parameters : iterable of Tensor, or Module
        ``model.parameters()``. Those that require no gradient are left alone.
    structure : Tensor of int, shape (N,), optional
        Structure of each atom, 0 to S - 1, for positions (N, 3); without it they are one structure.
    cell : Tensor, shape (3, 3) or (S, 3, 3), optional
        Lattice vectors in rows, Å, for a loss with a stress. Periodic structures without one can
        have the cell bound into `energy`.
    epsilon : float, optional
        Largest displacement in units of `length_scale`; `EPSILON` holds the defaults.
    length_scale : float, Å
        a0.
    stencil : {"central", "forward", "central4"}
    g0 : float, optional
        Fixed scale in place of the largest ``|dL/df_i|`` of each structure.
    cutoff : float, Å
        Range of the model, which bounds the displacement that a strain causes. Used with a cell
        only.
    displaced_in_double : bool
        Evaluate a float32 module in float64 at the displaced positions, where digits are lost, and
        leave the forces in float32. `parameters` has to be the Module, which is back in float32
        afterwards, and `energy` must take positions in float64 then.

    Returns
    -------
    GradientStep
        ``loss`` (float); ``forces`` (Tensor like `positions`); ``eta`` (Tensor (S,), float64, CPU);
        ``gradient``, a list of tensors like the parameters, None where there is none;
        ``loss_error``, half the difference between the slopes of the energies along dL/dF and
        those from the forces, over the loss; ``details["energy"]`` and ``details["stress"]``.

    Raises
    ------
    FdforceError
        PyTorch is missing; gradients are switched off or autocast is on; shapes do not fit; the
        energy does not depend on positions, cell or parameters; energies, forces or slopes of the
        loss are not finite; the loss is no scalar; unknown stencil or epsilon not above 0.

    Examples
    --------
    A spring between two atoms, of stiffness 2 where the reference is 3:

    >>> import torch
    >>> stiffness = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    >>> def energy(r):
    ...     return 0.5 * stiffness * (r[1] - r[0]).square().sum()
    >>> reference = torch.tensor([[3.0, 0, 0], [-3.0, 0, 0]], dtype=torch.float64)
    >>> def loss(energy, forces):
    ...     return 0.5 * (forces - reference).square().sum()
    >>> r = torch.tensor([[0.0, 0, 0], [1.0, 0, 0]], dtype=torch.float64)
    >>> step = force_backward(energy, loss, r, parameters=[stiffness])
    >>> step.loss, round(float(stiffness.grad), 6)
    (1.0, -2.0)
    """
    _require_torch()
    _check_positions(positions, structure)
    _check_modes(positions.device)
    if displaced_in_double and not isinstance(parameters, torch.nn.Module):
        raise FdforceError("displaced_in_double needs parameters to be the Module itself")
    given = _parameter_list(parameters)
    trained = [p for p in given if p.requires_grad]
    if not trained:
        raise FdforceError(
            f"none of the {len(given)} parameters requires a gradient: is the module frozen, or "
            "the iterator of parameters used up?"
        )
    _check_parameters(trained)
    batch = _batch(positions, structure, cell, cutoff)
    _check_loss(loss, 2 if cell is None else 3)
    epsilon = _epsilon(epsilon, stencil, [] if displaced_in_double else [positions, *trained])
    model = _Model(energy, trained, positions, cell, batch.n_structures)
    model.to_double = parameters if displaced_in_double else None

    def terms(_batch, _energy, _forces, _virial):
        return _loss_terms(loss, model, batch)

    step = loss_gradient(
        model, batch, terms,
        epsilon=epsilon, length_scale=length_scale, stencil=stencil, g0=g0,
    )  # fmt: skip
    sums = dict(zip(trained, model.add_to_grad(), strict=True))
    step.gradient = [sums.get(p) for p in given]
    step.eta = torch.from_numpy(step.eta)
    step.forces = model.predicted[1]
    step.details["energy"], step.details["stress"] = model.predicted[0], model.predicted[2]
    return step


def energy_code(
    energy: Callable,
    parameters: Iterable[torch.Tensor] | torch.nn.Module,
    positions,
    cell=None,
    *,
    true_gradient: bool = True,
) -> EnergyCode:
    """NumPy functions of one structure over a torch energy, for ``fdforce epsilon`` and tests.

    Parameters
    ----------
    energy : callable
        ``energy(positions)``, or ``energy(positions, cell)`` when a cell is given; returns a scalar
        tensor or one of shape (1,).
    parameters : iterable of Tensor, or Module
        As for `force_backward`.
    positions : array or Tensor, shape (N, 3)
        Å. A tensor sets dtype and device of what `energy` gets; for an array they are those of
        the first parameter. The values serve to try the double backward.
    cell : array or Tensor, shape (3, 3), optional
        Lattice vectors in rows, Å. With it all functions take ``(positions, cell)`` and the forces
        come with a stress.
    true_gradient : bool
        Offer the true gradient by double backward, for comparison. It is left out by itself for
        modules that have none.

    Returns
    -------
    EnergyCode
        ``parameters`` and gradients are lists of arrays, in the order of the parameters that
        require a gradient. The arrays of ``parameters`` share memory with the tensors; None when
        those are not on the CPU.

    Raises
    ------
    FdforceError
        As `force_backward`.
    """
    _require_torch()
    trained = [p for p in _parameter_list(parameters) if p.requires_grad]
    if not trained:
        raise FdforceError("none of the parameters requires a gradient: is the module frozen?")
    _check_parameters(trained)
    like = positions if isinstance(positions, torch.Tensor) else trained[0]
    positions = torch.as_tensor(positions, dtype=like.dtype, device=like.device).detach()
    if cell is not None:
        cell = torch.as_tensor(cell, dtype=like.dtype, device=like.device).detach()
    _check_positions(positions, None)
    if positions.ndim != 2:
        raise FdforceError(
            f"positions have shape {tuple(positions.shape)}; expected (N, 3), one structure"
        )
    _check_modes(positions.device)
    first = _batch(positions, None, cell, 0.0)
    model = _Model(energy, trained, positions, cell, 1)

    def batch_at(r, h):
        r = np.asarray(r, dtype=np.float64)
        h = None if h is None else np.asarray(h, dtype=np.float64)[None]
        return _Batch(r, h, 0.0, np.zeros(len(r), dtype=np.int64), 1)

    def energy_and_forces(r, h=None):
        point = model.forward(batch_at(r, h))
        forces, virial = model.forces(point)
        if h is None:
            return float(point.energy[0]), forces
        return float(point.energy[0]), forces, -virial[0] / abs(np.linalg.det(h))

    def energy_gradient(r, h=None):
        value, parts = model.weighted_gradient(*model.tensors(batch_at(r, h)), np.ones(1))
        return float(value[0]), _arrays(parts, trained)

    def exact(r, *rest):
        h, direction, strain = (None, *rest, None) if cell is None else rest
        parts = model.second_derivative(batch_at(r, h), direction, strain)
        return _arrays(parts, trained)

    model.weighted_gradient(*model.tensors(first), np.ones(1))  # errors now, not later
    true_gradient = true_gradient and model.has_second_derivative(first)
    on_cpu = all(p.device.type == "cpu" for p in trained)
    return EnergyCode(
        energy_and_forces,
        energy_gradient,
        parameters=[p.detach().numpy() for p in trained] if on_cpu else None,
        true_gradient=exact if true_gradient else None,
    )


@dataclass(frozen=True)
class _Batch:
    """Positions (N, 3) and cells (S, 3, 3) in float64; those of a node are made when needed."""

    positions: np.ndarray
    cells: np.ndarray | None
    cutoff: float
    structure: np.ndarray
    n_structures: int
    nodes: tuple = ()

    def displaced(self, direction, eta, strain=None):
        return _Batch(
            self.positions, self.cells, self.cutoff, self.structure, self.n_structures,
            tuple((direction, step, strain) for step in eta),
        )  # fmt: skip

    def at(self, direction, step, strain):
        """Displaced positions and cells."""
        per_atom, cells = step[self.structure][:, None], self.cells
        positions = self.positions + per_atom * direction
        if strain is not None:
            shift = np.einsum("ij,ijk->ik", self.positions, strain[self.structure])
            positions = positions + per_atom * shift
            cells = cells + step[:, None, None] * cells @ strain
        return positions, cells


@dataclass
class _Point:
    """State of a `_Model`: results of a pass, never a graph."""

    batch: _Batch
    energy: np.ndarray | None = None
    forces: np.ndarray | None = None
    virial: np.ndarray | None = None


@dataclass(frozen=True)
class _Terms:
    value: float
    force_loss: np.ndarray
    d_energy: np.ndarray
    d_forces: np.ndarray
    d_virial: np.ndarray | None


class _Model:
    """The EnergyModel seam over a torch function.

    Gradients of the parameters are summed here, in float64 on the device of each parameter, and
    not handed to the caller: nothing of their size is copied to the host.
    """

    def __init__(self, energy, parameters, positions, cell, n_structures):
        self.energy, self.parameters, self.n_structures = energy, parameters, n_structures
        self.positions = positions.detach()
        self.cell = None if cell is None else cell.detach()
        self.sums = [None] * len(parameters)
        self.predicted = None
        self.to_double = None
        devices = {t.device for t in (positions, *parameters)}
        self.cuda = [d for d in devices if d.type == "cuda"]
        self.random = torch.get_rng_state(), [torch.cuda.get_rng_state(d) for d in self.cuda]

    # The seam

    def forward(self, batch):
        if batch.nodes:
            return _Point(batch)
        positions, cell = self.tensors(batch)
        before = [p.requires_grad for p in self.parameters]
        try:
            for p in self.parameters:  # no activations are kept for gradients not wanted yet
                p.requires_grad_(False)
            energy, slopes = self.slopes(positions, cell)
        finally:
            for p, flag in zip(self.parameters, before, strict=True):
                p.requires_grad_(flag)
        forces = -slopes[0]
        _check_finite(forces, "forces")
        point = _Point(batch, _double(energy.reshape(-1)), _double(forces).reshape(-1, 3))
        virial, stress = np.zeros((self.n_structures, 3, 3)), None
        if cell is not None:
            virial = -_strain_slope(batch, -point.forces, _double(slopes[1]).reshape(-1, 3, 3))
            stress = -virial / abs(np.linalg.det(batch.cells))[:, None, None]
            stress = torch.as_tensor(stress.reshape(cell.shape), dtype=cell.dtype).to(cell.device)
        point.virial = virial
        self.predicted = energy, forces, stress
        return point

    def forces(self, state):
        return state.forces, state.virial

    def gradient(self, state, weights):
        nodes = state.batch.nodes
        points = [state.batch.at(*node) for node in nodes] or [None]
        energies = []
        dtype = None if self.to_double is None else torch.float64
        with _in_double(self.to_double):
            for point, part in zip(points, np.split(weights, len(points)), strict=True):
                tensors = self.tensors(state.batch, point, dtype)
                value, parts = self.weighted_gradient(*tensors, part)
                energies.append(value)
                self.add(parts)
                del parts  # before the next graph is made
        if nodes:
            state.energy = np.concatenate(energies)
        return []  # see the class

    # Passes

    def tensors(self, batch, point=None, dtype=None):
        """Positions and cell of a point as `energy` gets them."""
        found = []
        for array, like in zip(
            point or (batch.positions, batch.cells), (self.positions, self.cell), strict=True
        ):
            if array is None:
                found.append(None)
                continue
            copy = torch.tensor(array, dtype=dtype or like.dtype, device=like.device)
            found.append(copy.reshape(like.shape))
        return found

    def evaluate(self, positions, cell):
        """Energies with a graph; the same random numbers in every pass."""
        torch.set_rng_state(self.random[0])
        for device, state in zip(self.cuda, self.random[1], strict=True):
            torch.cuda.set_rng_state(state, device)
        energy = self.energy(positions) if cell is None else self.energy(positions, cell)
        _check_energy(energy, self.n_structures, positions)
        return energy

    def slopes(self, positions, cell, create_graph=None):
        """Energies without a graph, and dE/dr and dE/dcell."""
        variables = [t.clone().requires_grad_() for t in (positions, cell) if t is not None]
        energy = self.evaluate(*variables, *([None] if cell is None else []))
        if not energy.requires_grad:
            raise FdforceError(
                "the energy carries no gradient: is torch.no_grad, .detach() or .numpy() inside "
                "energy, or are the positions not used?"
            )
        options = {} if create_graph is None else {"create_graph": create_graph}
        slopes = torch.autograd.grad(energy.sum(), variables, allow_unused=True, **options)
        if slopes[0] is None:
            raise FdforceError(
                "the energy does not depend on the positions that are passed to energy: does it "
                "use other positions, or detach them?"
            )
        if cell is not None and slopes[1] is None:
            raise FdforceError(
                "a cell is given, but the energy does not depend on it, so the stress would be "
                "wrong: compute the shifts of the neighbours from the cell that energy gets"
            )
        if create_graph:
            return energy, slopes, variables
        return energy.detach(), slopes

    def weighted_gradient(self, positions, cell, weights):
        """Energies (S,) and ``sum_s weights_s dE_s/dtheta``, None for parameters not used."""
        energy = self.evaluate(positions, cell)
        unused = FdforceError(
            "the energy does not depend on any of the parameters: are they those of another "
            "module, or is torch.no_grad or .detach() inside energy?"
        )
        if not energy.requires_grad:
            raise unused
        weights = torch.as_tensor(weights, dtype=energy.dtype, device=energy.device)
        parts = torch.autograd.grad(
            energy, self.parameters, grad_outputs=weights.reshape(energy.shape), allow_unused=True
        )
        if all(part is None for part in parts):
            raise unused
        return _double(energy.reshape(-1)), parts

    def has_second_derivative(self, batch):
        """Try a double backward."""
        value = self.slope_along(batch, np.ones_like(batch.positions), None)
        # Through all of the graph: asked for some inputs only, torch.autograd.grad passes by the
        # node that once_differentiable leaves to raise an error, and leaves out what is behind it.
        leaves = _graph_leaves(value)
        held = [leaf.grad for leaf in leaves]
        try:
            value.backward()
        except (RuntimeError, NotImplementedError):
            return False
        finally:
            for leaf, grad in zip(leaves, held, strict=True):
                leaf.grad = grad
        return True

    def second_derivative(self, batch, direction, strain):
        """``sum_i direction_i . df_i/dtheta`` plus ``strain : dW/dtheta``, by double backward."""
        value = self.slope_along(batch, direction, strain)
        return torch.autograd.grad(value, self.parameters, allow_unused=True)

    def slope_along(self, batch, direction, strain):
        """``sum_i direction_i . f_i`` plus ``strain : W``, with a graph."""
        positions, cell = self.tensors(batch)
        _, slopes, variables = self.slopes(positions, cell, create_graph=True)
        direction, _ = self.tensors(batch, (np.asarray(direction, dtype=np.float64), None))
        value = -(slopes[0] * direction).sum()
        if strain is not None:
            strain = torch.as_tensor(strain, dtype=positions.dtype, device=positions.device)
            strain = 0.5 * (strain + strain.T)
            for slope, variable in zip(slopes, variables, strict=True):
                value = value - (slope * (variable.detach() @ strain)).sum()
        return value

    # Sums

    def add(self, parts):
        for k, part in enumerate(parts):
            if part is None:
                continue
            part = part.to_dense() if part.is_sparse else part
            if self.sums[k] is None:
                self.sums[k] = part.to(torch.float64, copy=True)
            else:
                self.sums[k] += part

    def add_to_grad(self):
        """What backward() does at its end; returns the gradients in the parameters' dtypes."""
        gradients = [
            None if total is None else total.to(p.dtype)
            for total, p in zip(self.sums, self.parameters, strict=True)
        ]
        for gradient, p in zip(gradients, self.parameters, strict=True):
            if gradient is None:
                continue
            p.grad = gradient.clone() if p.grad is None else p.grad.add_(gradient)
        return gradients


@contextmanager
def _in_double(module):
    """Parameters and buffers of a module in float64 for a while; None does nothing."""
    if module is None:
        yield
        return
    parameters = [(p, p.data, p.grad) for p in module.parameters()]
    buffers = [(m, name, b) for m in module.modules() for name, b in m._buffers.items()]
    try:
        for p, _, _ in parameters:
            p.grad = None
        module.double()
        yield
    finally:
        for p, data, grad in parameters:
            p.data = data
            p.grad = grad
        for m, name, b in buffers:
            m._buffers[name] = b


def _graph_leaves(value):
    """Tensors to whose .grad a backward pass would add."""
    found, seen, stack = [], set(), [value.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        stack.extend(following for following, _ in node.next_functions)
    return found


def _loss_terms(loss, model, batch):
    """The user's loss and its slopes; parameters in the loss itself are added to the sums."""
    energy, forces, stress = model.predicted
    leaves = [t.clone().requires_grad_() for t in (energy, forces, stress) if t is not None]
    value = loss(*leaves)
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        found = f"shape {tuple(value.shape)}" if hasattr(value, "shape") else type(value).__name__
        raise FdforceError(f"loss must return a tensor with one number, not {found}")
    number = float(value.detach())
    if not np.isfinite(number):
        raise FdforceError(
            f"loss = {number}, though energies and forces are finite: are there missing "
            "labels (nan) that the loss should leave out?"
        )
    if not value.requires_grad:
        raise FdforceError(
            "the loss depends on none of energy, forces and stress: is torch.no_grad, .detach() or "
            ".item() inside loss?"
        )
    slopes = torch.autograd.grad(value.sum(), [*leaves, *model.parameters], allow_unused=True)
    of_leaves, of_parameters = slopes[: len(leaves)], slopes[len(leaves) :]
    if all(slope is None for slope in of_leaves):
        raise FdforceError("the loss depends on none of energy, forces and stress")
    model.add(of_parameters)
    names = ("energy", "forces", "stress")
    arrays = []
    for name, leaf, slope in zip(names, leaves, of_leaves, strict=False):
        if slope is not None:
            _check_finite(slope, f"dL/d{name}")
        arrays.append(_double(torch.zeros_like(leaf) if slope is None else slope))
    d_virial = None
    if stress is not None and of_leaves[2] is not None:
        d_stress = arrays[2].reshape(-1, 3, 3)
        volume = abs(np.linalg.det(batch.cells))[:, None, None]
        d_virial = -0.5 * (d_stress + d_stress.swapaxes(1, 2)) / volume
    d_energy, d_forces = arrays[0].reshape(-1), arrays[1].reshape(-1, 3)
    return _Terms(number, np.array([number]), d_energy, d_forces, d_virial)


def _strain_slope(batch, d_positions, d_cells):
    """dE/ds (S, 3, 3), symmetric, of r -> r (1 + s), cell -> cell (1 + s)."""
    slope = np.einsum("sij,sik->sjk", batch.cells, d_cells)
    np.add.at(slope, batch.structure, batch.positions[:, :, None] * d_positions[:, None, :])
    return 0.5 * (slope + slope.swapaxes(1, 2))


def _batch(positions, structure, cell, cutoff):
    """Check shapes and make a `_Batch`."""
    shape = tuple(positions.shape)
    if len(shape) == 3:
        n_structures = shape[0]
        index = np.repeat(np.arange(n_structures), shape[1])
    elif structure is None:
        n_structures, index = 1, np.zeros(shape[0], dtype=np.int64)
    else:
        index = structure.detach().cpu().numpy().astype(np.int64)
        n_structures = len(cell) if cell is not None and cell.ndim == 3 else int(index.max()) + 1
        if index.min() < 0 or index.max() >= n_structures:
            raise FdforceError(
                f"structure has entries from {index.min()} to {index.max()}; expected 0 to "
                f"{n_structures - 1}"
            )
    cells = None
    if cell is not None:
        allowed = [(n_structures, 3, 3)] + ([(3, 3)] if n_structures == 1 else [])
        if not isinstance(cell, torch.Tensor) or tuple(cell.shape) not in allowed:
            found = tuple(getattr(cell, "shape", ())) or type(cell).__name__
            raise FdforceError(f"cell is {found}; expected a tensor of shape {allowed[-1]}")
        cells = _double(cell).reshape(-1, 3, 3)
        flat = np.flatnonzero(~(abs(np.linalg.det(cells)) > 0))
        if len(flat):
            raise FdforceError(f"the cell of structure {flat[0]} has no volume, so no stress")
    return _Batch(_double(positions).reshape(-1, 3), cells, cutoff, index, n_structures)


def _parameter_list(parameters):
    if isinstance(parameters, torch.nn.Module):
        parameters = parameters.parameters()
    elif isinstance(parameters, torch.Tensor):
        parameters = [parameters]
    elif isinstance(parameters, dict):
        parameters = parameters.values()
    found = list(dict.fromkeys(parameters))
    strange = [p for p in found if not isinstance(p, torch.Tensor)]
    if strange:
        raise FdforceError(
            f"parameters hold a {type(strange[0]).__name__}: give the module itself, or "
            "model.parameters()"
        )
    return found


def _check_parameters(parameters):
    for k, p in enumerate(parameters):
        if not p.is_leaf:
            raise FdforceError(
                f"parameter {k} of shape {tuple(p.shape)} is the result of an operation, so it "
                "has no .grad: pass the tensors that the optimizer changes"
            )
        if p.is_inference():
            raise FdforceError(
                f"parameter {k} was made in torch.inference_mode and cannot be trained: build or "
                "load the module outside of it"
            )
        _check_dtype(p, f"parameter {k}")


def _check_positions(positions, structure):
    if not isinstance(positions, torch.Tensor):
        raise FdforceError(f"positions are {type(positions).__name__}; expected a torch tensor")
    shape = tuple(positions.shape)
    if len(shape) not in (2, 3) or shape[-1] != 3 or 0 in shape:
        raise FdforceError(f"positions have shape {shape}; expected (N, 3) or (S, A, 3)")
    _check_dtype(positions, "positions")
    if structure is None:
        return
    if len(shape) == 3:
        raise FdforceError(
            f"positions of shape {shape} say themselves which structure an atom belongs to: leave "
            "structure out"
        )
    if tuple(getattr(structure, "shape", ())) != shape[:1]:
        raise FdforceError(
            f"structure has shape {tuple(getattr(structure, 'shape', ()))}; expected {shape[:1]}"
        )


def _check_dtype(tensor, name):
    if tensor.dtype not in (torch.float32, torch.float64):
        raise FdforceError(
            f"{name} of dtype {str(tensor.dtype).removeprefix('torch.')}: a finite difference "
            "needs float32 or float64, shorter numbers have no digits left for it"
        )


def _check_modes(device):
    if torch.is_inference_mode_enabled():
        raise FdforceError("called inside torch.inference_mode: gradients need it off")
    if not torch.is_grad_enabled():
        raise FdforceError("called inside torch.no_grad: gradients need it off")
    if _autocast(device.type):
        raise FdforceError(
            f"torch.autocast is on for {device.type}: energies in bfloat16 or float16 have 2 to 3 "
            "digits, none of which survive a finite difference; call it outside of autocast"
        )


def _autocast(device_type):
    try:
        return torch.is_autocast_enabled(device_type)
    except TypeError:  # before PyTorch 2.4
        return torch.is_autocast_enabled() or torch.is_autocast_cpu_enabled()


def _check_loss(loss, n_arguments):
    try:
        inspect.signature(loss).bind(*range(n_arguments))
    except TypeError:
        call = "loss(energy, forces)" if n_arguments == 2 else "loss(energy, forces, stress)"
        hint = (
            "a stress needs a cell" if n_arguments == 2 else
            "without a loss of the stress, bind the cell into energy and leave it out here"
        )  # fmt: skip
        raise FdforceError(f"loss cannot be called as {call}: {hint}") from None
    except ValueError:  # no signature to be had
        pass


def _check_energy(energy, n_structures, positions):
    allowed = [(n_structures,)] + ([()] if n_structures == 1 else [])
    if not isinstance(energy, torch.Tensor) or tuple(energy.shape) not in allowed:
        is_tensor = isinstance(energy, torch.Tensor)
        found = f"shape {tuple(energy.shape)}" if is_tensor else type(energy).__name__
        raise FdforceError(
            f"energy returned {found} for positions of shape {tuple(positions.shape)}; expected a "
            f"tensor of shape ({n_structures},), one number for each structure"
        )
    _check_dtype(energy, "energy")
    _check_finite(energy, "energy")


def _check_finite(tensor, name):
    if not torch.isfinite(tensor).all():
        where = (~torch.isfinite(tensor.detach())).reshape(len(tensor) if tensor.ndim else 1, -1)
        first = int(where.any(dim=1).nonzero()[0])
        raise FdforceError(
            f"{name}: {int(where.sum())} of {tensor.numel()} numbers are not finite, the first at "
            f"index {first}"
        )


def _epsilon(epsilon, stencil, tensors):
    try:
        formula = find_stencil(stencil)
    except ValueError as error:
        raise FdforceError(str(error)) from None
    if np.iscomplex(formula.nodes).any():
        raise FdforceError(
            f"stencil = {stencil!r} needs a model for complex positions, which torch modules are "
            f"not: choose one of {', '.join(EPSILON['float64'])}"
        )
    if epsilon is None:
        single = any(t.dtype == torch.float32 for t in tensors)
        return EPSILON["float32" if single else "float64"][stencil]
    if not epsilon > 0:
        raise FdforceError(f"epsilon = {epsilon}: must be above 0")
    return float(epsilon)


def _double(tensor) -> np.ndarray:
    return tensor.detach().cpu().to(torch.float64).numpy()


def _arrays(parts, parameters) -> list[Any]:
    """Gradients as float64 arrays, zeros for parameters that are not used."""
    return [
        np.zeros(tuple(p.shape)) if part is None else _double(part.to_dense())
        for part, p in zip(parts, parameters, strict=True)
    ]


def _require_torch():
    if torch is None:
        raise FdforceError("PyTorch is not installed: pip install 'fdforce[torch]'")
