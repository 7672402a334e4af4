"""Keys of [loss] in a fit, from the configuration to the model."""

import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

import fdforce
from fdforce.config import config_from_dict
from fdforce.errors import ConfigError
from fdforce.examples import example_files
from fdforce.fitting import _Run
from fdforce.losses import LOSSES, HuberLoss, RMSELoss
from fdforce.problem import loss_of
from fdforce.structure_files import read_file
from fdforce.training import COLUMNS, Trainer


def silent(line):
    pass


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "diamond.extxyz"
    ase.io.write(path, read_file(example_files("diamond")[1])[:24])
    return path


def settings(data, loss, **tables):
    training = {"epochs": 4, "threads": 1, "schedule": "constant", **tables.pop("training", {})}
    return {
        "data": {"train": [str(data)], "valid": 0.2},
        "model": {"hidden": [6], "radial_cutoff": 4.0, "angular_cutoff": 3.0,
                  "radial_order": 4, "angular_order": 2},
        "optimizer": {"name": "adamw", "batch_size": 6, "learning_rate": 0.02},
        "training": training, "loss": loss, **tables,
    }  # fmt: skip


def fit(data, out, loss, **tables):
    return fdforce.fit(settings(data, loss, **tables), out=out, log=silent)


def set_up(data, tmp_path, loss):
    """The trainer of a fit."""
    config = config_from_dict(settings(data, loss))
    return _Run(config, tmp_path / "run", None, 1, silent, None, None).trainer


@pytest.mark.parametrize("kind", LOSSES)
def test_every_kind_learns(data, tmp_path, kind):
    result = fit(data, tmp_path / "run", {"kind": kind}, training={"epochs": 15})
    history = result.history
    assert history["train_force_rmse"][-1] < 0.9 * history["train_force_rmse"][0]
    assert history["valid_loss"].min() < history["valid_loss"][0]
    # the monitor knows what the difference is worth: central in float64 has 1e-9 or better
    assert (history["err_loss"] > 0).all()
    assert (history["err_loss"] < 1e-6).all()


def test_settings_reach_the_loss(data, tmp_path):
    loss = set_up(data, tmp_path, {
        "kind": "huber", "huber_delta": 0.3, "element_weights": {"C": 0.5}, "error_threshold": 0.7,
        "energy_weight": [1, 3], "energy_normalisation": "per_structure",
    }).loss  # fmt: skip
    assert isinstance(loss, HuberLoss)
    assert (loss.huber_delta, loss.element_weights, loss.error_threshold) == (0.3, (0.5,), 0.7)
    assert loss.weights.tolist() == [3, 1, 1]
    assert loss.start_weights == (1, 1, 1)
    mixed = set_up(data, tmp_path, {"kind": "rmse", "alpha": 0.25, "stress_weight": 0}).loss
    assert isinstance(mixed, RMSELoss)
    assert mixed.weights.tolist() == [0.75, 0.25, 0]


def test_units_are_those_of_what_is_normalised(data, tmp_path):
    trainer = set_up(data, tmp_path, {"energy_normalisation": "per_structure"})
    energy = trainer.train.target.energy
    assert trainer.loss.energy_unit == pytest.approx(np.sqrt(np.mean(energy**2)), rel=1e-14)
    per_atom = loss_of(config_from_dict({}), trainer.train).energy_unit
    counts = trainer.train.structures.counts
    assert per_atom == pytest.approx(np.sqrt(np.mean((energy / counts) ** 2)), rel=1e-14)


def test_an_unknown_element_and_an_unknown_kind(data, tmp_path):
    with pytest.raises(
        ConfigError, match=r"loss\.element_weights\.H: no training structure .* there are: C"
    ):
        fit(data, tmp_path / "run", {"element_weights": {"H": 0.5}})
    with pytest.raises(ConfigError, match=r"loss\.kind = 'mse': choose one of squared, huber"):
        fit(data, tmp_path / "run", {"kind": "mse"})


def test_energies_alone_warm_up(data, tmp_path, monkeypatch):
    seen = []
    step = fdforce.training.Trainer._gradient

    def watched(trainer, indices, loss):
        result = step(trainer, indices, loss)
        seen.append((loss.force_weight, loss.stress_weight, np.abs(result.eta).max()))
        return result

    monkeypatch.setattr("fdforce.training.Trainer._gradient", watched)
    loss = {"force_weight": [0.0, 1.0], "stress_weight": [0.0, 0.5]}
    result = fit(data, tmp_path / "run", loss)
    forces, stresses, steps = np.array(seen).T
    assert (forces[0], steps[0]) == (0, 0)  # no displacement
    assert (steps[1:] > 0).all()
    shares = np.arange(len(seen)) / len(seen)
    np.testing.assert_allclose(forces, shares, atol=1e-15)
    np.testing.assert_allclose(stresses, 0.5 * shares, atol=1e-15)
    # judged by the weights of the end, so the losses of all epochs compare
    assert np.isfinite(result.history["train_loss"]).all()
    assert "force_weight = [0.0, 1.0]" in (tmp_path / "run" / "config.toml").read_text()


def test_losses_of_a_ramp_are_those_of_its_end(data, tmp_path):
    loss = {"force_weight": [0.0, 1.0], "energy_weight": [5.0, 2.0], "stress_weight": 0.0}
    trainer = set_up(data, tmp_path, loss)
    plain = set_up(data, tmp_path, {"energy_weight": 2.0, "stress_weight": 0.0})
    for one in (trainer, plain):
        one.progress.epsilon = 1e-5
        # the parameters stay as they are
        object.__setattr__(one.settings, "learning_rate", 1e-300)
        one._epoch()
    rows = [np.array(one.progress.rows)[0] for one in (trainer, plain)]
    for name in ("train_loss", "valid_loss"):
        k = COLUMNS.index(name)
        assert rows[0][k] == pytest.approx(rows[1][k], rel=1e-12)


def test_redrawn_forces_and_a_resumed_run(data, tmp_path):
    # weights that do not depend on how long the run will be
    loss = {"force_fraction": 0.3, "force_redraw": 1, "energy_weight": 1.0}
    whole = fit(data, tmp_path / "whole", loss)
    fit(data, tmp_path / "run", loss, training={"epochs": 2})
    resumed = fdforce.fit(resume=tmp_path / "run", log=silent, epochs=4)
    np.testing.assert_array_equal(resumed.model.theta, whole.model.theta)
    np.testing.assert_array_equal(resumed.history["train_loss"], whole.history["train_loss"])


def test_forces_are_drawn_for_every_epoch(data, tmp_path, monkeypatch):
    drawn = []
    epoch = Trainer._epoch

    def watched(trainer):
        row = epoch(trainer)
        drawn.append(~np.isnan(trainer.train.target.forces[:, 0]))
        return row

    monkeypatch.setattr(Trainer, "_epoch", watched)
    fit(data, tmp_path / "run", {"force_fraction": 0.3, "force_redraw": 2})
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[2] == drawn[3]).all()
    assert (drawn[1] != drawn[2]).any()


def test_no_forces_at_all(data, tmp_path):
    result = fit(data, tmp_path / "run", {"force_fraction": 0.0, "stress_weight": 0.0})
    assert np.isnan(result.history["train_force_rmse"]).all()
    assert np.isfinite(result.history["train_energy_rmse"]).all()


@pytest.mark.parametrize(
    ("loss", "key"),
    [
        ({"kind": "huber"}, "loss.kind = 'huber'"),
        ({"kind": "rmse"}, "loss.kind = 'rmse'"),
        ({"element_weights": {"C": 0.5}}, "loss.element_weights = {'C': 0.5}"),
        ({"error_threshold": 1.0}, "loss.error_threshold = 1.0"),
        ({"force_fraction": 0.5, "force_redraw": 1}, "loss.force_redraw = 1"),
    ],
)
def test_least_squares_refuse_other_losses(data, tmp_path, loss, key):
    tables = settings(data, loss, optimizer={"name": "least_squares"})
    tables["model"]["kind"] = "linear"
    with pytest.raises(ConfigError) as caught:
        fdforce.fit(tables, out=tmp_path / "run", log=silent)
    assert str(caught.value).startswith(f'{key}: optimizer.name = "least_squares" minimises')


@pytest.mark.parametrize("normalisation", ["per_atom", "per_structure"])
def test_least_squares_end_in_the_minimum(data, tmp_path, normalisation):
    frames = read_file(data)
    for k in range(0, len(frames), 2):  # cells of two sizes, or the normalisation is a factor
        calculated, frames[k] = frames[k].calc.results, frames[k].repeat((1, 1, 2))
        frames[k].calc = SinglePointCalculator(
            frames[k],
            energy=1.9 * calculated["energy"],
            forces=np.tile(calculated["forces"], (2, 1)),
        )
    ase.io.write(tmp_path / "cells.extxyz", frames)
    tables = settings(
        tmp_path / "cells.extxyz", {"energy_normalisation": normalisation},
        optimizer={"name": "least_squares"},
    )  # fmt: skip
    tables["model"]["kind"] = "linear"
    config = config_from_dict(tables)
    trainer = _Run(config, tmp_path / "run", None, 1, silent, None, None).trainer
    theta = trainer.run().theta

    def loss(step):
        trainer.model.theta = theta + step
        return trainer._errors(trainer.train, "train")["train_loss"]

    for k in range(3):
        step = np.zeros_like(theta)
        step[[0, 5, -1][k]] = 1e-3
        near = loss(step) + loss(-step) - 2 * loss(0 * step)
        # the slope is 0 to the round-off of losses, 1e-16 L, which is 1e-4 of this curvature
        assert near > 0
        assert abs(loss(step) - loss(-step)) < 1e-3 * near
