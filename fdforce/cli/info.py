"""``fdforce info``."""

from pathlib import Path

import click

from fdforce.cli.messages import print_json, to_stderr
from fdforce.cli.options import cache_option, command, json_option, key_options

SHOWN = 10
"""Suspicious structures that are listed; of more there is only the number."""
LISTED = 8
"""Items of a setting that are printed; of longer lists there is only the number."""
SAMPLE = 64
"""Structures whose pairs are listed to estimate the memory of all."""


@command("info", short_help="Describe data, models, checkpoints and devices.")
@click.argument("files", nargs=-1, metavar="[FILE...]")
@json_option
@click.option("--devices", is_flag=True, help="Show processor, threads and kernels.")
@click.option(
    "--features",
    is_flag=True,
    help="Show dead, constant and duplicate features of MODEL's descriptor on the DATA files.",
)
@cache_option
@key_options
def info(files, as_json, devices, features, **reading):
    """Describe data files, models (model.npz) and checkpoints.

    Of data: counts, elements, ranges of energies (eV/atom) and forces (eV/Å), shortest distances
    (Å), structures that deserve a second look, and the memory of the pair list (MB). Of a model:
    elements, settings, number of parameters and where it comes from.

    \b
    Example:
      fdforce info train.extxyz
      fdforce info runs/first/model.npz
      fdforce info --features runs/first/model.npz train.extxyz
      fdforce info --devices
    """
    if not files and not devices:
        raise click.UsageError("give a data file, a model or --devices")
    if features:
        _show_features(files, as_json, reading)
        return
    found = [_describe(path, reading) for path in files]
    if as_json:
        values = {"files": found} if files else {}
        print_json({**values, "devices": _devices()} if devices else values)
        return
    printers = {"data": _print_data, "model": _print_model, "checkpoint": _print_checkpoint}
    for number, item in enumerate(found):
        click.echo(("\n" if number else "") + f"{item['file']}: {item['kind']}")
        printers[item["kind"]](item)
    if devices:
        click.echo("\ndevices" if found else "devices")
        _print_pairs(_devices())


def _read(sources, cache, **options):
    from fdforce.data_cache import read_set
    from fdforce.structure_files import tell_units

    tell_units([sources] if isinstance(sources, str) else sources, to_stderr)
    return read_set(sources, cache, require_labels=False, log=to_stderr, **options)


def _show_features(files, as_json, reading):
    from fdforce.feature_report import describe_features
    from fdforce.model_file import load_model

    models = [path for path in files if path.endswith(".npz")]
    data = [path for path in files if not path.endswith(".npz")]
    if len(models) != 1 or not data:
        raise click.UsageError("--features takes one model.npz and data files")
    model = load_model(models[0])
    structures, _ = _read(data, elements=model.elements, **reading)
    reports = [r.as_dict() for r in describe_features(model.descriptor, structures)]
    if as_json:
        print_json({"features": reports})
        return
    for report in reports:
        click.echo(
            f"{report['element']}: {report['n_features']} features on {report['n_atoms']} atoms, "
            f"of rank {report['rank']}"
        )
        for kind in ("dead", "constant"):
            if report[kind]:
                click.echo(f"  {kind:11}{', '.join(report[kind])}")
        for first, second in report["duplicates"]:
            click.echo(f"  duplicate  {second} repeats {first}")


def _describe(path, reading):
    if not path.endswith(".npz") or _is_data(path):
        return {"file": path, "kind": "data", **_describe_data(path, reading)}
    header = _header(path)
    kind = header["format"].removeprefix("fdforce ")
    header["family"] = header.pop("kind", None)  # of the model; here kind is that of the file
    return {"file": path, "kind": kind, **header}


def _is_data(path):
    """An .npz file that is no model: MD17's."""
    from fdforce.formats import STRUCTURES, find_module

    return find_module(STRUCTURES, "md17").recognises(Path(path))


def _header(path):
    """Header of a model or of a checkpoint; the error of a model where it is neither."""
    from fdforce.checkpoint import load_checkpoint
    from fdforce.errors import CheckpointError, ModelFileError
    from fdforce.model_file import load_model, read_header

    try:
        header = read_header(path)
    except ModelFileError as problem:
        try:
            return load_checkpoint(path)[0]
        except CheckpointError:
            raise problem from None
    return {**header, "n_parameters": load_model(path).theta.shape[-1]}


def _describe_data(path, reading):
    import numpy as np

    from fdforce.config import default_config
    from fdforce.neighbors import build_pairs
    from fdforce.structures import describe_structures

    structures, isolated = _read(path, **reading)
    cutoff = default_config().model.cutoff
    number = min(SAMPLE, len(structures))
    some = structures.select(np.linspace(0, len(structures) - 1, number).round().astype(int))
    pairs = build_pairs(some, cutoff)
    return {
        **describe_structures(structures, isolated),
        "cutoff": cutoff,
        "mean_neighbors": pairs.mean_neighbors,
        "pairs_mb": pairs.nbytes / some.n_atoms * structures.n_atoms / 1e6,
    }


def _devices():
    import numba

    from fdforce.threads import available_cores

    return {
        "cpu_cores": available_cores(),
        "threads": min(available_cores(), numba.config.NUMBA_NUM_THREADS),
        "numba": numba.__version__,
        "threading_layer": numba.config.THREADING_LAYER,
        "gpu": _gpus(),
    }


def _gpus():
    """Names and memory of the GPUs, or why there is none."""
    from fdforce.cuda.device import list_devices
    from fdforce.errors import FdforceError

    try:
        found = list_devices()
    except FdforceError as problem:
        return str(problem)
    if not found:
        return "none found"
    return "; ".join(
        f"{gpu['name']} (compute capability {gpu['compute_capability']}, "
        f"{gpu['memory'] / 2**30:.0f} GiB, {gpu['free_memory'] / 2**30:.0f} free)"
        for gpu in found
    )


def _print_pairs(values):
    for key, value in values.items():
        if value not in (None, "", {}, []):
            click.echo(f"  {key.replace('_', ' '):22}{value}")


def _print_data(item):
    each, distances = item["atoms_per_structure"], item["shortest_distances"]
    shortest = ", ".join(f"{pair} {value:.3f}" for pair, value in distances.items())
    labels = ", ".join(f"{name} {item[f'n_{name}']}" for name in ("energy", "forces", "stress"))
    rows = {
        "structures": item["n_structures"],
        "atoms": f"{item['n_atoms']} ({each['min']} to {each['max']} per structure)",
        "elements": _counts(item["elements"]),
        "periodic (x, y, z)": _counts(item["periodicity"]),
        "with": labels,
        "weights other than 1": item["n_weights"] or None,
        "config types": _counts(item["config_types"]),
        "trajectories": item["n_trajectories"] or None,
        "isolated atoms": ", ".join(f"{e} {v:.6g} eV" for e, v in item["isolated"].items()),
        "energy": _range(item["energy_per_atom"], "eV/atom"),
        "density": _range(item["density"], "g/cm³"),
        "shortest distances": shortest and f"{shortest} Å",
        "neighbours": f"{item['mean_neighbors']:.1f} per atom within {item['cutoff']:g} Å; "
        f"pair list about {item['pairs_mb']:.3g} MB",
    }
    if forces := item["forces"]:
        rows["forces"] = f"rms {forces['rms']:.4g}, largest {forces['max']:.4g} eV/Å"
    if net := item["net_force"]:
        rows["net force"] = f"median {net['median']:.2g}, largest {net['max']:.2g} eV/Å"
    _print_pairs(rows)
    _print_suspicious(item["suspicious"])


def _print_suspicious(suspicious):
    if not suspicious:
        click.echo("  nothing suspicious")
        return
    click.echo(f"  {len(suspicious)} suspicious:")
    for entry in suspicious[:SHOWN]:
        click.echo(f"    {entry['structure']}: {entry['reason']}")
    if len(suspicious) > SHOWN:
        click.echo(f"    and {len(suspicious) - SHOWN} more (--json lists all)")


def _print_model(item):
    units = item.get("units", {})
    provenance = item.get("provenance", {})
    _print_pairs({
        "family": item["family"],
        "elements": ", ".join(item["elements"]),
        "descriptor": _settings(item["descriptor"]),
        "network": _settings(item["network"]),
        "members": item.get("members"),
        "parameters": item["n_parameters"],
        "precision": item["precision"],
        "baseline": item["baseline"],
        "units": ", ".join(f"{name} {unit}" for name, unit in units.items()),
    })  # fmt: skip
    _print_pairs({name: _plain(value) for name, value in provenance.items()})


def _print_checkpoint(item):
    if "members" in item:
        _print_pairs({
            "ensemble of": f"{item['members']} members, each with its checkpoint in member-K",
            "go on with": "fdforce fit --resume and the directory of this file",
        })  # fmt: skip
        return
    progress = item["progress"]
    _print_pairs({
        "epochs done": progress["epoch"],
        "best epoch": progress["best_epoch"],
        "best loss": f"{progress['best_loss']:.4g}",
        "ε": f"{progress['epsilon']:.2g}",
        "time": f"{progress['elapsed']:.0f} s",
        "go on with": "fdforce fit --resume and the directory of this file",
    })  # fmt: skip


def _counts(values):
    return ", ".join(f"{name} {number}" for name, number in values.items())


def _range(values, unit):
    if values is None:
        return None
    return f"{values['min']:.6g} to {values['max']:.6g} {unit}, mean {values['mean']:.6g}"


def _settings(values):
    return ", ".join(
        str(value) if key == "name" else f"{key} {_plain(value)}"
        for key, value in values.items() if key != "elements"
    )  # fmt: skip


def _plain(value):
    if isinstance(value, dict):
        return f"({_settings(value)})"
    if isinstance(value, list) and len(value) > LISTED:
        return f"({len(value)} of them)"  # --json has all
    if isinstance(value, list):
        return " ".join(_plain(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
