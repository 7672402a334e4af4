"""Every kernel compiles for the devices that are supported, in both working types."""

import ast
import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from tests.cuda.ptx import NO_COMPILER, TYPES
from tests.cuda.signatures import SIGNATURES

ROOT = Path(__file__).resolve().parents[2]
CAPABILITIES = ("7.5", "8.0", "9.0")


def kernels_in(folder):
    """(module, name) of every function that ``cuda.jit`` compiles for launches."""
    for path in sorted(folder.glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and any(map(_is_kernel, node.decorator_list)):
                yield path.stem, node.name


def _is_kernel(decorator):
    call = decorator.func if isinstance(decorator, ast.Call) else decorator
    options = decorator.keywords if isinstance(decorator, ast.Call) else []
    return ast.unparse(call) == "cuda.jit" and not any(o.arg == "device" for o in options)


def test_every_kernel_has_a_signature():
    found = list(kernels_in(ROOT / "kernels" / "cuda"))
    assert all(name.startswith("_") and name.endswith("_kernel") for _, name in found)
    assert sorted(found) == sorted(entry[:2] for entry in SIGNATURES.values())


@pytest.mark.slow
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_kernels_compile(capability):
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_ENABLE_CUDASIM"}
    run = subprocess.run(
        [sys.executable, "-m", "tests.cuda.ptx", capability],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    if run.stderr.startswith(NO_COMPILER):
        pytest.skip(f"{run.stderr.strip()}: pip install 'fdforce[cuda13]'")
    assert run.returncode == 0, run.stderr
    results = [json.loads(line) for line in run.stdout.splitlines()]
    for result in results:
        print(*result.values())
    print(run.stderr)
    assert [r for r in results if "error" in r] == []
    compiled = {(result["name"], kind) for result in results for kind in result["types"]}
    assert compiled == set(product(SIGNATURES, TYPES))
