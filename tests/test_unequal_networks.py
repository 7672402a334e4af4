"""Networks whose widths, depths and activations differ between elements, wherever they go."""

import json

import ase.io
import numpy as np
import pytest

import fdforce
from fdforce.checkpoint import load_checkpoint
from fdforce.config import config_from_dict, load_config
from fdforce.descriptors import Chebyshev
from fdforce.errors import ConfigError
from fdforce.examples import example_files
from fdforce.model_file import read_header
from fdforce.models import ElementalNetworks, Ensemble
from fdforce.structure_files import read_file
from fdforce.transfer import begin_unseen_elements, frozen, set_on_purpose, with_model_of_start
from tests.checks import batch_of, relative, symmetric
from tests.systems import SYSTEMS

ELEMENTS = ("Ti", "O")
OPTIONS = dict(radial_cutoff=4.5, radial_order=5, angular_cutoff=3.5, angular_order=3)
N_FEATURES = 20
HIDDEN = {"Ti": [5, 4, 3], "O": [6]}
ACTIVATION = {"Ti": ["gaussian", "twist", "cosine", "sigmoid"], "O": "modified_tanh"}
SIZES = {"Ti": [21 * 5, 6 * 4, 5 * 3, 4], "O": [21 * 6, 7]}


def frames():
    return [SYSTEMS[name]() for name in ("left_handed", "dimer", "two_species", "single_atom")]


def network(hidden, activation, elements=ELEMENTS, **options):
    return ElementalNetworks(Chebyshev(elements, **OPTIONS), hidden, activation, **options)


def unequal(n_chunks=1, **options):
    """A model with unequal networks, and a batch."""
    model = network(HIDDEN, ACTIVATION, **options)
    batch = batch_of(frames(), ELEMENTS, model.cutoff, n_chunks=n_chunks)
    model.standardise([batch])
    rng = np.random.default_rng(3)
    model.theta = model.theta + rng.normal(scale=0.1, size=model.theta.shape)
    model.reference_energies = np.array([1.5, -0.7])
    model.scale = 1.7
    return model, batch


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hidden", "activation", "shortest"),
    [
        ((7, 4), "silu", ([7, 4], "silu")),
        ({"O": (7, 4), "Ti": [7, 4]}, {"O": "tanh", "Ti": ["tanh"] * 2}, ([7, 4], "tanh")),
        ((7, 4), ["tanh", "tanh", "linear"], ([7, 4], "tanh")),
        ((7, 4), ["tanh", "linear"], ([7, 4], ["tanh", "linear"])),
        ((7, 4), ["tanh", "tanh", "twist"], ([7, 4], ["tanh", "tanh", "twist"])),
        (HIDDEN, "cosine", (HIDDEN, "cosine")),
        (HIDDEN, ACTIVATION, (HIDDEN, ACTIVATION)),
        ((), "linear", ([], "linear")),
        ((), ["harmonic"], ([], ["harmonic"])),
    ],
)
def test_settings_in_their_shortest_form(hidden, activation, shortest):
    model = network(hidden, activation)
    assert model.settings == dict(zip(("hidden", "activation"), shortest, strict=True))
    again = network(**json.loads(json.dumps(model.settings)))
    assert (again.hidden, again.activation) == (model.hidden, model.activation)
    np.testing.assert_array_equal(again.theta, model.theta)


@pytest.mark.parametrize(
    ("hidden", "activation", "message"),
    [
        ({"Ti": [3]}, "tanh", r"model.hidden.O: missing; as a table, .* for each of Ti, O$"),
        (
            {"Ti": [3], "O": [3], "H": [2]},
            "tanh",
            r"model.hidden.H: no such element in the model; as a table, .* for each of Ti, O$",
        ),
        ({"Ti": [3], "O": [0]}, "tanh", r"model.hidden = \[0\]: widths must be at least 1"),
        ([3], {"Ti": "tanh"}, r"model.activation.O: missing"),
        ([3], {"Ti": "tanh", "O": "tan"}, r"model.activation = 'tan': choose one of tanh"),
        ([3], ["tanh", "tan"], r"model.activation = 'tan': choose one of tanh"),
        ([], "tan", r"model.activation = 'tan': choose one of tanh"),
        (
            [3, 2],
            ["tanh"],
            r"model.activation = \['tanh'\]: the network of Ti has 2 hidden layer\(s\); give a "
            "name for each, and one more if the output is not linear",
        ),
        (HIDDEN, ["tanh"] * 3, "the network of O has 1 hidden"),
    ],
)
def test_bad_settings_are_refused(hidden, activation, message):
    with pytest.raises(ConfigError, match=message):
        network(hidden, activation)


def test_matrices_are_views_of_theta():
    model = network(HIDDEN, ACTIVATION)
    assert len(model.theta) == sum(map(sum, SIZES.values()))
    assert model.layers == [(21, 5), (6, 4), (5, 3), (4, 1), (21, 6), (7, 1)]
    titanium, oxygen = model.matrices()
    assert [layer.shape for layer in (*titanium, *oxygen)] == model.layers
    np.testing.assert_array_equal(
        np.concatenate([m.ravel() for m in titanium + oxygen]), model.theta
    )
    oxygen[1][-1] = 17.0
    assert model.theta[-1] == 17.0


def test_weights_keep_the_variance_of_every_layer():
    model = network({"Ti": [400], "O": [10, 300]}, {"Ti": "twist", "O": ["tanh", "harmonic"]})
    (_, twisted), (_, _, squared) = model.matrices()
    # of x^2 for a standard normal x the mean square is 3; 300 draws: 4 %, times three
    assert squared[:-1].std() == pytest.approx((300 * 3) ** -0.5, rel=0.12)
    x = np.random.default_rng(0).normal(size=100_000)
    power = np.mean((1.7159 * np.tanh(2 * x / 3) + 0.1 * x) ** 2)
    assert twisted[:-1].std() == pytest.approx((400 * power) ** -0.5, rel=0.12)


def test_only_the_last_layers_are_scaled():
    model, _ = unequal()
    before = [[layer.copy() for layer in own] for own in model.matrices()]
    model.scale_outputs(0.25)
    for own, old in zip(model.matrices(), before, strict=True):
        np.testing.assert_array_equal(own[-1], 0.25 * old[-1])
        for layer, same in zip(own[:-1], old[:-1], strict=True):
            np.testing.assert_array_equal(layer, same)


def test_dropout_of_every_network():
    model, _ = unequal()
    kept = model.thinned(0.5, np.random.default_rng(0))
    model.theta = kept
    for own in model.matrices():
        assert (own[0] == 1).all()
        for layer in own[1:]:
            assert (layer[-1] == 1).all()
            assert set(layer[:-1].ravel()) <= {0.0, 2.0}
            assert (layer[:-1] == layer[:-1, :1]).all()  # a unit as a whole
    assert set(kept) == {0.0, 1.0, 2.0}


def test_frozen_layers_of_every_network():
    model, _ = unequal()
    model.theta = frozen(model, 1).astype(float)
    for first, *others in model.matrices():
        assert first.all()
        assert not any(layer.any() for layer in others)
    assert not frozen(model, 0).any()
    with pytest.raises(ConfigError, match="have 2 to 4 layers with that of the output"):
        frozen(model, 2)


def test_an_element_without_data_begins_anew():
    model = network(HIDDEN, ACTIVATION, elements=("Ti", "O"))
    dimer = batch_of([SYSTEMS["dimer"]()], ELEMENTS, model.cutoff)
    model.standardise([dimer])
    assert model.feature_mean.any(axis=1).tolist() == [True, True]
    model.feature_min[0], model.feature_max[0] = 1.0, -1.0  # as if there had been no Ti
    model.theta = np.zeros_like(model.theta)
    begin_unseen_elements(model, [dimer], seed=1)
    titanium, oxygen = model.matrices()
    assert all(layer[:-1].all() for layer in titanium)
    assert not any(layer.any() for layer in oxygen)


# -- kernels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_replicas_and_threads_change_nothing_but_round_off(dtype):
    model, batch = unequal(dtype=dtype)
    double, _ = unequal()
    _, shared_out = unequal(n_chunks=3)
    rng = np.random.default_rng(8)
    direction, strain = rng.normal(size=batch.positions.shape), symmetric(rng, len(batch))
    eta = 1e-3 * rng.uniform(-1, 1, size=(2, len(batch)))
    weights = rng.normal(size=2 * len(batch))
    # sums in another order; 20 units of float32 in each feature
    tolerance = 1e-13 if dtype == np.float64 else 1e-4
    moved = [b.displaced(direction, eta, strain) for b in (batch, shared_out)]
    gradients = [model.gradient(model.forward(b), weights) for b in moved]
    expected = sum(
        double.gradient(double.forward(batch.displaced(direction, eta[k], strain)), w)
        for k, w in enumerate(weights.reshape(2, -1))
    )
    for gradient in gradients:
        assert relative(gradient, expected) < tolerance
    forces = [model.forces(model.forward(b))[0] for b in (batch, shared_out)]
    exact, _ = double.forces(double.forward(batch))
    assert relative(forces[0], exact) < tolerance
    assert relative(forces[1], exact) < tolerance


def test_the_output_of_float32_networks_is_activated_in_float64():
    model = network((), ["cosine"], dtype=np.float32)
    batch = batch_of(frames(), ELEMENTS, model.cutoff)
    model.theta = np.zeros_like(model.theta)
    for (layer,) in model.matrices():
        layer[-1] = 1.0
    # rounding of a cosine and of a sum of at most 4 atoms
    np.testing.assert_allclose(model.forward(batch).energy, batch.counts * np.cos(1.0), rtol=1e-15)


# -- files and ensembles ---------------------------------------------------------------------------


def test_model_file(tmp_path):
    model, batch = unequal()
    path = tmp_path / "model.npz"
    fdforce.save_model(path, model)
    assert read_header(path)["network"] == {"hidden": HIDDEN, "activation": ACTIVATION}
    loaded = fdforce.load_model(path)
    state, again = model.forward(batch), loaded.forward(batch)
    np.testing.assert_array_equal(again.energy, state.energy)
    for a, b in zip(loaded.forces(again), model.forces(state), strict=True):
        np.testing.assert_array_equal(a, b)


def test_equal_networks_keep_the_form_that_earlier_versions_read(tmp_path):
    model = network({"Ti": [7, 4], "O": [7, 4]}, {"Ti": "tanh", "O": ["tanh", "tanh"]})
    fdforce.save_model(tmp_path / "model.npz", model)
    header = read_header(tmp_path / "model.npz")
    assert header["network"] == {"hidden": [7, 4], "activation": "tanh"}
    assert header["version"] == 1


def test_ensemble(tmp_path):
    members = [unequal(seed=k)[0] for k in range(3)]
    _, batch = unequal()
    for k, member in enumerate(members):
        member.theta = member.theta + 0.1 * np.random.default_rng(k).normal(size=member.theta.shape)
    fdforce.save_model(tmp_path / "model.npz", Ensemble.of(members))
    ensemble = fdforce.load_model(tmp_path / "model.npz")
    states = [member.forward(batch) for member in members]
    state = ensemble.forward(batch)
    np.testing.assert_array_equal(state.member_energy, [one.energy for one in states])
    forces, _ = ensemble.forces(state)
    single = [m.forces(s)[0] for m, s in zip(members, states, strict=True)]
    # sums in another order
    assert relative(forces, np.mean(single, axis=0)) < 1e-12
    assert relative(single[0], single[1]) > 1e-2


# -- training --------------------------------------------------------------------------------------

TABLES = """
[model]
elements = ["H", "C", "O"]
radial_order = 2
angular_order = 1
activation = { H = "tanh", C = ["tanh", "twist"], O = "modified_tanh" }

[model.hidden]
H = [4]
C = [6, 5]
O = [3]
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "ethanol.extxyz"
    ase.io.write(path, read_file(example_files("ethanol")[1])[::15])
    return str(path)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "fit.toml"
    path.write_text(TABLES)
    return path


def fit(data, table, out, **settings):
    small = dict(valid=0.2, batch_size=5, threads=1, checkpoint_every=1, epochs=3)
    return fdforce.fit(table, train=data, out=out, log=lambda _: None, **{**small, **settings})


@pytest.mark.parametrize(
    "optimizer", ["kalman shared", "kalman layer", "kalman full", "soap", "lbfgs"]
)
def test_optimizers_learn_and_resume(data, table, tmp_path, optimizer):
    def interrupt(progress, row):
        if progress.epoch == 1:
            raise KeyboardInterrupt

    name, _, covariance = optimizer.partition(" ")
    settings = {"optimizer": {"name": name}}
    if covariance:
        settings["optimizer"]["covariance"] = covariance
    if name != "lbfgs":
        settings |= {"dropout": 0.1, "frozen_layers": 1} if name == "soap" else {"dropout": 0.1}
    result = fit(data, table, tmp_path / "whole", **settings)
    losses = result.history["train_loss"]
    assert losses[-1] < losses[0]
    with pytest.raises(KeyboardInterrupt):
        fit(data, table, tmp_path / "run", on_epoch=interrupt, **settings)
    resumed = fdforce.fit(resume=tmp_path / "run", log=lambda _: None)
    np.testing.assert_array_equal(resumed.model.theta, result.model.theta)
    assert resumed.model.settings == {
        "hidden": {"H": [4], "C": [6, 5], "O": [3]},
        "activation": {"H": "tanh", "C": ["tanh", "twist"], "O": "modified_tanh"},
    }
    loaded = load_checkpoint(tmp_path / "run" / "checkpoint.npz")[0]["model"]["network"]
    assert loaded == result.model.settings


def test_starting_from_such_a_model(data, table, tmp_path):
    fit(data, table, tmp_path / "first", epochs=1)
    model = tmp_path / "first" / "model.npz"
    config = load_config(tmp_path / "first" / "config.toml")
    assert config.model.hidden == {"H": [4], "C": [6, 5], "O": [3]}

    def started(**keys):
        tables = {"model": keys, "training": {"start_from": str(model)}}
        return with_model_of_start(config_from_dict(tables), keys).model

    assert started().hidden == config.model.hidden
    assert started().activation == config.model.activation
    # the same in other words
    other = {"H": ["tanh"], "C": ["tanh", "twist", "linear"], "O": ["modified_tanh"]}
    assert started(activation=other).activation == config.model.activation
    with pytest.raises(ConfigError, match=r"model.hidden = \[4\]: training.start_from = .* has {"):
        started(hidden=[4])
    with pytest.raises(ConfigError, match=r"model.hidden.O: missing"):
        started(hidden={"H": [4], "C": [6, 5]})
    assert set_on_purpose(config)["hidden"] == config.model.hidden
    result = fit(data, None, tmp_path / "second", start_from=str(model), frozen_layers=1)
    old = fdforce.load_model(model).matrices()
    for mine, theirs in zip(result.model.matrices(), old, strict=True):
        np.testing.assert_array_equal(mine[0], theirs[0])
        assert not (mine[-1] == theirs[-1]).any()
