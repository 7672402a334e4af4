"""Kernels kept on disk, without a GPU: ``python -m tests.cuda.kept FOLDER``.

Compiles a kernel, the same again, and again after a change of the sources. Prints how often what
was on disk served.
"""

import os
import sys
from types import SimpleNamespace


def compile_thrice():
    from numba import cuda, types
    from numba.cuda import dispatcher
    from numba.cuda.cudadrv import devices, nvvm

    from fdforce.kernels.cuda import reductions, runtime
    from tests.cuda.ptx import NO_COMPILER
    from tests.cuda.signatures import SIGNATURES

    try:
        nvvm.NVVM()
    except nvvm.NvvmSupportError as error:
        sys.exit(f"{NO_COMPILER}: {error}")
    device = SimpleNamespace(compute_capability=(9, 0), id=0)
    devices.get_context = lambda *_: SimpleNamespace(device=device)
    dispatcher.get_current_device = lambda: device
    # up to what would be loaded
    dispatcher._Kernel.bind = lambda kernel: kernel.library.get_cubin()
    for sources in ("one", "one", "other"):
        runtime._sources = lambda sources=sources: sources
        kernel = runtime._kept(cuda.jit(reductions._forces_kernel.py_func))
        compiled = kernel.compile(tuple(SIGNATURES["forces_and_virials"][2](types.float64)))
        assert len(compiled.library.get_cubin().code) > 0
        print(sum(kernel._cache_hits.values()))


if __name__ == "__main__":
    os.environ["NUMBA_CACHE_DIR"] = sys.argv[1]
    compile_thrice()
