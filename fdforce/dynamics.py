"""Molecular dynamics with ASE's integrators: what a run writes, and when it must not go on.

A run is a folder of three files. ``energies.csv`` and ``trajectory.extxyz`` grow during the run,
whole lines and whole frames at a time, so a killed run keeps them; ``final.extxyz`` is its last
frame. Every frame holds momenta, and a run that starts from one goes on.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import Stationary, ZeroRotation
from ase.md.verlet import VelocityVerlet

from fdforce.archive import write_bytes
from fdforce.calculator import Calculator, one_structure
from fdforce.errors import DynamicsError, FdforceError
from fdforce.feature_range import find_out_of_range
from fdforce.models.ensemble import Ensemble
from fdforce.velocity_spectrum import PowerSpectrum, VelocitySpectrum

LARGEST_MOVE = 0.5
"""Å in one step. Bonds are 1 Å long; an atom that passes half of one has left the integrator."""

HOTTEST = 10.0
"""Times the temperature of the start and of the thermostat, and at least ..."""

LEAST_HOTTEST = 10_000.0
"""... K: a run that gets hotter has exploded."""

LANGEVIN_TIME, BUSSI_TIME = 1000.0, 100.0
"""fs. Langevin dynamics with 1 ps broadens lines of a spectrum by 5 cm^-1."""

FILES = ("energies.csv", "trajectory.extxyz", "final.extxyz")


@dataclass
class Extrapolation:
    """Frames with atoms outside the range of the training features.

    Attributes
    ----------
    frames : int
        Frames that hold such atoms.
    furthest : dict or None
        The atom that was furthest outside (`fdforce.feature_range.OutOfRange.describe`), and its
        ``step``.
    """

    frames: int = 0
    furthest: dict | None = None


@dataclass
class Disagreement:
    """Of the forces of an ensemble in the frames, eV/Å.

    Attributes
    ----------
    squares : list of float
        Mean square standard deviation of the force components of each frame.
    largest : float
        Standard deviation of the force on an atom, the root of the sum over its components.
    atom, step : int
        Where that was.
    """

    squares: list[float] = field(default_factory=list)
    largest: float = 0.0
    atom: int = 0
    step: int = 0

    @property
    def rms(self) -> float:
        """Of all components in all frames."""
        return float(np.sqrt(np.mean(self.squares)))


@dataclass(frozen=True)
class Dynamics:
    """A run, complete or stopped.

    Attributes
    ----------
    n_atoms : int
    steps : int
        Steps that were made.
    timestep : float, fs
    complete : bool
        Whether these are all that were asked for.
    degrees : int
        Degrees of freedom to which the temperature belongs (`moving_degrees`).
    rows : dict of str to ndarray
        The columns of energies.csv.
    n_frames : int
    extrapolation : Extrapolation or None
        None where the range of the training set is not known.
    disagreement : Disagreement or None
        Of an ensemble.
    spectrum : PowerSpectrum or None
        None where nobody asked, or the run is too short.
    """

    n_atoms: int
    steps: int
    timestep: float
    complete: bool
    degrees: int
    rows: dict[str, np.ndarray]
    n_frames: int
    extrapolation: Extrapolation | None
    disagreement: Disagreement | None
    spectrum: PowerSpectrum | None

    @property
    def drift(self) -> float:
        """Slope of the total energy by a linear fit, eV per atom and ps; NaN for a single row."""
        time, total = self.rows["time_fs"] / 1000, self.rows["total"]
        if len(time) < 2:
            return np.nan
        time = time - time.mean()
        return float(time @ (total - total.mean()) / (time @ time) / self.n_atoms)

    @property
    def fluctuation(self) -> float:
        """Standard deviation of the total energy, eV per atom."""
        return float(self.rows["total"].std() / self.n_atoms)


def prepare_folder(out) -> Path:
    """Make the folder of a run.

    Raises
    ------
    DynamicsError
        It holds a run already, or cannot be made.
    """
    out = Path(out)
    held = [name for name in FILES if (out / name).exists()]
    if held:
        raise DynamicsError(f"{out}: already holds a run ({', '.join(held)}); name another folder")
    if out.is_file():
        raise DynamicsError(f"{out}: is a file; name a folder for the run")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with open(out / FILES[0], "x"):
            pass
    except OSError as problem:
        raise DynamicsError(f"{out}: cannot be written ({problem.strerror})") from problem
    return out


def moving_degrees(atoms: Atoms) -> int:
    """Degrees of freedom that share the kinetic energy as long as nothing outside acts on them.

    All but those of constraints, of a centre of mass at rest, and of rotations of the whole where
    nothing is periodic and the angular momentum vanishes.
    """
    if atoms.constraints:
        return int(atoms.get_number_of_degrees_of_freedom())
    degrees = 3 * len(atoms)
    momenta, kinetic = atoms.get_momenta(), atoms.get_kinetic_energy()
    # momenta in files are rounded; what a thousandth of a degree holds is no motion
    least = 1e-3 * kinetic / degrees
    total = momenta.sum(axis=0)
    if total @ total / (2 * atoms.get_masses().sum()) <= least:
        degrees -= 3
    if not atoms.pbc.any() and len(atoms) > 1:
        moments, axes = atoms.get_moments_of_inertia(vectors=True)
        turning = moments > 1e-6 * moments.max()
        along = axes @ atoms.get_angular_momentum()
        if np.sum(along[turning] ** 2 / (2 * moments[turning])) <= least:
            degrees -= int(turning.sum())
    return degrees


def temperature_of(atoms: Atoms, degrees: int) -> float:
    """Kinetic temperature, K."""
    return 2 * atoms.get_kinetic_energy() / (max(degrees, 1) * units.kB)


def draw_velocities(atoms: Atoms, temperature: float, rng) -> None:
    """Velocities of a temperature (K); the whole neither moves nor, where it could, rotates."""
    scale = np.sqrt(atoms.get_masses() * units.kB * temperature)
    atoms.set_momenta(scale[:, None] * rng.standard_normal(atoms.positions.shape))
    if not atoms.constraints and len(atoms) > 1:
        Stationary(atoms, preserve_temperature=False)
        if not atoms.pbc.any():
            ZeroRotation(atoms, preserve_temperature=False)
    found = temperature_of(atoms, moving_degrees(atoms))
    if found > 0:
        atoms.set_momenta(atoms.get_momenta() * np.sqrt(temperature / found))


def _langevin(atoms, timestep, temperature, time, rng):
    # with fixcm=True few atoms get too hot
    return Langevin(
        atoms, timestep * units.fs, temperature_K=temperature, friction=1 / (time * units.fs),
        fixcm=False, rng=rng,
    )  # fmt: skip


def _bussi(atoms, timestep, temperature, time, rng):
    try:
        from ase.md.bussi import Bussi
    except ImportError:
        raise DynamicsError("thermostat 'bussi' needs ASE 3.24 or newer") from None
    found = Bussi(
        atoms, timestep * units.fs, temperature_K=temperature, taut=time * units.fs, rng=rng
    )
    # scaling leaves a centre of mass at rest, and ASE would give its share to the others
    found.ndof = moving_degrees(atoms)
    found.target_kinetic_energy = 0.5 * found.ndof * units.kB * temperature
    return found


THERMOSTATS = {"langevin": (_langevin, LANGEVIN_TIME), "bussi": (_bussi, BUSSI_TIME)}
"""name -> function that makes the integrator, and its usual time in fs."""


def run_dynamics(
    atoms: Atoms,
    out,
    *,
    steps: int = 10_000,
    timestep: float = 0.5,
    temperature: float = 300.0,
    thermostat: str | None = None,
    thermostat_time: float | None = None,
    seed: int = 0,
    log_interval: int = 10,
    trajectory_interval: int = 100,
    spectrum: bool = True,
    on_row: Callable[[dict], None] = lambda row: None,
    stop: Callable[[], bool] = lambda: False,
) -> Dynamics:
    """Run molecular dynamics and write it to a folder.

    Parameters
    ----------
    atoms : ase.Atoms
        With a calculator of ASE's kind; extrapolation and disagreement are those of a
        `fdforce.Calculator`. Its velocities are kept; without any, `temperature` draws them. It is
        moved along.
    out : path
        Folder that holds no run yet.
    steps : int
    timestep : float, fs
    temperature : float, K
        Of the thermostat and of velocities that are drawn.
    thermostat : {None, "langevin", "bussi"}
        None keeps the energy (velocity Verlet).
    thermostat_time : float, fs, optional
        Relaxation time: the inverse friction of Langevin dynamics (1000 fs by default), the time
        constant of stochastic velocity rescaling (100 fs).
    seed : int
    log_interval, trajectory_interval : int
        Steps between rows of energies.csv, and between frames of trajectory.extxyz. In frames,
        atoms that extrapolate and the disagreement of an ensemble are looked for.
    spectrum : bool
        Whether to collect velocities for a spectrum, 60 kB for each atom.
    on_row : callable
        Takes every row as a dict.
    stop : callable
        Asked after every step whether the run shall end.

    Returns
    -------
    Dynamics

    Raises
    ------
    DynamicsError
        The folder cannot be used, or the dynamics has exploded: an atom moved by more than
        `LARGEST_MOVE` in a step, or the temperature left every bound. What was written stays.
    FdforceError
        The calculator cannot compute the atoms.
    """
    if thermostat is not None and thermostat not in THERMOSTATS:
        raise DynamicsError(
            f"thermostat {thermostat!r}: choose one of {', '.join(THERMOSTATS)}, or None"
        )
    atoms.get_forces()  # what cannot be computed is refused before a folder is made
    rng = np.random.default_rng(seed)
    if not atoms.get_momenta().any():
        draw_velocities(atoms, temperature, rng)
    if thermostat == "bussi" and not atoms.get_momenta().any():
        raise DynamicsError("thermostat 'bussi' scales velocities: give a temperature above 0")
    # Langevin dynamics moves the centre of mass as well
    moves_all = thermostat == "langevin" and not atoms.constraints
    degrees = 3 * len(atoms) if moves_all else moving_degrees(atoms)
    if thermostat is None:
        integrator = VelocityVerlet(atoms, timestep * units.fs)
    else:
        make, usual = THERMOSTATS[thermostat]
        integrator = make(atoms, timestep, temperature, thermostat_time or usual, rng)
    velocities = None
    if spectrum:
        velocities = VelocitySpectrum(atoms.numbers, atoms.get_masses(), timestep)
    bound = HOTTEST * max(temperature if thermostat else 0, temperature_of(atoms, degrees))
    watch = _Watch(atoms, timestep, degrees, max(bound, LEAST_HOTTEST))
    with _Writer(prepare_folder(out), atoms, timestep, degrees) as writer:
        step = 0
        while True:
            if step % log_interval == 0:
                on_row(writer.add_row(step))
            if step % trajectory_interval == 0:
                writer.add_frame(step)
            if velocities and step % velocities.stride == 0:
                velocities.add(atoms.get_velocities())
            if step == steps or stop():
                break
            step += 1
            watch.advance(integrator, step)
        writer.write_final(step)
    return Dynamics(
        n_atoms=len(atoms), steps=step, timestep=timestep, complete=step == steps,
        degrees=degrees, rows=writer.columns(), n_frames=writer.n_frames,
        extrapolation=writer.extrapolation, disagreement=writer.disagreement,
        spectrum=velocities.result(degrees) if velocities else None,
    )  # fmt: skip


class _Watch:
    """Makes steps, and says so when one went wrong."""

    def __init__(self, atoms, timestep, degrees, hottest):
        self.atoms, self.timestep = atoms, timestep
        self.degrees, self.hottest = degrees, hottest

    def advance(self, integrator, step):
        before = self.atoms.get_positions()
        try:
            integrator.step()
        except FdforceError as problem:
            # a calculator refuses positions that are absurd; an explosion is the usual reason
            self._check(before, step)
            raise DynamicsError(f"{self._when(step)}: {problem}") from problem
        self._check(before, step)

    def _check(self, before, step):
        atoms = self.atoms
        moved = np.linalg.norm(atoms.positions - before, axis=1)
        temperature = temperature_of(atoms, self.degrees)
        if moved.max() <= LARGEST_MOVE and temperature <= self.hottest:  # false for NaN
            return
        atom = int(np.argmax(np.where(np.isfinite(moved), moved, np.inf)))
        raise DynamicsError(
            f"{self._when(step)}: the dynamics has exploded: atom {atom} ({atoms.symbols[atom]}) "
            f"moved {moved[atom]:.3g} Å in this step, the temperature is {temperature:.3g} K\n"
            "take a smaller time step or a relaxed structure; if that does not help, the model "
            "lacks training data like these"
        )

    def _when(self, step):
        return f"step {step} ({step * self.timestep:g} fs)"


class _Writer:
    """The files of a run."""

    def __init__(self, out, atoms, timestep, degrees):
        self.out, self.atoms, self.timestep, self.degrees = out, atoms, timestep, degrees
        self.rows, self.n_frames = [], 0
        self.model = atoms.calc.model if isinstance(atoms.calc, Calculator) else None
        knows = self.model is not None and self.model.feature_min is not None
        self.extrapolation = Extrapolation() if knows else None
        self.disagreement = Disagreement() if isinstance(self.model, Ensemble) else None

    def __enter__(self):
        self._table = open(self.out / "energies.csv", "w", buffering=1)
        # without a buffer: a frame is written by one call, so that a killed run has whole frames
        self._trajectory = open(self.out / "trajectory.extxyz", "wb", buffering=0)
        return self

    def __exit__(self, *_):
        self._table.close()
        self._trajectory.close()

    def add_row(self, step) -> dict:
        atoms = self.atoms
        potential, kinetic = atoms.get_potential_energy(), atoms.get_kinetic_energy()
        row = {
            "step": step,
            "time_fs": step * self.timestep,
            "potential": potential,
            "kinetic": kinetic,
            "total": potential + kinetic,
            "temperature": temperature_of(atoms, self.degrees),
        }
        if atoms.pbc.all():
            stress = atoms.get_stress(include_ideal_gas=True)
            row["pressure"] = -stress[:3].mean()
        if self.disagreement:
            row["energy_std"] = atoms.calc.get_property("energy_std", atoms)
        if not self.rows:
            self._table.write(",".join(row) + "\n")
        self._table.write(",".join(f"{value:.12g}" for value in row.values()) + "\n")
        self.rows.append(row)
        return row

    def columns(self) -> dict:
        return {name: np.array([row[name] for row in self.rows]) for name in self.rows[0]}

    def add_frame(self, step):
        self._trajectory.write(_as_text(self._frame(step)))
        self.n_frames += 1

    def write_final(self, step):
        write_bytes(self.out / "final.extxyz", _as_text(self._frame(step, examine=False)))

    def _frame(self, step, examine=True):
        """The atoms with what was computed for them."""
        atoms = self.atoms
        frame = atoms.copy()
        frame.info = {"step": step, "time_fs": step * self.timestep}
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        if atoms.pbc.all():
            results["stress"] = atoms.get_stress()
        frame.calc = SinglePointCalculator(frame, **results)
        if examine:
            self._note_outside(frame, step)
            self._note_disagreement(frame, step)
        return frame

    def _note_outside(self, frame, step):
        found = self.extrapolation
        if found is None:
            return
        structure = one_structure(frame, self.model.elements)
        outside = find_out_of_range(self.model, structure)
        marks = np.zeros(len(frame), dtype=int)
        marks[outside.atom] = outside.count
        frame.set_array("features_outside", marks)
        if not len(outside):
            return
        found.frames += 1
        (furthest,) = outside.describe(structure, self.model.descriptor.labels, 1)
        if found.furthest is None or _how_far(furthest) > _how_far(found.furthest):
            found.furthest = {**furthest, "step": step}

    def _note_disagreement(self, frame, step):
        found = self.disagreement
        if found is None:
            return
        atoms = self.atoms
        deviations = atoms.calc.get_property("forces_std", atoms)
        frame.info["energy_std"] = atoms.calc.get_property("energy_std", atoms)
        frame.set_array("forces_std", deviations)
        found.squares.append(float(np.mean(deviations**2)))
        of_atoms = np.linalg.norm(deviations, axis=1)
        if of_atoms.max() > found.largest:
            found.largest, found.step = float(of_atoms.max()), step
            found.atom = int(of_atoms.argmax())


def _how_far(entry):
    return np.inf if entry["ranges"] is None else entry["ranges"]


def _as_text(frame) -> bytes:
    text = io.StringIO()
    write(text, frame, format="extxyz")
    return text.getvalue().encode()
