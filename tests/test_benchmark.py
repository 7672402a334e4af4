"""Timing: what is counted, and that labels are not needed."""

import numpy as np
import pytest

from fdforce.benchmark import benchmark, untrained_model
from fdforce.config import config_from_dict
from fdforce.structures import read_structures
from fdforce.threads import limit_threads
from tests.systems import SYSTEMS

CONFIG = config_from_dict({"model": {"hidden": [5], "radial_order": 4, "angular_order": 2}})


@pytest.mark.parametrize("labelled", [True, False])
def test_counts_and_times(labelled, monkeypatch):
    monkeypatch.setattr("fdforce.benchmark.SECONDS", 0.0)
    atoms = SYSTEMS["molecule"]()
    if not labelled:
        atoms.calc = None
    structures, _ = read_structures([atoms] * 5)
    model = untrained_model(CONFIG, structures)
    with limit_threads(1) as threads:
        found = benchmark(model, structures, batch_size=2, threads=threads)
    assert found["n_atoms"] == 45
    # every atom of an ethanol molecule lies within 6 Å of the eight others
    assert found["mean_neighbors"] == 8
    assert 0 < found["energy_us_per_atom"] < found["gradient_us_per_atom"]
    assert found["gradient_over_forces"] == pytest.approx(
        found["gradient_us_per_atom"] / found["forces_us_per_atom"]
    )
    assert found["peak_memory_mb"] > 10


def test_whole_batches_of_many_structures_are_taken(monkeypatch):
    monkeypatch.setattr("fdforce.benchmark.SECONDS", 0.0)
    monkeypatch.setattr("fdforce.benchmark.ATOMS", 30)
    structures, _ = read_structures([SYSTEMS["molecule"]()] * 20)
    found = benchmark(untrained_model(CONFIG, structures), structures, batch_size=3)
    assert found["n_atoms"] == 54


def test_untrained_models_see_standardised_features():
    structures, _ = read_structures([SYSTEMS["molecule"](), SYSTEMS["dimer"]()])
    model = untrained_model(CONFIG, structures)
    assert np.any(model.feature_mean != 0)
    assert model.elements == structures.elements
