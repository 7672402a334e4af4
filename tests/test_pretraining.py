"""Fits on energies alone and on forces alone, and the fit that begins at their mean."""

import ase.io
import numpy as np
import pytest

import fdforce
from fdforce.errors import ConfigError
from tests.test_fitting import SMALL, crystals

MODEL = {key: value for key, value in SMALL.items() if key != "threads"}


def written(folder, frames):
    ase.io.write(folder / "train.extxyz", frames)
    return str(folder / "train.extxyz")


def test_the_fit_begins_at_the_mean_of_the_two(tmp_path, monkeypatch):
    """The two are those of fits with the other labels removed from the loss."""
    ends = []
    whole = fdforce.training.Trainer.run

    def run(self, *arguments):
        begin = self.model.theta.copy()
        progress = whole(self, *arguments)
        weights = self.config.loss.energy_weight, self.config.loss.force_weight
        ends.append((weights, begin, progress.theta))
        return progress

    monkeypatch.setattr("fdforce.training.Trainer.run", run)
    result = fdforce.fit(
        train=written(tmp_path, crystals(8)), valid=0.0, out=tmp_path / "run",
        log=lambda line: None, model=MODEL,
        optimizer={"batch_size": 4, "name": "adam"},
        training={"epochs": 2, "threads": 1, "average": 0.0, "pretraining": 3},
    )  # fmt: skip
    (energies, start, a), (forces, again, b), (both, begin, _) = ends
    assert (energies[1], forces[0]) == (0, 0)
    assert 0 not in both
    np.testing.assert_array_equal(start, again)
    assert np.abs(a - b).max() > 1e-4
    np.testing.assert_array_equal(begin, (a + b) / 2)
    assert len(result.history["epoch"]) == 2


def test_labels_that_are_not_there(tmp_path):
    frames = crystals(4)
    for atoms in frames:
        del atoms.calc.results["forces"]
    with pytest.raises(ConfigError, match="pretraining = 2: no training structure has forces"):
        fdforce.fit(
            train=written(tmp_path, frames), valid=0.0, out=tmp_path / "run",
            log=lambda line: None, model=MODEL,
            training={"epochs": 1, "threads": 1, "pretraining": 2},
        )  # fmt: skip
