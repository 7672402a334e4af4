"""Fits that start from a model."""

from pathlib import Path

import ase.io
import numpy as np
import pytest
from click.testing import CliRunner

import fdforce
from fdforce.checkpoint import load_checkpoint
from fdforce.cli import main
from fdforce.config import config_from_dict, load_config, override
from fdforce.descriptors import DESCRIPTORS
from fdforce.errors import ConfigError, DataError, ModelFileError
from fdforce.examples import example_files
from fdforce.feature_range import find_out_of_range
from fdforce.problem import new_model
from fdforce.search import search
from fdforce.structure_files import read_file
from fdforce.transfer import frozen, set_on_purpose, with_model_of_start

SMALL = {"valid": 0.2, "batch_size": 5, "threads": 1, "checkpoint_every": 1}
STILL = 1e-9
"""A learning rate that moves no parameter by more than this in a step of Adam."""


def silent(line):
    pass


@pytest.fixture(scope="module")
def frames():
    return read_file(example_files("ethanol")[1])[::15]


@pytest.fixture(scope="module")
def data(frames, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data") / "ethanol.extxyz"
    ase.io.write(path, frames)
    return str(path)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "trained"
    fdforce.fit(
        train=data, out=out, log=silent, hidden=[6, 5], activation="tanh", radial_order=4,
        angular_order=2, radial_cutoff=4.5, epochs=30, learning_rate=0.02, **SMALL,
    )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def model(trained) -> Path:
    return trained / "model.npz"


def start(data, model, out, **settings):
    given = {"train": data, "start_from": str(model), "epochs": 1, **SMALL, **settings}
    return fdforce.fit(out=out, log=given.pop("log", silent), **given)


def test_the_first_epoch_is_that_of_the_model(data, trained, model, tmp_path):
    before = fdforce.load_model(model)
    lines = []
    result = start(data, model, tmp_path / "run", learning_rate=STILL, log=lines.append)
    old = fdforce.fit(resume=trained, log=silent).metrics
    for part in ("train", "valid"):
        # parameters move by 4 steps of 1e-9, forces by that times a derivative of a few eV/Å
        first = result.history[f"{part}_force_rmse"][0]
        assert first == pytest.approx(old[part]["force_rmse"], rel=1e-5)
    # the same data: reference energies move by the mean error alone, which takes it off
    assert result.history["train_energy_rmse"][0] <= old["train"]["energy_rmse"] * (1 + 1e-6)
    assert abs(result.model.reference_energies - before.reference_energies).max() < 0.05
    for name in ("feature_mean", "feature_scale", "scale"):
        np.testing.assert_array_equal(getattr(result.model, name), getattr(before, name))
    np.testing.assert_array_equal(result.model.baseline.outer, before.baseline.outer)
    assert any("starts from" in line and "shifts: H" in line for line in lines)


def test_energies_of_another_zero(frames, data, model, tmp_path):
    """A constant per atom goes into the reference energies, not into the networks."""
    shifted = [atoms.copy() for atoms in frames]
    for atoms, original in zip(shifted, frames, strict=True):
        atoms.info["REF_energy"] = original.get_potential_energy() + 7.0 * len(atoms)
        atoms.arrays["REF_forces"] = original.get_forces()
    path = tmp_path / "shifted.extxyz"
    ase.io.write(path, shifted)
    runs = [
        start(source, model, tmp_path / name, learning_rate=STILL)
        for source, name in ((data, "plain"), (str(path), "shifted"))
    ]
    moved = runs[1].model.reference_energies - runs[0].model.reference_energies
    # energies of -4000 eV have eight decimals in the files
    np.testing.assert_allclose(moved, 7.0, atol=1e-6)
    first, second = (run.history["train_energy_rmse"][0] for run in runs)
    assert first == pytest.approx(second, rel=1e-4)


def test_reference_energies_from_a_table(data, model, tmp_path):
    table = {"H": -1.0, "C": -2.0, "O": -3.0}
    result = start(data, model, tmp_path / "run", reference_energies=table)
    assert result.model.reference_energies.tolist() == [-1.0, -2.0, -3.0]


def test_the_configuration_describes_the_model(data, model, tmp_path):
    result = start(data, model, tmp_path / "run")
    config = load_config(tmp_path / "run" / "config.toml")
    assert config.training.start_from == str(model)
    table = config.model
    assert (table.hidden, table.activation, table.elements) == ([6, 5], "tanh", ["H", "C", "O"])
    assert (table.radial_order, table.radial_cutoff) == (4, 4.5)
    again = fdforce.fit(tmp_path / "run" / "config.toml", out=tmp_path / "again", log=silent)
    np.testing.assert_array_equal(again.model.theta, result.model.theta)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": [6]}, r"model\.hidden = \[6\]: training\.start_from = .* has \[6, 5\]"),
        ({"radial_cutoff": 5.0}, r"model\.radial_cutoff = 5\.0: .* has 4\.5"),
        ({"activation": "silu"}, r"model\.activation = 'silu': .* has 'tanh'"),
        ({"elements": ["C", "H", "O"]}, r"model\.elements = .* has \['H', 'C', 'O'\]"),
        ({"descriptor": "bispectrum", "twojmax": 4}, r"model\.descriptor = 'bispectrum': .* has"),
        ({"quadratic": True}, r"model\.quadratic = True: .* has False"),
        ({"baseline": "none"}, r"model\.baseline = 'none': .* has 'zbl'"),
        ({"frozen_layers": 3}, r"frozen_layers = 3: the networks have 3 layers"),
    ],
)
def test_contradictions(data, model, tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        start(data, model, tmp_path / "run", **settings)


def test_agreement_is_no_contradiction(data, model, tmp_path):
    start(data, model, tmp_path / "run", hidden=[6, 5], descriptor="chebyshev", elements=[])


@pytest.mark.parametrize("descriptor", DESCRIPTORS)
def test_the_table_of_every_family(tmp_path, descriptor):
    table = {
        "kind": "linear", "descriptor": descriptor, "quadratic": descriptor == "bispectrum",
        "baseline": "zbl_lammps", "baseline_inner": 3.0, "baseline_outer": 3.5,
        "elements": ["Ti", "O"],
    }  # fmt: skip
    if descriptor == "bispectrum":
        table["twojmax"] = 2
    expected = config_from_dict({"model": table})
    path = str(tmp_path / "model.npz")
    fdforce.save_model(path, new_model(expected, table["elements"]))
    plain = config_from_dict({"training": {"start_from": path}})
    found = with_model_of_start(plain, {})
    own = DESCRIPTORS[descriptor].setting_help
    for key in set(vars(expected.model)) - set(own):
        assert getattr(found.model, key) == getattr(expected.model, key)
    # "auto" and one value for all elements are spelt out
    first, second = (new_model(c, table["elements"]).descriptor for c in (expected, found))
    assert first.settings == second.settings
    # a complete configuration that says the same
    same = override(expected, {"training": {"start_from": path}})
    for config in (same, found):
        assert with_model_of_start(config, set_on_purpose(config)).model == found.model
        assert with_model_of_start(config, vars(config.model)).model == found.model
    other = override(same, {"model": {"baseline_inner": 2.0}})
    with pytest.raises(ConfigError, match=r"model\.baseline_inner = 2\.0: .* has 3\.0"):
        with_model_of_start(other, set_on_purpose(other))


def test_files_that_are_no_models(data, tmp_path):
    with pytest.raises(ModelFileError, match=r"none\.npz: no such file"):
        start(data, tmp_path / "none.npz", tmp_path / "run")
    (tmp_path / "bad.npz").write_text("")
    with pytest.raises(ModelFileError, match=r"bad\.npz: not a fdforce model file"):
        start(data, tmp_path / "bad.npz", tmp_path / "run")


def test_ensembles(data, model, tmp_path):
    """Members may start from one model; an ensemble is none."""
    result = start(data, model, tmp_path / "run", ensemble=2, learning_rate=STILL)
    before = fdforce.load_model(model).theta
    np.testing.assert_allclose(result.model.theta, [before, before], atol=10 * STILL)
    with pytest.raises(ConfigError, match=r"is an ensemble; name the model of one member"):
        start(data, tmp_path / "run" / "model.npz", tmp_path / "other")


def test_elements(frames, data, model, tmp_path):
    """A model keeps elements that the data have not; it does not learn new ones."""
    before = fdforce.load_model(model)
    fewer = [atoms.copy() for atoms in frames]
    for atoms, original in zip(fewer, frames, strict=True):
        atoms.symbols[atoms.symbols == "O"] = "C"
        atoms.info["REF_energy"] = original.get_potential_energy()
        atoms.arrays["REF_forces"] = original.get_forces()
    path = tmp_path / "fewer.extxyz"
    ase.io.write(path, fewer)
    result = start(str(path), model, tmp_path / "run")
    assert result.model.elements == ("H", "C", "O")
    assert result.model.reference_energies[2] == before.reference_energies[2]
    assert result.model.reference_energies[1] != before.reference_energies[1]
    fewer[3].symbols[0] = "N"
    ase.io.write(path, fewer)
    with pytest.raises(DataError, match=r"atom 0 is N, which is not among the elements H, C, O"):
        start(str(path), model, tmp_path / "other")


def test_elements_that_the_model_has_by_name_alone(frames, data, tmp_path):
    without = [atoms.copy() for atoms in frames]
    for atoms, original in zip(without, frames, strict=True):
        atoms.symbols[atoms.symbols == "O"] = "C"
        atoms.info["REF_energy"] = original.get_potential_energy()
        atoms.arrays["REF_forces"] = original.get_forces()
    path = tmp_path / "without.extxyz"
    ase.io.write(path, without)
    first = fdforce.fit(
        train=str(path), out=tmp_path / "first", log=silent, elements=["H", "C", "O"],
        hidden=[6], radial_order=4, angular_order=2, epochs=2, weight_decay=1.0, **SMALL,
    ).model  # fmt: skip
    result = start(
        data, tmp_path / "first" / "model.npz", tmp_path / "run", learning_rate=STILL, seed=3
    )
    assert not first.feature_mean[2].any()
    old, new = (model.theta.reshape(3, -1) for model in (first, result.model))
    np.testing.assert_array_equal(result.model.feature_mean[:2], first.feature_mean[:2])
    np.testing.assert_array_equal(result.model.feature_scale[:2], first.feature_scale[:2])
    np.testing.assert_allclose(new[:2], old[:2], atol=10 * STILL)
    assert result.model.feature_mean[2].any()
    n_weights = 6 * result.model.descriptor.n_features
    # of the variance that keeps that of the inputs, to five standard deviations: sqrt(2 / n) each
    spread = np.var(new[2, :n_weights]) * np.sum(result.model._input_scale**2)
    assert spread == pytest.approx(1.0, abs=5 * np.sqrt(2 / n_weights))
    assert not np.allclose(new[2], old[2], rtol=0.1)


# -- frozen layers ---------------------------------------------------------------------------------


def test_the_mask_of_first_layers(model):
    potential = fdforce.load_model(model)
    n_features, hidden = potential.descriptor.n_features, (6, 5)
    sizes = [(n_features + 1) * hidden[0], (hidden[0] + 1) * hidden[1], hidden[1] + 1]
    assert len(potential.theta) == 3 * sum(sizes)
    for n in range(3):
        mask = frozen(potential, n).reshape(3, -1)
        assert mask[:, : sum(sizes[:n])].all()
        assert not mask[:, sum(sizes[:n]) :].any()


def test_the_range_of_features_grows_by_the_new_data(frames, data, model, tmp_path):
    """Old and new training atoms are both inside; that of the model alone does not hold the new."""
    before = fdforce.load_model(model)
    wider = [atoms.copy() for atoms in frames]
    for atoms, original in zip(wider, frames, strict=True):
        atoms.positions *= 1.03
        atoms.info["REF_energy"] = original.get_potential_energy()
        atoms.arrays["REF_forces"] = original.get_forces()
    path = tmp_path / "wider.extxyz"
    ase.io.write(path, wider)
    result = start(path, model, tmp_path / "run", valid=0.0)
    new, _ = fdforce.read_structures(path, elements=before.elements)
    old, _ = fdforce.read_structures(data, elements=before.elements)
    assert len(find_out_of_range(before, new)) > 0
    assert len(find_out_of_range(result.model, new)) == 0
    assert (result.model.feature_min <= before.feature_min).all()
    assert (result.model.feature_max >= before.feature_max).all()
    assert len(find_out_of_range(result.model, old)) <= len(find_out_of_range(before, old))


@pytest.mark.parametrize(
    "optimizer",
    [
        {"name": "adamw", "weight_decay": 0.1, "learning_rate": 0.01, "gradient_clip": 1.0},
        {"name": "soap", "l2": 0.1},
        {"name": "lbfgs", "l2": 0.1},
        {"name": "kalman"},
    ],
    ids=lambda settings: settings["name"],
)
def test_frozen_parameters_stay_bit_for_bit(data, model, tmp_path, optimizer):
    before = fdforce.load_model(model)
    result = start(
        data, model, tmp_path / "run", epochs=3, frozen_layers=1, optimizer=optimizer,
        dropout=0.0 if optimizer["name"] == "lbfgs" else 0.1,
    )  # fmt: skip
    theta = load_checkpoint(tmp_path / "run" / "checkpoint.npz")[1]["theta"]
    mask = frozen(before, 1)
    for after in (theta, result.model.theta):
        np.testing.assert_array_equal(after[mask], before.theta[mask])
    assert np.mean(theta[~mask] != before.theta[~mask]) > 0.9


def test_interrupted_and_resumed(data, model, tmp_path):
    settings = {"epochs": 4, "frozen_layers": 1, "learning_rate": 0.01}
    whole = start(data, model, tmp_path / "whole", **settings)

    def interrupt(progress, row):
        if progress.epoch == 2:
            raise KeyboardInterrupt

    copy = tmp_path / "copy.npz"
    copy.write_bytes(model.read_bytes())
    with pytest.raises(KeyboardInterrupt):
        start(data, copy, tmp_path / "run", on_epoch=interrupt, **settings)
    copy.unlink()  # a run needs the file once
    resumed = fdforce.fit(resume=tmp_path / "run", log=silent)
    np.testing.assert_array_equal(resumed.model.theta, whole.model.theta)
    assert resumed.metrics == whole.metrics


# -- commands --------------------------------------------------------------------------------------


def test_the_command(data, model, tmp_path, monkeypatch):
    monkeypatch.chdir(model.parent)
    arguments = ["fit", data, "--start-from", "model.npz", "--epochs", "1", "--threads", "1"]
    result = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert f"starts from {model}; reference energies" in result.output
    assert load_config(tmp_path / "run" / "config.toml").training.start_from == str(model)


def test_a_search_that_starts_from_a_model(data, model, tmp_path):
    tables = {
        "data": {"train": data, "valid": 0.2},
        "training": {"start_from": str(model), "threads": 1},
        "search": {
            "trials": 2, "factor": 2, "budget_epochs": 2,
            "ranges": {"training.frozen_layers": [1, 2]},
        },
    }  # fmt: skip
    result = search(tables, out=tmp_path / "out", log=silent)
    assert not any(row["failure"] for row in result.trials)
    assert load_config(result.best_config).model.hidden == [6, 5]
    fdforce.fit(result.best_config, out=tmp_path / "again", log=silent)
    tables["search"]["ranges"] = {"model.hidden": [[4], [5]]}
    with pytest.raises(ConfigError, match=r"model\.hidden is that of training\.start_from"):
        search(tables, out=tmp_path / "other", log=silent)
