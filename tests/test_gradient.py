from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest

from fdforce.callables import force_loss_gradient, force_loss_gradients
from fdforce.descriptors import Chebyshev
from fdforce.energy_code import full_stress
from fdforce.gradient import STENCILS, loss_gradient
from fdforce.losses import SquaredLoss, Target
from fdforce.models import ElementalNetworks
from tests.checks import COMPLEX_STEP, batch_of, check_directional, relative, symmetric
from tests.morse import CELL, THETA, morse
from tests.systems import SYSTEMS


def kinds(theta):
    return {
        "array": theta,
        "list": [theta[:1], theta[1:]],
        "dict": {"depth": theta[0], "shape": theta[1:]},
    }


class Toy:
    """The two callables, counting their calls."""

    def __init__(self, theta=THETA, kind="array", *, energies=True):
        self.theta, self.kind, self.with_energies = theta, kind, energies
        self.force_calls, self.gradient_calls = [], []

    def energy_and_forces(self, positions, cell=None):
        self.force_calls.append(positions)
        energy, forces, stress, _ = morse(positions, cell, self.theta)
        return (energy, forces) if cell is None else (energy, forces, stress)

    def energy_gradient(self, positions, cell=None):
        self.gradient_calls.append((positions, cell))
        energy, _, _, gradient = morse(positions, cell, self.theta)
        gradient = kinds(gradient)[self.kind]
        return (energy, gradient) if self.with_energies else gradient


def structure(seed=0, n=5):
    """Positions at least 1.8 Å apart, and reference forces off by about 1 eV/Å."""
    rng = np.random.default_rng(seed)
    positions = [rng.uniform(0, 4.5, size=3)]
    while len(positions) < n:
        trial = rng.uniform(0, 4.5, size=3)
        if min(np.linalg.norm(trial - p) for p in positions) > 1.8:
            positions.append(trial)
    return np.array(positions), rng.normal(size=(n, 3))


def crystal():
    """Four atoms in `CELL`, at least 2.8 Å from each other and from images, and forces."""
    rng = np.random.default_rng(7)
    scaled = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    scaled = scaled + rng.uniform(-0.05, 0.05, size=(4, 3))
    return scaled @ CELL, rng.normal(size=(4, 3))


def truth(loss_of_theta, theta=THETA):
    """Complex step over every parameter of a loss that is computed with true forces."""
    gradient = np.zeros(len(theta))
    for k in range(len(theta)):
        shifted = theta.astype(complex)
        shifted[k] += 1j * COMPLEX_STEP
        gradient[k] = loss_of_theta(shifted).imag / COMPLEX_STEP
    return gradient


def force_loss(positions, reference, theta, weights=1.0):
    error = morse(positions, None, theta)[1] - reference
    return 0.5 * np.sum(weights * error**2)


def step_of(toy, positions, reference, **options):
    return force_loss_gradient(
        toy.energy_and_forces, toy.energy_gradient, positions, reference, **options
    )


def test_toy_is_consistent():
    """The judge first: forces, stress and dE/dtheta of the toy by the complex step."""
    positions, _ = crystal()
    energy, forces, stress, gradient = morse(positions, CELL, THETA)
    h, rng = 1j * COMPLEX_STEP, np.random.default_rng(1)
    direction, strain = rng.normal(size=positions.shape), symmetric(rng, 1)[0]
    slope = morse(positions + h * direction, CELL, THETA)[0].imag / COMPLEX_STEP
    assert -np.sum(forces * direction) == pytest.approx(slope, rel=1e-12)
    strained = np.eye(3) + h * strain
    slope = morse(positions @ strained, CELL @ strained, THETA)[0].imag / COMPLEX_STEP
    assert np.linalg.det(CELL) * np.sum(stress * strain) == pytest.approx(slope, rel=1e-12)
    assert gradient == pytest.approx(truth(lambda t: morse(positions, CELL, t)[0]), rel=1e-12)
    assert energy != 0


# Gradients of the toy


# Errors at epsilon = 1e-5 (1e-8 for forward): truncation (epsilon a)^2 with third derivatives in
# units of the first, round-off 1e-16 / epsilon with energies ten times the slope.
TOLERANCES = {"central": 1e-8, "forward": 3e-6, "central4": 3e-9, "complex": 1e-12}
EPSILONS = {"central": 1e-5, "forward": 1e-8, "central4": 1e-4, "complex": 1e-5}


@pytest.mark.parametrize("kind", ["array", "list", "dict"])
@pytest.mark.parametrize("stencil", STENCILS)
def test_gradient_of_every_stencil_and_kind(stencil, kind):
    positions, reference = structure()
    step = step_of(Toy(kind=kind), positions, reference, stencil=stencil, epsilon=EPSILONS[stencil])
    expected = truth(partial(force_loss, positions, reference))
    assert type(step.gradient) is type(kinds(THETA)[kind])
    flat = {
        "array": lambda g: g,
        "list": np.concatenate,
        "dict": lambda g: np.append(g["depth"], g["shape"]),
    }[kind](step.gradient)
    assert relative(flat, expected) < TOLERANCES[stencil]
    assert step.loss == pytest.approx(force_loss(positions, reference, THETA), rel=1e-14)
    assert (step.forces == morse(positions, None, THETA)[1]).all()


@pytest.mark.parametrize("shape", [(5,), (5, 3)])
def test_weights(shape):
    positions, reference = structure()
    weights = np.random.default_rng(2).uniform(0, 2, size=shape)
    weights[1] = 0
    step = step_of(Toy(), positions, reference, weights=weights)
    full = weights if len(shape) == 2 else weights[:, None]
    loss = partial(force_loss, positions, reference, weights=full)
    assert step.loss == pytest.approx(loss(THETA), rel=1e-13)
    assert relative(step.gradient, truth(loss)) < TOLERANCES["central"]


def test_direction_replaces_the_slope_of_the_loss():
    """A Huber-like loss sum sqrt(1 + |df|^2), whose slope is handed over."""
    positions, reference = structure()

    def loss(theta):
        error = morse(positions, None, theta)[1] - reference
        return np.sum(np.sqrt(1 + (error * error).sum(axis=1)))

    error = morse(positions, None, THETA)[1] - reference
    direction = error / np.sqrt(1 + (error * error).sum(axis=1))[:, None]
    for given in (reference, None):
        step = step_of(Toy(), positions, given, direction=direction)
        assert relative(step.gradient, truth(loss)) < TOLERANCES["central"]


@pytest.mark.parametrize("voigt", [False, True])
@pytest.mark.parametrize("stencil", STENCILS)
def test_forces_and_stress(stencil, voigt):
    positions, reference = crystal()
    rng = np.random.default_rng(4)
    reference_stress = 0.05 * symmetric(rng, 1)[0]

    def loss(theta):
        _, forces, stress, _ = morse(positions, CELL, theta)
        force_part = 0.5 * np.sum((forces - reference) ** 2)
        return force_part + 0.5 * 400.0 * np.sum((stress - reference_stress) ** 2)

    def force_part(theta):
        return 0.5 * np.sum((morse(positions, CELL, theta)[1] - reference) ** 2)

    given = reference_stress
    if voigt:
        given = reference_stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    step = step_of(
        Toy(), positions, reference, cell=CELL, reference_stress=given, stress_weight=400.0,
        stencil=stencil, epsilon=EPSILONS[stencil],
    )  # fmt: skip
    expected = truth(loss)
    assert step.loss == pytest.approx(loss(THETA), rel=1e-13)
    # more pairs, more round-off
    assert relative(step.gradient, expected) < 3 * TOLERANCES[stencil]
    # the stress is not a rounding error of this loss
    assert relative(truth(force_part), expected) > 0.05


def test_cell_without_stress_label():
    positions, reference = crystal()

    def loss(theta):
        return 0.5 * np.sum((morse(positions, CELL, theta)[1] - reference) ** 2)

    toy = Toy()
    step = step_of(toy, positions, reference, cell=CELL)
    assert relative(step.gradient, truth(loss)) < 3 * TOLERANCES["central"]
    assert all((cell == CELL).all() for _, cell in toy.gradient_calls)


def test_list_of_structures():
    several = [structure(seed, n) for seed, n in ((0, 5), (1, 4), (2, 6))]
    positions, references = zip(*several)
    weights = [None, np.array([1.0, 2.0, 0.5, 0.0]), None]
    toy = Toy(kind="dict")
    step = force_loss_gradients(
        toy.energy_and_forces, toy.energy_gradient, positions, references, weights=weights
    )

    def loss(theta):
        full = [1.0, weights[1][:, None], 1.0]
        return sum(force_loss(*one, theta, w) for one, w in zip(several, full))

    gradient = np.append(step.gradient["depth"], step.gradient["shape"])
    assert relative(gradient, truth(loss)) < TOLERANCES["central"]
    assert step.loss == pytest.approx(loss(THETA), rel=1e-13)
    assert [f.shape for f in step.forces] == [(5, 3), (4, 3), (6, 3)]
    alone = [step_of(Toy(), *one, weights=w) for one, w in zip(several, weights)]
    assert step.eta == [one.eta for one in alone]
    losses = [one.loss for one in alone]
    # the L2 norm of the structures' errors over that of their losses
    errors = [one.loss_error * loss for one, loss in zip(alone, losses)]
    assert step.loss_error == pytest.approx(
        np.linalg.norm(errors) / np.linalg.norm(losses), rel=1e-12
    )


# What is called, and where


def test_central_calls_forces_once_and_the_gradient_twice():
    positions, reference = structure()
    toy = Toy()
    step = step_of(toy, positions, reference, epsilon=1e-4, length_scale=2.0)
    assert len(toy.force_calls) == 1
    assert (toy.force_calls[0] == positions).all()
    (plus, _), (minus, _) = toy.gradient_calls
    g = step.forces - reference
    largest = np.linalg.norm(g, axis=1).max()
    assert step.eta == pytest.approx(1e-4 * 2.0 / largest, rel=1e-13)
    # coordinates of 5 Å have a last bit of 1e-15
    assert plus - positions == pytest.approx(step.eta * g, rel=0, abs=2e-15)
    assert minus - positions == pytest.approx(-step.eta * g, rel=0, abs=2e-15)
    assert np.linalg.norm(plus - positions, axis=1).max() == pytest.approx(2e-4, rel=1e-10)


@pytest.mark.parametrize(
    ("stencil", "nodes"),
    [("forward", [1, 0]), ("central4", [1, -1, 2, -2]), ("complex", [1j])],
)
def test_nodes_of_other_stencils(stencil, nodes):
    positions, reference = structure()
    toy = Toy()
    step = step_of(toy, positions, reference, stencil=stencil)
    assert len(toy.force_calls) == 1
    assert len(toy.gradient_calls) == len(nodes)
    g = step.forces - reference
    for node, (moved, _) in zip(nodes, toy.gradient_calls):
        expected = step.eta * node * g
        assert moved.real - positions == pytest.approx(np.real(expected), rel=0, abs=2e-15)
        assert moved.imag == pytest.approx(np.imag(expected), rel=1e-12)


def test_strain_counts_in_the_step_length():
    positions, _ = crystal()
    _, forces, _, _ = morse(positions, CELL, THETA)
    toy = Toy()
    target = np.diag([0.3, -0.2, 0.1])
    step = step_of(
        toy, positions, forces, cell=CELL, reference_stress=target, cutoff=7.0, epsilon=1e-4
    )
    volume = np.linalg.det(CELL)
    strain = -(morse(positions, CELL, THETA)[2] - target) / volume
    # forces fit, so the strain alone sets the step: cutoff |H|_2
    assert step.eta == pytest.approx(1e-4 / (7.0 * np.linalg.norm(strain, 2)), rel=1e-12)
    for sign, (moved, cell) in zip((1, -1), toy.gradient_calls):
        stretch = np.eye(3) + sign * step.eta * strain
        assert moved == pytest.approx(positions @ stretch, rel=0, abs=4e-15)
        assert cell == pytest.approx(CELL @ stretch, rel=0, abs=4e-15)


def test_fixed_g0():
    positions, reference = structure()
    step = step_of(Toy(), positions, reference, g0=20.0)
    assert step.eta == pytest.approx(1e-5 / 20.0, rel=1e-14)
    # forces of 1 eV/Å with a step twenty times smaller: more round-off
    expected = truth(partial(force_loss, positions, reference))
    assert relative(step.gradient, expected) < 1e-6


@pytest.mark.parametrize("stencil", STENCILS)
@pytest.mark.parametrize("cell", [None, CELL])
def test_perfect_fit_has_no_gradient(stencil, cell):
    positions, _ = crystal()
    _, forces, stress, _ = morse(positions, cell, THETA)
    options = {} if cell is None else dict(cell=cell, reference_stress=stress)
    step = step_of(Toy(), positions, forces, stencil=stencil, **options)
    # the stress comes back from the virial, so its last bit may differ: (1e-17)^2
    assert step.loss == pytest.approx(0, abs=1e-30)
    assert step.gradient == pytest.approx(np.zeros(3), abs=1e-14)
    if cell is None:
        assert (step.loss, step.loss_error, step.eta) == (0, 0, 0)
        assert not step.gradient.any()


def test_without_energies_there_is_no_loss_error():
    positions, reference = structure()
    expected = step_of(Toy(), positions, reference)
    step = step_of(Toy(energies=False), positions, reference)
    assert step.loss_error is None
    assert (step.gradient == expected.gradient).all()
    assert expected.loss_error is not None
    toy = Toy(energies=False)
    both = [[positions] * 2, [reference] * 2]
    steps = force_loss_gradients(toy.energy_and_forces, toy.energy_gradient, *both)
    assert steps.loss_error is None


def test_energy_and_forces_without_an_energy():
    positions, reference = structure()
    toy = Toy()
    step = force_loss_gradient(
        lambda r: (None, toy.energy_and_forces(r)[1]), toy.energy_gradient, positions, reference
    )
    expected = step_of(Toy(), positions, reference)
    assert step.loss_error == expected.loss_error
    assert (step.gradient == expected.gradient).all()


def test_loss_error_is_that_of_the_paper():
    """S20, Eq. 11: L~ = -(E[r+] - E[r-]) / 4 eta - sum g.f / 2."""
    positions, reference = structure()
    step = step_of(Toy(), positions, reference, epsilon=1e-2)
    g = step.forces - reference
    plus, minus = (morse(positions + s * step.eta * g, None, THETA)[0] for s in (1, -1))
    estimate = -(plus - minus) / (4 * step.eta) - 0.5 * np.sum(g * reference)
    # a difference of numbers 1e4 times larger: 16 - 4 digits, eta as well
    assert step.loss_error == pytest.approx(abs(estimate - step.loss) / step.loss, rel=1e-8)
    assert step.loss_error > 1e-6


# Errors as functions of epsilon


@cache
def errors(stencil, epsilon):
    """Err[grad L~] and Err[L~] as L2 norms over twenty structures."""
    over_gradient, over_loss, gradients, losses = [], [], [], []
    for seed in range(20):
        positions, reference = structure(seed)
        step = step_of(Toy(), positions, reference, stencil=stencil, epsilon=epsilon)
        expected = truth(partial(force_loss, positions, reference))
        over_gradient.append(np.linalg.norm(step.gradient - expected))
        over_loss.append(step.loss_error * step.loss)
        gradients.append(np.linalg.norm(expected))
        losses.append(step.loss)
    norm = np.linalg.norm
    return norm(over_gradient) / norm(gradients), norm(over_loss) / norm(losses)


def fitted_slope(stencil, epsilons, which):
    logs = np.log([errors(stencil, e)[which] for e in epsilons])
    return np.polyfit(np.log(epsilons), logs, 1)[0]


@pytest.mark.parametrize("which", [0, 1], ids=["gradient", "loss"])
@pytest.mark.parametrize(
    ("stencil", "order", "epsilons"),
    [
        ("central", 2, (1e-2, 3e-3, 1e-3, 3e-4)),
        ("forward", 1, (1e-3, 3e-4, 1e-4, 3e-5)),
        ("central4", 4, (3e-2, 1e-2, 5e-3)),
    ],
)
def test_truncation_error_has_the_order_of_the_stencil(stencil, order, epsilons, which):
    # the next order adds epsilon^2 (epsilon for forward) to the first: 0.03 in the slope
    assert fitted_slope(stencil, epsilons, which) == pytest.approx(order, abs=0.06)


@pytest.mark.parametrize("which", [0, 1], ids=["gradient", "loss"])
@pytest.mark.parametrize("stencil", ["central", "forward", "central4"])
def test_round_off_error_grows_like_one_over_epsilon(stencil, which):
    # random, 20 structures at seven steps: 0.1 in the slope
    slope = fitted_slope(stencil, 10.0 ** np.arange(-14.0, -10.5, 0.5), which)
    assert slope == pytest.approx(-1, abs=0.2)


# Error messages


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(positions=np.zeros(3)), r"positions have shape \(3,\); expected \(n_atoms, 3\)"),
        (dict(reference_forces=np.zeros((4, 3))), r"reference_forces has shape \(4, 3\)"),
        (dict(direction=np.zeros((5, 2))), r"direction has shape \(5, 2\); expected \(5, 3\)"),
        (dict(reference_forces=None), r"give reference_forces, or a direction in place of dL/df"),
        (dict(cell=np.eye(2)), r"cell has shape \(2, 2\); expected \(3, 3\)"),
        (dict(reference_stress=np.zeros(6)), r"reference_stress needs the cell as well"),
        (dict(weights=np.ones(4)), r"weights have shape \(4,\); expected \(5,\) or \(5, 3\)"),
        (dict(stencil="backward"), r"stencil = 'backward': choose one of central, forward"),
        (
            dict(cell=CELL, reference_stress=np.zeros(5)),
            r"stress has shape \(5,\); expected \(3, 3\) or \(6,\)",
        ),
    ],
)
def test_bad_arguments_are_refused(options, message):
    positions, reference = structure()
    toy = Toy()
    given = {"positions": positions, "reference_forces": reference, **options}
    with pytest.raises(ValueError, match=message):
        force_loss_gradient(toy.energy_and_forces, toy.energy_gradient, **given)


def test_bad_callables_are_refused():
    positions, reference = structure()
    toy = Toy()
    cases = [
        (lambda r: toy.energy_and_forces(r)[1], r"must return the tuple .*, not ndarray", {}),
        (lambda r: (0.0, np.zeros((4, 3))), r"forces of shape \(4, 3\) for positions", {}),
        (
            lambda r, cell: toy.energy_and_forces(r, cell)[:2],
            "energy_and_forces returns no stress",
            dict(cell=CELL, reference_stress=np.zeros((3, 3))),
        ),
    ]
    for energy_and_forces, message, options in cases:
        with pytest.raises(ValueError, match=message):
            force_loss_gradient(
                energy_and_forces, toy.energy_gradient, positions, reference, **options
            )


def test_float32_gradients_ask_for_a_larger_epsilon():
    positions, reference = structure()
    toy = Toy()

    def single(r):
        energy, gradient = toy.energy_gradient(r)
        return energy, {"a": gradient.astype(np.float32)}

    with pytest.warns(UserWarning, match="epsilon = 1e-05 is too small"):
        force_loss_gradient(toy.energy_and_forces, single, positions, reference)
    step = force_loss_gradient(toy.energy_and_forces, single, positions, reference, epsilon=1e-3)
    exact = truth(lambda theta: force_loss(positions, reference, theta))
    # rounding of 6e-8 over a displacement of 1e-3, and truncation of 1e-6
    assert relative(step.gradient["a"], exact) < 1e-3
    assert step.gradient["a"].dtype == np.float64


def test_codes_that_reuse_buffers_and_write_into_their_input():
    positions, reference = structure()
    toy, buffers = Toy(), (np.zeros((5, 3)), np.zeros(3))

    def energy_and_forces(r):
        energy, buffers[0][:] = toy.energy_and_forces(r)
        r[:] = np.nan
        return energy, buffers[0]

    def energy_gradient(r):
        energy, buffers[1][:] = toy.energy_gradient(r)
        r[:] = np.nan
        return energy, buffers[1]

    given = positions.copy()
    expected = force_loss_gradient(toy.energy_and_forces, toy.energy_gradient, positions, reference)
    found = force_loss_gradients(
        energy_and_forces, energy_gradient, [given, given + 0.1], [reference, reference]
    )
    assert np.array_equal(given, positions)
    first = found.details["steps"][0]
    assert np.array_equal(first.gradient, expected.gradient)
    assert np.array_equal(first.forces, expected.forces)


def test_stress_needs_a_volume():
    positions, reference = structure()
    toy = Toy()
    with pytest.raises(ValueError, match="needs a cell with a volume"):
        force_loss_gradient(
            toy.energy_and_forces, toy.energy_gradient, positions, reference,
            cell=np.diag([5.0, 5.0, 0.0]), reference_stress=np.zeros(6),
        )  # fmt: skip


def test_bad_lists_are_refused():
    toy = Toy()
    positions, reference = structure()
    functions = toy.energy_and_forces, toy.energy_gradient
    with pytest.raises(ValueError, match="positions hold no structure"):
        force_loss_gradients(*functions, [], [])
    with pytest.raises(ValueError, match="reference_forces has 1 entries for 2 structures"):
        force_loss_gradients(*functions, [positions] * 2, [reference])
    with pytest.raises(ValueError, match="weights has 3 entries for 2 structures"):
        force_loss_gradients(*functions, [positions] * 2, [reference] * 2, weights=[None] * 3)


def test_full_stress():
    tensor = symmetric(np.random.default_rng(0), 1)[0]
    voigt = [tensor[a, b] for a, b in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))]
    assert (full_stress(voigt) == tensor).all()
    assert full_stress(tensor) == pytest.approx(tensor, rel=1e-15)


# The engine, with elemental networks and a loss of energies, forces and stress


NAMES = ["left_handed", "dimer", "single_atom", "thin_triclinic"]


@cache
def network_and_batch(dtype=np.float64):
    descriptor = Chebyshev(("Ti", "O"), 4.5, 5, 3.5, 3)
    model = ElementalNetworks(descriptor, (6, 5), "tanh", dtype=dtype)
    batch = batch_of([SYSTEMS[name]() for name in NAMES], ("Ti", "O"), descriptor.cutoff)
    model.standardise([batch])
    model.theta = model.theta + np.random.default_rng(1).normal(scale=0.1, size=len(model.theta))
    return model, batch


def labels(batch):
    """Random labels, some of them missing; the single atom fits perfectly."""
    rng = np.random.default_rng(2)
    forces, virial = rng.normal(size=(batch.n_atoms, 3)), symmetric(rng, len(batch))
    forces[batch.structure == 2] = 0
    virial[[1, 2]] = np.nan
    energy = rng.normal(size=len(batch))
    energy[0] = np.nan
    return Target(energy, forces, virial, np.array([1.0, 2.0, 0.5, 1.5]))


def squared(batch, **weights):
    settings = dict(energy_weight=0.5, force_weight=1.0, stress_weight=2.0, mean_atoms=2.0)
    return partial(SquaredLoss(**{**settings, **weights}), target=labels(batch))


def value_of(model, batch, loss, theta):
    before, model.theta = model.theta, theta
    state = model.forward(batch)
    terms = loss(batch, state.energy, *model.forces(state))
    model.theta = before
    return terms.value


@cache
def exact():
    model, batch = network_and_batch()
    return loss_gradient(model, batch, squared(batch), stencil="complex")


def test_complex_step_gradient_of_the_loss():
    model, batch = network_and_batch()
    loss = squared(batch)
    step = exact()
    # step^4 / 30 times a fifth derivative of order 1 in theta gives 1e-13 at 1e-3, round-off
    # 1e-16 L / step = 1e-13
    check_directional(
        partial(value_of, model, batch, loss),
        lambda theta: step.gradient,
        model.theta,
        step=1e-3,
        tolerance=1e-9,
        name="dL/dtheta",
    )
    assert step.loss == pytest.approx(value_of(model, batch, loss, model.theta), rel=1e-14)


@pytest.mark.parametrize("part", ["energy", "force", "stress"])
def test_each_term_of_the_loss(part):
    model, batch = network_and_batch()
    others = {f"{k}_weight": 0.0 for k in ("energy", "force", "stress") if k != part}
    loss = squared(batch, **others)
    step = loss_gradient(model, batch, loss, stencil="complex")
    check_directional(
        partial(value_of, model, batch, loss),
        lambda theta: step.gradient,
        model.theta,
        step=1e-3,
        tolerance=1e-8,
        name=part,
    )


@pytest.mark.parametrize(
    ("stencil", "epsilon", "tolerance"),
    [
        # Features over deviations of 0.01 to 1 have third derivatives of 1e3 in units of the
        # first, fifth ones of 1e6; round-off is 1e-15 / epsilon.
        ("central", 1e-5, 1e-6),
        ("forward", 1e-8, 1e-5),
        ("central4", 1e-4, 1e-7),
    ],
)
def test_other_stencils_agree_with_the_complex_step(stencil, epsilon, tolerance):
    model, batch = network_and_batch()
    step = loss_gradient(model, batch, squared(batch), stencil=stencil, epsilon=epsilon)
    assert relative(step.gradient, exact().gradient) < tolerance
    assert step.loss == exact().loss
    assert step.loss_error < 10 * tolerance


def test_central_error_falls_with_the_square_of_epsilon():
    model, batch = network_and_batch()
    epsilons = np.array([1e-3, 5e-4, 2.5e-4])
    steps = [loss_gradient(model, batch, squared(batch), epsilon=e) for e in epsilons]
    for errors_of in (
        [relative(step.gradient, exact().gradient) for step in steps],
        [step.loss_error for step in steps],
    ):
        slope = np.polyfit(np.log(epsilons), np.log(errors_of), 1)[0]
        # the fourth order adds a few percent at 1e-3
        assert slope == pytest.approx(2, abs=0.1)


def test_float32_gradient():
    model, batch = network_and_batch(np.float32)
    step = loss_gradient(model, batch, squared(batch), epsilon=1e-3)
    # S20's three to four digits in single precision at epsilon = 1e-3: features carry 20 units of
    # 6e-8 and are divided by deviations and by 2e-3; truncation is larger still
    assert relative(step.gradient, exact().gradient) < 1e-2
    double = loss_gradient(network_and_batch()[0], batch, squared(batch), epsilon=1e-3)
    assert relative(step.gradient, double.gradient) < 2e-3


class Watched:
    """A model that keeps a record of what is asked of it; its forces may be wrong."""

    def __init__(self, model, factor=1.0):
        self.model, self.factor = model, factor
        self.theta, self.batches, self.gradients, self.n_forces = model.theta, [], [], 0

    def forward(self, batch):
        self.batches.append(batch)
        return self.model.forward(batch)

    def forces(self, state):
        self.n_forces += 1
        forces, virial = self.model.forces(state)
        return self.factor * forces, virial

    def gradient(self, state, weights):
        self.gradients.append((state.batch, weights))
        return self.model.gradient(state, weights)


def test_one_weighted_gradient_over_both_replicas():
    model, batch = network_and_batch()
    watched = Watched(model)
    step = loss_gradient(watched, batch, squared(batch), epsilon=1e-4)
    assert watched.n_forces == 1
    assert len(watched.batches) == 2
    assert watched.batches[0] is batch
    ((replicas, weights),) = watched.gradients
    assert replicas is watched.batches[1]
    assert replicas.n_replicas == 2
    plus, minus = replicas.positions.reshape(2, -1, 3)
    terms = step.details["terms"]
    expected = terms.d_forces + np.einsum(
        "aij,aj->ai", terms.d_virial[batch.structure], batch.positions
    )
    expected *= step.eta[batch.structure][:, None]
    # coordinates of 8 Å
    assert plus - batch.positions == pytest.approx(expected, rel=0, abs=4e-15)
    assert minus - batch.positions == pytest.approx(-expected, rel=0, abs=4e-15)
    # half the energy weight on each replica, -+ 1 / 2 eta for the slope
    weights = weights.reshape(2, -1)
    assert weights.sum(axis=0) == pytest.approx(terms.d_energy, rel=1e-9, abs=1e-11)
    moving = [0, 1, 3]
    assert weights[1, moving] - weights[0, moving] == pytest.approx(1 / step.eta[moving], rel=1e-13)
    # the single atom fits: nothing to displace, only its energy
    assert step.eta[2] == 0
    assert (weights[:, 2] == terms.d_energy[2] / 2).all()


def test_largest_displacement_is_epsilon_without_strain():
    model, batch = network_and_batch()
    watched = Watched(model)
    loss_gradient(watched, batch, squared(batch, stress_weight=0.0), epsilon=1e-3)
    replicas = watched.batches[1]
    moved = np.linalg.norm(replicas.positions[: batch.n_atoms] - batch.positions, axis=1)
    for s in (0, 1, 3):
        assert moved[batch.structure == s].max() == pytest.approx(1e-3, rel=1e-11)
    assert (replicas.cells == np.tile(batch.cells, (2, 1, 1))).all()


@pytest.mark.parametrize(
    ("stencil", "n_gradients"), [("central", 1), ("forward", 2), ("central4", 1), ("complex", 1)]
)
def test_number_of_passes(stencil, n_gradients):
    model, batch = network_and_batch()
    watched = Watched(model)
    loss_gradient(watched, batch, squared(batch), stencil=stencil)
    assert (len(watched.batches), watched.n_forces) == (2, 1)
    assert len(watched.gradients) == n_gradients


@pytest.mark.parametrize("wrong_by", [1e-3, -1e-3])
def test_monitor_sees_forces_that_are_wrong_by_a_permille(wrong_by):
    """Then -dE/d eta = g.f of the energy differs from g.f' by g.f times the error."""
    model, batch = network_and_batch()
    loss = squared(batch)
    state = model.forward(batch)
    forces, virial = model.forces(state)
    terms = loss(batch, state.energy, (1 + wrong_by) * forces, virial)
    missing = np.add.reduceat((terms.d_forces * forces).sum(axis=1), batch.offsets[:-1])
    expected = 0.5 * np.linalg.norm(wrong_by * missing) / np.linalg.norm(terms.force_loss)
    right = loss_gradient(model, batch, loss)
    wrong = loss_gradient(Watched(model, 1 + wrong_by), batch, loss)
    # truncation at epsilon = 1e-5 is 1e-7
    assert wrong.loss_error == pytest.approx(expected, rel=1e-2)
    assert right.loss_error < 1e-2 * expected


def test_nan_forces_are_not_mistaken_for_a_perfect_fit():
    model, batch = network_and_batch()
    batch = replace(batch, positions=batch.positions.copy())
    batch.positions[0] = np.nan
    step = loss_gradient(model, batch, squared(batch))
    assert np.isnan(step.loss)
    assert np.isnan(step.gradient).any()


# The checker


def test_checker_accepts_a_right_gradient_and_rejects_one_wrong_by_a_permille(capsys):
    def f(x):
        return np.sum(np.sin(x) * np.arange(1, 7).reshape(2, 3))

    def df(x):
        return np.cos(x) * np.arange(1, 7).reshape(2, 3)

    x = np.linspace(0.2, 1.1, 6).reshape(2, 3)
    options = dict(step=1e-3, tolerance=1e-9)
    check_directional(f, df, x, **options)
    assert "analytic" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="relative difference"):
        check_directional(f, lambda x: 1.001 * df(x), x, **options)
    one = np.zeros_like(x)
    one[1, 2] = 1e-3
    with pytest.raises(AssertionError, match="relative difference"):
        check_directional(f, lambda x: df(x) * (1 + one), x, **options)
    with pytest.raises(AssertionError, match="vanishes"):
        check_directional(lambda x: 0.0, np.zeros_like, x, **options)
