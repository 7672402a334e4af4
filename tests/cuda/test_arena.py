"""Memory of a step on the device."""

import numpy as np
import pytest

from fdforce.cuda.arena import ALIGNMENT, Arena, Mirrored, Staging


class Memory:
    """So many bytes to allocate at a time, in NumPy arrays."""

    def __init__(self, size):
        self.size, self.asked = size, []

    def allocate(self, n_bytes):
        self.asked.append(n_bytes)
        if n_bytes > self.size:
            raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY")
        return np.zeros(n_bytes, np.uint8)


def fill(arena, n):
    for _ in range(n):
        arena.take(ALIGNMENT, np.uint8)


def test_arrays_do_not_share_memory_within_a_step():
    memory = Memory(10**6)
    arena = Arena(memory.allocate)
    for _ in range(3):
        arena.reset()
        arrays = [arena.take(n, np.float64) for n in (3, 0, 40, 1, 100, 7)]
        for value, array in enumerate(arrays):
            array[...] = value
        assert [set(array.tolist()) for array in arrays] == [{0}, set(), {2}, {3}, {4}, {5}]
    starts = [array.__array_interface__["data"][0] for array in arrays if array.size]
    assert set(np.diff(starts) % ALIGNMENT) == {0}  # parts of one block by now
    asked = len(memory.asked)
    arena.reset()
    arena.take(100, np.float64)
    assert len(memory.asked) == asked  # a step as large as the last allocates nothing


def test_one_block_takes_no_more_than_several_did():
    """Else a step that fitted could be followed by one that does not."""
    memory = Memory(10**6)
    arena = Arena(memory.allocate)
    fill(arena, 16)
    assert len(memory.asked) > 1
    memory.size = arena.size
    arena.reset()
    fill(arena, 16)
    assert arena.size == memory.size


def test_a_step_that_did_not_fit_is_forgotten():
    memory = Memory(8 * ALIGNMENT)
    arena = Arena(memory.allocate)
    fill(arena, 8)
    memory.size = 0
    with pytest.raises(RuntimeError, match="OUT_OF_MEMORY"):
        fill(arena, 1)
    memory.size = 2 * ALIGNMENT  # someone else took the rest
    with pytest.raises(RuntimeError, match="OUT_OF_MEMORY"):
        arena.reset()
    fill(arena, 2)
    arena.reset()
    assert arena.size <= 2 * ALIGNMENT


def test_one_copy_sends_what_was_added():
    copies = []

    def copy(there, here):
        copies.append(here.size)
        there[...] = here

    memory = Memory(10**6)
    staging = Staging(lambda n: Mirrored(memory.allocate(n), memory.allocate(n)), copy)
    given = [np.arange(3), np.full((2, 5), 1.5), np.zeros((0, 3)), np.arange(400), [7]]
    for _ in range(2):
        staging.reset()
        arrays = [staging.add(array, np.float32) for array in given[:3]]
        assert staging.waiting
        staging.send()
        arrays += [staging.add(array, np.float32) for array in given[3:]]
        staging.send()
        staging.send()
        assert not staging.waiting
        for array, expected in zip(arrays, given, strict=True):
            assert array.dtype == np.float32
            assert np.array_equal(array, expected)
    # four blocks in the first round; then one, which is sent in two parts
    unit = ALIGNMENT
    assert copies == [unit, unit, 7 * unit, unit, 2 * unit, 8 * unit]


def test_what_was_not_sent_is_forgotten():
    staging = Staging(lambda n: Mirrored(np.zeros(n, np.uint8), np.zeros(n, np.uint8)), None)
    staging.add([1.0], np.float64)
    staging.reset()
    staging.send()
    assert not staging.waiting


def test_what_is_needed_suffices_where_as_much_again_is_too_much():
    memory = Memory(4 * ALIGNMENT)
    arena = Arena(memory.allocate)
    fill(arena, 4)
    memory.size = 2 * ALIGNMENT
    fill(arena, 2)
    assert memory.asked[-4:] == [4 * ALIGNMENT, ALIGNMENT, 5 * ALIGNMENT, ALIGNMENT]
