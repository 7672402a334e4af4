"""Worker processes: jobs, their log, and every way in which a worker can end."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from fdforce.errors import ConfigError
from fdforce.worker_processes import WorkerProcesses

ROOT = Path(__file__).resolve().parents[1]
DEADLINE = 60.0  # s, for what takes tenths of a second

JOBS = """
    import os
    import sys
    import threading
    import time

    from fdforce.errors import FdforceError

    def double(x):
        print(f"doubles {x}")
        return {"x": 2 * x, "worker": os.getpid()}

    def speak_late(seconds):
        threading.Timer(0.1, print, ["late"], {"flush": True}).start()
        time.sleep(seconds)

    def fail(how):
        if how == "error":
            raise FdforceError("two\\nlines")
        if how == "defect":
            raise ZeroDivisionError("no such number")
        if how == "exit":
            print("about to exit")
            sys.stdout.flush()
            os._exit(3)
        if how == "kill":
            os.kill(os.getpid(), 9)
        if how == "terminate":
            os.kill(os.getpid(), 15)
            time.sleep(60)
        print("no line feed", end="")
        return [0.1, None, float("inf")]

    def hold(path):
        try:
            with open(path, "w") as file:
                file.write(str(os.getpid()))
            time.sleep(60)
        except KeyboardInterrupt:
            time.sleep(0.2)  # a checkpoint takes its time
            with open(path + ".checkpoint", "w"):
                raise
"""


@pytest.fixture(autouse=True)
def jobs_module(tmp_path, monkeypatch):
    """Beside the calling program, not installed."""
    (tmp_path / "worker_jobs.py").write_text(textwrap.dedent(JOBS))
    monkeypatch.syspath_prepend(tmp_path)


def wait_for(condition):
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def alive(pid) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_jobs_are_shared_out_and_their_lines_belong_to_them():
    lines, asked = [], []

    def jobs():
        for x in range(5):
            asked.append(x)
            yield (x,)

    with WorkerProcesses("worker_jobs:double", 2) as workers:
        outcomes = []
        for outcome in workers.run(jobs(), lambda job, line: lines.append((job, line))):
            outcomes.append(outcome)
            assert len(asked) <= len(outcomes) + 2  # no job is taken before a process is free
        again = list(workers.run([(7,)]))
    assert sorted((o.job, o.result["x"], o.failure) for o in outcomes) == [
        (x, 2 * x, "") for x in range(5)
    ]
    assert sorted(lines) == [(x, f"doubles {x}") for x in range(5)]
    pids = {o.result["worker"] for o in outcomes}
    assert len(pids) <= 2
    assert os.getpid() not in pids
    assert again[0].result["worker"] in pids  # idle processes wait for more
    assert not any(alive(pid) for pid in pids)


def test_every_failure_has_its_reason_and_the_others_go_on():
    lines = []
    kinds = ["error", "defect", "exit", "kill", "terminate", "none", "error"]
    with WorkerProcesses("worker_jobs:fail", 2) as workers:
        outcomes = {
            o.job: o
            for o in workers.run([(kind,) for kind in kinds], lambda *line: lines.append(line))
        }
    assert [outcomes[job].failure for job in range(len(kinds))] == [
        "two lines",
        "internal error: ZeroDivisionError: no such number",
        "its process ended (exit status 3); its last line: about to exit",
        "killed by SIGKILL",
        "stopped",
        "",
        "two lines",
    ]
    assert outcomes[5].result == [0.1, None, float("inf")]
    assert lines == [(2, "about to exit"), (5, "no line feed")]


def test_lines_between_jobs_belong_to_none():
    lines = []
    with WorkerProcesses("worker_jobs:speak_late", 2) as workers:
        # the first process is idle when it speaks
        outcomes = list(workers.run([(0.0,), (1.0,)], lambda *line: lines.append(line)))
    assert [outcome.failure for outcome in outcomes] == ["", ""]
    assert lines == [(1, "late")]


def test_a_function_that_cannot_be_imported():
    with WorkerProcesses("worker_jobs:absent", 1) as workers:
        (outcome,) = workers.run([()])
    assert outcome.failure.startswith("its process ended (exit status 1); its last line: ")
    assert "absent" in outcome.failure


def test_no_processes():
    with pytest.raises(ConfigError, match="processes = 0: at least one"):
        WorkerProcesses("worker_jobs:double", 0)


def held(path) -> int:
    """The process that works on `hold`."""
    wait_for(lambda: path.exists() and path.read_text())
    return int(path.read_text())


def test_an_exception_in_the_caller_stops_workers_with_their_checkpoint(tmp_path):
    found = []

    def jobs():
        yield (tmp_path / "a",)
        found.append(held(tmp_path / "a"))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), WorkerProcesses("worker_jobs:hold", 2) as workers:
        list(workers.run(jobs()))
    assert (tmp_path / "a.checkpoint").exists()
    assert not alive(found[0])


@pytest.mark.parametrize("with_signal", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_its_caller(tmp_path, with_signal):
    homes = [tmp_path / "a", tmp_path / "b"]
    source = f"""
        import signal

        from fdforce.cli.termination import termination_as_interrupt
        from fdforce.worker_processes import WorkerProcesses

        # a shell's background jobs, the tests perhaps among them, ignore it
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with termination_as_interrupt(), WorkerProcesses("worker_jobs:hold", 2) as workers:
            list(workers.run([(path,) for path in {[str(home) for home in homes]!r}]))
    """
    caller = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        pids = [held(home) for home in homes]
        caller.send_signal(with_signal)
        _, errors = caller.communicate(timeout=DEADLINE)
    finally:
        caller.kill()
        caller.communicate()
    if with_signal != signal.SIGKILL:  # it waited for them
        assert errors.endswith("KeyboardInterrupt\n")
        assert not any(alive(pid) for pid in pids)
    wait_for(lambda: not any(alive(pid) for pid in pids))
    assert all(home.with_suffix(".checkpoint").exists() for home in homes)
