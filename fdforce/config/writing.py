"""A configuration as TOML: what a run saves, and the template with comments."""

import dataclasses
import textwrap

from fdforce.config.reading import absolute_paths
from fdforce.config.tables import Config, known_keys
from fdforce.config.toml import toml_value
from fdforce.config.values import range_text


def to_toml(config: Config, comments: bool = False) -> str:
    """A configuration as TOML text, every key written out.

    Files are written as absolute paths, so the text means the same in whichever folder it is
    saved; `load_config` reads it back to ``absolute_paths(config)``.

    Parameters
    ----------
    config : Config
    comments : bool
        Put the help line, the choices, the range and the default above every key.

    Examples
    --------
    >>> print(to_toml(Config()).splitlines()[1])
    train = []
    """
    config = absolute_paths(config)
    blocks = []
    for table, keys in known_keys(config).items():
        settings = getattr(config, table)
        lines = [f"[{table}]"]
        if comments:
            lines.insert(0, f"# {type(settings).__doc__}")
        for name, field in keys.items():
            if comments:
                lines += ["", _comment(field)]
            lines.append(f"{name} = {toml_value(getattr(settings, name))}")
        blocks.append("\n".join(lines) + "\n")
    title = "# Settings of `fdforce fit`. Every key may be left out.\n\n" if comments else ""
    return title + "\n".join(blocks)


def _comment(field):
    """The line above a key of the commented template."""
    default = field.default
    if default is dataclasses.MISSING:
        default = field.default_factory()
    parts = [field.metadata["help"]]
    if field.metadata["choices"]:
        parts.append(" | ".join(f'"{choice}"' for choice in field.metadata["choices"]))
    if range_text(field):
        parts.append(range_text(field))
    text = f"{'; '.join(parts)} (default {toml_value(default)})"
    return textwrap.fill(text, width=100, initial_indent="# ", subsequent_indent="#   ")
