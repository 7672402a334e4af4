"""The data sets inside the package (fdforce/data/README.md)."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fdforce.errors import ConfigError

EXAMPLES = ("ethanol", "diamond")

EXAMPLE_SETTINGS = {
    "ethanol": {"training": {"epochs": 30}},
    "diamond": {"training": {"epochs": 150}},
}
"""Where ``fdforce fit --example`` leaves the defaults, so that it takes a minute or two."""


def example_files(name: str = "ethanol") -> tuple[Path, Path]:
    """Training and test file of an example.

    Parameters
    ----------
    name : {"ethanol", "diamond"}

    Raises
    ------
    ConfigError
        There is no such example.
    """
    if name not in EXAMPLES:
        raise ConfigError(f"example {name!r}: choose one of {', '.join(EXAMPLES)}")
    folder = Path(str(files("fdforce"))) / "data"
    return folder / f"{name}_train.extxyz.gz", folder / f"{name}_test.extxyz.gz"
