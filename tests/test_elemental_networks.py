from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from ase.build import bulk

from fdforce.descriptors import Chebyshev
from fdforce.errors import ConfigError
from fdforce.kernels.cpu.networks import networks_forward, networks_gradient
from fdforce.models import MODELS, ElementalNetworks
from fdforce.models.elemental_networks import mean_square
from fdforce.models.network_settings import ACTIVATIONS
from tests.checks import COMPLEX_STEP, batch_of, relative, symmetric
from tests.naive import chebyshev as naive_chebyshev
from tests.naive import networks as naive
from tests.systems import SYSTEMS

OPTIONS = dict(radial_cutoff=4.5, radial_order=5, angular_cutoff=3.5, angular_order=3)
NAMES = ["left_handed", "dimer", "two_species", "single_atom"]
ELEMENTS = ("Ti", "O")
DEEP_TI = {"Ti": (5, 4, 3), "O": (6,)}
HIDDEN = [(), (6,), (7, 4), (5, 4, 3), DEEP_TI, {"Ti": (), "O": (4, 3)}]
NETWORKS = [
    *((hidden, "tanh") for hidden in HIDDEN),
    *(((7, 4), activation) for activation in ACTIVATIONS),
    *(((3,), ("tanh", activation)) for activation in ACTIVATIONS),  # of the output
    ((5, 4), ("silu", "cosine")),
    ((5, 4), {"Ti": ("twist", "gaussian"), "O": ("linear", "celu", "softplus")}),
    (DEEP_TI, {"Ti": ("gaussian", "twist", "cosine", "sigmoid"), "O": "modified_tanh"}),
    ((), {"Ti": ("harmonic",), "O": "linear"}),
]

each_activation = pytest.mark.parametrize("activation", ACTIVATIONS)
each_depth = pytest.mark.parametrize("hidden", HIDDEN)
each_network = pytest.mark.parametrize(("hidden", "activation"), NETWORKS)


def frames():
    return [SYSTEMS[name]() for name in NAMES]


def example(hidden=(7, 4), activation="tanh", *, dtype=np.float64, elements=ELEMENTS, seed=0):
    """A model with every number set to something random, and a batch."""
    descriptor = Chebyshev(elements, **OPTIONS)
    model = ElementalNetworks(descriptor, hidden, activation, seed=seed, dtype=dtype)
    batch = batch_of(frames(), elements, descriptor.cutoff)
    model.standardise([batch])
    rng = np.random.default_rng(seed + 1)
    model.theta = model.theta + rng.normal(scale=0.1, size=model.theta.shape)
    model.reference_energies = rng.normal(size=len(elements))
    model.scale = 1.7
    return model, batch


@cache
def raw_features(elements):
    rows = [naive_chebyshev.features(atoms, elements, **OPTIONS) for atoms in frames()]
    return np.concatenate(rows)


def loops(model, batch, theta=None):
    """Energies from the loops over atoms, for real or complex theta."""
    features = raw_features(model.elements)
    theta = model.theta if theta is None else theta
    return naive.energies(features, batch.species, batch.offsets, theta, model)


# Energies


@each_network
def test_energies_are_those_of_the_loops(hidden, activation):
    model, batch = example(hidden, activation)
    state = model.forward(batch)
    # features to 1e-13, atoms of energy 1
    assert state.energy == pytest.approx(loops(model, batch), rel=1e-11)
    assert state.energy.shape == (len(batch),)
    assert state.atom_energy.shape == (batch.n_atoms,)
    sums = [state.atom_energy[a:b].sum() for a, b in zip(batch.offsets, batch.offsets[1:])]
    assert state.energy == pytest.approx(sums, rel=1e-13)


def test_number_of_parameters():
    model, _ = example((7, 4))
    n = 2 * (6 + 4)
    assert model.theta.shape == (2 * ((n + 1) * 7 + 8 * 4 + 5),)
    assert model.theta.dtype == np.float64
    assert MODELS["elemental_networks"] is ElementalNetworks


def test_initial_parameters():
    descriptor = Chebyshev(ELEMENTS, **OPTIONS)
    one, same, other = (ElementalNetworks(descriptor, (300,), seed=s) for s in (1, 1, 2))
    assert (one.theta == same.theta).all()
    assert not (one.theta == other.theta).any(where=one.theta != 0)
    (weights, biases), (last, _) = naive.layers_of(one.theta, 1, descriptor.n_features, one.hidden)
    # variance 1 / n_in from 6000 and 300 draws: 1 % and 4 %, times three
    assert weights.std() == pytest.approx(descriptor.n_features**-0.5, rel=0.03)
    # an activation that halves the mean square doubles the variance of the next layer
    power = mean_square("silu")
    assert last.std() == pytest.approx((300 * power) ** -0.5, rel=0.15)
    assert not biases.any()


@each_depth
def test_float32_energies(hidden):
    double, batch = example(hidden)
    single, _ = example(hidden, dtype=np.float32)
    energies = single.forward(batch).energy
    assert energies.dtype == np.float64
    # features carry 20 units of 6e-8 (T_n of order 5), scaled by 1 / deviation of about 10
    assert energies == pytest.approx(double.forward(batch).energy, rel=0, abs=1e-4)
    assert not (energies == double.forward(batch).energy).all()


# Forces


@each_network
def test_forces_and_virials_are_slopes_of_the_energy(hidden, activation):
    model, batch = example(hidden, activation)
    forces, virial = model.forces(model.forward(batch))
    assert forces.shape == batch.positions.shape
    assert virial.shape == (len(batch), 3, 3)
    rng = np.random.default_rng(5)
    direction, strain = rng.normal(size=forces.shape), symmetric(rng, len(batch))
    for g, h in ((direction, 0 * strain), (0 * direction, strain)):
        moved = batch.displaced(g, np.full(len(batch), 1j * COMPLEX_STEP), h)
        slope = -model.forward(moved).energy.imag / COMPLEX_STEP
        work = np.einsum("sij,sij->s", virial, h)
        work += np.add.reduceat((forces * g).sum(axis=1), batch.offsets[:-1])
        # No difference is taken. T_n' to 1e-14, with cancellation among atoms to 1e-12.
        assert work == pytest.approx(slope, rel=1e-10, abs=1e-12)
        assert np.abs(slope).max() > 1e-2
    assert virial == pytest.approx(virial.swapaxes(1, 2), abs=1e-12)


def test_single_atom_has_no_forces():
    model, batch = example()
    forces, virial = model.forces(model.forward(batch))
    assert not forces[-1].any()
    assert not virial[-1].any()


def test_forces_sum_to_zero():
    model, batch = example()
    forces, _ = model.forces(model.forward(batch))
    total = np.add.reduceat(forces, batch.offsets[:-1])
    # pairs of equal and opposite numbers
    assert np.abs(total).max() < 1e-13 * np.abs(forces).sum()


def test_float32_forces():
    double, batch = example()
    single, _ = example(dtype=np.float32)
    for a, b in zip(single.forces(single.forward(batch)), double.forces(double.forward(batch))):
        assert a.dtype == np.float64
        # 25 units of 6e-8 for T_5'' and features over their deviations
        assert relative(a, b) < 1e-4
        assert relative(a, b) > 1e-9


def test_forces_of_a_displaced_batch():
    """Such a batch keeps no densities, so forces come from a second pass."""
    model, batch = example()
    rng = np.random.default_rng(6)
    direction, strain = rng.normal(size=batch.positions.shape), symmetric(rng, len(batch))
    moved = batch.displaced(direction, 1e-3 * rng.uniform(-1, 1, size=(2, len(batch))), strain)
    forces, virial = model.forces(model.forward(moved))
    expected, expected_virial = model.forces(model.forward(replace(moved, displacement=False)))
    assert (forces == expected).all()
    assert (virial == expected_virial).all()
    n = batch.n_atoms
    assert relative(forces[:n], forces[n:]) > 1e-4


# Gradient


@each_network
def test_gradient_is_the_complex_step_in_theta(hidden, activation):
    model, batch = example(hidden, activation)
    rng = np.random.default_rng(7)
    weights = rng.normal(size=len(batch))
    gradient = model.gradient(model.forward(batch), weights)
    for _ in range(3):
        direction = rng.normal(size=model.theta.shape)
        theta = model.theta + 1j * COMPLEX_STEP * direction
        slope = weights @ loops(model, batch, theta).imag / COMPLEX_STEP
        size = np.abs(gradient * direction).sum()
        # features to 1e-13, hundreds of terms
        assert gradient @ direction == pytest.approx(slope, rel=0, abs=1e-12 * size)
        assert abs(slope) > 1e-3 * size / np.sqrt(len(gradient))


def test_every_parameter_has_its_own_slope():
    model, batch = example((3,), "sigmoid")
    weights = np.array([1.0, -2.0, 0.5, 3.0])
    gradient = model.gradient(model.forward(batch), weights)
    features = raw_features(model.elements)
    for k in range(len(gradient)):
        theta = model.theta.astype(complex)
        theta[k] += 1j * COMPLEX_STEP
        energies = naive.energies(features, batch.species, batch.offsets, theta, model)
        slope = weights @ energies.imag / COMPLEX_STEP
        assert gradient[k] == pytest.approx(slope, rel=1e-10, abs=1e-11), k


@pytest.mark.parametrize("n_replicas", [1, 2, 4])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_weighted_gradient_over_replicas_is_the_sum_of_separate_ones(dtype, n_replicas):
    model, batch = example(dtype=dtype)
    double, _ = example()
    rng = np.random.default_rng(8)
    direction, strain = rng.normal(size=batch.positions.shape), symmetric(rng, len(batch))
    eta = 1e-3 * rng.uniform(-1, 1, size=(n_replicas, len(batch)))
    weights = rng.normal(size=n_replicas * len(batch))
    gradient = model.gradient(model.forward(batch.displaced(direction, eta, strain)), weights)
    assert gradient.dtype == np.float64
    expected = sum(
        double.gradient(double.forward(batch.displaced(direction, eta[k], strain)), w)
        for k, w in enumerate(weights.reshape(n_replicas, -1))
    )
    # sums in another order; 20 units of float32 in each feature
    assert relative(gradient, expected) < (1e-13 if dtype == np.float64 else 1e-4)


@pytest.mark.parametrize("n_replicas", [2, 4])
def test_float32_differences_of_replicas_lose_nothing_to_the_product(n_replicas):
    """Weights of opposite sign: the difference is taken before the product, in float32."""
    single, batch = example(dtype=np.float32)
    double, _ = example()
    rng = np.random.default_rng(9)
    direction = rng.normal(size=batch.positions.shape)
    step = 1e-3 * np.array([1, -1, 2, -2])[:n_replicas, None] * np.ones(len(batch))
    slope = np.array([0.5, -0.5] if n_replicas == 2 else [2 / 3, -2 / 3, -1 / 12, 1 / 12])
    weights = np.repeat(slope / 1e-3, len(batch))
    moved = batch.displaced(direction, step)
    expected = double.gradient(double.forward(moved), weights)
    error = relative(single.gradient(single.forward(moved), weights), expected)
    # Features differ by 2e-3 of their size and carry 1e-6 of it: 5e-4. The sums over 18 atoms
    # of plain float32 products would add nothing visible here; the next test looks at them.
    assert error < 2e-3
    assert error > 1e-8


def test_float32_differences_keep_their_digits():
    """A thousand atoms whose features differ by 1e-4 between replicas, with weights +-5e3.

    The same numbers, exact in float32, go through the kernel in float32, paired and not, and in
    float64. Activation linear, so that nothing else is rounded.
    """
    rng = np.random.default_rng(11)
    x = rng.normal(size=(1, 1000, 6)) + 1e-4 * np.array([1, -1])[:, None, None]
    x = x.reshape(-1, 6).astype(np.float32)
    weights = np.repeat([5e3, -5e3], 1000)
    widths, tiles = np.array([[6, 4, 1]]), np.array([[0, 0, 1000]])
    chunks, start = np.array([0, 1]), np.array([0, 2000])
    theta = rng.normal(size=33).astype(np.float32)

    def gradient(dtype, paired):
        hidden, slopes = np.zeros(8000, dtype), np.zeros(10000, dtype)
        numbers = x.astype(dtype), theta.astype(dtype)
        codes = np.full((1, 2), ACTIVATIONS.index("linear"))
        output = np.zeros(2000)
        networks_forward(*numbers, widths, codes, start, 2, tiles, chunks, hidden, slopes, output)
        d_theta = np.zeros((1, 33))
        networks_gradient(
            numbers[0], hidden, slopes, weights, numbers[1], widths, start, 2, paired,
            tiles, chunks, d_theta,
        )  # fmt: skip
        return d_theta[0, :24]  # weights of the first layer

    exact = gradient(np.float64, False)
    assert relative(gradient(np.float64, True), exact) < 1e-11
    # float32 round-off of the differences, none of it amplified by 1e4
    assert relative(gradient(np.float32, True), exact) < 1e-5
    assert relative(gradient(np.float32, False), exact) > 1e-5


def test_complex_weights_and_positions():
    model, batch = example()
    direction = np.random.default_rng(12).normal(size=batch.positions.shape)
    moved = batch.displaced(direction, np.full((1, len(batch)), 1j * COMPLEX_STEP))
    weights = np.full(len(batch), -1j / COMPLEX_STEP)
    gradient = model.gradient(model.forward(moved), weights).real

    def along(eta):
        step = batch.displaced(direction, np.full(len(batch), eta))
        return model.gradient(model.forward(step), np.ones(len(batch)))

    h = 2e-4
    numeric = (8 * (along(h) - along(-h)) - (along(2 * h) - along(-2 * h))) / (12 * h)
    # Features over their deviations make a fifth derivative of 1e7 in units of the first (measured:
    # 1e-6 at h = 1e-3), so h^4 / 30 times it is 1e-9.
    assert relative(numeric, gradient) < 1e-7


# Standardisation


def test_standardised_features_have_mean_0_and_deviation_1():
    model, batch = example()
    pieces = [batch_of([atoms], ELEMENTS, model.cutoff) for atoms in frames()]
    for batches in ([batch], pieces):
        model.standardise(batches)
        features, _ = model.descriptor.forward(batch, model.feature_mean, model.feature_scale)
        for z in range(2):
            rows = features[batch.species_start[z] : batch.species_start[z + 1]]
            # 10 atoms, features of up to 20
            assert rows.mean(axis=0) == pytest.approx(0, abs=1e-12)
            assert rows.std(axis=0) == pytest.approx(1, rel=1e-9)


def test_constant_features_are_switched_off():
    """All Na see the same, and all Cl, but not the same as each other."""
    crystal = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    crystal.positions[crystal.symbols == "Na"] += [0.5, 0.4, 0.3]
    crystal = crystal.repeat((3, 1, 1))
    descriptor = Chebyshev(("Na", "Cl"), **OPTIONS)
    batch = batch_of([crystal], descriptor.elements, descriptor.cutoff)
    model = ElementalNetworks(descriptor, (4,))
    model.standardise([batch])
    features = descriptor.compute(crystal)
    assert np.ptp(features[batch.species == 0], axis=0).max() < 1e-12
    assert model.feature_mean[batch.species] == pytest.approx(features, rel=1e-12, abs=1e-12)
    # a scale of 1e8 would blow up any other structure
    assert not model.feature_scale.any()


def test_elements_that_do_not_occur_keep_their_features():
    elements = ("Ti", "Cu", "O")
    descriptor = Chebyshev(elements, **OPTIONS)
    model = ElementalNetworks(descriptor, (4,))
    model.standardise([batch_of(frames(), elements, descriptor.cutoff)])
    assert not model.feature_mean[1].any()
    assert (model.feature_scale[1] == 1).all()
    assert model.feature_mean[0].any()


def test_elements_absent_from_a_batch():
    elements = ("Ti", "Cu", "O")
    model, batch = example((5,), elements=elements)
    state = model.forward(batch)
    assert state.energy == pytest.approx(loops(model, batch), rel=1e-11)
    gradient = model.gradient(state, np.ones(len(batch)))
    n = len(gradient) // 3
    assert not gradient[n : 2 * n].any()
    assert gradient[:n].any()
    assert gradient[2 * n :].any()
    forces, _ = model.forces(state)
    direction = np.random.default_rng(13).normal(size=forces.shape)
    moved = batch.displaced(direction, np.full(len(batch), 1j * COMPLEX_STEP))
    slope = -model.forward(moved).energy.imag.sum() / COMPLEX_STEP
    assert np.sum(forces * direction) == pytest.approx(slope, rel=1e-10)


@each_activation
def test_nan_in_is_nan_out(activation):
    model, batch = example((4,), activation)
    model.theta[3] = np.nan
    state = model.forward(batch)
    assert np.isnan(state.energy).any()
    assert np.isnan(model.gradient(state, np.ones(len(batch)))).any()


def test_nan_position_spoils_its_structure_and_no_other():
    model, batch = example()
    batch.positions[0, 2] = np.nan
    state = model.forward(batch)
    assert np.isnan(state.energy).tolist() == [True, False, False, False]
    forces, _ = model.forces(state)
    assert np.isnan(forces[:3]).any()
    assert not np.isnan(forces[3:]).any()


# A fixed pair potential on top


class Spring:
    """E = number of atoms, with forces and a virial of its own."""

    cutoff = 5.5

    def forward(self, batch):
        class Answer:
            energy = batch.counts * 1.0
            atom_energy = np.ones(batch.n_atoms)
            forces = np.full((batch.n_atoms, 3), 2.0)
            virial = np.full((len(batch), 3, 3), 3.0)

        return Answer


def test_baseline_is_added():
    model, batch = example()
    state = model.forward(batch)
    forces, virial = model.forces(state)
    gradient = model.gradient(state, np.ones(len(batch)))
    assert model.cutoff == 4.5
    model.baseline = Spring()
    assert model.cutoff == 5.5
    more = model.forward(batch)
    assert more.energy == pytest.approx(state.energy + batch.counts, rel=1e-14)
    assert more.atom_energy == pytest.approx(state.atom_energy + 1, rel=1e-14)
    more_forces, more_virial = model.forces(more)
    assert more_forces == pytest.approx(forces + 2, rel=1e-13)
    assert more_virial == pytest.approx(virial + 3, rel=1e-13)
    assert (model.gradient(more, np.ones(len(batch))) == gradient).all()


# Settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(activation="tan"), r"model.activation = 'tan': choose one of tanh, sigmoid"),
        (dict(hidden=(5, 0)), r"model.hidden = \[5, 0\]: widths must be at least 1"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ElementalNetworks(Chebyshev(ELEMENTS), **options)


def test_settings():
    model, _ = example((7, 4), "silu")
    assert model.settings == {"hidden": [7, 4], "activation": "silu"}
    assert model.elements == ELEMENTS
