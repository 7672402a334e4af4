"""The command line: parse, call the library, print. One module per command.

Modules of commands are imported when first asked for, and import the library only when they run,
so that help takes no time.
"""

from importlib import import_module

import click

import fdforce
from fdforce.cli.messages import debug_option, readable_errors

COMMANDS = {
    "fit": "fdforce.cli.fit:fit",
    "search": "fdforce.cli.search:search",
    "evaluate": "fdforce.cli.evaluate:evaluate",
    "predict": "fdforce.cli.predict:predict",
    "report": "fdforce.cli.report:report",
    "epsilon": "fdforce.cli.epsilon:epsilon",
    "info": "fdforce.cli.info:info",
    "convert": "fdforce.cli.convert:convert",
    "config": "fdforce.cli.config:config",
    "benchmark": "fdforce.cli.benchmark:benchmark",
    "import": "fdforce.cli.potentials:import_potential",
    "export": "fdforce.cli.potentials:export_potential",
}
"""name -> module:attribute, in the order of the help."""


class LazyGroup(click.Group):
    """A group whose commands are imported when asked for and whose errors are readable."""

    def list_commands(self, context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, attribute = COMMANDS[name].split(":")
        return getattr(import_module(module), attribute)

    def invoke(self, context):
        with readable_errors(context):
            return super().invoke(context)


@click.group(cls=LazyGroup)
@click.version_option(fdforce.__version__, prog_name="fdforce")
@debug_option
def main():
    """Train machine-learned interatomic potentials to energies and forces by finite differences.

    Units are Å, eV, eV/Å and eV/Å³ throughout.

    \b
    Example:
      fdforce fit --example --out runs/ethanol
      fdforce evaluate runs/ethanol/model.npz test.extxyz
    """
