"""``fdforce epsilon``."""

import contextlib
import sys

import click

from fdforce.cli.messages import print_json, to_stderr
from fdforce.cli.options import (
    STENCILS,
    command,
    json_option,
    key_options,
    plot_option,
    precision_option,
    threads_option,
)
from fdforce.errors import DataError, FdforceError


@command("epsilon", short_help="Error of the force gradient over ε, and the best ε.")
@click.argument("model", required=False, metavar="[MODEL]")
@click.argument("data", nargs=-1, metavar="[DATA]...")
@json_option
@plot_option
@precision_option
@click.option(
    "--stencil",
    type=click.Choice(STENCILS),
    help="Finite-difference formula; by default central in full, and the best ε for all three.",
)
@click.option(
    "--fixed-g0",
    type=click.FloatRange(min=0, min_open=True),
    metavar="X",
    help="The same g0 (eV/Å) for all structures, in place of the largest force error of each.",
)
@click.option(
    "--structures",
    "number",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Structures to scan, evenly spaced in DATA.",
)
@click.option(
    "--watch",
    metavar="RUN_DIR",
    help="Show Err[L̃] of the epochs of a run; alone, or beside the scan.",
)
@threads_option
@key_options
@click.pass_context
def epsilon(
    context,
    model,
    data,
    as_json,
    plot,
    precision,
    stencil,
    fixed_g0,
    number,
    watch,
    threads,
    **keys,
):
    """How exact the finite-difference force gradient of MODEL is, and which ε is best.

    MODEL is a model.npz, or an energy code of your own as MODULE:FUNCTION (or FILE.py:FUNCTION): a
    function of ase.Atoms that returns the pair (energy_and_forces, energy_gradient) or an
    fdforce.EnergyCode. Such a code is first checked against itself: forces, stress and ∇θE must be
    the slopes of its energies.

    ε is the largest displacement of an atom in Å (for a length scale of 1 Å). For ε from 1e-9 to
    0.1 the command prints Err[L̃], the error that a run can tell from the energies of the displaced
    structures, and Err[∇̃L], the error against the true gradient; both are relative. Below the best
    ε round-off dominates, above it truncation. `fdforce fit` chooses ε by itself.

    \b
    Example:
      fdforce epsilon runs/first/model.npz test.extxyz --plot epsilon.png
      fdforce epsilon mycode:make_model test.extxyz
      fdforce epsilon --watch runs/first
    """
    from fdforce.threads import limit_threads

    if plot:
        from fdforce.report.plots import check_plot_file

        check_plot_file(plot)
    if model is None and watch is None:
        raise click.UsageError("Give a MODEL and DATA, or --watch RUN_DIR.", context)
    if model is not None and not data:
        raise click.UsageError("Missing argument 'DATA...'.", context)
    monitor = None
    if watch is not None:
        from fdforce.diagnosis import read_monitor

        monitor = read_monitor(watch)
    if model is None:
        _show_monitor(monitor, watch, as_json, plot)
        return
    with limit_threads(threads) as threads:
        diagnosis, count = _diagnose(
            model, data, precision, stencil, fixed_g0, number, threads, keys
        )
    if plot:
        from fdforce.report.plots import plot_epsilon

        plot_epsilon(diagnosis.scan, plot, scaled=diagnosis.scaled, monitor=monitor)
    if as_json:
        print_json(_as_dict(diagnosis, monitor))
        return
    _print(diagnosis, count, fixed_g0)
    if monitor is not None:
        click.echo()
        _print_monitor(monitor, watch)
    if plot:
        click.echo(f"figure: {plot}")


def _diagnose(model, data, precision, stencil, fixed_g0, number, threads, keys):
    from fdforce.code_loading import is_code_name, load_codes
    from fdforce.diagnosis import PRECISIONS, diagnose, of_code, of_model
    from fdforce.model_file import load_model

    if is_code_name(model):
        if precision:
            raise FdforceError(
                f"--precision {precision}: {model} computes in the precision of its own; "
                "leave --precision out"
            )
        structures = _structures(data, number, None, keys)
        _say(f"checking {model} on {len(structures)} structures …")
        with contextlib.redirect_stdout(sys.stderr):  # what the code prints is not our output
            subject = of_code(load_codes(model), structures)
            _say("scanning ε" + (" for three stencils" if stencil is None else "") + " …")
            diagnosis = diagnose([subject], stencil=stencil, g0=fixed_g0)
        return diagnosis, len(structures)
    if model.endswith(".py"):
        raise FdforceError(f"{model}: name the function in it too, as {model}:make_model")
    loaded = load_model(model, precision=precision)
    structures = _structures(data, number, loaded.elements, keys)
    precisions = [str(loaded.dtype)]
    if not precision and not stencil:
        precisions += [other for other in PRECISIONS if other not in precisions]
    subjects = of_model(loaded, structures, precisions, threads)
    return diagnose(subjects, stencil=stencil, g0=fixed_g0), len(structures)


def _say(line):
    """Outside codes may be slow: what is being done, for someone who waits at a terminal."""
    if sys.stderr.isatty():
        to_stderr(line)


def _structures(data, number, elements, keys):
    """Some structures with forces, or a stress where the model is one of fdforce's."""
    import numpy as np

    from fdforce.structure_files import tell_units
    from fdforce.structures import read_structures

    tell_units(data, to_stderr)
    structures, _ = read_structures(data, elements=elements, require_labels=True, **keys)
    useful = structures.has_forces
    if elements is not None:
        useful = useful | structures.has_stress
    useful = np.flatnonzero(useful)
    if not len(useful):
        if elements is None:
            raise DataError(f"{', '.join(data)}: no structure has forces, which the scan needs")
        raise DataError(
            f"{', '.join(data)}: no structure has forces or a stress; the energy gradient is exact "
            "and has no epsilon"
        )
    spaced = np.linspace(0, len(useful) - 1, min(number, len(useful))).round().astype(int)
    return structures.select(useful[spaced])


def _as_dict(diagnosis, monitor):
    scan = diagnosis.scan.as_dict()
    names = (
        "epsilon", "err_loss", "err_gradient", "recommended", "precision", "stencil", "reference",
        "reference_error", "flat", "slopes",
    )  # fmt: skip
    values = {name: scan[name] for name in names}
    values["recommendations"] = diagnosis.recommendations()
    if diagnosis.scaled is not None:
        scaled = diagnosis.scaled.as_dict()
        values["scaled_g0"] = {name: scaled[name] for name in names}
    if diagnosis.consistency is not None:
        values["checked"] = diagnosis.consistency.checked
        values["notes"] = diagnosis.consistency.notes
    if monitor is not None:
        values["monitor"] = _monitor_dict(monitor)
    return values


# -- tables ----------------------------------------------------------------------------------------


def _print(diagnosis, n_structures, fixed_g0):
    scan = diagnosis.scan
    _print_consistency(diagnosis.consistency)
    g0 = "" if fixed_g0 is None else f", g0 = {fixed_g0:g} eV/Å for all"
    click.echo(f"{n_structures} structures, {scan.stencil} differences, {scan.precision}{g0}\n")
    _print_curves(scan)
    _print_slopes(scan)
    if diagnosis.scaled is not None:
        _print_fixed_g0(scan, diagnosis.scaled, fixed_g0)
    rows = diagnosis.recommendations()
    if len(rows) > 1:
        _print_recommendations(rows, "*" if scan.reference == "richardson" else "")


def _print_consistency(found):
    if found is None:
        return
    if found.checked:
        click.echo(f"consistent with the energies: {', '.join(found.checked)}")
    for note in found.notes:
        click.echo(f"note: {note}")
    click.echo()


def _print_curves(scan):
    import numpy as np

    nearest = np.argmin(np.abs(np.log(scan.epsilon / scan.recommended)))
    star = "*" if scan.reference == "richardson" else ""
    titles = [f"{'ε':>9}"]
    curves = []
    for title, curve in (("Err[L̃]", scan.err_loss), (f"Err[∇̃L]{star}", scan.err_gradient)):
        if curve is not None:
            # combining accents take no width
            titles.append(f"{title:>{11 + title.count(chr(0x303))}}")
            curves.append(curve)
    click.echo("  ".join(titles))
    for k, value in enumerate(scan.epsilon):
        side = "<- best" if k == nearest else "round-off" if k < nearest else "truncation"
        click.echo("  ".join([f"{value:9.1e}", *(f"{c[k]:11.1e}" for c in curves), side]))
    if star:
        click.echo(
            "* no true gradient is available: the reference is a Richardson extrapolation of "
            f"central differences,\n  itself good to about {scan.reference_error:.0e}"
        )
    err_loss, err_gradient = scan.at(scan.recommended)
    errors = [f"Err[L̃] = {err_loss:.1e}"] if err_loss is not None else []
    errors += [f"Err[∇̃L]{star} = {err_gradient:.1e}"] if err_gradient is not None else []
    low, high = scan.flat
    if not scan.epsilon[0] < scan.recommended < scan.epsilon[-1]:
        click.echo(
            f"\nthe error is least at the end of the scan (ε = {scan.recommended:.1g}): the best ε "
            "may lie beyond it"
        )
    click.echo(
        f"\nrecommended ε = {scan.recommended:.2g}: {', '.join(errors)}\n"
        f"any ε from {low:.1g} to {high:.1g} keeps the error within twice its least value; "
        "round-off grows to smaller ε, truncation to larger ε"
    )


def _print_slopes(scan):
    import math

    from fdforce.gradient import find_stencil

    low, high = scan.slopes
    order = find_stencil(scan.stencil).order
    parts = []
    if not math.isnan(low):
        parts.append(f"{low:.1f} below the best ε (-1 for round-off)")
    if not math.isnan(high):
        parts.append(f"{high:.1f} above it ({order} for the {scan.stencil} stencil)")
    if parts:
        click.echo(f"slopes of the curve: {', '.join(parts)}")
    least = min(error for error in scan.at(scan.recommended) if error is not None)
    if scan.precision == "float64" and least > 1e-5:
        click.echo(
            "even the least error is large for float64: energies or forces that jump, noise in "
            "∇θE, or forces\nthat do not belong to the energies; the curves say little then"
        )
    elif high < 0.8 * order:
        click.echo(
            "the error grows more slowly than for a smooth energy: pairs cross a cutoff or a knot "
            "where a\nsecond or third derivative jumps; the smaller ε is, the fewer do"
        )


def _print_fixed_g0(scan, scaled, g0):
    click.echo(
        "\neffect of g0                  best ε for Err[L̃]   for Err[∇̃L]   Err[∇̃L] at the "
        "recommended ε"
    )
    for name, one in ((f"{g0:g} eV/Å for all", scan), ("max |g_i| of each structure", scaled)):
        cells = [f"{x:.1e}" if x is not None else "-" for x in one.minima]
        error = one.at(one.recommended)[1]
        click.echo(f"{name:<28}{cells[0]:>19}{cells[1]:>14}{error:>14.1e}")
    of_loss, of_gradient = scan.minima
    if of_loss is not None and of_gradient is not None:
        apart = max(of_loss, of_gradient) / min(of_loss, of_gradient)
        click.echo(
            f"with the fixed g0 the two minima are a factor {apart:.2g} apart; the further apart, "
            "the less Err[L̃] says about the gradient"
        )


def _print_recommendations(rows, star):
    title = f"Err[∇̃L]{star}"
    click.echo(f"\n{'precision':<10}{'stencil':<10}{'best ε':>8}{title:>12}   flat range")
    for row in rows:
        error = row["err_gradient"]
        low, high = row["flat"]
        click.echo(
            f"{row['precision']:<10}{row['stencil']:<10}{row['recommended']:>8.1e}"
            f"{'-' if error is None else f'{error:.1e}':>11}   {low:.0e} to {high:.0e}"
        )


# -- the monitor of a run --------------------------------------------------------------------------


def _monitor_dict(monitor):
    names = ("epoch", "epsilon", "err_loss", "drift")
    return {name: [float(x) for x in getattr(monitor, name)] for name in names}


def _show_monitor(monitor, run_directory, as_json, plot):
    if plot:
        from fdforce.report.plots import plot_monitor

        plot_monitor(monitor, plot)
    if as_json:
        print_json(_monitor_dict(monitor))
        return
    _print_monitor(monitor, run_directory)
    if plot:
        click.echo(f"figure: {plot}")


def _print_monitor(monitor, run_directory):
    import numpy as np

    last = len(monitor.epoch) - 1
    shown = np.unique(np.round(np.geomspace(1, last + 1, 12)).astype(int) - 1)
    click.echo(f"{run_directory}: {last + 1} epochs\n")
    click.echo(f"{'epoch':>6}{'ε':>10}{'Err[L̃]':>12}{'drift':>9}")
    for k in shown:
        click.echo(
            f"{monitor.epoch[k]:6.0f}{monitor.epsilon[k]:10.1e}{monitor.err_loss[k]:11.1e}"
            f"{monitor.drift[k]:9.2g}"
        )
    changes = [f"{epoch:.0f}" for epoch in monitor.changes]
    click.echo(
        f"\nε was {f'chosen again before epoch {chr(44).join(changes)}' if changes else 'kept'}; "
        "drift is Err[L̃] times the force error, relative to the first\nepoch: Err[L̃] alone grows "
        "while the loss falls, drift stays within a factor of 10 while ε fits"
    )
