"""ænet and ænet-PyTorch: XSF structures, network files, training directories.

Artrith and Urban, Comput. Mater. Sci. 114, 135 (2016); López-Zorrilla et al., J. Chem. Phys. 158,
164105 (2023). Everything is in Å, eV and eV/Å.
"""

from fdforce.formats.aenet.potential import read_potential, write_potential
from fdforce.formats.aenet.training import read_training, recognises_training
from fdforce.formats.aenet.xsf import read_structures, recognises, write_structures

KEEPS_STRESS = False

__all__ = [
    "KEEPS_STRESS",
    "read_potential",
    "read_structures",
    "read_training",
    "recognises",
    "recognises_training",
    "write_potential",
    "write_structures",
]
