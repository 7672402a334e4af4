"""Normal modes: frequencies known on paper, counts, invariances; the command."""

import json

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms, FixBondLength
from ase.vibrations import Vibrations
from scipy.spatial.transform import Rotation

import fdforce
from fdforce.errors import DataError, FdforceError
from fdforce.modes import INVERSE_CM, find_modes, relax
from tests.springs import Morse, Springs
from tests.systems import SYSTEMS
from tests.test_calculator import model_for
from tests.test_cli import fail, run, succeed

K, R0 = 30.0, 1.1
# cm^-1. Displacements d = 0.002 Å change the Hessian of springs by k (d / r0)^2 = 3e-6 k, its
# eigenvalue of 2000 cm^-1 by 0.003 cm^-1, and one of 0 to at most 4 cm^-1
TOLERANCE = 0.01
NEAR_ZERO = 4.0


def with_springs(symbols, positions, **options):
    atoms = Atoms(symbols, positions, **options)
    atoms.calc = Springs(K, R0, 1.3 * R0)
    return atoms


def turned(atoms, seed=0):
    """The same somewhere else and in another direction."""
    rotation = Rotation.random(random_state=seed).as_matrix()
    other = atoms.copy()
    other.set_cell(atoms.cell.array @ rotation.T)
    other.positions = atoms.positions @ rotation.T + [0.3, -1.2, 2.0]
    other.calc = atoms.calc
    return other


def frequency(k, mass):
    return np.sqrt(k / mass) * INVERSE_CM


def triangle():
    return with_springs("O3", R0 * np.array([[0, 0, 0], [1, 0, 0], [0.5, np.sqrt(0.75), 0]]))


def counts(found):
    return [len(found.of_kind(kind)) for kind in ("translation", "rotation", "vibration")]


# Frequencies known on paper


def test_dimer():
    atoms = turned(with_springs("CO", [[0, 0, 0], [0, 0, R0]]))
    found = find_modes(atoms)
    assert found.kinds == ["translation"] * 3 + ["rotation"] * 2 + ["vibration"]
    m, n = atoms.get_masses()
    assert found.vibrations == pytest.approx([frequency(K, m * n / (m + n))], abs=TOLERANCE)
    assert found.vibrations[0] == pytest.approx(1090.46, abs=0.02)  # 521.471 sqrt(30 / 6.8605)
    # the displacement (n, -m) along the bond, of norm 1
    assert found.reduced_masses[-1] == pytest.approx(m * n * (m + n) / (m**2 + n**2), rel=1e-9)
    assert np.abs(found.frequencies[:5]).max() < NEAR_ZERO
    # half a quantum: 1 cm^-1 is 1.23984e-4 eV
    assert found.zero_point_energy == pytest.approx(found.vibrations[0] * 1.239842e-4 / 2, rel=1e-6)


def test_linear_triatomic():
    atoms = turned(with_springs("OCO", [[0, 0, -R0], [0, 0, 0], [0, 0, R0]]))
    found = find_modes(atoms)
    oxygen, carbon = atoms.get_masses()[:2]
    stretches = [frequency(K, oxygen), np.sqrt(K / oxygen + 2 * K / carbon) * INVERSE_CM]
    assert counts(found) == [3, 2, 4]
    assert found.vibrations[2:] == pytest.approx(stretches, abs=TOLERANCE)
    assert np.abs(found.vibrations[:2]).max() < NEAR_ZERO  # nothing resists bending


def test_triangle():
    found = find_modes(turned(triangle()))
    mass = found.atoms.get_masses()[0]
    pair, breathing = frequency(1.5 * K, mass), frequency(3 * K, mass)
    assert counts(found) == [3, 3, 3]
    assert found.vibrations == pytest.approx([pair, pair, breathing], abs=TOLERANCE)
    assert np.abs(found.frequencies[:6]).max() < NEAR_ZERO


def test_rocksalt():
    """Springs along two opposite neighbours: k_eff = 2 k for each direction of the optical mode."""
    edge = 2 * R0
    cell = edge / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    positions = [[0, 0, 0], [edge / 2, 0, 0]]
    atoms = turned(with_springs("MgO", positions, cell=cell, pbc=True))
    found = find_modes(atoms)
    m, n = atoms.get_masses()
    assert counts(found) == [3, 0, 3]
    assert found.vibrations == pytest.approx([frequency(2 * K, m * n / (m + n))] * 3, abs=TOLERANCE)
    assert np.abs(found.of_kind("translation")).max() < 1e-3  # rounding: 1e-13 of K


def test_beyond_the_inflection_a_morse_bond_has_an_imaginary_frequency():
    atoms = Atoms("CO", [[0, 0, 0], [0, 0, 1.7]])
    atoms.calc = Morse(4.0, 2.0, R0, 3.0)
    found = find_modes(turned(atoms))
    m, n = atoms.get_masses()
    expected = -frequency(-atoms.calc.curvature(1.7), m * n / (m + n))
    assert expected < -100
    # the fourth derivative a^2 k, times d^2 / 6, is 3e-6 of k
    assert found.vibrations == pytest.approx([expected], abs=10 * TOLERANCE)
    assert found.zero_point_energy == 0
    slope = atoms.calc.bond(1.7)[1]
    assert found.largest_force == pytest.approx(slope, rel=1e-9)


def test_a_fixed_atom():
    atoms = turned(with_springs("CO", [[0, 0, 0], [0, 0, R0]]))
    atoms.set_constraint(FixAtoms([0]))
    found = find_modes(atoms)
    assert counts(found) == [0, 0, 3]
    assert found.vibrations[-1] == pytest.approx(frequency(K, atoms.get_masses()[1]), abs=TOLERANCE)
    assert (found.displacements[:, 0] == 0).all()
    atoms.set_constraint(FixBondLength(0, 1))
    with pytest.raises(DataError, match="a constraint FixBondLength"):
        find_modes(atoms)
    atoms.set_constraint(FixAtoms([0, 1]))
    with pytest.raises(DataError, match="all atoms are fixed"):
        find_modes(atoms)


# Models


def relaxed_ethanol():
    """A molecule at a minimum of a model with random parameters."""
    atoms = SYSTEMS["molecule"]()
    atoms.calc = fdforce.Calculator(model_for(atoms, baseline=False), threads=1)
    relax(atoms)
    return atoms


ethanol = pytest.fixture(relaxed_ethanol, scope="module")


def test_as_ase(ethanol, tmp_path):
    """ASE's Hessian of the same displacements; its own masses, units and eigenvectors."""
    found = find_modes(ethanol, delta=0.01)
    atoms = ethanol.copy()
    atoms.calc = ethanol.calc
    reference = Vibrations(atoms, name=str(tmp_path / "vib"), delta=0.01)
    reference.run()
    expected = np.sort_complex(reference.get_frequencies() ** 2).real
    ours = np.sort(np.sign(found.frequencies) * found.frequencies**2)
    # rotations, of up to 50 cm^-1 with this displacement, are not projected out there: squares of
    # vibrations change by less than 50^2 in 1e6
    assert np.abs(found.of_kind("rotation")).max() < 50
    assert ours[6:] == pytest.approx(expected[6:], rel=1e-3)
    assert ours[-5:] == pytest.approx(expected[-5:], rel=1e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_rotations_and_permutations_change_nothing(ethanol, seed):
    first = find_modes(ethanol)
    other = turned(ethanol, seed)[np.random.default_rng(seed).permutation(len(ethanol))]
    other.calc = ethanol.calc
    found = find_modes(other)
    # directions of the displacements differ: d^2 times fourth derivatives of some 100 eV/Å^4
    assert found.vibrations == pytest.approx(first.vibrations, abs=0.5)
    assert found.zero_point_energy == pytest.approx(first.zero_point_energy, rel=1e-4)
    assert counts(found) == [3, 3, 21]
    assert found.of_kind("translation") == pytest.approx(np.zeros(3), abs=0.1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("single_atom", [3, 0, 0]),
        ("dimer", [3, 2, 1]),
        ("molecule", [3, 3, 21]),
        ("wire", [3, 1, 5]),
        ("slab", [3, 0, 33]),
        ("thin_triclinic", [3, 0, 3]),
        ("bulk", [3, 0, 9]),
    ],
)
def test_counts_and_orthonormality(name, expected):
    atoms = SYSTEMS[name]()
    atoms.calc = fdforce.Calculator(model_for(atoms, baseline=False), threads=1)
    before = atoms.get_positions()
    found = find_modes(atoms)
    assert (atoms.positions == before).all()
    assert counts(found) == expected
    weighted = found.displacements * np.sqrt(atoms.get_masses())[:, None]
    weighted = weighted.reshape(3 * len(atoms), -1) / np.sqrt(found.reduced_masses)[:, None]
    assert weighted @ weighted.T == pytest.approx(np.eye(3 * len(atoms)), abs=1e-10)
    # the energy does not know where the whole is: 0 up to rounding of the forces, 1e-14 / 0.004
    # eV/Å^2, of which 1e-10 eV/Å^2/amu are 0.005 cm^-1
    assert found.of_kind("translation") == pytest.approx(np.zeros(3), abs=0.02)


def test_rotations_at_a_stationary_point_cost_nothing(ethanol):
    assert np.abs(find_modes(ethanol).of_kind("rotation")).max() < 20
    shaken = ethanol.copy()
    shaken.rattle(0.1, seed=1)
    shaken.calc = ethanol.calc
    assert np.abs(find_modes(shaken).of_kind("rotation")).max() > 20


# Relaxation


def test_relaxation_finds_the_minimum():
    atoms = with_springs("CO", [[0, 0, 0], [0, 0, 1.25]])
    assert relax(atoms) > 1
    assert atoms.get_distance(0, 1) == pytest.approx(R0, abs=1e-4 / K)


def test_no_minimum():
    atoms = Atoms("CO", [[0, 0, 0], [0, 0, 1.7]])
    atoms.calc = Morse(4.0, 2.0, R0, 30.0)
    atoms.calc.depth = -4.0
    with pytest.raises(FdforceError, match="no minimum after 5 steps of relaxation"):
        relax(atoms, steps=5)


# Files and the command


def test_written_modes(tmp_path):
    found = find_modes(turned(triangle()))
    found.write(tmp_path / "modes.extxyz")
    frames = ase.io.read(tmp_path / "modes.extxyz", ":")
    assert [frame.info["mode"] for frame in frames] == list(range(9))
    assert [frame.info["kind"] for frame in frames] == found.kinds
    for k, frame in enumerate(frames):
        assert frame.info["frequency"] == pytest.approx(found.frequencies[k], rel=1e-12)
        assert frame.info["reduced_mass"] == pytest.approx(found.reduced_masses[k], rel=1e-12)
        assert frame.arrays["displacement"] == pytest.approx(found.displacements[k], abs=1e-8)
        assert frame.positions == pytest.approx(found.atoms.positions, abs=1e-8)


@pytest.fixture
def files(ethanol, tmp_path):
    """Model and relaxed structure of `ethanol`."""
    model, structure = tmp_path / "model.npz", tmp_path / "ethanol.extxyz"
    fdforce.save_model(model, ethanol.calc.model)
    ase.io.write(structure, [SYSTEMS["molecule"](), ethanol])
    return model, structure


def test_command(files, ethanol, tmp_path):
    arguments = ["modes", *files, "--threads", 1]
    found = json.loads(succeed(*arguments, "--json"))
    expected = find_modes(ethanol)
    # positions in the file have eight decimals
    assert found["vibrations"] == pytest.approx(expected.vibrations.tolist(), abs=0.01)
    assert (found["n_atoms"], len(found["translations"]), len(found["rotations"])) == (9, 3, 3)
    assert found["n_imaginary"] == 0
    assert found["relaxation_steps"] is None
    assert found["infrared"] is None
    # the model was given no range
    assert found["n_atoms_outside"] is not None
    out, plot = tmp_path / "modes.extxyz", tmp_path / "modes.svg"
    text = succeed(*arguments, "--index", 0, "--relax", "--out", out, "--plot", plot)
    assert "relaxed in " in text
    assert "21 vibrations, zero-point energy " in text
    assert "infrared intensities are not available" in text
    assert len(ase.io.read(out, ":")) == 27
    assert plot.read_bytes().startswith(b"<?xml")
    assert not (tmp_path / "vib").exists()


def test_imaginary_frequencies_are_shown_as_such(files):
    result = run("modes", *files, "--index", 0, "--threads", 1)
    assert result.exit_code == 0
    assert "i cm⁻¹" in result.stdout or "i   " in result.stdout
    assert "no stationary point" in result.stderr


def test_wrong_usage(files, tmp_path):
    model, structure = files
    assert "there is no structure 7; the file holds 2" in fail(
        "modes", model, structure, "--index", 7
    )
    assert "no such file" in fail("modes", model, tmp_path / "absent.xyz")
    assert "no such file" in fail("modes", tmp_path / "absent.npz", structure)
    ase.io.write(tmp_path / "other.xyz", Atoms("Ti"))
    assert "atom 0 is Ti, but the model knows only C, H, O" in fail(
        "modes", model, tmp_path / "other.xyz"
    )
    assert "cannot be written" in fail(
        "modes", model, structure, "--out", structure / "modes.extxyz"
    )
    assert "a figure is one of" in fail("modes", model, structure, "--plot", "modes.txt")
    assert run("modes", model, structure, "--delta", 0).exit_code == 2
