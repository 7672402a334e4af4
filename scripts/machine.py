"""What a measurement was made on: for the JSON files of the scripts beside this one."""

import datetime
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import fdforce


def description() -> dict:
    """Date, processor, cores, and versions."""
    return {
        "date": datetime.date.today().isoformat(),
        "machine": {
            "cpu": _processor(), "cores": len(os.sched_getaffinity(0)),
            "system": platform.system(),
        },
        "versions": {
            "python": platform.python_version(), "fdforce": fdforce.__version__,
            **{name: _installed(name) for name in ("numpy", "numba", "scipy", "ase")},
        },
    }  # fmt: skip


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((l.partition(": ")[2] for l in lines if l.startswith("model name")), "unknown")


def _installed(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None
