"""Chebyshev descriptors whose settings differ between the central elements, as in ænet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial

import numpy as np

from fdforce.descriptors.chebyshev import Chebyshev
from fdforce.descriptors.features import (
    Tables,
    check_elements,
    compute_features,
    plain_standardisation,
    settings_of,
)
from fdforce.errors import ConfigError

NUMBERS = {
    "radial_cutoff": float,
    "radial_order": int,
    "angular_cutoff": float,
    "angular_order": int,
}


class ElementalChebyshev:
    """`Chebyshev` with cutoffs, orders and spins for every central element.

    A line of ``setups`` names a central element and its settings, for instance
    ``Ti radial_cutoff=6.5 radial_order=20 angular_cutoff=5 angular_order=6 environment=Ti,O``.
    ``environment`` is the order in which the elements get their spins (ænet's ``ENV``), that of
    `elements` where it is left out; the others have the defaults of `Chebyshev`.

    Elements may have different numbers of features: atoms with fewer have features that are zero
    at the end. A label names what a feature is for every element, "none" where it is such a zero.

    Parameters
    ----------
    elements : sequence of str
    setups : sequence of str
        A line for every element; none for the defaults.

    Raises
    ------
    ConfigError
        A line that cannot be read, an element without a line or with two, a setting out of range.
    """

    name = "elemental_chebyshev"
    on_gpu = True
    setting_help = {
        "setups": "a line for each central element: El radial_cutoff= radial_order= "
        "angular_cutoff= angular_order= environment=; [] = the defaults of chebyshev",
    }

    def __init__(self, elements: Sequence[str], setups: list[str] = ()):
        self.elements = tuple(elements)
        check_elements(self.elements)
        found = {}
        for line in setups or self.elements:
            element, descriptor = self._read(line)
            if element in found:
                raise ConfigError(f"setups: {element} has two lines")
            found[element] = descriptor
        missing = [element for element in self.elements if element not in found]
        if missing:
            raise ConfigError(f"setups: no line begins with {missing[0]}")
        self.descriptors = [found[element] for element in self.elements]

    @classmethod
    def of(cls, elements: Sequence[str], settings: dict[str, dict]) -> ElementalChebyshev:
        """From a table of settings by element: the numbers, and ``environment``, a list."""
        return cls(elements, [_line(element, table) for element, table in settings.items()])

    def _read(self, line):
        element, *words = line.split() or [""]
        if element not in self.elements:
            raise ConfigError(
                f"setups: {line!r} begins with none of the elements {', '.join(self.elements)}"
            )
        numbers, environment = {}, self.elements
        for word in words:
            name, _, value = word.partition("=")
            if name == "environment":
                environment = tuple(value.split(","))
                continue
            try:
                numbers[name] = NUMBERS[name](value)
            except (KeyError, ValueError):
                raise ConfigError(
                    f"setups: {line!r}: {word!r}, expected a number for one of "
                    f"{', '.join(NUMBERS)}, or environment=El,El"
                ) from None
        if sorted(environment) != sorted(self.elements):
            raise ConfigError(
                f"setups: {line!r}: environment must name each of {', '.join(self.elements)} once"
            )
        return element, _Around(self.elements, environment, **numbers)

    @property
    def setups(self) -> list[str]:
        """A line for every element, every setting spelt out."""
        pairs = zip(self.elements, self.descriptors)
        return [_line(element, vars(descriptor)) for element, descriptor in pairs]

    @property
    def settings(self) -> dict:
        """Arguments that make an equal descriptor."""
        return settings_of(self)

    @property
    def cutoff(self) -> float:
        """Largest distance at which a neighbour counts, Å."""
        return max(descriptor.cutoff for descriptor in self.descriptors)

    @property
    def n_features(self) -> int:
        return max(descriptor.n_features for descriptor in self.descriptors)

    @property
    def n_computed(self) -> int:
        """Features of all elements: on the way, every atom has a row for each."""
        return sum(descriptor.n_features for descriptor in self.descriptors)

    @property
    def labels(self) -> list[str]:
        """A name for every feature, in order."""
        labels = []
        for k in range(self.n_features):
            names = [(d.labels + ["none"] * self.n_features)[k] for d in self.descriptors]
            pairs = zip(self.elements, names)
            together = "; ".join(f"{element}: {name}" for element, name in pairs)
            labels.append(names[0] if len(set(names)) == 1 else together)
        return labels

    def compute(self, atoms) -> np.ndarray:
        """Features of every atom, shape (n_atoms, n_features); see `compute_features`."""
        return compute_features(self, atoms)

    def forward(self, batch, mean, scale, *, keep=True):
        """Standardised features and what `backward` needs; see `Descriptor`."""
        device, features, kept = batch.device, None, []
        kernels = device.kernels("elemental")
        for z, descriptor in enumerate(self.descriptors):
            own, tables = _around(batch, z), descriptor.plain.on(device, mean.dtype)
            plain, densities = descriptor.forward(own, tables["zero"], tables["one"], keep=keep)
            if features is None:
                features = device.empty((batch.n_atoms, self.n_features), plain.dtype)
            kernels.elemental_forward(plain, z, batch.species_start, mean, scale, features)
            kept.append((own, densities))
        return features, kept if keep else ()

    def backward(self, batch, d_features, kept, scale):
        """Derivatives with respect to positions and strain; see `Descriptor`."""
        device, dtype = batch.device, d_features.dtype
        kernels = device.kernels("elemental")
        slopes = device.slopes(batch, dtype, len(kept))
        for z, (descriptor, (own, densities)) in enumerate(zip(self.descriptors, kept)):
            d_plain = device.empty((batch.n_atoms, descriptor.n_features), dtype)
            kernels.elemental_backward(d_features, z, scale, d_plain)
            one = descriptor.plain.on(device, dtype)["one"]
            descriptor._add_slopes(own, d_plain, densities, one, slopes.parts[z])
        return slopes.totals()


def _line(element, table):
    words = [f"{name}={table[name]!r}" for name in NUMBERS]
    return " ".join([element, *words, f"environment={','.join(table['environment'])}"])


class _Around(Chebyshev):
    """`Chebyshev` with the spins in another order than the elements."""

    def __init__(self, elements, environment, **numbers):
        super().__init__(elements, **numbers)
        self.environment = environment

    @cached_property
    def spins(self) -> np.ndarray:
        order = [self.environment.index(element) for element in self.elements]
        return super().spins[order]

    @cached_property
    def plain(self) -> Tables:
        """Mean and scale with which the features are what they are."""
        return Tables(partial(plain_standardisation, self))


def _around(batch, z):
    """The batch without the neighbours of atoms that are not of species z."""
    row_end = batch.device.empty(len(batch.row_end), np.int64)
    batch.device.kernels("elemental").rows_around(
        batch.species, batch.row_begin, batch.row_end, z, row_end
    )
    return replace(batch, row_end=row_end)
