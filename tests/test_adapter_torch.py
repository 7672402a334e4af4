"""The PyTorch adapter against double backward, which is torch's own and knows nothing of it."""

import importlib.util
import sys
import warnings
import weakref
from functools import partial

import numpy as np
import pytest
from ase.build import molecule

from fdforce.adapters import torch as adapter
from fdforce.adapters.torch import EPSILON, energy_code, force_backward
from fdforce.callables import force_loss_gradient
from fdforce.energy_code import EnergyCode
from fdforce.epsilon import scan_epsilon
from fdforce.errors import FdforceError
from tests.checks import check_directional, relative, symmetric

torch = pytest.importorskip("torch", reason="needs torch: pip install 'fdforce[torch]'")

CELL = np.array([[4.0, 0.2, 0.1], [-0.3, 4.4, 0.4], [0.2, 0.6, 4.2]])
SHIFTS = np.array([[i, j, k] for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)])
SIZES = (5, 3, 4)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


class Gaussian(torch.autograd.Function):
    """exp(-x^2) with a first derivative only, as many CUDA extensions have."""

    @staticmethod
    def forward(ctx, x):
        y = torch.exp(-x * x)
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        x, y = ctx.saved_tensors
        return -2 * x * y * slope


class Network(torch.nn.Module):
    """Gaussians of all distances in a structure, summed over neighbours; a network per atom."""

    def __init__(self, seed=0, dropout=0.0, first_only=False, dtype=torch.float64):
        super().__init__()
        torch.manual_seed(seed)
        self.first_only = first_only
        self.centres = torch.nn.Parameter(torch.linspace(0.5, 4.5, 8))
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(8, 12),
            torch.nn.Tanh(),
            torch.nn.Dropout(dropout),
            torch.nn.Linear(12, 1),
        )
        self.to(dtype)

    def atomic(self, d, keep):
        """Energies of the atoms (..., N) from separations (..., N, M, 3)."""
        square = (d * d).sum(dim=-1)
        distance = torch.sqrt(torch.where(keep, square, torch.ones_like(square)))
        x = distance[..., None] - self.centres
        y = Gaussian.apply(x) if self.first_only else torch.exp(-x * x)
        return self.layers((y * keep[..., None]).sum(dim=-2)).squeeze(-1)

    def forward(self, r, structure=None, cell=None):
        n = len(r)
        structure = torch.zeros(n, dtype=torch.long) if structure is None else structure
        keep = (structure[:, None] == structure) & ~torch.eye(n, dtype=torch.bool)
        d = r[None] - r[:, None]
        if cell is not None:
            offsets = torch.tensor(SHIFTS, dtype=r.dtype) @ cell.reshape(-1, 3, 3)[structure]
            d = (d[:, :, None] + offsets[:, None]).reshape(n, -1, 3)
            same = structure[:, None] == structure
            images = torch.tensor((SHIFTS != 0).any(axis=1))
            keep = (keep[:, :, None] | (same[:, :, None] & images)).reshape(n, -1)
        energies = torch.zeros(int(structure.max()) + 1, dtype=self.centres.dtype)
        return energies.index_add(0, structure, self.atomic(d, keep).to(energies.dtype))

    def padded(self, r, real):
        pairs = real[:, :, None] & real[:, None] & ~torch.eye(r.shape[1], dtype=torch.bool)
        atomic = self.atomic(r[:, None] - r[:, :, None], pairs)
        return (atomic * real).sum(dim=1)


def structures(dtype=torch.float64, seed=0):
    """Positions (N, 3), structure (N,), and labels for energies, forces and stresses."""
    rng = np.random.default_rng(seed)
    positions = []
    for n in SIZES:
        chosen = [rng.uniform(0, 3.5, size=3)]
        while len(chosen) < n:
            trial = rng.uniform(0, 3.5, size=3)
            if min(np.linalg.norm(trial - p) for p in chosen) > 1.2:
                chosen.append(trial)
        positions.extend(chosen)
    structure = np.repeat(np.arange(len(SIZES)), SIZES)
    labels = rng.normal(size=len(SIZES)), rng.normal(size=(sum(SIZES), 3))
    stress = 0.01 * symmetric(rng, len(SIZES))
    tensors = [torch.tensor(a, dtype=dtype) for a in (np.array(positions), *labels, stress)]
    return tensors[0], torch.tensor(structure), *tensors[1:]


def squared(energies, forces, energy_labels, force_labels):
    energy_part = (energies - energy_labels).square().mean()
    return energy_part + (forces - force_labels).square().mean()


def truth(energy, loss, positions, parameters, cell=None):
    """Gradients by double backward, the strain as a variable of its own."""
    r = positions.clone().requires_grad_()
    if cell is None:
        energies = energy(r)
        (slope,) = torch.autograd.grad(energies.sum(), r, create_graph=True)
        value = loss(energies, -slope)
    else:
        cells = cell.reshape(-1, 3, 3)
        strain = torch.zeros_like(cells, requires_grad=True)
        s = 0.5 * (strain + strain.transpose(1, 2))
        index = structures()[1] if len(cells) > 1 else torch.zeros(r[..., 0].numel()).long()
        flat = r.reshape(-1, 3)
        moved = flat + (flat[:, None] @ s[index]).squeeze(1)
        energies = energy(moved.reshape(r.shape), (cells + cells @ s).reshape(cell.shape))
        slope, by_strain = torch.autograd.grad(energies.sum(), [r, strain], create_graph=True)
        stress = by_strain / torch.linalg.det(cells).abs()[:, None, None]
        value = loss(energies, -slope, stress.reshape(cell.shape))
    gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    return value.item(), vector(gradients, parameters)


def vector(gradients, parameters):
    """One float64 array, zeros where there is no gradient."""
    parts = [
        torch.zeros(p.numel()) if g is None else g.to_dense().reshape(-1)
        for g, p in zip(gradients, parameters)
    ]
    return torch.cat([part.double() for part in parts]).detach().numpy()


def grads(model):
    parameters = list(model.parameters())
    return vector([p.grad for p in parameters], parameters)


def compare(model, energy, loss, positions, cell=None, double=None, **options):
    """Relative error of .grad; `double`: energy, loss, positions, cell, model in float64."""
    double = double or (model, energy, loss, positions, cell)
    value, expected = truth(*double[1:4], list(double[0].parameters()), double[4])
    model.zero_grad()
    step = force_backward(energy, loss, positions, parameters=model, cell=cell, **options)
    return relative(grads(model), expected), step, value


def small_problem(**options):
    model = Network(**options)
    dtype = model.centres.dtype
    r, structure, energies, forces, _ = structures(dtype)
    loss = partial(squared, energy_labels=energies, force_labels=forces)
    return model, lambda r: model(r, structure), loss, r, structure


# Gradients


# Round-off 1e-16 / epsilon with sums of about ten terms; truncation epsilon^order with derivatives
# of order ten (Gaussians of width 0.7 Å).
TOLERANCES = {"central": 1e-8, "forward": 1e-6, "central4": 1e-9}


@pytest.mark.parametrize("stencil", TOLERANCES)
def test_gradient_of_every_stencil(stencil):
    model, energy, loss, r, structure = small_problem()
    error, step, value = compare(model, energy, loss, r, structure=structure, stencil=stencil)
    assert error < TOLERANCES[stencil]
    assert step.loss == pytest.approx(value, rel=1e-14)
    assert 0 < step.loss_error < 1e-5
    largest = (2 * (step.forces - loss.keywords["force_labels"]) / (3 * len(r))).norm(dim=1)
    largest = torch.stack([largest[structure == s].max() for s in range(3)])
    assert step.eta.numpy() == pytest.approx(EPSILON["float64"][stencil] / largest, rel=1e-12)
    for p, gradient in zip(model.parameters(), step.gradient):
        assert (p.grad == gradient).all()
        assert p.grad.dtype == p.dtype


def test_any_loss():
    """Huber, a maximum over atoms, weights of structures, and a penalty on the parameters."""
    model, energy, loss, r, structure = small_problem()
    labels = loss.keywords

    def other(energies, forces):
        huber = torch.nn.functional.huber_loss(forces, labels["force_labels"], delta=0.3)
        difference = (energies - labels["energy_labels"]) / torch.tensor(SIZES)
        penalty = sum(p.square().sum() for p in model.layers.parameters())
        return huber + forces.norm(dim=1).max() + difference.abs().sum() + 0.1 * penalty

    error, step, value = compare(model, energy, other, r, structure=structure)
    assert error < TOLERANCES["central"]
    assert step.loss == pytest.approx(value, rel=1e-13)


@pytest.mark.parametrize("part", ["energy", "forces"])
def test_each_part_of_the_loss(part):
    model, energy, loss, r, structure = small_problem()
    labels = loss.keywords
    alone = {
        "energy": lambda e, f: (e - labels["energy_labels"]).square().sum(),
        "forces": lambda e, f: (f - labels["force_labels"]).square().sum(),
    }[part]
    error, step, _ = compare(model, energy, alone, r, structure=structure)
    assert error < (1e-14 if part == "energy" else TOLERANCES["central"])
    assert (step.eta == 0).all() == (part == "energy")


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("stencil", TOLERANCES)
def test_stress(stencil, single):
    model = Network()
    r, structure, energies, forces, stresses = structures()
    cell = torch.tensor(CELL).repeat(3, 1, 1) * torch.tensor([1, 1.03, 0.98])[:, None, None]
    if single:
        keep = structure == 0
        r, forces, cell, stresses, energies = r[keep], forces[keep], cell[0], stresses[0], 0.3
        structure = None

    def loss(energy, force, stress):
        assert stress.shape == cell.shape
        # not symmetric in the components on purpose
        stress_part = (1e3 * (stress - stresses)[..., 0, :]).square().mean()
        return squared(energy, force, energies, forces) + stress_part

    def energy(r, cell):
        return model(r, structure, cell)

    error, step, value = compare(model, energy, loss, r, cell, structure=structure, stencil=stencil)
    # more pairs, more round-off
    assert error < 10 * TOLERANCES[stencil]
    assert step.loss == pytest.approx(value, rel=1e-10)
    _, forces_alone = truth(
        energy, lambda e, f, s: loss(e, f, stresses), r, [*model.parameters()], cell
    )
    assert relative(forces_alone, grads(model)) > 0.05


def test_float32():
    double = small_problem()
    model, energy, loss, r, structure = small_problem(dtype=torch.float32)
    for p, q in zip(model.parameters(), double[0].parameters()):
        q.data = p.data.double()
    # 1e-7 / 5e-4, in sums that cancel in part
    error, step, _ = compare(
        model, energy, loss, r, double=(*double[:4], None), structure=structure
    )
    assert error < 2e-3
    assert step.forces.dtype == torch.float32
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize(("stencil", "order"), [("forward", 1), ("central", 2), ("central4", 4)])
def test_error_over_epsilon(stencil, order):
    """Slope of the order above the best epsilon, -1 below it."""
    model, energy, loss, r, structure = small_problem()
    above = {"forward": (1e-6, 1e-4), "central": (1e-3, 1e-2), "central4": (1e-2, 4e-2)}[stencil]
    below = {"forward": (1e-11, 1e-9), "central": (1e-9, 1e-7), "central4": (1e-9, 1e-6)}[stencil]
    for ends, slope in ((above, order), (below, -1)):
        epsilons = np.geomspace(*ends, 12)
        errors = [
            compare(model, energy, loss, r, structure=structure, stencil=stencil, epsilon=e)[0]
            for e in epsilons
        ]
        found = np.polyfit(np.log(epsilons), np.log(errors), 1)[0]
        # round-off scatters by a factor of two; truncation has the next order, a few percent
        assert found == pytest.approx(slope, abs=0.15)


def test_batch_equals_sum_of_single_structures():
    model, energy, _, r, structure = small_problem()
    _, _, energies, forces, _ = structures()

    def summed(e, f, e_labels, f_labels):
        return (e - e_labels).square().sum() + (f - f_labels).square().sum()

    loss = partial(summed, e_labels=energies, f_labels=forces)
    step = force_backward(energy, loss, r, parameters=model, structure=structure)
    together = grads(model)
    model.zero_grad()
    for s in range(len(SIZES)):  # accumulates
        keep = structure == s
        loss = partial(summed, e_labels=energies[s], f_labels=forces[keep])
        scalar = s == 1
        one = force_backward(
            lambda r, scalar=scalar: model(r).sum() if scalar else model(r),
            loss, r[keep], parameters=model,
        )  # fmt: skip
        assert one.eta.numpy() == pytest.approx(step.eta[s : s + 1].numpy(), rel=1e-12)
        assert torch.allclose(one.forces, step.forces[keep], rtol=0, atol=1e-14)
    assert relative(grads(model), together) < TOLERANCES["central"]


def test_padded_equals_flat_and_order_does_not_matter():
    model, energy, loss, r, structure = small_problem()
    force_backward(energy, loss, r, parameters=model, structure=structure)
    expected = grads(model)
    real = torch.arange(max(SIZES)) < torch.tensor(SIZES)[:, None]
    padded = torch.zeros(*real.shape, 3, dtype=torch.float64)
    padded[real] = r
    model.zero_grad()
    step = force_backward(
        lambda r: model.padded(r, real), lambda e, f: loss(e, f[real]), padded, parameters=model
    )
    assert relative(grads(model), expected) < TOLERANCES["central"]
    assert step.forces.shape == padded.shape
    assert (step.forces[~real] == 0).all()
    shuffle = torch.tensor(np.random.default_rng(0).permutation(len(r)))
    model.zero_grad()
    force_backward(
        lambda r: model(r, structure[shuffle]),
        partial(loss, force_labels=loss.keywords["force_labels"][shuffle]),
        r[shuffle], parameters=model, structure=structure[shuffle],
    )  # fmt: skip
    assert relative(grads(model), expected) < TOLERANCES["central"]


def test_perfect_fit_has_no_gradient():
    model, energy, loss, r, structure = small_problem()
    step = force_backward(energy, loss, r, parameters=model, structure=structure)
    labels = step.details["energy"], step.forces
    model.zero_grad()
    step = force_backward(
        energy, lambda e, f: squared(e, f, *labels), r, parameters=model, structure=structure
    )
    assert (step.loss, step.loss_error) == (0, 0)
    assert not grads(model).any()


# Modules of other kinds


def test_module_without_double_backward():
    model, energy, loss, r, structure = small_problem(first_only=True)
    plain, *rest = small_problem()
    variable = r.clone().requires_grad_()
    (slope,) = torch.autograd.grad(energy(variable).sum(), variable, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.square().sum().backward()
    # asked for the parameters only, torch returns a part of the gradient without an error
    _, incomplete = truth(energy, loss, r, list(model.parameters()))
    model.zero_grad()
    error, _, _ = compare(
        model, energy, loss, r, double=(plain, *rest[:3], None), structure=structure
    )
    assert error < TOLERANCES["central"]
    assert relative(incomplete, grads(model)) > 0.1


def test_dropout_drops_the_same_units_in_all_passes():
    model, energy, loss, r, structure = small_problem(dropout=0.4)
    gradients = []
    for _ in range(2):
        begin = torch.get_rng_state()
        _, expected = truth(energy, loss, r, list(model.parameters()))
        after_one_pass = torch.get_rng_state()
        torch.set_rng_state(begin)
        model.zero_grad()
        force_backward(energy, loss, r, parameters=model, structure=structure)
        assert relative(grads(model), expected) < TOLERANCES["central"]
        assert (torch.get_rng_state() == after_one_pass).all()
        gradients.append(expected)
    assert relative(*gradients) > 0.1  # the next step drops others


def test_unused_and_frozen_parameters_are_left_alone():
    model, energy, loss, r, structure = small_problem()
    extra = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    model.layers[0].weight.requires_grad_(False)
    frozen = model.layers[0].weight
    given = [*model.parameters(), extra, extra]
    step = force_backward(energy, loss, r, parameters=iter(given), structure=structure)
    assert frozen.grad is None
    assert extra.grad is None
    assert not frozen.requires_grad
    assert extra.requires_grad
    trained = [p for p in model.parameters() if p.requires_grad]
    _, expected = truth(energy, loss, r, trained)
    assert relative(vector([p.grad for p in trained], trained), expected) < TOLERANCES["central"]
    missing = [gradient is None for gradient in step.gradient]
    assert missing == [p is frozen or p is extra for p in dict.fromkeys(given)]


def test_sparse_embedding():
    torch.manual_seed(0)
    embedding = torch.nn.Embedding(4, 5, sparse=True).double()
    model, _, loss, r, structure = small_problem()
    kinds = torch.arange(len(r)) % 3

    def energy(r):
        scale = embedding(kinds).sum(dim=1)
        return model(r * (1 + 0.01 * scale[:, None]), structure)

    error, _, _ = compare(embedding, energy, loss, r, structure=structure)
    assert error < TOLERANCES["central"]


# What is called, and how


@pytest.mark.parametrize(("stencil", "calls"), [("central", 3), ("forward", 3), ("central4", 5)])
def test_passes(stencil, calls, monkeypatch):
    """Forces without gradients of parameters, then nodes without those of positions."""
    model, energy, loss, r, structure = small_problem()
    seen, orders = [], []
    grad = torch.autograd.grad

    def watched_energy(r):
        seen.append((r.requires_grad, all(p.requires_grad for p in model.parameters())))
        assert any(p.requires_grad for p in model.parameters()) == seen[-1][1]
        return energy(r)

    def watched_grad(*args, **kwargs):
        orders.append(kwargs.get("create_graph") or kwargs.get("retain_graph"))
        assert len(args) <= 2
        return grad(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", watched_grad)
    force_backward(
        watched_energy, loss, r.requires_grad_(), parameters=model, structure=structure,
        stencil=stencil,
    )  # fmt: skip
    assert seen == [(True, False)] + [(False, True)] * (calls - 1)
    assert not any(orders)
    assert r.grad is None


def test_graphs_are_freed_between_passes():
    model, energy, loss, r, structure = small_problem()
    alive = []

    def watched(r):
        assert all(reference() is None for reference in alive)
        result = energy(r)
        alive.append(weakref.ref(result))
        return result

    force_backward(watched, loss, r, parameters=model, structure=structure, stencil="central4")
    assert len(alive) == 5


def test_gradients_accumulate_in_place():
    model, energy, loss, r, structure = small_problem()
    run = partial(force_backward, energy, loss, r, parameters=model, structure=structure)
    run()
    once, held = grads(model), [p.grad for p in model.parameters()]
    step = run()
    assert relative(grads(model), 2 * once) < 1e-15
    assert all(p.grad is h for p, h in zip(model.parameters(), held))
    # the result is that of this call, and not the tensor that later calls add to
    assert relative(vector(step.gradient, list(model.parameters())), once) < 1e-15


@pytest.mark.parametrize("call", [0, 1])
def test_flags_are_restored_when_energy_raises(call):
    model, energy, loss, r, structure = small_problem()
    calls = []

    def failing(r):
        calls.append(0)
        if len(calls) > call:
            raise KeyError("mine")
        return energy(r)

    with pytest.raises(KeyError, match="mine"):
        force_backward(failing, loss, r, parameters=model, structure=structure)
    assert all(p.requires_grad for p in model.parameters())
    assert all(p.grad is None for p in model.parameters())


def test_training_loop():
    teacher = Network(seed=5)
    r, structure, *_ = structures()
    step = force_backward(
        lambda r: teacher(r, structure), lambda e, f: e.sum() + f.sum(), r,
        parameters=teacher, structure=structure,
    )  # fmt: skip
    labels = step.details["energy"], step.forces
    model = Network(seed=6)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        step = force_backward(
            lambda r: model(r, structure), lambda e, f: squared(e, f, *labels), r,
            parameters=model, structure=structure,
        )  # fmt: skip
        optimizer.step()
        losses.append(step.loss)
    assert losses[-1] < 0.1 * losses[0]


# Errors


def run(**changes):
    model, energy, loss, r, structure = small_problem()
    arguments = dict(energy=energy, loss=loss, positions=r, parameters=model, structure=structure)
    return force_backward(**{**arguments, **changes})


def dense(r):
    return Network()(r, structures()[1])


CASES = {
    "energy returned shape (12,)": lambda: run(energy=lambda r: r.sum(dim=1)),
    "energy returned float for positions": lambda: run(energy=lambda r: 0.0),
    "energy of dtype bfloat16": lambda: run(energy=lambda r: dense(r).bfloat16()),
    "energy: 1 of 3 numbers are not finite, the first at index 0": lambda: run(
        energy=lambda r: dense(r) / torch.tensor([0.0, 1, 1])
    ),
    "forces: 15 of 36 numbers are not finite, the first at index 0": lambda: run(
        energy=lambda r: dense(r) + torch.sqrt(0 * r[:5].square().sum())
    ),
    "the energy carries no gradient": lambda: run(energy=lambda r: dense(r).detach()),
    "not depend on the positions that are passed": lambda: run(
        energy=lambda r: structures()[0].requires_grad_()[:3, 0] * 1
    ),
    "the energy does not depend on any of the parameters": lambda: run(
        parameters=[torch.ones(2, requires_grad=True)]
    ),
    "none of the 0 parameters requires a gradient": lambda: run(parameters=[]),
    "none of the 5 parameters requires a gradient": lambda: run(
        parameters=Network().requires_grad_(False)
    ),
    "parameter 0 of shape (2,) is the result of an operation": lambda: run(
        parameters=[2 * torch.ones(2, requires_grad=True)]
    ),
    "parameter 0 of dtype float16": lambda: run(
        parameters=[torch.ones(2, dtype=torch.float16, requires_grad=True)]
    ),
    "loss must return a tensor with one number, not shape (12, 3)": lambda: run(
        loss=lambda e, f: f
    ),
    "loss must return a tensor with one number, not float": lambda: run(loss=lambda e, f: 1.0),
    "loss = nan, though energies and forces are finite": lambda: run(
        loss=lambda e, f: (f - torch.nan).sum()
    ),
    "is torch.no_grad, .detach() or .item() inside loss": lambda: run(
        loss=lambda e, f: f.detach().sum()
    ),
    "the loss depends on none of energy, forces and stress": lambda: run(
        loss=lambda e, f: torch.ones((), requires_grad=True) * 2
    ),
    "dL/dforces: 36 of 36 numbers are not finite": lambda: run(
        loss=lambda e, f: torch.sqrt((f - f.detach()).square().sum())
    ),
    "loss cannot be called as loss(energy, forces): a stress needs a cell": lambda: run(
        loss=lambda e, f, s: f.sum()
    ),
    "bind the cell into energy and leave it out here": lambda: run(
        cell=torch.eye(3).double().repeat(3, 1, 1)
    ),
    "positions are ndarray; expected a torch tensor": lambda: run(positions=np.zeros((12, 3))),
    "positions have shape (12, 2)": lambda: run(positions=torch.zeros(12, 2)),
    "positions have shape (0, 3)": lambda: run(positions=torch.zeros(0, 3)),
    "positions of dtype int64": lambda: run(positions=torch.zeros(12, 3, dtype=torch.long)),
    "structure has shape (3,); expected (12,)": lambda: run(structure=torch.arange(3)),
    "structure has entries from -1 to 1; expected 0 to 1": lambda: run(
        structure=torch.tensor([-1, 1] * 6)
    ),
    "leave structure out": lambda: run(positions=torch.zeros(3, 4, 3), structure=torch.zeros(3)),
    "cell is (2, 3, 3); expected a tensor of shape (3, 3)": lambda: run(
        cell=torch.zeros(2, 3, 3), structure=None
    ),
    "the cell of structure 1 has no volume": lambda: run(
        cell=torch.tensor([1.0, 0, 1])[:, None, None] * torch.eye(3), loss=lambda e, f, s: 0
    ),
    "a cell is given, but the energy does not depend on it": lambda: run(
        cell=torch.eye(3).double().repeat(3, 1, 1),
        energy=lambda r, cell: dense(r),
        loss=lambda e, f, s: s.sum(),
    ),
    "stencil = 'complex' needs a model for complex positions": lambda: run(stencil="complex"),
    "stencil = 'five': choose one of central, forward": lambda: run(stencil="five"),
    "epsilon = 0: must be above 0": lambda: run(epsilon=0),
}


@pytest.mark.parametrize("message", CASES)
def test_errors(message):
    with pytest.raises(FdforceError) as caught:
        CASES[message]()
    assert message in str(caught.value)


def test_errors_of_modes():
    with torch.no_grad(), pytest.raises(FdforceError, match=r"inside torch\.no_grad"):
        run()
    with torch.inference_mode(), pytest.raises(FdforceError, match=r"inside torch\.inference_mode"):
        run()
    with torch.inference_mode():
        model = Network()
    with pytest.raises(FdforceError, match=r"parameter 0 was made in torch\.inference_mode"):
        run(parameters=model)
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(FdforceError, match=r"torch\.autocast is on for cpu: energies in bfloat16"),
    ):
        run()


def test_missing_torch(monkeypatch):
    monkeypatch.setattr(adapter, "torch", None)
    for function in (partial(force_backward, parameters=[]), partial(energy_code, positions=None)):
        with pytest.raises(FdforceError, match=r"pip install 'fdforce\[torch\]'"):
            function(None, None, positions=None)


# Plain functions for fdforce epsilon


def numbers(arrays):
    return np.concatenate([np.ravel(a) for a in arrays])


@pytest.mark.parametrize("periodic", [False, True])
def test_energy_code(periodic):
    model = Network(dropout=0.3)
    r, structure, _, forces, stresses = structures()
    r, forces = (t[structure == 0].numpy() for t in (r, forces))
    cell = (CELL,) if periodic else ()

    def energy(r, cell=None):
        return model(r, None, cell).sum()

    code = energy_code(energy, model, r, *cell)
    assert isinstance(code, EnergyCode)
    first = code.energy_and_forces(r, *cell)
    check_directional(
        lambda x: code.energy_and_forces(x, *cell)[0],
        lambda x: -code.energy_and_forces(x, *cell)[1],
        r,
        step=1e-3,
        tolerance=1e-9,
    )
    value, gradient = code.energy_gradient(r, *cell)
    assert value == pytest.approx(first[0], rel=1e-15)
    # a change in place changes the energy
    h, rng = 1e-5, np.random.default_rng(0)
    change = [rng.normal(size=p.shape) for p in code.parameters]
    energies = []
    for sign in (1, -2, 1):
        for p, c in zip(code.parameters, change):
            p += sign * h * c
        energies.append(code.energy_and_forces(r, *cell)[0])
    slope = (energies[0] - energies[1]) / (2 * h)
    assert slope == pytest.approx(numbers(gradient) @ numbers(change), rel=1e-6)
    # the finite difference, and its scan, against the true gradient
    options = {}
    g, strain = first[1] - forces, None
    if periodic:
        target = stresses[0].numpy()
        options = dict(cell=CELL, reference_stress=target, stress_weight=100.0)
        strain = -100.0 * (first[2] - target) / np.linalg.det(CELL)
        exact = code.true_gradient(r, CELL, g, strain)
        without = code.true_gradient(r, CELL, g, None)
        assert relative(numbers(without), numbers(exact)) > 1e-3
    else:
        exact = code.true_gradient(r, g)
    functions = code.energy_and_forces, code.energy_gradient
    step = force_loss_gradient(*functions, r, forces, **options)
    assert relative(numbers(step.gradient), numbers(exact)) < 1e-8
    scan = scan_epsilon(*functions, r, forces, true_gradient=exact, **options)
    assert scan.err_gradient.min() < 1e-8
    assert 1e-7 < scan.recommended < 1e-3


def test_energy_code_without_double_backward():
    model = Network(first_only=True)
    r = structures()[0][:5]
    code = energy_code(model, model, r)
    assert code.true_gradient is None
    assert all(p.grad is None for p in model.parameters())
    _, gradient = code.energy_gradient(r.numpy())
    plain = Network()
    code = energy_code(plain, plain, r, true_gradient=False)
    assert code.true_gradient is None
    assert relative(numbers(gradient), numbers(code.energy_gradient(r.numpy())[1])) < 1e-14


def test_energy_code_of_float32():
    model = Network(dtype=torch.float32)
    code = energy_code(model, model, structures()[0][:5].numpy())
    assert all(p.dtype == np.float32 for p in code.parameters)
    energy, forces = code.energy_and_forces(structures()[0][:5].numpy())
    assert isinstance(energy, float)
    assert forces.dtype == np.float64


def test_errors_of_energy_code():
    model, r = Network(), structures()[0]
    with pytest.raises(FdforceError, match=r"positions have shape \(1, 12, 3\); expected \(N, 3\)"):
        energy_code(model, model, r[None])
    with pytest.raises(FdforceError, match="none of the parameters requires a gradient"):
        energy_code(model, [], r)
    with pytest.raises(FdforceError, match="does not depend on any of the parameters"):
        energy_code(model, Network(), r)
    with torch.no_grad(), pytest.raises(FdforceError, match=r"inside torch\.no_grad"):
        energy_code(model, model, r)


# Potentials that others wrote, with random weights

MOLECULES = ("CH3CH2OH", "CH3CONH2", "CH3NO2", "H2O")


def atoms(seed=0):
    rng = np.random.default_rng(seed)
    found = [molecule(name) for name in MOLECULES]
    for one in found:
        one.positions += rng.normal(scale=0.05, size=one.positions.shape)
    return found


def torchani(activation="celu"):
    if importlib.util.find_spec("torchani") is None:
        pytest.skip("needs torchani")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # extensions in CUDA that are not installed
        from torchani.arch import Assembler

        assembler = Assembler(periodic_table_index=True)
        assembler.set_symbols(("H", "C", "N", "O"))
        assembler.set_atomic_networks(ctor="ani1x", kwargs={"activation": activation})
        assembler.set_global_cutoff_fn("cosine")
        assembler.set_aev_computer(angular="ani1x", radial="ani1x", strategy="pyaev")
        assembler.set_neighborlist("all_pairs")
        assembler.set_zeros_as_self_energies()
        return assembler.assemble(1)


def schnet():
    """SchNet of SchNetPack.

    Its package imports the training code, and that of 2.1 needs an older PyTorch. The potentials
    do not, so they are imported without running the __init__ of the package.
    """
    if importlib.util.find_spec("schnetpack") is None:
        pytest.skip("needs schnetpack")
    before = dict(sys.modules)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        try:
            if "schnetpack" not in sys.modules:
                spec = importlib.util.find_spec("schnetpack")
                sys.modules["schnetpack"] = importlib.util.module_from_spec(spec)
            import schnetpack.atomistic
            import schnetpack.nn
            import schnetpack.representation
        finally:
            for name in [name for name in sys.modules if name not in before]:
                if name.split(".")[0] == "schnetpack":
                    del sys.modules[name]
    representation = schnetpack.representation.SchNet(
        n_atom_basis=64,
        n_interactions=3,
        radial_basis=schnetpack.nn.GaussianRBF(20, 5.0),
        cutoff_fn=schnetpack.nn.CosineCutoff(5.0),
    )
    return torch.nn.Sequential(representation, schnetpack.atomistic.Atomwise(64))


def in_both(model, problem, dtype, **options):
    """Error of the adapter in `dtype` against double backward in float64, same parameters."""
    double = model.to(torch.float32).to(torch.float64)
    reference = problem(double, torch.float64)
    value, expected = truth(*reference[:3], list(double.parameters()), reference[3])
    model = model.to(dtype)
    energy, loss, positions, cell, more = problem(model, dtype)
    step = force_backward(energy, loss, positions, parameters=model, cell=cell, **more, **options)
    assert step.loss == pytest.approx(value, rel=1e-12 if dtype == torch.float64 else 1e-5)
    return relative(grads(model), expected)


def ani_problem(model, dtype, seed=0):
    """Padded molecules; energies per atom and forces."""
    found = atoms(seed)
    most, rng = max(len(a) for a in found), np.random.default_rng(seed + 1)
    kinds, positions = -np.ones((len(found), most), int), np.zeros((len(found), most, 3))
    for s, a in enumerate(found):
        kinds[s, : len(a)], positions[s, : len(a)] = a.numbers, a.positions
    real = torch.tensor(kinds >= 0)
    labels = rng.normal(size=(len(found), most, 3))
    kinds, labels = torch.tensor(kinds), torch.tensor(labels, dtype=dtype)
    targets = torch.tensor(rng.normal(size=len(found)), dtype=dtype)

    def loss(energies, forces):
        energy_part = ((energies - targets) / real.sum(dim=1)).square().mean()
        return energy_part + (forces - labels)[real].square().mean()

    # numbers that float32 has as well
    r = torch.tensor(positions, dtype=torch.float32).to(dtype)
    return (lambda r: model((kinds, r)).energies), loss, r, None, {}


def ani_crystal(model, dtype, seed=0):
    """Molecules in one periodic cell; energy, forces and stress."""
    rng = np.random.default_rng(seed)
    cell = np.diag([7.0, 6.0, 6.5]) + rng.uniform(-0.3, 0.3, size=(3, 3))
    corners = ([0.1, 0.1, 0.1], [0.6, 0.6, 0.2], [0.1, 0.55, 0.6])
    found = [atoms(seed)[k] for k in (0, 3, 2)]
    positions = np.concatenate([a.positions + c @ cell for a, c in zip(found, corners)])
    kinds = torch.tensor(np.concatenate([a.numbers for a in found]))[None]
    labels = torch.tensor(rng.normal(size=(1, *positions.shape)), dtype=dtype)
    stresses = torch.tensor(0.05 * symmetric(rng, 1)[0], dtype=dtype)
    periodic = torch.tensor([True, True, True])

    def loss(energies, forces, stress):
        energy_part = (energies / kinds.numel()).square().mean()
        stress_part = (10 * (stress - stresses)).square().mean()
        return energy_part + (forces - labels).square().mean() + stress_part

    def energy(r, cell):
        return model((kinds, r), cell=cell, pbc=periodic).energies

    r, cell = (torch.tensor(a, dtype=torch.float32).to(dtype) for a in (positions[None], cell))
    return energy, loss, r, cell, {}


def schnet_problem(model, dtype, seed=0):
    """The molecules of `ani_problem` as one list of atoms; pairs are listed once."""
    found, rng = atoms(seed), np.random.default_rng(seed + 1)
    structure = np.repeat(np.arange(len(found)), [len(a) for a in found])
    positions = np.concatenate([a.positions for a in found])
    distances = np.linalg.norm(positions[:, None] - positions, axis=2)
    near = (structure[:, None] == structure) & (distances < 5.1) & (distances > 0)
    i, j = (torch.tensor(index) for index in np.nonzero(near))
    structure = torch.tensor(structure)
    kinds = torch.tensor(np.concatenate([a.numbers for a in found]))
    labels = torch.tensor(rng.normal(size=positions.shape), dtype=dtype)
    targets = torch.tensor(rng.normal(size=len(found)), dtype=dtype)
    sizes = torch.bincount(structure)

    def loss(energies, forces):
        energy_part = ((energies - targets) / sizes).square().mean()
        return energy_part + (forces - labels).square().mean()

    def energy(r):
        pairs = {"_Rij": r[j] - r[i], "_idx_i": i, "_idx_j": j}
        return model({"_atomic_numbers": kinds, "_idx_m": structure, **pairs})["y"]

    r = torch.tensor(positions, dtype=torch.float32).to(dtype)
    return energy, loss, r, None, {"structure": structure}


def smooth_ani():
    return torchani("gelu")


@pytest.mark.parametrize(
    ("build", "problem"),
    [(torchani, ani_problem), (torchani, ani_crystal), (schnet, schnet_problem)],
)
def test_float32_with_displaced_positions_in_double(build, problem):
    """Digits are lost in the difference alone, so float64 there is enough."""
    error = in_both(build(), problem, torch.float32, displaced_in_double=True)
    print(f"{build.__name__}, {problem.__name__}: {error:.1e}")
    assert error < 1e-5  # that of the float32 forces in the direction


def test_parameters_by_name():
    model, r = Network(), torch.rand(4, 3, dtype=torch.float64) * 3

    def loss(energy, forces):
        return forces.square().sum()

    force_backward(model, loss, r, parameters=dict(model.named_parameters()))
    assert all(p.grad is not None for p in model.parameters())
    with pytest.raises(FdforceError, match="parameters hold a tuple"):
        force_backward(model, loss, r, parameters=model.named_parameters())


def test_a_module_is_back_in_float32():
    model = Network(dtype=torch.float32)
    model.register_buffer("shift", torch.ones(1))
    data = [p.data_ptr() for p in model.parameters()]
    shift, r, reference = model.shift, torch.rand(4, 3) * 3, torch.randn(4, 3)

    def loss(energy, forces):
        return (forces - reference).square().sum()

    force_backward(model, loss, r, parameters=model, displaced_in_double=True)
    first = grads(model)
    force_backward(model, loss, r, parameters=model, displaced_in_double=True)
    assert [p.data_ptr() for p in model.parameters()] == data
    assert model.shift is shift
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())
    assert relative(grads(model), 2 * first) < 1e-6  # accumulated, as backward() does

    def broken(r):
        if r.dtype == torch.float64:
            raise RuntimeError("no double")
        return model(r)

    with pytest.raises(RuntimeError, match="no double"):
        force_backward(broken, loss, r, parameters=model, displaced_in_double=True)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    with pytest.raises(FdforceError, match="needs parameters to be the Module"):
        force_backward(
            model, loss, r, parameters=list(model.parameters()), displaced_in_double=True
        )


# float32: over ten seeds the errors of SchNet reach 8e-4. The CELU of ANI-1x has a second
# derivative that jumps; atoms cross such kinks, and ten seeds give 3e-4 to 3e-3. With a smooth
# activation in its place larger displacements are possible, with errors up to 6e-4.
@pytest.mark.parametrize(
    ("build", "problem", "dtype", "epsilon", "tolerance"),
    [
        (torchani, ani_problem, "float64", None, 1e-6),
        (torchani, ani_crystal, "float64", None, 1e-6),
        (torchani, ani_problem, "float32", None, 5e-3),
        (torchani, ani_crystal, "float32", None, 5e-3),
        (smooth_ani, ani_problem, "float32", 4e-3, 1e-3),
        (smooth_ani, ani_crystal, "float32", 4e-3, 1e-3),
        (schnet, schnet_problem, "float64", None, 1e-6),
        (schnet, schnet_problem, "float32", None, 1e-3),
    ],
)
def test_potentials_of_others(build, problem, dtype, epsilon, tolerance):
    error = in_both(build(), problem, getattr(torch, dtype), epsilon=epsilon)
    print(f"{build.__name__}, {problem.__name__}, {dtype}: {error:.1e}")
    assert error < tolerance
