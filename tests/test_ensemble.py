"""The model that holds several networks on one descriptor, and its calculator."""

import copy
from dataclasses import replace

import numpy as np
import pytest
from ase import units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import Trajectory
from ase.md.verlet import VelocityVerlet

import fdforce
from fdforce.archive import read_archive, write_archive
from fdforce.calibration import calibration, ensemble_errors, predict_members
from fdforce.descriptors import DESCRIPTORS, Chebyshev, Quadratic
from fdforce.errors import ConfigError, FdforceError, ModelFileError
from fdforce.evaluation import predict
from fdforce.model_file import FORMAT, in_precision, read_header
from fdforce.models import ElementalNetworks, Ensemble, LinearModel
from fdforce.models.zbl import ZBL
from fdforce.structures import read_structures
from tests.checks import COMPLEX_STEP, batch_of, relative, symmetric
from tests.systems import SYSTEMS

ELEMENTS = ("Ti", "O")
NAMES = ["left_handed", "dimer", "two_species", "single_atom"]
SMALL = dict(radial_cutoff=4.5, radial_order=5, angular_cutoff=3.5, angular_order=3)

# rounding of sums over some hundred terms: 1e-12 and 1e-4 of the largest number
SAME = {np.float64: 1e-12, np.float32: 1e-4}


def frames():
    return [SYSTEMS[name]() for name in NAMES]


def ensemble_of(n_members=3, *, dtype=np.float64, descriptor=None, kind=ElementalNetworks):
    descriptor = descriptor or Chebyshev(ELEMENTS, **SMALL)
    options = {"hidden": (6, 5)} if kind is ElementalNetworks else {}
    members = [kind(descriptor, **options, seed=k, dtype=dtype) for k in range(n_members)]
    batch = batch_of(frames(), ELEMENTS, descriptor.cutoff)
    for member in members:
        member.standardise([batch])
        member.reference_energies = np.array([1.5, -0.7])
        member.scale = 1.7
        member.baseline = ZBL(ELEMENTS, np.full((2, 2), 2.5))
    return Ensemble.of(members), members, batch


def separately(members, batch):
    """Energies, forces and virials of every member by itself."""
    results = []
    for member in members:
        state = member.forward(batch)
        results.append((state.energy, *member.forces(state), state.atom_energy))
    return [np.array(x) for x in zip(*results, strict=True)]


@pytest.mark.parametrize("kind", [ElementalNetworks, LinearModel])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_energies_and_forces_are_the_means_of_the_members(dtype, kind):
    ensemble, members, batch = ensemble_of(dtype=dtype, kind=kind)
    energies, forces, virials, atom_energies = separately(members, batch)
    state = ensemble.forward(batch)
    # the same kernels on the same features: the same bits
    np.testing.assert_array_equal(state.member_energy, energies)
    np.testing.assert_array_equal(state.energy_std, np.std(energies, axis=0, ddof=1))
    assert np.all(state.energy_std > 1e-3)
    np.testing.assert_allclose(state.energy, energies.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(state.atom_energy, atom_energies.mean(axis=0), rtol=1e-13)
    of_members = ensemble.member_forces(state)
    np.testing.assert_array_equal(of_members[0], forces)
    np.testing.assert_array_equal(of_members[1], virials)
    mean = ensemble.forces(state)
    assert relative(mean[0], forces.mean(axis=0)) < SAME[dtype]
    assert relative(mean[1], virials.mean(axis=0)) < SAME[dtype]
    assert np.linalg.norm(forces[0] - forces[1]) > 0.1 * np.linalg.norm(forces[0])


@pytest.mark.parametrize("name", [*DESCRIPTORS, "quadratic"])
def test_one_descriptor_pass_serves_all_members(name):
    """What a descriptor keeps is good for any number of backward passes."""
    if name == "quadratic":
        descriptor = Quadratic(Chebyshev(ELEMENTS, 4.0, 3, 3.0, 2))
    else:
        descriptor = DESCRIPTORS[name](ELEMENTS)
    ensemble, members, batch = ensemble_of(2, descriptor=descriptor)
    _, forces, virials, _ = separately(members, batch)
    state = ensemble.forward(batch)
    for _ in range(2):
        mean = ensemble.forces(state)
        assert relative(mean[0], forces.mean(axis=0)) < SAME[np.float64]
        assert relative(mean[1], virials.mean(axis=0)) < SAME[np.float64]


def test_forces_are_the_slope_of_the_mean_energy():
    ensemble, _, batch = ensemble_of()
    rng = np.random.default_rng(0)
    direction, strain = rng.normal(size=(batch.n_atoms, 3)), symmetric(rng, len(batch))
    forces, virial = ensemble.forces(ensemble.forward(batch))
    growth = np.einsum("aij,aj->ai", strain[batch.structure], batch.positions)
    moved = replace(
        batch,
        positions=batch.positions + 1j * COMPLEX_STEP * (direction + growth),
        cells=batch.cells + 1j * COMPLEX_STEP * batch.cells @ strain,
    )
    slope = ensemble.forward(moved).energy.imag.sum() / COMPLEX_STEP
    # exact to rounding
    assert -np.sum(forces * direction) - np.sum(virial * strain) == pytest.approx(slope, rel=1e-11)


def test_save_and_load(tmp_path):
    ensemble, members, batch = ensemble_of()
    path = tmp_path / "model.npz"
    fdforce.save_model(path, ensemble, seeds=[0, 1, 2])
    loaded = fdforce.load_model(path)
    assert isinstance(loaded, Ensemble)
    assert loaded.provenance["seeds"] == [0, 1, 2]
    assert (read_header(path)["version"], read_header(path)["members"]) == (2, 3)
    first, second = ensemble.forward(batch), loaded.forward(batch)
    np.testing.assert_array_equal(first.member_energy, second.member_energy)
    for a, b in zip(ensemble.forces(first), loaded.forces(second), strict=True):
        np.testing.assert_array_equal(a, b)
    for k, member in enumerate(members):
        one = tmp_path / f"{k}.npz"
        fdforce.save_model(one, loaded.member(k))
        assert read_header(one)["version"] == 1  # earlier versions read it
        np.testing.assert_array_equal(
            fdforce.load_model(one).forward(batch).energy, member.forward(batch).energy
        )


def test_precision_of_a_loaded_ensemble(tmp_path):
    ensemble, _, batch = ensemble_of()
    fdforce.save_model(tmp_path / "model.npz", ensemble)
    single = fdforce.load_model(tmp_path / "model.npz", precision="float32")
    state = single.forward(batch)
    assert state.features.dtype == np.float32
    assert relative(single.forces(state)[0], ensemble.forces(ensemble.forward(batch))[0]) < 1e-4
    assert in_precision(ensemble, "float32").dtype == np.float32
    assert ensemble.dtype == np.float64


def test_flat_parameters_and_a_member_taken_out():
    ensemble, members, batch = ensemble_of()
    flat = Ensemble(ensemble.shared, ensemble.theta.ravel())
    assert len(flat) == 3
    np.testing.assert_array_equal(flat.forward(batch).energy, ensemble.forward(batch).energy)
    member = ensemble.member(1)
    np.testing.assert_array_equal(member.theta, members[1].theta)
    member.theta[:] = 0
    assert ensemble.theta[1].any()


def test_what_is_no_ensemble(tmp_path):
    ensemble, members, _ = ensemble_of()
    with pytest.raises(ConfigError, match="one member is an ordinary model"):
        Ensemble.of(members[:1])
    with pytest.raises(ConfigError, match="one member is an ordinary model"):
        Ensemble(members[0], members[0].theta)
    with pytest.raises(ConfigError, match=r"theta has shape \(2, \d+\)"):
        Ensemble(members[0], ensemble.theta[:2, :-1])
    other = copy.copy(members[1])
    other.feature_scale = 1.001 * other.feature_scale
    other.scale = 2.0
    with pytest.raises(ConfigError, match="member 1 differs from member 0 in scale, feature_scale"):
        Ensemble.of([members[0], other])
    wider = ElementalNetworks(members[0].descriptor, (7,))
    with pytest.raises(ConfigError, match="differs from member 0 in network"):
        Ensemble.of([members[0], wider])
    path = tmp_path / "model.npz"
    fdforce.save_model(path, ensemble)
    header, arrays = read_archive(path, FORMAT, 2, ModelFileError)
    bad_last = ensemble.theta.copy()
    bad_last[2, 4] = np.nan
    for theta in (ensemble.theta[:2], ensemble.theta.ravel(), ensemble.theta[:, :-1], bad_last):
        write_archive(path, header, {**arrays, "theta": theta})
        with pytest.raises(ModelFileError, match=r"model\.npz: damaged file"):
            fdforce.load_model(path)


def test_an_ensemble_has_no_gradient():
    ensemble, _, batch = ensemble_of()
    with pytest.raises(FdforceError, match=r"ensemble of 3 has no parameter gradient"):
        ensemble.gradient(ensemble.forward(batch), np.ones(len(batch)))


# Predictions and calibration


def test_predictions_of_all_members():
    ensemble, members, _ = ensemble_of()
    structures, _ = read_structures(frames(), elements=ELEMENTS)
    found = predict_members(ensemble, structures, threads=1)
    alone = [predict(member, structures, threads=1) for member in members]
    mean = predict(ensemble, structures, threads=1)
    for name in ("energies", "forces", "stresses"):
        values = np.array([getattr(one, name) for one in alone])
        for one, value in zip(found.members, values, strict=True):
            np.testing.assert_array_equal(getattr(one, name), value)
        scale = np.nanmax(np.abs(values))
        np.testing.assert_allclose(
            getattr(found.mean, name), getattr(mean, name), atol=1e-12 * scale
        )
    energies = np.array([one.energies for one in alone])
    np.testing.assert_array_equal(found.energy_std, np.std(energies, axis=0, ddof=1))
    forces = np.array([one.forces for one in alone])
    np.testing.assert_array_equal(found.forces_std, np.std(forces, axis=0, ddof=1))
    errors = ensemble_errors(structures, found)
    assert {"members", "calibration"} < set(errors)
    for member, of_member in zip(members, errors["members"], strict=True):
        expected = fdforce.evaluate(member, structures, threads=1)
        assert of_member == {k: v for k, v in expected.items() if not k.startswith("n_")}


def test_calibration_of_a_known_case():
    """Two members with energies m ± s and labels at given distances from m."""
    ensemble, _, _ = ensemble_of(2)
    structures, _ = read_structures(frames(), elements=ELEMENTS)
    found = predict_members(ensemble, structures, threads=1)
    # half the difference of two numbers is sqrt(2) times less than their sample deviation
    deviation = found.energy_std
    apart = np.abs(found.members[0].energies - found.members[1].energies)
    np.testing.assert_allclose(deviation, apart / np.sqrt(2), rtol=1e-12)
    shifts = np.array([0.5, 1.5, 2.5, np.nan])
    labelled = replace(structures, energies=found.mean.energies + shifts * deviation)
    result = calibration(labelled, found)["energy"]
    assert result["within_1_std"] == pytest.approx(1 / 3)
    assert result["within_2_std"] == pytest.approx(2 / 3)
    of_atom = deviation[:3] / structures.counts[:3]
    expected = np.sqrt(np.sum((shifts[:3] * of_atom) ** 2) / np.sum(of_atom**2))
    assert result["rmse_over_std"] == pytest.approx(expected, rel=1e-9)
    unlabelled = replace(structures, forces=np.full_like(structures.forces, np.nan))
    assert calibration(unlabelled, found)["force"] is None
    twins = Ensemble(ensemble.shared, [ensemble.theta[0]] * 2)
    assert calibration(structures, predict_members(twins, structures, threads=1)) == {
        "energy": None, "force": None,
    }  # fmt: skip


# The calculator


@pytest.fixture
def atoms():
    return SYSTEMS["two_species"]()


def test_calculator(atoms):
    ensemble, members, _ = ensemble_of()
    alone = []
    for member in members:
        other = atoms.copy()
        other.calc = fdforce.Calculator(member, threads=1)
        alone.append((other.get_potential_energy(), other.get_forces(), other.get_stress()))
    energies, forces, stresses = (np.array(x) for x in zip(*alone, strict=True))
    atoms.calc = calc = fdforce.Calculator(ensemble, threads=1)
    assert atoms.get_potential_energy() == pytest.approx(energies.mean(), rel=1e-12)
    assert relative(atoms.get_forces(), forces.mean(axis=0)) < 1e-12
    assert relative(atoms.get_stress(), stresses.mean(axis=0)) < 1e-12
    energy_std = calc.get_property("energy_std", atoms)
    assert isinstance(energy_std, float)
    assert energy_std == pytest.approx(np.std(energies, ddof=1), rel=1e-10)
    found = calc.get_property("forces_std", atoms)
    np.testing.assert_allclose(found, np.std(forces, axis=0, ddof=1), rtol=1e-9, atol=1e-12)


def test_deviations_of_the_forces_only_on_demand(atoms, monkeypatch):
    ensemble, _, _ = ensemble_of()
    calls = []
    member_forces = Ensemble.member_forces
    monkeypatch.setattr(Ensemble, "member_forces", lambda *a: calls.append(1) or member_forces(*a))
    atoms.calc = calc = fdforce.Calculator(ensemble, threads=1)
    assert calc.get_property("energy_std", atoms, allow_calculation=False) is None
    width = np.sqrt(300 * units.kB * atoms.get_masses())  # of momenta at 300 K
    atoms.set_momenta(width[:, None] * np.random.default_rng(0).normal(size=(len(atoms), 3)))
    dynamics = VelocityVerlet(atoms, timestep=0.2 * units.fs)
    start = atoms.get_total_energy()
    spread = [calc.get_property("energy_std", atoms)]
    for _ in range(10):
        dynamics.run(1)
        spread.append(calc.get_property("energy_std", atoms))
    assert len(set(spread)) == 11
    # the error of the time step is some (0.2 fs * frequency)^2 / 8 of the energy exchanged, 1e-4
    # for 0.1 / fs; with the forces of another energy all of it would be lost
    assert abs(atoms.get_total_energy() - start) < 1e-3 * atoms.get_kinetic_energy()
    assert calls == []
    assert calc.get_property("forces_std", atoms, allow_calculation=False) is None
    first = calc.get_property("forces_std", atoms)
    first[:] = 0
    assert calc.get_property("forces_std", atoms).all()
    assert len(calls) == 1
    atoms.positions[0, 0] += 0.1
    assert calc.get_property("forces_std", atoms).shape == (len(atoms), 3)
    assert len(calls) == 2
    other = copy.deepcopy(atoms)
    np.testing.assert_array_equal(
        other.calc.get_property("forces_std", other), calc.get_property("forces_std", atoms)
    )


def test_ase_accepts_the_results(atoms, tmp_path):
    ensemble, members, _ = ensemble_of()
    atoms.calc = fdforce.Calculator(ensemble, threads=1)
    atoms.get_forces()
    atoms.calc.get_property("forces_std", atoms)
    frozen = atoms.copy()
    frozen.calc = SinglePointCalculator(frozen, **atoms.calc.results)
    assert frozen.get_potential_energy() == atoms.get_potential_energy()
    assert "forces" in atoms.calc.export_properties()
    with Trajectory(tmp_path / "run.traj", "w", atoms) as file:
        file.write()
    with Trajectory(tmp_path / "run.traj") as file:
        np.testing.assert_array_equal(file[0].get_forces(), atoms.get_forces())
    single = fdforce.Calculator(members[0], threads=1)
    for name in ("energy_std", "forces_std"):
        with pytest.raises(PropertyNotImplementedError):
            single.get_property(name, atoms)
