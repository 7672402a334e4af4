"""XSF structures with ænet's energy comment."""

import io
import tarfile
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import given
from hypothesis import strategies as st

from fdforce.errors import DataError, FdforceError
from fdforce.formats import STRUCTURES, find_module, recognised
from fdforce.structure_files import read_file
from fdforce.structures import read_structures

AENET = find_module(STRUCTURES, "aenet")
GOLDEN = Path(__file__).parent / "golden" / "aenet" / "tio2_cheb"
SHARED = Path(__file__).parents[1].parent / "shared" / "data"

GOOD = """# total energy = -12.25D+00 eV

CRYSTAL
PRIMVEC
  5.0 0.0 0.0
  0.5 6.0 0.0
  0.0 0.0 .7d1
PRIMCOORD
2 1
Ti 1.0 2.0 3.0  0.1 -0.2 3d-1
O  1.5 2.5 4.0 -0.1  0.2 -0.3
"""


def one(tmp_path, text, name="a.xsf"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    (atoms,) = AENET.read_structures(path)
    return atoms


def problem(tmp_path, text):
    with pytest.raises(DataError) as raised:
        one(tmp_path, text)
    return str(raised.value).split("a.xsf, ")[1]


def test_energy_forces_and_cell(tmp_path):
    for text in (GOOD, GOOD.replace("\n", "\r\n"), b"# \xe9\xff \x81nergie\n" + GOOD.encode()):
        atoms = one(tmp_path, text)
        assert recognised(tmp_path / "a.xsf") is AENET
        assert atoms.get_potential_energy() == -12.25
        assert atoms.get_forces().tolist() == [[0.1, -0.2, 0.3], [-0.1, 0.2, -0.3]]
        assert atoms.cell.tolist() == [[5, 0, 0], [0.5, 6, 0], [0, 0, 7]]
        assert atoms.pbc.all()
        assert str(atoms.symbols) == "TiO"


def test_molecules_cohesive_energies_and_files_without_labels(tmp_path):
    atoms = one(tmp_path, "# cohesive energy = -3.5 eV\nATOMS\nH 0 0 0\n1 0 0 0.74\n")
    assert not atoms.pbc.any()
    assert str(atoms.symbols) == "H2"
    assert atoms.calc.results == {"energy": -3.5}
    both = "# total energy = -40 eV\n# cohesive energy = -3.5 eV\nATOMS\nH 0 0 0\n"
    assert one(tmp_path, both).get_potential_energy() == -3.5  # as generate.x has it
    plain = one(tmp_path, "ATOMS\nH 0 0 0 0 0 0\n")
    assert plain.calc is None
    # without the comment a file is XCrysDen's
    assert recognised(tmp_path / "a.xsf") is None
    assert len(read_file(tmp_path / "a.xsf")) == 1


def test_comments_in_utf8(tmp_path):
    """The second byte of Å is a line end of Latin-1."""
    (tmp_path / "a.xsf").write_text("# 6 Å and more\n" + GOOD, encoding="utf-8")
    assert read_file(tmp_path / "a.xsf")[0] == one(tmp_path, GOOD)


def test_malformed_files_are_named(tmp_path):
    def wrong(old, new):
        return problem(tmp_path, GOOD.replace(old, new))

    assert wrong("2 1\n", "3 1\n") == "line 11: 2 atoms, but the file says 3"
    assert wrong("2 1\n", "1 1\n").startswith("line 11: 'O  1.5")
    assert wrong("2 1\n", "two\n") == "line 9: number of atoms: 'two' is not a whole number"
    assert wrong("0.5 6.0 0.0", "0.5 6.0") == "line 6: 2 numbers in a lattice vector"
    assert (
        wrong(" -0.3\n", "\n") == "line 11: 6 columns; expected El x y z, or these and three forces"
    )
    assert wrong("  0.1 -0.2 3d-1", "") == "line 11: 7 columns, but the first atom has 4"
    assert wrong("Ti 1.0", "Xx 1.0") == "line 10: 'Xx' is no chemical element"
    assert wrong("Ti 1.0", "Ti nan") == "line 10: atom: 'nan' is not a number"
    assert wrong("-12.25D+00", "much") == "line 1: energy: 'much' is not a number"
    assert wrong("CRYSTAL", "SLAB").startswith("line 3: 'SLAB': ænet reads CRYSTAL")
    assert wrong("PRIMVEC\n  5.0 0.0 0.0\n  0.5 6.0 0.0\n  0.0 0.0 .7d1\n", "").endswith(
        "PRIMCOORD without PRIMVEC"
    )
    assert "forces without a comment" in wrong("# total energy = -12.25D+00 eV", "")
    assert problem(tmp_path, "# total energy = 1 eV\n") == "line 1: no PRIMCOORD or ATOMS"
    assert "a second list of atoms" in problem(tmp_path, GOOD + "\nATOMS\nH 0 0 0\n")


def frames():
    rng = np.random.default_rng(0)
    for k in range(3):
        atoms = Atoms("TiO2", rng.normal(size=(3, 3)) * 2, cell=rng.normal(size=(3, 3)) * 4)
        atoms.pbc = k != 1
        atoms.calc = SinglePointCalculator(
            atoms, energy=rng.normal() * 1e3, forces=rng.normal(size=(3, 3))
        )
        yield atoms


@pytest.mark.parametrize("name", ["folder", "all.tar.gz", "all.tgz", "all.tar"])
def test_what_is_written_is_read_again(tmp_path, name):
    path = tmp_path / name
    assert AENET.write_structures(path, frames()) == 3
    assert recognised(path) is AENET
    again = list(AENET.read_structures(path))
    assert len(again) == 3
    for a, b in zip(frames(), again, strict=True):
        assert np.array_equal(a.positions, b.positions)
        assert a.get_potential_energy() == b.get_potential_energy()
        assert np.array_equal(a.get_forces(), b.get_forces())
        assert np.array_equal(a.pbc, b.pbc)
        assert np.array_equal(a.cell, b.cell) or not a.pbc.any()
    assert len(read_structures([str(path)])[0]) == 3


def test_what_aenet_has_no_place_for(tmp_path):
    atoms = next(frames())
    assert AENET.write_structures(tmp_path / "one.xsf", [atoms]) == 1
    with pytest.raises(DataError, match="one structure in a file"):
        AENET.write_structures(tmp_path / "two.xsf", frames())
    slab = atoms.copy()
    slab.pbc = [True, True, False]
    with pytest.raises(DataError, match=r"structure 1: periodic in 2 direction"):
        AENET.write_structures(tmp_path / "slab.xsf", [slab])
    bare = Atoms("H", [[0, 0, 0]])
    bare.arrays["forces"] = np.ones((1, 3))
    with pytest.raises(DataError, match="forces without an energy"):
        AENET.write_structures(tmp_path / "all.tar.gz", [bare])
    assert not list(tmp_path.glob("*all*"))
    bare.positions[0, 0] = np.inf
    del bare.arrays["forces"]
    with pytest.raises(DataError, match="not finite"):
        AENET.write_structures(tmp_path / "inf.xsf", [bare])


def test_kinds_of_energies_do_not_mix(tmp_path):
    (tmp_path / "a.xsf").write_text(GOOD)
    (tmp_path / "b.xsf").write_text(GOOD.replace("total", "cohesive"))
    with pytest.raises(DataError, match=r"b\.xsf: has a cohesive energy, but .*a\.xsf a total one"):
        list(AENET.read_structures(tmp_path))


def test_damaged_archives(tmp_path):
    path = tmp_path / "a.tar.gz"
    AENET.write_structures(path, frames())
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"a\.tar\.gz"):
        read_file(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"a\.tar\.gz"):
        read_file(path)
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("bad.xsf")
        info.size = 5
        archive.addfile(info, io.BytesIO(b"ATOMS"))
    with pytest.raises(DataError, match=r"a\.tar\.gz: bad\.xsf, line 1: no atoms"):
        read_file(path)


def test_geometry_agrees_with_ase():
    for file in sorted(GOLDEN.glob("*.xsf")):
        (atoms,) = AENET.read_structures(file)
        other = ase.io.read(file)
        assert np.array_equal(atoms.positions, other.positions)
        assert np.array_equal(atoms.cell, other.cell) or not atoms.pbc.any()
        assert f"{atoms.get_potential_energy():.6f}" in file.read_text()


def test_the_example_of_aenet_pytorch():
    path = SHARED / "formats" / "tio2_xsf.tar.gz"
    if not path.exists():
        pytest.skip("../shared is absent")
    ours = [frame.get_potential_energy() for frame in AENET.read_structures(path)]
    theirs = ase.io.iread(SHARED / "tio2_aenet.extxyz.gz")
    assert sorted(ours) == sorted(frame.get_potential_energy() for frame in theirs)
    assert len(ours) == 1000


@given(data=st.data())
def test_damaged_files_raise_nothing_else(tmp_path_factory, data):
    content = bytearray(GOOD.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        length = data.draw(st.sampled_from([0, 1, 1, 4, 40]))
        content[at : at + length] = data.draw(st.binary(max_size=6))
    path = tmp_path_factory.getbasetemp() / "a.xsf"
    path.write_bytes(content)
    try:
        (atoms,) = AENET.read_structures(path)
    except FdforceError:
        return
    assert np.isfinite(atoms.positions).all()
    if atoms.calc is not None:
        assert b"energy" in content
        assert all(np.isfinite(value).all() for value in atoms.calc.results.values())
