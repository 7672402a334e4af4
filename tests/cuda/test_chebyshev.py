"""Chebyshev descriptors of the device against those of the processor."""

import numpy as np
import pytest

from fdforce.descriptors import Chebyshev
from tests.checks import EPS, EPS_32, elements_of
from tests.cuda.on_device import check_descriptor
from tests.systems import SYSTEMS

# of a feature: sums over up to 60 neighbours; of a derivative: orders squared times that
TOLERANCES = {np.float64: (1e2 * EPS, 1e3 * EPS), np.float32: (1e2 * EPS_32, 1e3 * EPS_32)}

every_type = pytest.mark.parametrize("dtype", TOLERANCES)


def descriptor_of(elements, **options):
    settings = dict(radial_cutoff=4.0, radial_order=4, angular_cutoff=3.3, angular_order=3)
    return Chebyshev(elements, **settings | options)


@every_type
@pytest.mark.parametrize("system", ["atom_on_cutoff", "slab", "thin_triclinic", "three_species"])
def test_descriptor_is_that_of_the_processor(system, dtype):
    atoms = SYSTEMS[system]()
    check_descriptor(descriptor_of(elements_of(atoms)), [atoms], dtype, TOLERANCES[dtype])
