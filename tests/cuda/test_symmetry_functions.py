"""Symmetry functions of the device against those of the processor, and against loops."""

import numpy as np
import pytest
from ase import Atoms

from fdforce.descriptors import SymmetryFunctions, WeightedSymmetryFunctions
from tests.checks import EPS, EPS_32, elements_of, plain
from tests.cuda.on_device import both, check_close, check_descriptor, put
from tests.naive import symmetry_functions as naive
from tests.systems import SYSTEMS

# Of a feature: sums over up to 500 pairs of a few roundings each, zeta up to 16. Of a derivative:
# zeta times that, and windows know an angle to eps / sin(angle) from its cosine.
TOLERANCES = {np.float64: (1e2 * EPS, 1e4 * EPS), np.float32: (1e2 * EPS_32, 1e4 * EPS_32)}

FORMS = [
    "2 {0} 0.3 0 4", "2 {0} 1.1 1.5 2.6", "cos {0} 0.9 3", "20 {0} -1.5 3.1 p2a", "12 0.4 0.9 2.9",
    "3 {0} {1} 0.05 1 4 2.7", "3 {0} {1} 0.05 -1 3 2.9 0.7", "9 {0} {1} 0.1 1 2.5 2.8",
    "9 {0} {1} 0.05 -1 16 2.9", "21 {0} {1} 0.3 2.9 20 160 p2", "22 {0} {1} -1 2.8 0 360 p4",
    "13 0.03 0.2 1 2 2.7", "25 0.1 2.8 -120 120 e",
]  # fmt: skip

every_type = pytest.mark.parametrize("dtype", TOLERANCES)


def lines_of(elements, forms):
    """Every form for every central element and neighbours."""
    lines = []
    for centre in elements:
        for form in forms:
            for k, one in enumerate(elements):
                others = elements[k:] if "{1}" in form else elements[:1]
                lines += [f"{centre} {form.format(one, other)}" for other in others]
    return list(dict.fromkeys(lines))


def descriptor_of(elements, forms=FORMS, kind=1, alpha=0.0):
    return SymmetryFunctions(elements, lines_of(elements, forms), kind, alpha)


@every_type
@pytest.mark.parametrize(
    "system", ["single_atom", "dimer", "atom_on_cutoff", "slab", "thin_triclinic", "three_species"]
)
def test_descriptor_is_that_of_the_processor(system, dtype):
    atoms = SYSTEMS[system]()
    check_descriptor(descriptor_of(elements_of(atoms)), [atoms], dtype, TOLERANCES[dtype])
