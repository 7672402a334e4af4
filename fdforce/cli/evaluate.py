"""``fdforce evaluate``."""

import click

from fdforce.cli.messages import calibration_table, error_table, member_rows, print_json
from fdforce.cli.options import (
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


@command("evaluate", short_help="Errors of a model on labelled structures.")
@model_argument
@data_argument
@json_option
@plot_option
@device_option
@precision_option
@threads_option
@key_options
def evaluate(
    model, data, as_json, plot, device, precision, threads, energy_key, forces_key, stress_key
):
    """Errors of MODEL (a model.npz) on labelled structures.

    Prints root-mean-square and mean absolute errors of the energies (per atom), the force
    components and the stress components. Several DATA files count as one data set. JSON is in
    eV/atom, eV/Å and eV/Å³; stress is null where there is none. --plot draws predicted against
    reference values. Of an ensemble the errors are those of the mean; those of the members follow,
    and how well the standard deviation of the members tells the errors.

    \b
    Example:
      fdforce evaluate runs/first/model.npz test.extxyz
      fdforce evaluate runs/first/model.npz test.extxyz --json
    """
    from fdforce.calibration import ensemble_errors, predict_members
    from fdforce.evaluation import errors, predict
    from fdforce.model_file import load_model
    from fdforce.models import Ensemble
    from fdforce.structures import read_structures
    from fdforce.threads import limit_threads

    if plot:
        from fdforce.report.plots import check_plot_file

        check_plot_file(plot)
    model = load_model(model, precision=precision)
    structures, _ = read_structures(
        data, elements=model.elements, require_labels=True,
        energy_key=energy_key, forces_key=forces_key, stress_key=stress_key,
    )  # fmt: skip
    is_ensemble = isinstance(model, Ensemble)
    with limit_threads(threads) as threads:
        if is_ensemble:
            of_members = predict_members(model, structures, threads=threads)
            prediction, found = of_members.mean, ensemble_errors(structures, of_members)
        else:
            prediction = predict(model, structures, threads=threads)
            found = errors(structures, prediction)
    if plot:
        from fdforce.report.plots import plot_parity

        plot_parity(structures, prediction, plot)
    if as_json:
        print_json(found)
        return
    if is_ensemble:
        click.echo(error_table({"mean": found, **member_rows(found)}))
        click.echo(f"\n{calibration_table({'data': found})}")
    else:
        click.echo(error_table({"data": found}))
    if plot:
        click.echo(f"parity plots: {plot}")
