"""Termination signals."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def termination_as_interrupt():
    """SIGTERM, as queueing systems send it, ends work like Ctrl-C: with a checkpoint."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """A function that tells whether Ctrl-C or SIGTERM has asked for an end; a second one is fatal.

    For work that has to finish its step before it ends.
    """
    asked, before = [], {}

    def note(number, frame):
        asked.append(number)
        signal.signal(number, before[number])

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in before:
            signal.signal(number, note)
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
