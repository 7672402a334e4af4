"""The repulsion of the device against that of the processor."""

import numpy as np
import pytest

from fdforce.kernels.cuda.zbl import zbl_forward
from fdforce.models.zbl import ZBL, LammpsZBL
from tests.checks import EPS
from tests.cuda.on_device import both, check_close, put
from tests.systems import SYSTEMS

ELEMENTS = ("Ti", "O")
BASELINES = {
    "switched": ZBL(ELEMENTS, [[2.9, 2.2], [2.2, 2.6]]),
    "shifted": LammpsZBL(ELEMENTS, 2.6, 1.9),
}


@pytest.mark.parametrize("skin", [0.05, 1.0])
@pytest.mark.parametrize("n_replicas", [1, 2])
@pytest.mark.parametrize("name", BASELINES)
def test_repulsion_is_that_of_the_processor(name, n_replicas, skin, threads):
    zbl = BASELINES[name]
    frames = [SYSTEMS[name]() for name in ("left_handed", "dimer", "single_atom", "thin_triclinic")]
    # closer than either radius, between them and beyond
    frames.append(frames[1].copy())
    frames[-1].positions[1] *= 0.7
    host, device = both(frames, ELEMENTS, 3.0, skin=skin, n_replicas=n_replicas)
    expected = zbl.forward(host)
    outputs = [put(np.full(shape, 0.5)) for shape in ((host.n_atoms,), (host.n_atoms, 3))]
    strain = put(np.full((host.n_atoms, 6), 0.5))
    zbl_forward(
        *device.pair_arguments[:9], n_replicas,
        *map(put, (zbl._prefactor, zbl._inverse_length, zbl.inner, zbl.outer, *zbl._shift)),
        host.skin, *outputs, strain,
    )  # fmt: skip
    energy, forces = (output.copy_to_host() - 0.5 for output in outputs)  # the kernel adds
    # exponents of up to 30, sums of up to 20 pairs
    check_close(energy, expected.atom_energy, 1e3 * EPS)
    check_close(forces, expected.forces, 1e3 * EPS)
    virial = np.add.reduceat(strain.copy_to_host() - 0.5, host.offsets[:-1], axis=0)
    check_close(virial[:, [[0, 5, 4], [5, 1, 3], [4, 3, 2]]], expected.virial, 1e3 * EPS)
    assert np.abs(expected.forces).max() > 1
