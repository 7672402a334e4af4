"""Runs of dynamics: degrees of freedom, temperatures, files, interruption, explosion; the command.

That forces are slopes of the energy all along a trajectory is checked in tests/test_dynamics.py.
"""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.constraints import FixAtoms

import fdforce
from fdforce.dynamics import THERMOSTATS, draw_velocities, moving_degrees, run_dynamics
from fdforce.dynamics import temperature_of as temperature_with
from fdforce.errors import DataError, DynamicsError
from fdforce.models import Ensemble
from fdforce.structure_files import read_one
from tests.springs import Springs
from tests.systems import SYSTEMS
from tests.test_calculator import model_for
from tests.test_cli import ROOT, fail, run, succeed

FILES = {"energies.csv", "trajectory.extxyz", "final.extxyz"}


def springs():
    """Three atoms, each bound to the other two."""
    atoms = Atoms("H3", 1.1 * np.array([[0, 0, 0], [1, 0, 0], [0.5, np.sqrt(0.75), 0]]))
    atoms.set_masses([6.0, 6.0, 12.0])
    atoms.calc = Springs(30.0, 1.1, 2.0)
    return atoms


# Degrees of freedom and temperatures


@pytest.mark.parametrize(
    ("name", "expected"),
    [("single_atom", 3), ("dimer", 1), ("molecule", 21), ("slab", 33), ("bulk", 9)],
)
def test_drawn_velocities(name, expected):
    atoms = SYSTEMS[name]()
    draw_velocities(atoms, 450.0, np.random.default_rng(0))
    assert moving_degrees(atoms) == expected
    assert temperature_with(atoms, expected) == pytest.approx(450, rel=1e-9)
    kinetic = atoms.get_kinetic_energy()
    assert kinetic == pytest.approx(expected / 2 * units.kB * 450, rel=1e-9)
    if len(atoms) > 1:
        assert np.abs(atoms.get_momenta().sum(axis=0)).max() < 1e-12
    if name == "molecule":
        assert np.abs(atoms.get_angular_momentum()).max() < 1e-12


def test_what_moves_counts():
    atoms = SYSTEMS["molecule"]()
    draw_velocities(atoms, 300.0, np.random.default_rng(1))
    start = atoms.get_velocities()
    drift = np.array([0.01, 0, 0])
    spin = np.cross([0, 0, 0.01], atoms.positions - atoms.get_center_of_mass())
    atoms.set_velocities(start + drift)
    assert moving_degrees(atoms) == 24
    atoms.set_velocities(start + spin)
    assert moving_degrees(atoms) == 24
    atoms.set_velocities(start + drift + spin)
    assert moving_degrees(atoms) == 27
    # rounded to eight decimals, as in files
    atoms.set_momenta(np.round(start * atoms.get_masses()[:, None], 8))
    assert moving_degrees(atoms) == 21
    atoms.set_constraint(FixAtoms([0, 1]))
    assert moving_degrees(atoms) == 21
    atoms.set_constraint(FixAtoms([0]))
    assert moving_degrees(atoms) == 24
    atoms.set_constraint()
    atoms.set_momenta(0 * start)
    assert temperature_with(atoms, moving_degrees(atoms)) == 0


@pytest.mark.parametrize(("thermostat", "degrees"), [("langevin", 9), ("bussi", 3)])
def test_few_atoms_have_the_temperature_of_the_thermostat(tmp_path, thermostat, degrees):
    """Counting degrees wrongly, as 3N of a molecule that does not turn, would triple it."""
    atoms = springs()
    found = run_dynamics(
        atoms, tmp_path / "run", steps=6000, timestep=1.0, temperature=200.0, seed=3,
        thermostat=thermostat, thermostat_time=10.0, trajectory_interval=6000, spectrum=False,
    )  # fmt: skip
    assert found.degrees == degrees
    # 6000 fs are at least 300 times the time in which energies forget (twice 10 fs), and the
    # energy of a sample fluctuates by sqrt(2 / degrees): 0.05 of the mean, of which four
    mean = found.rows["temperature"][20:].mean()
    assert mean == pytest.approx(200, rel=4 * np.sqrt(2 / degrees / 300))
    kinetic = found.rows["kinetic"][20:].mean()
    assert kinetic == pytest.approx(degrees / 2 * units.kB * mean, rel=1e-9)


# Files


def rows_of(folder):
    with open(folder / "energies.csv") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def test_files_of_a_run(tmp_path):
    atoms = springs()
    atoms.set_cell([5, 5, 5])
    atoms.pbc = True
    found = run_dynamics(
        atoms, tmp_path / "run", steps=45, timestep=0.4, log_interval=10, trajectory_interval=20
    )
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES
    rows = rows_of(tmp_path / "run")
    assert [row["step"] for row in rows] == [0, 10, 20, 30, 40]
    assert list(rows[0]) == [
        "step", "time_fs", "potential", "kinetic", "total", "temperature", "pressure",
    ]  # fmt: skip
    frames = ase.io.read(tmp_path / "run" / "trajectory.extxyz", ":")
    assert [frame.info["step"] for frame in frames] == [0, 20, 40]
    assert found.n_frames == 3
    for frame, row in zip(frames, rows[::2], strict=True):
        assert frame.info["time_fs"] == pytest.approx(row["time_fs"])
        assert row["time_fs"] == pytest.approx(0.4 * row["step"])
        # positions and momenta have eight decimals
        assert frame.get_kinetic_energy() == pytest.approx(row["kinetic"], rel=1e-6)
        assert frame.get_potential_energy() == pytest.approx(row["potential"], abs=1e-11)
        other = frame.copy()
        other.calc = Springs(30.0, 1.1, 2.0)
        assert other.get_potential_energy() == pytest.approx(row["potential"], abs=1e-6)
        assert other.get_forces() == pytest.approx(frame.get_forces(), abs=1e-6)
        pressure = -other.get_stress(include_ideal_gas=True)[:3].mean()
        assert pressure == pytest.approx(row["pressure"], rel=1e-5)
        assert row["total"] == pytest.approx(row["potential"] + row["kinetic"], rel=1e-11)
        assert row["temperature"] == pytest.approx(row["kinetic"] * 2 / (6 * units.kB), rel=1e-9)
    final = ase.io.read(tmp_path / "run" / "final.extxyz")
    assert final.info["step"] == 45
    assert final.positions == pytest.approx(atoms.positions, abs=1e-8)


def test_drift_and_fluctuation(tmp_path):
    found = run_dynamics(springs(), tmp_path / "run", steps=400, timestep=0.5, log_interval=1)
    total, time = found.rows["total"], found.rows["time_fs"] / 1000
    assert found.drift == pytest.approx(np.polyfit(time, total, 1)[0] / 3, rel=1e-6)
    assert found.fluctuation == pytest.approx(total.std() / 3)
    # velocity Verlet: kT (w dt)^2 / 8, with w dt = 0.15
    assert 0 < found.fluctuation < 0.1 * units.kB * 300
    assert total.std() < 0.1 * found.rows["potential"].std()


def test_a_run_goes_on_from_its_last_frame(tmp_path):
    settings = dict(timestep=0.5, log_interval=5, spectrum=False)
    whole = run_dynamics(springs(), tmp_path / "whole", steps=60, **settings)
    run_dynamics(springs(), tmp_path / "first", steps=20, **settings)
    atoms = read_one(tmp_path / "first" / "final.extxyz")
    atoms.calc = springs().calc
    rest = run_dynamics(atoms, tmp_path / "second", steps=40, **settings)
    # rounding to eight decimals; slopes are of 10 eV/Å and grow little in 20 fs
    assert rest.rows["potential"] == pytest.approx(whole.rows["potential"][4:], abs=1e-6)
    assert rest.rows["total"][0] == pytest.approx(whole.rows["total"][4], abs=1e-6)


def test_the_seed_decides(tmp_path):
    def positions(name, **settings):
        atoms = springs()
        run_dynamics(atoms, tmp_path / name, steps=10, spectrum=False, **settings)
        return atoms.positions

    first = positions("a", seed=1)
    assert (positions("b", seed=1) == first).all()
    assert (positions("c", seed=2) != first).any()
    warm = positions("d", seed=1, thermostat="langevin")
    assert (positions("e", seed=1, thermostat="langevin") == warm).all()


def test_it_stops_when_asked(tmp_path):
    steps = []
    found = run_dynamics(
        springs(), tmp_path / "run", steps=100, log_interval=1,
        on_row=lambda row: steps.append(row["step"]), stop=lambda: len(steps) > 7,
    )  # fmt: skip
    assert (found.steps, found.complete) == (7, False)
    assert ase.io.read(tmp_path / "run" / "final.extxyz").info["step"] == 7


def test_fixed_atoms_stay(tmp_path):
    atoms = springs()
    atoms.set_constraint(FixAtoms([0]))
    found = run_dynamics(atoms, tmp_path / "run", steps=20, thermostat="langevin")
    assert found.degrees == 6
    final = read_one(tmp_path / "run" / "final.extxyz")
    assert final.positions[0] == pytest.approx([0, 0, 0], abs=0)
    assert np.abs(final.positions[1:] - springs().positions[1:]).max() > 1e-3
    assert list(final.constraints[0].index) == [0]


# What must not go on


def test_explosions(tmp_path):
    atoms = springs()
    atoms.set_velocities([[1.0, 0, 0], [0, 0, 0], [0, 0, 0]])
    with pytest.raises(DynamicsError) as caught:
        run_dynamics(atoms, tmp_path / "long", timestep=30.0)
    text = str(caught.value)
    assert text.startswith("step 1 (30 fs): the dynamics has exploded: atom 0 (H) moved ")
    assert "smaller time step" in text.splitlines()[1]
    assert len(ase.io.read(tmp_path / "long" / "trajectory.extxyz", ":")) == 1
    assert len(rows_of(tmp_path / "long")) == 1
    # w dt > 2: velocity Verlet itself is unstable
    with pytest.raises(DynamicsError, match=r"exploded: atom \d \(H\) moved .*the temperature is"):
        run_dynamics(springs(), tmp_path / "unstable", timestep=8.0, temperature=10.0)


def test_forces_that_are_no_numbers(tmp_path):
    atoms = springs()
    bond = atoms.calc.bond
    atoms.calc.bond = lambda r: [np.nan * x if r[0] > 1.101 else x for x in bond(r)]
    with pytest.raises(DynamicsError, match="exploded"):
        run_dynamics(atoms, tmp_path / "run", timestep=0.5)


def test_what_a_calculator_refuses(tmp_path, monkeypatch):
    atoms = springs()
    calculate, calls = Springs.calculate, []

    def refuse(self, *arguments):
        calls.append(1)
        if len(calls) > 4:
            raise DataError("atoms: too far apart")
        calculate(self, *arguments)

    monkeypatch.setattr(Springs, "calculate", refuse)
    with pytest.raises(DynamicsError, match=r"step 4 \(2 fs\): atoms: too far apart"):
        run_dynamics(atoms, tmp_path / "run")


def test_folders(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DynamicsError, match="file: is a file; name a folder"):
        run_dynamics(springs(), tmp_path / "file")
    with pytest.raises(DynamicsError, match=r"below: cannot be written \(Not a directory\)"):
        run_dynamics(springs(), tmp_path / "file" / "below")
    run_dynamics(springs(), tmp_path / "run", steps=1)
    with pytest.raises(DynamicsError, match=r"already holds a run \(energies.csv, trajectory"):
        run_dynamics(springs(), tmp_path / "run", steps=1)


def test_thermostats(tmp_path):
    with pytest.raises(DynamicsError, match="choose one of langevin, bussi, or None"):
        run_dynamics(springs(), tmp_path / "run", thermostat="berendsen")
    with pytest.raises(DynamicsError, match="give a temperature above 0"):
        run_dynamics(springs(), tmp_path / "run", thermostat="bussi", temperature=0.0)
    assert not (tmp_path / "run").exists()
    assert set(THERMOSTATS) == {"langevin", "bussi"}


# Models: extrapolation and ensembles


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A soft model of ethanol with random parameters, an ensemble of two, and a structure."""
    folder = tmp_path_factory.mktemp("md")
    atoms = SYSTEMS["molecule"]()
    first, second = (model_for(atoms, seed=seed, baseline=False) for seed in (0, 1))
    first.scale = 0.3
    # of ethanol near its start; features are of order 1
    first.feature_min, first.feature_max = first.feature_min - 0.3, first.feature_max + 0.3
    fdforce.save_model(folder / "model.npz", first)
    ensemble = Ensemble(first, [first.theta, first.theta + 0.1 * second.theta])
    fdforce.save_model(folder / "ensemble.npz", ensemble)
    ase.io.write(folder / "ethanol.extxyz", atoms)
    return folder


def test_extrapolation_is_found(folder, tmp_path):
    text = succeed("md", folder / "model.npz", folder / "ethanol.extxyz", "--steps", 4,
                   "--trajectory-interval", 2, "--out", tmp_path / "cold", "--temperature", 1,
                   "--threads", 1)  # fmt: skip
    assert "extrapolation: none in 3 frames" in text
    ase.io.write(tmp_path / "bare.xyz", Atoms("OH", [[0, 0, 0], [0, 0, 2.5]]))
    result = run("md", folder / "model.npz", tmp_path / "bare.xyz", "--steps", 4,
                 "--trajectory-interval", 2, "--out", tmp_path / "run", "--threads", 1)  # fmt: skip
    assert result.exit_code == 0
    assert "warning: 3 of 3 frames hold atoms outside the training range; furthest atom" in (
        result.stderr
    )
    frame = ase.io.read(tmp_path / "run" / "trajectory.extxyz", 0)
    assert (frame.arrays["features_outside"] > 0).all()


def test_an_ensemble_disagrees(folder, tmp_path):
    arguments = ["md", folder / "ensemble.npz", folder / "ethanol.extxyz", "--steps", 6,
                 "--trajectory-interval", 3, "--log-interval", 3, "--threads", 1]  # fmt: skip
    found = json.loads(succeed(*arguments, "--out", tmp_path / "a", "--json"))["disagreement"]
    frames = ase.io.read(tmp_path / "a" / "trajectory.extxyz", ":")
    deviations = np.array([frame.arrays["forces_std"] for frame in frames])
    assert found["forces_std_rms"] == pytest.approx(np.sqrt(np.mean(deviations**2)), rel=1e-6)
    of_atoms = np.linalg.norm(deviations, axis=2)
    assert found["forces_std_largest"] == pytest.approx(of_atoms.max(), rel=1e-6)
    assert (found["step"] // 3, found["atom"]) == np.unravel_index(of_atoms.argmax(), (3, 9))
    atoms = frames[1].copy()
    atoms.calc = fdforce.Calculator(folder / "ensemble.npz", threads=1)
    expected = atoms.calc.get_property("energy_std", atoms)
    assert frames[1].info["energy_std"] == pytest.approx(expected, abs=1e-6)
    assert rows_of(tmp_path / "a")[1]["energy_std"] == pytest.approx(expected, abs=1e-6)
    assert "disagreement of the members" in succeed(*arguments, "--out", tmp_path / "b")


# The command


def test_command(folder, tmp_path):
    arguments = ["md", folder / "model.npz", folder / "ethanol.extxyz", "--threads", 1]
    out = tmp_path / "run"
    text = succeed(*arguments, "--steps", 100, "--out", out, "--plot", tmp_path / "run.svg")
    assert {path.name for path in out.iterdir()} == FILES | {"spectrum.csv"}
    for words in ("velocities drawn at 300 K", "drift of the total energy", "21 degrees of freedom",
                  f"fdforce md MODEL {out / 'final.extxyz'}", "100 steps, 0.05 ps"):  # fmt: skip
        assert words in text
    assert (tmp_path / "run.svg").read_bytes().startswith(b"<?xml")
    again = ["md", folder / "model.npz", out / "final.extxyz", "--threads", 1]
    text = succeed(*again, "--steps", 10, "--out", tmp_path / "on", "--ensemble", "nvt")
    assert "velocities of the structure (" in text
    assert "drift" not in text
    found = json.loads(succeed(*again, "--steps", 0, "--out", tmp_path / "none", "--json"))
    assert found["steps"] == 0
    assert found["complete"] is True
    assert found["drift_per_atom_ps"] is None
    assert found["degrees_of_freedom"] == 21
    last = rows_of(out)[-1]
    assert found["total"]["mean"] == pytest.approx(last["total"], abs=1e-6)


def test_a_folder_of_its_own(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        succeed("md", folder / "model.npz", folder / "ethanol.extxyz", "--steps", 1)
    assert len(list((tmp_path / "runs").glob("md-ethanol-*"))) == 2


def test_wrong_usage(folder, tmp_path):
    model, structure, out = folder / "model.npz", folder / "ethanol.extxyz", tmp_path / "run"
    for option in ("--thermostat=bussi", "--thermostat-time=50"):
        result = run("md", model, structure, option)
        assert result.exit_code == 2
        assert "belongs to --ensemble nvt" in result.stderr
    for option in ("--timestep=0", "--steps=-1", "--temperature=-5", "--ensemble=npt"):
        assert run("md", model, structure, option).exit_code == 2
    moving = SYSTEMS["molecule"]()
    draw_velocities(moving, 100.0, np.random.default_rng(0))
    ase.io.write(tmp_path / "moving.extxyz", moving)
    result = run("md", model, tmp_path / "moving.extxyz", "--temperature", 50)
    assert result.exit_code == 2
    assert "nve keeps them" in result.stderr
    succeed("md", model, tmp_path / "moving.extxyz", "--temperature", 50, "--new-velocities",
            "--steps", 0, "--out", out)  # fmt: skip
    assert rows_of(out)[0]["temperature"] == pytest.approx(50)
    assert "already holds a run" in fail("md", model, structure, "--out", out)
    assert "no such file" in fail("md", model, tmp_path / "absent.xyz")
    assert "no such file" in fail("md", tmp_path / "absent.npz", structure)
    ase.io.write(tmp_path / "other.xyz", Atoms("Ti"))
    other = fail("md", model, tmp_path / "other.xyz", "--out", tmp_path / "none")
    assert "atom 0 is Ti, but the model knows only C, H, O" in other
    assert not (tmp_path / "none").exists()
    exploded = fail("md", model, structure, "--timestep", 100, "--out", tmp_path / "exploded")
    assert "the dynamics has exploded" in exploded


def begin(folder, out):
    command = [sys.executable, "-m", "fdforce", "md", folder / "model.npz",
               folder / "ethanol.extxyz", "--steps", "10000000", "--trajectory-interval", "5",
               "--out", out, "--threads", "1"]  # fmt: skip
    process = subprocess.Popen(
        list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    path, deadline = out / "trajectory.extxyz", time.monotonic() + 120
    while not (path.exists() and path.read_text().count("Properties") > 16):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_ends_after_a_whole_step(folder, tmp_path, number):
    process = begin(folder, tmp_path / "run")
    os.kill(process.pid, number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    final = ase.io.read(tmp_path / "run" / "final.extxyz")
    assert errors.splitlines()[-1] == (
        f"Error: interrupted after {final.info['step']} steps; what was computed is in "
        f"{tmp_path / 'run'}"
    )
    assert "drift of the total energy" in output
    assert (tmp_path / "run" / "spectrum.csv").exists()
    assert {"momenta"} <= set(final.arrays)


def test_a_killed_run_keeps_whole_frames(folder, tmp_path):
    process = begin(folder, tmp_path / "run")
    process.kill()
    process.communicate()
    frames = ase.io.read(tmp_path / "run" / "trajectory.extxyz", ":")
    assert [frame.info["step"] for frame in frames] == [5 * k for k in range(len(frames))]
    steps = [row["step"] for row in rows_of(tmp_path / "run")]
    assert steps == [10 * k for k in range(len(steps))]
    text = succeed("md", folder / "model.npz", tmp_path / "run" / "trajectory.extxyz",
                   "--steps", 1, "--out", tmp_path / "on")  # fmt: skip
    assert "velocities of the structure" in text


# Reading


def test_read_one(tmp_path):
    frames = [molecule("H2O"), molecule("CO2")]
    frames[1].set_momenta(np.arange(9.0).reshape(3, 3))
    frames[1].arrays["REF_forces"] = np.ones((3, 3))
    frames[1].info["REF_energy"] = 3.0
    ase.io.write(tmp_path / "two.extxyz", frames)
    found = read_one(tmp_path / "two.extxyz")
    assert str(found.symbols) == "CO2"
    assert set(found.arrays) <= {"numbers", "positions", "momenta", "masses"}
    assert (found.info, found.calc) == ({}, None)
    assert found.get_momenta() == pytest.approx(frames[1].get_momenta())
    assert str(read_one(tmp_path / "two.extxyz", 0).symbols) == "OH2"
    for index in (2, -3):
        with pytest.raises(DataError, match=f"there is no structure {index}; the file holds 2"):
            read_one(tmp_path / "two.extxyz", index)
