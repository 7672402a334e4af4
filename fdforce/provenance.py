"""Where a run comes from: versions, machine, times, memory. One entry per session of a run."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from fdforce import archive
from fdforce.threads import available_cores

FILE = "provenance.json"
PACKAGES = ("fdforce", "numpy", "numba", "scipy", "ase", "vesin")


class Session:
    """A session of a run: from its start, or its resumption, to its end.

    Parameters
    ----------
    directory : path
        Of the run; of a resumed run, earlier sessions in its provenance.json are kept.
    threads : int
    resumed : bool
        Whether earlier sessions count.
    """

    def __init__(self, directory, threads: int, *, resumed: bool):
        self.path = Path(directory) / FILE
        self.earlier = read_sessions(directory) if resumed else []
        self.values = {
            "started": _now(),
            "command": shlex.join(sys.argv),
            "folder": os.getcwd(),
            **environment(),
            "threads": threads,
        }

    def write(self, **values) -> None:
        """Write provenance.json with further values of this session."""
        self.values.update(values)
        text = json.dumps({"sessions": [*self.earlier, self.values]}, indent=1)
        archive.write_bytes(self.path, text.encode())

    def finish(self, outcome: str, seconds: float, **values) -> None:
        """Write it once more, with the end of the session and its peak memory.

        Parameters
        ----------
        outcome : str
            "finished", "interrupted" or "failed".
        seconds : float, s
            Of the run, earlier sessions included.
        """
        from fdforce.benchmark import peak_memory

        self.write(
            ended=_now(), outcome=outcome, seconds=seconds, peak_memory_mb=peak_memory(), **values
        )


def environment() -> dict:
    """Versions and machine: what a measurement or a run was made with."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "system": platform.platform(),
        "processor": _processor(),
        "cores": available_cores(),
    }


def read_sessions(directory) -> list[dict]:
    """Sessions of a run, [] where the file is absent or damaged."""
    try:
        sessions = json.loads((Path(directory) / FILE).read_text(encoding="utf-8"))["sessions"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [entry for entry in sessions if isinstance(entry, dict)]


def _now():
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(package):
    if package == "fdforce":
        import fdforce

        return fdforce.__version__
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
