"""Arrays and a JSON header in one .npz file: written whole or not at all, read without pickle."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fdforce.errors import FdforceError


def write_bytes(path, content: bytes) -> None:
    """Replace a file by new content in one step; see `write_file`."""
    write_file(path, lambda file: file.write(content))


def write_file(path, write: Callable[[BinaryIO], object]) -> None:
    """Replace a file in one step by what a function writes into it.

    The content goes to a temporary file beside it first, so a full disk or a killed process leaves
    the earlier file as it was.

    Raises
    ------
    FdforceError
        The file cannot be written.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~umask())
        os.replace(temporary, path)
    except BaseException as problem:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if not isinstance(problem, OSError):
            raise
        raise FdforceError(
            f"{path}: cannot be written ({problem.strerror or problem}); an earlier file of that "
            "name is unchanged"
        ) from problem


def append_text(path, text: str) -> None:
    """Add to a text file; raises FdforceError where that is impossible."""
    try:
        with open(path, "a", newline="") as file:
            file.write(text)
    except OSError as problem:
        raise FdforceError(
            f"{path}: cannot be written ({problem.strerror or problem}); checkpoints are unchanged"
        ) from problem


def umask() -> int:
    """Permissions that new files are not to have."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_archive(path, header: dict, arrays: dict) -> None:
    """Write arrays and a header; see `write_bytes` for what happens when that fails.

    Parameters
    ----------
    path : path
    header : dict
        Anything JSON can hold.
    arrays : dict of str to ndarray
    """
    # with indent, json makes a string of every item first: half a gigabyte for a million labels
    text = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    write_file(path, lambda file: np.savez(file, header=text, **arrays))


def read_archive(path, format_name: str, version: int, error: type[FdforceError]):
    """Read an archive of a given format.

    Parameters
    ----------
    path : path
    format_name : str
        What ``header["format"]`` has to be.
    version : int
        Highest ``header["version"]`` understood.
    error : subclass of FdforceError
        Raised for a missing, truncated, foreign or newer file.

    Returns
    -------
    header : dict
    arrays : dict of str to ndarray
    """
    try:
        with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        header = json.loads(arrays.pop("header").tobytes().decode())
        found, found_version = header["format"], header["version"]
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except (IsADirectoryError, PermissionError) as problem:
        raise error(f"{path}: cannot be read ({problem.strerror})") from problem
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as problem:
        raise error(
            f"{path}: not a {format_name} file, or a damaged one ({type(problem).__name__})"
        ) from problem
    if found != format_name:
        raise error(f"{path}: is a {found} file, not a {format_name} file")
    if found_version > version:
        raise error(
            f"{path}: format version {found_version} is newer than {version}; update fdforce"
        )
    return header, arrays
