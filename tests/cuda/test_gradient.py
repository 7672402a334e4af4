"""The whole training step of the device against that of the processor."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from fdforce.data_set import DataSet
from fdforce.descriptors import Bispectrum, Chebyshev
from fdforce.errors import ConfigError, FdforceError
from fdforce.evaluation import labels_of
from fdforce.losses import LOSSES, make_loss
from fdforce.mixed_batches import force_aware_gradient
from fdforce.models import ElementalNetworks
from fdforce.neighbors import build_pairs
from fdforce.structures import read_structures
from tests.checks import EPS, EPS_32, relative
from tests.cuda.on_device import gradient_on_device
from tests.systems import SYSTEMS

NAMES = ["left_handed", "dimer", "single_atom", "thin_triclinic", "dimer"]
ORDER = [3, 0, 4, 2, 1]
EPSILON = 1e-3  # Å

# Energies of replicas differ by round-off of some hundred terms, and are divided by the step.
TOLERANCE = 1e2 * EPS / EPSILON
assert TOLERANCE < 1e-10
# The same with features in single precision; that of the last sums is double.
STEP_32 = 5e-3
TOLERANCE_32 = 10 * float(EPS_32) / STEP_32


@cache
def problem(dtype=np.float64, descriptor="chebyshev"):
    """A network and structures with random labels."""
    if descriptor == "chebyshev":
        descriptor = Chebyshev(("Ti", "O"), 3.6, 3, 3.0, 2)
    else:
        descriptor = Bispectrum(("Ti", "O"), 2, 3.4, wj=(1.0, 0.7))
    hidden, activations = {"Ti": (5, 4), "O": (6,)}, {"Ti": "silu", "O": "tanh"}
    model = ElementalNetworks(descriptor, hidden, activations, dtype=dtype)
    frames = [SYSTEMS[name]() for name in NAMES]
    structures, _ = read_structures(frames, elements=["Ti", "O"], keep_isolated=True)
    pairs = build_pairs(structures, descriptor.cutoff, skin=0.05)
    target = labels_of(structures)
    rng = np.random.default_rng(2)
    target = replace(
        target, energy=rng.normal(size=len(NAMES)), weight=rng.uniform(0.5, 2, size=len(NAMES))
    )
    data = DataSet(structures, target, pairs)
    model.standardise([data.batch(ORDER, 1)[0]])
    model.theta = model.theta + rng.normal(scale=0.1, size=len(model.theta))
    return model, data


def loss_of_kind(kind, **settings):
    own = {"huber_delta": 0.5} if kind == "huber" else {}
    common = dict(
        energy_weight=0.5, stress_weight=2.0, energy_unit=0.7, force_unit=1.3, virial_unit=0.9,
        mean_atoms=2.5, element_weights=(1.0, 2.0),
    )  # fmt: skip
    return make_loss(kind, **common | own | settings)


def without_labels(data, *, energy=(), forces=(), virial=(), atoms=()):
    """A data set without labels of some structures, or without the forces of some atoms."""
    target, offsets = data.target, data.structures.offsets
    target = replace(
        target, energy=target.energy.copy(), forces=target.forces.copy(),
        virial=target.virial.copy(),
    )  # fmt: skip
    target.energy[list(energy)] = np.nan
    target.virial[list(virial)] = np.nan
    for s in forces:
        target.forces[offsets[s] : offsets[s + 1]] = np.nan
    target.forces[list(atoms)] = np.nan
    return replace(data, target=target)


def check_step(model, data, loss, tolerance=TOLERANCE, *, epsilon=EPSILON, **options):
    """Compare all that a step gives; returns the step."""
    gradient = gradient_on_device(model, data)
    found = gradient(ORDER, loss, epsilon=epsilon, **options)
    expected = force_aware_gradient(model, data, ORDER, loss, epsilon=epsilon, **options)
    print(f"gradients differ by {relative(found.gradient, expected.gradient):.1e}")
    assert relative(found.gradient, expected.gradient) < tolerance
    # what is no difference of energies has the round-off of sums over pairs
    of_sums = tolerance * epsilon
    assert found.loss == pytest.approx(expected.loss, rel=of_sums)
    terms, others = found.details["terms"], expected.details["terms"]
    np.testing.assert_allclose(terms.parts, others.parts, rtol=of_sums, atol=of_sums)
    np.testing.assert_allclose(terms.d_energy, others.d_energy, rtol=of_sums, atol=of_sums)
    assert terms.errors.keys() == others.errors.keys()
    for name in terms.errors:
        np.testing.assert_allclose(terms.errors[name], others.errors[name], rtol=of_sums)
    np.testing.assert_array_equal(found.eta != 0, expected.eta != 0)
    np.testing.assert_allclose(found.eta, expected.eta, rtol=10 * of_sums)
    size = max(np.abs(expected.details["scale"]).max(), 1e-3)
    moved = expected.eta != 0
    for name in ("force_loss", "slope", "scale"):
        one, other = found.details[name][moved], expected.details[name][moved]
        np.testing.assert_allclose(one, other, rtol=0, atol=10 * of_sums * size)
    defects = found.details["defect"], expected.details["defect"]
    np.testing.assert_allclose(*defects, rtol=0, atol=10 * tolerance * size)
    again = gradient(ORDER, loss, epsilon=epsilon, **options)
    assert np.array_equal(again.gradient, found.gradient)
    assert (again.loss, again.loss_error) == (found.loss, found.loss_error)
    return found


@pytest.mark.parametrize("kind", LOSSES)
def test_every_loss(kind):
    found = check_step(*problem(), loss_of_kind(kind))
    assert np.count_nonzero(found.eta) == 5 - 1  # no force acts on the single atom, nor a stress
    assert found.loss_error < 1e-3


@pytest.mark.parametrize("stencil", ["forward", "central4"])
def test_other_stencils(stencil):
    check_step(*problem(), loss_of_kind("squared"), stencil=stencil)


@pytest.mark.parametrize("kind", LOSSES)
def test_missing_labels(kind):
    model, data = problem()
    data = without_labels(data, energy=[1], forces=[0, 4], virial=[0], atoms=[5])
    found = check_step(model, data, loss_of_kind(kind))
    assert 0 < np.count_nonzero(found.eta) < 4


def test_no_forces_at_all():
    model, data = problem()
    data = without_labels(data, forces=range(5), virial=range(5))
    assert (check_step(model, data, loss_of_kind("squared")).eta == 0).all()


@pytest.mark.parametrize(
    "settings",
    [
        dict(error_threshold=0.9),
        dict(force_weight=0.0, stress_weight=0.0),
        dict(energy_weight=0.0, energy_normalisation="per_structure"),
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_of_the_loss(settings):
    check_step(*problem(), loss_of_kind("squared", **settings))


@pytest.mark.parametrize("stencil", ["central", "forward"])
def test_single_precision(stencil):
    loss = loss_of_kind("squared")
    check_step(*problem(np.float32), loss, TOLERANCE_32, epsilon=STEP_32, stencil=stencil)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_bispectrum(dtype):
    model, data = problem(dtype, "bispectrum")
    double = dtype == np.float64
    tolerance, epsilon = (TOLERANCE, EPSILON) if double else (TOLERANCE_32, STEP_32)
    check_step(model, data, loss_of_kind("squared"), tolerance, epsilon=epsilon)


def test_sizes_of_blocks(threads):
    check_step(*problem(), loss_of_kind("huber"))


def test_loss_without_a_gradient():
    model, data = problem()
    loss = loss_of_kind("rmse")
    found = gradient_on_device(model, data).terms(ORDER, loss)
    expected = force_aware_gradient(model, data, ORDER, loss, epsilon=EPSILON)
    assert found.value == pytest.approx(expected.loss, rel=1e3 * EPS)


def test_parameters_are_those_of_the_model_now():
    model, data = problem()
    gradient, loss = gradient_on_device(model, data), loss_of_kind("squared")
    before, kept = gradient(ORDER, loss, epsilon=EPSILON), model.theta
    try:
        model.theta = kept * 1.01
        after = gradient(ORDER, loss, epsilon=EPSILON)
        expected = force_aware_gradient(model, data, ORDER, loss, epsilon=EPSILON)
    finally:
        model.theta = kept
    assert relative(after.gradient, expected.gradient) < TOLERANCE
    assert relative(after.gradient, before.gradient) > 1e-3


def test_what_a_device_cannot_do_is_said():
    model, data = problem()
    gradient, loss = gradient_on_device(model, data), loss_of_kind("squared")
    with pytest.raises(ConfigError, match="the complex stencil runs on the CPU alone"):
        gradient(ORDER, loss, epsilon=EPSILON, stencil="complex")
    with pytest.raises(FdforceError, match=r"changes distances by up to 0\.06 Å.*skin of 0\.05"):
        gradient(ORDER, loss, epsilon=0.02)
