"""A fit on the device ends where one on the processor ends."""

import copy

import ase.build
import ase.io
import numpy as np
import pytest
from ase.calculators.emt import EMT

import fdforce
from fdforce.cuda import computation as computations
from fdforce.cuda.arena import Arena, Mirrored
from fdforce.cuda.device import CudaDevice
from tests.cuda.on_device import DEVICE

TOLERANCE = 1e-9
"""Of parameters after some steps: rounding of differences of energies, u / epsilon, with margin."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files with and without stresses, without which structures may have energies alone."""
    folder, frames = tmp_path_factory.mktemp("data"), []
    for seed in range(6):
        atoms = ase.build.bulk("Cu", a=3.6) * (2, 1, 1)
        atoms.rattle(0.1, seed=seed)
        atoms.calc = EMT()
        atoms.get_forces()
        frames.append(atoms)
    ase.io.write(folder / "forces.extxyz", frames)
    for atoms in frames:
        atoms.get_stress()
    ase.io.write(folder / "stresses.extxyz", frames)
    return folder


OPTIONS = {
    "valid": 0.3, "test": 0.0, "descriptor": "chebyshev", "radial_cutoff": 3.0,
    "angular_cutoff": 2.8, "radial_order": 3, "angular_order": 2, "hidden": [3], "epsilon": 1e-4,
}  # fmt: skip
CASES = {
    "adamw": {"optimizer": {"name": "adamw"}},
    "kalman": {"optimizer": {"name": "kalman"}},
    "dropout": {"optimizer": {"name": "adam"}, "training": {"dropout": 0.3}},
    "clipped": {
        "optimizer": {"name": "adam", "gradient_clip": 0.1, "l2": 0.01},
        "training": {"frozen_layers": 1, "average": 0.0},
    },
    "some_forces": {"optimizer": {"name": "adamw"}, "loss": {"force_fraction": 0.5}},
    "streamed": {"optimizer": {"name": "adamw"}},
    "some_forces_streamed": {"optimizer": {"name": "adamw"}, "loss": {"force_fraction": 0.5}},
}


def reset_and_spoil(arena, reset=Arena.reset):
    """`Arena.reset`, after which nothing can be read that was there before."""
    reset(arena)
    for block in arena._blocks:
        for half in block if isinstance(block, Mirrored) else (block,):
            for k in range(0, half.size, 4096):
                half[k : k + 4096] = np.full(min(4096, half.size - k), 255, np.uint8)


@pytest.mark.parametrize("case", CASES)
def test_parameters_and_errors(folder, tmp_path, monkeypatch, case):
    monkeypatch.setattr(computations, "find_device", lambda: DEVICE)
    if "streamed" in case:
        monkeypatch.setattr(computations, "DATA_SHARE", 0.0)
        monkeypatch.setattr(computations, "find_device", CudaDevice)
        monkeypatch.setattr(Arena, "reset", reset_and_spoil)
    settings = copy.deepcopy(CASES[case])
    settings["optimizer"]["batch_size"] = 2
    file = folder / ("forces.extxyz" if "some_forces" in case else "stresses.extxyz")
    lines = {"cpu": [], "cuda": []}
    results = [
        fdforce.fit(
            train=[str(file)], epochs=2, out=tmp_path / device, device=device,
            log=lines[device].append, **OPTIONS, **settings,
        )
        for device in ("cpu", "cuda")
    ]  # fmt: skip
    note = "batches of 4 atoms are small for a GPU"
    assert [any(note in line for line in lines[device]) for device in lines] == [False, True]
    host, device = results
    size = np.abs(host.model.theta).max()
    assert np.abs(device.model.theta - host.model.theta).max() < TOLERANCE * size
    for part, errors in host.metrics.items():
        assert device.metrics[part] == pytest.approx(errors, rel=TOLERANCE)
    for column in ("train_loss", "valid_loss", "train_force_rmse", "train_stress_rmse"):
        np.testing.assert_allclose(device.history[column], host.history[column], rtol=TOLERANCE)
    # it is a difference itself
    np.testing.assert_allclose(device.history["err_loss"], host.history["err_loss"], rtol=1e-5)


def test_a_resumed_fit_ends_where_a_whole_one_ends(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(computations, "find_device", lambda: DEVICE)
    options = {
        **OPTIONS, "train": [str(folder / "forces.extxyz")], "device": "cuda",
        "log": lambda line: None, "optimizer": {"name": "adamw", "batch_size": 2},
        "loss": {"energy_weight": 1.0}, "training": {"schedule": "constant", "warm_up": 0.0},
    }  # fmt: skip
    whole = fdforce.fit(epochs=2, out=tmp_path / "whole", **options)
    fdforce.fit(epochs=1, out=tmp_path / "parts", **options)
    parts = fdforce.fit(resume=tmp_path / "parts", epochs=2, log=lambda line: None)
    assert np.array_equal(parts.model.theta, whole.model.theta)
