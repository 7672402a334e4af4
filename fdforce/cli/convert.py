"""``fdforce convert``."""

import sys
from pathlib import Path

import click

from fdforce.cli.messages import to_stderr
from fdforce.cli.options import command, key_options
from fdforce.formats import WRITTEN

_COUNTED = ("energy", "forces", "stress")
_NAMES = {
    "stress": "stresses", "weights": "weights other than 1", "config_types": "config types",
}  # fmt: skip


def _list_public_sets(context, parameter, value):
    if not value:
        return
    from fdforce.public_sets import SETS

    for name, each in SETS.items():
        number = f"{each.n_structures} structures" if each.n_structures else ""
        size = f"{each.size / 1e6:.0f} MB" if each.size else ""
        facts = [fact for fact in (number, size, f"licence {each.licence}") if fact]
        click.echo(f"{name:20} {'; '.join(facts)}; {each.reference}")
    context.exit()


@command("convert", short_help="Turn data files into another format.")
@click.argument("files", nargs=-1, required=True, metavar="IN... OUT")
@click.option(
    "--format",
    "name",
    type=click.Choice(WRITTEN),
    help="Format of OUT; by its suffix if not given (.extxyz, .xyz, .db, .data).",
)
@click.option(
    "--folder",
    default="public_sets",
    metavar="DIR",
    help="Where public sets are kept; public_sets by default.",
)
@click.option(
    "--list-public",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_public_sets,
    help="List the public sets that are known by name.",
)
@key_options
def convert(files, name, folder, **keys):
    """Write the structures of all IN, in order, as OUT.

    IN may be any file or folder that fdforce reads, or public:NAME, a public data set that is
    downloaded. Energies are written in eV, forces in eV/Å, stresses in eV/Å³ with ASE's sign,
    whatever the units of IN. Weights, config_type and the like are kept by extxyz and ase-db. OUT
    appears when it is complete.

    \b
    Example:
      fdforce convert rmd17_ethanol.npz ethanol.extxyz
      fdforce convert OUTCAR.1 OUTCAR.2 train/ --format deepmd
      fdforce convert public:comp6-s66x8 s66x8.extxyz
    """
    from fdforce.conversion import convert as convert_files
    from fdforce.public_sets import PREFIX, fetch, find_set
    from fdforce.structure_files import tell_units

    *sources, output = files
    if not sources:
        raise click.UsageError("give one or more files to read, and the one to write")
    if output.startswith(PREFIX):
        raise click.UsageError(f"{output} can be read, not written; OUT comes last")
    public = [find_set(source) for source in sources if source.startswith(PREFIX)]
    known = [each.n_structures for each in public]
    paths = []
    for source in sources:
        if source.startswith(PREFIX):
            paths.append(fetch(source, folder))
            to_stderr(f"{source}: checked by {find_set(source).checked_by}")
        else:
            paths.append(Path(source))
    tell_units(paths, to_stderr)
    counts = convert_files(
        paths,
        output,
        format=name or "",
        n_structures=sum(known) if len(public) == len(sources) and None not in known else None,
        on_structures=_show,
        **keys,
    )
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", nl=False, err=True)
    labels = ", ".join(f"{label} {getattr(counts, label)}" for label in _COUNTED)
    click.echo(f"{output}: {counts.structures} structures, {counts.atoms} atoms; with {labels}")
    if counts.left_out:
        left_out = ", ".join(f"{_NAMES[what]} ({n})" for what, n in counts.left_out.items())
        to_stderr(f"left out, {counts.format} has no place for them: {left_out}")


def _show(number):
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{number} structures", nl=False, err=True)
