"""``fdforce md``."""

import time

import click

from fdforce.cli.messages import print_json, to_stderr
from fdforce.cli.options import (
    command,
    index_option,
    json_option,
    model_argument,
    plot_option,
    precision_option,
    structure_argument,
    threads_option,
)
from fdforce.cli.termination import stop_requests

LONGEST_WAIT = 60.0
"""Seconds between printed rows; others come every tenth of the run."""


@command("md", short_help="Molecular dynamics: energies, trajectory, power spectrum.")
@model_argument
@structure_argument
@click.option(
    "--steps", type=click.IntRange(min=0), default=10_000, show_default=True, help="Time steps."
)
@click.option(
    "--timestep",
    type=click.FloatRange(min=0, min_open=True),
    default=0.5,
    show_default=True,
    metavar="FS",
    help="Time step.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    metavar="K",
    help="Of the thermostat, and of velocities that are drawn; 300 by default.",
)
@click.option(
    "--ensemble",
    type=click.Choice(["nve", "nvt"]),
    default="nve",
    show_default=True,
    help="Constant energy (velocity Verlet) or constant temperature.",
)
@click.option(
    "--thermostat",
    type=click.Choice(["langevin", "bussi"]),
    help="Of nvt: Langevin dynamics (default), or stochastic velocity rescaling.",
)
@click.option(
    "--thermostat-time",
    type=click.FloatRange(min=0, min_open=True),
    metavar="FS",
    help="Relaxation time: 1 / friction of langevin (1000), time constant of bussi (100).",
)
@click.option("--new-velocities", is_flag=True, help="Draw velocities where STRUCTURE has its own.")
@index_option
@click.option("--out", metavar="DIR", help="Folder of the run; runs/md-NAME-DATE by default.")
@click.option(
    "--log-interval",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    metavar="STEPS",
    help="Between rows of energies.csv.",
)
@click.option(
    "--trajectory-interval",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    metavar="STEPS",
    help="Between frames of trajectory.extxyz.",
)
@click.option(
    "--spectrum/--no-spectrum",
    default=True,
    help="Whether to write the power spectrum, which takes 60 kB of memory for each atom.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of velocities and thermostat; take another one where a run with a thermostat goes on.",
)
@json_option
@plot_option
@precision_option
@threads_option
def md(model, structure, out, as_json, plot, new_velocities, index, precision, threads, **settings):
    """Molecular dynamics of STRUCTURE with MODEL (a model.npz).

    STRUCTURE is a file that ASE reads; the last structure in it is taken. Its velocities are kept,
    so a run goes on when another one starts from its final.extxyz or trajectory.extxyz. Without
    velocities, or with --new-velocities, they are drawn at --temperature; a relaxed structure puts
    half of that kinetic energy into its potential.

    DIR gets energies.csv (eV, K, eV/Å³), trajectory.extxyz (with momenta, energy, forces, atoms
    outside the training range and, of an ensemble, the standard deviations of its members),
    final.extxyz, and spectrum.csv, the power spectrum of the velocities as a density of states over
    wavenumbers (cm⁻¹). The drift of the total energy is that of a linear fit. A run stops with a
    message when it explodes. Ctrl-C and a termination signal end it after a whole step. --plot
    draws energies, temperature and spectrum.

    \b
    Example:
      fdforce md runs/first/model.npz start.xyz --steps 20000 --out runs/nve
      fdforce md runs/first/model.npz runs/nve/final.extxyz --ensemble nvt --temperature 500
    """
    from fdforce.dynamics import moving_degrees, run_dynamics, temperature_of

    _check_usage(settings)
    if plot:
        from fdforce.report.plots import check_plot_file

        check_plot_file(plot)
    atoms = _prepare(model, structure, index, precision, threads)
    given = settings.pop("temperature")
    moves = bool(atoms.get_momenta().any()) and not new_velocities
    if moves and given is not None and settings["ensemble"] == "nve":
        raise click.UsageError(
            f"{structure} has velocities, and nve keeps them: --temperature has nothing to set; "
            "leave it out, or add --new-velocities"
        )
    temperature = 300.0 if given is None else given
    if not moves:
        atoms.set_momenta(0 * atoms.positions)
    folder = _folder(out, structure)
    say = _Printer(settings["steps"], silent=as_json)
    say.line(f"{structure}: {len(atoms)} atoms, {atoms.get_chemical_formula()}")
    if moves:
        now = temperature_of(atoms, moving_degrees(atoms))
        say.line(f"velocities of the structure ({now:.4g} K)")
    else:
        say.line(f"velocities drawn at {temperature:g} K")
    ensemble, thermostat = settings.pop("ensemble"), settings.pop("thermostat")
    began = time.perf_counter()
    with stop_requests() as stop:
        run = run_dynamics(
            atoms, folder, **settings, temperature=temperature, on_row=say.row, stop=stop,
            thermostat=(thermostat or "langevin") if ensemble == "nvt" else None,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        if run.spectrum is not None:
            run.spectrum.write(folder / "spectrum.csv")
        if plot:
            from fdforce.report.plots import plot_dynamics

            plot_dynamics(run, plot)
    if as_json:
        print_json(_as_dict(run, ensemble, folder, seconds))
    else:
        _print(run, ensemble, folder, seconds, plot)
    for warning in _warnings(run):
        to_stderr(f"warning: {warning}")
    if not run.complete:
        raise click.ClickException(
            f"interrupted after {run.steps} steps; what was computed is in {folder}"
        )


def _check_usage(settings):
    if settings["ensemble"] == "nve":
        for name in ("thermostat", "thermostat_time"):
            if settings[name] is not None:
                option = "--" + name.replace("_", "-")
                raise click.UsageError(f"{option} belongs to --ensemble nvt")


def _prepare(model, structure, index, precision, threads):
    """The structure with the calculator of the model."""
    from fdforce import Calculator
    from fdforce.model_file import load_model
    from fdforce.structure_files import read_one, tell_units

    loaded = load_model(model, precision=precision)
    tell_units([structure], to_stderr)
    atoms = read_one(structure, index)
    atoms.calc = Calculator(loaded, threads=threads)
    return atoms


def _folder(out, structure):
    from pathlib import Path

    if out is not None:
        return Path(out)
    stem = (
        Path("runs") / f"md-{Path(structure).name.split('.')[0]}-{time.strftime('%Y%m%d-%H%M%S')}"
    )
    found, count = stem, 1
    while found.exists():
        count += 1
        found = stem.with_name(f"{stem.name}-{count}")
    return found


class _Printer:
    """Rows of a run, about ten of them."""

    def __init__(self, steps, silent):
        self.steps, self.silent = steps, silent
        self._next, self._last = 0.0, time.monotonic()

    def line(self, text):
        if not self.silent:
            click.echo(text)

    def row(self, row):
        now = time.monotonic()
        if self.silent or (row["step"] < self._next and now - self._last < LONGEST_WAIT):
            return
        if not row["step"]:
            click.echo(
                f"\n{'step':>10}{'time (ps)':>12}{'T (K)':>10}{'potential (eV)':>18}"
                f"{'total (eV)':>18}"
            )
        click.echo(
            f"{row['step']:10}{row['time_fs'] / 1000:12.4g}{row['temperature']:10.1f}"
            f"{row['potential']:18.6f}{row['total']:18.6f}"
        )
        self._next, self._last = row["step"] + self.steps / 10, now


def _as_dict(run, ensemble, folder, seconds):
    rows = run.rows
    found = {
        "steps": run.steps, "complete": run.complete, "time_ps": run.steps * run.timestep / 1000,
        "n_atoms": run.n_atoms, "ensemble": ensemble, "degrees_of_freedom": run.degrees,
        "temperature": _moments(rows["temperature"]), "potential": _moments(rows["potential"]),
        "total": _moments(rows["total"]),
        "drift_per_atom_ps": run.drift if ensemble == "nve" else None,
        "fluctuation_per_atom": run.fluctuation if ensemble == "nve" else None,
        "pressure": _moments(rows["pressure"]) if "pressure" in rows else None,
        "n_frames": run.n_frames, "extrapolation": None, "disagreement": None,
        "spectrum_resolution": run.spectrum.resolution if run.spectrum else None,
        "seconds": seconds, "out": str(folder),
    }  # fmt: skip
    if run.extrapolation is not None:
        furthest = run.extrapolation.furthest
        found["extrapolation"] = {"n_frames": run.extrapolation.frames, "furthest": furthest}
    if run.disagreement is not None:
        worst = run.disagreement
        found["disagreement"] = {
            "energy_std": _moments(rows["energy_std"]), "forces_std_rms": worst.rms,
            "forces_std_largest": worst.largest, "atom": worst.atom, "step": worst.step,
        }  # fmt: skip
    return found


def _moments(values):
    return {"mean": float(values.mean()), "std": float(values.std())}


def _print(run, ensemble, folder, seconds, plot):
    rows = run.rows
    pace = f", {1e3 * seconds / run.steps:.3g} ms per step" if run.steps else ""
    click.echo(f"\n{run.steps} steps, {run.steps * run.timestep / 1000:g} ps{pace}")
    click.echo(
        f"temperature {rows['temperature'].mean():.1f} ± {rows['temperature'].std():.1f} K "
        f"({run.degrees} degrees of freedom)"
    )
    if "pressure" in rows:
        click.echo(f"pressure {rows['pressure'].mean():.3g} ± {rows['pressure'].std():.2g} eV/Å³")
    if ensemble == "nve" and run.steps:
        click.echo(
            f"drift of the total energy {1e3 * run.drift:.2g} meV per atom and ps, "
            f"standard deviation {1e3 * run.fluctuation:.2g} meV/atom"
        )
    if run.disagreement is not None:
        worst = run.disagreement
        click.echo(
            f"disagreement of the members: energy {rows['energy_std'].mean():.3g} eV, forces "
            f"{1e3 * worst.rms:.3g} meV/Å (rms), at most {1e3 * worst.largest:.3g} meV/Å "
            f"(atom {worst.atom}, step {worst.step})"
        )
    if run.extrapolation is None:
        click.echo("extrapolation: not known; the model file holds no ranges of the features")
    elif not run.extrapolation.frames:
        click.echo(f"extrapolation: none in {run.n_frames} frames")
    files = "energies.csv, trajectory.extxyz, final.extxyz"
    if run.spectrum is not None:
        files += f", spectrum.csv (resolution {run.spectrum.resolution:.2g} cm⁻¹)"
    click.echo(f"in {folder}: {files}")
    if plot:
        click.echo(f"figure: {plot}")
    click.echo(f"\nto go on:\n  fdforce md MODEL {folder / 'final.extxyz'}")


def _warnings(run):
    if run.extrapolation is not None and run.extrapolation.frames:
        entry = run.extrapolation.furthest
        yield (
            f"{run.extrapolation.frames} of {run.n_frames} frames hold atoms outside the training "
            f"range; furthest atom {entry['atom']} ({entry['element']}) at step {entry['step']}, "
            f"{entry['feature']}" + _ranges(entry)
        )


def _ranges(entry):
    return "" if entry["ranges"] is None else f" by {entry['ranges']:.2g} ranges"
