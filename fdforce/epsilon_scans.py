"""The scans of Err[L~] by which a run chose its epsilon: epsilon_scans.json."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from fdforce import archive

FILE = "epsilon_scans.json"


def scan_entry(epoch: int, scan) -> dict:
    """What is kept of a scan, ready for JSON.

    Parameters
    ----------
    epoch : int
        Epochs done when it was made.
    scan : EpsilonScan
    """
    return {
        "epoch": int(epoch),
        "epsilon": [float(value) for value in scan.epsilon],
        "err_loss": [float(e) if np.isfinite(e) else None for e in scan.err_loss],
        "recommended": float(scan.recommended),
    }


def write_scans(directory, scans: list[dict]) -> None:
    """Write the scans of a run; see `archive.write_bytes` for errors."""
    archive.write_bytes(Path(directory) / FILE, json.dumps(scans, indent=1).encode())


def read_scans(directory, last_epoch: float = np.inf) -> list[dict]:
    """Scans of a run up to an epoch; [] where the file is absent or damaged."""
    try:
        scans = json.loads((Path(directory) / FILE).read_text(encoding="utf-8"))
        return [
            {key: scan[key] for key in ("epoch", "epsilon", "err_loss", "recommended")}
            for scan in scans
            if scan["epoch"] <= last_epoch
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return []
