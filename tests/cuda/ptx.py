"""Compile kernels to PTX for a device that is not there: ``python -m tests.cuda.ptx 9.0``.

Prints a line of JSON for each kernel and working type. A process compiles for one compute
capability: functions of the device are compiled for that of the current device and then kept.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

from numba import types

from tests.cuda.signatures import SIGNATURES

NO_COMPILER = "no NVVM"
NOTES = set()
TYPES = {"float32": types.float32, "float64": types.float64}


def compile_all(capability, names):
    from numba.cuda import dispatcher
    from numba.cuda.cudadrv import nvvm

    try:
        nvvm.NVVM()
    except nvvm.NvvmSupportError as error:
        sys.exit(f"{NO_COMPILER}: {error}")
    # device functions ask the current device, which would need a driver
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability)
    for name in names:
        kinds = {}  # one entry for a kernel without a working type
        for kind, working_type in TYPES.items():
            kinds.setdefault(tuple(SIGNATURES[name][2](working_type)), []).append(kind)
        for signature, of in kinds.items():
            result = {"name": name, "types": of}
            print(json.dumps(result | compile_one(name, signature, capability)), flush=True)
    for note in NOTES:
        print(note, file=sys.stderr)


def compile_one(name, signature, capability):
    from numba import cuda

    module, attribute, _ = SIGNATURES[name]
    kernel = getattr(import_module(f"fdforce.kernels.cuda.{module}"), attribute)
    try:
        ptx, _ = cuda.compile_ptx(kernel.py_func, signature, cc=capability)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    double = re.findall(r"^\s*(?:add|sub|mul|fma|div|cvt)\S*\.f64", ptx, re.M)
    return {"double": len(double), "resources": assemble(ptx, capability)}


def assemble(ptx, capability):
    """What ptxas says of registers and spills; None without ptxas."""
    if shutil.which("ptxas") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        run = _ptxas(path, capability)
        newest = re.search(r"current version is '(\d+\.\d+)'", run.stderr)
        if newest:
            # for printing alone, and good enough for that: the instructions are not new
            NOTES.add(f"ptxas is older than the PTX, and was told that it is {newest[1]}")
            path.write_text(re.sub(r"(?m)^\.version \S+", f".version {newest[1]}", ptx))
            run = _ptxas(path, capability)
        if run.returncode:
            return f"ptxas: {run.stderr.strip()[:300]}"
        registers = max(map(int, re.findall(r"Used (\d+) registers", run.stderr)), default=0)
        spills = sum(map(int, re.findall(r"(\d+) bytes spill stores", run.stderr)))
        stack = max(map(int, re.findall(r"(\d+) bytes stack frame", run.stderr)), default=0)
        return f"{registers} registers, {spills} bytes spilled, {stack} of stack"


def _ptxas(path, capability):
    target = "sm_{}{}".format(*capability)
    command = ["ptxas", "-v", "-arch", target, str(path), "-o", str(path.with_suffix(".cubin"))]
    return subprocess.run(command, capture_output=True, text=True)


if __name__ == "__main__":
    compile_all(tuple(map(int, sys.argv[1].split("."))), sys.argv[2:] or SIGNATURES)
