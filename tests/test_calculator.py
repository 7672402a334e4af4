import copy
import pickle

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress

import fdforce
from fdforce.descriptors import Chebyshev
from fdforce.errors import DataError, FdforceError
from fdforce.evaluation import predict
from fdforce.models import ElementalNetworks
from fdforce.models.zbl import ZBL
from fdforce.structures import read_structures
from tests.checks import batch_of, relative, voigt
from tests.systems import SYSTEMS

SKIN = 0.5
NAMES = ["molecule", "slab", "wire", "thin_triclinic", "left_handed", "three_species", "bulk"]
PERIODIC = ["thin_triclinic", "left_handed", "three_species", "bulk"]

# 1e-12 of energies and forces of order 1: the same terms in another order
SAME = dict(rel=1e-12, abs=1e-12)

each_system = pytest.mark.parametrize("name", NAMES)


def model_for(atoms, *, seed=0, baseline=True):
    """Random parameters, standardised features, a baseline that is on at usual distances."""
    elements = sorted(set(atoms.get_chemical_symbols()))
    descriptor = Chebyshev(
        elements, radial_cutoff=4.5, radial_order=5, angular_cutoff=3.5, angular_order=3
    )
    model = ElementalNetworks(descriptor, (6, 5), "tanh", seed=seed)
    rng = np.random.default_rng(seed)
    frames = [atoms.copy() for _ in range(8)]
    for frame in frames:
        frame.positions += rng.normal(scale=0.1, size=frame.positions.shape)
    model.standardise([batch_of(frames, elements, descriptor.cutoff)])
    model.reference_energies = rng.normal(size=len(elements))
    if baseline:
        n = len(elements)
        model.baseline = ZBL(elements, np.full((n, n), 2.5))
    return model


def prepared(name, **options):
    """Atoms of a system with a calculator; options are those of the calculator."""
    atoms = SYSTEMS[name]()
    model = model_for(atoms)
    atoms.calc = fdforce.Calculator(model, threads=1, **options)
    return atoms, model


def fresh(atoms, model):
    """The same atoms with a calculator that has not seen them before."""
    other = atoms.copy()
    other.calc = fdforce.Calculator(model, skin=0.0, threads=1)
    return other


def assert_same(atoms, other):
    assert atoms.get_potential_energy() == pytest.approx(other.get_potential_energy(), **SAME)
    assert atoms.get_potential_energies() == pytest.approx(other.get_potential_energies(), **SAME)
    assert atoms.get_forces() == pytest.approx(other.get_forces(), **SAME)
    if atoms.pbc.all():
        assert atoms.get_stress() == pytest.approx(other.get_stress(), **SAME)


# What is computed


@each_system
def test_results_are_the_predictions(name):
    atoms, model = prepared(name)
    structures, _ = read_structures([atoms.copy()], elements=model.elements)
    expected = predict(model, structures)
    assert atoms.get_potential_energy() == pytest.approx(expected.energies[0], **SAME)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    assert atoms.get_potential_energies() == pytest.approx(expected.atom_energies, **SAME)
    assert atoms.get_potential_energies().sum() == pytest.approx(
        atoms.get_potential_energy(), **SAME
    )
    assert atoms.get_forces() == pytest.approx(expected.forces, **SAME)
    if atoms.pbc.all():
        assert atoms.get_stress() == pytest.approx(voigt(expected.stresses[0]), **SAME)


@each_system
def test_forces_are_slopes_of_the_energy(name):
    atoms, _ = prepared(name)
    forces = atoms.get_forces()
    # step h = 1e-4 Å: h^2/6 times a third derivative of about 1e3 eV/Å^3 (the baseline) is 2e-6,
    # rounding of an energy of 1e2 eV, 1e-14 / h, is less
    numeric = calculate_numerical_forces(atoms, eps=1e-4)
    assert relative(forces, numeric) < 1e-6
    assert np.linalg.norm(forces) > 0.1


@pytest.mark.parametrize("name", PERIODIC)
def test_stress_is_the_slope_along_strain(name):
    atoms, _ = prepared(name)
    stress = atoms.get_stress()
    volume = atoms.get_volume()
    energy = np.abs(atoms.get_potential_energies()).sum()
    # the error in h^2 falls by 16 for h / 4 and is extrapolated away; what is left is below 2e-9 of
    # the stress, from h^4 / 1920 times a fifth derivative of up to 4e11 times the first (the steep
    # baseline), and rounding, some 1e-14 of the energies over the smaller step and the volume
    h = 5e-5
    wide, narrow = (calculate_numerical_stress(atoms, eps=e) for e in (h, h / 4))
    numeric = (16 * narrow - wide) / 15
    tolerance = 2e-9 * np.linalg.norm(stress) + 1e-13 * energy / (h / 4 * volume)
    assert numeric == pytest.approx(stress, abs=tolerance)
    assert np.linalg.norm(stress) > 1e-3


@pytest.mark.parametrize("name", ["molecule", "slab", "wire"])
def test_no_stress_without_three_periodic_directions(name):
    atoms, _ = prepared(name)
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()
    assert np.isfinite(atoms.get_potential_energy())


def test_single_atom():
    atoms = Atoms("Ti", [[0.3, -0.2, 0.1]])
    atoms.calc = fdforce.Calculator(model_for(SYSTEMS["two_species"]()), threads=1)
    assert np.isfinite(atoms.get_potential_energy())
    assert atoms.get_forces() == pytest.approx(np.zeros((1, 3)), abs=0)


def test_model_from_a_file(tmp_path):
    atoms, model = prepared("molecule")
    path = tmp_path / "model.npz"
    fdforce.save_model(path, model)
    for given in (path, str(path)):
        other = atoms.copy()
        other.calc = fdforce.Calculator(given, threads=1)
        assert_same(atoms, other)


def test_atoms_may_come_close():
    """Read from a file this would be refused as a mistake; dynamics goes on."""
    atoms, _ = prepared("molecule")
    atoms.positions[1] = atoms.positions[0] + [0.1, 0, 0]
    assert np.isfinite(atoms.get_forces()).all()
    # C and O with charges 6 and 8 at 0.1 Å repel each other with thousands of eV
    assert atoms.get_potential_energy() > 1e3


@pytest.mark.parametrize("threads", [0, 1])
def test_any_number_of_threads(threads):
    atoms = SYSTEMS["bulk"]().repeat((3, 3, 2))
    model = model_for(SYSTEMS["bulk"]())
    other = fresh(atoms, model)
    atoms.calc = fdforce.Calculator(model, threads=threads)
    assert_same(atoms, other)


# The neighbour list


@each_system
def test_a_list_that_is_kept_gives_the_same_numbers(name):
    """A random walk with strain; in 150 steps of 0.1 Å atoms go through the sides of the cell."""
    atoms, model = prepared(name, skin=SKIN)
    rng = np.random.default_rng(3)
    wrapped = atoms.get_positions(wrap=True) if atoms.pbc.any() else None
    for step in range(150):
        atoms.positions += rng.normal(scale=0.01, size=atoms.positions.shape)
        atoms.positions += [0.1, 0.07, -0.05]  # drift of the whole
        if step % 3 == 0 and atoms.pbc.any():
            strain = rng.normal(scale=0.002, size=(3, 3))
            atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        if step % 5 == 0:
            assert_same(atoms, fresh(atoms, model))
        else:
            atoms.get_forces()
    if wrapped is not None:
        assert np.abs(atoms.positions - atoms.get_positions(wrap=True)).max() > 1
    assert 1 < atoms.calc.n_builds < 150


def test_the_list_is_kept_while_no_atom_has_moved_by_half_the_skin():
    atoms, _ = prepared("bulk", skin=SKIN)
    start = atoms.get_positions()
    atoms.get_forces()
    atoms.get_stress()
    assert atoms.calc.n_builds == 1
    for distance, builds in ((0.2499, 1), (-0.2499, 1), (0.2501, 2)):
        atoms.positions = start
        atoms.positions[2, 1] += distance
        atoms.get_forces()
        assert atoms.calc.n_builds == builds
    atoms.get_forces()
    atoms.positions[2, 1] += 0.2  # counted from the last list
    atoms.get_forces()
    assert atoms.calc.n_builds == 2


def test_the_list_is_kept_under_strain_up_to_the_skin():
    atoms, model = prepared("bulk", skin=SKIN)
    atoms.get_forces()
    cell = atoms.cell.array.copy()
    # 1 / (1 + e) - 1 is the larger norm for e < 0; the limit is |e| / (1 + e) reach = skin
    limit = SKIN / (model.cutoff + 2 * SKIN)
    most = -limit / (1 + limit)
    for strain, builds in ((0.99 * most, 1), (1.01 * most, 2)):
        atoms.set_cell(cell * (1 + strain), scale_atoms=True)
        atoms.get_forces()
        assert atoms.calc.n_builds == builds
        assert_same(atoms, fresh(atoms, model))


def test_the_cell_of_a_molecule_does_not_matter():
    atoms, _ = prepared("molecule")
    energy = atoms.get_potential_energy()
    atoms.set_cell([20, 30, 40])
    assert atoms.get_potential_energy() == energy
    assert atoms.calc.n_builds == 1


def test_another_periodicity_or_composition_makes_a_new_list():
    atoms, model = prepared("three_species")
    atoms.get_forces()
    atoms.pbc = [True, False, True]
    assert_same(atoms, fresh(atoms, model))
    assert atoms.calc.n_builds == 2
    atoms.symbols[0] = "H"
    assert_same(atoms, fresh(atoms, model))
    assert atoms.calc.n_builds == 3
    del atoms[-1]
    assert_same(atoms, fresh(atoms, model))
    assert atoms.calc.n_builds == 4


def test_what_has_not_changed_is_not_computed_again(monkeypatch):
    atoms, model = prepared("bulk")
    calls = []
    forward = type(model).forward
    monkeypatch.setattr(type(model), "forward", lambda *a: calls.append(1) or forward(*a))
    for _ in range(3):
        atoms.get_forces()
        atoms.get_stress()
        atoms.get_potential_energy()
    assert len(calls) == 1
    atoms.set_initial_magnetic_moments([1.0] * len(atoms))
    atoms.get_forces()
    assert len(calls) == 1
    atoms.positions[0, 0] += 1e-12
    atoms.get_forces()
    assert len(calls) == 2


def test_a_skin_of_zero_and_one_calculator_for_several_structures():
    model = model_for(SYSTEMS["three_species"]())
    shared = fdforce.Calculator(model, skin=0.0, threads=1)
    frames = [SYSTEMS["three_species"](), SYSTEMS["molecule"]()]
    for atoms in [*frames, *frames]:
        assert shared.get_potential_energy(atoms) == pytest.approx(
            fresh(atoms, model).get_potential_energy(), **SAME
        )


# Copies


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies(how, used):
    atoms, _ = prepared("slab")
    if used:
        atoms.get_forces()
    other = how(atoms)
    assert other.calc is not atoms.calc
    assert_same(other, atoms)
    other.positions[0, 0] += 0.3
    assert other.get_potential_energy() != atoms.get_potential_energy()


def test_results_are_copies():
    atoms, _ = prepared("bulk")
    before = atoms.get_forces()
    atoms.get_forces()[:] = 0
    assert (atoms.get_forces() == before).all()


# Errors


def test_unknown_element():
    atoms, model = prepared("molecule")
    other = SYSTEMS["two_species"]()
    other.calc = fdforce.Calculator(model)
    with pytest.raises(DataError, match=r"atom 0 is Ti, but the model knows only C, H, O"):
        other.get_potential_energy()
    atoms.get_forces()
    atoms.symbols[3] = "N"
    with pytest.raises(DataError, match="atom 3 is N"):
        atoms.get_forces()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_positions_that_are_not_finite(value):
    atoms, _ = prepared("bulk")
    atoms.get_forces()
    good = atoms.get_positions()
    atoms.positions[3, 1] = value
    with pytest.raises(DataError, match="the position of atom 3 is"):
        atoms.get_forces()
    atoms.positions = good
    assert np.isfinite(atoms.get_forces()).all()


def test_other_errors(tmp_path):
    atoms, model = prepared("bulk")
    with pytest.raises(FdforceError, match="skin = -1"):
        fdforce.Calculator(model, skin=-1)
    with pytest.raises(FdforceError, match=r"nothing\.npz"):
        fdforce.Calculator(tmp_path / "nothing.npz")
    atoms.set_cell([3.6, 3.6, 0.0])
    with pytest.raises(DataError, match="singular"):
        atoms.get_forces()
    with pytest.raises(DataError, match="no atoms"):
        fdforce.Calculator(model).get_potential_energy(Atoms())
