"""``fdforce benchmark``."""

from dataclasses import replace

import click

from fdforce.cli.messages import print_json, to_stderr
from fdforce.cli.options import (
    STENCILS,
    command,
    device_option,
    json_option,
    precision_option,
    set_option,
    threads_option,
)


@command("benchmark", short_help="Time and memory of energies, forces and a gradient.")
@click.argument("files", nargs=-1, metavar="[MODEL] [DATA]")
@json_option
@device_option
@precision_option
@threads_option
@click.option(
    "--stencil",
    type=click.Choice([*STENCILS, "complex"]),
    help="Finite-difference formula; central by default.",
)
@click.option("--batch-size", type=click.IntRange(min=1), help="Structures in a batch.")
@set_option
def benchmark(files, as_json, device, precision, threads, stencil, batch_size, overrides):
    """Time and peak memory of energies, forces and a training gradient.

    Times are in microseconds per atom and count the work of a training step alone: no reading, no
    pair lists. The three are timed in turn and the least of several times counts, so their ratio is
    fair. Without MODEL (a model.npz) an untrained one with the settings of the configuration is
    taken (--set model.KEY=VALUE), without DATA the ethanol example.

    \b
    Example:
      fdforce benchmark
      fdforce benchmark runs/first/model.npz train.extxyz --threads 4 --json
      fdforce benchmark train.extxyz --set model.hidden=[80,80] --precision float32
    """
    model_file, data = _sort_files(files)
    if model_file and any(text.strip().startswith("model.") for text in overrides):
        raise click.UsageError("--set model.… is for an untrained model; leave MODEL out")
    config = _configure(overrides, stencil, batch_size, precision)

    from fdforce.benchmark import benchmark, untrained_model
    from fdforce.examples import example_files
    from fdforce.model_file import load_model
    from fdforce.optimizers import with_numbers
    from fdforce.structure_files import tell_units
    from fdforce.structures import read_structures
    from fdforce.threads import limit_threads

    model = load_model(model_file, precision=precision) if model_file else None
    keys = {key: getattr(config.data, key) for key in ("energy_key", "forces_key", "stress_key")}
    elements = model.elements if model else config.model.elements or None
    tell_units([data] if data else [], to_stderr)
    structures, _ = read_structures(data or example_files()[0], elements=elements, **keys)
    difference = config.finite_difference
    config = replace(config, optimizer=with_numbers(config.optimizer, structures))
    with limit_threads(threads or config.training.threads) as threads:
        found = benchmark(
            model or untrained_model(config, structures), structures, device=device,
            stencil=difference.stencil, batch_size=config.optimizer.batch_size, threads=threads,
            epsilon=1e-5 if difference.epsilon == "auto" else difference.epsilon,
        )  # fmt: skip
    if as_json:
        print_json(found)
    else:
        _print(found)


def _sort_files(files):
    """MODEL and DATA, each None where it is not given."""
    if len(files) > 2:
        raise click.UsageError(f"takes at most MODEL and DATA, not {len(files)} files")
    if not files:
        return None, None
    if len(files) == 1:
        return (files[0], None) if files[0].endswith(".npz") else (None, files[0])
    if not files[0].endswith(".npz"):
        raise click.UsageError(f"{files[0]}: of two files the first is MODEL, a model.npz")
    return files


def _configure(overrides, stencil, batch_size, precision):
    from fdforce.config import config_from_dict, override
    from fdforce.errors import ConfigError

    given = {
        "finite_difference": {"stencil": stencil},
        "optimizer": {"batch_size": batch_size},
        "training": {"precision": precision},
    }
    given = {
        table: {key: value for key, value in keys.items() if value is not None}
        for table, keys in given.items()
    }
    config = override(config_from_dict({}, overrides), given, where="options")
    if config.finite_difference.stencil == "complex" and config.training.precision == "float32":
        raise ConfigError("the complex stencil needs --precision float64")
    return config


def _print(found):
    click.echo(
        f"{found['n_atoms']} atoms with {found['mean_neighbors']:.1f} neighbours each; "
        f"{found['device']}, {found['precision']}, threads: {found['threads']}\n"
    )
    labels = {"energy": "energy", "forces": "energy and forces", "gradient": "training gradient"}
    for kind, label in labels.items():
        click.echo(f"{label:20}{found[f'{kind}_us_per_atom']:10.3g} µs per atom")
    click.echo(f"{'gradient / forces':20}{found['gradient_over_forces']:10.3g}")
    click.echo(f"{'peak memory':20}{found['peak_memory_mb']:10.0f} MB")
