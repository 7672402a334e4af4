"""What users read: errors in one or two lines, tables, JSON."""

import contextlib
import json
import math
import traceback
import warnings

import click

from fdforce.errors import FdforceError

_DEBUG = "fdforce.debug"


def _remember_debug(context, parameter, value):
    if value:
        context.meta[_DEBUG] = True


debug_option = click.option(
    "--debug",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_remember_debug,
    help="Show the traceback of an error, and warnings.",
)


@contextlib.contextmanager
def readable_errors(context):
    """Turn exceptions into a message and exit status 1; ``--debug`` shows the traceback too."""
    with warnings.catch_warnings():
        if not context.meta.get(_DEBUG):
            warnings.simplefilter("ignore")
        try:
            yield
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except (Exception, KeyboardInterrupt) as problem:
            if context.meta.get(_DEBUG):
                click.echo(traceback.format_exc(), err=True, nl=False)
            raise click.ClickException(describe(problem)) from problem


def describe(problem: BaseException) -> str:
    """One or two lines that say what went wrong."""
    if isinstance(problem, FdforceError):
        return str(problem)
    if isinstance(problem, KeyboardInterrupt):
        return str(problem) or "interrupted"
    if isinstance(problem, MemoryError):
        return "out of memory; take less data at a time, or smaller cutoffs"
    if isinstance(problem, OSError) and problem.strerror:
        where = f"{problem.filename}: " if problem.filename else ""
        return f"{where}{problem.strerror}"
    what = " ".join(str(problem).split())
    return (
        f"internal error: {type(problem).__name__}: {what:.300} "
        "(run with --debug for the traceback)"
    )


def to_stderr(line: str) -> None:
    """A line that is no part of the output."""
    click.echo(line, err=True)


def print_json(values) -> None:
    """Print one JSON object; numbers that are not finite become null."""
    click.echo(json.dumps(_finite(values), indent=1, ensure_ascii=False))


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


_COLUMNS = (("energy", "meV/atom", 1e3), ("force", "meV/Å", 1e3), ("stress", "meV/Å³", 1e3))


def error_table(metrics: dict) -> str:
    """Errors as a table, a line per data set or group.

    Parameters
    ----------
    metrics : dict of dict
        Name to the result of `fdforce.evaluation.errors`.
    """
    wide = max(8, *(len(name) + 1 for name in metrics))
    titles = "".join(f"{f'{name} ({unit})':>22}" for name, unit, _ in _COLUMNS)
    kinds = f"{'rmse':>13}{'mae':>9}" * len(_COLUMNS)
    lines = [
        f"{'':{wide}}{'':10}{'':9}{titles}",
        f"{'':{wide}}{'structures':>10}{'atoms':>9}{kinds}",
    ]
    for name, errors in metrics.items():
        cells = [
            _cell(errors[f"{quantity}_{kind}"], factor, width)
            for quantity, _, factor in _COLUMNS
            for kind, width in (("rmse", 13), ("mae", 9))
        ]
        lines.append(
            f"{name:{wide}}{errors['n_structures']:10}{errors['n_atoms']:9}{''.join(cells)}"
        )
    return "\n".join(lines)


def element_table(by_element: dict) -> str:
    """Errors of the forces on each element (`fdforce.comparison.errors_by_element`)."""
    lines = [
        f"{'':8}{'':10}{'':9}{'force (meV/Å)':>22}{'reference':>13}",
        f"{'':8}{'':10}{'atoms':>9}{'rmse':>13}{'mae':>9}{'rms':>13}",
    ]
    for element, errors in by_element.items():
        cells = [
            _cell(errors[key], 1e3, width)
            for key, width in (("force_rmse", 13), ("force_mae", 9), ("force_rms", 13))
        ]
        lines.append(f"{element:18}{errors['n_atoms']:9}{''.join(cells)}")
    return "\n".join(lines)


def extrapolation_table(atoms: list[dict]) -> str:
    """Atoms outside the range of the training set (`fdforce.feature_range.OutOfRange.describe`)."""
    names = [f"{entry['structure']}" for entry in atoms]
    wide = max(9, *map(len, names)) + 1
    features = max(16, *(len(entry["feature"]) for entry in atoms)) + 2
    lines = [
        f"  {'structure':{wide}}{'atom':>6}  {'element':9}{'features':>8}  "
        f"{'furthest outside':{features}}by"
    ]
    for name, entry in zip(names, atoms, strict=True):
        lines.append(
            f"  {name:{wide}}{entry['atom']:6}  {entry['element']:9}{entry['n_features']:8}  "
            f"{entry['feature']:{features}}{_distance(entry)}"
        )
    return "\n".join(lines)


def _distance(entry):
    if entry["ranges"] is not None:
        return f"{entry['ranges']:.3g} ranges"
    if entry["range"] is None:
        return "-"
    return f"{entry['value'] - entry['range'][0]:.3g} (it did not vary)"


def calibration_table(metrics: dict) -> str:
    """How well the standard deviation of the members tells the errors of an ensemble.

    Parameters
    ----------
    metrics : dict of dict
        Name to the result of `fdforce.calibration.ensemble_errors`.
    """
    lines = [
        f"{'':8}{'':8}{'rmse / rms std':>16}{'within 1 std':>14}{'2 std':>8}",
        f"{'':16}{'':16}{'(normal: 68 %':>14}{'95 %)':>8}",
    ]
    for name, errors in metrics.items():
        for quantity, values in errors["calibration"].items():
            if values is not None:
                lines.append(
                    f"{name:8}{quantity:8}{values['rmse_over_std']:16.3g}"
                    f"{100 * values['within_1_std']:12.0f} %{100 * values['within_2_std']:6.0f} %"
                )
    return "\n".join(lines)


def _cell(value, factor, width):
    text = "-" if value is None else f"{factor * value:.4g}"
    return f" {text:>{width - 1}}"  # a space even before 6.672e+05
