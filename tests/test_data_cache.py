"""A cached data set is the set in memory: the same numbers, the same models, the same errors."""

import contextlib
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import time
import weakref
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from click.testing import CliRunner

import fdforce
from fdforce import (
    cached_structures,
    data_cache,
    data_set,
    evaluation,
    mapped,
    problem,
    selection,
    splitting,
    structure_files,
)
from fdforce.cached_structures import CachedStructures, kept_pairs, list_pairs
from fdforce.checkpoint import load_checkpoint
from fdforce.cli import main
from fdforce.comparison import (
    Comparison,
    errors_by_element,
    errors_by_group,
    read_predictions,
)
from fdforce.data_cache import read_cached
from fdforce.data_set import residual_target
from fdforce.errors import ConfigError, DataError, TrainingError
from fdforce.examples import example_files
from fdforce.losses import Target
from fdforce.mixed_batches import with_force_labels
from fdforce.models.zbl import ZBL, shortest_distances
from fdforce.neighbors import build_pairs
from fdforce.reference_energies import reference_energies
from fdforce.structure_files import read_file
from fdforce.structures import PER_ATOM, Structures, read_structures
from tests.systems import SYSTEMS

ROOT = Path(__file__).resolve().parents[1]
BLOCK = 64


@pytest.fixture
def tiny_blocks(monkeypatch):
    """Everything in blocks of a few rows, and every array of a cached set in files."""
    for module in (mapped, data_set, evaluation, splitting, fdforce.models.zbl):
        monkeypatch.setattr(module, "BLOCK", BLOCK)
    monkeypatch.setattr(mapped, "SMALL", 0)
    monkeypatch.setattr(cached_structures, "FEW_ATOMS", 10)
    monkeypatch.setattr(cached_structures, "SELECTED", 3)
    monkeypatch.setattr(data_cache, "CHUNK_ATOMS", 40)
    monkeypatch.setattr(data_set, "READ", 3)


def silent(line):
    pass


def frames_of_all_kinds() -> list:
    """Every awkward system twice, with groups, trajectories, weights and isolated atoms."""
    frames = []
    for number in range(2):
        for make in SYSTEMS.values():
            atoms = make()
            atoms.positions += 1e-3 * number * np.arange(len(atoms))[:, None]
            atoms.info["config_type"] = ("bulk", "surface")[number]
            atoms.info["weight"] = 1.0 + number
            if len(frames) % 3:
                atoms.info["trajectory"] = f"run {len(frames) % 4}"
            if len(frames) % 5 == 0:
                del atoms.calc.results["forces"]
            frames.append(atoms)
    frames.insert(5, isolated("H", -13.0))
    frames.insert(5, isolated("O", -430.0))
    return frames


def isolated(element, energy):
    atoms = Atoms(element, info={"config_type": "IsolatedAtom"})
    atoms.calc = SinglePointCalculator(atoms, energy=energy)
    return atoms


def saved(path, frames):
    write(path, frames, format="extxyz")
    return path


@pytest.fixture(scope="module")
def all_kinds(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("kinds") / "kinds.extxyz", frames_of_all_kinds())


def assert_same_structures(found, expected):
    assert isinstance(expected, Structures)
    assert found.elements == expected.elements
    for field in fields(Structures):
        value, wanted = getattr(found, field.name), getattr(expected, field.name)
        if field.name in ("labels", "config_types", "trajectories"):
            assert list(value) == list(wanted), field.name
            assert np.array(value).tolist() == list(wanted), field.name
        elif field.name != "elements":
            assert value.dtype == wanted.dtype, field.name
            np.testing.assert_array_equal(value, wanted, err_msg=field.name)


# Reading


@pytest.mark.parametrize("elements", [None, ["O", "H", "C", "Cu", "Ti", "Pt"]])
def test_cached_structures_are_those_in_memory(all_kinds, tmp_path, tiny_blocks, elements):
    cached, isolated = read_cached([all_kinds], tmp_path, elements=elements, log=silent)
    expected, expected_isolated = read_structures(all_kinds, elements=elements)
    assert_same_structures(cached, expected)
    assert isolated == expected_isolated == {"H": -13.0, "O": -430.0}
    assert isinstance(cached, CachedStructures)
    assert all(mapped.is_mapped(getattr(cached, name)) for name in PER_ATOM)
    np.testing.assert_array_equal(cached.compositions, expected.compositions)
    np.testing.assert_array_equal(cached.volumes, expected.volumes)


def test_selections_are_those_in_memory(all_kinds, tmp_path, tiny_blocks):
    cached, _ = read_cached([all_kinds], tmp_path, log=silent)
    expected, _ = read_structures(all_kinds)
    shuffled = np.random.default_rng(0).permutation(len(cached))[: len(cached) * 2 // 3]
    for indices in (shuffled, slice(2, 9), [3], cached.has_forces):
        found = cached.select(indices)
        assert_same_structures(found, expected.select(indices))
        again = found.select([1, 0] if len(found) > 1 else [0])
        wanted = expected.select(indices).select([1, 0] if len(found) > 1 else [0])
        assert_same_structures(again, wanted)
    some = cached.select(shuffled)
    assert all(mapped.is_mapped(getattr(some, name)) for name in (*PER_ATOM, "cells", "stresses"))
    assert cached.select(slice(None)) is cached
    assert not list(tmp_path.rglob(".scratch*"))


def test_pairs_of_a_selection_come_from_those_of_the_whole(all_kinds, tmp_path, tiny_blocks):
    cached, _ = read_cached([all_kinds], tmp_path, log=silent)
    expected, _ = read_structures(all_kinds)
    indices = np.random.default_rng(1).permutation(len(cached))[: len(cached) // 2]
    lines = []
    for part, wanted in ((cached, expected), (cached.select(indices), expected.select(indices))):
        found = list_pairs(part, 4.0, skin=0.1, log=lines.append)
        pairs = build_pairs(wanted, 4.0, skin=0.1)
        batch, in_memory = (
            fdforce.batch.make_batch(*both) for both in ((part, found), (wanted, pairs))
        )
        assert (in_memory.row_end - in_memory.row_begin).sum() > 300  # or nothing is compared
        np.testing.assert_array_equal(
            batch.row_end - batch.row_begin, in_memory.row_end - in_memory.row_begin
        )
        for of_row, wanted_row in zip(
            zip(batch.row_begin, batch.row_end, strict=True),
            zip(in_memory.row_begin, in_memory.row_end, strict=True),
            strict=True,
        ):
            here, there = slice(*of_row), slice(*wanted_row)
            np.testing.assert_array_equal(batch.neighbor[here], in_memory.neighbor[there])
            np.testing.assert_array_equal(batch.shift[:, here], in_memory.shift[:, there])
        # kernels are compiled for these types; another one would have them compiled again
        assert type(batch.neighbor) is type(batch.positions) is np.ndarray
        assert batch.neighbor.flags.writeable
        assert batch.shift.flags.c_contiguous
        np.testing.assert_array_equal(
            shortest_distances(part, found), shortest_distances(wanted, pairs)
        )
    assert [line for line in lines if "pairs" in line] == lines
    assert len(lines) == 1


def test_structures_without_pairs(tmp_path, tiny_blocks):
    path = saved(tmp_path / "single.extxyz", [SYSTEMS["single_atom"](), SYSTEMS["single_atom"]()])
    cached, _ = read_cached([path], tmp_path / "cache", log=silent)
    pairs = list_pairs(cached, 4.0, skin=0.0, log=silent)
    assert pairs.neighbor.shape == (0,)
    assert pairs.shift.shape == (3, 0)


def test_splits_duplicates_and_references_are_those_in_memory(tmp_path, tiny_blocks):
    frames = read_file(example_files("ethanol")[1])[:40]
    for copy in (3, 3, 17, 30):
        frames.insert(8, frames[copy].copy())
        frames[8].calc = frames[copy].calc
    for number, atoms in enumerate(frames):
        atoms.info["trajectory"] = ("", "a", "b", "c", "d")[number % 5]
    path = saved(tmp_path / "copies.extxyz", frames)
    cached, _ = read_cached([path], tmp_path / "cache", log=silent)
    expected, _ = read_structures(path)
    found = splitting.find_duplicates(cached)
    assert found.max() < len(cached) - 1  # there are copies
    np.testing.assert_array_equal(found, splitting.find_duplicates(expected))
    for how in ("random", "trajectory"):
        of_cached = splitting.split_structures(cached, 0.3, how=how, seed=3)
        of_memory = splitting.split_structures(expected, 0.3, how=how, seed=3)
        for one, other in zip(of_cached, of_memory, strict=True):
            np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(reference_energies(cached), reference_energies(expected))
    assert problem.fingerprint(cached, None) == problem.fingerprint(expected, None)


def resident(path) -> int:
    """Bytes of a mapped file that are in memory."""
    blocks = Path("/proc/self/smaps").read_text().split(f"{path}\n")[1:]
    assert blocks
    return sum(1024 * int(re.search(r"Rss: +(\d+) kB", block)[1]) for block in blocks)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux")
def test_a_pass_over_all_labels_leaves_nothing_in_memory(tmp_path):
    n_rows = 20 * mapped.BLOCK
    np.save(tmp_path / "forces.npy", np.full((n_rows, 3), np.nan))
    forces = mapped.open_array(tmp_path / "forces.npy")
    most = 0
    for rows in mapped.pieces(forces):
        assert np.isnan(rows).all()
        most = max(most, resident(tmp_path / "forces.npy"))
    around = 2**21  # bytes that Linux may map around each place, on both sides
    assert rows.nbytes <= most <= rows.nbytes + 2 * around
    target = Target(np.zeros(2), forces, np.full((2, 3, 3), np.nan), np.ones(2))
    assert not with_force_labels(target, np.array([1, n_rows - 1])).any()
    assert resident(tmp_path / "forces.npy") == 0


def test_labels_less_a_baseline_and_drawn_forces(all_kinds, tmp_path, tiny_blocks):
    cached, _ = read_cached([all_kinds], tmp_path, log=silent)
    expected, _ = read_structures(all_kinds)
    baseline = ZBL(expected.elements, np.full((len(expected.elements),) * 2, 2.6))
    offsets = np.arange(len(expected.elements), dtype=float)
    targets = [
        residual_target(structures, offsets, baseline, list_pairs(structures, 4.0, skin=0.0))
        for structures in (cached, expected)
    ]
    assert mapped.is_mapped(targets[0].forces)
    assert mapped.is_mapped(targets[0].virial)
    assert not np.array_equal(targets[1].forces, expected.forces, equal_nan=True)
    for how in ("structures", "atoms"):
        drawn = [selection.select_forces(target, expected, 0.5, how, seed=2) for target in targets]
        assert np.isnan(drawn[0].forces).sum() > np.isnan(expected.forces).sum()
        for one, other in ((targets[0], targets[1]), (drawn[0], drawn[1])):
            for name in vars(one):
                np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    untouched, _ = data_cache.open_cached(cached.folder)
    np.testing.assert_array_equal(untouched.forces, expected.forces)


def test_no_more_than_a_chunk_is_read_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(data_cache, "CHUNK_ATOMS", 45)  # five molecules
    path = saved(tmp_path / "e.extxyz", read_file(example_files("ethanol")[1])[:40])
    made, most = [], []
    read = data_cache.iterate_file

    def watched(source):
        for atoms in read(source):
            made.append(weakref.ref(atoms))
            most.append(sum(one() is not None for one in made))
            yield atoms
            del atoms

    monkeypatch.setattr(data_cache, "iterate_file", watched)
    cached, _ = read_cached([path], tmp_path / "cache", log=silent)
    assert len(cached) == 40
    # the chunk, the one before it that is let go of, and the structure at hand
    assert max(most) <= 11


def test_a_better_name_of_a_label_that_turns_up_late(tmp_path, tiny_blocks):
    """The whole file is read by it, as when the file is in memory."""
    frames = read_file(example_files("ethanol")[1])[:20]
    for number, atoms in enumerate(frames):
        energy = atoms.get_potential_energy()
        atoms.info["free_energy"] = energy + 1.0
        if number >= 15:
            atoms.info["REF_energy"] = energy
        del atoms.calc.results["energy"]
    path = saved(tmp_path / "late.extxyz", frames)
    cached, _ = read_cached([path], tmp_path / "cache", log=silent)
    expected, _ = read_structures(path)
    assert expected.has_energy.sum() == 5
    assert_same_structures(cached, expected)


@pytest.mark.parametrize(
    ("change", "options"),
    [
        (lambda frames: frames[4].arrays.update(positions=frames[4].positions * 0.01), {}),
        (lambda frames: frames[7].calc.results.update(energy=np.nan), {}),
        (lambda frames: [f.calc.results.clear() for f in frames], {}),
        (lambda frames: None, {"energy_key": "dft_energy"}),
        (lambda frames: None, {"elements": ["C", "H"]}),
        (lambda frames: None, {"elements": ["C", "H", "Qq"]}),
        (lambda frames: frames.__setitem__(slice(None), [isolated("H", -13.0)] * 2), {}),
    ],
)
def test_errors_are_those_of_reading_into_memory(tmp_path, tiny_blocks, change, options):
    frames = read_file(example_files("ethanol")[1])[:10]
    change(frames)
    path = saved(tmp_path / "wrong.extxyz", frames)
    with pytest.raises(DataError) as expected:
        read_structures(path, require_labels=True, **options)
    with pytest.raises(DataError) as found:
        read_cached([path], tmp_path / "cache", log=silent, **options)
    assert str(found.value) == str(expected.value)
    assert not list((tmp_path / "cache").iterdir())  # nothing half written is left


def test_compressed_files_are_unpacked_in_pieces(tmp_path, monkeypatch):
    import gzip

    text = saved(tmp_path / "e.extxyz", frames_of_all_kinds()).read_text()
    expected = read_file(tmp_path / "e.extxyz")
    monkeypatch.setattr(structure_files, "PIECE", 500)
    path = tmp_path / "e.extxyz.gz"
    with_cell = "1\nsecond\nH 0 0 0\nVEC1 9 0 0\nVEC2 0 9 0\nVEC3 0 0 9\n"
    for content, more in (
        (text, 0), (text + "\n", 0), (text + "\n" + text, 0), (text + with_cell, 1),
        (with_cell + text, 1),
    ):  # fmt: skip
        path.write_bytes(gzip.compress(content.encode()))
        found = read_file(path)
        assert len(found) == len(expected) + more
        shift = more if content.startswith(with_cell) else 0
        for one, other in zip(found[shift:], expected, strict=False):
            assert one == other
        assert not more or found[0 if shift else -1].cell.lengths().tolist() == [9, 9, 9]
    for wrong in (text + "three\nx\nH 0 0 0\n", text + "3\nx\nH 0 0 0\n"):
        path.write_bytes(gzip.compress(wrong.encode()))
        with pytest.raises(DataError, match="damaged"):
            read_file(path)
    with path.open("wb") as file, gzip.open(file, "wb") as packed:
        packed.write(text.encode())
    with gzip.open(path, "rt") as file:
        pieces = list(structure_files._whole_structures(file))
    assert len(pieces) > 5
    assert "".join(pieces) == text


# Validity


def test_an_epoch_that_is_cut_short_leaves_nothing_in_memory(all_kinds, tmp_path, monkeypatch):
    structures, _ = read_cached(all_kinds, tmp_path, log=silent)
    data, released = data_set.DataSet(structures, None, None), []
    monkeypatch.setattr(data_set.DataSet, "release", lambda self: released.append(self))
    for _ in data.in_turn([np.arange(2)] * 3):
        break
    assert released == [data]


@pytest.fixture
def ethanol(tmp_path):
    return saved(tmp_path / "e.extxyz", read_file(example_files("ethanol")[1])[:12])


def read_logged(path, folder, **options):
    """Structures, and what is said."""
    lines = []
    return read_cached([path], folder, log=lines.append, **options)[0], lines


def test_a_cache_is_read_again_when_content_or_settings_change(ethanol, tmp_path):
    folder = tmp_path / "cache"
    first, lines = read_logged(ethanol, folder)
    assert len(lines) == 1
    assert lines[0].startswith("packing e.extxyz into ")
    assert read_logged(ethanol, folder)[1] == []

    before = ethanol.stat()
    os.utime(ethanol, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    assert read_logged(ethanol, folder)[1] == []  # the same content

    text = ethanol.read_text()
    ethanol.write_text(text.replace("C   ", "C    ", 1).replace("\n", " \n", 0))
    changed = text.replace("energy=-", "energy=+", 1)
    assert len(changed) == len(text)
    assert changed != text
    ethanol.write_text(changed)
    os.utime(ethanol, ns=(before.st_atime_ns, before.st_mtime_ns + 2 * 10**9))
    second, lines = read_logged(ethanol, folder)
    assert len(lines) == 1
    assert "e.extxyz: has changed; packing" in lines[0]
    assert second.energies[0] == -first.energies[0]
    assert read_logged(ethanol, folder)[1] == []
    assert len(list(folder.iterdir())) == 1

    other, lines = read_logged(ethanol, folder, elements=["O", "C", "H"])
    assert other.elements == ("O", "C", "H")
    assert len(lines) == 1
    assert read_logged(ethanol, folder, energy_key="energy")[1]
    assert read_logged(ethanol, folder)[1] == []  # all of them are kept
    ethanol.unlink()
    with pytest.raises(DataError, match=r"e.extxyz: no such file"):
        read_cached([ethanol], folder)


@pytest.mark.parametrize("name", ["forces.npy", "header.json", "offsets.npy"])
def test_a_damaged_cache_is_written_again(ethanol, tmp_path, name):
    folder = tmp_path / "cache"
    first, _ = read_logged(ethanol, folder)
    expected, home = np.array(first.forces), first.folder
    for damage in (lambda p: os.truncate(p, p.stat().st_size - 8), os.unlink):
        damage(home / name)
        again, lines = read_logged(ethanol, folder)
        assert len(lines) == 1
        assert "is damaged; packing" in lines[0]
        np.testing.assert_array_equal(again.forces, expected)
    pairs = list_pairs(again, 4.0, skin=0.1, log=silent)
    shift, home = np.array(pairs.shift), home / "pairs-4.0-0.1"
    os.truncate(home / "shift.npy", 140)
    lines = []
    np.testing.assert_array_equal(list_pairs(again, 4.0, skin=0.1, log=lines.append).shift, shift)
    assert len(lines) == 1


def test_a_killed_writer_leaves_no_cache(ethanol, tmp_path):
    folder = tmp_path / "cache"
    code = f"""
import os, signal
from fdforce import data_cache
data_cache.CHUNK_ATOMS = 20
data_cache._Packer._number_species = lambda self: os.kill(os.getpid(), signal.SIGKILL)
data_cache.read_cached([{str(ethanol)!r}], {str(folder)!r})
"""
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True)
    assert killed.returncode == -9, killed.stderr
    (left,) = folder.iterdir()
    assert left.name.startswith(".unfinished-")
    assert (left / "forces.npy").exists()
    structures, lines = read_logged(ethanol, folder)
    assert len(lines) == 1
    assert "damaged" not in lines[0]
    assert_same_structures(structures, read_structures(ethanol)[0])
    # it may belong to a process that still writes; a day later it does not
    assert left.exists()
    old = time.time() - 2 * data_cache.ABANDONED
    for path in (*left.iterdir(), left):
        os.utime(path, (old, old))
    shutil.rmtree(structures.folder)
    read_cached([ethanol], folder, log=silent)
    assert not left.exists()


@contextlib.contextmanager
def largest_file(nbytes):
    """No file may grow beyond so many bytes: writing fails as on a full disk."""
    resource = pytest.importorskip("resource", reason="needs limits of POSIX")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk(ethanol, tmp_path, tiny_blocks):
    folder = tmp_path / "cache"
    with largest_file(1500), pytest.raises(DataError) as caught:
        read_cached([ethanol], folder, log=silent)
    assert str(caught.value).startswith(f"{folder}: packed data of at least 0 MB cannot be written")
    assert "data.cache" in str(caught.value)
    assert list(folder.iterdir()) == []

    cached, _ = read_cached([ethanol], folder, log=silent)
    with largest_file(1500), pytest.raises(DataError, match="packed data of at least"):
        list_pairs(cached, 4.0, skin=0.1, log=silent)
    with largest_file(1500), pytest.raises(DataError, match=r"packed data of at least 0 MB"):
        cached.select(np.arange(11))
    assert sorted(path.suffix for path in cached.folder.iterdir()) == [".json", *[".npy"] * 13]
    list_pairs(cached, 4.0, skin=0.1, log=silent)


def test_the_error_names_the_bytes_that_are_needed(tmp_path, monkeypatch, ethanol):
    cached, _ = read_cached([ethanol], tmp_path / "cache", log=silent)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(DataError, match=r"at least 24 MB cannot be written .*No space left"):
        mapped.new_array(cached.positions, (10**6, 3), np.float64)
    assert not list(tmp_path.rglob(".scratch*"))


def test_a_cache_among_the_data_is_refused(ethanol, tmp_path):
    with pytest.raises(DataError, match=r"data.cache = .*packed: lies among the data of"):
        read_cached([tmp_path], tmp_path / "packed", log=silent)


def test_others_may_read_a_cache(ethanol, tmp_path):
    (tmp_path / "plain").mkdir()
    cached, _ = read_cached([ethanol], tmp_path / "cache", log=silent)
    assert cached.folder.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_that_cannot_be_made(ethanol, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file: packed data .* cannot be written there"):
        read_cached([ethanol], tmp_path / "file", log=silent)


# Training


SETTINGS = {
    "valid": 0.25, "test": 0.2, "hidden": [6], "radial_order": 4, "angular_order": 2,
    "batch_size": 5, "epochs": 3, "threads": 1, "checkpoint_every": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def training_file(tmp_path_factory):
    frames = read_file(example_files("ethanol")[1])[::8]
    frames[3].calc.results.pop("forces")
    for number, atoms in enumerate(frames):
        atoms.info["config_type"] = ("warm", "hot")[number % 2]
    path = tmp_path_factory.mktemp("training") / "e.extxyz"
    return saved(path, frames)


def assert_same_run(found: Path, expected: Path):
    (header, arrays), (wanted_header, wanted) = (
        load_checkpoint(path / "checkpoint.npz") for path in (found, expected)
    )
    assert header["fingerprint"] == wanted_header["fingerprint"]
    assert arrays.keys() == wanted.keys()
    for name, array in arrays.items():
        if name == "rows":  # without times
            array, wanted[name] = array[:, 3:], wanted[name][:, 3:]
        np.testing.assert_array_equal(array, wanted[name], err_msg=name)
    metrics = [json.loads((path / "metrics.json").read_text()) for path in (found, expected)]
    assert metrics[0] == metrics[1]
    parts, wanted_parts = (read_predictions(path / "predictions.npz") for path in (found, expected))
    assert parts.keys() == wanted_parts.keys() == {"train", "valid", "test"}
    for part, comparison in parts.items():
        for name, value in vars(comparison).items():
            np.testing.assert_equal(value, getattr(wanted_parts[part], name), err_msg=name)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": {"name": "adam"}, "force_fraction": 0.5, "force_redraw": 2,
         "group_weights": {"hot": [2.0, 0.5, 1.0]}},
        {"optimizer": {"name": "lbfgs"}, "epochs": 2, "baseline": "zbl_lammps",
         "baseline_inner": 1.2, "baseline_outer": 2.0},
    ],
    ids=["kalman", "adam", "lbfgs"],
)  # fmt: skip
def test_a_run_from_the_cache_is_the_run_in_memory(training_file, tmp_path, tiny_blocks, changes):
    settings = {"train": [str(training_file)], **SETTINGS, **changes}
    fdforce.fit(out=tmp_path / "memory", log=silent, **settings)
    cache = tmp_path / "cache"
    lines = []
    for number in range(2):  # with an empty cache, and with a full one
        fdforce.fit(out=tmp_path / f"{number}", log=lines.append, cache=str(cache), **settings)
        assert_same_run(tmp_path / f"{number}", tmp_path / "memory")
    assert sum("packing" in line for line in lines) == 1
    assert sum("listing the pairs" in line for line in lines) == 1
    assert not list(cache.rglob(".*"))  # no scratch is left


def test_a_run_is_resumed_from_memory_and_from_the_cache(training_file, tmp_path, tiny_blocks):
    settings = {"train": [str(training_file)], **SETTINGS}
    cache = str(tmp_path / "cache")
    fdforce.fit(out=tmp_path / "whole", log=silent, **settings)

    def stop(progress, row):
        if progress.epoch == 2:
            raise KeyboardInterrupt

    for name, first, then in (("a", cache, ""), ("b", "", cache), ("c", cache, cache)):
        with pytest.raises(KeyboardInterrupt):
            fdforce.fit(out=tmp_path / name, log=silent, on_epoch=stop, **settings, cache=first)
        fdforce.fit(resume=tmp_path / name, log=silent, cache=then)
        assert_same_run(tmp_path / name, tmp_path / "whole")


def test_files_for_validation_and_an_ensemble(training_file, ethanol, tmp_path, tiny_blocks):
    settings = {
        **SETTINGS, "train": [str(training_file)], "valid": 0.3, "test": [str(ethanol)],
        "epochs": 2, "ensemble": 2,
    }  # fmt: skip
    fdforce.fit(out=tmp_path / "memory", log=silent, **settings)
    found = fdforce.fit(out=tmp_path / "cached", log=silent, cache=str(tmp_path / "c"), **settings)
    assert_same_metrics = (tmp_path / "cached" / "metrics.json").read_text()
    assert assert_same_metrics == (tmp_path / "memory" / "metrics.json").read_text()
    for member in ("member-0", "member-1"):
        theirs = [
            fdforce.load_model(tmp_path / run / member / "model.npz").theta
            for run in ("cached", "memory")
        ]
        np.testing.assert_array_equal(*theirs)
    assert found.metrics["test"]["n_structures"] == 12


def test_an_exploded_loss_names_structures_of_the_cache(training_file, tmp_path, tiny_blocks):
    settings = {"train": [str(training_file)], **SETTINGS, "optimizer": {"name": "adam"}}
    settings["optimizer"]["learning_rate"] = 1e6
    with pytest.raises(TrainingError, match=r"e.extxyz\[\d+\]"):
        fdforce.fit(out=tmp_path / "run", log=silent, cache=str(tmp_path / "c"), **settings)


def test_only_some_settings_change_on_resuming(training_file, tmp_path):
    settings = {"train": [str(training_file)], **SETTINGS, "epochs": 1}
    fdforce.fit(out=tmp_path / "run", log=silent, **settings)
    with pytest.raises(ConfigError, match=r"data.valid = 0.5: .* data.cache alone"):
        fdforce.fit(resume=tmp_path / "run", valid=0.5)


def test_a_relative_cache_lies_beside_the_configuration(tmp_path):
    (tmp_path / "fit.toml").write_text('[data]\ntrain = "a.xyz"\ncache = "packed"\n')
    config = fdforce.config.load_config(tmp_path / "fit.toml")
    assert config.data.cache == str(tmp_path / "packed")
    assert fdforce.config.default_config().data.cache == ""


# Evaluation in parts


def test_predictions_in_parts_are_those_of_the_whole(training_file, tmp_path, monkeypatch):
    from fdforce.assessment import assess

    result = fdforce.fit(
        out=tmp_path / "run", log=silent, train=[str(training_file)], **SETTINGS | {"epochs": 1}
    )
    structures, _ = read_structures(training_file, elements=result.model.elements)
    model = result.model
    model.feature_max = model.feature_max - 0.3 * (model.feature_max - model.feature_min)
    whole = assess(model, structures)
    monkeypatch.setattr(evaluation, "BLOCK", BLOCK)
    parts = assess(model, structures)
    assert len(list(evaluation.parts_of(structures))) > 3
    assert len(whole.outside) > 5
    # other batches, other rounding: 1e-12 is a thousand units in the last place of these numbers
    for name, value in vars(whole.prediction).items():
        np.testing.assert_allclose(
            getattr(parts.prediction, name), value, rtol=1e-12, atol=1e-12, err_msg=name
        )
    found, expected = parts.errors(), whole.errors()
    assert found.pop("stress_rmse") is found.pop("stress_mae") is None
    assert found == pytest.approx({name: expected[name] for name in found}, rel=1e-10)
    for name, value in vars(whole.outside).items():
        np.testing.assert_allclose(getattr(parts.outside, name), value, rtol=1e-9, err_msg=name)


@pytest.mark.parametrize(
    ("ensemble", "cached"), [(1, False), (1, True), (2, True)],
    ids=["memory", "cache", "ensemble"],
)  # fmt: skip
def test_a_run_is_evaluated_with_the_pairs_it_has(
    training_file, tmp_path, tiny_blocks, monkeypatch, ensemble, cached
):
    from fdforce import assessment

    listed = []

    def listing(structures, *words, **options):
        listed.extend(structures.labels)
        return build_pairs(structures, *words, **options)

    monkeypatch.setattr(assessment, "build_pairs", listing)
    special = {"epochs": 1, "ensemble": ensemble}
    if cached:
        special["cache"] = str(tmp_path / "cache")
    if ensemble > 1:
        special["valid"] = 0.0  # the members would divide what is evaluated together
    result = fdforce.fit(
        out=tmp_path / "run", log=silent, train=[str(training_file)], **SETTINGS | special
    )
    found = read_predictions(tmp_path / "run" / "predictions.npz")
    parts = problem.read_parts(fdforce.config.load_config(tmp_path / "run" / "config.toml"))
    # the test set in memory has no pairs before it is evaluated
    assert listed == ([] if cached else list(parts.test.labels))
    assert found.keys() == parts.by_name().keys()
    for name, structures in parts.by_name().items():
        expected = assessment.assess(result.model, structures).compare()
        # pairs beyond the cutoff add nothing; other batches, other rounding; forces as float32
        for quantity, rtol in (("energies", 1e-12), ("forces", 2**-23)):
            np.testing.assert_allclose(
                getattr(found[name], f"predicted_{quantity}"),
                getattr(expected, f"predicted_{quantity}"), rtol=rtol, atol=1e-12,
            )  # fmt: skip
        if name != "train":
            assert tuple(found[name].n_extrapolating) == expected.n_extrapolating


def test_a_run_is_evaluated_where_the_cache_has_no_room_for_pairs(ethanol, tmp_path, monkeypatch):
    def full(*words, **options):
        raise DataError("no room")

    cached, _ = read_cached([ethanol], tmp_path / "cache", log=silent)
    lines, options = [], {"skin": 0.1, "log": silent}
    assert kept_pairs({"test": cached}, 4.0, **options).keys() == {"test"}
    monkeypatch.setattr(cached_structures, "list_pairs", full)
    assert kept_pairs({"test": cached}, 4.0, **options | {"log": lines.append}) == {}
    assert lines == ["no room"]


# -- commands --------------------------------------------------------------------------------------


def printed(*words):
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_commands_say_the_same_from_the_cache(training_file, tmp_path, tiny_blocks):
    fdforce.fit(
        train=[str(training_file)], valid=0.2, hidden=[3], epochs=1, out=tmp_path / "run",
        log=silent,
    )  # fmt: skip
    model, cache = tmp_path / "run" / "model.npz", ["--cache", tmp_path / "cache"]
    for words in (
        ["info", training_file, "--json"],
        ["info", "--features", model, training_file, "--json"],
        ["evaluate", model, training_file, "--json"],
        ["evaluate", model, training_file],
    ):
        assert printed(*words, *cache) == printed(*words)
    # "packing ..." is no part of the output; as elements of the model are those of the set in
    # another order or not at all, there are two sets in the cache
    assert 1 <= len(list((tmp_path / "cache").iterdir())) <= 2


def test_errors_in_parts_are_those_of_the_whole(training_file, monkeypatch):
    """Of groups and elements; the sums differ by their order alone."""
    structures, _ = read_structures(training_file)
    rng = np.random.default_rng(0)
    whole = Comparison(
        elements=list(structures.elements), counts=structures.counts, species=structures.species,
        energies=structures.energies, predicted_energies=rng.normal(size=len(structures)),
        fixed_energies=np.zeros(len(structures)), forces=structures.forces,
        predicted_forces=rng.normal(size=structures.forces.shape),
        stresses=np.where(np.arange(len(structures))[:, None] == 1, np.nan, rng.normal(size=(6,))),
        predicted_stresses=np.zeros((len(structures), 6)),
        labels=structures.labels, config_types=[f"{k % 3}" for k in range(len(structures))],
    )  # fmt: skip
    for function in (errors_by_group, errors_by_element):
        monkeypatch.setattr(evaluation, "BLOCK", mapped.BLOCK)
        expected = function(whole)
        monkeypatch.setattr(evaluation, "BLOCK", 30)
        found = function(whole)
        assert found.keys() == expected.keys()
        assert len(found) > 1
        for name, values in found.items():
            assert values == pytest.approx(expected[name], rel=1e-13)
    errors = whole.predicted_energies / whole.counts - structures.energies / structures.counts
    found = errors_by_group(whole)["1"]
    assert found["energy_mae"] == pytest.approx(np.mean(np.abs(errors[1::3])), rel=1e-13)
    squares = whole.stresses[4::3] ** 2  # the first of them has none
    assert found["stress_rmse"] == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-13)


def test_a_cache_without_labels_is_for_info_alone(tmp_path):
    frames = [SYSTEMS["three_species"]() for _ in range(2)]
    for atoms in frames:
        atoms.calc = None
        atoms.rattle(0.1)
    path = saved(tmp_path / "bare.extxyz", frames)
    cache = ["--cache", tmp_path / "cache"]
    assert json.loads(printed("info", path, "--json", *cache))["files"][0]["n_energy"] == 0
    with pytest.raises(DataError, match="no structure has an energy or forces"):
        read_cached(path, tmp_path / "cache", log=silent)
    printed("info", path, *cache)
