"""Rows of features that are sorted by species."""

from .runtime import cuda


@cuda.jit(device=True)
def species_of(species_start, row):
    """Species of a row."""
    z = 0
    while row >= species_start[z + 1]:
        z += 1
    return z
