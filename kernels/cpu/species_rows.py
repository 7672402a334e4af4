"""Rows of features that are sorted by species, in NumPy."""

import itertools


def standardise_rows(species_start, mean, scale, features):
    """``(x - mean) * scale`` of the species of each row, in place."""
    for z, (begin, end) in enumerate(itertools.pairwise(species_start)):
        features[begin:end] -= mean[z]
        features[begin:end] *= scale[z]


def scale_rows(species_start, scale, d_features):
    """``x * scale`` of the species of each row, in place."""
    for z, (begin, end) in enumerate(itertools.pairwise(species_start)):
        d_features[begin:end] *= scale[z]
