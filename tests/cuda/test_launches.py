"""numba-cuda itself, not its simulator, as far as it goes without a GPU."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.cuda.ptx import NO_COMPILER, TYPES
from tests.cuda.signatures import SIGNATURES

ROOT = Path(__file__).resolve().parents[2]


def run_unsimulated(*arguments):
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_ENABLE_CUDASIM"}
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip


def test_kernels_are_launched_with_the_types_that_are_compiled():
    """Other types would be compiled anew in the run, and not be those that test_ptx.py compiles."""
    run = run_unsimulated("tests.cuda.launches")
    assert run.returncode == 0, run.stderr
    assert "Error" not in run.stderr, run.stderr  # of freeing memory, which Python only prints
    found, known = defaultdict(set), defaultdict(set)
    for line in map(json.loads, run.stdout.splitlines()):
        found[line["module"], line["name"]].update(map(tuple, line["types"]))
    for module, name, types_of in SIGNATURES.values():
        known[module, name].update(tuple(map(str, types_of(kind))) for kind in TYPES.values())
    assert known.keys() == found.keys()
    for place, types in found.items():
        assert types == known[place], place


def test_what_is_compiled_is_kept_on_disk(tmp_path):
    run = run_unsimulated("tests.cuda.kept", str(tmp_path))
    if run.stderr.startswith(NO_COMPILER):
        pytest.skip(f"{run.stderr.strip()}: pip install 'fdforce[cuda13]'")
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["0", "1", "0"]
