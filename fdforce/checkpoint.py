"""Checkpoints: everything a run needs to go on exactly where it was."""

from __future__ import annotations

from fdforce import archive
from fdforce.errors import CheckpointError

FORMAT = "fdforce checkpoint"
VERSION = 1


def save_checkpoint(path, progress: dict, arrays: dict) -> None:
    """Write a checkpoint, whole or not at all.

    Parameters
    ----------
    path : path
    progress : dict
        Plain numbers, strings and lists.
    arrays : dict of str to ndarray

    Raises
    ------
    FdforceError
        The file cannot be written; an earlier one is unchanged.
    """
    archive.write_archive(path, {"format": FORMAT, "version": VERSION, **progress}, arrays)


def load_checkpoint(path) -> tuple[dict, dict]:
    """Read a checkpoint.

    Returns
    -------
    progress : dict
    arrays : dict of str to ndarray

    Raises
    ------
    CheckpointError
        The file is missing, damaged, foreign or of a newer version.
    """
    return archive.read_archive(path, FORMAT, VERSION, CheckpointError)
