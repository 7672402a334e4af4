"""``fdforce import`` and ``fdforce export``."""

from pathlib import Path

import click

from fdforce.cli.options import UNITS, command, model_argument
from fdforce.errors import FdforceError
from fdforce.formats import POTENTIALS

format_argument = click.argument("name", metavar="FORMAT", type=click.Choice(list(POTENTIALS)))


@command("import", short_help="Turn another program's potential into a model file.")
@format_argument
@click.argument("path", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, metavar="MODEL", help="Model file to write (.npz).")
@click.option(
    "--units",
    type=click.Choice(UNITS),
    default=UNITS[0],
    help="Of files that do not say (n2p2); ev-angstrom by default. As in every command, "
    "#units=hartree-bohr behind PATH says the same.",
)
def import_potential(name, path, output, units):
    """Read another program's potential and write it as a model file, in eV and Å.

    \b
    Example:
      fdforce import n2p2 potential/ --units hartree-bohr -o model.npz
    """
    from fdforce.formats import find_module
    from fdforce.formats.n2p2.text import split_path
    from fdforce.model_file import save_model

    plain, _ = split_path(path)
    if not plain.exists():
        raise FdforceError(f"{plain}: no such file or folder")
    model = find_module(POTENTIALS, name).read_potential(path, units=units)
    save_model(output, model, imported={"format": name, "path": plain.name})
    click.echo(f"{output}: {' '.join(model.elements)}, {len(model.theta)} parameters")
    if name in ("snap", "mliap") and model.baseline is None:
        click.echo(
            "no zbl is named in the files; of a pair style that overlays one (hybrid/overlay) this "
            "is SNAP alone (docs/lammps.md)"
        )


@command("export", short_help="Write a model as a potential of another program.")
@model_argument
@format_argument
@click.argument("path", type=click.Path(path_type=Path))
def export_potential(model, name, path):
    """Write MODEL (a model.npz) as the files of another program at PATH.

    \b
    Example:
      fdforce export runs/first/model.npz n2p2 potential/
    """
    from fdforce.formats import find_module
    from fdforce.model_file import load_model

    said = find_module(POTENTIALS, name).write_potential(load_model(model), path)
    click.echo(said)
