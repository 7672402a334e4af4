"""``fdforce epsilon``."""

import click

from fdforce.cli.messages import print_json
from fdforce.cli.options import (
    STENCILS,
    command,
    data_argument,
    json_option,
    key_options,
    model_argument,
    plot_option,
    precision_option,
    threads_option,
)
from fdforce.errors import DataError, FdforceError

LOWEST, HIGHEST = 1e-9, 0.1
SKIN = 6.01 * HIGHEST
"""Å. What central4 needs at the largest epsilon, strain included."""


@command("epsilon", short_help="Error of the force gradient over ε, and the best ε.")
@model_argument
@data_argument
@json_option
@plot_option
@precision_option
@click.option(
    "--stencil",
    type=click.Choice(STENCILS),
    default="central",
    show_default=True,
    help="Finite-difference formula.",
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
@threads_option
@key_options
def epsilon(model, data, as_json, plot, precision, stencil, fixed_g0, number, threads, **keys):
    """How exact the finite-difference force gradient of MODEL is, and which ε is best.

    ε is the largest displacement of an atom in Å (for a length scale of 1 Å). For ε from 1e-9 to
    0.1 the command prints Err[L̃], the error that a run can tell from the energies of the displaced
    structures, and Err[∇̃L], the error against the true gradient; both are relative. Below the best
    ε round-off dominates, above it truncation. `fdforce fit` chooses ε by itself.

    \b
    Example:
      fdforce epsilon runs/first/model.npz test.extxyz --plot epsilon.png
    """
    from fdforce.threads import limit_threads

    if plot:
        from fdforce.report.plots import check_plot_file

        check_plot_file(plot)
    if ":" in model and not model.endswith(".npz"):
        raise FdforceError(
            f"{model}: MODULE:FUNCTION is not available in this version; give a model.npz, or call "
            "fdforce.scan_epsilon from Python"
        )
    model, structures = _read(model, data, precision, number, keys)
    with limit_threads(threads) as threads:
        scan = _scan(model, structures, stencil, fixed_g0, threads)
    if plot:
        from fdforce.report.plots import plot_epsilon

        plot_epsilon(scan, plot)
    if as_json:
        values = scan.as_dict()
        names = "epsilon", "err_loss", "err_gradient", "recommended", "precision", "stencil"
        print_json({name: values[name] for name in names})
        return
    _print(scan, len(structures))
    if plot:
        click.echo(f"figure: {plot}")


def _read(model, data, precision, number, keys):
    """The model, and some structures with forces or stress."""
    import numpy as np

    from fdforce.model_file import load_model
    from fdforce.structures import read_structures

    model = load_model(model, precision=precision)
    structures, _ = read_structures(data, elements=model.elements, require_labels=True, **keys)
    useful = np.flatnonzero(structures.has_forces | structures.has_stress)
    if not len(useful):
        raise DataError(
            f"{', '.join(data)}: no structure has forces or a stress; the energy gradient is exact "
            "and has no epsilon"
        )
    spaced = np.linspace(0, len(useful) - 1, min(number, len(useful))).round().astype(int)
    return model, structures.select(useful[spaced])


def _scan(model, structures, stencil, g0, threads):
    """Scan of the force (and stress) loss ½ Σ |f̂ − f|², structure by structure."""
    from fdforce.epsilon import default_epsilons, scan_model
    from fdforce.gradient import loss_gradient
    from fdforce.model_file import in_precision
    from fdforce.neighbors import build_pairs
    from fdforce.problem import without_offsets
    from fdforce.training import DataSet, residual_target

    pairs = build_pairs(structures, model.cutoff, skin=SKIN, threads=threads)
    target = residual_target(structures, model.reference_energies, model.baseline, pairs)
    dataset = DataSet(structures, target, pairs)
    bare = without_offsets(model)
    batches, losses = [], []
    for s in range(len(structures)):
        batch, labels = dataset.batch([s], threads)
        batches.append(batch)
        losses.append(_loss(labels))
    highest = HIGHEST if g0 is None else _highest(bare, batches, losses, g0)
    exact = in_precision(bare, "float64")
    truth = [
        loss_gradient(exact, batch, loss, stencil="complex").gradient
        for batch, loss in zip(batches, losses, strict=True)
    ]
    try:
        return scan_model(
            bare, batches, losses, default_epsilons(LOWEST, highest),
            stencil=stencil, g0=g0, truth=truth,
        )  # fmt: skip
    except ValueError as problem:
        raise FdforceError(str(problem)) from problem


def _loss(labels):
    from fdforce.losses import make_loss

    # weights that turn the means of the squared loss into ½ Σ, so that g = f̂ − f
    loss = make_loss("squared", energy_weight=0.0, force_weight=1.5, stress_weight=4.5)
    return lambda *result: loss(*result, labels)


def _highest(model, batches, losses, g0):
    """Largest epsilon for which displacements in units of a fixed g0 stay within the skin."""
    import numpy as np

    largest = 0.0
    for batch, loss in zip(batches, losses, strict=True):
        state = model.forward(batch)
        terms = loss(batch, state.energy, *model.forces(state))
        largest = max(largest, np.linalg.norm(terms.d_forces, axis=1).max())
        if terms.d_virial is not None:
            strain = np.linalg.norm(terms.d_virial, 2, axis=(1, 2)).max()
            largest = max(largest, batch.cutoff * strain)
    highest = min(HIGHEST, HIGHEST * g0 / largest) if largest > 0 else HIGHEST
    if highest < 1e3 * LOWEST:
        raise FdforceError(
            f"--fixed-g0 {g0:g}: the largest force error is {largest:.3g} eV/Å; take a g0 near it"
        )
    return highest


def _print(scan, n_structures):
    import numpy as np

    nearest = np.argmin(np.abs(np.log(scan.epsilon / scan.recommended)))
    click.echo(f"{n_structures} structures, {scan.stencil} differences, {scan.precision}\n")
    click.echo(f"{'ε':>9}  {'Err[L̃]':>10}  {'Err[∇̃L]':>11}")
    for k, value in enumerate(scan.epsilon):
        side = "<- best" if k == nearest else "round-off" if k < nearest else "truncation"
        click.echo(f"{value:9.1e}  {scan.err_loss[k]:9.1e}  {scan.err_gradient[k]:9.1e}  {side}")
    at_best = [_at(scan.recommended, scan.epsilon, error)
               for error in (scan.err_loss, scan.err_gradient)]  # fmt: skip
    low, high = scan.flat
    click.echo(
        f"\nrecommended ε = {scan.recommended:.2g}: Err[L̃] = {at_best[0]:.1e}, "
        f"Err[∇̃L] = {at_best[1]:.1e}\n"
        f"any ε from {low:.1g} to {high:.1g} keeps the error within twice its least value; "
        "round-off grows to smaller ε, truncation to larger ε"
    )


def _at(value, epsilons, error):
    """An error curve between its points."""
    import numpy as np

    with np.errstate(divide="ignore"):
        return float(np.exp(np.interp(np.log(value), np.log(epsilons), np.log(error))))
