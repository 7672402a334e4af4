"""n2p2 and RuNNer: potentials, structures (input.data) and training directories."""

from fdforce.formats.n2p2.data import (
    assumed_units,
    read_structures,
    recognises,
    write_structures,
)
from fdforce.formats.n2p2.potential import read_potential, write_potential
from fdforce.formats.n2p2.training import read_training, recognises_training

KEEPS_STRESS = False

__all__ = [
    "KEEPS_STRESS",
    "assumed_units",
    "read_potential",
    "read_structures",
    "read_training",
    "recognises",
    "recognises_training",
    "write_potential",
    "write_structures",
]
