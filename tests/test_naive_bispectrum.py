"""The bispectrum in NumPy (tests/naive/bispectrum.py) against that of LAMMPS and against itself."""

from pathlib import Path

import numpy as np
import pytest

from tests.checks import COMPLEX_STEP, slope_of
from tests.naive.bispectrum import bispectrum, components, pairs

SHARED = Path(__file__).parents[1].parent / "shared" / "golden" / "snap"
TANTALUM = dict(rcut=4.67637)
TUNGSTEN_BERYLLIUM = dict(
    rcut=4.8123,
    radius={"W": 0.5, "Be": 0.417932},
    weight={"W": 1.0, "Be": 0.959049},
    bzero=True,
)
CELL = np.array([[4.1, 0.2, 0.1], [-0.3, 4.4, 0.4], [0.2, 0.6, 4.7]])


def golden(name):
    if not SHARED.is_dir():
        pytest.skip("../shared is absent")
    return np.load(SHARED / name)


def crystal(seed=0, n=4):
    """Atoms far enough from each other, in `CELL`, two species and settings for them."""
    rng = np.random.default_rng(seed)
    scaled = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])[:n]
    positions = (scaled + rng.uniform(-0.06, 0.06, size=(n, 3))) @ CELL
    settings = dict(rcut=4.0, species=[0, 1, 1, 0][:n], radius=[0.5, 0.42], weight=[1.0, 0.7])
    return positions, settings


@pytest.mark.parametrize("structure", [0, 3, 5, 8])
@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("B", dict(twojmax=6)),
        ("B_bzero1", dict(twojmax=6, bzero=True)),
        ("B_tj8", dict(twojmax=8)),
    ],
)
def test_tantalum(structure, key, settings):
    data = golden("ta_snap.npz")
    cell = data[f"s{structure}_cell"]
    for positions in (data[f"s{structure}_pos"], data[f"s{structure}_pos_unwrapped"]):
        values = bispectrum(positions, cell, [True] * 3, **TANTALUM, **settings)
        # cubes of sums of up to 400 neighbours; with bzero small rests of them
        assert values == pytest.approx(data[f"s{structure}_{key}"], rel=1e-10, abs=1e-10)


def test_two_elements():
    data = golden("multi_snap.npz")
    values = bispectrum(
        data["WBe_pos"], data["WBe_cell"], [True] * 3,
        twojmax=8, species=data["WBe_symbols"], **TUNGSTEN_BERYLLIUM,
    )  # fmt: skip
    assert values == pytest.approx(data["WBe_B"], rel=1e-10, abs=1e-10)


@pytest.mark.parametrize(
    ("file", "key", "settings"),
    [
        ("ta_snap.npz", "s3", dict(twojmax=6, **TANTALUM)),
        ("ta_snap.npz", "s5", dict(twojmax=6, **TANTALUM)),
        ("multi_snap.npz", "WBe", dict(twojmax=8, **TUNGSTEN_BERYLLIUM)),
    ],
)
def test_derivatives(file, key, settings):
    data = golden(file)
    if key == "WBe":
        settings = {**settings, "species": data["WBe_symbols"]}
    expected = data[f"{key}_dBdr"]  # i, j, axis, component
    for atom in range(0, len(data[f"{key}_pos"]), 5):
        for axis in range(3):
            moved = data[f"{key}_pos"].astype(complex)
            moved[atom, axis] += 1j * COMPLEX_STEP
            values = bispectrum(moved, data[f"{key}_cell"], [True] * 3, **settings)
            error = values.imag / COMPLEX_STEP - expected[:, atom, axis]
            assert np.abs(error).max() < 1e-11 * np.abs(expected).max()


def test_isolated_atom():
    values = bispectrum(np.zeros((1, 3)), np.zeros((3, 3)), [False] * 3, twojmax=6, rcut=4.0)
    assert values[0] == pytest.approx([j + 1 for _, _, j in components(6)], rel=1e-13)
    assert len(components(6)) == 30
    assert len(components(8)) == 55


def test_dimer():
    """Components with j2 = 0 have a closed form: the trace of a rotation by 2 theta0."""
    r, rcut, rfac0, rmin0 = 2.3, 4.0, 0.9, 0.4
    direction = np.array([0.3, -0.8, 0.5])
    positions = np.array([np.zeros(3), r * direction / np.linalg.norm(direction)])
    values = bispectrum(
        positions, np.zeros((3, 3)), [False] * 3, twojmax=5, rcut=rcut, rfac0=rfac0, rmin0=rmin0
    )
    x = (r - rmin0) / (rcut - rmin0)
    f, theta = 0.5 * (1 + np.cos(np.pi * x)), rfac0 * np.pi * x
    for j in range(6):
        trace = np.sin((j + 1) * theta) / np.sin(theta)
        expected = (1 + f) * ((j + 1) * (1 + f**2) + 2 * f * trace)
        assert values[:, components(5).index((j, 0, j))] == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("periodic", [[True] * 3, [True, True, False], [False] * 3])
def test_invariance(periodic):
    positions, settings = crystal()
    cell = np.where(np.array(periodic)[:, None], CELL, 0)
    values = bispectrum(positions, cell, periodic, twojmax=5, **settings)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)
    moved = positions + [3, -7, 2] @ cell + [0.4, 0.1, -0.9]
    turned = bispectrum(moved @ turn, cell @ turn, periodic, twojmax=5, **settings)
    assert turned == pytest.approx(values, rel=1e-11)
    order = [2, 0, 3, 1]
    swapped = {**settings, "species": [settings["species"][k] for k in order]}
    permuted = bispectrum(positions[order], cell, periodic, twojmax=5, **swapped)
    assert permuted == pytest.approx(values[order], rel=1e-11)
    assert np.ptp(values, axis=0).max() > 0.1


def test_a_supercell_repeats_the_values():
    positions, settings = crystal()
    values = bispectrum(positions, CELL, [True] * 3, twojmax=4, **settings)
    settings["species"] = settings["species"] * 2
    twice = np.concatenate([positions, positions + CELL[1]])
    doubled = bispectrum(twice, CELL * [[1], [2], [1]], [True] * 3, twojmax=4, **settings)
    assert doubled == pytest.approx(np.concatenate([values, values]), rel=1e-12)


def test_pairs_of_a_small_cell():
    """Those of a cubic lattice within 2.1 cells: 6, 12, 8 and 6 neighbours."""
    i, j, shift = pairs(np.array([[50.3, -7.1, 0.2]]), np.eye(3), [True] * 3, 2.1)
    assert len(i) == 32
    assert not i.any()
    assert not j.any()
    assert sorted((shift**2).sum(axis=1)) == [1] * 6 + [2] * 12 + [3] * 8 + [4] * 6


@pytest.mark.parametrize("cutoff", ["cosine", "smooth", lambda x: (1 - x) ** 4 * (1 + 4 * x)])
def test_complex_step(cutoff):
    """Along a direction of positions, and along a strain."""
    positions, settings = crystal()
    rng = np.random.default_rng(3)
    direction, strain = rng.normal(size=(4, 3)), 0.1 * rng.normal(size=(3, 3))

    def total(moved, cell):
        values = bispectrum(
            moved, cell, [True] * 3, twojmax=6, **settings, cutoff=cutoff, bzero=True
        )
        return values.sum()

    exact = total(positions + 1j * COMPLEX_STEP * direction, CELL).imag / COMPLEX_STEP
    numeric = slope_of(lambda x: total(x, CELL), positions, direction, 1e-4)
    # 1e-16 of the sum over the step; the cosine has a kink where a pair crosses the cutoff
    assert exact == pytest.approx(numeric, rel=1e-8)
    deform = np.eye(3) + 1j * COMPLEX_STEP * strain
    exact = total(positions @ deform, CELL @ deform).imag / COMPLEX_STEP
    numeric = slope_of(lambda s: total(positions @ s, CELL @ s), np.eye(3), strain, 1e-4)
    assert exact == pytest.approx(numeric, rel=1e-8)


@pytest.mark.parametrize(("cutoff", "order"), [("cosine", 1), ("smooth", 8)])
def test_smooth_at_the_cutoff(cutoff, order):
    """Slopes at the cutoff vanish with the distance from it: linearly, or faster than any power."""

    def slopes(gap):
        positions = np.zeros((2, 3), complex)
        positions[1, 0] = 4.0 * (1 - gap) + 1j * COMPLEX_STEP
        values = bispectrum(
            positions, np.zeros((3, 3)), [False] * 3, twojmax=4, rcut=4.0, cutoff=cutoff
        )
        return np.abs(values.imag / COMPLEX_STEP).max()

    assert slopes(0.02) < slopes(0.04) * 0.55**order
    assert slopes(-1e-9) == 0
    assert slopes(1e-9) < 1e-6


def test_closer_than_rmin0():
    positions = np.array([[0.0, 0, 0], [0, 0, 0.5]])
    with pytest.raises(ValueError, match="closer"):
        bispectrum(positions, np.zeros((3, 3)), [False] * 3, twojmax=2, rcut=4.0, rmin0=0.6)
