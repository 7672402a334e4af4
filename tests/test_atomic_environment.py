"""ANI atomic environment vectors: golden values, TorchANI, the loops, backward, physics."""

import json
import warnings
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms

from fdforce.descriptors.atomic_environment import ANI1X, ANI2X, AtomicEnvironmentVector
from fdforce.errors import ConfigError, DataError
from fdforce.gradient import loss_gradient
from fdforce.models.elemental_networks import ElementalNetworks
from tests.checks import (
    COMPLEX_STEP,
    ELEMENTS,
    EPS,
    EPS_32,
    batch_of,
    bent_oxide,
    check_backward,
    check_backward_in_float32,
    check_chunks,
    check_forces,
    check_loss_gradient,
    check_nan,
    check_permutation,
    check_replicas,
    check_rotation_and_translation,
    check_standardisation,
    check_supercell,
    cluster,
    elements_of,
    every_system,
    networks_and_batch,
    of_first_atom,
    plain,
    relative,
    setting_of,
)
from tests.naive import atomic_environment as naive
from tests.systems import SYSTEMS

GOLDEN = Path(__file__).parents[2] / "shared" / "golden" / "ani"
SMALL = dict(
    radial_cutoff=4.0,
    radial_eta=3.0,
    radial_shifts=[0.5, 1.5, 2.5],
    angular_cutoff=4.6,
    angular_eta=2.0,
    zeta=9.0,
    angle_shifts=[0.3, 1.0, 1.7, 2.2, 3.1],
    angular_shifts=[0.9, 1.8, 2.9],
)
CASES = {"1x": ANI1X, "2x": ANI2X, "odd": SMALL}

AEV_KEYS = [f"{m}_{v}" for m in ("CH3CH2OH", "NH3", "HCN") for v in ("eq", "disp")]

every_case = pytest.mark.parametrize("case", CASES)
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="needs ../shared/golden/ani")


@cache
def oracle(system, case):
    atoms = SYSTEMS[system]()
    return naive.features(atoms, elements_of(atoms), **CASES[case])


def setting(system, case, **options):
    return setting_of(
        lambda elements: AtomicEnvironmentVector(elements, **CASES[case]), system, **options
    )


# Golden values


@cache
def golden(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def golden_atoms(key):
    data = golden("ani_aev")
    cell = data.get(f"{key}_cell")
    return Atoms(
        [str(symbol) for symbol in data[f"{key}_symbols"]],
        data[f"{key}_pos"],
        cell=cell,
        pbc=cell is not None,
    )


def descriptor_of(version):
    return {"1x": AtomicEnvironmentVector.ani1x, "2x": AtomicEnvironmentVector.ani2x}[version]()


@needs_golden
@pytest.mark.parametrize("version", ["1x", "2x"])
def test_constants_are_those_of_the_golden_values(version):
    descriptor, data = descriptor_of(version), golden("ani_aev")
    constants = {
        "Rcr": "radial_cutoff", "EtaR": "radial_eta", "ShfR": "radial_shifts",
        "Rca": "angular_cutoff", "EtaA": "angular_eta", "Zeta": "zeta", "ShfA": "angular_shifts",
        "ShfZ": "angle_shifts",
    }  # fmt: skip
    for name, ours in constants.items():
        expected = data[f"const_{version}_{name}"]
        assert getattr(descriptor, ours) == pytest.approx(expected, rel=1e-15)
    assert descriptor.elements == tuple(data[f"species_order_{version}"])


@needs_golden
@pytest.mark.parametrize("key", AEV_KEYS)
@pytest.mark.parametrize("version", ["1x", "2x"])
def test_golden_features(version, key):
    expected = golden("ani_aev")[f"{version}_{key}"]
    features = descriptor_of(version).compute(golden_atoms(key))
    assert features.shape == expected.shape
    # relative to the feature, down to 1e-9 of the largest
    assert features == pytest.approx(expected, rel=1e-9, abs=1e-9 * 1e-9)
    assert np.abs(features - expected).max() < 1e-13


@needs_golden
@pytest.mark.parametrize("key", AEV_KEYS)
def test_golden_derivative_along_a_direction(key):
    descriptor, data = descriptor_of("1x"), golden("ani_aev")
    batch = batch_of([golden_atoms(key)], descriptor.elements, descriptor.cutoff)
    moved = batch.displaced(data[f"{key}_dir"], np.array([1j * COMPLEX_STEP]))
    features, _ = descriptor.forward(moved, *plain(descriptor))
    slope, expected = features[moved.place].imag / COMPLEX_STEP, data[f"1x_{key}_jvp"]
    assert slope == pytest.approx(expected, rel=1e-9, abs=1e-9 * np.abs(expected).max())
    assert relative(slope, expected) < 1e-13
    # and the transpose of it
    d_features = np.random.default_rng(0).normal(size=features.shape)
    d_positions, _ = descriptor.backward(batch, d_features, None, plain(descriptor)[1])
    along = np.sum(d_positions * data[f"{key}_dir"])
    assert along == pytest.approx(np.sum(d_features[batch.place] * expected), rel=1e-11)


MODEL_KEYS = [f"{m}_disp" for m in ("CH3CH2OH", "C6H6", "CH3CONH2", "NH3", "H2O", "HCN")]
MODEL_KEYS += ["periodic"]
ALPHA = 0.1
"""The golden CELU is a (exp(x / a) - 1) below 0 with a = 0.1; "celu" has a = 1."""


def to_theta(parameter):
    """Our flat parameters; `parameter(kind, layer, element)` gives W (n_out, n_in) and b (n_out,).

    celu_a(x) = a celu_1(x / a): the first weights and all hidden biases are divided by a, the last
    weights multiplied.
    """
    parts = []
    for element in "HCNO":
        for layer in range(3):
            weight = {0: 1 / ALPHA, 1: 1, 2: ALPHA}[layer]
            bias = {0: 1 / ALPHA, 1: 1 / ALPHA, 2: 1}[layer]
            parts += [(parameter("W", layer, element).T * weight).ravel()]
            parts += [parameter("b", layer, element) * bias]
    return np.concatenate(parts)


def gradient_to_theta(parameter):
    """The same for derivatives, which are divided by what parameters are multiplied with."""
    parts = []
    for element in "HCNO":
        for layer in range(3):
            weight = {0: 1 / ALPHA, 1: 1, 2: ALPHA}[layer]
            bias = {0: 1 / ALPHA, 1: 1 / ALPHA, 2: 1}[layer]
            parts += [(parameter("W", layer, element).T / weight).ravel()]
            parts += [parameter("b", layer, element) / bias]
    return np.concatenate(parts)


@cache
def golden_model():
    data = golden("ani_model")
    model = ElementalNetworks(AtomicEnvironmentVector.ani1x(), (16, 8), "celu")
    model.theta = to_theta(lambda kind, layer, element: data[f"{kind}{layer}_{element}"])
    frames = [golden_atoms(key) for key in MODEL_KEYS]
    batch = batch_of(frames, model.elements, model.cutoff)
    energy = np.array([data[f"{key}_Eref"] for key in MODEL_KEYS])
    forces = np.concatenate([data[f"{key}_Fref"] for key in MODEL_KEYS])
    return model, batch, energy, forces


@needs_golden
def test_golden_energies():
    data = golden("ani_model")
    model, batch, _, _ = golden_model()
    state = model.forward(batch)
    expected = np.array([data[f"{key}_E"] for key in MODEL_KEYS])
    assert state.energy == pytest.approx(expected, rel=1e-12)
    of_atoms = np.concatenate([data[f"{key}_Ei"] for key in MODEL_KEYS])
    assert state.atom_energy == pytest.approx(of_atoms, rel=1e-9, abs=1e-12)


@needs_golden
def test_golden_gradient_of_the_energy_loss():
    data = golden("ani_model")
    model, batch, energy, _ = golden_model()
    state = model.forward(batch)
    error = state.energy - energy
    assert (error**2).sum() == pytest.approx(float(data["loss_E"]), rel=1e-12)
    gradient = model.gradient(state, 2 * error)
    expected = golden_gradient("E")
    assert relative(gradient, expected) < 3 * OFF
    assert relative(network(batch, torch_slopes)(2 * error)[0], expected) < 1e-12
    assert relative(network(batch, exact_slopes)(2 * error)[0], gradient) < 1e-12


OFF = 1.5e-8
"""Relative error of the golden slopes: PyTorch's derivative of CELU takes 1/a in single precision.

Hence the golden forces and gradients are not compared with fdforce's alone, but both with a network
written out here, once with PyTorch's slopes and once with the exact ones.
"""


def exact_slopes(x):
    """First and second derivative of CELU."""
    e = np.exp(np.minimum(x, 0) / ALPHA)
    return np.where(x > 0, 1, e), np.where(x > 0, 0, e / ALPHA)


def torch_slopes(x):
    inverse = 1 / float(np.float32(ALPHA))
    e = ALPHA * inverse * np.exp(np.minimum(x, 0) * inverse)
    return np.where(x > 0, 1, e), np.where(x > 0, 0, e * inverse)


def network(batch, slopes):
    """The golden networks by hand, with a given derivative of the activation.

    Returns a function of weights per structure and, optionally, a direction in positions; its
    results are the gradient in the parameters of the weighted energies or, with a direction, of
    their slopes along it, and dE/dr for weights of 1.
    """
    data, descriptor = golden("ani_model"), AtomicEnvironmentVector.ani1x()
    mean, scale = plain(descriptor)

    def celu(x):
        return np.where(x > 0, x, ALPHA * np.expm1(np.minimum(x, 0) / ALPHA))

    def derivatives(weights, direction=None):
        features, kept = descriptor.forward(batch, mean, scale)
        along = np.zeros_like(features)
        if direction is not None:
            moved = batch.displaced(direction, np.full(len(batch), 1j * COMPLEX_STEP))
            along = descriptor.forward(moved, mean, scale)[0].imag / COMPLEX_STEP
        per_row = np.empty(batch.n_atoms)
        per_row[batch.place] = np.asarray(weights)[batch.structure]
        total, d_features = {}, np.empty_like(features)
        for z, element in enumerate("HCNO"):
            # rows of the features are sorted by species
            rows = slice(*batch.species_start[z : z + 2])
            g, dg, w = features[rows], along[rows], per_row[rows, None]
            w1, w2, w3 = (data[f"W{layer}_{element}"] for layer in range(3))
            b1, b2 = (data[f"b{layer}_{element}"] for layer in range(2))
            x1 = g @ w1.T + b1
            h1, (s1, c1) = celu(x1), slopes(x1)
            x2 = h1 @ w2.T + b2
            h2, (s2, c2) = celu(x2), slopes(x2)
            d_features[rows] = ((w3 * s2) @ w2 * s1) @ w1
            if direction is None:
                back2 = w * w3 * s2
                back1 = (back2 @ w2) * s1
                parts = (back1.T @ g, back1, back2.T @ h1, back2, (w * h2).sum(axis=0)[None], w)
            else:
                t1 = dg @ w1.T
                u1 = s1 * t1
                t2 = u1 @ w2.T
                # back through the tangent u, t and the layer x, h
                t2_back, x2_back = w * w3 * s2, w * w3 * t2 * c2
                u1_back, h1_back = t2_back @ w2, x2_back @ w2
                t1_back, x1_back = u1_back * s1, u1_back * t1 * c1 + h1_back * s1
                parts = (
                    t1_back.T @ dg + x1_back.T @ g, x1_back, t2_back.T @ u1 + x2_back.T @ h1,
                    x2_back, (w * s2 * t2).sum(axis=0)[None], 0 * w,
                )  # fmt: skip
            for layer in range(3):
                total["W", layer, element] = parts[2 * layer]
                total["b", layer, element] = parts[2 * layer + 1].sum(axis=0)
        d_positions, _ = descriptor.backward(batch, d_features, kept, scale)
        return gradient_to_theta(lambda *key: total[key]), d_positions

    return derivatives


def golden_gradient(of):
    data = golden("ani_model")
    return gradient_to_theta(lambda kind, layer, e: data[f"grad{of}_{kind}{layer}_{e}"])


@needs_golden
def test_golden_forces():
    data = golden("ani_model")
    model, batch, _, _ = golden_model()
    forces, _ = model.forces(model.forward(batch))
    expected = np.concatenate([data[f"{key}_F"] for key in MODEL_KEYS])
    assert relative(forces, expected) < 3 * OFF
    ones = np.ones(len(batch))
    assert relative(-network(batch, torch_slopes)(ones)[1], expected) < 1e-12
    assert relative(-network(batch, exact_slopes)(ones)[1], forces) < 1e-12


@needs_golden
def test_golden_gradient_of_the_force_loss():
    """Derivatives of the force loss in the parameters, exact by the complex step."""
    data = golden("ani_model")
    model, batch, _, forces = golden_model()

    def loss(batch, predicted_energy, predicted_forces, virial):
        error = predicted_forces - forces
        force_loss = np.add.reduceat((error**2).sum(axis=1), batch.offsets[:-1])
        return SimpleNamespace(
            value=force_loss.sum(), force_loss=force_loss, d_energy=None, d_forces=2 * error,
            d_virial=None,
        )  # fmt: skip

    step = loss_gradient(model, batch, loss, stencil="complex")
    assert step.loss == pytest.approx(float(data["loss_F"]), rel=3 * OFF)
    expected = golden_gradient("F")
    assert relative(step.gradient, expected) < 5 * OFF
    ones = np.ones(len(batch))
    of_torch = np.concatenate([data[f"{key}_F"] for key in MODEL_KEYS])
    theirs, _ = network(batch, torch_slopes)(ones, -2 * (of_torch - forces))
    assert relative(theirs, expected) < 1e-12
    assert theirs == pytest.approx(expected, rel=1e-9, abs=1e-9 * np.abs(expected).max())
    exact, _ = network(batch, exact_slopes)(ones, -2 * (step.forces - forces))
    assert relative(exact, step.gradient) < 1e-12


# TorchANI itself


@pytest.fixture(scope="module")
def aev_computer():
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("TORCHANI_NO_WARN_EXTENSIONS", "1")
        try:
            from torchani.aev import AEVComputer
        except ImportError:
            pytest.skip("needs torchani")
    return AEVComputer


@pytest.mark.parametrize("version", ["1x", "2x"])
def test_features_of_torchani(aev_computer, version):
    import torch

    descriptor = descriptor_of(version)
    computer = getattr(aev_computer, f"like_{version}")().double()
    with torch.no_grad():
        # its constants are rounded to single precision
        computer.radial.eta.fill_(descriptor.radial_eta)
        computer.radial.shifts.copy_(torch.tensor(descriptor.radial_shifts, dtype=torch.float64))
        computer.angular.eta.fill_(descriptor.angular_eta)
        computer.angular.zeta.fill_(descriptor.zeta)
        computer.angular.shifts.copy_(torch.tensor(descriptor.angular_shifts, dtype=torch.float64))
        computer.angular.sections.copy_(torch.tensor(descriptor.angle_shifts, dtype=torch.float64))
    atoms = SYSTEMS["molecule"]()
    species = torch.tensor([[descriptor.elements.index(symbol) for symbol in atoms.symbols]])
    positions = torch.tensor(atoms.positions[None], requires_grad=True)
    expected = computer(species, positions)[0]
    features = descriptor.compute(atoms)
    assert features == pytest.approx(expected.detach().numpy(), rel=1e-9, abs=1e-13)
    # and backward
    d_features = np.random.default_rng(0).normal(size=features.shape)
    (slope,) = torch.autograd.grad((expected * torch.tensor(d_features)).sum(), positions)
    batch = batch_of([atoms], descriptor.elements, descriptor.cutoff)
    sorted_rows = np.empty_like(d_features)
    sorted_rows[batch.place] = d_features
    d_positions, _ = descriptor.backward(batch, sorted_rows, None, plain(descriptor)[1])
    assert relative(d_positions, slope[0].numpy()) < 1e-12


# Against the oracle


@every_case
@every_system
def test_features_are_those_of_the_loops(system, case):
    atoms, expected = SYSTEMS[system](), oracle(system, case)
    descriptor = AtomicEnvironmentVector(elements_of(atoms), **CASES[case])
    assert expected.shape[1] == descriptor.n_features == len(descriptor.labels)
    features = descriptor.compute(atoms)
    assert features.dtype == np.float64
    # a relative error of one unit in an argument is amplified by eta r^2 or zeta, up to 400
    size = 1 + np.abs(expected)
    assert np.max(np.abs(features - expected) / size) < 100 * EPS


@every_case
@every_system
def test_float32_differs_by_its_round_off(system, case):
    atoms, expected = SYSTEMS[system](), oracle(system, case)
    descriptor = AtomicEnvironmentVector(elements_of(atoms), **CASES[case])
    batch = batch_of([atoms], descriptor.elements, descriptor.cutoff)
    features, _ = descriptor.forward(batch, *plain(descriptor, np.float32))
    assert features.dtype == np.float32
    size = 1 + np.abs(expected)
    assert np.max(np.abs(features[batch.place] - expected) / size) < 100 * EPS_32


def test_standardisation_is_a_shift_and_a_scale_per_element():
    check_standardisation(*setting("three_species", "odd"), oracle("three_species", "odd"))


@pytest.mark.parametrize(
    "zeta", [1, 2, 3, 4, 7, 15, 16, 17, 31, 32, 33, 63, 64, 100, 1.5, 14.1, 64.2]
)
def test_any_zeta(zeta):
    atoms = SYSTEMS["wire"]()
    options = {**SMALL, "zeta": zeta}
    descriptor, batch, mean, scale = setting("wire", "odd")
    descriptor = AtomicEnvironmentVector(elements_of(atoms), **options)
    expected = naive.features(atoms, elements_of(atoms), **options)
    assert descriptor.compute(atoms) == pytest.approx(expected, rel=1e-12, abs=1e-14)
    single, _ = descriptor.forward(batch, *plain(descriptor, np.float32))
    size = 1 + np.abs(expected)
    assert np.max(np.abs(single[batch.place] - expected) / size) < 100 * EPS_32
    check_backward(descriptor, batch, mean, scale, slope_limit)


@pytest.mark.parametrize("n", [1, 2, 8, 16, 22, 23, 24, 32, 33, 64, 150])
def test_any_number_of_triplets(n):
    """Tiles of 256 triplets, in vectors of 8 per pair of species: 33 neighbours make 528."""
    atoms = cluster(n, reach=4.4, symbols=("Cu", "O"))
    descriptor = AtomicEnvironmentVector(["Cu", "O"], **SMALL)
    expected = naive.atom_features(atoms, 0, ["Cu", "O"], **SMALL)
    features = descriptor.compute(atoms)[0]
    assert features == pytest.approx(expected, rel=1e-12, abs=1e-12)
    batch = batch_of([atoms], ["Cu", "O"], descriptor.cutoff)
    check_backward(descriptor, batch, *plain(descriptor), slope_limit)


# Backward


def slope_limit(back, forth):
    """Largest difference of slopes: round-off of their terms."""
    return 500 * EPS * np.abs(back).sum() + EPS


@every_case
@every_system
def test_backward_is_the_complex_step_of_forward(system, case):
    slopes, _ = check_backward(*setting(system, case), slope_limit)
    # nothing to see: no pair, or one that ends at the radial cutoff
    if system != "single_atom" and (system, case) != ("atom_on_cutoff", "odd"):
        assert slopes.max() > 1e-2


@every_case
@every_system
def test_backward_in_float32(system, case):
    check_backward_in_float32(*setting(system, case), 200 * EPS_32)


# Physics


def largest_difference(features, expected):
    return np.abs(features - expected).max()


@pytest.mark.parametrize("system", ["molecule", "thin_triclinic", "slab", "three_species"])
def test_rotation_and_translation(system):
    atoms = SYSTEMS[system]()
    descriptor = AtomicEnvironmentVector(elements_of(atoms))
    check_rotation_and_translation(descriptor, atoms, largest_difference, 1e-12)


@pytest.mark.parametrize("system", ["molecule", "left_handed", "two_species"])
def test_permutation_of_atoms(system):
    atoms = SYSTEMS[system]()
    descriptor = AtomicEnvironmentVector(elements_of(atoms), **SMALL)
    check_permutation(descriptor, atoms, largest_difference, 1e-13)


@pytest.mark.parametrize("system", ["thin_triclinic", "left_handed", "bulk", "wire"])
def test_supercell(system):
    atoms = SYSTEMS[system]()
    descriptor = AtomicEnvironmentVector(elements_of(atoms), **SMALL)
    check_supercell(descriptor, atoms, largest_difference, 1e-12)


@pytest.mark.parametrize("case", ["1x", "odd"])
@pytest.mark.parametrize("which", ["radial", "angular"])
def test_features_and_slopes_fade_out_at_the_cutoff(which, case):
    """Quadratic in the gap, and no slope left: f and f' vanish at the cutoff."""
    cutoff = CASES[case][f"{which}_cutoff"]
    atoms, direction = bent_oxide(cutoff)
    other = "angular" if which == "radial" else "radial"
    options = {**CASES[case], f"{other}_cutoff": 2.0}
    # wide functions, or the cutoff is not what one sees
    options |= {"radial_eta": 0.5, "angular_eta": 0.5, "zeta": 2.0}
    descriptor = AtomicEnvironmentVector(["Ti", "O"], **options)
    batch = batch_of([atoms], descriptor.elements, cutoff)
    outside, nothing, _ = of_first_atom(descriptor, batch, direction, 1e-2)
    assert not nothing[2].any()
    sizes, slopes = [], []
    for gap in (1e-2, 5e-3, 2.5e-3):
        features, d_positions, _ = of_first_atom(descriptor, batch, direction, -gap)
        sizes.append(np.abs(features - outside).sum())
        slopes.append(np.linalg.norm(d_positions[2]))
    assert sizes[0] > 1e-8
    assert np.array(sizes[:-1]) / sizes[1:] == pytest.approx(4, rel=0.02)
    assert np.array(slopes[:-1]) / slopes[1:] == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize("bent", [0.0, 1e-9, 1e-4])
def test_straight_and_folded_triplets(bent):
    """theta = 0 and pi, where the derivative of an arccos would be infinite."""
    atoms = Atoms("TiOOTi", [[0, 0, 0], [1.2, 0, 0], [-1.3, bent, 0], [2.4, bent, bent]])
    descriptor = AtomicEnvironmentVector(["Ti", "O"])
    batch = batch_of([atoms], descriptor.elements, descriptor.cutoff)
    expected = naive.features(atoms, ["Ti", "O"], **ANI1X)
    assert descriptor.compute(atoms) == pytest.approx(expected, rel=1e-11, abs=1e-14)
    slopes, _ = check_backward(descriptor, batch, *plain(descriptor), slope_limit)
    assert slopes.max() > 1e-2


# Batches, chunks and replicas


@pytest.mark.parametrize("n_chunks", [2, 3, 50])
def test_chunks_change_nothing(n_chunks):
    check_chunks(AtomicEnvironmentVector(ELEMENTS, **SMALL), n_chunks)


@pytest.mark.parametrize("n_replicas", [2, 4])
def test_replicas_equal_separate_batches(n_replicas):
    check_replicas(AtomicEnvironmentVector(ELEMENTS, **SMALL), n_replicas)


@pytest.mark.parametrize("case", ["1x", "2x"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_position_makes_nan_features(case, dtype):
    check_nan(AtomicEnvironmentVector(ELEMENTS, **CASES[case]), dtype)


# Models


def model_and_batch(**options):
    descriptor = AtomicEnvironmentVector(ELEMENTS, **options)
    frames = [SYSTEMS[name]() for name in ("two_species", "left_handed")]
    return networks_and_batch(descriptor, (9, 7), frames, seed=2)


@pytest.mark.parametrize("options", [{}, ANI2X, SMALL], ids=["1x", "2x", "odd"])
def test_forces_and_virials_are_slopes_of_the_energy(options):
    check_forces(*model_and_batch(**options), rel=1e-9)


def test_stencils_agree_on_the_gradient_of_the_loss():
    check_loss_gradient(*model_and_batch())


# Settings


def test_settings_and_labels():
    one = AtomicEnvironmentVector.ani1x()
    assert one.n_features == 384
    assert one.cutoff == 5.2
    assert one.settings == AtomicEnvironmentVector(["H", "C", "N", "O"]).settings
    assert AtomicEnvironmentVector.ani1x(["Cu"]).elements == ("Cu",)
    two = AtomicEnvironmentVector.ani2x()
    assert two.n_features == 1008
    assert (two.labels[0], two.labels[16]) == ("radial H 0", "radial C 0")
    assert two.labels[112:114] == ["angular H-H 0 0", "angular H-H 0 1"]
    assert two.labels[112 + 32] == "angular H-C 0 0"
    again = AtomicEnvironmentVector(**json.loads(json.dumps(two.settings)))
    assert again.settings == two.settings
    assert set(two.settings) == {"elements", *two.setting_help}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(elements=[]), r"elements = \[\]: name every element once"),
        (dict(elements=["O", "O"]), r"elements = \['O', 'O'\]: name every element once"),
        (dict(radial_cutoff=0), r"radial_cutoff = 0.0: must be above 0 Å"),
        (dict(angular_cutoff=float("nan")), r"angular_cutoff = nan: must be above 0 Å"),
        (dict(radial_eta=-1), r"radial_eta = -1.0: must be above 0 1/Å\^2"),
        (dict(angular_eta=0), r"angular_eta = 0.0: must be above 0 1/Å\^2"),
        (dict(zeta=0.5), r"zeta = 0.5: must be at least 1"),
        (dict(angle_shifts=[]), r"angle_shifts = \[\]: must be one or more numbers"),
        (dict(radial_shifts=[float("nan")]), r"radial_shifts = \[nan\]: must be one or more"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        AtomicEnvironmentVector(**{"elements": ["Ti", "O"], **options})


def test_unknown_element_is_refused():
    with pytest.raises(DataError, match="Cu"):
        AtomicEnvironmentVector(["Ti", "O"]).compute(SYSTEMS["bulk"]())
