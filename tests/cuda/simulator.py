"""Turns for the threads of Numba's simulator.

As it comes, all threads of a block run at once and a loop asks each whether it waits, so that most
of the time goes to passing Python's lock around. Here they run one after another up to the next
``syncthreads``: several times as fast, and the same in every run. It also finds two mistakes that
the simulator would let pass: a ``syncthreads`` that some threads of a block never reach, and, since
every other phase runs the threads backwards, a missing one.
"""

import threading
from functools import partial
from itertools import product

_workers = []


class Left(Exception):
    """The rest of a block is left since one of its threads failed."""


class Worker(threading.Thread):
    """A thread that runs one thread of every block; it or the caller runs, never both."""

    def __init__(self):
        super().__init__(daemon=True)
        self._go, self._back = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._back.acquire()
        self.start()

    def run(self):
        while True:
            self._go.acquire()
            try:
                self._work()
            except BaseException as error:
                self.error = error
            self.running = False
            self._back.release()

    def begin(self, work, block, thread, thread_id):
        """Take a thread of a block; the first turn runs it up to its first barrier."""
        self._work, self.blockIdx, self.threadIdx, self.thread_id = work, block, thread, thread_id
        self.error, self.running, self.leave = None, True, False

    def turn(self):
        """Run up to the next barrier, or the end."""
        self._go.release()
        self._back.acquire()

    def syncthreads(self):
        self._back.release()
        self._go.acquire()
        if self.leave:
            raise Left


def run_block(manager, grid_point, *args):
    """`BlockManager.run` of the simulator."""
    from numba.cuda.simulator.kernelapi import Dim3

    size = manager._block_dim
    places = list(product(*map(range, size)))
    while len(_workers) < len(places):
        _workers.append(Worker())
    running = _workers[: len(places)]
    work, block = partial(manager._f, *args), Dim3(*grid_point)
    for worker, (x, y, z) in zip(running, places):
        worker.begin(work, block, Dim3(x, y, z), x + size[0] * (y + size[1] * z))
    try:
        backwards = sum(grid_point) % 2 == 1
        while running:
            for worker in reversed(running) if backwards else running:
                worker.turn()
                if worker.error is not None:
                    worker.error.add_note(f"in {worker.threadIdx} of block {block}")
                    raise worker.error
            waiting = [worker for worker in running if worker.running]
            if 0 < len(waiting) < len(running):
                raise RuntimeError(
                    f"{manager._f.__name__}: {len(waiting)} threads wait in syncthreads for "
                    f"{len(running) - len(waiting)} that have ended"
                )
            running, backwards = waiting, not backwards
    finally:
        for worker in running:
            if worker.running:
                worker.leave = True
                worker.turn()


def take_turns():
    """Make the simulator run blocks by `run_block`."""
    from numba.cuda.simulator.kernel import BlockManager

    BlockManager.run = run_block
