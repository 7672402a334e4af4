"""Opposite pairs, and sums of what every pair gives."""

import numpy as np
import pytest

from fdforce.cuda.data import DeviceData
from fdforce.data_set import DataSet
from fdforce.errors import DataError
from fdforce.evaluation import labels_of
from fdforce.neighbors import PairList, build_pairs
from fdforce.structures import read_structures
from tests.checks import EPS
from tests.cuda.on_device import DEVICE, both, check_close, data_of, put, unset
from tests.systems import SYSTEMS

ELEMENTS = ["Ti", "O"]
NAMES = ["dimer", "thin_triclinic", "single_atom", "left_handed"]


def frames():
    return [SYSTEMS[name]() for name in NAMES]


def ends_of(batch):
    """Both atoms and the lattice translation of every pair of a batch of the processor, in order.

    Also the place of each pair in the data set.
    """
    rows = zip(batch.row_begin, batch.row_end)
    place = np.concatenate([np.arange(begin, end) for begin, end in rows])
    n_species = len(batch.row_begin) // len(batch.species)
    of_rows = (batch.row_end - batch.row_begin).reshape(-1, n_species).sum(axis=1)
    i = np.repeat(np.arange(len(batch.species)), of_rows)
    j = batch.offsets[batch.structure[i]] + batch.neighbor[place]
    return place, i, j, batch.shift[:, place].T


def test_opposite_pairs_go_back(threads):
    data = data_of(frames(), ELEMENTS, 3.5)
    host = data.batch(np.arange(len(data)), 1)[0]
    found = DeviceData(DEVICE, data).batch(np.arange(len(data))).opposite.copy_to_host()
    place, i, j, shift = ends_of(host)
    assert np.array_equal(place, np.arange(len(found)))
    assert np.array_equal(i[found], j)
    assert np.array_equal(j[found], i)
    assert np.array_equal(shift[found], -shift)
    # images of the atom itself have an opposite that is not the pair itself
    assert not (found == place).any()
    assert (i == j).any()


def test_a_pair_without_its_opposite_is_refused():
    structures, _ = read_structures(frames(), elements=ELEMENTS, keep_isolated=True)
    pairs = build_pairs(structures, 3.5, skin=0.05)
    shift = np.array(pairs.shift)
    shift[0, -1] += 5
    broken = PairList(**{**vars(pairs), "shift": shift})
    with pytest.raises(DataError, match="without its opposite; build it anew"):
        DeviceData(DEVICE, DataSet(structures, labels_of(structures), broken))


@pytest.mark.parametrize("indices", [[0, 1, 2, 3], [3, 1], [2]])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_sums_are_those_of_the_pairs(indices, dtype):
    host, device = both(frames(), ELEMENTS, 3.5, indices=indices)
    place, i, j, shift = ends_of(host) if host.row_end.max() else ([], [], [], [])
    assert device.n_pairs == len(place)
    cells = host.cells[host.structure[i]] if len(place) else np.zeros((0, 3, 3))
    d = host.positions[j] + np.einsum("pk,pkx->px", shift, cells) - host.positions[i]
    rng = np.random.default_rng(1)
    given = rng.normal(size=(len(place), 3)).astype(dtype)
    slopes = np.full((device.n_pairs, 3), np.nan, dtype)
    offset = device.pair_offset.copy_to_host()
    slopes[place + offset[host.structure[i]]] = given
    assert not np.isnan(slopes).any()
    expected, strain = np.zeros((host.n_atoms, 3)), np.zeros((host.n_atoms, 6))
    np.add.at(expected, j, given)
    np.add.at(expected, i, -given)
    products = d[:, [0, 1, 2, 1, 0, 0]] * given[:, [0, 1, 2, 2, 2, 1]]
    np.add.at(strain, i, products)
    found = unset((host.n_atoms, 3)), unset((host.n_atoms, 6))
    DEVICE.kernels("pairs").sum_separations(
        put(slopes), device.positions, device.cells, device.structure, device.offsets,
        device.row_begin, device.row_end, device.neighbor, device.shift, device.pair_offset,
        device.opposite, *found,
    )  # fmt: skip
    # some forty pairs of an atom, summed in another order
    check_close(found[0].copy_to_host(), expected, 100 * EPS)
    check_close(found[1].copy_to_host(), strain, 100 * EPS)
