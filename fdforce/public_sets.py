"""Known public data sets by name: where they are, how to tell that they arrived whole, whose work.

Checksums are those that figshare publishes, read from public code that pins them; that of
comp6-s66x8 is of a copy of the file. Where none is known, the number of structures is what can be
checked; `PublicSet.checked_by` says which.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import tarfile
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
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


def _md17(file: str, n_structures: int) -> PublicSet:
    return PublicSet(
        url=f"http://www.quantum-machine.org/gdml/data/npz/{file}",
        file=file,
        format="md17",
        n_structures=n_structures,
        reference="Chmiela et al., Sci. Adv. 3, e1603015 (2017)",
        licence="not stated by the source",
    )


def _rmd17(molecule: str, number: int, md5: str, n_structures: int = 100_000) -> PublicSet:
    return PublicSet(
        url=f"https://ndownloader.figshare.com/files/{number}",
        file=f"rmd17_{molecule}.npz",
        format="md17",
        md5=md5,
        n_structures=n_structures,
        reference="Christensen and von Lilienfeld, Mach. Learn.: Sci. Technol. 1, 045018 (2020)",
        licence="CC0",
    )


def _iso17(file: str) -> PublicSet:
    return PublicSet(
        url="http://www.quantum-machine.org/datasets/iso17.tar.gz",
        file=f"iso17_{file}",
        format="ase-db",
        member=f"iso17/{file}",
        reference="Schütt et al., NeurIPS 30 (2017)",
        licence="not stated by the source",
    )


SETS: dict[str, PublicSet] = {
    "rmd17-aspirin": _rmd17("aspirin", 62265757, "17fd6fb69066888613f7e16b358a7553"),
    "rmd17-azobenzene": _rmd17("azobenzene", 62265754, "be79df918468eb3579aa73a0becf7390", 99_988),
    "rmd17-benzene": _rmd17("benzene", 62265739, "18c9242bc90fbf28215f6dd81e650f16"),
    "rmd17-ethanol": _rmd17("ethanol", 62265733, "eb837fb8deb27d4e0d52f71a03aff776"),
    "rmd17-malonaldehyde": _rmd17("malonaldehyde", 62265736, "cdc1d70c0c34062ddde6e5071eb6fe21"),
    "rmd17-naphthalene": _rmd17("naphthalene", 62265751, "0efba19c9907e3852318b1e6008b3b9e"),
    "rmd17-paracetamol": _rmd17("paracetamol", 62265760, "ba10784f7b67635427085f6d7ec2dd97"),
    "rmd17-salicylic": _rmd17("salicylic", 62265748, "900fedf242da438400fa4293348d7dd1"),
    "rmd17-toluene": _rmd17("toluene", 62265742, "0f2913d51f8149c90ab28d697a076f64"),
    "rmd17-uracil": _rmd17("uracil", 62265745, "992a4479c28a07e0cce6da964805be31"),
    "md17-aspirin": _md17("md17_aspirin.npz", 211_762),
    "md17-azobenzene": _md17("azobenzene_dft.npz", 99_999),
    "md17-benzene": _md17("md17_benzene2017.npz", 627_983),
    "md17-ethanol": _md17("md17_ethanol.npz", 555_092),
    "md17-malonaldehyde": _md17("md17_malonaldehyde.npz", 993_237),
    "md17-naphthalene": _md17("md17_naphthalene.npz", 326_250),
    "md17-paracetamol": _md17("paracetamol_dft.npz", 106_490),
    "md17-salicylic": _md17("md17_salicylic.npz", 320_231),
    "md17-toluene": _md17("md17_toluene.npz", 442_790),
    "md17-uracil": _md17("md17_uracil.npz", 133_770),
    "qm9": PublicSet(
        url="https://ndownloader.figshare.com/files/3195389",
        file="dsgdb9nsd.xyz.tar.bz2",
        format="qm9",
        size=86_144_227,
        md5="ad1ebd51ee7f5b3a6e32e974e5d54012",
        n_structures=133_885,
        reference="Ramakrishnan et al., Sci. Data 1, 140022 (2014)",
        licence="CC0",
    ),
    "ani1x": PublicSet(
        url="https://ndownloader.figshare.com/files/18112775",
        file="ani1x-release.h5",
        format="ani",
        size=5_590_846_027,
        md5="98090dd6679106da861f52bed825ffb7",
        sha256="fe0ba06198ee72cf1003deebab2652097f6ab518337784dc811fa7da0c3bf5ac",
        reference="Smith et al., Sci. Data 7, 134 (2020)",
        licence="CC0",
    ),
    "comp6-s66x8": PublicSet(
        url="https://raw.githubusercontent.com/isayev/COMP6/master/COMP6v1/s66x8/s66x8_wb97x6-31gd.h5",
        file="s66x8_wb97x6-31gd.h5",
        format="ani",
        size=2_297_079,
        sha256="c4708b2659cc3608e231ce8d1810f8407011f94bf98739a5e427c8723b19c778",
        n_structures=528,
        reference="Smith et al., J. Chem. Phys. 148, 241733 (2018)",
        licence="MIT",
    ),
    "iso17-reference": _iso17("reference.db"),
    "iso17-reference-eq": _iso17("reference_eq.db"),
    "iso17-test-within": _iso17("test_within.db"),
    "iso17-test-other": _iso17("test_other.db"),
    "iso17-test-eq": _iso17("test_eq.db"),
}


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
