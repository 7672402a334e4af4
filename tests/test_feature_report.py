"""Statistics, choice and reduction of features."""

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms

from fdforce.descriptors import Chebyshev, Reduced, make_descriptor
from fdforce.examples import example_files
from fdforce.feature_report import choose_columns, describe_features, principal_components
from fdforce.models import ElementalNetworks
from fdforce.structures import read_structures
from tests.checks import COMPLEX_STEP, batch_of, check_directional
from tests.systems import SYSTEMS
from tests.test_cli import run


@pytest.fixture(scope="module")
def ethanol():
    return read_structures(str(example_files("ethanol")[0]), elements=("C", "H", "O"))[0]


def test_statistics_are_those_of_the_features(ethanol):
    descriptor = Chebyshev(("C", "H", "O"), 4.0, 3, 3.0, 2)
    some = ethanol.select(np.arange(40))
    reports = describe_features(descriptor, some)
    assert [r.element for r in reports] == ["C", "H", "O"]
    batch = batch_of_structures(descriptor, some)
    plain = np.zeros((3, descriptor.n_features))
    features, _ = descriptor.forward(batch, plain, plain + 1)
    rows = features[batch.species_start[1] : batch.species_start[2]]
    report = reports[1]
    assert report.n_atoms == len(rows) == 240
    np.testing.assert_allclose(report.mean, rows.mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(report.deviation, rows.std(axis=0), rtol=1e-8)
    np.testing.assert_allclose(report.correlation, np.corrcoef(rows.T), atol=1e-8)
    assert report.largest == pytest.approx(rows.max(axis=0))


def batch_of_structures(descriptor, structures):
    from fdforce.batch import make_batch
    from fdforce.neighbors import build_pairs

    return make_batch(structures, build_pairs(structures, descriptor.cutoff))


def test_dead_constant_and_duplicate_features():
    # one element at one distance: every radial function is a constant, the angular ones are zero
    frames = [Atoms("H2", [[0, 0, 0], [0, 0, 1.0]]), Atoms("H2", [[0, 0, 0], [0, 1.0, 0]])]
    structures, _ = read_structures(frames)
    (report,) = describe_features(Chebyshev(("H",), 4.0, 2, 3.0, 1), structures)
    assert report.dead == [3, 4]
    assert report.constant == [0, 1, 2]
    assert report.duplicates == []
    assert report.rank == 0
    # two elements of which one is absent: the weighted half repeats the plain one
    frames = [Atoms("H3", np.random.default_rng(k).uniform(0, 2, (3, 3))) for k in range(9)]
    structures, _ = read_structures(frames, elements=("H", "O"))
    (report,) = describe_features(Chebyshev(("H", "O"), 4.0, 1, 3.0, 0), structures)
    assert report.duplicates[-1][1] == 5
    assert {second for _, second in report.duplicates} >= {3, 4, 5}
    assert report.as_dict()["duplicates"][0][0] == "radial 0"


def test_chosen_columns_span_what_there_is():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(500, 3))
    features = np.column_stack([base, base @ rng.normal(size=(3, 4)), np.zeros(500)])
    correlation = np.cov(features.T)
    chosen = choose_columns(correlation, 8)
    assert len(chosen) == 3  # all there is
    assert 7 not in chosen
    rest = features - features[:, chosen] @ np.linalg.lstsq(features[:, chosen], features)[0]
    assert np.abs(rest).max() < 1e-9
    vectors = principal_components(correlation, 3)
    explained = np.trace(vectors.T @ correlation @ vectors)
    assert explained == pytest.approx(np.trace(correlation), rel=1e-10)


def test_reduced_descriptor():
    inner = Chebyshev(("Ti", "O"), 4.0, 4, 3.0, 2)
    rng = np.random.default_rng(1)
    frames = [SYSTEMS[name]() for name in ("left_handed", "thin_triclinic")]
    batch = batch_of(frames, ("Ti", "O"), inner.cutoff)
    chosen = Reduced.choice(inner, [3, 0, 9])
    assert chosen.labels == [inner.labels[k] for k in (3, 0, 9)]
    np.testing.assert_array_equal(chosen.compute(frames[0]), inner.compute(frames[0])[:, [3, 0, 9]])
    reduced = Reduced(inner, rng.normal(size=(inner.n_features, 4)))
    mean, scale = rng.normal(size=(2, 2, 4))
    _, kept = reduced.forward(batch, mean, scale)
    d_features, direction = rng.normal(size=(batch.n_atoms, 4)), rng.normal(size=(batch.n_atoms, 3))
    d_positions, _ = reduced.backward(batch, d_features, kept, scale)
    moved = replace(
        batch, positions=batch.positions + 1j * COMPLEX_STEP * direction,
        cells=batch.cells.astype(complex),
    )  # fmt: skip
    expected = np.sum(reduced.forward(moved, mean, scale)[0].imag * d_features) / COMPLEX_STEP
    assert np.sum(d_positions * direction) == pytest.approx(expected, rel=1e-11)
    again = make_descriptor(name=reduced.name, **reduced.settings)
    assert again.settings == reduced.settings
    with pytest.raises(ValueError, match=r"the matrix has shape \(3, 2\)"):
        Reduced(inner, np.zeros((3, 2)))


def test_networks_on_reduced_features():
    inner = Chebyshev(("Ti", "O"), 4.0, 4, 3.0, 2)
    model = ElementalNetworks(Reduced.choice(inner, range(0, 14, 2)), (5,))
    batch = batch_of([SYSTEMS["left_handed"]()], ("Ti", "O"), inner.cutoff)
    model.standardise([batch])

    def energy(x):
        return model.forward(replace(batch, positions=x)).energy.sum()

    def slope(x):
        return -model.forces(model.forward(replace(batch, positions=x)))[0]

    check_directional(energy, slope, batch.positions, step=1e-3, tolerance=1e-8)


def test_features_on_the_command_line(tmp_path):
    from fdforce.model_file import save_model

    data = str(example_files("ethanol")[1])
    model = ElementalNetworks(Chebyshev(("C", "H", "O"), 4.0, 2, 3.0, 1), (3,))
    save_model(tmp_path / "model.npz", model)
    result = run("info", "--features", tmp_path / "model.npz", data)
    assert result.exit_code == 0, result.output
    assert "C: 10 features on" in result.stdout
    assert run("info", "--features", data).exit_code == 2
