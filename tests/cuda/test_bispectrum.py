"""Bispectrum components of the device against those of the processor."""

import numpy as np
import pytest

from fdforce.descriptors import Bispectrum
from tests.checks import EPS, EPS_32, elements_of
from tests.cuda.on_device import check_descriptor
from tests.systems import SYSTEMS

# components are cubes of sums over up to 20 neighbours; derivatives have hundreds of terms
TOLERANCES = {np.float64: (1e2 * EPS, 1e3 * EPS), np.float32: (1e2 * EPS_32, 1e3 * EPS_32)}

every_type = pytest.mark.parametrize("dtype", TOLERANCES)

# of any number of elements; radii, weights and inner radii are made for each
CASES = {
    "plain": dict(twojmax=4, bzeroflag=0),
    "inner": dict(twojmax=3, rmin0=0.4, switchinnerflag=1),
    "chemical": dict(twojmax=2, chemflag=1, bnormflag=1, wselfallflag=1),
    "chemical, own": dict(twojmax=2, chemflag=1, rfac0=0.8, switchflag=0),
}


def descriptor_of(elements, case):
    """Settings of a case with other radii and weights for every element."""
    n = np.arange(len(elements))
    options = dict(elements=elements, rcutfac=3.3, radelem=0.5 - 0.06 * n, wj=1 - 0.3 * n)
    options |= CASES[case]
    if options.get("switchinnerflag"):
        options |= dict(sinner=1.4 - 0.2 * n, dinner=0.5 + 0.1 * n)
    return Bispectrum(**options)


@every_type
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("system", ["dimer", "thin_triclinic"])
def test_descriptor_is_that_of_the_processor(system, case, dtype):
    atoms = SYSTEMS[system]()
    check_descriptor(descriptor_of(elements_of(atoms), case), [atoms], dtype, TOLERANCES[dtype])
