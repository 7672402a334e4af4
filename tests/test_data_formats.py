"""Data files of other programs: what is read of them, in which units, and how they fail."""

import contextlib
import io
import itertools
import json
import tarfile
import zipfile
from pathlib import Path

import ase.db
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from fdforce.cli import main
from fdforce.errors import DataError, FdforceError
from fdforce.formats import STRUCTURES, ase_db, deepmd_npy, find_module, labelled, md17_npz
from fdforce.structure_files import iterate_file, read_file
from fdforce.structures import read_structures
from fdforce.units import BOHR, HARTREE, KCAL_PER_MOL

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "formats"

NUMBERS = np.array([8, 1, 1])
RNG = np.random.default_rng(5)
POSITIONS = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]) + RNG.normal(0, 0.05, (7, 3, 3))
ENERGIES = RNG.normal(-470.0, 1.0, 7)
FORCES = RNG.normal(0, 1.0, (7, 3, 3))
CELL = np.array([[6.0, 0.1, 0], [0, 7.0, 0.2], [0.3, 0, 8.0]])
KCAL = ENERGIES * KCAL_PER_MOL, FORCES * KCAL_PER_MOL
NO_OXYGEN = {"coordinates": POSITIONS[:, 1:]}
ONE_MISSING = np.where(np.arange(63).reshape(7, 3, 3) == 9, np.nan, FORCES)
STRESS = np.array([[1.0, 0.1, 0.2], [0.1, 2.0, 0.3], [0.2, 0.3, 3.0]])


def shared(name):
    if not SHARED.is_dir():
        pytest.skip("../shared is absent")
    return SHARED / name


def hdf5():
    return pytest.importorskip("h5py", reason="needs h5py: pip install 'fdforce[hdf5]'")


def fails(match, path):
    with pytest.raises(DataError, match=match) as caught:
        read_file(path)
    assert len(str(caught.value).splitlines()) <= 2
    assert str(Path(path).name) in str(caught.value)


def assert_same(frames, energy=None, forces=None, positions=POSITIONS, numbers=NUMBERS):
    """Frames hold these numbers; the tolerance is that of a product in float64."""
    assert len(frames) == len(positions)
    for k, atoms in enumerate(frames):
        np.testing.assert_array_equal(atoms.numbers, numbers)
        np.testing.assert_allclose(atoms.positions, positions[k], rtol=1e-15)
        results = atoms.calc.results if atoms.calc is not None else {}
        assert ("energy" in results) == (energy is not None)
        assert ("forces" in results) == (forces is not None)
        if energy is not None:
            assert results["energy"] == pytest.approx(energy[k], rel=1e-14)
        if forces is not None:
            np.testing.assert_allclose(results["forces"], forces[k], rtol=1e-14)


# -- ANI-1, COMP6, ANI-1x --------------------------------------------------------------------------


def write_comp6(path, **changes):
    arrays = {
        "species": np.array([b"O", b"H", b"H"]),
        "coordinates": POSITIONS,
        "energies": ENERGIES,
        "forces": FORCES,
        "coordinatesHE": POSITIONS[:2],
        "energiesHE": ENERGIES[:2],
    } | changes
    with hdf5().File(path, "w") as file:
        for name, array in arrays.items():
            if array is not None:
                file[f"set/water/{name}"] = array
    return path


def write_ani1x(path, **changes):
    arrays = {
        "atomic_numbers": NUMBERS.astype(np.uint8),
        "coordinates": POSITIONS,
        "wb97x_dz.energy": ENERGIES,
        "wb97x_dz.forces": FORCES,
        "ccsd(t)_cbs.energy": np.where(np.arange(7) == 2, ENERGIES + 1, np.nan),
        "wb97x_tz.forces": np.where(np.arange(7)[:, None, None] < 4, 2 * FORCES, np.nan),
    } | changes
    with hdf5().File(path, "w") as file:
        for name, array in arrays.items():
            if array is not None:
                file[f"H2O/{name}"] = array
    return path


def test_comp6_calls_gradients_forces(tmp_path):
    frames = read_file(write_comp6(tmp_path / "a.h5"))
    assert_same(frames, ENERGIES * HARTREE, -FORCES * HARTREE)
    assert frames[0].info["trajectory"] == "set/water"
    frames = read_file(write_comp6(tmp_path / "b.h5", forces=None))
    assert_same(frames, ENERGIES * HARTREE)


def test_ani1x_has_true_forces_and_other_levels(tmp_path):
    energies = np.where(np.arange(7) == 3, np.nan, ENERGIES)
    path = write_ani1x(tmp_path / "x.h5", **{"wb97x_dz.energy": energies})
    frames = read_file(path)
    assert "energy" not in frames[3].calc.results
    assert_same(frames[:3], ENERGIES * HARTREE, FORCES * HARTREE, POSITIONS[:3])
    structures, _ = read_structures(
        path, energy_key="ccsd(t)_cbs.energy", forces_key="wb97x_tz.forces"
    )
    assert structures.has_energy.tolist() == [k == 2 for k in range(7)]
    assert structures.energies[2] == pytest.approx((ENERGIES[2] + 1) * HARTREE, rel=1e-15)
    assert structures.has_forces.tolist() == [k < 4 for k in range(7)]
    np.testing.assert_allclose(structures.forces[:12].reshape(4, 3, 3), 2 * FORCES[:4] * HARTREE)


@pytest.mark.parametrize(("write", "energy", "forces", "sign"), [
    ("comp6", "energies", "forces", 1.0), ("ani1x", "wb97x_dz.energy", "wb97x_dz.forces", -1.0),
])  # fmt: skip
def test_energies_that_contradict_the_sign_of_forces(tmp_path, write, energy, forces, sign):
    write = {"comp6": write_comp6, "ani1x": write_ani1x}[write]
    away = POSITIONS - POSITIONS[0]
    energies = np.sum(away**2 + away**3, axis=(1, 2))
    gradients = 2 * away + 3 * away**2
    right = write(tmp_path / "right.h5", **{energy: energies, forces: sign * gradients})
    assert_same(read_file(right), energies * HARTREE, -gradients * HARTREE)
    wrong = write(tmp_path / "wrong.h5", **{energy: energies, forces: -sign * gradients})
    fails("energies of 6 steps say that the forces have the other sign", wrong)


def test_chunks_do_not_show(tmp_path, monkeypatch):
    path = write_ani1x(tmp_path / "x.h5")
    monkeypatch.setattr("fdforce.formats.ani_hdf5.CHUNK", 3)
    assert_same(read_file(path), ENERGIES * HARTREE, FORCES * HARTREE)


@pytest.mark.parametrize(
    ("match", "changes"),
    [
        (r"coordinates has shape \(7, 2, 3\); expected \(M, 3, 3\)", NO_OXYGEN),
        (r"/set/water/energies has shape \(6,\); expected \(7,\)", {"energies": ENERGIES[1:]}),
        (r"/set/water/forces has shape \(7, 3\)", {"forces": FORCES[:, 0]}),
        ("species holds 'Qq', which is not a chemical symbol", {"species": [b"O", b"Qq", b"H"]}),
        ("expected letters", {"species": np.tile(NUMBERS, (7, 1))}),
        ("neither species nor atomic_numbers", {"species": None}),
        ("no group of the HDF5 file has coordinates", {"coordinates": None}),
        ("structure 1: forces are NaN for some", {"forces": ONE_MISSING}),
        ("forces has shape", {"forces": FORCES[..., None]}),
        ("coordinates is no array of real numbers", {"coordinates": POSITIONS * (1 + 0j)}),
        ("energies is no array of real numbers", {"energies": ENERGIES.astype("S8")}),
    ],
)  # fmt: skip
def test_damaged_ani_files_name_the_array(tmp_path, match, changes):
    fails(match, write_comp6(tmp_path / "a.h5", **changes))


@settings(max_examples=30)
@given(st.floats(0, 0.999))
def test_truncated_hdf5_files(tmp_path_factory, part):
    path = tmp_path_factory.getbasetemp() / "truncated.h5"
    content = write_comp6(path).read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(FdforceError):
        read_file(path)


def test_without_h5py_the_message_names_the_extra(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    fails(r"pip install 'fdforce\[hdf5\]'", path)


def test_ani1_of_the_authors():
    hdf5()
    frames = iterate_file(shared("ani1_gdb_s01.h5"))
    first = next(frames)
    assert str(first.symbols) == "CH4"
    # methane at ωB97X/6-31G(d), -40.5 hartree: an energy in another unit would be far off
    assert first.calc.results["energy"] / HARTREE == pytest.approx(-40.49, abs=0.05)
    assert "forces" not in first.calc.results
    assert 1 + sum(1 for _ in frames) == 5400


def test_comp6_forces_of_the_authors_go_down_the_energy():
    """Along a dissociation curve E changes by -(F1 + F2)/2 · Δx; the wrong sign is 200 % off."""
    hdf5()
    frames = read_file(shared("s66x8_wb97x6-31gd.h5"))
    assert len(frames) == 528
    changes, work = [], []
    for one, two in itertools.pairwise(frames):
        step = two.positions - one.positions if len(one) == len(two) else np.inf
        if np.abs(step).max() < 0.07 and one.info["trajectory"] == two.info["trajectory"]:
            changes.append(two.calc.results["energy"] - one.calc.results["energy"])
            work.append(
                -np.sum((one.calc.results["forces"] + two.calc.results["forces"]) * step) / 2
            )
    assert len(changes) > 50
    # the trapezoid misses the third order in a step of 0.05 Å
    assert np.linalg.norm(np.subtract(changes, work)) < 0.15 * np.linalg.norm(changes)


# -- MD17 ------------------------------------------------------------------------------------------


def md17(**changes):
    return {"z": NUMBERS, "R": POSITIONS, "E": ENERGIES[:, None], "F": FORCES} | changes


def rmd17(**changes):
    return {
        "nuclear_charges": NUMBERS.astype(np.uint8), "coords": POSITIONS, "energies": ENERGIES,
        "forces": FORCES, "old_energies": ENERGIES + 1, "old_forces": 2 * FORCES,
    } | changes  # fmt: skip


@pytest.mark.parametrize("arrays", [md17(name="water"), rmd17()], ids=["md17", "rmd17"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_md17_is_in_kcal_per_mol(tmp_path, monkeypatch, arrays, save):
    save(tmp_path / "a.npz", **arrays)
    monkeypatch.setattr(md17_npz, "CHUNK", 3)
    frames = read_file(tmp_path / "a.npz")
    assert_same(frames, ENERGIES * KCAL_PER_MOL, FORCES * KCAL_PER_MOL)


def test_md17_in_other_units_types_and_orders(tmp_path):
    arrays = md17(r_unit="Bohr", e_unit="Hartree", F=np.asfortranarray(FORCES), z=NUMBERS * 1.0)
    np.savez(tmp_path / "a.npz", **arrays)
    frames = read_file(tmp_path / "a.npz")
    assert_same(frames, ENERGIES * HARTREE, FORCES * (HARTREE / BOHR), POSITIONS * BOHR)
    np.savez(tmp_path / "b.npz", **md17(R=POSITIONS.astype(">f4")))
    assert_same(
        read_file(tmp_path / "b.npz"),
        ENERGIES * KCAL_PER_MOL,
        FORCES * KCAL_PER_MOL,
        POSITIONS.astype("f4").astype("f8"),
    )


@pytest.mark.parametrize(
    ("match", "arrays"),
    [
        (r"F has shape \(7, 2, 3\); expected \(7, 3, 3\)", md17(F=FORCES[:, :2])),
        (r"E has shape \(6,\); expected \(7,\)", md17(E=ENERGIES[:6])),
        (r"R has shape \(7, 9\); expected \(7, 3, 3\)", md17(R=POSITIONS.reshape(7, 9))),
        ("z holds 0, which is no atomic number", md17(z=[8, 1, 0])),
        ("r_unit is 'furlong'", md17(r_unit="furlong")),
        ("periodic files of sGDML", md17(lattice=np.eye(3))),
        ("holds a, b; expected z, R, E, F", {"a": [1], "b": [2]}),
        ("R: has type <U1", md17(R=["a", "b"])),
        ("R: not an array of NumPy|R: has type object", md17(R=np.array([None, 1]))),
    ],
)
def test_damaged_md17_files_name_the_array(tmp_path, match, arrays):
    np.savez(tmp_path / "a.npz", **arrays)
    fails(match, tmp_path / "a.npz")


def test_md17_with_rows_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(md17_npz, "CHUNK", 3)
    np.savez(tmp_path / "a.npz", **md17())
    with (
        zipfile.ZipFile(tmp_path / "a.npz") as old,
        zipfile.ZipFile(tmp_path / "b.npz", "w") as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name)[: -8 if name == "F.npy" else None])
    fails(r"F: the file ends before its \(7, 3, 3\) numbers do", tmp_path / "b.npz")
    frames = iterate_file(tmp_path / "b.npz")  # a chunk is read when it is asked for
    assert_same([next(frames) for _ in range(6)], *KCAL, POSITIONS[:6])


@given(st.floats(0, 0.999))
def test_truncated_npz_files(tmp_path_factory, part):
    path = tmp_path_factory.getbasetemp() / "truncated.npz"
    np.savez(path, **md17())
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(FdforceError):
        read_file(path)


@given(st.data())
def test_a_flipped_bit_in_an_npz_file_is_noticed_or_does_no_harm(tmp_path_factory, data):
    """The checksums of zip: either an error, or the numbers as they were."""
    path = tmp_path_factory.getbasetemp() / "flipped.npz"
    np.savez_compressed(path, **md17())
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        frames = read_file(path)
    except FdforceError:
        return
    labels = [ENERGIES * KCAL_PER_MOL, FORCES * KCAL_PER_MOL]
    with_labels = [name in frames[0].calc.results for name in ("energy", "forces")]
    # a name in the directory may have changed, so that an array is not found; never a number
    assert_same(
        frames, *(x if there else None for x, there in zip(labels, with_labels, strict=True))
    )


def test_md17_of_the_authors():
    frames = read_file(shared("rmd17_ethanol_train_01.npz"))
    structures, _ = read_structures(shared("../rmd17_ethanol_train_01.extxyz.gz"))
    assert len(frames) == len(structures) == 1000
    got = np.array([atoms.calc.results["energy"] for atoms in frames])
    # the extxyz has 0.0433641153 eV in a kcal/mol, 2.6e-7 more, and forces to eight decimals
    factor = 0.0433641153087705 / KCAL_PER_MOL
    np.testing.assert_allclose(got * factor, structures.energies, rtol=1e-12)
    forces = np.concatenate([atoms.calc.results["forces"] for atoms in frames])
    np.testing.assert_allclose(forces * factor, structures.forces, atol=6e-9)


# -- QM9 -------------------------------------------------------------------------------------------

# an invented molecule in the layout of the set; the tag of its exponents is "*^"
MOLECULE = """3
gdb 7\t799.6\t437.9\t282.9\t1.85\t6.31\t-0.29\t0.07\t0.36\t19\t0.0215\t-76.4\t-76.3\t-76.2\t-77\t6
O\t-0.0344\t 0.9775\t 7.6*^-3\t-0.589706
H\t 0.0647\t 2.0577*^-2\t 1.5E-3\t 0.294853
H\t 0.8717\t 1.3007\t 6.9*^-5\t 0.294853
1671.4\t3803.6\t3907.6
O\tO
InChI=1S/H2O/h1H2\tInChI=1S/H2O/h1H2
"""


def check_molecule(atoms):
    assert str(atoms.symbols) == "OH2"
    positions = [[-0.0344, 0.9775, 7.6e-3], [0.0647, 2.0577e-2, 1.5e-3], [0.8717, 1.3007, 6.9e-5]]
    np.testing.assert_array_equal(atoms.positions, positions)
    assert atoms.calc.results == {"energy": pytest.approx(-76.4 * HARTREE, rel=1e-15)}
    assert atoms.info["electronic_energy"] == pytest.approx(-76.4215 * HARTREE, rel=1e-14)
    assert not atoms.pbc.any()


def test_qm9_single_in_a_folder_and_in_an_archive(tmp_path):
    folder = tmp_path / "gdb9"
    folder.mkdir()
    for number in (2, 1):
        (folder / f"dsgdb9nsd_00000{number}.xyz").write_text(
            MOLECULE.replace("gdb 7", f"gdb {number}")
        )
    (single,) = read_file(folder / "dsgdb9nsd_000001.xyz")
    check_molecule(single)
    with tarfile.open(tmp_path / "qm9.tar.bz2", "w:bz2") as archive:
        archive.add(folder, "dsgdb9nsd")
    (tmp_path / "several.xyz").write_text(MOLECULE * 3)
    for path, numbers in [
        (folder, ["1", "2"]),
        (tmp_path / "qm9.tar.bz2", None),
        (tmp_path / "several.xyz", ["7"] * 3),
    ]:
        frames = read_file(path)
        for atoms in frames:
            check_molecule(atoms)
        found = [atoms.info["gdb"] for atoms in frames]
        assert found == numbers or (numbers is None and sorted(found) == ["1", "2"])


@pytest.mark.parametrize(
    ("match", "old", "new"),
    [
        ("line 2: U0: '-7x' is not a number", "-76.4\t", "-7x\t"),
        ("line 4: expected symbol, x, y, z and charge, found 'H", "2.0577*^-2\t", ""),
        ("line 4: '1.5F-3' is not a number", "1.5E-3", "1.5F-3"),
        ("line 3: expected symbol", "O\t-0.0344", "Oo\t-0.0344"),
        (
            "line 1: the file ends within 3 atoms",
            "O\tO\nInChI=1S/H2O/h1H2\tInChI=1S/H2O/h1H2\n",
            "",
        ),
        ("line 2: zpve: 'inf' is not a number", "0.0215", "inf"),
        ("line 2: zpve: 1e999 is too large", "0.0215", "1e999"),
        ("line 2: zpve: '0_1' is not a number", "0.0215", "0_1"),
    ],
)
def test_damaged_qm9_files_name_the_line(tmp_path, match, old, new):
    assert MOLECULE.count(old) == 1
    (tmp_path / "a.xyz").write_text(MOLECULE.replace(old, new))
    fails(match, tmp_path / "a.xyz")


def test_a_damaged_second_molecule_is_counted_in_lines(tmp_path):
    (tmp_path / "a.xyz").write_text(MOLECULE + MOLECULE.replace("gdb 7", "xxx 7"))
    fails("line 10: expected 'gdb'", tmp_path / "a.xyz")


def test_blank_lines_between_molecules(tmp_path):
    (tmp_path / "a.xyz").write_text(f"{MOLECULE}\n\n{MOLECULE}\n")
    assert len(read_file(tmp_path / "a.xyz")) == 2
    (tmp_path / "a.xyz").write_text(MOLECULE + "000000003" * 600 + MOLECULE[1:])
    fails("line 9: number of atoms: '000000003", tmp_path / "a.xyz")


@given(st.data())
def test_qm9_text_with_a_character_changed(tmp_path_factory, data):
    place = data.draw(st.integers(0, len(MOLECULE) - 1))
    text = MOLECULE[:place] + data.draw(st.characters()) + MOLECULE[place + 1 :]
    path = tmp_path_factory.getbasetemp() / "fuzz.xyz"
    path.write_text(text, encoding="utf-8", errors="replace")
    try:
        frames = read_file(path)
    except FdforceError:
        return
    for atoms in frames:
        assert np.isfinite(atoms.positions).all()


# -- ASE databases ---------------------------------------------------------------------------------


def water(k=0, scale=1.0, **settings):
    return Atoms(NUMBERS, positions=POSITIONS[k] / scale, **settings)


def test_a_database_of_ase_keeps_labels_and_pairs(tmp_path, monkeypatch):
    monkeypatch.setattr(ase_db, "CHUNK", 2)
    with ase.db.connect(tmp_path / "a.db") as database:
        for k in range(7):
            atoms = water(k, cell=CELL, pbc=True)
            atoms.calc = SinglePointCalculator(atoms, energy=ENERGIES[k], forces=FORCES[k])
            database.write(atoms, config_type="liquid", weight=0.5, data={"run": "001"})
    frames = read_file(tmp_path / "a.db")
    assert_same(frames, ENERGIES, FORCES)
    assert frames[4].info == {"config_type": "liquid", "weight": 0.5, "run": "001"}
    np.testing.assert_array_equal(frames[4].cell, CELL)


def test_iso17_is_in_ev(tmp_path):
    with ase.db.connect(tmp_path / "reference.db") as database:
        for k in range(7):
            database.write(
                water(k),
                key_value_pairs={"total_energy": ENERGIES[k]},
                data={"atomic_forces": FORCES[k]},
            )
    frames = read_file(tmp_path / "reference.db")
    assert_same(frames, ENERGIES, FORCES)
    assert frames[0].info == {}


@pytest.mark.parametrize(
    ("length", "energy", "forces", "units"),
    [
        ("Ang", "eV", "eV/Ang", (1.0, 1.0, 1.0)),
        ("Bohr", "Hartree", "Hartree/Bohr", (BOHR, HARTREE, HARTREE / BOHR)),
        ("Ang", "kcal/mol", "kcal/mol/Ang", (1.0, KCAL_PER_MOL, KCAL_PER_MOL)),
        ("Ang", 27.0, "kJ / mol / Bohr", (1.0, 27.0, KCAL_PER_MOL / 4.184 / BOHR)),
    ],
)
def test_schnetpack_says_its_units(tmp_path, length, energy, forces, units):
    database = ase.db.connect(tmp_path / "a.db")
    database.metadata = {
        "_distance_unit": length,
        "_property_unit_dict": {"energy": energy, "forces": forces, "U": "Hartree"},
    }
    for k in range(7):
        data = {"energy": ENERGIES[k : k + 1], "forces": FORCES[k], "U": np.array([2.0])}
        database.write(water(k, units[0]), data=data)
    frames = read_file(tmp_path / "a.db")
    assert_same(frames, ENERGIES * units[1], FORCES * units[2])
    assert frames[0].info["U"] == pytest.approx(2 * HARTREE)


def test_stress_in_a_database_of_schnetpack(tmp_path):
    database = ase.db.connect(tmp_path / "a.db")
    units = {"stress": "kcal/mol/Ang**3"}
    database.metadata = {"_distance_unit": "Ang", "_property_unit_dict": units}
    database.write(water(cell=CELL, pbc=True), data={"stress": STRESS[None]})
    structures, _ = read_structures(tmp_path / "a.db")
    np.testing.assert_allclose(structures.stresses[0], STRESS * KCAL_PER_MOL, rtol=1e-14)


def test_labels_without_units_are_refused(tmp_path):
    ase.db.connect(tmp_path / "a.db").write(water(), data={"energy": np.array([1.0])})
    fails("row 1: data holds energy, but the metadata of the file name no unit", tmp_path / "a.db")
    database = ase.db.connect(tmp_path / "b.db")
    database.metadata = {"_distance_unit": "Ang", "_property_unit_dict": {"forces": "eV/furlong"}}
    database.write(water(), data={"forces": FORCES[0]})
    fails("row 1: forces: unit 'eV/furlong' is not known", tmp_path / "b.db")
    database = ase.db.connect(tmp_path / "c.db")
    database.metadata = {"_distance_unit": "Ang", "_property_unit_dict": {"forces": "eV/Ang"}}
    database.write(water(), data={"forces": FORCES[0][:2]})
    fails(r"row 1: forces has shape \(2, 3\)", tmp_path / "c.db")


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A file to write to, and what a database in it has."""
    path = tmp_path_factory.mktemp("database") / "a.db"
    with ase.db.connect(path, use_lock_file=False) as database:
        for k in range(7):
            database.write(water(k))
    return path, path.read_bytes()


@settings(max_examples=20)
@given(st.floats(0, 0.95))
def test_truncated_databases(database, part):
    path, content = database
    path.write_bytes(content[: int(part * len(content))])
    # the last page may hold nothing that is read
    with contextlib.suppress(FdforceError):
        assert_same(read_file(path))


# -- DeePMD ----------------------------------------------------------------------------------------


def write_deepmd(folder, sets=((0, 4), (4, 7)), periodic=True, **changes):
    folder.mkdir(parents=True)
    (folder / "type.raw").write_text("1\n0\n0\n")
    (folder / "type_map.raw").write_text("H O\n")
    if not periodic:
        (folder / "nopbc").touch()
    arrays = {
        "coord": POSITIONS.reshape(7, 9),
        "box": np.tile(CELL.ravel(), (7, 1)) if periodic else None,
        "energy": ENERGIES,
        "force": FORCES.reshape(7, 9),
        "virial": np.tile(-STRESS.ravel() * abs(np.linalg.det(CELL)), (7, 1)) if periodic else None,
    } | changes
    for number, (start, end) in enumerate(sets):
        (folder / f"set.{number:03d}").mkdir()
        for name, array in arrays.items():
            if array is not None:
                np.save(folder / f"set.{number:03d}" / f"{name}.npy", array[start:end])
    return folder


def test_deepmd_periodic(tmp_path):
    path = write_deepmd(tmp_path / "water")
    assert_same(read_file(path), ENERGIES, FORCES)
    structures, _ = read_structures(path)
    np.testing.assert_allclose(structures.stresses[6], STRESS, rtol=1e-14)
    np.testing.assert_array_equal(structures.cells[6], CELL)


def test_deepmd_molecules_columns_and_several_systems(tmp_path):
    write_deepmd(tmp_path / "all/a", periodic=False, energy=ENERGIES[:, None])
    write_deepmd(tmp_path / "all/more/b", periodic=False, force=None)
    frames = read_file(tmp_path / "all")
    assert_same(frames[:7], ENERGIES, FORCES)
    assert_same(frames[7:], ENERGIES)
    assert not frames[0].pbc.any()


def test_deepmd_mixed_type(tmp_path):
    types = np.tile([1, 0, 0], (7, 1))
    types[5] = [0, 1, -1]
    frames = read_file(write_deepmd(tmp_path / "a", real_atom_types=types))
    assert_same(frames[:5], ENERGIES[:5], FORCES[:5], POSITIONS[:5])
    assert str(frames[5].symbols) == "HO"
    np.testing.assert_array_equal(frames[5].positions, POSITIONS[5, :2])
    np.testing.assert_array_equal(frames[5].calc.results["forces"], FORCES[5, :2])


@pytest.mark.parametrize(
    ("match", "changes"),
    [
        (r"set.000/force.npy: has shape \(4, 6\); expected \(4, 9\)", {"force": np.ones((7, 6))}),
        (r"energy.npy: has shape \(4, 2\)", {"energy": np.ones((7, 2))}),
        ("box.npy: no such file; an empty file nopbc", {"box": None}),
        ("coord.npy: no such file", {"coord": None}),
        ("energy.npy: expected an array of numbers", {"energy": np.array(["a"] * 7)}),
        ("energy.npy: not an array of NumPy", {"energy": np.array([None] * 7)}),
        ("structure 0: has atom types that type_map", {"real_atom_types": np.full((7, 3), 4)}),
        ("0: real_atom_types are not whole", {"real_atom_types": np.full((7, 3), 0.5)}),
        ("0: real_atom_types are not whole", {"real_atom_types": np.full((7, 3), np.nan)}),
    ],
)  # fmt: skip
def test_damaged_systems_name_the_file(tmp_path, match, changes):
    fails(match, write_deepmd(tmp_path / "a", **changes))


@pytest.mark.parametrize(
    ("file", "content", "match"),
    [
        ("type.raw", "1 0 x", "type.raw: expected the type of every atom"),
        ("type.raw", "1 0 -1", "type.raw: expected the type of every atom"),
        ("type.raw", "1 0 1_0", "type.raw: expected the type of every atom"),
        ("type.raw", "1 0 2", "atom types that type_map.raw does not name"),
        ("type.raw", "", "type.raw: names no atoms"),
        ("type_map.raw", "H Oxygen", "'Oxygen' is not a chemical symbol"),
        ("type_map.raw", None, "without it the elements are not known"),
        ("set.000/energy.npy", "nonsense", "energy.npy: not an array of NumPy"),
    ],
)
def test_damaged_text_of_a_system(tmp_path, file, content, match):
    path = write_deepmd(tmp_path / "a")
    (path / file).unlink()
    if content is not None:
        (path / file).write_text(content)
    fails(match, path)


def test_a_system_without_sets(tmp_path):
    (tmp_path / "type.raw").write_text("0")
    (tmp_path / "type_map.raw").write_text("H")
    fails("has no folder set", tmp_path)


@settings(max_examples=30)
@given(st.floats(0, 0.999), st.sampled_from(["coord", "box", "energy", "force", "virial"]))
def test_truncated_npy_files(tmp_path_factory, part, name):
    path = tmp_path_factory.mktemp("deepmd") / "a"
    file = write_deepmd(path, sets=[(0, 7)]) / "set.000" / f"{name}.npy"
    content = file.read_bytes()
    file.write_bytes(content[: int(part * len(content))])
    with pytest.raises(FdforceError):
        read_file(path)


def test_deepmd_written_in_many_sets_and_systems(tmp_path, monkeypatch):
    monkeypatch.setattr(deepmd_npy, "SET_SIZE", 3)
    monkeypatch.setattr(deepmd_npy, "HELD_ATOMS", 13)
    voigt = STRESS[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    frames = [
        labelled.labelled(
            water(k % 7, cell=CELL, pbc=True)[: 2 + k % 2],
            energy=float(k),
            forces=FORCES[k % 7][: 2 + k % 2],
            stress=voigt * k,
        )
        for k in range(20)
    ]
    assert deepmd_npy.write_structures(tmp_path / "out", iter(frames)) == 20
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"H2O", "HO"}
    again = sorted(read_file(tmp_path / "out"), key=lambda atoms: atoms.calc.results["energy"])
    for one, two in zip(frames, again, strict=True):
        assert one == two
        for name in ("energy", "forces"):
            np.testing.assert_array_equal(one.calc.results[name], two.calc.results[name])
        np.testing.assert_allclose(
            one.calc.results["stress"], two.calc.results["stress"], rtol=1e-14
        )


def test_deepmd_cannot_hold_a_slab(tmp_path):
    slab = water(cell=CELL, pbc=[True, True, False])
    with pytest.raises(FdforceError, match="structure 0 is periodic in some directions only"):
        deepmd_npy.write_structures(tmp_path / "out", [slab])


# -- all of them -----------------------------------------------------------------------------------


@given(st.binary(max_size=300), st.sampled_from([".npz", ".h5", ".db", ".xyz", ".tar.bz2"]))
def test_files_of_random_bytes_are_refused(tmp_path_factory, content, suffix):
    magic = {".npz": b"PK\x03\x04", ".h5": b"\x89HDF\r\n\x1a\n", ".db": b"SQLite format 3\x00"}
    path = tmp_path_factory.getbasetemp() / f"random{suffix}"
    path.write_bytes(magic.get(suffix, b"1\ngdb ") + content)
    with pytest.raises(FdforceError):
        read_file(path)


@pytest.mark.parametrize("name", STRUCTURES)
def test_no_format_recognises_what_is_not_there(tmp_path, name):
    module = find_module(STRUCTURES, name)
    assert not module.recognises(tmp_path / "absent")
    assert not module.recognises(tmp_path)
    (tmp_path / "plain.xyz").write_text("1\n\nH 0 0 0\n")
    assert not module.recognises(tmp_path / "plain.xyz")


def test_info_describes_npz_files_of_data(tmp_path):
    np.savez(tmp_path / "a.npz", **md17())
    result = CliRunner().invoke(main, ["info", str(tmp_path / "a.npz"), "--json"])
    (item,) = json.loads(result.output)["files"]
    assert (item["kind"], item["n_structures"], item["elements"]) == ("data", 7, {"H": 14, "O": 7})


def test_a_model_is_no_data(tmp_path):
    np.savez(tmp_path / "model.npz", header=np.zeros(3))
    assert not md17_npz.recognises(tmp_path / "model.npz")


def test_rows_of_an_array_that_is_too_new():
    from fdforce.formats.npy_rows import NpyRows

    with pytest.raises(DataError, match="here: not an array of NumPy"):
        NpyRows(io.BytesIO(b"\x93NUMPY\x03\x00" + bytes(50)), "here")
