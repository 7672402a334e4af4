"""Tests of the GPU side: on a GPU, or thread by thread in Numba's simulator.

    NUMBA_ENABLE_CUDASIM=1 python -m pytest tests/cuda

The simulator has to be chosen before Numba is imported, hence a process of its own; in the run of
all tests, without a GPU, the folder is skipped and its files are not even imported.
"""

import os
from importlib.util import find_spec

import pytest

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
THREADS = (8, 16) if SIMULATED else (32, 128)
"""Sizes of a block for tests that ask for more than one; the simulator's threads are Python's."""


def why_not() -> str | None:
    """Why nothing here can run; None where it can."""
    if find_spec("numba_cuda") is None:
        reason = "needs numba-cuda"
        return reason if SIMULATED else f"GPU tests: {reason}, and a GPU or NUMBA_ENABLE_CUDASIM=1"
    if not SIMULATED:
        from numba import cuda

        if not cuda.is_available():
            return "GPU tests: no GPU here; NUMBA_ENABLE_CUDASIM=1 runs them in the simulator"
    return None


class NotImported(pytest.Module):
    """A file of tests that is skipped before anything of it is imported."""

    def collect(self):
        pytest.skip(why_not(), allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    if why_not() is None:
        return None
    return NotImported.from_parent(parent, path=module_path)


def pytest_runtest_setup(item):
    if SIMULATED and item.get_closest_marker("gpu"):
        pytest.skip("needs a GPU, not the simulator")


@pytest.fixture(scope="session", autouse=True)
def turns():
    """The simulator with threads in turn."""
    if SIMULATED:
        from tests.cuda.simulator import take_turns

        take_turns()


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of few threads, since the simulator runs each of them in turn."""
    if SIMULATED:
        set_threads(monkeypatch, THREADS[0])


@pytest.fixture(params=THREADS)
def threads(request, monkeypatch):
    """Every size of a block in turn."""
    set_threads(monkeypatch, request.param)
    return request.param


def set_threads(monkeypatch, count):
    from fdforce.kernels.cuda import runtime

    monkeypatch.setattr(runtime, "THREADS", count)
