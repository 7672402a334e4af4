"""Batches with forces for some structures: the gradient of the full path, at less cost."""

from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest

from fdforce.batch import Batch
from fdforce.data_set import DataSet
from fdforce.descriptors import Chebyshev
from fdforce.epsilon import default_epsilons, scan_model
from fdforce.evaluation import labels_of
from fdforce.gradient import loss_gradient
from fdforce.losses import LOSSES, make_loss
from fdforce.mixed_batches import force_aware_gradient
from fdforce.models import ElementalNetworks
from fdforce.neighbors import build_pairs
from fdforce.structures import read_structures
from tests.checks import check_directional, relative
from tests.systems import SYSTEMS

NAMES = ["left_handed", "dimer", "single_atom", "thin_triclinic", "two_species", "dimer"]
ORDER = [3, 0, 5, 1, 4, 2]


@cache
def problem(dtype=np.float64):
    """A network and structures with random labels."""
    descriptor = Chebyshev(("Ti", "O"), 4.5, 5, 3.5, 3)
    model = ElementalNetworks(descriptor, (6, 5), "tanh", dtype=dtype)
    structures, _ = read_structures([SYSTEMS[name]() for name in NAMES], elements=["Ti", "O"])
    pairs = build_pairs(structures, descriptor.cutoff, skin=0.05)
    target = labels_of(structures)
    target = replace(target, energy=np.random.default_rng(2).normal(size=len(NAMES)))
    data = DataSet(structures, target, pairs)
    model.standardise([data.batch(ORDER, 1)[0]])
    model.theta = model.theta + np.random.default_rng(1).normal(scale=0.1, size=len(model.theta))
    return model, data


def without_labels(data, structures, *, forces=True, virial=True):
    target = data.target
    values = target.forces.copy(), target.virial.copy()
    for s in structures:
        if forces:
            values[0][data.structures.offsets[s] : data.structures.offsets[s + 1]] = np.nan
        if virial:
            values[1][s] = np.nan
    return replace(data, target=replace(target, forces=values[0], virial=values[1]))


def loss_of_kind(kind, **weights):
    # errors are of order 1: on both sides of a threshold of 0.5
    own = {"huber_delta": 0.5} if kind == "huber" else {}
    return make_loss(kind, stress_weight=0.5, mean_atoms=3.0, **own, **weights)


def full_path(model, data, loss, **options):
    batch, target = data.batch(ORDER, 1)
    return loss_gradient(model, batch, partial(loss, target=target), **options)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("stencil", ["central", "forward", "central4", "complex"])
def test_gradient_is_that_of_the_full_path(kind, stencil):
    model, data = problem()
    data, loss = without_labels(data, [0, 4, 5]), loss_of_kind(kind)
    options = dict(epsilon=1e-3, stencil=stencil)
    expected = full_path(model, data, loss, **options)
    found = force_aware_gradient(model, data, ORDER, loss, **options)
    assert found.loss == pytest.approx(expected.loss, rel=1e-14)
    # sums in another order: 1e-16, times 1/epsilon where replicas are subtracted
    assert relative(found.gradient, expected.gradient) < (1e-13 if stencil == "complex" else 1e-11)
    for name in ("force_loss", "scale", "slope"):
        moved = expected.details["force_loss"] > 0
        np.testing.assert_allclose(
            found.details[name][moved], expected.details[name][moved], rtol=1e-12
        )
    np.testing.assert_array_equal(found.eta != 0, expected.eta != 0)
    if stencil != "complex":  # the defect is a difference: 1e-16 E / epsilon
        np.testing.assert_allclose(found.details["defect"], expected.details["defect"], atol=1e-11)


@pytest.mark.parametrize("lacking", [[], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5]])
def test_any_number_of_structures_may_lack_forces(lacking):
    model, data = problem()
    data, loss = without_labels(data, lacking), loss_of_kind("squared")
    expected = full_path(model, data, loss, epsilon=1e-3)
    found = force_aware_gradient(model, data, ORDER, loss, epsilon=1e-3)
    assert relative(found.gradient, expected.gradient) < 1e-11
    assert found.details["defect"] == pytest.approx(expected.details["defect"], abs=1e-11)


def test_a_stress_alone_is_a_reason_to_move():
    model, data = problem()
    data = without_labels(data, range(6), virial=False)
    loss = loss_of_kind("squared")
    expected = full_path(model, data, loss, epsilon=1e-3)
    found = force_aware_gradient(model, data, ORDER, loss, epsilon=1e-3)
    assert np.count_nonzero(found.eta) == 3  # the cells periodic in three directions
    assert relative(found.gradient, expected.gradient) < 1e-11


def test_forces_of_some_atoms_alone():
    model, data = problem()
    forces = np.where(np.arange(len(data.target.forces))[:, None] % 3, np.nan, data.target.forces)
    data = without_labels(
        replace(data, target=replace(data.target, forces=forces)), [], forces=False
    )
    loss = loss_of_kind("l1")
    expected = full_path(model, data, loss, epsilon=1e-3)
    found = force_aware_gradient(model, data, ORDER, loss, epsilon=1e-3)
    assert relative(found.gradient, expected.gradient) < 1e-11


def test_threads_and_single_precision():
    model, data = problem(np.float32)
    data, loss = without_labels(data, [0, 4, 5]), loss_of_kind("squared")
    expected = full_path(model, data, loss, epsilon=1e-2 / 2)
    found = force_aware_gradient(model, data, ORDER, loss, 2, epsilon=1e-2 / 2)
    # features in float32, 6e-8, over the displacement 5e-3
    assert relative(found.gradient, expected.gradient) < 1e-4


def test_only_structures_with_forces_are_displaced(monkeypatch):
    model, data = problem()
    displaced = []
    original = Batch.displaced

    def counting(batch, direction, eta, strain=None):
        displaced.append(len(batch))
        return original(batch, direction, eta, strain)

    monkeypatch.setattr(Batch, "displaced", counting)
    force_aware_gradient(model, without_labels(data, [0, 1, 4]), ORDER, loss_of_kind("squared"))
    assert displaced == [3]
    force_aware_gradient(model, without_labels(data, range(6)), ORDER, loss_of_kind("squared"))
    assert displaced == [3]
    without_forces = loss_of_kind("squared", force_weight=0.0)
    force_aware_gradient(model, without_labels(data, range(6), forces=False), ORDER, without_forces)
    assert displaced == [3]  # a force weight of 0 displaces nothing


@pytest.mark.parametrize("kind", LOSSES)
def test_gradients_of_every_loss_at_the_recommended_epsilon(kind):
    model, data = problem()
    loss = loss_of_kind(kind)
    batch, target = data.batch(ORDER, 1)
    exact = full_path(model, data, loss, stencil="complex").gradient
    scan = scan_model(
        model, [batch], [partial(loss, target=target)], default_epsilons(1e-8, 8e-3)
    )  # fmt: skip
    found = full_path(model, data, loss, epsilon=scan.recommended)
    assert found.loss_error < 1e-7
    # central differences in float64: epsilon^2 + 1e-16 / epsilon, about 1e-10 at best
    assert relative(found.gradient, exact) < 1e-7

    def value(theta):
        before, model.theta = model.theta, theta
        state = model.forward(batch)
        terms = loss(batch, state.energy, *model.forces(state), target)
        model.theta = before
        return terms.value

    # truncation step^4 / 30 times fifth derivatives of order 1e2 for the smoothed losses, and
    # round-off 1e-16 L / step
    check_directional(value, lambda theta: exact, model.theta, step=1e-4, tolerance=1e-7)
