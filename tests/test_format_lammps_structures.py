"""LAMMPS' dumps and data files as structures."""

import gzip
import re

import numpy as np
import pytest
from ase import Atoms
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fdforce.errors import DataError, FdforceError
from fdforce.formats import lammps_data, lammps_dump, recognised
from fdforce.structure_files import read_file

# What LAMMPS 22Jul2025 wrote for three atoms in a triclinic box whose origin is (1, -2, 0.5).
CELL = [[6.6, 0, 0], [0.4, 3.3, 0], [-0.3, 0.5, 3.3]]
POSITIONS = np.array([[1.5, -1, 1], [9.1, -2.3, 8.6], [5.5, -0.5, 3]]) - [1, -2, 0.5]
DUMP = """\
ITEM: UNITS
metal
ITEM: TIMESTEP
0
ITEM: NUMBER OF ATOMS
3
ITEM: BOX BOUNDS xy xz yz pp pp ff
6.9999999999999996e-01 8.0000000000000000e+00 4.0000000000000002e-01
-2.0000000000000000e+00 1.8000000000000000e+00 -2.9999999999999999e-01
5.0000000000000000e-01 3.7999999999999998e+00 5.0000000000000000e-01
ITEM: ATOMS id type element xu yu zu fx fy fz
3 2 Ta 5.5 -0.5 3 0.4 2.1 -0.29
1 1 W 1.5 -1 1 -1 1.02 -0.14
2 2 Ta 9.1 -2.3 8.6 0.55 -3.16 0.43
ITEM: TIMESTEP
10
ITEM: NUMBER OF ATOMS
1
ITEM: BOX BOUNDS pp pp pp
1 5
0 3
0 3
ITEM: ATOMS id element xs ys zs
1 W 0.5 0.25 0
"""
DATA = """\
LAMMPS data file via write_data, version 22 Jul 2025, timestep = 1, units = metal

3 atoms
2 atom types

1 7.6 xlo xhi
-2 1.3 ylo yhi
0.5 3.8 zlo zhi
0.4 -0.3 0.5 xy xz yz

Masses

1 183.84
2 180.948

Pair Coeffs # zero

1
2

Atoms # atomic

1 1 1.5 -1 1 0 0 0
3 2 5.5 -0.5 3 0 0 0
2 2 3.5 0.0 2 1 -1 2

Velocities

1 0 0 0
2 0 0 0
3 0 0 0
"""


def write(tmp_path, text, name="a.txt"):
    path = tmp_path / name
    path.write_text(text)
    return path


def same(atoms, symbols, cell, positions, pbc):
    """Up to a translation of the whole."""
    assert str(atoms.symbols) == symbols
    assert atoms.cell.array == pytest.approx(np.array(cell, float), abs=1e-14)
    moved = atoms.positions - positions
    assert moved == pytest.approx(np.broadcast_to(moved[0], moved.shape), abs=1e-13)
    assert atoms.pbc.tolist() == pbc


def test_dump(tmp_path):
    path = write(tmp_path, DUMP)
    assert recognised(path) is lammps_dump
    first, second = read_file(path)
    same(first, "WTa2", CELL, POSITIONS, [True, True, False])
    assert first.positions == pytest.approx(POSITIONS, abs=1e-13)
    assert first.get_forces()[2].tolist() == [0.4, 2.1, -0.29]
    assert list(first.calc.results) == ["forces"]  # and no energy
    same(second, "W", np.diag([4.0, 3, 3]), [[2, 0.75, 0]], [True] * 3)
    assert second.positions.tolist() == [[2, 0.75, 0]]
    assert second.calc is None
    assert (first.info["timestep"], second.info["timestep"]) == (0, 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("type element xu", "type c_1 xu"), "line 11: .* dump_modify ID element Ta W"),
        (("metal", "lj"), "line 2: units lj"),
        (("2 Ta 5.5", "2 Xq 5.5"), "'Xq' is no element"),
        (("2 Ta 5.5", "2 Ta nan"), "lines 12 to 14: xu is nan; a finite number"),
        (("2 Ta 5.5", "2 Ta"), "line 12: 9 columns are expected, 8 found"),
        (("id type element xu", "id type element q"), "no columns x y z"),
        (("TIMESTEP\n0", "TIMESTEP\nzero"), "line 4: 'zero': a whole number"),
        (("pp pp ff", "pp"), "the boundaries of three directions"),
        (("ITEM: ATOMS id element xs ys zs\n1 W 0.5 0.25 0\n", ""), "last frame ends too early"),
        (("NUMBER OF ATOMS\n1\n", "NUMBER OF ATOMS\n2\n"), "5 columns are expected, 0 found"),
        (("pp pp ff", "pp pp nan"), "line 11: the boundaries of three directions"),
        (("fx fy fz", "fx q fz"), "line 14: columns fx fy fz are expected together"),
        (("id type element xu", "id xu element xu"), "line 11: a column is there twice"),
        (("2 Ta 5.5", "2 Ta 5_5"), "lines 12 to 14: xu is 5_5; a finite number"),
        (("-2.0000000000000000e+00", "-2_0"), "line 9: '-2_0' is not a number"),
        (("NUMBER OF ATOMS\n3", "NUMBER OF ATOMS\n" + "3" * 5000), "line 6: '3333.*a whole number"),
        (("ITEM: UNITS\nmetal\nITEM: TIMESTEP", "TIMESTEP"), "does not begin like a dump"),
    ],
)  # fmt: skip
def test_damaged_dumps(tmp_path, change, message):
    assert change[0] in DUMP
    with pytest.raises(DataError, match=message):
        read_file(write(tmp_path, DUMP.replace(*change, 1)))


def test_blank_lines_and_letters_between_frames(tmp_path):
    text = DUMP.replace("ITEM: TIMESTEP\n10", "\n\nITEM: TIMESTEP\n10")
    assert len(read_file(write(tmp_path, text))) == 2
    path = tmp_path / "a.dump"
    path.write_bytes(
        DUMP.replace(" ff\n", " ff \n").replace("Ta 9.1", "\xc5 9.1").encode("latin-1")
    )
    with pytest.raises(DataError, match="is no element"):
        read_file(path)


def test_compressed_dumps_are_not_guessed_at(tmp_path):
    """ASE would take the atom types for atomic numbers."""
    with gzip.open(tmp_path / "a.dump.gz", "wt") as file:
        file.write(DUMP.replace("type element", "type q"))
    with pytest.raises(DataError, match=r"does not begin like a dump .*; unpack it"):
        read_file(tmp_path / "a.dump.gz")


def test_data_file(tmp_path):
    path = write(tmp_path, DATA)
    assert recognised(path) is lammps_data
    (atoms,) = read_file(path)
    same(atoms, "WTa2", CELL, POSITIONS, [True] * 3)


@pytest.mark.parametrize(
    ("changes", "symbols"),
    [
        ([("2 180.948", "2 1.0 # Ta")], "WTa2"),
        ([("1 183.84", "1 183.9"), ("2 180.948", "2 1.008")], "WH2"),
        ([("Masses\n\n1 183.84\n2 180.948", "Atom Type Labels\n\n1 Cu\n2 Au")], "CuAu2"),
        ([("Atoms # atomic", "Atoms")], "WTa2"),
    ],
)
def test_elements_of_data_files(tmp_path, changes, symbols):
    text = DATA
    for change in changes:
        assert change[0] in text
        text = text.replace(*change)
    (atoms,) = read_file(write(tmp_path, text))
    assert str(atoms.symbols) == symbols


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("2 180.948", "2 1.0"), "line 14: the mass 1.0 of atom type 2 is that of no element"),
        (("2 180.948", "2 208.98"), "of atom type 2 may be Bi or Po; name it behind the mass"),
        (("units = metal", "units = real"), "line 1: units real"),
        (("Masses\n\n1 183.84\n2 180.948\n", ""), "there is no section Masses"),
        (("Atoms # atomic", "Atoms # sphere"), "the atom style sphere; write one of atomic"),
        (("Atoms # atomic", "Atoms # charge"), "line 23: atom style charge has 6 columns"),
        (("3 atoms", "4 atoms"), "4 atoms are announced, 3 lines follow"),
        (("3 2 5.5", "3 2 five"), "not a LAMMPS data file"),
        (("3 2 5.5", "3 2 5_5"), "line 24: '5_5' is not a number"),
        (("3 2 5.5", "3 2 nan"), "line 24: 'nan' is not a number"),
        (("1 7.6 xlo", "1 1e999 xlo"), "line 6: 1e999 is too large"),
        (("ylo yhi", "ylo yhj"), "the box has no ylo yhi"),
        (("xy xz yz", "xy xz zy"), "line 9: '0.4 -0.3 0.5 xy xz zy' is not known"),
        (("1 183.84", "² 183.84"), "line 13: an atom type and a mass are expected"),
        (("3 atoms", "33" * 3000 + " atoms"), "33333 atoms are announced, 3 lines follow"),
        (("3 2 5.5", "3 9 5.5"), "not a LAMMPS data file"),
    ],
)
def test_damaged_data_files(tmp_path, change, message):
    assert change[0] in DATA
    with pytest.raises(DataError, match=message):
        read_file(write(tmp_path, DATA.replace(*change, 1)))


def test_columns_without_a_style(tmp_path):
    rows = "1 1 0.0 1.5 -1 1\n3 2 0.0 5.5 -0.5 3\n2 2 0.0 3.5 0.0 2"
    text = re.sub(r"Atoms # atomic\n\n.*?\n\n", f"Atoms\n\n{rows}\n\n", DATA, flags=re.DOTALL)
    with pytest.raises(DataError, match="atom style is not said; write one of"):
        read_file(write(tmp_path, text))
    (atoms,) = read_file(write(tmp_path, text.replace("Atoms\n", "Atoms # charge\n")))
    assert isinstance(atoms, Atoms)
    assert str(atoms.symbols) == "WTa2"


words = st.sampled_from(
    ["0", "1", "2", "-1", "1e999", "nan", "1_0", "ITEM:", "Ta", "abc", "\n", "#", ""]
)


@given(data=st.data())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_fuzzed(data, tmp_path):
    parts = re.split(r"(\s)", data.draw(st.sampled_from([DUMP, DATA])))
    for _ in range(data.draw(st.integers(1, 3))):
        k = data.draw(st.integers(0, len(parts) - 1))
        parts[k] = data.draw(words | st.text(max_size=3))
    path = tmp_path / "a.txt"
    path.write_bytes("".join(parts).encode("utf-8", "surrogatepass"))
    if recognised(path) is None:
        return
    try:
        found = read_file(path)
    except FdforceError:
        return
    for atoms in found:
        assert np.isfinite(atoms.positions).all()
        assert (atoms.numbers > 0).all()
