"""Weighted symmetry functions (wACSF), and unweighted ones, in the layout of SchNetPack 1.0."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from ase.data import atomic_numbers

from fdforce.descriptors.features import (
    check_elements,
    compute_features,
    settings_of,
)
from fdforce.descriptors.symmetry_function_program import Program, gaussian, power
from fdforce.errors import ConfigError

MODES = ("weighted", "elements")


class WeightedSymmetryFunctions:
    """Symmetry functions of all neighbours together, each weighted by its atomic number.

    Their number does not grow with the number of elements. With f the half-cosine cutoff the
    features of an atom are ``sum_j w_j g_m(r_ij) f(r_ij)``, m = 1 .. n_radial, and then, sums over
    pairs of neighbours, ``2^(1 - zeta) sum_{j<k} w_jk (1 + lambda cos theta)^zeta exp(-(r_ij^2 +
    r_ik^2) / 2 mu^2) f f`` for every width mu, in which lambda = -1 with all zetas and then
    lambda = 1 with all of them. Widths are spaced equally between 1 Å and cutoff - 0.5 Å. Source:
    Gastegger et al., J. Chem. Phys. 148, 241709 (2018), as implemented in SchNetPack 1.0.

    Parameters
    ----------
    elements : sequence of str
        Every element that an atom may see.
    cutoff : float, Å
    n_radial : int
        Gaussians: ``exp(-(r - mu)^2 / 2 w^2)`` with centres mu spaced equally between 0.5 Å and
        cutoff - 0.5 Å and w the distance between two of them.
    n_angular : int
        Widths mu of the angular functions; 0 for none.
    zetas : sequence of float
    centered : bool
        Gaussians ``exp(-r^2 / 2 mu^2)`` instead, with widths mu as above.
    crossterms : bool
        Angular functions times the same Gaussian and f of the distance between the two neighbours.
    mode : "weighted" or "elements"
        w_j = Z_j and w_jk = Z_j Z_k; or, for every radial function one feature for each neighbour
        element, for every angular one a feature for each pair of elements (first, first), (first,
        second) .. in the order of `elements`. Pairs of one element count twice, as they do in
        SchNetPack.

    Raises
    ------
    ConfigError
        A cutoff that is too short, a number out of range, an element missing or repeated.
    """

    name = "weighted_symmetry_functions"
    on_gpu = True
    setting_help = {
        "cutoff": "reach of the descriptors (Å)",
        "n_radial": "radial Gaussians",
        "n_angular": "widths of the angular functions",
        "zetas": "exponents of the angular functions",
        "centered": "Gaussians around the atom, instead of shells",
        "crossterms": "angular functions see the distance between the neighbours",
        "mode": '"weighted" by atomic number, or "elements": one set for each',
    }

    def __init__(
        self,
        elements: Sequence[str],
        cutoff: float = 5.0,
        n_radial: int = 22,
        n_angular: int = 5,
        zetas: list[float] = (1.0,),
        centered: bool = False,
        crossterms: bool = False,
        mode: str = "weighted",
    ):
        self.elements = tuple(elements)
        self.cutoff = float(cutoff)
        self.n_radial, self.n_angular = n_radial, n_angular
        self.zetas = [float(zeta) for zeta in zetas]
        self.centered, self.crossterms = bool(centered), bool(crossterms)
        self.mode = mode
        self._check()

    def _check(self):
        check_elements(self.elements)
        for element in self.elements:
            if not atomic_numbers.get(element):
                raise ConfigError(f"elements: {element!r} is no chemical element")
        if not 1.5 <= self.cutoff < math.inf:
            raise ConfigError(f"cutoff = {self.cutoff}: must be at least 1.5 Å")
        for key, least in (("n_radial", 1 if self.centered else 2), ("n_angular", 0)):
            if int(getattr(self, key)) != getattr(self, key) or getattr(self, key) < least:
                raise ConfigError(
                    f"{key} = {getattr(self, key)}: must be a whole number, at least {least}"
                )
        if not all(1 <= zeta < math.inf for zeta in self.zetas):
            raise ConfigError(f"zetas = {self.zetas}: must be at least 1")
        if len(set(self.zetas)) != len(self.zetas):
            raise ConfigError(f"zetas = {self.zetas}: name each once")
        if self.mode not in MODES:
            raise ConfigError(f"mode = {self.mode!r}: choose one of {', '.join(MODES)}")

    @property
    def settings(self) -> dict:
        """Arguments that make an equal descriptor."""
        return settings_of(self)

    @property
    def n_features(self) -> int:
        return len(self.labels)

    @cached_property
    def labels(self) -> list[str]:
        """A name for every feature, in order."""
        return [label for label, _ in self._functions]

    @cached_property
    def _functions(self):
        """(label, what `_program` makes of it) of every feature."""
        weighted = self.mode == "weighted"
        n = len(self.elements)
        radial = [None] if weighted else list(range(n))
        pairs = [None]
        if not weighted:
            pairs = list(itertools.combinations_with_replacement(range(n), 2))
        widths = np.linspace(1.0, self.cutoff - 0.5, self.n_angular)
        functions = []
        for eta, shift in self._gaussians():
            for z in radial:
                name = "" if z is None else f", {self.elements[z]}"
                factor = gaussian(eta, shift, self.cutoff)
                functions.append((f"radial {eta:.4g} {shift:.4g}{name}", (factor, None, z)))
        for mu in widths:
            factor = gaussian(0.5 / mu**2, 0.0, self.cutoff)
            for sign, zeta in itertools.product((-1, 1), self.zetas):
                for pair in pairs:
                    name = "" if pair is None else f", {'-'.join(self.elements[z] for z in pair)}"
                    label = f"angular {0.5 / mu**2:.4g} {sign} {zeta:g}{name}"
                    functions.append((label, (factor, power(sign, zeta), pair)))
        return functions

    def _gaussians(self):
        """(eta, shift) of the radial functions."""
        if self.centered:
            widths = np.linspace(1.0, self.cutoff - 0.5, self.n_radial)
            return [(0.5 / mu**2, 0.0) for mu in widths]
        centres = np.linspace(0.5, self.cutoff - 0.5, self.n_radial)
        return [(0.5 / (centres[1] - centres[0]) ** 2, mu) for mu in centres]

    @cached_property
    def _program(self):
        numbers = [atomic_numbers[element] for element in self.elements]
        program = Program(numbers, self.n_features)
        for s in range(len(numbers)):
            for feature, (_, (factor, angular, which)) in enumerate(self._functions):
                if angular is None:
                    for z, number in enumerate(numbers):
                        if which is None or which == z:
                            weight = number if which is None else 1.0
                            program.add_radial(s, feature, factor, z, weight)
                else:
                    # 2^(1 - zeta) (1 + lambda cos)^zeta is twice the power
                    weight = 4.0 if which is not None and which[0] == which[1] else 2.0
                    program.add_angular(s, feature, angular, factor, self.crossterms, which, weight)
        return program

    def compute(self, atoms) -> np.ndarray:
        """Features of every atom.

        Parameters
        ----------
        atoms : ase.Atoms

        Returns
        -------
        ndarray, shape (n_atoms, n_features), float64

        Raises
        ------
        DataError
            An element that the descriptor does not know, or positions that are not finite.
        """
        return compute_features(self, atoms)

    def forward(self, batch, mean, scale, *, keep=True):
        """As `Descriptor.forward`; keeps nothing, as `SymmetryFunctions`."""
        return self._program.forward(batch, mean, scale, keep)

    def backward(self, batch, d_features, kept, scale):
        """As `Descriptor.backward`."""
        return self._program.backward(batch, d_features, scale)
