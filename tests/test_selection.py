"""Which forces are learnt from."""

from dataclasses import replace

import numpy as np
import pytest

from fdforce.config import config_from_dict
from fdforce.data_set import DataSet
from fdforce.evaluation import labels_of
from fdforce.neighbors import build_pairs
from fdforce.selection import ForceDraw, select_forces
from fdforce.structures import read_structures
from tests.systems import SYSTEMS


@pytest.fixture(scope="module")
def data():
    """Nine structures of 2 or 12 atoms, one of them without forces."""
    names = ["dimer", "two_species", "thin_triclinic"] * 3
    structures, _ = read_structures([SYSTEMS[name]() for name in names], elements=["Ti", "O"])
    target = labels_of(structures)
    forces = target.forces.copy()
    forces[structures.offsets[4] : structures.offsets[5]] = np.nan
    return DataSet(structures, replace(target, forces=forces), build_pairs(structures, 4.0))


def kept_atoms(target):
    return ~np.isnan(target.forces).any(axis=1)


@pytest.mark.parametrize(("fraction", "number"), [(0.0, 0), (0.01, 1), (0.25, 2), (0.5, 4)])
def test_a_fraction_of_the_structures_that_have_forces(data, fraction, number):
    target = select_forces(data.target, data.structures, fraction, "structures", seed=3)
    kept = np.split(kept_atoms(target), data.structures.offsets[1:-1])
    assert sum(part.all() for part in kept) == number
    assert sum(part.any() for part in kept) == number
    assert not kept[4].any()
    rest = kept_atoms(target)
    np.testing.assert_array_equal(target.forces[rest], data.target.forces[rest])
    for name in ("energy", "virial", "weight"):
        assert getattr(target, name) is getattr(data.target, name)


def test_a_fraction_of_the_atoms(data):
    target = select_forces(data.target, data.structures, 0.5, "atoms", seed=3)
    labelled = kept_atoms(data.target)
    kept = kept_atoms(target)
    assert kept.sum() == round(labelled.sum() / 2)
    assert not kept[~labelled].any()
    within = [part.mean() for part in np.split(kept, data.structures.offsets[1:-1])]
    assert any(0 < share < 1 for share in within)


def test_all_forces_are_the_labels_themselves(data):
    assert select_forces(data.target, data.structures, 1.0, "atoms", seed=0) is data.target


@pytest.mark.parametrize("how", ["structures", "atoms"])
def test_a_draw_follows_from_seed_and_epoch(data, how):
    def draws(seed, redraw):
        loss = {"force_fraction": 0.3, "force_selection": how, "force_redraw": redraw}
        config = config_from_dict({"loss": loss, "training": {"seed": seed}})
        draw = ForceDraw(data, config)
        return [kept_atoms(draw(epoch).target).tolist() for epoch in (0, 1, 2, 3, 0)]

    once = draws(0, 0)
    assert once == [once[0]] * 5
    every_second = draws(0, 2)
    assert every_second[0] == every_second[1] == every_second[4] == once[0]
    assert every_second[2] == every_second[3] != once[0]
    assert draws(0, 2) == every_second
    assert draws(1, 0) != once


def test_a_draw_is_not_the_order_of_the_batches():
    """Else the first batches of an epoch would have all the forces."""
    structures, _ = read_structures([SYSTEMS["dimer"]()] * 40)
    target = select_forces(labels_of(structures), structures, 0.25, "structures", 5, draw=3)
    order = np.random.default_rng([5, 3]).permutation(40)
    assert set(np.flatnonzero(kept_atoms(target)[::2])) != set(order[:10].tolist())
