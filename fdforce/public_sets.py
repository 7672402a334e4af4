"""Known public data sets by name: where they are, how to tell that they arrived whole, whose work.

They are listed in data/public_sets.toml. `PublicSet.checked_by` says how a download is checked.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import tarfile
import tempfile
import tomllib
import urllib.error
import urllib.request
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from fdforce import __version__
from fdforce.errors import FdforceError

PREFIX = "public:"
"""Before the name of a set, where a file could stand."""

_BLOCK = 1 << 20


@dataclass(frozen=True)
class PublicSet:
    """A file on the net with structures in it.

    Attributes
    ----------
    url : str
    file : str
        Its name on disk; of an archive, that of the member.
    format : str
        The name in `fdforce.formats.STRUCTURES` that reads it.
    size : int, optional
        Bytes of the download.
    md5, sha256 : str
        Of the download, "" where not known.
    n_structures : int, optional
    member : str
        What to take out of the archive that is downloaded.
    reference, licence : str
    """

    url: str
    file: str
    format: str
    reference: str
    licence: str
    size: int | None = None
    md5: str = ""
    sha256: str = ""
    n_structures: int | None = None
    member: str = ""

    @property
    def checked_by(self) -> str:
        """By what an incomplete or changed download is noticed."""
        by = [name for name in ("sha256", "md5", "size") if getattr(self, name)][:1]
        by += ["number of structures"] if self.n_structures else []
        return ", ".join(by) or "nothing: neither a checksum nor a number is known"


def _read_sets() -> dict[str, PublicSet]:
    """The sets of data/public_sets.toml, each with what its family shares."""
    families = tomllib.loads(
        resources.files("fdforce").joinpath("data", "public_sets.toml").read_text("utf-8")
    )
    found = {}
    for shared in families.values():
        sets = shared.pop("sets")
        found |= {name: PublicSet(**shared, **own) for name, own in sets.items()}
    return found


SETS = _read_sets()
"""name -> set."""


def find_set(name: str) -> PublicSet:
    """The set of a name, with or without ``public:``; FdforceError names the known ones."""
    name = name.removeprefix(PREFIX)
    if name not in SETS:
        raise FdforceError(
            f"{PREFIX}{name}: no such public set is known; known are {', '.join(SETS)}"
        )
    return SETS[name]


def fetch(name: str, folder: str | os.PathLike = "public_sets") -> Path:
    """Download a public set, unless it is in the folder already.

    Parameters
    ----------
    name : str
        A key of `SETS`.
    folder : path
        Where to keep it; made if need be.

    Returns
    -------
    Path
        The file. It appears there when it is complete and its size and checksum, where known, are
        right; a file that was there already is checked too, unless it came out of an archive.

    Raises
    ------
    FdforceError
        Without a network, with the address and the place to put the file; or if what arrived is
        not what is known of the set.
    """
    chosen = find_set(name)
    name = name.removeprefix(PREFIX)
    target = Path(folder) / chosen.file
    if target.exists():
        if not chosen.member:
            _check(target, _digests(target), chosen, f"{target}: ")
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as problem:
        raise FdforceError(
            f"{target}: cannot be written ({problem.strerror or problem})"
        ) from problem
    temporary = Path(temporary)
    try:
        with os.fdopen(handle, "wb") as file:
            digests = _download(name, chosen, file, target)
        _check(temporary, digests, chosen, f"{PREFIX}{name}, from {chosen.url}: ")
        if chosen.member:
            _take_member(temporary, chosen, target)
        else:
            temporary.replace(target)
            target.chmod(0o644)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return target


def _download(name: str, chosen: PublicSet, file, target: Path) -> dict[str, str]:
    """Copy the address into a file; the checksums of what arrived."""
    hashes = {kind: hashlib.new(kind, usedforsecurity=False) for kind in ("md5", "sha256")}
    request = urllib.request.Request(chosen.url, headers={"User-Agent": f"fdforce/{__version__}"})
    arrived = 0
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            announced = answer.headers.get("Content-Length")
            while block := answer.read(_BLOCK):
                arrived += len(block)
                file.write(block)
                for each in hashes.values():
                    each.update(block)
        if announced is not None and arrived != int(announced):
            raise http.client.IncompleteRead(b"", int(announced) - arrived)
    except (OSError, http.client.HTTPException, ValueError) as problem:
        if isinstance(problem, urllib.error.HTTPError):
            problem.close()
        place = f"{chosen.member} of it at {target}" if chosen.member else f"it at {target}"
        raise FdforceError(
            f"{PREFIX}{name}: cannot be downloaded ({_reason(problem)}).\n"
            f"Fetch {chosen.url} where there is a network and put {place}"
        ) from problem
    return {kind: each.hexdigest() for kind, each in hashes.items()}


def _reason(problem: Exception) -> str:
    if isinstance(problem, http.client.IncompleteRead):
        return "the connection ended early"
    reason = getattr(problem, "reason", None) or getattr(problem, "strerror", None) or problem
    return f"{reason}".partition("\n")[0][:120] or type(problem).__name__


def _digests(path: Path) -> dict[str, str]:
    digests = {}
    for kind in ("md5", "sha256"):
        with open(path, "rb") as file:
            digests[kind] = hashlib.file_digest(
                file, lambda kind=kind: hashlib.new(kind, usedforsecurity=False)
            ).hexdigest()
    return digests


def _check(path: Path, digests: dict[str, str], chosen: PublicSet, where: str) -> None:
    size = path.stat().st_size
    if chosen.size is not None and size != chosen.size:
        raise FdforceError(
            f"{where}{size} bytes, where {chosen.size} are known; remove it and try again"
        )
    for kind, digest in digests.items():
        known = getattr(chosen, kind)
        if known and digest != known:
            raise FdforceError(
                f"{where}its {kind} is {digest}, the known one {known}: damaged, or changed by "
                "the source; remove it and try again"
            )


def _take_member(archive_file: Path, chosen: PublicSet, target: Path) -> None:
    """Put a member of the archive where the target is to be."""
    try:
        with tempfile.TemporaryDirectory(prefix=".member-", dir=target.parent) as folder:
            with tarfile.open(archive_file) as archive:
                archive.extract(chosen.member, folder, filter="data")
            (Path(folder) / chosen.member).replace(target)
    except (KeyError, tarfile.TarError, EOFError, OSError) as problem:
        reason = f"{problem}".partition("\n")[0].strip(" :")
        raise FdforceError(
            f"{chosen.url}: {chosen.member} cannot be taken out of the archive ({reason:.100})"
        ) from problem
