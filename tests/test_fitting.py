"""`fdforce.fit` on awkward data and settings."""

import os

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

import fdforce
from fdforce.archive import read_archive, write_archive
from fdforce.checkpoint import load_checkpoint
from fdforce.errors import CheckpointError, ConfigError, FdforceError, ModelFileError, TrainingError
from fdforce.model_file import FORMAT
from fdforce.training import Trainer

SMALL = {"hidden": [6], "radial_order": 4, "angular_order": 2, "threads": 1}


def silent(line):
    pass


def crystals(number, symbol="Cu", rattle=0.08):
    """Four-atom cells of one volume, with energies, forces and stresses."""
    frames = []
    for k in range(number):
        atoms = bulk("Cu", cubic=True)
        atoms.symbols[0] = symbol
        atoms.rattle(rattle, seed=k)
        atoms.calc = EMT()
        results = {
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces(),
            "stress": atoms.get_stress(),
        }
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "cu.extxyz"
    ase.io.write(path, crystals(12))
    return path


def fit(data, tmp_path, **settings):
    return fdforce.fit(
        train=str(data), out=tmp_path / "run", log=silent, **{**SMALL, "epochs": 3, **settings}
    )


@pytest.mark.parametrize("number", [1, 2, 8])
def test_small_cells_of_one_volume_with_stress(tmp_path, number):
    path = tmp_path / "nvt.extxyz"
    ase.io.write(path, crystals(number))
    result = fdforce.fit(train=str(path), out=tmp_path / "run", log=silent, epochs=5, threads=1)
    # the random network predicts no more than there is: its loss is that of the weights, 2 + 1 + 1
    assert result.history["train_loss"][0] < 20
    assert np.isfinite(result.metrics["train"]["stress_rmse"])
    assert ("valid" in result.metrics) == (number > 1)


def test_a_budget_replaces_only_a_default_number_of_epochs(data, tmp_path):
    config = tmp_path / "fit.toml"
    config.write_text(f'[data]\ntrain = ["{data}"]\n[training]\nepochs = 2\nmax_time = 60.0\n')
    result = fdforce.fit(config, out=tmp_path / "a", log=silent, **SMALL)
    assert len(result.history["epoch"]) == 2
    result = fdforce.fit(config, out=tmp_path / "b", log=silent, max_time=30, **SMALL)
    assert len(result.history["epoch"]) == 2


def test_a_resumed_run_keeps_its_epochs_and_settings(data, tmp_path):
    fit(data, tmp_path)
    result = fdforce.fit(resume=tmp_path / "run", log=silent, max_time=60)
    assert len(result.history["epoch"]) == 3
    result = fdforce.fit(resume=tmp_path / "run", log=silent, epochs=4)
    assert len(result.history["epoch"]) == 4
    with pytest.raises(ConfigError, match=r"model\.hidden = \[9\]: the run has \[6\]"):
        fdforce.fit(resume=tmp_path / "run", log=silent, hidden=[9])


def test_a_run_is_not_resumed_on_other_elements(data, tmp_path):
    fit(data, tmp_path)
    frames = ase.io.read(data, ":")
    frames[3].symbols[1] = "Al"
    ase.io.write(data, frames)
    with pytest.raises(CheckpointError, match="belongs to other data"):
        fdforce.fit(resume=tmp_path / "run", log=silent, epochs=5)


def test_a_failed_first_epoch_leaves_the_directory_free(data, tmp_path):
    with pytest.raises(TrainingError):
        fit(data, tmp_path, learning_rate=1e9, batch_size=2)
    result = fit(data, tmp_path)
    assert len(result.history["epoch"]) == 3


def test_an_explosion_keeps_the_last_whole_epoch(data, tmp_path, monkeypatch):
    epoch = Trainer._epoch

    def explode(trainer):
        if trainer.progress.epoch == 2:
            raise TrainingError("epoch 3: the loss is nan")
        return epoch(trainer)

    monkeypatch.setattr(Trainer, "_epoch", explode)
    with pytest.raises(TrainingError):
        fit(data, tmp_path, epochs=9, checkpoint_every=5)
    assert fdforce.load_model(tmp_path / "run" / "model.npz").theta.shape
    assert load_checkpoint(tmp_path / "run" / "checkpoint.npz")[0]["progress"]["epoch"] == 2


def test_a_length_scale_moves_the_scan(data, tmp_path):
    result = fit(data, tmp_path, length_scale=5.0, stencil="central4")
    assert result.epsilon * 5.0 * 6 < 0.05


def test_a_large_epsilon_gets_the_skin_it_needs(data, tmp_path):
    assert fit(data, tmp_path, epsilon=0.05).epsilon == 0.05


def test_typing_errors_name_the_nearest_setting():
    with pytest.raises(ConfigError, match="no such setting: epoch; did you mean epochs"):
        fdforce.fit(train="a.extxyz", epoch=3)
    with pytest.raises(ConfigError, match=r"kind is a key of model and loss: give the table"):
        fdforce.fit(train="a.extxyz", kind="squared")


def damaged(path, target, changes):
    header, arrays = read_archive(path, FORMAT, 1, ModelFileError)
    write_archive(target, header, {**arrays, **changes(arrays)})
    return target


@pytest.mark.parametrize(
    "changes",
    [
        lambda arrays: {"feature_mean": arrays["feature_mean"][:, :-1]},
        lambda arrays: {"theta": np.full_like(arrays["theta"], np.nan)},
        lambda arrays: {"theta": arrays["theta"][:-1]},
    ],
)
def test_models_whose_arrays_are_wrong(data, tmp_path, changes):
    fit(data, tmp_path)
    path = damaged(tmp_path / "run" / "model.npz", tmp_path / "bad.npz", changes)
    with pytest.raises(ModelFileError, match=r"bad\.npz: damaged file"):
        fdforce.load_model(path)


def test_a_full_disk_keeps_the_earlier_checkpoint(data, tmp_path, monkeypatch):
    fit(data, tmp_path)
    path = tmp_path / "run" / "checkpoint.npz"
    before = path.read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FdforceError, match=r"cannot be written \(No space left"):
        fdforce.fit(resume=tmp_path / "run", log=silent, epochs=20)
    assert path.read_bytes() == before
    assert not [p for p in path.parent.iterdir() if p.name.startswith(".")]
