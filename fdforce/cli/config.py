"""``fdforce config``."""

import click

from fdforce.cli.options import command, set_option


@command("config", short_help="Print a configuration with every default.")
@set_option
def config(overrides):
    """Print a complete configuration with every default and a comment on each key.

    The keys of [model] are those of its descriptor: `--set model.descriptor=bispectrum` prints
    them for another one.

    \b
    Example:
      fdforce config > config.toml
      fdforce fit config.toml
    """
    from fdforce.config import config_from_dict, to_toml

    click.echo(to_toml(config_from_dict({}, overrides), comments=True), nl=False)
