"""Atoms outside the range of the training features are named, and ordinary ones are not."""

import json

import numpy as np
import pytest
from ase.build import bulk

import fdforce
from fdforce.archive import read_archive, write_archive
from fdforce.batch import make_batch
from fdforce.descriptors import Chebyshev, Quadratic
from fdforce.errors import ModelFileError
from fdforce.evaluation import groups
from fdforce.examples import example_files
from fdforce.feature_range import FLAT, NEVER, find_out_of_range
from fdforce.model_file import FORMAT
from fdforce.models.elemental_networks import ElementalNetworks
from fdforce.models.linear import LinearModel
from fdforce.neighbors import build_pairs
from fdforce.splitting import split_structures
from fdforce.structures import read_structures

SMALL = {"radial_cutoff": 4.0, "radial_order": 4, "angular_cutoff": 3.5, "angular_order": 2}


def alloys(number, first=0):
    frames = []
    for k in range(number):
        atoms = bulk("Cu", cubic=True)
        atoms.symbols[k % 4] = "Au"
        atoms.rattle(0.05, seed=first + k)
        frames.append(atoms)
    return frames


def trained_on(frames, elements=("Cu", "Au"), make=ElementalNetworks, **options):
    """A model that knows the features of frames, with random weights."""
    descriptor = Chebyshev(elements, **SMALL)
    model = make(descriptor, **options)
    structures = read(frames, elements)
    pairs = build_pairs(structures, model.cutoff, skin=0.0)
    model.standardise(make_batch(structures, pairs, part) for part in groups(structures))
    return model


def read(frames, elements=("Cu", "Au")):
    return read_structures(frames, elements=elements, keep_isolated=True)[0]


def features_of(model, frames):
    """Features and element of every atom, structure after structure."""
    features = [model.descriptor.compute(atoms) for atoms in frames]
    symbols = [atoms.get_chemical_symbols() for atoms in frames]
    return np.concatenate(features), np.concatenate(symbols)


def naive(model, train, frames, margin):
    """(structure, atom) -> features outside, furthest feature, distance: one by one."""
    known, of_known = features_of(model, train)
    found = {}
    for s, atoms in enumerate(frames):
        for a, row in enumerate(model.descriptor.compute(atoms)):
            inside = known[of_known == atoms.symbols[a]]
            low, high = inside.min(axis=0), inside.max(axis=0)
            distance = np.maximum(low - row, row - high) / (high - low)
            if (distance > margin).any():
                worst = int(np.argmax(distance))
                found[s, a] = int(np.sum(distance > margin)), worst, distance[worst]
    return found


@pytest.mark.parametrize("make", [ElementalNetworks, LinearModel])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_as_found_one_by_one(make, dtype):
    train, frames = alloys(20), alloys(30, first=100)
    frames[3].positions[2] += [0.4, 0.1, 0]
    model = trained_on(train, make=make, dtype=dtype)
    expected = naive(model, train, frames, 0.1)
    assert 4 <= len(expected) < 120
    structures = read(frames)
    found = find_out_of_range(model, structures, margin=0.1)
    assert list(found.ranges) == sorted(found.ranges, reverse=True)
    assert found.structure[0] == 3
    assert found.n_structures == len({s for s, _ in expected})
    described = found.describe(structures, model.descriptor.labels)
    assert {(entry["index"], entry["atom"]) for entry in described} == set(expected)
    for entry in described:
        s, a = entry["index"], entry["atom"]
        count, worst, distance = expected[s, a]
        assert entry["structure"] == structures.labels[s]
        assert entry["element"] == frames[s].symbols[a]
        assert (entry["n_features"], entry["feature"]) == (count, model.descriptor.labels[worst])
        # the two sum neighbours in another order: 1e-15 of features near 10, ranges near 0.1
        assert entry["ranges"] == pytest.approx(distance, abs=1e-11)
        low, high = entry["range"]
        past = max(low - entry["value"], entry["value"] - high) / (high - low)
        assert past == pytest.approx(entry["ranges"], rel=1e-12)
    assert len(found.describe(structures, model.descriptor.labels, 2)) == 2


def test_the_training_set_spans_its_range():
    train = alloys(12)
    assert len(find_out_of_range(trained_on(train), read(train), margin=0.0)) == 0


def test_several_batches_make_one_range():
    train = alloys(12)
    whole = trained_on(train)
    structures = read(train)
    pairs = build_pairs(structures, whole.cutoff, skin=0.0)
    parts = trained_on(train[:1])
    parts.standardise(make_batch(structures, pairs, [s]) for s in range(12))
    np.testing.assert_array_equal(parts.feature_min, whole.feature_min)
    np.testing.assert_array_equal(parts.feature_max, whole.feature_max)
    features, symbols = features_of(whole, train)
    for z, element in enumerate(("Cu", "Au")):
        rows = features[symbols == element]
        np.testing.assert_allclose(whole.feature_min[z], rows.min(axis=0), atol=1e-12)
        np.testing.assert_allclose(whole.feature_max[z], rows.max(axis=0), atol=1e-12)


def test_features_that_did_not_vary_and_elements_without_atoms():
    perfect = bulk("Cu", cubic=True)
    model = trained_on([perfect])
    assert len(find_out_of_range(model, read([perfect, perfect]))) == 0
    squeezed = perfect.copy()
    squeezed.set_cell(0.99 * squeezed.cell, scale_atoms=True)
    gold = perfect.copy()
    gold.symbols[1] = "Au"
    structures = read([squeezed, gold])
    found = find_out_of_range(model, structures)
    described = found.describe(structures, model.descriptor.labels)
    assert {entry["ranges"] for entry in described} == {None}
    assert len(described) == 8
    (only,) = [entry for entry in described if entry["element"] == "Au"]
    assert (only["feature"], only["range"], only["atom"]) == (NEVER, None, 1)
    assert only["n_features"] == model.descriptor.n_features
    others = [entry for entry in described if entry["index"] == 0]
    assert all(abs(e["value"] - e["range"][0]) > FLAT for e in others)
    json.dumps(described, allow_nan=False)


def test_an_atom_without_neighbours():
    model = trained_on(alloys(12))
    alone = bulk("Cu", cubic=True)[:1]
    alone.set_pbc(False)
    found = find_out_of_range(model, read([alone]))
    assert len(found) == 1


def test_products_of_features():
    train = alloys(8)
    model = LinearModel(Quadratic(Chebyshev(("Cu", "Au"), **SMALL)))
    structures = read(train)
    pairs = build_pairs(structures, model.cutoff, skin=0.0)
    model.standardise([make_batch(structures, pairs)])
    frames = alloys(2, first=50)
    frames[1].positions[0] += 0.5
    found = find_out_of_range(model, read(frames))
    assert found.structure[0] == 1


def test_the_range_is_in_the_file_and_missing_in_old_ones(tmp_path):
    model = trained_on(alloys(5), elements=("Cu", "Au", "Ni"))
    path, old = tmp_path / "model.npz", tmp_path / "old.npz"
    fdforce.save_model(path, model)
    loaded = fdforce.load_model(path)
    np.testing.assert_array_equal(loaded.feature_min, model.feature_min)
    np.testing.assert_array_equal(loaded.feature_max, model.feature_max)
    header, arrays = read_archive(path, FORMAT, 1, ModelFileError)
    del arrays["feature_max"]
    write_archive(old, header, arrays)
    with pytest.raises(ModelFileError, match="damaged file"):
        fdforce.load_model(old)
    del arrays["feature_min"]
    write_archive(old, header, arrays)
    structures = read(alloys(2), ("Cu", "Au", "Ni"))
    assert find_out_of_range(fdforce.load_model(old), structures) is None


@pytest.mark.parametrize("example", ["ethanol", "diamond"])
def test_few_false_alarms_in_a_random_tenth(example):
    structures, _ = read_structures(str(example_files(example)[0]))
    structures = structures.select(slice(None, None, 3))
    kept, held = split_structures(structures, 0.1, how="random", seed=1)
    train, test = structures.select(kept), structures.select(held)
    model = LinearModel(Chebyshev(structures.elements))
    pairs = build_pairs(train, model.cutoff, skin=0.0)
    model.standardise(make_batch(train, pairs, part) for part in groups(train))
    # 1 % is the promise of docs/report.md
    assert len(find_out_of_range(model, test)) <= 0.01 * test.n_atoms
    pulled = test.select([0])
    pulled.positions[0] += 0.6
    found = find_out_of_range(model, pulled)
    assert 0 in found.atom
