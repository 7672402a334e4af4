"""Options that several commands share."""

import click

from fdforce.cli.messages import debug_option

UNITS = ("ev-angstrom", "hartree-bohr")
STENCILS = ("central", "forward", "central4")


def command(name: str, **settings):
    """A command with ``--debug``, also after its own name."""

    def decorate(function):
        return debug_option(click.command(name, **settings)(function))

    return decorate


model_argument = click.argument("model", metavar="MODEL")
structure_argument = click.argument("structure", metavar="STRUCTURE")
data_argument = click.argument("data", nargs=-1, required=True, metavar="DATA...")

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object and nothing else."
)
plot_option = click.option(
    "--plot",
    metavar="FILE",
    help="Also draw a figure: .png, .svg or .pdf by its suffix (needs matplotlib).",
)
index_option = click.option(
    "--index",
    type=int,
    default=-1,
    show_default=True,
    help="Which structure of the file, from 0; negative numbers count from the end.",
)
threads_option = click.option(
    "--threads", type=click.IntRange(min=0), default=0, help="CPU threads; 0 = all cores."
)
precision_option = click.option(
    "--precision",
    type=click.Choice(["float32", "float64"]),
    help="Floating-point type of the kernels; that of the model by default.",
)
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="TABLE.KEY=VALUE",
    help="Change a key of the configuration, e.g. model.hidden=[20,20]; may be repeated.",
)


cache_option = click.option(
    "--cache",
    metavar="FOLDER",
    help="Pack the data here, for sets larger than memory (as data.cache of a fit).",
)


device_option = click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    help="Where the kernels run; cuda needs a GPU of NVIDIA and the extra cuda12 or cuda13.",
)


def key_options(function):
    """Names of the labels in data files."""
    for quantity, unit in (("stress", "eV/Å³"), ("forces", "eV/Å"), ("energy", "eV")):
        function = click.option(
            f"--{quantity}-key",
            default="",
            metavar="NAME",
            help=f"Name of the {quantity} ({unit}) in the files, if not a usual one.",
        )(function)
    return function
