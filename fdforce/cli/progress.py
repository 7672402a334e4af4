"""How far a fit has come: one line that updates itself on a terminal, plain lines otherwise."""

import sys
import time

import click

LEAST_WAIT = 2.0
"""Seconds between plain lines, at least ..."""
LONGEST_WAIT = 60.0
"""... and at most, if epochs are quick enough; lines come every tenth of the run besides."""


class EpochPrinter:
    """Shows epochs as they pass.

    Parameters
    ----------
    epochs : int
        0 where the time alone ends the run.
    max_time : float, s
        0 without a budget.
    """

    def __init__(self, epochs: int, max_time: float):
        self.epochs, self.max_time = epochs, max_time
        self.live = sys.stdout.isatty()
        self._began = self._last = time.monotonic()
        self._shown_share = 0.0
        self._first_epoch, self._epoch = None, 0
        self._open = False

    def log(self, line: str) -> None:
        """Print a line of the library's."""
        self.finish()
        click.echo(line)

    def __call__(self, progress, row: dict) -> None:
        """After every epoch: ``on_epoch`` of `fdforce.fit`."""
        if self._first_epoch is None or progress.epoch <= self._epoch:
            # the first epoch of a session, or of the next member of an ensemble, may compile; it
            # says nothing about the others
            self._first_epoch, self._began = progress.epoch, time.monotonic()
            self._shown_share = 0.0
        self._epoch = progress.epoch
        share, left = self._ahead(progress)
        line = f"{self._counted(progress.epoch)}  {_errors(row)}{_duration(left)}"
        if self.live:
            click.echo(f"\r\x1b[K{line}", nl=False)
            self._open = True
        elif self._due(share):
            click.echo(line)

    def finish(self) -> None:
        """End the line that updates itself."""
        if self._open:
            click.echo()
            self._open = False

    def _due(self, share) -> bool:
        now = time.monotonic()
        waited, passed = now - self._last, share - self._shown_share
        last = share >= 1
        if not last and waited < LEAST_WAIT:
            return False
        if last or passed >= 0.1 or waited >= LONGEST_WAIT:
            self._last, self._shown_share = now, share
            return True
        return False

    def _ahead(self, progress):
        """Share of the run that has passed, and seconds that are left (None: not known yet)."""
        share, left = 0.0, []
        done = progress.epoch - self._first_epoch
        if self.epochs:
            share = progress.epoch / self.epochs
            if done:
                pace = (time.monotonic() - self._began) / done
                left.append(pace * max(self.epochs - progress.epoch, 0))
        if self.max_time:
            share = max(share, progress.elapsed / self.max_time)
            left.append(max(self.max_time - progress.elapsed, 0))
        return share, min(left, default=None)

    def _counted(self, epoch):
        return (
            f"epoch {epoch:>{len(str(self.epochs))}}/{self.epochs}"
            if self.epochs
            else f"epoch {epoch}"
        )


def _errors(row):
    parts = [f"loss {_pair(row, 'loss', 1, '.3g')}"]
    for name, unit in (("force", "meV/Å"), ("energy", "meV/atom"), ("stress", "meV/Å³")):
        if row.get(f"train_{name}_rmse") is not None:
            parts.append(f"{name} rmse {_pair(row, f'{name}_rmse', 1e3, '.1f')} {unit}")
            break
    parts.append(f"ε {row['epsilon']:.1e}")
    if row["err_loss"] is not None and row["err_loss"] > 0:  # nothing is differenced otherwise
        parts.append(f"Err[L̃] {row['err_loss']:.0e}")
    return "  ".join(parts)


def _pair(row, name, factor, form):
    """Training and validation value, ``train/valid``."""
    values = [row.get(f"{part}_{name}") for part in ("train", "valid")]
    return "/".join(format(factor * value, form) for value in values if value is not None)


def _duration(seconds):
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    clock = f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
    return f"  {clock} left"


def structure_progress(iterator, total: int):
    """A bar on a terminal while the pairs of many structures are listed."""
    if total < 500 or not sys.stderr.isatty():
        yield from iterator
        return
    with click.progressbar(iterator, length=total, label="neighbours", file=sys.stderr) as bar:
        yield from bar
