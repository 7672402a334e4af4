"""Products of features on top of another descriptor."""

import numpy as np
import pytest

import fdforce
from fdforce.descriptors import Chebyshev, Quadratic, make_descriptor
from fdforce.examples import example_files
from fdforce.models import LinearModel
from tests.checks import batch_of, check_backward
from tests.systems import SYSTEMS

NAMES = ["left_handed", "dimer", "single_atom", "thin_triclinic"]


@pytest.fixture(scope="module")
def descriptor():
    return Quadratic(Chebyshev(("Ti", "O"), 4.5, 2, 3.5, 1))


@pytest.fixture(scope="module")
def batch(descriptor):
    return batch_of([SYSTEMS[name]() for name in NAMES], ("Ti", "O"), descriptor.cutoff)


def test_features_are_products_in_order(descriptor):
    atoms = SYSTEMS["left_handed"]()
    plain, found = descriptor.descriptor.compute(atoms), descriptor.compute(atoms)
    n = plain.shape[1]
    assert found.shape[1] == descriptor.n_features == len(descriptor.labels) == n + n * (n + 1) // 2
    expected = [plain[:, k] for k in range(n)]
    for k in range(n):
        expected.append(0.5 * plain[:, k] ** 2)
        expected += [plain[:, k] * plain[:, l] for l in range(k + 1, n)]
    np.testing.assert_allclose(found, np.transpose(expected), rtol=1e-14)
    assert descriptor.labels[n + 1] == "radial 0 * radial 1"


def test_backward_is_the_complex_step(descriptor, batch):
    mean, scale = np.random.default_rng(0).normal(size=(2, 2, descriptor.n_features))
    slopes, _ = check_backward(
        descriptor, batch, mean, scale, lambda back, forth: 1e-11 * abs(forth.sum())
    )
    assert (slopes > 1e-2).all()


def test_settings_make_an_equal_descriptor(descriptor):
    again = make_descriptor(name=descriptor.name, **descriptor.settings)
    assert isinstance(again, Quadratic)
    assert again.settings == descriptor.settings


def test_a_quadratic_model_fits_better_than_a_linear_one(tmp_path):
    errors = {}
    for quadratic in (False, True):
        settings = {
            "data": {"train": str(example_files("diamond")[0])},
            "model": {"kind": "linear", "radial_cutoff": 4.0, "radial_order": 4,
                      "angular_cutoff": 3.0, "angular_order": 2, "quadratic": quadratic},
            "optimizer": {"name": "least_squares"}, "training": {"threads": 1},
        }  # fmt: skip
        out = tmp_path / str(quadratic)
        result = fdforce.fit(settings, out=out, log=lambda line: None)
        errors[quadratic] = result.metrics["valid"]["force_rmse"]
        model = fdforce.load_model(out / "model.npz")
        assert isinstance(model, LinearModel)
        assert isinstance(model.descriptor, Quadratic) == quadratic
        assert np.array_equal(model.theta, result.model.theta)
    assert errors[True] < 0.95 * errors[False]  # measured: 0.925
