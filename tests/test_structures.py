import gzip
import re
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from fdforce.errors import ConfigError, DataError
from fdforce.structures import (
    describe_structures,
    find_duplicates,
    read_structures,
    split_structures,
    to_atoms,
)
from fdforce.units import BOHR, COULOMB, GPA, HARTREE, KCAL_PER_MOL
from tests.systems import SYSTEMS

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def every_system():
    return [make() for make in SYSTEMS.values()]


def box(n=1, **info):
    """n copper atoms 2.5 Å apart in a box of 16 Å, with `info`."""
    atoms = Atoms("Cu" * n, [[2.5 * k, 0, 0] for k in range(n)], cell=[16.0] * 3, pbc=True)
    atoms.info.update(info)
    return atoms


def saved(tmp_path, *frames, name="set.extxyz"):
    write(tmp_path / name, list(frames), format="extxyz")
    return tmp_path / name


def fails(match, *args, error=DataError, **options):
    with pytest.raises(error, match=match) as caught:
        read_structures(*args, **options)
    assert len(str(caught.value).splitlines()) <= 2


# Packing


def test_every_system_is_packed_in_order():
    frames = every_system()
    structures, isolated = read_structures(frames)
    assert isolated == {}
    assert structures.elements == ("H", "C", "O", "Ti", "Cu")
    assert structures.counts.tolist() == [len(atoms) for atoms in frames]
    assert structures.labels[3] == "atoms[3]"
    for s, atoms in enumerate(frames):
        part = slice(structures.offsets[s], structures.offsets[s + 1])
        name = atoms.info["name"]
        symbols = [structures.elements[k] for k in structures.species[part]]
        assert symbols == list(atoms.symbols), name
        np.testing.assert_array_equal(structures.positions[part], atoms.positions, name)
        np.testing.assert_array_equal(structures.forces[part], atoms.calc.results["forces"], name)
        assert structures.energies[s] == atoms.calc.results["energy"], name
        np.testing.assert_array_equal(structures.periodic[s], atoms.pbc, name)
    assert structures.species.dtype == np.int32
    assert structures.offsets.dtype == np.int64


def test_cells_are_complete_where_periodic_and_zero_elsewhere():
    structures, _ = read_structures(every_system())
    cells = dict(zip(SYSTEMS, structures.cells, strict=True))
    for name in ("single_atom", "dimer", "molecule"):
        assert not cells[name].any(), name
    for name in ("slab", "wire", "bulk", "left_handed", "thin_triclinic"):
        assert abs(np.linalg.det(cells[name])) > 1.0, name
    np.testing.assert_array_equal(cells["wire"][2], [0, 0, 4.2])
    np.testing.assert_array_equal(cells["left_handed"], SYSTEMS["left_handed"]().cell)
    volumes = dict(zip(SYSTEMS, structures.volumes, strict=True))
    assert volumes["bulk"] == pytest.approx(3.6**3, rel=1e-14)
    assert volumes["left_handed"] == pytest.approx(SYSTEMS["left_handed"]().get_volume(), rel=1e-14)
    assert np.isnan([volumes["slab"], volumes["wire"], volumes["molecule"]]).all()


def test_useless_vector_of_a_direction_that_is_not_periodic_is_replaced():
    atoms = Atoms("Cu", cell=[[4, 0, 0], [0, 4, 0], [0, 4, 0]], pbc=[True, True, False])
    cell = read_structures(atoms)[0].cells[0]
    np.testing.assert_array_equal(cell[:2], [[4, 0, 0], [0, 4, 0]])
    assert abs(np.linalg.det(cell)) > 1.0


def test_round_trip_through_atoms_and_files(tmp_path):
    frames = every_system()
    frames[0].info.update(weight=2.5, config_type="odd", trajectory="run 1")
    structures, _ = read_structures(frames)
    atoms = [to_atoms(structures, s) for s in range(len(structures))]
    again, _ = read_structures(atoms, elements=structures.elements)
    for name in vars(structures):
        np.testing.assert_array_equal(getattr(again, name), getattr(structures, name), name)
    read, _ = read_structures(saved(tmp_path, *atoms))
    # Extended xyz keeps eight decimals of positions and forces.
    np.testing.assert_allclose(read.positions, structures.positions, atol=6e-9)
    np.testing.assert_allclose(read.forces, structures.forces, atol=6e-9)
    np.testing.assert_allclose(read.stresses, structures.stresses, rtol=1e-12)
    assert read.labels[4] == "set.extxyz[4]"
    assert read.trajectories[0] == "run 1"


@pytest.mark.parametrize("chosen", [[4, 0, 4, -1], slice(2, 9, 3), "mask"])
def test_select_takes_whole_structures(chosen):
    structures, _ = read_structures(every_system())
    if chosen == "mask":
        chosen = np.arange(len(structures)) % 2 == 1
    part = structures.select(chosen)
    wanted = np.arange(len(structures))[chosen]
    assert len(part) == len(wanted)
    assert part.labels == tuple(structures.labels[s] for s in wanted)
    for k, s in enumerate(wanted):
        assert to_atoms(part, k) == to_atoms(structures, s)
        np.testing.assert_array_equal(
            to_atoms(part, k).get_forces(), to_atoms(structures, s).get_forces()
        )


def test_select_of_nothing_is_empty():
    part = read_structures(every_system())[0].select([])
    assert len(part) == 0
    assert part.n_atoms == 0
    assert part.energies.shape == (0,)


def test_elements_keep_the_given_order():
    structures, _ = read_structures(SYSTEMS["two_species"](), elements=["Ti", "H", "O"])
    assert structures.elements == ("Ti", "H", "O")
    assert structures.compositions.tolist() == [[4, 0, 8]]


def test_isolated_atoms_are_taken_out():
    atom = box(config_type="IsolatedAtom", energy=-3.25)
    structures, isolated = read_structures([box(2), atom, box(3)])
    assert isolated == {"Cu": -3.25}
    assert structures.labels == ("atoms[0]", "atoms[2]")
    kept, isolated = read_structures([box(2), atom, box(3)], keep_isolated=True)
    assert len(kept) == 3
    assert isolated == {"Cu": -3.25}
    other = box(config_type="IsolatedAtom", energy=-3.0)
    fails(r"atoms\[2\]: the isolated Cu atom has the energy -3 eV", [box(2), atom, other])
    fails("no structures besides isolated atoms", [atom])


# Labels


def test_absent_labels_are_nan_and_counted():
    structures, _ = read_structures([box(2, energy=-1.0), box(3)])
    assert structures.has_energy.tolist() == [True, False]
    assert structures.has_forces.tolist() == [False, False]
    assert structures.has_stress.tolist() == [False, False]
    assert structures.weights.tolist() == [1.0, 1.0]


def test_reference_labels_go_before_plain_ones():
    atoms = box(2, REF_energy=-2.0, energy=-1.0, REF_stress=[1, 2, 3, 4, 5, 6])
    atoms.arrays["REF_forces"] = np.full((2, 3), 0.5)
    atoms.calc = SinglePointCalculator(
        atoms, energy=-3.0, forces=np.ones((2, 3)), stress=np.zeros(6)
    )
    structures, _ = read_structures(atoms)
    assert structures.energies[0] == -2.0
    assert (structures.forces == 0.5).all()
    np.testing.assert_array_equal(structures.stresses[0], [[1, 6, 5], [6, 2, 4], [5, 4, 3]])


def test_one_name_serves_a_whole_file():
    structures, _ = read_structures([box(2, REF_energy=-2.0, energy=9.0), box(2, energy=9.0)])
    np.testing.assert_array_equal(structures.energies, [-2.0, np.nan])


def test_calculator_results_go_before_info_and_free_energy_comes_last():
    atoms = box(1, energy=-1.0)
    atoms.calc = SinglePointCalculator(atoms, energy=-3.0, free_energy=-4.0)
    assert read_structures(atoms)[0].energies[0] == -3.0
    atoms = box(1)
    atoms.calc = SinglePointCalculator(atoms, free_energy=-4.0)
    assert read_structures(atoms)[0].energies[0] == -4.0


def test_results_of_other_positions_are_left_out():
    atoms = SYSTEMS["dimer"]()
    atoms.positions[0, 0] += 0.01
    assert not read_structures(atoms)[0].has_energy.any()


def test_given_keys(tmp_path):
    atoms = box(2, energy=-1.0, dft_energy=-7.5, dft_stress=np.arange(9.0).reshape(3, 3))
    atoms.arrays["dft_forces"] = np.full((2, 3), 0.25)
    structures, _ = read_structures(
        saved(tmp_path, atoms),
        energy_key="dft_energy",
        forces_key="dft_forces",
        stress_key="dft_stress",
    )
    assert structures.energies[0] == -7.5
    assert (structures.forces == 0.25).all()
    np.testing.assert_array_equal(structures.stresses[0], [[0, 2, 4], [2, 4, 6], [4, 6, 8]])


def test_virial_is_minus_volume_times_stress():
    virial = -(16.0**3) * np.array([[0.1, 0.01, 0], [0.01, 0.2, 0], [0, 0, 0.3]])
    for atoms, key in ((box(2, virial=virial), ""), (box(2, my_virial=virial), "my_virial")):
        stress = read_structures(atoms, stress_key=key)[0].stresses[0]
        np.testing.assert_allclose(
            stress, [[0.1, 0.01, 0], [0.01, 0.2, 0], [0, 0, 0.3]], rtol=1e-14
        )


def test_stress_without_three_periodic_directions_counts_as_absent():
    atoms = SYSTEMS["slab"]()
    atoms.info["stress"] = np.ones(6)
    assert not read_structures(atoms)[0].has_stress.any()


def test_label_errors_say_where(tmp_path):
    bad = box(2, energy=np.nan)
    fails(
        r"set.extxyz\[1\]: energy is nan; correct or remove",
        saved(tmp_path, box(2, energy=1.0), bad),
    )
    fails(r"atoms\[0\]: energy is 'minus one'; expected numbers", box(energy="minus one"))
    fails(r"atoms\[0\]: energy has shape \(2,\); expected one number", box(energy=[1.0, 2.0]))
    fails(r"atoms\[0\]: weight is -1; it must not be negative", box(weight=-1.0))
    fails(r"atoms\[1\]: stress holds inf", [box(), box(stress=[np.inf] * 6)])
    fails(r"atoms\[0\]: stress has shape \(4,\); expected 6, 9", box(stress=[1.0] * 4))
    bad = box(3)
    bad.arrays["forces"] = np.zeros((3, 3))
    bad.arrays["forces"][1, 2] = -np.inf
    fails(r"set.extxyz\[2\]: forces of atom 1 is -inf along z", saved(tmp_path, box(), box(), bad))
    bad.arrays["forces"] = np.zeros((3, 2))
    fails(r"atoms\[0\]: forces has shape \(3, 2\); expected \(3, 3\)", bad)


def test_unknown_key_lists_the_known(tmp_path):
    path = saved(tmp_path, box(2, dft_energy=-1.0))
    fails(
        r"set.extxyz: no structure has the energy_key 'e0'; the keys there are dft_energy",
        path,
        energy_key="e0",
    )
    fails(
        "no structure has an energy or forces; the keys there are dft_energy",
        path,
        require_labels=True,
    )
    assert len(read_structures(path)[0]) == 1


# Geometry


def test_positions_that_are_not_finite_or_far_out():
    bad = box(3)
    bad.positions[2, 1] = np.nan
    fails(r"atoms\[1\]: the position of atom 2 is \[ *5\. *nan", [box(4), bad])
    bad.positions[2, 1] = 1e9
    fails(r"atoms\[1\]: the position of atom 2 is", [box(4), bad])
    slab = SYSTEMS["slab"]()
    slab.positions[3, 2] += 5000.0
    fails(r"atoms\[0\]: the structure extends over 500\d Å .*atom 3 is farthest", slab)
    slab.positions[3] += [5000.0, 0, -5000.0]
    assert len(read_structures(slab)[0]) == 1


def test_coinciding_atoms_are_found_through_the_boundary(tmp_path):
    bad = box(3)
    bad.positions[2] = [15.9, 0.1, 15.95]
    distance = np.sqrt(0.1**2 + 0.1**2 + 0.05**2)
    fails(
        rf"set.extxyz\[1\]: atoms [02] \(Cu\) and [02] \(Cu\) are {distance:.3f} Å apart",
        saved(tmp_path, box(4), bad),
    )
    bad.pbc = False
    assert len(read_structures(bad)[0]) == 1
    bad.positions[2] = [0.0, 0.0, 0.301]
    assert len(read_structures(bad)[0]) == 1
    bad.positions[2] = [0.0, 0.0, 0.299]
    fails("are 0.299 Å apart, closer than 0.3 Å", bad)


@pytest.mark.parametrize("name", ["slab", "wire", "molecule"])
def test_coinciding_atoms_in_open_structures(name):
    atoms = SYSTEMS[name]()
    extra = atoms[:1]
    extra.positions += 3.0 * atoms.cell[:].sum(axis=0) + [0.12, 0.16, 0.0]
    fails(rf"atoms\[1\]: atoms .*{len(atoms)} .* are 0.200 Å apart", [atoms, atoms + extra])
    # Where nothing repeats, the same shift is a new place.
    extra.positions += np.where(atoms.pbc, 0.0, [7.0, 7.0, 30.0])
    assert len(read_structures([atoms, atoms + extra])[0]) == 2


def test_wide_wire_is_searched_in_no_time():
    atoms = SYSTEMS["wire"]() + Atoms("Cu", [[400.0, -400.0, 0.0]])
    assert len(read_structures(atoms)[0]) == 1


def test_wide_periodic_box():
    atoms = Atoms("Cu2", [[0, 0, 0], [0.1, 999.9, 0]], cell=[2.5, 1000.0, 1000.0], pbc=True)
    fails(r"atoms 0 \(Cu\) and 1 \(Cu\) are 0.141 Å apart", atoms)
    atoms.positions[1] = [0.1, 500.0, 0.0]
    report = describe_structures(read_structures(atoms)[0], {})
    assert report["shortest_distances"] == {"Cu-Cu": pytest.approx(2.5, rel=1e-12)}


def test_singular_cells():
    flat = Atoms("Cu", cell=[[3, 0, 0], [0, 3, 0], [3, 3, 0]], pbc=True)
    fails(r"atoms\[1\]: the cell is singular \(volume 0 Å\^3", [box(), flat])
    fails("the cell is singular", Atoms("Cu", pbc=True))
    fails("the cell is singular", Atoms("Cu", cell=[3, 3, 0.2], pbc=True))
    fails("the cell is singular", Atoms("Cu", cell=[0, 0, 3], pbc=[True, False, True]))
    fails(r"atoms\[0\]: the cell holds nan", Atoms("Cu", cell=[3, 3, np.nan], pbc=True))


def test_elements_outside_the_given_ones():
    frames = [SYSTEMS["bulk"](), SYSTEMS["dimer"]()]
    fails(
        r"atoms\[1\]: atom 1 is O, which is not among the elements Cu, Ti",
        frames,
        elements=["Cu", "Ti"],
    )
    fails("'Q' is not a chemical symbol", frames, elements=["Cu", "Q"])
    fails("Cu, O, Cu names an element twice", frames, elements=["Cu", "O", "Cu"])


# Files


def test_compressed_and_plain_files_agree(tmp_path):
    path = saved(tmp_path, *every_system())
    with gzip.open(tmp_path / "set.extxyz.gz", "wb") as file:
        file.write(path.read_bytes())
    plain, packed = read_structures(path)[0], read_structures(tmp_path / "set.extxyz.gz")[0]
    np.testing.assert_array_equal(plain.positions, packed.positions)
    np.testing.assert_array_equal(plain.energies, packed.energies)
    assert packed.labels[2] == "set.extxyz.gz[2]"


def test_several_sources_and_formats(tmp_path):
    write(tmp_path / "POSCAR", SYSTEMS["bulk"]())
    write(tmp_path / "b.traj", [SYSTEMS["dimer"](), SYSTEMS["slab"]()])
    (tmp_path / "other").mkdir()
    write(tmp_path / "other" / "b.traj", [SYSTEMS["wire"]()])
    paths = [str(tmp_path / "POSCAR"), tmp_path / "b.traj", tmp_path / "other" / "b.traj"]
    structures, _ = read_structures([*paths, SYSTEMS["molecule"]()])
    labels = ("POSCAR[0]", f"{paths[1]}[0]", f"{paths[1]}[1]", f"{paths[2]}[0]", "atoms[0]")
    assert structures.labels == labels
    assert structures.energies[2] == SYSTEMS["slab"]().get_potential_energy()


def test_unreadable_files(tmp_path):
    fails("missing.xyz: no such file", tmp_path / "missing.xyz")
    fails("is a folder, not a data file", tmp_path)
    fails("no structures found", [])
    (tmp_path / "empty.extxyz").touch()
    fails("empty.extxyz: the file is empty", tmp_path / "empty.extxyz")
    (tmp_path / "notes.abc").write_text("nothing of the sort\n")
    fails("notes.abc: ASE does not know this file format", tmp_path / "notes.abc")
    whole = gzip.compress(saved(tmp_path, *every_system()).read_bytes())
    (tmp_path / "cut.extxyz.gz").write_bytes(whole[: len(whole) // 2])
    fails(r"cut.extxyz.gz: damaged .*EOFError", tmp_path / "cut.extxyz.gz")
    (tmp_path / "short.extxyz").write_text("3\n\nCu 0 0 0\n")
    fails(r"short.extxyz: damaged", tmp_path / "short.extxyz")
    fails(r"atoms\[0\]: the structure has no atoms", Atoms())


# Copies and splits


def copies():
    frames = [box(2, energy=float(s)) for s in range(40)]
    for s, atoms in enumerate(frames):
        atoms.positions[1, 1] = 0.01 * (s % 30)
    return frames


def test_duplicates_are_the_same_to_a_millionth():
    frames = copies()
    # 1.5e-6 / 2 is where rounding to 1e-6 would part two equal numbers.
    frames[31].positions[1, 2] += 7e-7
    frames[32].positions[1, 2] += 2e-6
    groups = find_duplicates(read_structures(frames)[0])
    assert groups[:32].tolist() == [*range(30), 0, 1]
    assert groups[32:].tolist() == [30, 3, 4, 5, 6, 7, 8, 9]


def test_duplicates_must_agree_in_species_cell_and_periodicity():
    a, b, c, d, e = (box(2) for _ in range(5))
    b.symbols[0] = "Ti"
    c.cell[0, 0] += 1e-5
    d.pbc = [True, True, False]
    groups = find_duplicates(read_structures([a, b, c, d, e])[0])
    assert groups.tolist() == [0, 1, 2, 3, 0]


def test_random_split_keeps_copies_together():
    structures, _ = read_structures(copies())
    groups = find_duplicates(structures)
    seen = set()
    for seed in range(20):
        kept, held = split_structures(structures, 0.25, seed=seed)
        assert sorted([*kept, *held]) == list(range(40))
        assert len(held) == 10
        assert not set(groups[kept]) & set(groups[held])
        np.testing.assert_array_equal(held, split_structures(structures, 0.25, seed=seed)[1])
        seen.add(tuple(held))
    assert len(seen) == 20


def test_trajectory_split_holds_out_whole_trajectories():
    frames = copies()[:30]
    for s, atoms in enumerate(frames):
        atoms.info["trajectory"] = f"run {s // 3}"
    structures, _ = read_structures(frames)
    kept, held = split_structures(structures, 0.2, how="trajectory", seed=3)
    assert len(held) == 6
    names = np.array(structures.trajectories)
    assert not set(names[kept]) & set(names[held])
    # A share smaller than half of any trajectory still holds one out.
    kept, held = split_structures(structures, 0.04, how="trajectory")
    assert len(held) == 3


def test_trajectory_split_without_names_takes_the_end_of_each_file(tmp_path):
    frames = copies()[:30]
    paths = [
        saved(tmp_path, *frames[:10], name="a.xyz"),
        saved(tmp_path, *frames[10:], name="b.xyz"),
    ]
    structures, _ = read_structures(paths)
    _kept, held = split_structures(structures, 0.2, how="trajectory")
    assert held.tolist() == [8, 9, 26, 27, 28, 29]
    # A copy of a kept structure at the end is kept as well.
    structures, _ = read_structures([*frames[:9], frames[0]])
    assert split_structures(structures, 0.2, how="trajectory")[1].tolist() == [8]


def test_splits_with_an_empty_side():
    structures, _ = read_structures(copies()[:4])
    for fraction, side in ((0.1, "held-out"), (0.0, "held-out"), (1.0, "kept")):
        with pytest.raises(ConfigError, match=rf"of 4 structures .* leaves the {side} part empty"):
            split_structures(structures, fraction)
    with pytest.raises(ConfigError, match=r"data\.split is 'alternate'; choose from random, traj"):
        split_structures(structures, 0.5, how="alternate")
    with pytest.raises(ConfigError, match=r"fraction of 1\.5"):
        split_structures(structures, 1.5)


# The report


def test_description_counts_and_measures():
    structures, isolated = read_structures(every_system())
    report = describe_structures(structures, isolated)
    assert report["n_structures"] == 11
    assert report["n_atoms"] == sum(len(make()) for make in SYSTEMS.values())
    assert report["elements"] == {"H": 12, "C": 3, "O": 17, "Ti": 9, "Cu": 18}
    assert report["periodicity"] == {"FFF": 4, "TTF": 1, "FFT": 1, "TTT": 5}
    assert (report["n_energy"], report["n_forces"], report["n_stress"]) == (11, 11, 5)
    assert report["forces"]["rms"] == pytest.approx(np.sqrt(np.mean(structures.forces**2)))
    dimer = describe_structures(read_structures(SYSTEMS["dimer"]())[0], {})
    assert dimer["shortest_distances"] == {"O-Ti": pytest.approx(1.7, rel=1e-12)}
    assert dimer["density"] is None


def test_density_of_copper():
    report = describe_structures(read_structures(SYSTEMS["bulk"]())[0], {})
    assert report["density"]["mean"] == pytest.approx(4 * 63.546 / 6.02214076e23 / 3.6e-8**3)
    assert report["suspicious"] == []


def test_suspicious_structures_are_listed_with_reasons():
    frames = copies()[:30]
    rng = np.random.default_rng(0)
    for atoms in frames:
        force = rng.normal(size=3)
        atoms.info["energy"] = -8.0 + 0.01 * rng.normal()
        atoms.arrays["forces"] = np.array([force, -force])
    frames[3].info["energy"] -= 1.0
    frames[5].positions[1] = [0.45, 0, 0]
    frames[7].arrays["forces"][0, 0] += 60.0
    frames[9].positions[:] = frames[1].positions
    report = describe_structures(read_structures(frames)[0], {})
    found = [(item["structure"], item["reason"]) for item in report["suspicious"]]
    wanted = [
        ("atoms[3]", r"energy per atom -0\.\d+ eV from what the composition explains"),
        ("atoms[5]", r"two atoms are 0\.450 Å apart"),
        ("atoms[7]", r"a force of (59|6\d)\.?\d* eV/Å"),
        ("atoms[7]", r"forces add up to 60 eV/Å, not to zero"),
        ("atoms[9]", r"same geometry as atoms\[1\]; its energy differs by 0\.0\d+ eV"),
    ]
    assert [label for label, _ in found] == [label for label, _ in wanted]
    for (_, reason), (_, pattern) in zip(found, wanted, strict=True):
        assert re.match(pattern, reason)


def test_units_agree_with_each_other():
    # e^2 / (4 pi eps0) in eV Å, and (kJ/mol) / 4.184, from CODATA 2018.
    assert pytest.approx(14.3996454785, rel=1e-10) == COULOMB
    assert pytest.approx(627.509474, rel=1e-9) == HARTREE / KCAL_PER_MOL
    # 1 hartree/bohr^3 is 29421.015697 GPa.
    assert pytest.approx(29421.015697, rel=1e-9) == HARTREE / BOHR**3 / GPA


# Published data


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared is absent")
def test_published_sets():
    structures, _ = read_structures(SHARED / "tio2_aenet.extxyz.gz", require_labels=True)
    assert len(structures) == 1000
    assert structures.n_atoms == 21285
    assert structures.has_forces.all()
    structures, _ = read_structures(SHARED / "inp_snap.extxyz.gz")
    groups = find_duplicates(structures)
    assert len(structures) == 1894
    # 84 groups of the same file under two names hold 92 copies too many.
    assert len(structures) - len(set(groups)) == 92
    assert (np.bincount(groups) > 1).sum() == 84
