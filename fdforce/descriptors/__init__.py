"""What an atom sees: one module per family of descriptors.

Every family is a `Descriptor`; models know nothing else of it.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from fdforce.descriptors.atomic_environment import AtomicEnvironmentVector
from fdforce.descriptors.bispectrum import Bispectrum
from fdforce.descriptors.chebyshev import Chebyshev
from fdforce.descriptors.elemental_chebyshev import ElementalChebyshev
from fdforce.descriptors.power_spectrum import PowerSpectrum
from fdforce.descriptors.quadratic import Quadratic
from fdforce.descriptors.reduced import Reduced
from fdforce.descriptors.symmetry_functions import SymmetryFunctions
from fdforce.descriptors.weighted_symmetry_functions import WeightedSymmetryFunctions


class Descriptor(Protocol):
    """What a family has to offer.

    Attributes
    ----------
    name : str
        Its key in `DESCRIPTORS`.
    setting_help : dict of str to str
        Arguments of the class besides the elements, which are its keys in the configuration, with
        a line of help. Defaults and types are those of the signature.
    elements : tuple of str
        Species labels in the order of the batch.
    cutoff : float, Å
        Largest distance at which a neighbour counts.
    n_features : int
    labels : list of str
        A name for every feature.
    settings : dict
        Arguments that make an equal descriptor, ready for JSON.
    feature_weight : ndarray, shape (n_features,), optional
        Size that standardised features are given, where not all count alike.
    n_computed : int, optional
        Numbers computed for an atom on the way to its features, where these are made of others.
    on_gpu : bool, optional
        Whether its kernels have twins for a GPU, and it takes arrays and kernels from
        ``batch.device``.
    """

    name: str
    setting_help: dict[str, str]
    elements: tuple[str, ...]
    cutoff: float
    n_features: int
    labels: list[str]
    settings: dict

    def compute(self, atoms) -> np.ndarray:
        """Features (n_atoms, n_features) of an `ase.Atoms`."""

    def forward(self, batch, mean, scale, *, keep=True) -> tuple[np.ndarray, Any]:
        """Standardised features of a batch, and what `backward` needs.

        Parameters
        ----------
        batch : Batch
        mean, scale : ndarray, shape (n_elements, n_features), float32 or float64
            Features are ``(G - mean) * scale``, in this dtype; complex positions give complex128.
        keep : bool
            False where no `backward` follows.

        Returns
        -------
        features : ndarray, shape (n_atoms, n_features)
            Rows sorted by species: that of an atom is ``batch.place``.
        kept : ndarray, or what else the family needs
            Has length 0 unless `keep`.
        """

    def backward(self, batch, d_features, kept, scale) -> tuple[np.ndarray, np.ndarray]:
        """Pull a gradient with respect to the features back to positions and strain.

        Parameters
        ----------
        batch : Batch
        d_features : ndarray, shape (n_atoms, n_features)
            With respect to the standardised features; rows sorted by species, as those of
            `forward`.
        kept : object
            Second result of `forward`.
        scale : ndarray
            As given to `forward`.

        Returns
        -------
        d_positions : ndarray, shape (n_atoms, 3)
        d_strain : ndarray, shape (n_atoms, 6)
            Voigt order xx yy zz yz xz xy, each atom's share.
        """


DESCRIPTORS = {
    "atomic_environment_vector": AtomicEnvironmentVector,
    "bispectrum": Bispectrum,
    "chebyshev": Chebyshev,
    "elemental_chebyshev": ElementalChebyshev,
    "power_spectrum": PowerSpectrum,
    "symmetry_functions": SymmetryFunctions,
    "weighted_symmetry_functions": WeightedSymmetryFunctions,
}


def make_descriptor(name: str, **settings) -> Descriptor:
    """The descriptor of a name and settings as a model file has them."""
    if name in (Quadratic.name, Reduced.name):
        inner = make_descriptor(**settings.pop("of"))
        return (Quadratic if name == Quadratic.name else Reduced)(inner, **settings)
    return DESCRIPTORS[name](**settings)


__all__ = [
    "DESCRIPTORS",
    "AtomicEnvironmentVector",
    "Bispectrum",
    "Chebyshev",
    "Descriptor",
    "ElementalChebyshev",
    "PowerSpectrum",
    "Quadratic",
    "Reduced",
    "SymmetryFunctions",
    "WeightedSymmetryFunctions",
    "make_descriptor",
]
