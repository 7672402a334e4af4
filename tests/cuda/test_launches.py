"""A training step through numba-cuda's own arrays and launches, as far as they go without a GPU."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from tests.cuda.ptx import TYPES
from tests.cuda.signatures import SIGNATURES

ROOT = Path(__file__).resolve().parents[2]

WITHOUT_A_CALLER = {("zbl", "_forward_kernel")}


def test_kernels_are_launched_with_the_types_that_are_compiled():
    """Other types would be compiled anew in the run, and not be those that test_ptx.py compiles."""
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_ENABLE_CUDASIM"}
    run = subprocess.run(
        [sys.executable, "-m", "tests.cuda.launches"],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "Error" not in run.stderr, run.stderr  # of freeing memory, which Python only prints
    found, known = defaultdict(set), defaultdict(set)
    for line in map(json.loads, run.stdout.splitlines()):
        found[line["module"], line["name"]].update(map(tuple, line["types"]))
    for module, name, types_of in SIGNATURES.values():
        known[module, name].update(tuple(map(str, types_of(kind))) for kind in TYPES.values())
    assert known.keys() - found.keys() == WITHOUT_A_CALLER
    for place, types in found.items():
        assert types == known[place], place
