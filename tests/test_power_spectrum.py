"""Power spectrum of the neighbour density: the loops, backward, physics, models."""

import json
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from scipy.spatial.transform import Rotation

from fdforce.descriptors.features import pair_arguments
from fdforce.descriptors.power_spectrum import PowerSpectrum
from fdforce.errors import ConfigError, DataError
from fdforce.gradient import loss_gradient
from fdforce.models.elemental_networks import ElementalNetworks
from tests.checks import COMPLEX_STEP, batch_of, relative, symmetric, voigt
from tests.naive import power_spectrum as naive
from tests.systems import SYSTEMS

CASES = {
    "all": dict(cutoff=4.0, radial_order=3, angular_order=4),
    "diagonal": dict(cutoff=4.5, radial_order=4, angular_order=2, element_pairs="diagonal"),
    "weighted": dict(cutoff=4.5, radial_order=2, angular_order=3, element_pairs="weighted"),
    "four body": dict(cutoff=4.2, radial_order=2, angular_order=2, four_body=2),
    "degree": dict(cutoff=4.2, radial_order=4, angular_order=3, max_degree=5, distance_damping=0.0),
}
EPS, EPS_32 = np.finfo(np.float64).eps, np.finfo(np.float32).eps

every_system = pytest.mark.parametrize("system", SYSTEMS)
every_case = pytest.mark.parametrize("case", CASES)


def elements_of(atoms):
    """Not in alphabetical order, for the spins depend on it."""
    return sorted(set(atoms.get_chemical_symbols()), key=lambda e: e[::-1], reverse=True)


@cache
def oracle(system, case):
    atoms = SYSTEMS[system]()
    return naive.features(atoms, elements_of(atoms), **CASES[case])


def setting(system, case, *, seed=0, **options):
    """Descriptor, batch, and random mean and scale."""
    atoms = SYSTEMS[system]()
    elements = elements_of(atoms)
    descriptor = PowerSpectrum(elements, **CASES[case])
    batch = batch_of([atoms], elements, descriptor.cutoff, **options)
    rng = np.random.default_rng(seed)
    shape = (len(elements), descriptor.n_features)
    return descriptor, batch, rng.normal(size=shape), rng.uniform(0.5, 2, size=shape)


def plain(descriptor, dtype=np.float64):
    zeros = np.zeros((len(descriptor.elements), descriptor.n_features), dtype)
    return zeros, zeros + zeros.dtype.type(1)


def worst(features, expected):
    """Error relative to the largest feature of the atom: the others are sums that cancel."""
    size = 1 + np.abs(expected).max(axis=1, keepdims=True)
    return np.max(np.abs(features - expected) / size)


# Against the oracle


@every_case
@every_system
def test_features_are_those_of_the_loops(system, case):
    atoms, expected = SYSTEMS[system](), oracle(system, case)
    descriptor = PowerSpectrum(elements_of(atoms), **CASES[case])
    assert expected.shape[1] == descriptor.n_features == len(descriptor.labels)
    features = descriptor.compute(atoms)
    assert features.dtype == np.float64
    assert worst(features, expected) < 100 * EPS


@every_case
@every_system
def test_float32_differs_by_its_round_off(system, case):
    atoms, expected = SYSTEMS[system](), oracle(system, case)
    descriptor = PowerSpectrum(elements_of(atoms), **CASES[case])
    batch = batch_of([atoms], descriptor.elements, descriptor.cutoff)
    features, density = descriptor.forward(batch, *plain(descriptor, np.float32))
    assert features.dtype == density.dtype == np.float32
    assert worst(features[batch.place], expected) < 100 * EPS_32


def test_standardisation_is_a_shift_and_a_scale_per_element():
    descriptor, batch, mean, scale = setting("three_species", "all")
    features, _ = descriptor.forward(batch, mean, scale)
    z = batch.species
    expected = (oracle("three_species", "all") - mean[z]) * scale[z]
    assert features[batch.place] == pytest.approx(expected, rel=1e-10, abs=1e-11)


@pytest.mark.parametrize("radial_order", range(11))
def test_every_order(radial_order):
    """Radial orders 0 to 10 and, once or twice each, angular orders 0 to 8."""
    atoms = SYSTEMS["wire"]()
    options = dict(cutoff=4.3, radial_order=radial_order, angular_order=radial_order % 9)
    descriptor = PowerSpectrum(elements_of(atoms), **options)
    expected = naive.features(atoms, elements_of(atoms), **options)
    assert worst(descriptor.compute(atoms), expected) < 1000 * EPS
    batch = batch_of([atoms], descriptor.elements, descriptor.cutoff)
    check_backward(descriptor, batch, *plain(descriptor))


def cluster(n, seed=0):
    """An atom in the middle of n others between 1.5 and 4.4 Å, of two kinds."""
    rng = np.random.default_rng(seed)
    positions = [np.zeros(3)]
    while len(positions) < n + 1:
        trial = rng.uniform(-4.4, 4.4, size=3)
        apart = np.linalg.norm(np.array(positions) - trial, axis=1)
        if 1.5 < apart[0] < 4.4 and apart.min() > 0.4:
            positions.append(trial)
    return Atoms(["Cu"] + ["Cu", "O"] * (n // 2) + ["Cu"] * (n % 2), positions)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 111, 112, 113, 121, 225])
def test_any_number_of_neighbours(n):
    """Vectors of 8 and tiles of 112 neighbours, both species in one."""
    options = CASES["all"] | {"cutoff": 4.5}
    atoms = cluster(n)
    descriptor = PowerSpectrum(["Cu", "O"], **options)
    expected = naive.atom_features(atoms, 0, ["Cu", "O"], **options)[None]
    assert worst(descriptor.compute(atoms)[:1], expected) < 100 * EPS
    batch = batch_of([atoms], ["Cu", "O"], descriptor.cutoff)
    check_backward(descriptor, batch, *plain(descriptor))


def test_density_is_that_of_the_docstring():
    """Its scalars, and lengths of its multipoles by the addition theorem."""
    descriptor, batch, _, _ = setting("molecule", "all")
    _, density = descriptor.forward(batch, *plain(descriptor))
    atoms, elements = SYSTEMS["molecule"](), descriptor.elements
    norm = descriptor._tables(np.float64)["norm"]
    d = atoms.positions - atoms.positions[0]
    r = np.linalg.norm(d[1:], axis=1)
    u = d[1:] / r[:, None]
    for a, (element, n) in enumerate(descriptor._columns):
        of_element = np.array([symbol == element for symbol in atoms.symbols[1:]])
        values = of_element * np.array([naive.radial_functions(x, 4.0, 3)[n] for x in r])
        assert density[0, 0, a] == pytest.approx(values.sum(), rel=1e-12, abs=1e-14)
        # l = 1: z, x, y
        assert density[0, 1:4, a] == pytest.approx(values @ u[:, [2, 0, 1]], rel=0, abs=1e-13)
        for l in range(5):
            legendre = np.polynomial.legendre.legval(u @ u.T, np.eye(l + 1)[l])
            q = slice(l * l, (l + 1) ** 2)
            length = norm[q] @ density[0, q, a] ** 2
            assert length == pytest.approx(values @ legendre @ values, rel=1e-10, abs=1e-13)
    assert len(elements) == 3


# Backward


def check_backward(descriptor, batch, mean, scale, *, seed=3):
    """Largest slope that was compared."""
    rng = np.random.default_rng(seed)
    features, density = descriptor.forward(batch, mean, scale)
    d_features = rng.normal(size=features.shape)
    d_positions, d_strain = descriptor.backward(batch, d_features, density, scale)
    direction, strain = rng.normal(size=d_positions.shape), symmetric(rng, len(batch))
    largest = 0
    for g, h in ((direction, 0 * strain), (0 * direction, strain), (direction, strain)):
        moved = batch.displaced(g, np.full(len(batch), 1j * COMPLEX_STEP), h)
        slope = np.sum(d_features * descriptor.forward(moved, mean, scale)[0].imag) / COMPLEX_STEP
        per_atom = voigt(h)[batch.structure] * [1, 1, 1, 2, 2, 2]
        terms = np.concatenate([(d_positions * g).ravel(), (d_strain * per_atom).ravel()])
        limit = 500 * EPS * np.abs(terms).sum() + EPS
        assert terms.sum() == pytest.approx(slope, rel=0, abs=limit)
        largest = max(largest, abs(slope))
    return largest


@every_case
@every_system
def test_backward_is_the_complex_step_of_forward(system, case):
    largest = check_backward(*setting(system, case))
    # nothing to see: no pair, or one that is too far or almost
    if system not in ("single_atom", "atom_on_cutoff"):
        assert largest > 1e-2


@every_case
@every_system
def test_backward_in_float32(system, case):
    descriptor, batch, mean, scale = setting(system, case)
    results = []
    for dtype in (np.float32, np.float64):
        mean, scale = mean.astype(dtype), scale.astype(np.float32).astype(dtype)
        features, density = descriptor.forward(batch, mean, scale)
        d_features = np.random.default_rng(4).normal(size=features.shape)
        d_features = d_features.astype(np.float32).astype(dtype)
        results.append(descriptor.backward(batch, d_features, density, scale))
    for single, double in zip(*results):
        assert single.dtype == np.float64
        assert np.abs(single - double).max() <= 200 * EPS_32 * np.abs(double).max()


def test_the_kernels_of_the_density_are_adjoint():
    """What other invariants build on: <dE/dA, dA> = <dE/dr, dr> for any dE/dA."""
    from fdforce.kernels.cpu.density import density_backward

    descriptor, batch, mean, scale = setting("two_species", "all")
    _, density = descriptor.forward(batch, mean, scale)
    rng = np.random.default_rng(2)
    d_density, direction = rng.normal(size=density.shape), rng.normal(size=batch.positions.shape)
    moved = batch.displaced(direction, np.array([1j * COMPLEX_STEP]))
    _, along = descriptor.forward(moved, mean, scale)
    slope = np.sum(d_density * along.imag) / COMPLEX_STEP
    d_positions, d_strain = np.zeros((1, batch.n_atoms, 3)), np.zeros((batch.n_atoms, 6))
    arguments = descriptor._density_arguments(descriptor._tables(np.float64))
    for times in (1, 2):  # it adds
        density_backward(d_density, *pair_arguments(batch)[:-1], *arguments, d_positions, d_strain)
        assert np.sum(d_positions[0] * direction) == pytest.approx(times * slope, rel=1e-11)


# Physics


@pytest.mark.parametrize("system", ["molecule", "thin_triclinic", "slab", "three_species"])
@every_case
def test_rotation_reflection_and_translation(case, system):
    atoms = SYSTEMS[system]()
    descriptor = PowerSpectrum(elements_of(atoms), **CASES[case])
    features = descriptor.compute(atoms)
    rotation = Rotation.random(random_state=5).as_matrix()
    for transform in (rotation, -rotation):
        moved = atoms.copy()
        moved.set_cell(atoms.cell @ transform.T)
        moved.positions = atoms.positions @ transform.T + [3.1, -20.7, 8.8]
        assert worst(descriptor.compute(moved), features) < 1000 * EPS


@pytest.mark.parametrize("system", ["molecule", "left_handed", "two_species"])
def test_permutation_of_atoms(system):
    atoms = SYSTEMS[system]()
    order = np.roll(np.arange(len(atoms)), 1)[::-1]
    descriptor = PowerSpectrum(elements_of(atoms), **CASES["all"])
    features = descriptor.compute(atoms)
    assert not np.allclose(features[order], features)
    assert worst(descriptor.compute(atoms[order]), features[order]) < 100 * EPS


@pytest.mark.parametrize("system", ["thin_triclinic", "left_handed", "bulk", "wire"])
def test_supercell(system):
    atoms = SYSTEMS[system]()
    repeats = np.where(atoms.pbc, [3, 2, 2], 1)
    descriptor = PowerSpectrum(elements_of(atoms), **CASES["four body"])
    expected = np.tile(descriptor.compute(atoms), (repeats.prod(), 1))
    assert worst(descriptor.compute(atoms.repeat(repeats)), expected) < 100 * EPS


def test_lonely_atom_has_no_features():
    assert not PowerSpectrum(["Ti", "O"], four_body=2).compute(SYSTEMS["single_atom"]()).any()


@every_case
def test_features_fade_out_with_the_fourth_power_of_the_gap(case):
    """Three continuous derivatives at the cutoff: features go as gap^4, slopes as gap^3."""
    options = {**CASES[case], "cutoff": 4.0}
    atoms = Atoms("TiO2", [[0, 0, 0], [1.6, 0.3, 0], [-0.4, 0.2, 1.0]])
    towards = atoms.positions[2] / np.linalg.norm(atoms.positions[2])
    atoms.positions[2] = 4.0 * towards
    descriptor = PowerSpectrum(["Ti", "O"], **options)
    batch = batch_of([atoms], descriptor.elements, 4.0, skin=0.3)
    direction = np.zeros((3, 3))
    direction[2] = towards

    def of_titanium(gap):
        moved = batch.displaced(direction, np.array([[-gap]]))
        features, density = descriptor.forward(moved, *plain(descriptor))
        d_features = np.zeros_like(features)
        row = moved.place[0]
        d_features[row] = 1
        d_positions, _ = descriptor.backward(moved, d_features, density, plain(descriptor)[1])
        return features[row], d_positions[2]

    outside, nothing = of_titanium(-1e-2)
    assert not nothing.any()
    sizes, slopes = [], []
    column = descriptor._columns.index((descriptor.channels[-1], 0))
    for gap in (0.02, 0.01, 0.005):
        features, slope = of_titanium(gap)
        sizes.append(abs(features[column] - outside[column]))
        slopes.append(np.linalg.norm(slope))
    # R_0 = 35 (gap / R)^4
    assert sizes[0] == pytest.approx(
        35 * (0.02 / 4) ** 4 / (1 + descriptor.distance_damping), rel=0.05
    )
    assert np.array(sizes[:-1]) / sizes[1:] == pytest.approx(16, rel=0.02)
    assert np.array(slopes[:-1]) / slopes[1:] == pytest.approx(8, rel=0.1)


# Batches, chunks and replicas

NAMES = ["two_species", "dimer", "left_handed", "single_atom", "thin_triclinic"]
ELEMENTS = ["Ti", "O"]


def frames_of(names):
    return [SYSTEMS[name]() for name in names]


@pytest.mark.parametrize("n_chunks", [2, 3, 50])
def test_chunks_change_nothing(n_chunks):
    descriptor = PowerSpectrum(ELEMENTS, **CASES["four body"])
    results = []
    for chunks in (1, n_chunks):
        batch = batch_of(frames_of(NAMES), ELEMENTS, descriptor.cutoff, n_chunks=chunks)
        mean, scale = plain(descriptor)
        features, density = descriptor.forward(batch, mean, scale)
        d_features = np.random.default_rng(8).normal(size=features.shape)
        results.append((features, *descriptor.backward(batch, d_features, density, scale)))
    (one, one_r, one_s), (many, many_r, many_s) = results
    assert np.abs(one - many).max() < 10 * EPS * np.abs(one).max()
    assert np.abs(one_s - many_s).max() < 10 * EPS * np.abs(one_s).max()
    assert np.abs(one_r - many_r).max() < 10 * EPS * np.abs(one_r).max()


@pytest.mark.parametrize("n_replicas", [2, 4])
def test_replicas_equal_separate_batches(n_replicas):
    descriptor = PowerSpectrum(ELEMENTS, **CASES["four body"])
    rng = np.random.default_rng(9)
    shape = (len(ELEMENTS), descriptor.n_features)
    mean, scale = rng.normal(size=shape), rng.uniform(0.5, 2, size=shape)
    batch = batch_of(frames_of(NAMES), ELEMENTS, descriptor.cutoff)
    direction, strain = rng.normal(size=batch.positions.shape), symmetric(rng, len(batch))
    eta = 1e-3 * rng.uniform(-1, 1, size=(n_replicas, len(batch)))
    replicas = batch.displaced(direction, eta, strain)
    features, density = descriptor.forward(replicas, mean, scale)
    d_features = rng.normal(size=features.shape)
    d_positions, d_strain = descriptor.backward(replicas, d_features, density, scale)
    n = len(batch.species)
    for k in range(n_replicas):
        one = batch.displaced(direction, eta[k], strain)
        alone, kept = descriptor.forward(one, mean, scale)
        rows = slice(k * n, (k + 1) * n)
        assert features[replicas.place[rows]] == pytest.approx(alone[one.place], abs=1e-13)
        d_alone = np.empty_like(alone)
        d_alone[one.place] = d_features[replicas.place[rows]]
        of_positions, of_strain = descriptor.backward(one, d_alone, kept, scale)
        size = np.abs(of_positions).max()
        assert d_positions[rows] == pytest.approx(of_positions, abs=100 * EPS * size)
        assert d_strain[rows] == pytest.approx(of_strain, abs=100 * EPS * size)


def test_features_without_keeping_the_density_are_the_same():
    descriptor, batch, mean, scale = setting("two_species", "all")
    features, density = descriptor.forward(batch, mean, scale)
    alone, nothing = descriptor.forward(batch, mean, scale, keep=False)
    assert (features == alone).all()
    assert len(density) == batch.n_atoms
    assert len(nothing) == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_position_makes_nan_features(dtype):
    descriptor = PowerSpectrum(ELEMENTS, **CASES["all"])
    batch = batch_of([SYSTEMS["two_species"]()], ELEMENTS, descriptor.cutoff)
    batch.positions[3, 1] = np.nan
    features, density = descriptor.forward(batch, *plain(descriptor, dtype))
    assert np.isnan(features).any(axis=1).all()
    ones = np.ones_like(features)
    d_positions, _ = descriptor.backward(batch, ones, density, plain(descriptor, dtype)[1])
    assert np.isnan(d_positions).any()


# Models


def model_of(names, elements, hidden=(9, 7), **options):
    descriptor = PowerSpectrum(elements, **options)
    model = ElementalNetworks(descriptor, hidden, "tanh", seed=2)
    batch = batch_of(frames_of(names), elements, model.cutoff)
    model.standardise([batch])
    return model, batch


@every_case
def test_forces_and_virials_are_slopes_of_the_energy(case):
    model, batch = model_of(["two_species", "left_handed"], ELEMENTS, **CASES[case])
    forces, virial = model.forces(model.forward(batch))
    rng = np.random.default_rng(6)
    direction, strain = rng.normal(size=forces.shape), symmetric(rng, len(batch))
    moved = batch.displaced(direction, np.full(len(batch), 1j * COMPLEX_STEP), strain)
    slope = -model.forward(moved).energy.imag / COMPLEX_STEP
    work = np.add.reduceat((forces * direction).sum(axis=1), batch.offsets[:-1])
    assert work + (virial * strain).sum(axis=(1, 2)) == pytest.approx(slope, rel=1e-9)
    assert np.add.reduceat(forces, batch.offsets[:-1]) == pytest.approx(0, abs=1e-9)


def test_central_difference_and_complex_step_agree():
    model, batch = model_of(["two_species", "left_handed"], ELEMENTS, **CASES["four body"])

    def loss(batch, energy, forces, virial):
        force_loss = np.add.reduceat((forces**2).sum(axis=1), batch.offsets[:-1])
        return SimpleNamespace(
            value=force_loss.sum(), force_loss=force_loss, d_energy=np.ones(len(batch)),
            d_forces=2 * forces, d_virial=virial,
        )  # fmt: skip

    exact = loss_gradient(model, batch, loss, stencil="complex").gradient
    central = loss_gradient(model, batch, loss, stencil="central", epsilon=1e-5).gradient
    assert 0 < relative(central, exact) < 1e-6


# Settings


def test_numbers_of_features_and_labels():
    one = PowerSpectrum(["Cu"], radial_order=1, angular_order=1)
    assert one.labels == [
        "radial Cu 0", "radial Cu 1",
        "power 0 Cu 0 Cu 0", "power 0 Cu 0 Cu 1", "power 0 Cu 1 Cu 1",
        "power 1 Cu 0 Cu 0", "power 1 Cu 0 Cu 1", "power 1 Cu 1 Cu 1",
    ]  # fmt: skip
    orders = dict(radial_order=2, angular_order=3)
    pairs = {
        pairs: PowerSpectrum(["H", "C", "N", "O"], element_pairs=pairs, **orders).n_features
        for pairs in ("all", "diagonal", "weighted")
    }
    # columns and, for each of 4 l, pairs of columns
    assert pairs == {"all": 12 + 4 * 78, "diagonal": 12 + 4 * 4 * 6, "weighted": 6 + 4 * 2 * 6}
    cubic = PowerSpectrum(["H", "C"], radial_order=0, angular_order=2, four_body=2)
    assert cubic.labels[-4:] == ["cubic 112 H 0", "cubic 112 C 0", "cubic 222 H 0", "cubic 222 C 0"]
    weighted = PowerSpectrum(["O", "H", "C", "N"], element_pairs="weighted")
    assert weighted.channels == ("all", "spin")
    assert weighted.channel_weights.tolist() == [[1, 1, 1, 1], [-2, -1, 1, 2]]
    assert PowerSpectrum(["O"], element_pairs="weighted").channels == ("all",)
    auto = [PowerSpectrum(["O", "H", "C", "N"][:n]).element_pairs for n in range(1, 5)]
    assert auto == ["all", "all", "all", "weighted"]


def test_settings():
    two = PowerSpectrum(["Ti", "O"], 5.0, 3, 2, "diagonal", 2, 0.5, 4, 3.0)
    again = PowerSpectrum(**json.loads(json.dumps(two.settings)))
    assert again.settings == two.settings
    assert set(two.settings) == {"elements", *two.setting_help}


def test_damping_weighs_features_by_their_degree():
    assert (PowerSpectrum(["Ti", "O"], damping=0).feature_weight == 1).all()
    options = dict(radial_order=2, angular_order=2, four_body=2, damping=1.5)
    descriptor = PowerSpectrum(["Ti"], **options)
    weight = dict(zip(descriptor.labels, descriptor.feature_weight))
    assert weight["radial Ti 0"] == weight["power 0 Ti 0 Ti 0"] == 1
    assert weight["radial Ti 2"] == weight["power 1 Ti 0 Ti 0"] == pytest.approx(3**-1.5)
    assert weight["power 2 Ti 1 Ti 2"] == pytest.approx(8**-1.5)
    assert weight["cubic 112 Ti 1"] == pytest.approx(8**-1.5)
    assert weight["cubic 222 Ti 0"] == pytest.approx(7**-1.5)
    assert descriptor.feature_weight.shape == (descriptor.n_features,)
    # features themselves are not damped
    undamped = PowerSpectrum(["Ti"], **{**options, "damping": 0})
    atoms = Atoms("Ti4", np.random.default_rng(0).uniform(0, 4, size=(4, 3)))
    assert (descriptor.compute(atoms) == undamped.compute(atoms)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(elements=[]), r"elements = \[\]: name every element once"),
        (dict(elements=["O", "O"]), r"elements = \['O', 'O'\]: name every element once"),
        (dict(cutoff=0), r"cutoff = 0.0: must be above 0 Å"),
        (dict(cutoff=float("nan")), r"cutoff = nan: must be above 0 Å"),
        (dict(radial_order=-1), r"radial_order = -1: must be at least 0"),
        (dict(angular_order=1.5), r"angular_order = 1.5: must be a whole number"),
        (dict(damping=-1), r"damping = -1.0: must be at least 0"),
        (dict(element_pairs="some"), r"element_pairs = 'some': choose one of auto, all, diagonal"),
        (dict(four_body=1), r"four_body = 1: must be 0 or 2"),
        (dict(four_body=2, angular_order=1), r"four_body = 2: needs an angular_order of at least"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        PowerSpectrum(**{"elements": ["Ti", "O"], **options})


def test_unknown_element_is_refused():
    with pytest.raises(DataError, match="Cu"):
        PowerSpectrum(["Ti", "O"]).compute(SYSTEMS["bulk"]())
