"""`fdforce convert`: round trips through every format that is written, and nothing half written."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import write
from ase.io.extxyz import key_val_dict_to_str, key_val_str_to_dict
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from fdforce import conversion
from fdforce.cli import main
from fdforce.conversion import convert
from fdforce.errors import DataError, FdforceError
from fdforce.formats import STRUCTURES, WRITTEN, find_module
from fdforce.structure_files import iterate_file, read_file
from fdforce.structures import read_structures
from tests.systems import SYSTEMS

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def systems(*without):
    frames = [make() for name, make in SYSTEMS.items() if name not in without]
    for k, atoms in enumerate(frames):
        atoms.info.update(config_type=f"kind {k % 3}", weight=0.5 + k, trajectory=f"run {k // 4}")
    return frames


def run(*arguments, status=0):
    result = CliRunner().invoke(main, ["convert", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return result.output


def assert_same(one, two, *, atol=0.0, order=None):
    """Two readings agree: labels to rounding, geometry to `atol`."""
    one = one if order is None else one.select(order)
    for name in ("elements", "species", "offsets", "periodic"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), name)
    for name in ("positions", "cells", "energies", "forces", "stresses"):
        got, expected = getattr(two, name), getattr(one, name)
        np.testing.assert_allclose(got, expected, rtol=1e-13, atol=max(atol, 1e-15), err_msg=name)


@pytest.mark.parametrize("name", ["out.extxyz", "out.xyz", "out.extxyz.gz", "out.db"])
def test_round_trip_with_everything(tmp_path, name):
    frames = systems()
    write(tmp_path / "in.traj", frames)
    counts = convert([tmp_path / "in.traj"], tmp_path / name)
    assert (counts.structures, counts.weights) == (len(frames), len(frames))
    before, _ = read_structures(tmp_path / "in.traj")
    after, _ = read_structures(tmp_path / name)
    # extended xyz has eight decimals
    assert_same(before, after, atol=0.0 if name.endswith(".db") else 6e-9)
    for field in ("weights", "config_types", "trajectories"):
        np.testing.assert_array_equal(getattr(after, field), getattr(before, field))


def test_round_trip_through_deepmd_leaves_weights_out(tmp_path):
    frames = systems("slab", "wire")
    write(tmp_path / "in.traj", frames)
    said = run(tmp_path / "in.traj", tmp_path / "out", "--format", "deepmd")
    assert f"out: {len(frames)} structures" in said
    assert "left out, deepmd has no place for them" in said
    before, _ = read_structures(tmp_path / "in.traj")
    after, _ = read_structures(tmp_path / "out")
    # systems are sorted by formula
    order = [int(np.argmin(np.abs(before.energies - energy))) for energy in after.energies]
    assert sorted(order) == list(range(len(before)))
    assert_same(before, after, order=order, atol=1e-14)


def test_through_three_formats_and_back(tmp_path):
    write(tmp_path / "a.traj", systems("slab", "wire"))
    run(tmp_path / "a.traj", tmp_path / "b.db")
    run(tmp_path / "b.db", tmp_path / "c", "--format", "deepmd")
    run(tmp_path / "c", tmp_path / "d.extxyz.xz")
    before, _ = read_structures(tmp_path / "a.traj")
    after, _ = read_structures(tmp_path / "d.extxyz.xz")
    np.testing.assert_allclose(np.sort(after.energies), np.sort(before.energies), rtol=1e-14)
    assert np.linalg.norm(after.forces) == pytest.approx(np.linalg.norm(before.forces), rel=1e-8)


@pytest.mark.parametrize("text", ["001", "T", "1e5", "1 2 3", "nan", "a=b c", "a'b", "é{", "_JSON"])
def test_text_that_looks_like_something_else_comes_back(tmp_path, text):
    atoms = systems()[4]
    atoms.info["config_type"] = text
    write(tmp_path / "in.traj", atoms)
    convert([tmp_path / "in.traj"], tmp_path / "out.extxyz")
    assert read_file(tmp_path / "out.extxyz")[0].info["config_type"] == text


@given(st.text())
def test_any_text_comes_back_or_is_refused(text):
    try:
        written = conversion._readable("config_type", text)
    except FdforceError:
        return
    line = key_val_dict_to_str({"config_type": written, "weight": 2})
    assert len(line.splitlines()) == 1
    assert key_val_str_to_dict(line) == {"config_type": text, "weight": 2}


def test_several_files_in_order_and_what_is_not_labelled(tmp_path):
    one, two = systems()[3:5]
    two.calc = None
    write(tmp_path / "1.extxyz", [one])
    write(tmp_path / "2.extxyz", [two, two])
    counts = convert([tmp_path / "2.extxyz", tmp_path / "1.extxyz"], tmp_path / "all.extxyz")
    assert (counts.structures, counts.energy, counts.forces) == (3, 1, 1)
    assert counts.atoms == 2 * len(two) + len(one)
    found = read_file(tmp_path / "all.extxyz")
    assert [atoms.calc is None for atoms in found] == [True, True, False]


def reference_frames():
    frames = systems()[3:6]
    for k, atoms in enumerate(frames):
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.ones((len(atoms), 3)))
        atoms.info["REF_energy"] = 10.0 + k
        atoms.arrays["dft_forces"] = np.full((len(atoms), 3), 0.25 * k)
        atoms.arrays["site"] = np.arange(len(atoms)) / 8
        atoms.set_constraint(FixAtoms([0]))
    return frames


def test_labels_are_those_that_a_fit_takes(tmp_path):
    write(tmp_path / "in.extxyz", reference_frames())
    run(tmp_path / "in.extxyz", tmp_path / "out.extxyz", "--forces-key", "dft_forces")
    for k, atoms in enumerate(read_file(tmp_path / "out.extxyz")):
        assert atoms.calc.results["energy"] == 10.0 + k
        np.testing.assert_array_equal(atoms.calc.results["forces"], 0.25 * k)
        # no second label stays behind, and no constraint hides forces
        assert not {"REF_energy", "dft_forces", "move_mask"} & {*atoms.info, *atoms.arrays}
        np.testing.assert_array_equal(atoms.arrays["site"], np.arange(len(atoms)) / 8)


def test_a_preferred_name_that_turns_up_late_is_refused(tmp_path):
    frames = reference_frames()
    del frames[0].info["REF_energy"]
    write(tmp_path / "in.extxyz", frames)
    said = run(tmp_path / "in.extxyz", tmp_path / "out.extxyz", status=1)
    assert "in.extxyz[1]: has REF_energy, structures before it energy alone" in said
    assert "--energy-key" in said
    assert list(tmp_path.iterdir()) == [tmp_path / "in.extxyz"]
    run(tmp_path / "in.extxyz", tmp_path / "out.extxyz", "--energy-key", "REF_energy")
    assert [a.calc.results.get("energy") for a in read_file(tmp_path / "out.extxyz")] == [
        None,
        11,
        12,
    ]


@pytest.mark.parametrize(("format", "end"), [("n2p2", "data"), ("aenet", "tar")])
def test_stresses_that_a_format_cannot_hold_are_said_to_be_left_out(tmp_path, format, end):
    atoms = next(a for a in systems() if a.pbc.all() and len(a.calc.results) == 3)
    atoms.info.clear()
    write(tmp_path / "in.traj", atoms)
    output = tmp_path / f"out.{end}"
    said = run(tmp_path / "in.traj", output, "--format", format)
    assert "energy 1, forces 1, stress 0" in said
    assert f"left out, {format} has no place for them: stresses (1)\n" in said
    assert "stress" not in read_file(output)[0].calc.results


def test_what_fails_leaves_the_earlier_file_and_nothing_else(tmp_path):
    good, bad = systems()[3:5]
    bad.calc.results["forces"][1, 2] = np.nan
    write(tmp_path / "in.traj", [good, bad])
    (tmp_path / "out.extxyz").write_text("earlier")
    said = run(tmp_path / "in.traj", tmp_path / "out.extxyz", status=1)
    assert "in.traj[1]: forces of atom 1 is nan along z" in said
    assert (tmp_path / "out.extxyz").read_text() == "earlier"
    assert {file.name for file in tmp_path.iterdir()} == {"in.traj", "out.extxyz"}


@pytest.mark.parametrize(
    ("match", "arguments"),
    [
        ("absent.xyz: no such file", ["absent.xyz", "out.extxyz"]),
        ("the name does not tell the format; name it with --format", ["in.extxyz", "out"]),
        ("full: is a folder with files in it", ["in.extxyz", "full", "--format", "deepmd"]),
        ("no structure has the energy_key 'E'", ["in.extxyz", "o.extxyz", "--energy-key", "E"]),
        ("public:nothing: no such public set is known", ["public:nothing", "out.extxyz"]),
    ],
)
def test_messages(tmp_path, monkeypatch, match, arguments):
    monkeypatch.chdir(tmp_path)
    write("in.extxyz", systems()[4])
    Path("full").mkdir()
    Path("full/file").touch()
    assert match in run(*arguments, status=1)
    assert not [name for name in Path().iterdir() if name.name.startswith((".", "o"))]


def test_wrong_usage():
    assert "give one or more files to read" in run("one.xyz", status=2)
    assert "can be read, not written" in run("one.xyz", "public:qm9", status=2)
    for name in ("three", "md17"):
        assert "is not one of 'extxyz'" in run("one.xyz", "two", "--format", name, status=2)


def test_formats_that_are_written_are_those_with_a_writer():
    writers = [n for n in STRUCTURES if hasattr(find_module(STRUCTURES, n), "write_structures")]
    assert sorted(WRITTEN) == sorted(["extxyz", *writers])


@pytest.mark.parametrize("format", ["xsf2", "md17"])
def test_a_format_that_is_not_written_in_python(tmp_path, format):
    with pytest.raises(FdforceError, match=f"format '{format}' is not written; take one of extxyz"):
        convert([tmp_path / "in.xyz"], tmp_path / "out", format=format)


def test_files_without_structures_and_with_a_wrong_number(tmp_path):
    write(tmp_path / "in.extxyz", systems()[3:6])
    with pytest.raises(DataError, match="3 structures, where 4 are known to be"):
        convert([tmp_path / "in.extxyz"], tmp_path / "out.extxyz", n_structures=4)
    assert convert([tmp_path / "in.extxyz"], tmp_path / "out.db", n_structures=3).structures == 3
    (tmp_path / "empty.npz").write_bytes(b"")
    with pytest.raises(DataError, match="the file is empty"):
        convert([tmp_path / "empty.npz"], tmp_path / "none.extxyz")


def test_a_folder_that_cannot_be_written_to(tmp_path):
    write(tmp_path / "in.extxyz", systems()[4])
    with pytest.raises(FdforceError, match=r"out\.extxyz: cannot be written"):
        convert([tmp_path / "in.extxyz"], tmp_path / "in.extxyz" / "out.extxyz")


def test_structures_stream(tmp_path, monkeypatch):
    """The writer has written structure k before structure k + 1 is read."""
    alive = []

    def watched(source):
        for atoms in systems()[3:6]:
            alive.append("read")
            yield atoms

    monkeypatch.setattr(conversion, "iterate_file", watched)
    monkeypatch.setattr(conversion, "write_xyz", lambda *_: alive.append("written"))
    convert(["in"], tmp_path / "out.extxyz")
    assert alive == ["read", "written"] * 3


def test_compressed_xyz_streams(tmp_path, monkeypatch):
    frames = systems()
    write(tmp_path / "a.extxyz", frames)
    text = (tmp_path / "a.extxyz").read_bytes()
    with gzip.open(tmp_path / "a.extxyz.gz", "wb") as file:
        file.write(text + b"\nnothing after a blank line counts")
    plain, packed = read_file(tmp_path / "a.extxyz"), read_file(tmp_path / "a.extxyz.gz")
    assert plain == packed
    assert len(packed) == len(frames)
    with gzip.open(tmp_path / "b.xyz.gz", "wt") as file:
        file.write(("1\n\nCu 0 0 0\nVEC1 3 0 0\nVEC2 0 3 0\nVEC3 0 0 3\n") * 2)
    assert [atoms.cell.volume for atoms in read_file(tmp_path / "b.xyz.gz")] == [27, 27]
    # a damaged end does not keep the first structures from being read
    with gzip.open(tmp_path / "c.extxyz.gz", "wb") as file:
        file.write(text[:-20])
    frames = iterate_file(tmp_path / "c.extxyz.gz")
    assert next(frames) == plain[0]
    with pytest.raises(DataError, match=r"c\.extxyz\.gz: damaged"):
        list(frames)


def test_a_real_set_comes_back_with_its_groups(tmp_path):
    if not SHARED.is_dir():
        pytest.skip("../shared is absent")
    run(SHARED / "ta_snap.extxyz.gz", tmp_path / "ta.db")
    before, _ = read_structures(SHARED / "ta_snap.extxyz.gz")
    after, _ = read_structures(tmp_path / "ta.db")
    assert_same(before, after)
    assert before.config_types == after.config_types
    assert len(set(after.config_types)) > 5
