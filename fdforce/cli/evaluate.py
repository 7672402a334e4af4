"""``fdforce evaluate``."""

import click

from fdforce.cli.messages import (
    calibration_table,
    element_table,
    error_table,
    extrapolation_table,
    print_json,
    to_stderr,
)
from fdforce.cli.options import (
    cache_option,
    command,
    data_argument,
    device_option,
    json_option,
    key_options,
    model_argument,
    plot_option,
    precision_option,
    threads_option,
)

SHOWN = 10
"""Extrapolating atoms that are printed; --json has all of them."""


@command("evaluate", short_help="Errors of a model on labelled structures.")
@model_argument
@data_argument
@json_option
@plot_option
@device_option
@precision_option
@threads_option
@cache_option
@key_options
def evaluate(model, data, as_json, plot, device, precision, threads, cache, **keys):
    """Errors of MODEL (a model.npz) on labelled structures.

    Prints root-mean-square and mean absolute errors of the energies (per atom), the force
    components and the stress components; those of each config_type and those of the forces on each
    element where there are several; and which atoms extrapolate: their features lie outside the
    range of the training set. Several DATA files count as one data set. JSON is in eV/atom, eV/Å
    and eV/Å³; stress is null where there is none. --plot draws predicted against reference values.
    Of an ensemble the errors are those of the mean; those of the members follow, and how well the
    standard deviation of the members tells the errors.

    \b
    Example:
      fdforce evaluate runs/first/model.npz test.extxyz
      fdforce evaluate runs/first/model.npz test.extxyz --json
    """
    from fdforce.assessment import assess
    from fdforce.calibration import member_range
    from fdforce.comparison import errors_by_element, errors_by_group
    from fdforce.data_cache import read_set
    from fdforce.model_file import load_model
    from fdforce.structure_files import tell_units

    if plot:
        from fdforce.report.plots import check_plot_file

        check_plot_file(plot)
    model = load_model(model, precision=precision)
    tell_units(data, to_stderr)
    structures, _ = read_set(data, cache, elements=model.elements, log=to_stderr, **keys)
    assessed = assess(model, structures, threads=threads, device=device)
    found, comparison, outside = assessed.errors(), assessed.compare(), assessed.outside
    by_group, by_element = errors_by_group(comparison), errors_by_element(comparison)
    if plot:
        from fdforce.report.plots import plot_parity

        plot_parity(structures, assessed.prediction, plot)
    labels = model.descriptor.labels
    if as_json:
        extrapolating = None if outside is None else outside.describe(structures, labels)
        print_json(
            {**found, "by_config_type": by_group, "by_element": by_element,
             "extrapolating": extrapolating}
        )  # fmt: skip
        return
    if assessed.members is None:
        click.echo(error_table({"data": found}))
    else:
        click.echo(error_table({"mean": found, **member_range(found)}))
        click.echo(f"\n{calibration_table({'data': found})}")
    if len(by_group) > 1:
        named = {group or "(none)": errors for group, errors in by_group.items()}
        click.echo(f"\nby config_type\n{error_table(named)}")
    if len(by_element) > 1:
        click.echo(f"\nby element\n{element_table(by_element)}")
    click.echo(f"\nextrapolation: {_extrapolation(outside, structures)}")
    if outside:
        click.echo(extrapolation_table(outside.describe(structures, labels, SHOWN)))
        if len(outside) > SHOWN:
            click.echo(
                f"  ... the {SHOWN} furthest; --json lists all. {_most(outside, structures)}"
            )
    if plot:
        click.echo(f"parity plots: {plot}")


def _extrapolation(outside, structures):
    if outside is None:
        return "not known; the model file holds no ranges of the features"
    if not outside:
        return f"none of {structures.n_atoms} atoms has features outside their training range"
    return (
        f"{len(outside)} of {structures.n_atoms} atoms ({outside.n_structures} of "
        f"{len(structures)} structures) have features outside their training range"
    )


def _most(outside, structures):
    """Structures with most of the atoms that extrapolate."""
    import numpy as np

    counts = np.bincount(outside.structure, minlength=len(structures))
    most = np.argsort(-counts, kind="stable")[: min(3, outside.n_structures)]
    return "Most are in " + ", ".join(f"{structures.labels[s]} ({counts[s]} atoms)" for s in most)
