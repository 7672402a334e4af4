"""Worker processes: each calls one function, with one job after the other.

Workers are interpreters of their own that depend on nothing in the calling program but the folders
it imports from. One that fails or is killed leaves the others alone. Ctrl-C reaches the calling
process only; when that ends, however it ends, they stop: the function gets a KeyboardInterrupt and
may write a checkpoint. What the function prints is its log.

Jobs and results are JSON. A job is a line of a worker's standard input, which ends with the calling
process; a result is a line of its standard output after a record separator (RFC 7464).
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Any, NamedTuple

from fdforce.errors import ConfigError, FdforceError

STOPPED = 128 + signal.SIGTERM
"""Exit status of a worker that was told to stop."""
STOP_SECONDS = 60.0
"""Time that a worker has for its checkpoint before it is killed."""
SEPARATOR = "\x1e"


class Outcome(NamedTuple):
    """How a job ended.

    Attributes
    ----------
    job : int
        Its position.
    result : object
        What the function returned; None if it failed.
    failure : str
        Why there is no result, in one line, or "".
    """

    job: int
    result: Any
    failure: str


class WorkerProcesses:
    """Processes that call a function; they start when they are needed.

    Parameters
    ----------
    function : str
        ``"module:name"``. Its arguments and what it returns can be written as JSON.
    number : int
        Jobs at a time.

    Raises
    ------
    ConfigError
        The number is less than 1.
    """

    def __init__(self, function: str, number: int):
        if number < 1:
            raise ConfigError(f"processes = {number}: at least one")
        self.function, self.number = function, number
        self._idle: list[subprocess.Popen] = []
        self._busy: dict[subprocess.Popen, int] = {}
        self._lines: queue.SimpleQueue = queue.SimpleQueue()

    def __enter__(self) -> WorkerProcesses:
        return self

    def __exit__(self, *_) -> None:
        """Stop the processes, and wait until they have."""
        processes = [*self._idle, *self._busy]
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _close(process)

    def run(
        self, jobs: Iterable[tuple], log: Callable[[int, str], None] = lambda job, line: None
    ) -> Iterator[Outcome]:
        """Yield the outcome of each job when it has ended.

        Parameters
        ----------
        jobs : iterable of tuple
            Arguments of the function, asked for when a process is free.
        log : callable
            Takes the position of a job, and a line that the function printed.
        """
        waiting, last = enumerate(jobs), {}
        while True:
            while len(self._busy) < self.number and (job := next(waiting, None)) is not None:
                self._begin(*job)
            if not self._busy:
                return
            process, line = self._lines.get()
            if line is None:
                yield from self._ended(process, last.get(process, ""))
                continue
            text, separator, answer = line.partition(SEPARATOR)
            # what is printed between jobs belongs to none
            if process in self._busy and (text or not separator):
                last[process] = text
                log(self._busy[process], text)
            if separator:
                self._idle.append(process)
                yield Outcome(self._busy.pop(process), *json.loads(answer))

    def _begin(self, number, job):
        """Give a job to a process."""
        process = self._idle.pop() if self._idle else self._start()
        self._busy[process] = number
        with contextlib.suppress(OSError):  # one that has ended is found by the end of its output
            process.stdin.write(json.dumps(job, default=os.fspath) + "\n")
            process.stdin.flush()

    def _start(self) -> subprocess.Popen:
        """A new process; its lines, and None at their end, go to the queue."""
        paths = [entry or os.getcwd() for entry in sys.path]
        process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", "-c",
             "from fdforce.worker_processes import work; work()", self.function],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, encoding="utf-8", errors="replace",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONIOENCODING": "utf-8"},
            start_new_session=True,  # Ctrl-C reaches this process, which tells the others
        )  # fmt: skip

        def read():
            with process.stdout:
                for line in process.stdout:
                    self._lines.put((process, line.rstrip()))
            self._lines.put((process, None))

        threading.Thread(target=read, daemon=True).start()
        return process

    def _ended(self, process, last_line) -> Iterator[Outcome]:
        """What the end of a process means for its job, if it had one."""
        status = process.wait()
        _close(process)
        if process in self._idle:
            self._idle.remove(process)
        else:
            yield Outcome(self._busy.pop(process), None, _reason(status, last_line))


def _close(process) -> None:
    with contextlib.suppress(OSError):  # a job that could not be sent is still in the buffer
        process.stdin.close()


def _reason(status: int, last_line: str) -> str:
    """Why a process ended without a result."""
    if status == STOPPED:
        return "stopped"
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    reason = f"its process ended (exit status {status})"
    return f"{reason}; its last line: {last_line}" if last_line else reason


# -- in a worker -----------------------------------------------------------------------------------


def work() -> None:
    """Do the jobs that come; the function stands in ``sys.argv``."""
    signal.signal(signal.SIGTERM, _interrupt_once)
    jobs: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=_read_jobs, args=(jobs,), daemon=True).start()
    try:
        module, name = sys.argv[1].split(":")
        function = getattr(import_module(module), name)
        while True:
            answer = json.dumps(_answer(function, jobs.get()))
            print(f"{SEPARATOR}{answer}", flush=True)
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(STOPPED)


def _answer(function, job) -> tuple[Any, str]:
    """Result and failure."""
    try:
        return function(*job), ""
    except FdforceError as problem:
        return None, one_line(problem)
    except Exception as problem:
        return None, f"internal error: {type(problem).__name__}: {one_line(problem):.300}"


def one_line(problem: Exception) -> str:
    """The message of an error in one line."""
    return " ".join(str(problem).split())


def _interrupt_once(*_):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the checkpoint is not to be interrupted
    raise KeyboardInterrupt


def _read_jobs(jobs) -> None:
    """Put jobs into a queue, and stop when there can be no more: the calling process has ended."""
    # no buffer, whose lock would be held here when the interpreter ends
    with contextlib.suppress(OSError), open(0, "rb", buffering=0, closefd=False) as lines:
        for line in lines:
            jobs.put(json.loads(line))
    os.kill(os.getpid(), signal.SIGTERM)
