"""n2p2's input.data: structures in and out, and what is none."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fdforce.errors import ConfigError, DataError, FdforceError
from fdforce.formats import STRUCTURES, find_module
from fdforce.formats.n2p2.text import UNITS
from fdforce.structure_files import read_file
from fdforce.structures import read_structures
from tests.systems import SYSTEMS

OWN = Path(__file__).parent / "golden" / "own" / "n2p2"
n2p2 = find_module(STRUCTURES, "n2p2")

TEXT = """\
begin set=test
comment  two words
lattice 9.0 0.0 0.0
lattice 0.5 8.0 0.0
lattice 0.0 0.0 7D0
atom 0.1 0.2 0.3 O -0.8 0.0 0.01 0.02 -0.03
   atom 1.1 0.2 0.3 H 0.4 0.0 -0.01 -0.02 3.0d-2

energy -76.25
charge 0.5
end
begin
atom 0.0 0.0 0.0 H 0.0 0.0 0.0 0.0 0.0
energy -0.5
charge 0.0
end
begin set=train
atom 0.0 0.0 0.0 H 0.0 0.0 0.0 0.0 0.0
end
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "input.data"
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize("case", ["tio2", "water_bohr_norm"])
def test_structures_of_n2p2(case):
    """Positions, cells and symbols as n2p2 has seen them."""
    golden = np.load(OWN / case / "golden.npz")
    frames = list(n2p2.read_structures(OWN / case))
    assert len(frames) == len(golden["names"])
    for name, atoms in zip(golden["names"], frames):
        assert atoms.get_chemical_symbols() == list(golden[f"{name}/symbols"])
        # ten decimals in the file
        assert np.abs(atoms.positions - golden[f"{name}/positions"]).max() < 1e-9
        cell = golden[f"{name}/cell"]
        assert atoms.pbc.all() == (len(cell) > 0) == atoms.pbc.any()
        if len(cell):
            assert np.abs(atoms.cell - cell).max() < 1e-9


def test_everything_in_a_structure(file):
    first, second, third = read_file(file)
    assert first.get_chemical_symbols() == ["O", "H"]
    assert first.cell.tolist() == [[9, 0, 0], [0.5, 8, 0], [0, 0, 7]]
    assert first.positions.tolist() == [[0.1, 0.2, 0.3], [1.1, 0.2, 0.3]]
    assert first.get_forces().tolist() == [[0.01, 0.02, -0.03], [-0.01, -0.02, 0.03]]
    assert first.get_initial_charges().tolist() == [-0.8, 0.4]
    assert first.get_potential_energy() == -76.25
    assert first.info == {"set": "test", "comment": "two words", "charge": 0.5}
    assert first.pbc.all()
    assert not second.pbc.any()
    assert "set" not in second.info
    structures, _ = read_structures(file)
    assert structures.has_energy.tolist() == [True, True, False]
    assert third.info == {"set": "train"}


def test_units_and_sets_behind_the_name(file):
    energy, length = UNITS["hartree-bohr"]
    for name in (f"{file}#units=hartree-bohr", f"{file.parent}#units=hartree-bohr,set=test"):
        atoms = read_file(name)[0]
        assert atoms.get_potential_energy() == pytest.approx(-76.25 * energy, rel=1e-15)
        assert atoms.positions[1, 0] == pytest.approx(1.1 * length, rel=1e-15)
        assert atoms.get_forces()[0, 0] == pytest.approx(0.01 * energy / length, rel=1e-15)
        assert atoms.cell[1, 1] == pytest.approx(8 * length, rel=1e-15)
    assert [len(read_file(f"{file}#set={name}")) for name in ("train", "test")] == [2, 1]
    for wrong in ("units=eV", "set=valid", "colour=red", "set"):
        with pytest.raises(ConfigError, match=r"choose from units=ev-angstrom\|hartree-bohr"):
            read_file(f"{file}#{wrong}")
    with pytest.raises(DataError, match="no such file"):
        read_file(f"{file.parent / 'absent'}#set=test")


def test_a_name_may_hold_a_hash(tmp_path):
    path = tmp_path / "a#set=test"
    path.mkdir()
    (path / "input.data").write_text(TEXT)
    assert len(read_file(path)) == 3


@pytest.mark.parametrize("name", ["input.data", "other.data", "input.data.gz", "."])
def test_what_is_recognised(tmp_path, name):
    if name.endswith(".gz"):
        (tmp_path / name).write_bytes(gzip.compress(TEXT.encode()))
    else:
        (tmp_path / ("input.data" if name == "." else name)).write_text("\r\n\n " + TEXT)
    path = tmp_path / name
    assert n2p2.recognises(path)
    assert len(read_file(path)) == 3


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.data", b"LAMMPS data file\n\n4 atoms\n"), ("a.xyz", TEXT.encode()), ("a.data", b""),
     ("a.data.gz", b"no archive"), ("input.nn", b"begin\n")],
)  # fmt: skip
def test_what_is_not(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert not n2p2.recognises(tmp_path / name)
    assert not n2p2.recognises(tmp_path)


def edited(old, new):
    assert TEXT.count(old) >= 1
    return TEXT.replace(old, new, 1)


WRONG = [
    (TEXT[: TEXT.index("charge 0.0")], r"begins in line 12 has no 'end'; the file is truncated"),
    (edited("set=test", "set=valid"), r"line 1: 'begin set=valid': expected begin, begin set=tr"),
    (edited("end\nbegin\n", "begin\n"), r"line 11: 'begin', but the structure of line 1 has no"),
    (edited("end\nbegin\n", "end\nend\n"), r"line 12: expected 'begin', found 'end'"),
    (edited("lattice 9.0 0.0 0.0\n", ""), r"line 10: the structure of line 1 has 2 lattice lines"),
    (edited("lattice 9.0 0.0", "lattice 9.0"), r"line 3: lattice has 2 values instead of 3"),
    (edited("O -0.8", "Xx -0.8"), r"line 6: 'Xx' is no chemical element"),
    (edited("O -0.8 0.0", "O -0.8"), r"line 6: atom has 8 values instead of 9"),
    (edited("0.02 -0.03", "nan -0.03"), r"line 6: 'nan' is not a number"),
    (edited("0.02 -0.03", "1_0 -0.03"), r"line 6: '1_0' is not a number"),
    (edited("-76.25", "-1e400"), r"line 9: -1e400 is too large"),
    (edited("-76.25", "-76.25 eV"), r"line 9: energy has 2 values instead of 1"),
    (edited("charge 0.5", "energy 0.5"), r"line 10: energy is given twice"),
    (edited("charge 0.5", "stress 0.5"), r"line 10: unknown keyword 'stress'; expected one of com"),
    (edited("end\nbegin\n", "end\nbegin\nend\nbegin\n"), r"line 13: .* of line 12 has no atoms"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_wrong_files_are_refused_with_their_line(file, text, message):
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        read_file(file)


def test_a_damaged_archive(tmp_path):
    path = tmp_path / "input.data.gz"
    path.write_bytes(gzip.compress((TEXT * 500).encode())[:-30])
    with pytest.raises(DataError, match="damaged or truncated archive"):
        read_file(path)


# Writing

NUMBERS = st.floats(-1e6, 1e6)
POINTS = st.tuples(NUMBERS, NUMBERS, NUMBERS)
ATOMS = st.lists(
    st.tuples(st.sampled_from(["H", "O", "Ti"]), POINTS, POINTS), min_size=1, max_size=4
)


@given(
    st.lists(st.tuples(ATOMS, NUMBERS, st.booleans(), st.sampled_from(["", "train", "test"]))),
    st.sampled_from(["input.data", "some.data.gz"]),
)
@settings(max_examples=30)
def test_what_is_written_is_read_again(tmp_path_factory, drawn, name):
    frames = []
    for members, energy, periodic, mark in drawn:
        symbols, positions, forces = zip(*members)
        cell = dict(cell=np.eye(3) * 5 + 0.1 * energy % 1, pbc=True) if periodic else {}
        atoms = Atoms(symbols, positions, **cell)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.array(forces))
        if mark:
            atoms.info["set"] = mark
        frames.append(atoms)
    path = tmp_path_factory.mktemp("data") / name
    assert n2p2.write_structures(path, iter(frames)) == len(frames)
    again = list(n2p2.read_structures(path))
    assert len(again) == len(frames)
    for one, other in zip(frames, again):
        assert one.get_chemical_symbols() == other.get_chemical_symbols()
        assert np.array_equal(one.positions, other.positions)
        assert np.array_equal(one.get_forces(), other.get_forces())
        assert one.get_potential_energy() == other.get_potential_energy()
        assert np.array_equal(one.pbc, other.pbc)
        assert np.array_equal(one.cell, other.cell)
        assert one.info.get("set") == other.info.get("set")


def test_marks_comments_and_charges_are_kept(file, tmp_path):
    frames = list(n2p2.read_structures(file))[:2]
    n2p2.write_structures(tmp_path, frames)  # the folder's input.data, which is replaced
    for one, other in zip(frames, n2p2.read_structures(file)):
        other.info.setdefault("charge", 0.0)
        assert {"charge": 0.0, **one.info} == other.info
        assert np.array_equal(one.get_initial_charges(), other.get_initial_charges())


def test_what_cannot_be_written_leaves_the_earlier_file(file):
    good = SYSTEMS["bulk"]()
    no_energy, no_forces, slab = good.copy(), good.copy(), SYSTEMS["slab"]()
    no_energy.calc = SinglePointCalculator(no_energy, forces=np.zeros((len(good), 3)))
    no_forces.calc = SinglePointCalculator(no_forces, energy=1.0)
    flat = good.copy()
    flat.cell[2] = 0
    flat.calc = SinglePointCalculator(flat, energy=1.0, forces=np.zeros((len(good), 3)))
    for atoms, message in (
        (no_energy, "structure 1: has no energy; n2p2's input.data needs them"),
        (no_forces, "structure 1: has no forces"),
        (slab, "structure 1: is periodic in some directions alone; .* pbc=True"),
        (flat, "structure 1: its cell is singular"),
    ):
        with pytest.raises(DataError, match=message):
            n2p2.write_structures(file, [good, atoms])
        assert file.read_text() == TEXT
        assert [path.name for path in file.parent.iterdir()] == ["input.data"]
    with pytest.raises(DataError, match="cannot be written"):
        n2p2.write_structures(file / "below" / "input.data", [good])


# Damage

DAMAGE = st.lists(
    st.tuples(
        st.integers(0, len(TEXT)),
        st.integers(0, 12),
        st.sampled_from(["", "\n", " ", "1", "e", "-"]),
    ),
    min_size=1,
    max_size=3,
)  # fmt: skip


def damaged(text, damage):
    for at, length, filling in damage:
        text = text[:at] + filling + text[at + length :]
    return text


def frames_or_problem(path):
    try:
        return list(n2p2.read_structures(path)), None
    except FdforceError as problem:
        return None, str(problem)


@given(DAMAGE)
@settings(max_examples=150)
@example([(10, 0, "\x1c")])
@example([(0, 0, "\ufeff")])
@example([(60, 3, "\x85")])
def test_damaged_files_raise_nothing_else(tmp_path_factory, damage):
    path = tmp_path_factory.getbasetemp() / "damaged.data"
    path.write_text(damaged(TEXT, damage), encoding="utf-8")
    frames, problem = frames_or_problem(path)
    if problem is not None:
        assert "damaged.data, line " in problem or "truncated" in problem
        assert "\n" not in problem
        return
    for atoms in frames:
        assert len(atoms) >= 1
        assert np.isfinite(atoms.positions).all()
        assert np.isfinite(atoms.get_forces()).all()


@given(st.binary(max_size=200))
@settings(max_examples=40)
@example(b"begin\nend")
@example(b"\x00")
def test_any_bytes(tmp_path_factory, content):
    for name in ("bytes.data", "bytes.data.gz"):
        path = tmp_path_factory.getbasetemp() / name
        path.write_bytes(content)
        n2p2.recognises(path)
        frames, problem = frames_or_problem(path)
        assert frames == [] or name in problem
