"""The GPU as descriptors see it (`fdforce.devices`), and whether there is one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache, cached_property
from importlib import import_module

import numpy as np

from fdforce.cuda.arena import Arena, Mirrored, Staging
from fdforce.errors import ConfigError, FdforceError


def runtime():
    """`fdforce.kernels.cuda.runtime`; raises ConfigError where numba-cuda is missing."""
    try:
        return import_module("fdforce.kernels.cuda.runtime")
    except ImportError as error:
        raise ConfigError(str(error)) from None


def find_device() -> CudaDevice:
    """The current GPU.

    Raises
    ------
    ConfigError
        The package or a GPU is missing.
    """
    cuda = runtime().cuda
    if not cuda.is_available():
        raise ConfigError(
            "no GPU found, or no compiler for it: does nvidia-smi list one, and is fdforce[cuda13] "
            'installed (or fdforce[cuda12])? Otherwise take device = "cpu"'
        )
    return CudaDevice()


def list_devices() -> list[dict]:
    """Name, compute capability, multiprocessors and memory (bytes) of every GPU."""
    cuda, found = runtime().cuda, []
    if not cuda.is_available():
        return found
    if runtime().SIMULATED:
        memory = SIMULATED_MEMORY
        return [{
            "name": "simulated", "compute_capability": "0.0", "multiprocessors": 2,
            "memory": memory, "free_memory": memory,
        }]  # fmt: skip
    for gpu in cuda.gpus:
        with gpu:
            free, total = cuda.current_context().get_memory_info()
            device = cuda.get_current_device()
            name = device.name
            found.append({
                "name": name.decode() if isinstance(name, bytes) else str(name),
                "compute_capability": ".".join(map(str, device.compute_capability)),
                "multiprocessors": int(device.MULTIPROCESSOR_COUNT),
                "memory": int(total),
                "free_memory": int(free),
            })  # fmt: skip
    return found


def out_of_memory(error: Exception) -> bool:
    """Whether an exception of CUDA says that the device has no memory left."""
    return "OUT_OF_MEMORY" in str(error).upper().replace(" ", "_")


class DeviceSlopes:
    """Where the backward kernels of the GPU write the slope of every pair."""

    def __init__(self, device, batch, dtype, n_parts):
        self.device, self.batch = device, batch
        self.arrays = (device.empty((batch.n_pairs, 3), dtype),)
        self.parts = n_parts * [self.arrays]  # every pair is written by one of them

    def totals(self):
        """Derivatives with respect to positions (n_atoms, 3) and strain (n_atoms, 6), float64."""
        batch, device = self.batch, self.device
        d_positions = device.empty((batch.n_atoms, 3), np.float64)
        d_strain = device.empty((batch.n_atoms, 6), np.float64)
        device.kernels("pairs").sum_separations(
            *self.arrays, batch.positions, batch.cells, batch.structure, batch.offsets,
            batch.row_begin, batch.row_end, batch.neighbor, batch.shift, batch.pair_offset,
            batch.opposite, d_positions, d_strain,
        )  # fmt: skip
        return d_positions, d_strain


class Memory:
    """Arrays that are all given back together, and those on their way to the device.

    Parameters
    ----------
    device : CudaDevice
        Not kept, so that the blocks go when their owner does.
    """

    def __init__(self, device):
        block, locked_block = device.block, device.locked_block
        self._arena = Arena(block, device.part)
        self._staging = Staging(
            lambda n: Mirrored(block(n), locked_block(n)), device.queue_copy, device.part
        )
        self.empty, self.upload = self._arena.take, self._staging.add
        self.send = self._staging.send

    @property
    def waiting(self) -> bool:
        """Whether something that was uploaded has not been sent."""
        return self._staging.waiting

    def reset(self) -> None:
        """Begin anew: all of it is free."""
        self._arena.reset()
        self._staging.reset()


SIMULATED_MEMORY = 2**30
"""Bytes that a simulated device is said to have."""


class CudaDevice:
    """The current GPU: device arrays and the kernels of `fdforce.kernels.cuda`."""

    name = "cuda"

    @staticmethod
    @cache
    def kernels(name: str):
        """The module of kernels of this name."""
        return import_module(f"fdforce.kernels.cuda.{name}")

    def __init__(self):
        self._memory, self._in_step = Memory(self), False

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Context in which `empty`, `zeros` and `upload` share memory that is free after it.

        It ends with results on the host, so that what was sent has arrived by then.

        Raises
        ------
        FdforceError
            A kernel needs more shared memory than a block has.
        """
        if self._in_step:
            yield
            return
        self._memory.reset()
        self._in_step = True
        try:
            yield
            if self._memory.waiting:
                raise RuntimeError("an array was uploaded after the last `send`")
        except BaseException as error:
            self._cuda.synchronize()  # what is on its way may not be overwritten
            if isinstance(error, MemoryError):  # kernels know no errors of fdforce
                raise FdforceError(str(error)) from None
            raise
        finally:
            self._in_step = False

    def empty(self, shape, dtype):
        """An array on the device, not initialised; within `step` valid up to its end."""
        if self._in_step:
            return self._memory.empty(shape, dtype)
        return self._cuda.device_array(shape, np.dtype(dtype))

    def zeros(self, shape, dtype):
        """An array of zeros on the device."""
        array = self.empty(shape, dtype)
        self.kernels("reductions").fill(array.reshape(array.size), np.dtype(dtype).type(0))
        return array

    def table(self, array, dtype):
        """A copy on the device, contiguous and of this dtype, that outlives a step."""
        return self._cuda.to_device(np.ascontiguousarray(array, dtype))

    def upload(self, array, dtype):
        """A copy on the device; within `step` it is there after `send`, and up to its end."""
        return self._memory.upload(array, dtype) if self._in_step else self.table(array, dtype)

    def send(self) -> None:
        """Queue one copy of all that was uploaded; launches that follow find it there."""
        self._memory.send()

    @staticmethod
    def cast(array, dtype):
        """An array of the device, which must have this dtype."""
        if array.dtype != dtype:
            raise TypeError(f"a device array of {array.dtype} where {dtype} is computed with")
        return array

    def sum(self, a, b, dtype):
        """a + b in double precision, and then in this dtype."""
        total = self.empty(a.shape, dtype)
        self.kernels("reductions").add(*(array.reshape(array.size) for array in (a, b, total)))
        return total

    def slopes(self, batch, dtype, n_parts=1) -> DeviceSlopes:
        """Where a backward kernel in this dtype writes, or several, each for pairs of its own."""
        return DeviceSlopes(self, batch, dtype, n_parts)

    @cached_property
    def multiprocessors(self) -> int:
        """Blocks that surely run at the same time."""
        if runtime().SIMULATED:
            return 2
        return int(self._cuda.get_current_device().MULTIPROCESSOR_COUNT)

    def free_memory(self) -> int:
        """Bytes."""
        if runtime().SIMULATED:
            return SIMULATED_MEMORY
        return int(self._cuda.current_context().get_memory_info()[0])

    @staticmethod
    def block(n_bytes: int):
        """So many bytes."""
        return runtime().cuda.device_array(n_bytes, np.uint8)

    @staticmethod
    def locked_block(n_bytes: int) -> np.ndarray:
        """So many bytes of the host, page-locked where the system lets us."""
        try:
            return runtime().cuda.pinned_array(n_bytes, np.uint8)
        except Exception as error:
            if not out_of_memory(error):
                raise
            return np.empty(n_bytes, np.uint8)

    @staticmethod
    def part(block, first: int, shape: tuple, dtype):
        """Some bytes of an array of uint8, from `first` on, as an array."""
        return runtime().cut(block, first, shape, np.dtype(dtype))

    @staticmethod
    def queue_copy(there, here) -> None:
        """Copy from the host to the device after all that was launched."""
        there.copy_to_device(here, stream=runtime().cuda.default_stream())

    @property
    def _cuda(self):
        return runtime().cuda
