"""An ASE calculator as the fixed part of a model."""

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator

import fdforce
from fdforce.errors import ConfigError, FdforceError
from fdforce.models.calculator_baseline import CalculatorBaseline
from tests.checks import batch_of

SOURCE = """
from ase.calculators.lj import LennardJones

def dispersion():
    return LennardJones(epsilon=0.02, sigma=2.5, rc=8.0, smooth=True)

def nonsense():
    return 3
"""


@pytest.fixture
def source(tmp_path):
    (tmp_path / "parts.py").write_text(SOURCE)
    return f"{tmp_path / 'parts.py'}:dispersion"


def frames(n=12):
    rng = np.random.default_rng(0)
    result = []
    for k in range(n):
        scaled = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
        atoms = Atoms("Ar4", scaled_positions=scaled, cell=(5.0 + 0.05 * k) * np.eye(3), pbc=True)
        atoms.rattle(0.1, seed=k)
        calculator = LennardJones(epsilon=0.02, sigma=2.5, rc=8.0, smooth=True)
        atoms.calc = calculator
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        stress = atoms.get_stress()
        forces = forces + rng.normal(scale=1e-3, size=forces.shape)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces, stress=stress)
        result.append(atoms)
    return result


def test_it_is_the_calculator(source):
    atoms = [*frames(2), Atoms("Ar2", [[0, 0, 0], [0, 0, 3.0]])]
    batch = batch_of(atoms, ["Ar"], 4.0)
    found = CalculatorBaseline(["Ar"], source).forward(batch)
    for s, one in enumerate(atoms):
        one.calc = LennardJones(epsilon=0.02, sigma=2.5, rc=8.0, smooth=True)
        rows = slice(*batch.offsets[s : s + 2])
        assert found.energy[s] == pytest.approx(one.get_potential_energy(), rel=1e-12)
        np.testing.assert_allclose(found.forces[rows], one.get_forces(), atol=1e-12)
        if one.pbc.all():
            virial = -one.get_volume() * one.get_stress(voigt=False)
            np.testing.assert_allclose(found.virial[s], virial, atol=1e-10)
    assert found.atom_energy.sum() == pytest.approx(found.energy.sum())


def test_a_fit_learns_the_rest_and_predicts_the_whole(source, tmp_path):
    import ase.io

    ase.io.write(tmp_path / "argon.extxyz", frames())
    settings = {
        "data": {"train": str(tmp_path / "argon.extxyz"), "valid": 0.2},
        "model": {"kind": "linear", "radial_cutoff": 4.0, "radial_order": 2, "angular_order": 1,
                  "angular_cutoff": 3.5, "baseline": "calculator", "baseline_calculator": source},
        "optimizer": {"name": "least_squares"}, "training": {"threads": 1},
    }  # fmt: skip
    result = fdforce.fit(settings, out=tmp_path / "run", log=lambda line: None)
    # what is left is noise of 1e-3
    assert result.metrics["valid"]["force_rmse"] < 5e-3
    model = fdforce.load_model(tmp_path / "run" / "model.npz")
    assert model.baseline.source == source
    atoms = frames(1)[0]
    expected = atoms.get_forces()
    atoms.calc = fdforce.Calculator(model)
    np.testing.assert_allclose(atoms.get_forces(), expected, atol=2e-2)
    atoms.get_stress()


def test_what_is_no_calculator(source):
    with pytest.raises(ConfigError, match=r"needs model\.baseline_calculator"):
        CalculatorBaseline(["Ar"], "")
    with pytest.raises(ConfigError, match="returns a int, not an ASE calculator"):
        CalculatorBaseline(["Ar"], source.replace("dispersion", "nonsense"))
    with pytest.raises(FdforceError, match="has no function absent"):
        CalculatorBaseline(["Ar"], source.replace("dispersion", "absent"))
    with pytest.raises(FdforceError, match="expected MODULE:FUNCTION"):
        CalculatorBaseline(["Ar"], "parts.py")
