"""Networks of the device against those of the processor and the plain sums over layers."""

from itertools import pairwise

import numpy as np
import pytest

from fdforce.batch import tiles_of
from fdforce.kernels.cpu import networks as cpu
from fdforce.kernels.cpu.activations import CODES
from fdforce.kernels.cuda import networks as cuda
from fdforce.kernels.cuda import runtime
from tests.checks import EPS, EPS_32
from tests.cuda.on_device import check_close, put, unset
from tests.naive import networks as naive

# sums over up to 40 numbers near 1, of three layers
TOLERANCES = {np.float64: 100 * EPS, np.float32: 100 * EPS_32}
LINEAR = CODES["linear"]


@pytest.fixture(autouse=True)
def few_parts(monkeypatch):
    """The simulator runs each block in turn; more than one, and fewer than parts of the layers."""
    monkeypatch.setattr(cuda, "PARTS", 3)


class Case:
    """Networks, rows of features and all that the kernels ask for, on the processor.

    Parameters
    ----------
    widths : list of list of int
        Hidden widths of each species.
    counts : list of int
        Atoms of each species in one replica.
    n_chunks, n_replicas : int
    activation : str
        Of the first hidden layers of species 0; other layers have others, outputs are linear.
    """

    def __init__(
        self, dtype, widths, counts, *, n_features=7, n_chunks=1, n_replicas=1,
        activation="tanh", output="linear",
    ):  # fmt: skip
        rng = np.random.default_rng(0)
        self.hidden_widths, self.dtype, self.n_replicas = widths, dtype, n_replicas
        depth = max(map(len, widths)) + 2
        self.widths = np.zeros((len(widths), depth), np.int64)
        self.activations = np.full((len(widths), depth - 1), LINEAR)
        self.names, n_parameters = [], 0
        for z, own in enumerate(widths):
            spelled = [n_features, *own, 1]
            self.widths[z, : len(spelled)] = spelled
            n_parameters += sum((a + 1) * b for a, b in pairwise(spelled))
            names = [("tanh", "silu")[(z + k) % 2] for k in range(len(own))] + [output]
            if z == 0 and own:
                names[0] = activation
            self.names.append(names)
            self.activations[z, : len(names)] = [CODES[name] for name in names]
        once = np.concatenate(([0], np.cumsum(counts)))
        self.species_start = n_replicas * once
        self.tiles, self.chunks = tiles_of(once, n_chunks)
        n_rows = n_replicas * once[-1]
        self.theta = rng.normal(scale=0.4, size=n_parameters).astype(dtype)
        self.features = rng.normal(size=(n_rows, n_features)).astype(dtype)
        self.row_weights = rng.normal(size=n_rows)
        self.n_hidden = n_replicas * sum(n * sum(own) for n, own in zip(counts, widths))
        self.n_rows = n_rows

    @property
    def shared(self):
        """Arguments between the parameters and what a kernel fills."""
        return self.species_start, self.n_replicas, self.tiles, self.chunks

    def forward(self, kernel, move, empty):
        """hidden, slopes and output."""
        hidden = empty(self.n_hidden, self.dtype)
        slopes = empty(self.n_hidden + self.n_rows, self.dtype)
        output = empty(self.n_rows, np.float64)
        start, n_replicas, tiles, chunks = self.shared
        kernel(
            move(self.features), move(self.theta), move(self.widths), move(self.activations),
            move(start), n_replicas, move(tiles), move(chunks), hidden, slopes, output,
        )  # fmt: skip
        return hidden, slopes, output

    def scratch(self, kernel):
        """Deltas, which only kernels of the device ask for."""
        on_device = kernel in (cuda.networks_backward, cuda.networks_gradient)
        return [unset(self.n_hidden + self.n_rows, self.dtype)] if on_device else []

    def backward(self, kernel, move, empty, slopes):
        """d_features."""
        d_features = empty(self.features.shape, self.dtype)
        start, n_replicas, tiles, chunks = self.shared
        kernel(
            slopes, move(self.theta), move(self.widths), move(start), n_replicas, move(tiles),
            move(chunks), *self.scratch(kernel), d_features,
        )  # fmt: skip
        return d_features

    def gradient(self, kernel, move, hidden, slopes, *, paired):
        """d_theta, of which something is there already."""
        d_theta = move(np.ones((len(self.chunks) - 1, len(self.theta))))
        start, n_replicas, tiles, chunks = self.shared
        kernel(
            move(self.features), hidden, slopes, move(self.row_weights), move(self.theta),
            move(self.widths), move(start), n_replicas, paired, move(tiles), move(chunks),
            *self.scratch(kernel), d_theta,
        )  # fmt: skip
        return d_theta


def check(case, *, paired=False):
    """All that the kernels fill, against the twin; the output also against the plain sums."""
    tolerance = TOLERANCES[case.dtype]
    here = case.forward(cpu.networks_forward, np.asarray, np.empty)
    there = case.forward(cuda.networks_forward, put, unset)
    for found, expected in zip(there, here):
        check_close(found.copy_to_host(), expected, tolerance)
    n_features = case.features.shape[1]
    for z, (a, b) in enumerate(pairwise(case.species_start)):
        layers = naive.layers_of(case.theta, z, n_features, case.hidden_widths)
        plain = [naive.atom_energy(row, layers, case.names[z]) for row in case.features[a:b]]
        check_close(there[2].copy_to_host()[a:b], np.array(plain, np.float64), tolerance)
    check_close(
        case.backward(cuda.networks_backward, put, unset, there[1]).copy_to_host(),
        case.backward(cpu.networks_backward, np.asarray, np.empty, here[1]),
        tolerance,
    )
    found = case.gradient(cuda.networks_gradient, put, *there[:2], paired=paired)
    expected = case.gradient(cpu.networks_gradient, np.array, *here[:2], paired=paired)
    check_close(found.copy_to_host(), expected, tolerance)


@pytest.mark.parametrize(
    ("dtype", "paired", "n_chunks"),
    [(np.float32, False, 1), (np.float32, True, 3), (np.float64, False, 3), (np.float64, True, 1)],
)
def test_networks_are_those_of_the_processor(dtype, paired, n_chunks):
    """Species with none to three hidden layers, wider than a block's columns, one without atoms."""
    widths, counts = [[35, 3], [], [4, 6, 5], [2]], [5, 3, 2, 0]
    n_replicas = (4 if n_chunks == 3 else 2) if paired else 1
    case = Case(dtype, widths, counts, n_chunks=n_chunks, n_replicas=n_replicas)
    check(case, paired=paired)


def test_networks_of_several_tiles(monkeypatch):
    monkeypatch.setattr("fdforce.batch.TILE_ATOMS", 5)
    case = Case(np.float64, [[3], [2, 2]], [13, 6], n_chunks=3, n_replicas=2, n_features=3)
    assert len(case.tiles) == 5
    check(case, paired=True)
    check(case)


def test_many_inputs_in_full_blocks(threads):
    """More terms than are staged at once; rows and columns that fill a block or do not."""
    check(Case(np.float64, [[33]], [threads // 2 + 1], n_features=37), paired=False)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_little_shared_memory(count, monkeypatch):
    """Fewer threads, then, down to one, which takes four rows and four columns at a time."""
    per_thread, in_all = cuda._shared(np.zeros(1))
    monkeypatch.setattr(runtime, "SHARED_BYTES", count * per_thread + in_all)
    check(Case(np.float64, [[5, 2]], [6], n_replicas=2), paired=True)


@pytest.mark.parametrize("activation", CODES)
def test_activations(activation):
    case = Case(np.float64, [[4]], [5], activation=activation, output=activation, n_features=3)
    check(case)


def test_activations_far_out():
    """Neither overflow nor loss of what is finite; NaN stays."""
    for name in set(CODES) - {"exponential", "harmonic"}:
        case = Case(np.float64, [[2]], [4], activation=name, n_features=1)
        case.features[:, 0] = [-800, 800, 0, np.nan]
        here = case.forward(cpu.networks_forward, np.asarray, np.empty)
        there = case.forward(cuda.networks_forward, put, unset)
        for found, expected in zip(there, here):
            found = found.copy_to_host()
            np.testing.assert_array_equal(np.isnan(found), np.isnan(expected), name)
            np.testing.assert_allclose(found, expected, 100 * EPS, 100 * EPS, err_msg=name)
