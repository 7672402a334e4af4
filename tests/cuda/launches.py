"""What a training step asks of numba-cuda, without a GPU: ``python -m tests.cuda.launches``.

    python -m tests.cuda.launches [float32] [float64]
    python -m tests.cuda.launches --time

The first prints the types that each kernel was launched with, a line of JSON for each, the second
what a step of 32 cells of eight atoms takes of the host.

The arrays are numba-cuda's own, in memory of the host, and a launch goes as far as its arguments: a
grid that it would refuse, an array it cannot cut or reshape, or an argument it cannot pass, fails
here; the simulator, whose arrays are NumPy's, would let it pass. Nothing is computed.
"""

import contextlib
import ctypes
import json
import sys
import time
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import numpy as np

LAUNCHED = {}
"""Module and name of a kernel -> the types of the arguments it was launched with."""


class Context:
    """Memory of the host in place of that of a device, and owned as that."""

    def __init__(self):
        self._memory = {}

    def memalloc(self, n_bytes):
        from numba.cuda.cudadrv.driver import AutoFreePointer

        memory = (ctypes.c_byte * n_bytes)()
        address = ctypes.addressof(memory)
        pointer = AutoFreePointer(
            self, ctypes.c_void_p(address), n_bytes, finalizer=lambda: self._memory.pop(address)
        )
        self._memory[address] = memory, pointer
        return pointer.own()

    def memhostalloc(self, n_bytes, **_):
        return (ctypes.c_byte * n_bytes)()

    def get_default_stream(self):
        from numba.cuda.cudadrv.driver import Stream

        return Stream(0)

    def synchronize(self):
        pass


def stand_in():
    """Put stand-ins where numba-cuda asks the driver."""
    from numba.cuda import dispatcher
    from numba.cuda.cudadrv import devices, driver

    context = Context()
    devices._runtime.get_or_create_context = lambda *_: context
    devices._runtime.ensure_context = contextlib.nullcontext
    driver._to_core_stream = lambda stream: stream
    for name in ("cuMemcpyHtoD", "cuMemcpyDtoH", "cuMemcpyHtoDAsync"):
        setattr(driver.driver, name, lambda to, source, size, *_: ctypes.memmove(to, source, size))
    dispatcher.CUDADispatcher.call = launch


def launch(kernel, args, configuration):
    """`CUDADispatcher.call` up to the launch."""
    types = tuple(map(kernel.typeof_pyval, args))
    if pass_arguments(types, args, configuration):
        raise TypeError(f"{kernel.__name__}: an array of the host would be copied at every launch")
    place = kernel.py_func.__module__.rpartition(".")[2], kernel.__name__
    LAUNCHED.setdefault(place, set()).add(types)


def pass_arguments(types, args, configuration):
    """What the launch of a compiled kernel does before it asks the driver.

    Returns
    -------
    list
        What it would do after the launch: copy arrays of the host back.
    """
    from cuda.core import LaunchConfig
    from cuda.core._kernel_arg_handler import ParamHolder
    from numba.cuda import dispatcher

    passed, afterwards = [], []
    of = SimpleNamespace(extensions=())
    of._prepare_args = lambda *a: dispatcher._Kernel._prepare_args(of, *a)
    for kind, value in zip(types, args, strict=True):
        of._prepare_args(kind, value, configuration.stream, afterwards, passed)
    ParamHolder(tuple(passed))
    LaunchConfig(
        grid=configuration.griddim, block=configuration.blockdim,
        shmem_size=configuration.sharedmem,
    )  # fmt: skip
    return afterwards


def device_of(multiprocessors):
    """Class of a device that is not asked how large it is."""
    from fdforce.cuda.device import CudaDevice

    return type(
        "Device", (CudaDevice,),
        {"multiprocessors": multiprocessors, "free_memory": lambda device: 2**32},
    )  # fmt: skip


def run_steps(dtype):
    """Steps, errors and predictions of every descriptor, with its default settings, and of maps."""
    from fdforce.config import OptimizerConfig
    from fdforce.cuda import adam, prediction
    from fdforce.cuda import computation as computations
    from fdforce.descriptors import DESCRIPTORS, Quadratic, Reduced
    from fdforce.losses import make_loss
    from fdforce.models import ElementalNetworks
    from fdforce.models.zbl import ZBL
    from fdforce.optimizers.adam import init
    from tests.cuda.on_device import data_of
    from tests.systems import SYSTEMS

    computations.find_device = device_of(multiprocessors=2)
    frames = [SYSTEMS[name]() for name in ("dimer", "single_atom", "thin_triclinic")]
    loss = make_loss("squared", energy_weight=1.0, stress_weight=1.0, mean_atoms=2.5)
    elements = "Ti", "O"
    descriptors = [descriptor(elements) for descriptor in DESCRIPTORS.values()]
    plain = DESCRIPTORS["chebyshev"](elements)
    for descriptor in (*descriptors, Quadratic(plain), Reduced.choice(plain, [3, 1])):
        model = ElementalNetworks(descriptor, (4, 3), "tanh", dtype=dtype)
        model.baseline = ZBL(elements, [[2.5, 1.5], [1.5, 2.0]])  # with tables of no numbers
        data = data_of(frames, model.elements, model.descriptor.cutoff)
        computation = computations.DeviceComputation(model, log=lambda line: None)
        # the second step has the memory of the first
        for indices, stencil in (([0], "central"), ([0, 2], "forward"), ([1], "central")):
            computation.gradient(data, indices, loss, epsilon=1e-3, stencil=stencil)
        there = adam.DeviceAdam(
            computation.device, model.theta, model.theta, init(model.theta, []),
            frozen=model.theta > 0, settings=OptimizerConfig(weight_decay=0.1), dtype=dtype,
        )  # fmt: skip
        computation.gradient(data, [0, 2], loss, epsilon=1e-3, keep=there)
        there.update(0.1, 1.0)
        computation.terms(data, [1, 0], loss)
        with mock.patch.object(computations, "DATA_SHARE", 0.0):  # batches copied in turn
            computation = computations.DeviceComputation(model, log=lambda line: None)
            for indices, following in (([0], [0, 2]), ([0, 2], [2]), ([2], None)):
                computation.expect(following)
                computation.gradient(data, indices, loss, epsilon=1e-3)
        prediction.predict_on_device(model, data.structures, data.pairs)


def time_steps(n_steps=200):
    """Median milliseconds of the host in a step of a small batch, and what it asked for."""
    import ase.build
    from numba.cuda import dispatcher

    from fdforce.cuda import computation as computations
    from fdforce.descriptors import Chebyshev
    from fdforce.losses import make_loss
    from fdforce.models import ElementalNetworks
    from tests.cuda.on_device import data_of

    types, asked = {}, []

    def timed(kernel, args, configuration):
        start = time.perf_counter()
        if (kernel, len(args)) not in types:  # numba-cuda itself is quicker to know them
            types[kernel, len(args)] = tuple(map(kernel.typeof_pyval, args))
        pass_arguments(types[kernel, len(args)], args, configuration)
        asked.append(time.perf_counter() - start)

    dispatcher.CUDADispatcher.call = timed
    computations.find_device = device_of(multiprocessors=132)
    frames = [ase.build.bulk("TiO", "rocksalt", a=4.2, cubic=True) for _ in range(32)]
    loss = make_loss("squared", mean_atoms=8.0)
    model = ElementalNetworks(Chebyshev(("Ti", "O")), (15, 15), "tanh", dtype=np.float32)
    data, times = data_of(frames, model.elements, model.cutoff), []
    labels = replace(data.target, forces=np.zeros_like(data.structures.positions))
    data = replace(data, target=labels)
    computation = computations.DeviceComputation(model)
    for _ in range(n_steps):
        asked.clear()
        start = time.perf_counter()
        computation.gradient(data, np.arange(32), loss, epsilon=1e-3)
        times.append((time.perf_counter() - start, sum(asked)))
    whole, launches = 1e3 * np.median(times, axis=0)
    print(json.dumps({
        "ms": round(whole, 3), "of_launches_ms": round(launches, 3), "launches": len(asked),
    }))  # fmt: skip


if __name__ == "__main__":
    stand_in()
    if sys.argv[1:] == ["--time"]:
        sys.exit(time_steps())
    for kind in sys.argv[1:] or ("float32", "float64"):
        LAUNCHED.clear()
        run_steps(np.dtype(kind).type)
        for (module, name), variants in sorted(LAUNCHED.items()):
            variants = [[str(kind) for kind in types] for types in variants]
            print(json.dumps({"module": module, "name": name, "working": kind, "types": variants}))
