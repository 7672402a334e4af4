"""Products and combinations of features on the device against those of the processor."""

import numpy as np
import pytest

from fdforce.descriptors import AtomicEnvironmentVector, Chebyshev, Quadratic, Reduced
from fdforce.kernels.cuda import quadratic as quadratic_kernels
from fdforce.kernels.cuda import reduced as reduced_kernels
from fdforce.models import LinearModel
from tests.checks import EPS, EPS_32, elements_of, relative
from tests.cuda.on_device import (
    check_close,
    check_descriptor,
    data_of,
    gradient_on_device,
    put,
    unset,
)
from tests.systems import SYSTEMS
from tests.test_mixed_batches import loss_of_kind

# as of Chebyshev descriptors, whose features are of order 1 to 10 and are multiplied
TOLERANCES = {np.float64: (1e2 * EPS, 1e4 * EPS), np.float32: (1e2 * EPS_32, 1e4 * EPS_32)}
NAMES = ["dimer", "single_atom", "slab", "thin_triclinic", "three_species"]

every_type = pytest.mark.parametrize("dtype", TOLERANCES)


def small(elements):
    return Chebyshev(elements, 4.0, 2, 3.3, 1)


def combined(descriptor, n, seed=0):
    shape = descriptor.n_features, n
    return Reduced(descriptor, np.random.default_rng(seed).normal(size=shape) / shape[0])


MAPS = {
    "quadratic": Quadratic,
    "reduced": lambda descriptor: combined(descriptor, 3),
    "chosen": lambda descriptor: Reduced.choice(descriptor, [4, 0]),
    "products of few": lambda descriptor: Quadratic(combined(descriptor, 3)),
    "few products": lambda descriptor: combined(Quadratic(descriptor), 4),
}


@every_type
@pytest.mark.parametrize("system", NAMES)
@pytest.mark.parametrize("name", ["quadratic", "reduced"])
def test_map_is_that_of_the_processor(name, system, dtype):
    atoms = SYSTEMS[system]()
    descriptor = MAPS[name](small(elements_of(atoms)))
    check_descriptor(descriptor, [atoms], dtype, TOLERANCES[dtype])


@every_type
@pytest.mark.parametrize("name", MAPS)
def test_structures_in_any_order_and_replicas(name, dtype):
    frames = [SYSTEMS[name]() for name in ("dimer", "left_handed", "thin_triclinic", "single_atom")]
    descriptor = MAPS[name](small(("Ti", "O")))
    for n_replicas in (1, 2):
        options = dict(indices=[2, 0, 3], n_replicas=n_replicas)
        check_descriptor(descriptor, frames, dtype, TOLERANCES[dtype], **options)


def test_of_a_descriptor_that_keeps_nothing():
    inner = AtomicEnvironmentVector(("Ti", "O"))
    descriptor = Reduced.choice(inner, range(0, inner.n_features, 40))
    check_descriptor(descriptor, [SYSTEMS["dimer"]()], np.float64, TOLERANCES[np.float64])


def random_rows(counts, n, n_features, dtype):
    """Features, slopes, mean and scale, the species of each row, and where those begin."""
    rng, of_row = np.random.default_rng(n), np.repeat(np.arange(len(counts)), counts)
    shapes = [(len(of_row), n), (len(of_row), n_features), *[(len(counts), n_features)] * 2]
    arrays = [rng.normal(size=shape).astype(dtype) for shape in shapes]
    return *arrays, of_row, put(np.concatenate(([0], np.cumsum(counts))))


@every_type
@pytest.mark.parametrize("n", [1, 2, 9, 40])
def test_any_number_of_products(n, dtype, threads):
    """More features than threads and fewer; species without atoms at both ends and between."""
    first, second = np.triu_indices(n)
    factor = np.where(first == second, 0.5, 1.0).astype(dtype)
    plain, d_features, mean, scale, of_row, starts = random_rows(
        [0, 3, 0, 8, 0], n, n + len(first), dtype
    )
    tables = put(first, np.uint16), put(second, np.uint16), put(factor)
    features, d_plain = unset(d_features.shape, dtype), unset(plain.shape, dtype)
    quadratic_kernels.quadratic_forward(
        put(plain), *tables, starts, put(mean), put(scale), features
    )
    products = plain[:, first] * plain[:, second] * factor
    expected = (np.concatenate([plain, products], axis=1) - mean[of_row]) * scale[of_row]
    check_close(features.copy_to_host(), expected, 10 * np.finfo(dtype).eps)
    quadratic_kernels.quadratic_backward(
        put(d_features), put(plain), *tables, starts, put(scale), d_plain
    )
    slopes = d_features * scale[of_row]
    matrix = np.zeros((len(plain), n, n), dtype)
    matrix[:, first, second] = slopes[:, n:] * factor
    expected = slopes[:, :n] + np.einsum("akl,al->ak", matrix + matrix.swapaxes(1, 2), plain)
    check_close(d_plain.copy_to_host(), expected, 4 * n * np.finfo(dtype).eps)


@every_type
@pytest.mark.parametrize(("n", "n_features"), [(1, 1), (5, 2), (33, 7), (9, 35)])
def test_any_shape_of_the_matrix(n, n_features, dtype, threads):
    """Of more atoms than a block takes."""
    plain, d_features, mean, scale, of_row, starts = random_rows(
        [0, 3, 0, 67, 0], n, n_features, dtype
    )
    matrix = np.random.default_rng(1).normal(size=(n, n_features)).astype(dtype)
    features, d_plain, scaled = (
        unset(like.shape, dtype) for like in (d_features, plain, d_features)
    )  # fmt: skip
    reduced_kernels.reduced_forward(
        put(plain), put(matrix), starts, put(mean), put(scale), features
    )
    expected = (plain @ matrix - mean[of_row]) * scale[of_row]
    tolerance = 4 * (n + n_features) * np.finfo(dtype).eps  # sums of so many products
    check_close(features.copy_to_host(), expected, tolerance)
    reduced_kernels.reduced_backward(
        put(d_features), put(matrix), starts, put(scale), scaled, d_plain
    )
    check_close(d_plain.copy_to_host(), (d_features * scale[of_row]) @ matrix.T, tolerance)


@pytest.mark.parametrize("name", ["quadratic", "reduced"])
def test_gradient_of_a_linear_model(name):
    from fdforce.computation import HostComputation

    model = LinearModel(MAPS[name](small(("Ti", "O"))))
    frames = [SYSTEMS[name]() for name in ("dimer", "left_handed", "single_atom")]
    data, loss = data_of(frames, model.elements, model.cutoff), loss_of_kind("squared")
    expected = HostComputation(model).gradient(data, [0, 1, 2], loss, epsilon=1e-3)
    found = gradient_on_device(model, data)([0, 1, 2], loss, epsilon=1e-3)
    # differences of energies at 1e-3
    assert relative(found.gradient, expected.gradient) < 1e-10
