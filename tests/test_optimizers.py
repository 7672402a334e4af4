"""Every optimizer against its formula written out, torch's version of it, or a known minimum."""

import numpy as np
import pytest
from scipy.linalg import block_diag

from fdforce.config import OptimizerConfig
from fdforce.optimizers import AUTO, OPTIMIZERS, adam, kalman, lbfgs, soap, with_numbers

EPS = np.finfo(np.float64).eps
LAYERS = [(4, 3), (4, 1), (3, 2)]
SIZE = sum(m * n for m, n in LAYERS)
STEPS = 45  # beyond two renewals of SOAP's bases


def settings(name, **changes):
    return with_numbers(OptimizerConfig(name=name, **changes))


def gradients(n=STEPS, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, SIZE)) * np.logspace(-2, 2, SIZE)


def path(name, given, rate=0.01, **changes):
    method, theta = OPTIMIZERS[name], np.linspace(-1, 1, SIZE)
    state = method.init(theta, LAYERS)
    for gradient in given:
        theta = method.update(theta, gradient, state, rate, settings(name, **changes))
    return theta


TORCH = {
    "adam": ("Adam", dict(betas=(0.9, 0.999), eps=1e-8)),
    "adamw": ("Adam", dict(betas=(0.9, 0.999), eps=1e-8)),  # decay is the trainer's
    "adamax": ("Adamax", dict(betas=(0.9, 0.999), eps=1e-8)),
    "adagrad": ("Adagrad", dict(eps=1e-10)),
    "adadelta": ("Adadelta", dict(rho=0.9, eps=1e-6)),
    "sgd": ("SGD", dict(momentum=0.9, dampening=0.9)),
}


@pytest.mark.parametrize("name", TORCH)
def test_steps_are_those_of_torch(name):
    torch = pytest.importorskip("torch", reason="needs torch")
    kind, options = TORCH[name]
    theta = torch.tensor(np.linspace(-1, 1, SIZE), dtype=torch.float64, requires_grad=True)
    other = getattr(torch.optim, kind)([theta], lr=0.01, **options)
    given = gradients()
    if name == "sgd":  # torch's first momentum is the whole gradient, not a tenth of it
        given[0] = 0
    for gradient in given:
        theta.grad = torch.tensor(gradient)
        other.step()
    # Adamax of torch adds the stability before the maximum: 1e-8 of steps of 0.01 in all
    tolerance = 1e-7 if name == "adamax" else 1e4 * EPS
    np.testing.assert_allclose(path(name, given), theta.detach().numpy(), atol=tolerance)


def test_nadam_looks_one_step_ahead():
    """Dozat's formula, every moment from the whole history."""
    given, theta, b1, b2 = gradients(12), np.linspace(-1, 1, SIZE), 0.9, 0.999
    for t in range(1, len(given) + 1):
        ages = np.arange(t)[::-1]
        mean = (1 - b1) * (b1**ages) @ given[:t]
        square = (1 - b2) * (b2**ages) @ given[:t] ** 2 / (1 - b2**t)
        ahead = b1 * mean / (1 - b1 ** (t + 1)) + (1 - b1) * given[t - 1] / (1 - b1**t)
        theta = theta - 0.01 * ahead / (np.sqrt(square) + adam.STABILITY)
    np.testing.assert_allclose(path("nadam", given), theta, atol=1e4 * EPS)


def test_soap_is_adam_in_the_eigenbasis():
    """The algorithm with explicit matrices for one layer, and with their Kronecker product."""
    given, (m, n), b1, b2, rate = gradients()[:, :12], (4, 3), 0.9, 0.999, 0.01
    theta = np.linspace(-1, 1, 12)
    left, right = np.zeros((m, m)), np.zeros((n, n))
    mean, square, basis = np.zeros(12), np.zeros(12), None
    for t, gradient in enumerate(given):
        matrix = gradient.reshape(m, n)
        left = b2 * left + (1 - b2) * matrix @ matrix.T
        right = b2 * right + (1 - b2) * matrix.T @ matrix
        if not t:
            u = np.linalg.eigh(left)[1][:, ::-1]
            v = np.linalg.eigh(right)[1][:, ::-1]
            continue
        basis = np.kron(u, v)
        mean = b1 * mean + (1 - b1) * gradient
        square = b2 * square + (1 - b2) * (basis.T @ gradient) ** 2
        root = np.sqrt(square / (1 - b2**t)) + adam.STABILITY
        theta = theta - rate * basis @ (basis.T @ mean / (1 - b1**t) / root)
        if (t + 1) % soap.REFRESH == 0:
            u, v = np.linalg.qr(left @ u)[0], np.linalg.qr(right @ v)[0]
    state, found = soap.init(np.zeros(12), [(m, n)]), np.linspace(-1, 1, 12)
    for gradient in given:
        found = soap.update(found, gradient, state, rate, settings("soap"))
    # gradients span four decades, whose products are rounded in another order
    np.testing.assert_allclose(found, theta, atol=1e8 * EPS)


def test_soap_minimises_what_adam_cannot_see():
    """A quadratic whose axes are not those of the parameters: Kronecker factors, turned."""
    rng = np.random.default_rng(1)
    turn = [np.linalg.qr(rng.normal(size=(k, k)))[0] for k in (4, 3)]
    hessian = [q @ np.diag(np.logspace(0, 2, len(q))) @ q.T for q in turn]

    def final(name):
        method, theta = OPTIMIZERS[name], np.ones(12)
        state = method.init(theta, [(4, 3)])
        for k in range(400):
            gradient = (hessian[0] @ theta.reshape(4, 3) @ hessian[1]).ravel()
            theta = method.update(theta, gradient, state, 0.1 * 0.98**k, settings(name))
        return theta @ np.kron(*hessian) @ theta

    assert final("soap") < 0.1 * final("adam")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_is_all_there_is(name):
    """Copied arrays go on exactly as the first ones would."""
    method, given = OPTIMIZERS[name], gradients(30)
    theta = np.linspace(-1, 1, SIZE)
    state, chosen = method.init(theta, LAYERS), settings(name)
    for gradient in given[:13]:
        theta = method.update(theta, gradient, state, 0.01, chosen)
    copied = {key: value.copy() for key, value in state.items()}
    ends = []
    for each in (state, copied):
        end = theta.copy()
        for gradient in given[13:]:
            end = method.update(end, gradient, each, 0.01, chosen)
        ends.append(end)
    np.testing.assert_array_equal(*ends)
    np.testing.assert_array_equal(ends[0], path(name, given))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_method_finds_a_minimum(name):
    rng = np.random.default_rng(2)
    at = rng.normal(size=SIZE)
    method, theta = OPTIMIZERS[name], np.zeros(SIZE)
    state, chosen = method.init(theta, LAYERS), settings(name)
    rate = {"sgd": 0.3, "adadelta": 30.0, "adagrad": 0.3}.get(name, 0.03)
    for k in range(600):
        theta = method.update(theta, theta - at, state, rate * (1 - k / 600), chosen)
    assert np.abs(theta - at).max() < 0.01 * np.abs(at).max()


def filter_settings(**changes):
    return settings("kalman", **changes)


@pytest.mark.parametrize("covariance", ["layer", "full"])
def test_kalman_filter_against_dense_matrices(covariance):
    rng = np.random.default_rng(3)
    chosen = filter_settings(covariance=covariance, noise=0.7)
    theta = np.linspace(-1, 1, SIZE)
    state = kalman.init(theta, LAYERS, chosen)
    expected, p, forgetting = theta.copy(), np.eye(SIZE), chosen.forgetting
    owner = np.repeat([0, 1, 2] if covariance == "layer" else [0, 0, 0], [m * n for m, n in LAYERS])
    for _ in range(60):
        slope, innovation = rng.normal(size=SIZE), rng.normal()
        theta = kalman.update(theta, slope, innovation, state, 0.8, chosen)
        gain = p @ slope / (forgetting * 0.7 + slope @ p @ slope)
        expected = expected + 0.8 * innovation * gain
        p = (p - np.outer(gain, slope @ p)) / forgetting * (owner[:, None] == owner)
        forgetting = kalman.RISE * forgetting + 1 - kalman.RISE
    np.testing.assert_allclose(theta, expected, atol=1e5 * EPS)
    assert state["forgetting"] == pytest.approx(forgetting, rel=1e-12)


def test_shared_covariance_is_a_matrix_over_the_inputs():
    """P = A x 1 for every layer, and A loses what the units of the layer have learnt together."""
    rng, chosen = np.random.default_rng(3), filter_settings(noise=0.7)
    theta = np.linspace(-1, 1, SIZE)
    state, expected = kalman.init(theta, LAYERS, chosen), theta.copy()
    inputs, forgetting = [np.eye(m) for m, _ in LAYERS], chosen.forgetting
    ends = np.cumsum([m * n for m, n in LAYERS])[:-1]
    for _ in range(60):
        slope, innovation = rng.normal(size=SIZE), rng.normal()
        theta = kalman.update(theta, slope, innovation, state, 0.8, chosen)
        columns = [g.reshape(s) for g, s in zip(np.split(slope, ends), LAYERS, strict=True)]
        p = block_diag(*(np.kron(a, np.eye(n)) for a, (_, n) in zip(inputs, LAYERS, strict=True)))
        total = forgetting * 0.7 + slope @ p @ slope
        expected = expected + 0.8 * innovation * p @ slope / total
        inputs = [
            (a - sum(np.outer(a @ h, a @ h) for h in g.T) / total) / forgetting
            for a, g in zip(inputs, columns, strict=True)
        ]
        forgetting = kalman.RISE * forgetting + 1 - kalman.RISE
    np.testing.assert_allclose(theta, expected, atol=1e5 * EPS)


def test_kalman_filter_of_a_linear_model_is_its_ridge_solution():
    """Without forgetting, the filter ends where least squares with the prior end: recursion."""
    rng = np.random.default_rng(4)
    rows, truth = rng.normal(size=(80, SIZE)), rng.normal(size=SIZE)
    labels = rows @ truth + 0.1 * rng.normal(size=80)
    chosen = filter_settings(covariance="full", noise=0.01, forgetting=1.0)
    theta = np.zeros(SIZE)
    state = kalman.init(theta, LAYERS, chosen)
    for row, label in zip(rows, labels):
        theta = kalman.update(theta, row, label - row @ theta, state, 1.0, chosen)
    ridge = np.linalg.solve(rows.T @ rows + 0.01 * np.eye(SIZE), rows.T @ labels)
    np.testing.assert_allclose(theta, ridge, atol=1e6 * EPS)


@pytest.mark.parametrize("covariance", ["shared", "full"])
def test_covariance_stays_symmetric_and_positive(covariance):
    """Thousands of updates in few directions, which shrink P there by many orders of magnitude."""
    rng = np.random.default_rng(5)
    chosen = filter_settings(covariance=covariance, noise=1e-6)
    state = kalman.init(np.zeros(SIZE), LAYERS, chosen)
    theta, few = np.zeros(SIZE), rng.normal(size=(3, SIZE))
    for k in range(5000):
        theta = kalman.update(theta, few[k % 3], 1e-3, state, 1.0, chosen)
    p = kalman.covariance(state, 0)
    assert np.array_equal(p, p.T)
    # the smallest eigenvalue may be lost in the rounding of the largest
    assert np.linalg.eigvalsh(p).min() > -100 * EPS * np.linalg.norm(p, 2)
    assert np.isfinite(theta).all()


def test_lbfgs_direction_is_that_of_the_dense_formula():
    rng = np.random.default_rng(6)
    hessian = (lambda a: a @ a.T + np.eye(SIZE))(rng.normal(size=(SIZE, SIZE)))
    state, pairs = lbfgs.init(np.zeros(SIZE)), []
    for _ in range(5):
        s = rng.normal(size=SIZE)
        lbfgs.remember(s, hessian @ s, state)
        pairs.append((s, hessian @ s))
    s, y = pairs[-1]
    inverse = np.eye(SIZE) * (s @ y) / (y @ y)
    for s, y in pairs:  # Nocedal and Wright, Eq. 7.16
        v = np.eye(SIZE) - np.outer(y, s) / (s @ y)
        inverse = v.T @ inverse @ v + np.outer(s, s) / (s @ y)
    gradient = rng.normal(size=SIZE)
    np.testing.assert_allclose(
        lbfgs.direction(gradient, state), -inverse @ gradient, rtol=1e7 * EPS
    )


def test_lbfgs_keeps_the_last_pairs_and_none_without_curvature():
    state = lbfgs.init(np.zeros(2))
    for k in range(lbfgs.MEMORY + 5):
        lbfgs.remember(np.array([1.0, k]), np.array([1.0, k]), state)
    assert state["steps"][:, 1].tolist() == list(range(5, lbfgs.MEMORY + 5))
    lbfgs.remember(np.array([1.0, 0]), np.array([-1.0, 0]), state)
    assert state["steps"][-1, 1] == lbfgs.MEMORY + 4
    assert (lbfgs.direction(np.ones(2), lbfgs.init(np.zeros(2))) == -1).all()


def test_auto_is_the_optimizers_own():
    for name, numbers in AUTO.items():
        chosen = settings(name)
        assert (chosen.learning_rate, chosen.weight_decay) == tuple(numbers.values())
    kept = settings("adamw", learning_rate=0.5)
    assert (kept.learning_rate, kept.weight_decay) == (0.5, AUTO["adamw"]["weight_decay"])


@pytest.mark.parametrize(("atoms", "expected"), [(9, 8), (21, 8), (54, 3), (192, 1), (1000, 1)])
def test_automatic_batches_hold_about_160_atoms(atoms, expected):
    class Counted(list):
        n_atoms = 3 * atoms

    three = Counted("abc")
    assert with_numbers(OptimizerConfig(), three).batch_size == expected
    assert with_numbers(OptimizerConfig(batch_size=5), three).batch_size == 5
    assert with_numbers(OptimizerConfig()).batch_size == "auto"
