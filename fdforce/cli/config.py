"""``fdforce config``."""

import click

from fdforce.cli.options import command


@command("config", short_help="Print a configuration with every default.")
def config():
    """Print a complete configuration with every default and a comment on each key.

    \b
    Example:
      fdforce config > config.toml
      fdforce fit config.toml
    """
    from fdforce.config import default_config, to_toml

    click.echo(to_toml(default_config(), comments=True), nl=False)
