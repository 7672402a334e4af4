"""``fdforce fit``."""

from pathlib import Path

import click

from fdforce.cli.messages import calibration_table, error_table
from fdforce.cli.options import UNITS, command, set_option
from fdforce.cli.termination import termination_as_interrupt
from fdforce.examples import EXAMPLES


@command("fit", short_help="Train a potential.")
@click.argument("sources", nargs=-1, metavar="[CONFIG.toml | TRAIN...]")
@click.option(
    "--example",
    type=click.Choice(EXAMPLES),
    is_flag=False,
    flag_value=EXAMPLES[0],
    metavar="[NAME]",
    help=f"Train on a data set inside the package: {' or '.join(EXAMPLES)} "
    f"({EXAMPLES[0]} if no NAME is given).",
)
@click.option(
    "--valid",
    multiple=True,
    metavar="FRACTION|FILE",
    help="Validation data: a fraction of TRAIN (0.1 by default) or a file; files may be repeated.",
)
@click.option(
    "--test",
    multiple=True,
    metavar="FRACTION|FILE",
    help="Test data, evaluated at the end alone: a file or a fraction; files may be repeated.",
)
@click.option("--out", metavar="DIR", help="Run directory; runs/NAME-DATE by default.")
@click.option(
    "--start-from", metavar="MODEL", help="Start from this model.npz and keep its table [model]."
)
@click.option("--epochs", type=click.IntRange(min=0), help="Passes over the training structures.")
@click.option(
    "--max-time",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Wall-clock budget; without a number of epochs, as many as it allows.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Seed of every random choice.")
@click.option("--threads", type=click.IntRange(min=0), help="CPU threads; 0 = all cores.")
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    help="Where the kernels run; cuda needs a GPU of NVIDIA and the extra cuda12 or cuda13.",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "float64"]),
    help="Floating-point type of the kernels.",
)
@click.option(
    "--stencil",
    type=click.Choice(["central", "forward", "central4", "complex"]),
    help="Finite-difference formula of the force gradient.",
)
@click.option(
    "--log",
    "log_to",
    type=click.Choice(["tensorboard"]),
    help="Also write losses and errors for TensorBoard, in DIR/tensorboard (needs tensorboardX).",
)
@click.option(
    "--ensemble", type=click.IntRange(min=1), help="Networks to train, with seeds from --seed on."
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    default=1,
    help="Members of an ensemble to train at a time, each with its share of the threads.",
)
@click.option(
    "--units",
    type=click.Choice(UNITS),
    help="Of a training directory that does not say (n2p2); ev-angstrom by default. As in every "
    "command, #units=hartree-bohr behind its name says the same.",
)
@set_option
@click.option(
    "--resume",
    metavar="DIR",
    help="Go on exactly where the run in this directory stopped; only its epochs, time, patience, "
    "threads and checkpoint interval can be changed.",
)
def fit(
    sources, example, valid, test, out, resume, processes, units, overrides, log_to, **training
):
    """Train a potential to energies (eV), forces (eV/Å) and stresses (eV/Å³).

    Give a configuration, or data files, or a training directory of another program (n2p2: input.nn
    and input.data), or --example. Without settings the defaults
    are meant to give a good potential; `fdforce config` prints them all. Ctrl-C or a termination
    signal stops a run after a checkpoint; --resume goes on from there.

    \b
    Example:
      fdforce fit --example --out runs/ethanol
      fdforce fit train.extxyz --valid 0.1 --test test.extxyz --max-time 600
      fdforce fit config.toml --set optimizer.learning_rate=0.001
      fdforce fit n2p2-directory/ --units hartree-bohr --epochs 200
      fdforce fit --example --ensemble 8 --processes 2 --max-time 600
      fdforce fit --resume runs/ethanol
    """
    _check_usage(sources, example, out, resume, units)
    if log_to and processes > 1:
        raise click.UsageError("--log follows members that are trained in turn; drop --processes")
    config, changes = _settings(sources, example, resume, units, overrides)
    _change(changes, "data", valid=_part(valid, "--valid"), test=_part(test, "--test"))
    stencil = training.pop("stencil")
    _change(changes, "training", **training)
    _change(changes, "finite_difference", stencil=stencil)
    _run(config, changes, out, resume, processes, log_to)


def _check_usage(sources, example, out, resume, units):
    given = [name for name, value in (("data or configuration", sources), ("--example", example),
                                      ("--resume", resume)) if value]  # fmt: skip
    if not given:
        raise click.UsageError("give a CONFIG.toml, data files, --example or --resume DIR")
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(given)} exclude each other")
    if resume and out:
        raise click.UsageError("--resume goes on in its own directory; leave --out out")
    if units and not sources:
        raise click.UsageError("--units are those of a training directory; name one")
    configs = [name for name in sources if name.endswith(".toml")]
    if configs and units:
        raise click.UsageError("--units are those of a training directory, not of a configuration")
    if configs and len(sources) > 1:
        raise click.UsageError(f"{configs[0]}: a configuration stands alone; name data inside it")


def _settings(sources, example, resume, units, overrides):
    """The configuration to start from, and changes to it that still have to be made."""
    from fdforce.config import config_from_dict, load_config, merge_overrides, override
    from fdforce.examples import EXAMPLE_SETTINGS, example_files
    from fdforce.training_directory import with_training_directory

    if resume:
        config = None
    elif example:
        train, test = example_files(example)
        config = {"data": {"train": [str(train)], "test": str(test)}, **EXAMPLE_SETTINGS[example]}
    elif sources[0].endswith(".toml"):
        config = sources[0]
    else:
        config, _, notes = with_training_directory(
            {"data": {"train": list(sources)}}, {"units": units}
        )
        for note in notes:
            click.echo(note)
    changes = merge_overrides(overrides)
    if changes and not resume:
        base = config_from_dict(config) if isinstance(config, dict) else load_config(config)
        override(base, changes, where="--set")  # a wrong key is the fault of --set
    return config, changes


def _part(values, option):
    """A fraction, or files."""
    if not values:
        return None
    if len(values) > 1:
        return list(values)
    try:
        fraction = float(values[0])
    except ValueError:
        return list(values)
    if not 0 <= fraction < 1:
        raise click.BadParameter(f"{option} {values[0]}: a fraction is at least 0 and below 1")
    return fraction


def _change(changes, table, **values):
    given = {key: value for key, value in values.items() if value is not None}
    if given:
        changes.setdefault(table, {}).update(given)


def _run(config, changes, out, resume, processes, log_to):
    from fdforce.cli.progress import EpochPrinter, structure_progress
    from fdforce.errors import TrainingError
    from fdforce.fitting import configure, configure_resumed, fit, new_directory
    from fdforce.tensorboard import TensorBoardLog, check_tensorboard

    # resolved here as well, for what the progress line has to know
    resolved = configure_resumed(Path(resume), changes) if resume else configure(config, changes)
    settings = resolved.training
    if log_to:
        check_tensorboard()
    directory = Path(resume) if resume else new_directory(out, resolved)
    # members of an ensemble share the budget
    printer = EpochPrinter(settings.epochs, settings.max_time / settings.ensemble)
    listeners = [printer, *([TensorBoardLog(directory)] if log_to else [])]

    def after_epoch(progress, row):
        for listener in listeners:
            listener(progress, row)

    with termination_as_interrupt():
        try:
            result = fit(
                config, out=None if resume else directory, resume=resume, log=printer.log,
                on_epoch=after_epoch, progress=structure_progress, processes=processes, **changes,
            )  # fmt: skip
        except TrainingError:
            _write_report(directory)
            raise
        except KeyboardInterrupt:
            _write_report(directory)
            raise KeyboardInterrupt("the run was interrupted before its end") from None
        finally:
            for listener in listeners:
                listener.finish()
    _write_report(directory)
    _report(result)


def _write_report(directory):
    """Write report.html of a run that began; a figure that cannot be drawn does not lose it."""
    from fdforce.report import write_report

    if not (directory / "config.toml").is_file():
        return
    try:
        write_report(directory)
    except Exception as problem:
        what = " ".join(f"{type(problem).__name__}: {problem}".split())
        click.echo(f"no report.html ({what:.200}); `fdforce report {directory}` tries again")


def _report(result):
    """Errors, files, and what to do next."""
    from fdforce.report.plots import has_matplotlib

    directory = result.directory
    click.echo(f"\n{error_table(result.metrics)}")
    if "member" in result.history:
        click.echo(f"\n{calibration_table(result.metrics)}")
    names = ("model.npz", "report.html", "metrics.json", "history.csv", "config.toml")
    files = ", ".join(name for name in names if (directory / name).is_file())
    if "member" in result.history:
        files += ", the run of every member in member-0, member-1, …"
    click.echo(f"\nin {directory}: {files}, ...")
    if not has_matplotlib():
        click.echo("report.html has no figures: they need matplotlib (pip install 'fdforce[plot]')")
    click.echo(
        f"\nnext:\n  fdforce evaluate {directory / 'model.npz'} DATA\n"
        f"  fdforce predict {directory / 'model.npz'} DATA -o predicted.extxyz"
    )
    if "member" not in result.history:
        click.echo(f"  fdforce epsilon {directory / 'model.npz'} DATA")
