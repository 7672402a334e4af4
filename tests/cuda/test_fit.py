"""A fit on the device ends where one on the processor ends."""

import ase.build
import ase.io
import numpy as np
import pytest
from ase.calculators.emt import EMT

import fdforce
from fdforce.cuda import computation as computations
from tests.cuda.on_device import DEVICE

TOLERANCE = 1e-9
"""Of parameters after some steps: rounding of differences of energies, u / epsilon, with margin."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "copper.extxyz"
    frames = []
    for seed in range(6):
        atoms = ase.build.bulk("Cu", a=3.6) * (2, 1, 1)
        atoms.rattle(0.1, seed=seed)
        atoms.calc = EMT()
        atoms.get_forces(), atoms.get_stress()
        frames.append(atoms)
    ase.io.write(path, frames)
    return str(path)


@pytest.mark.parametrize("optimizer", ["adamw", "kalman"])
def test_parameters_and_errors(data, tmp_path, monkeypatch, optimizer):
    monkeypatch.setattr(computations, "find_device", lambda: DEVICE)
    results = [
        fdforce.fit(
            train=[data], valid=0.3, test=0.0, epochs=2, out=tmp_path / device, device=device,
            descriptor="chebyshev", radial_cutoff=3.0, angular_cutoff=2.8, radial_order=3,
            angular_order=2, hidden=[3], epsilon=1e-4, log=lambda line: None,
            optimizer={"name": optimizer, "batch_size": 2},
        )
        for device in ("cpu", "cuda")
    ]  # fmt: skip
    host, device = results
    size = np.abs(host.model.theta).max()
    assert np.abs(device.model.theta - host.model.theta).max() < TOLERANCE * size
    for part, errors in host.metrics.items():
        assert device.metrics[part] == pytest.approx(errors, rel=TOLERANCE)
    for column in ("train_loss", "valid_loss", "train_stress_rmse"):
        np.testing.assert_allclose(device.history[column], host.history[column], rtol=TOLERANCE)
