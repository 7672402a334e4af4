"""Losses and errors of a run as TensorBoard events, through the package tensorboardX."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fdforce.errors import FdforceError

FOLDER = "tensorboard"
"""In the run directory."""


def check_tensorboard() -> None:
    """Refuse to log where that is impossible, before any work is done.

    Raises
    ------
    FdforceError
        tensorboardX is missing.
    """
    try:
        import tensorboardX  # noqa: F401
    except ImportError:
        raise FdforceError(
            "--log tensorboard needs tensorboardX: pip install 'fdforce[tensorboard]'"
        ) from None


class TensorBoardLog:
    """The scalars of history.csv, epoch by epoch: ``on_epoch`` of `fdforce.fit`.

    Columns of training and validation are under ``train/`` and ``valid/``, the others under
    ``run/``. Epochs that a resumed run repeats replace those that were written before. Members of
    an ensemble are runs of their own.

    Parameters
    ----------
    directory : path
        Of the run; events go to ``tensorboard/`` inside it, of members to ``member-K`` in that.
    """

    def __init__(self, directory):
        self.folder = Path(directory) / FOLDER
        self._writer = self._member = None

    def __call__(self, progress, row: dict) -> None:
        member = row.get("member")
        if self._writer is None or member != self._member:
            from tensorboardX import SummaryWriter

            self.finish()
            folder = self.folder if member is None else self.folder / f"member-{member}"
            self._writer = SummaryWriter(str(folder), purge_step=progress.epoch)
            self._member = member
        for column, value in row.items():
            if column in ("epoch", "member") or value is None or not np.isfinite(value):
                continue
            part, _, name = column.partition("_")
            tag = f"{part}/{name}" if part in ("train", "valid") else f"run/{column}"
            self._writer.add_scalar(tag, float(value), progress.epoch)
        self._writer.flush()

    def finish(self) -> None:
        """Finish the file of events."""
        if self._writer is not None:
            self._writer.close()
