"""Figures of a model on data and of an epsilon scan (matplotlib), and the report of a run."""

from __future__ import annotations

from pathlib import Path


def write_report(directory, path=None) -> Path:
    """Write the report of a run, one self-contained HTML file, from what its directory holds.

    Figures need matplotlib; without it the report has its tables alone.

    Parameters
    ----------
    directory : path
        Of a run: finished, stopped or still going on. The data files are not needed.
    path : path, optional
        ``report.html`` in the directory by default.

    Returns
    -------
    Path

    Raises
    ------
    FdforceError
        The directory holds no run, or the file cannot be written.
    """
    from fdforce.archive import write_bytes
    from fdforce.report.run_files import read_run
    from fdforce.report.sections import run_page

    path = Path(directory) / "report.html" if path is None else Path(path)
    write_bytes(path, run_page(read_run(directory)).encode("utf-8", "backslashreplace"))
    return path
