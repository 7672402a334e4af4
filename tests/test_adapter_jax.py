"""The code of docs/adapters/jax.md, run as it stands there."""

import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from fdforce import force_loss_gradient
from tests.checks import check_directional, relative

jax = pytest.importorskip("jax", reason="needs jax")
jnp = jax.numpy
ravel_pytree = pytest.importorskip("jax.flatten_util").ravel_pytree

PAGE = Path(__file__).resolve().parents[1] / "docs" / "adapters" / "jax.md"
RECIPE, USE, CHARGES, TOOLS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture(autouse=True, scope="module")
def float64():
    """The page switches it on for the whole process; give the tests that follow what was set."""
    before = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", before)


def run(*blocks):
    names = {}
    for block in blocks:
        exec(block, names)
    return names


# data, the step, the update of the parameters
DATA, STEP, UPDATE = USE.split("\n\n")


@cache
def recipe():
    """Names of the page before its last line changes the parameters."""
    return run(RECIPE, DATA, STEP)


def flat(gradient):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])


@cache
def differentiated_twice():
    """Gradient of the force loss by JAX alone."""
    names = recipe()

    def loss(theta):
        forces = -jax.grad(names["energy"], argnums=1)(theta, names["positions"])
        return jnp.sum((forces - names["reference_forces"]) ** 2) / 2

    return jax.jit(jax.grad(loss))(names["theta"])


def gradient(names, **options):
    return force_loss_gradient(
        names["energy_and_forces"], names["energy_gradient"],
        names["positions"], names["reference_forces"], **options,
    )  # fmt: skip


def test_gradient_equals_jax_and_comes_in_kind():
    names = recipe()
    result, expected = names["step"].gradient, differentiated_twice()
    assert jax.tree.structure(result) == jax.tree.structure(expected)
    for leaf, other in zip(jax.tree.leaves(result), jax.tree.leaves(expected)):
        assert isinstance(leaf, np.ndarray)
        assert leaf.shape == other.shape
        assert leaf.dtype == np.float64
    assert relative(flat(result), flat(expected)) < 1e-8  # 4e-10 on the page
    assert names["step"].loss_error < 1e-8


def test_error_falls_as_the_square_of_epsilon():
    names = recipe()
    expected, epsilons = flat(differentiated_twice()), np.array([1e-4, 1e-3, 1e-2])
    errors = [relative(flat(gradient(names, epsilon=e).gradient), expected) for e in epsilons]
    print(errors)
    assert errors == pytest.approx([3.7e-8, 3.7e-6, 3.7e-4], rel=0.02)  # the table of the page
    slopes = np.diff(np.log(errors)) / np.diff(np.log(epsilons))
    assert slopes == pytest.approx([2, 2], abs=0.02)


def test_one_call_for_forces_and_two_for_the_gradient():
    names, calls = dict(recipe()), []

    def counted(name):
        def function(r):
            calls.append(name)
            return recipe()[name](r)

        return function

    for name in ("energy_and_forces", "energy_gradient"):
        names[name] = counted(name)
    gradient(names)
    assert calls == ["energy_and_forces", "energy_gradient", "energy_gradient"]


def test_update_of_the_page_lowers_the_loss():
    names = run(RECIPE, USE)
    assert gradient(names).loss < 0.9 * names["step"].loss


def test_single_precision_is_as_bad_as_the_page_says():
    single = run(RECIPE.replace('_x64", True', '_x64", False'), DATA)
    try:
        with pytest.warns(UserWarning, match="comes in float32"):
            step = gradient(single)
    finally:
        jax.config.update("jax_enable_x64", True)
    error = relative(flat(step.gradient), flat(differentiated_twice()))
    assert 3e-3 < error < 5e-2


def test_parameters_in_tuples_are_refused_and_go_through_a_vector():
    names, keys = dict(recipe()), ("layers", "out")
    theta = tuple(names["theta"][key] for key in keys)

    def energy(theta, r):
        return recipe()["energy"](dict(zip(keys, theta)), r)

    by_theta = jax.jit(jax.value_and_grad(energy))
    names["energy_gradient"] = lambda r: by_theta(theta, r)
    with pytest.raises(ValueError, match=r"tuple of 2 .*; make it a list or a dict"):
        gradient(names)
    vector, unravel = ravel_pytree(theta)
    by_vector = jax.jit(jax.value_and_grad(lambda v, r: energy(unravel(v), r)))
    names["energy_gradient"] = lambda r: by_vector(vector, r)
    expected, _ = ravel_pytree(tuple(names["step"].gradient[key] for key in keys))
    assert relative(gradient(names).gradient, expected) < 1e-9  # another order of sums


def test_charges_by_iteration():
    """Right by the finite difference, wrong without a warning when differentiated twice."""
    names = run(RECIPE, DATA, CHARGES)
    solved = "q = charges(*jax.lax.stop_gradient((matrix, chi)))"
    assert solved in CHARGES
    exact = run(RECIPE, DATA, CHARGES.replace(solved, "q = -jnp.linalg.solve(matrix, chi)"))
    truth = flat(exact["wrong"])
    assert relative(flat(names["step"].gradient), truth) < 1e-8
    assert relative(flat(names["wrong"]), truth) > 0.5
    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
        run(RECIPE, DATA, CHARGES.replace(solved, "q = charges(matrix, chi)"))


def test_energy_code_with_parameters_changed_in_place():
    names = run(RECIPE, DATA, TOOLS)
    code, positions = names["code"], names["positions"]
    leaves = jax.tree.leaves(code.parameters)
    assert all(isinstance(leaf, np.ndarray) for leaf in leaves)
    start = flat(code.parameters)

    def at(theta):
        for leaf, part in zip(leaves, np.split(theta, np.cumsum([a.size for a in leaves])[:-1])):
            leaf[...] = part.reshape(leaf.shape)
        energy, slope = code.energy_gradient(positions)
        return float(energy), flat(slope)

    check_directional(lambda t: at(t)[0], lambda t: at(t)[1], start, step=1e-3, tolerance=1e-8)
