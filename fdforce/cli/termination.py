"""Termination signals."""

import contextlib
import signal
import threading


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
