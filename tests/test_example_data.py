"""The example data sets in ``fdforce/data``: complete, consistent and split cleanly."""

from pathlib import Path

import ase.io
import numpy as np
import pytest

DATA = Path(__file__).parents[1] / "fdforce" / "data"

# system: (atoms, periodic, train frames, test frames)
SYSTEMS = {"ethanol": (9, False, 1000, 300), "diamond": (16, True, 300, 60)}
FORCE_STEP = 1e-6  # the forces are written with six decimals, eV/Å


@pytest.fixture(scope="module", params=SYSTEMS)
def data(request):
    """Name of the system and its frames per split, read from the files."""
    name = request.param
    splits = ("train", "test")
    return name, {s: ase.io.read(DATA / f"{name}_{s}.extxyz.gz", index=":") for s in splits}


def test_counts(data):
    name, frames = data
    n_atoms, periodic, n_train, n_test = SYSTEMS[name]
    assert len(frames["train"]) == n_train
    assert len(frames["test"]) == n_test
    for atoms in frames["train"] + frames["test"]:
        assert len(atoms) == n_atoms
        assert atoms.pbc.tolist() == [periodic] * 3
        assert (atoms.cell.rank == 3) == periodic


def test_labels(data):
    name, frames = data
    periodic = SYSTEMS[name][1]
    for atoms in frames["train"] + frames["test"]:
        labels = atoms.calc.results
        assert set(labels) == {"energy", "forces"} | ({"stress"} if periodic else set())
        assert np.isfinite(labels["energy"])
        assert labels["forces"].shape == (len(atoms), 3)
        assert np.isfinite(labels["forces"]).all()
        if periodic:
            assert labels["stress"].shape == (6,)
            assert np.isfinite(labels["stress"]).all()


def test_forces_sum_to_zero(data):
    """Each rounded force is off by at most half a step, so their sum by N half steps."""
    _, frames = data
    for atoms in frames["train"] + frames["test"]:
        total = atoms.get_forces().sum(axis=0)
        np.testing.assert_allclose(total, 0.0, atol=len(atoms) * FORCE_STEP / 2 + 1e-9)


def test_splits_share_nothing(data):
    """No frame of one split is in the other, and no trajectory gives frames to both."""
    _, frames = data
    train, test = frames["train"], frames["test"]
    trajectories = [{atoms.info["trajectory"] for atoms in split} for split in (train, test)]
    assert trajectories[0].isdisjoint(trajectories[1])

    # Distances are free of where the frame was put; compare the sorted ones.
    fingerprints = [
        np.array([np.sort(atoms.get_all_distances(mic=False), axis=None) for atoms in split])
        for split in (train, test)
    ]
    for fingerprint in fingerprints[1]:
        assert np.abs(fingerprints[0] - fingerprint).max(axis=1).min() > 1e-3


def test_frames_are_distinct_and_cover_the_temperatures(data):
    _, frames = data
    for split in frames.values():
        assert {atoms.info["temperature"] for atoms in split} == {300, 600, 1000}
        assert len({atoms.positions.tobytes() for atoms in split}) == len(split)


def test_shortest_distance(data):
    _, frames = data
    for atoms in frames["train"] + frames["test"]:
        distances = atoms.get_all_distances(mic=bool(atoms.pbc.all()))
        np.fill_diagonal(distances, np.inf)
        assert distances.min() > 0.5


def test_size():
    files = sorted(DATA.glob("*.extxyz.gz"))
    expected = sorted(
        f"{name}_{split}.extxyz.gz" for name in SYSTEMS for split in ("test", "train")
    )
    assert [path.name for path in files] == expected
    assert sum(path.stat().st_size for path in files) < 2e6
