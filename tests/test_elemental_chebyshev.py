"""Chebyshev descriptors with settings of their own for every element."""

import numpy as np
import pytest
from ase import Atoms

from fdforce.descriptors import Chebyshev, ElementalChebyshev
from fdforce.errors import ConfigError
from fdforce.models import ElementalNetworks
from tests.checks import batch_of, check_forces
from tests.naive.chebyshev import atom_features

SETUPS = [
    "O radial_cutoff=3.5 radial_order=3 angular_cutoff=2.5 angular_order=2 environment=O,H,C",
    "H radial_cutoff=3.0 radial_order=2 angular_cutoff=3.0 angular_order=1",
    "C radial_cutoff=4 radial_order=1 angular_cutoff=3.2 angular_order=3 environment=C,H,O",
]
ATOMS = Atoms(
    "CHOHOC",
    [[0, 0, 0], [1.1, 0, 0.1], [0.2, 1.3, 0.4], [2.0, 1.9, 0.3], [2.8, 0.9, 1.9], [0.6, 2.9, 2.2]],
    cell=[[3.9, 0.3, 0], [0.2, 4.2, 0.1], [0, 0.4, 4.4]],
    pbc=True,
)


def test_every_atom_has_the_features_of_its_setup():
    descriptor = ElementalChebyshev(["H", "C", "O"], SETUPS)
    assert descriptor.n_features == 14
    assert descriptor.cutoff == 4
    found = descriptor.compute(ATOMS)
    settings = {
        "O": ("OHC", 3.5, 3, 2.5, 2), "H": ("HCO", 3.0, 2, 3.0, 1), "C": ("CHO", 4, 1, 3.2, 3),
    }  # fmt: skip
    for i, symbol in enumerate(ATOMS.get_chemical_symbols()):
        expected = atom_features(ATOMS, i, *settings[symbol])
        # sums of up to 60 pairs
        assert found[i, : len(expected)] == pytest.approx(expected, rel=0, abs=1e-11)
        assert not found[i, len(expected) :].any()
    assert descriptor.labels[0] == "radial 0"
    assert descriptor.labels[-1] == "H: none; C: none; O: angular 2, spin"


def test_settings_make_it_again():
    descriptor = ElementalChebyshev(["H", "C", "O"], SETUPS)
    again = ElementalChebyshev(**descriptor.settings)
    assert again.settings == descriptor.settings
    plain = ElementalChebyshev(["H", "C", "O"])
    expected = Chebyshev(["H", "C", "O"]).compute(ATOMS)
    assert np.array_equal(plain.compute(ATOMS), expected)


def test_forces_and_virial_are_slopes_of_the_energy():
    model = ElementalNetworks(ElementalChebyshev(["H", "C", "O"], SETUPS), [4], "tanh")
    rng = np.random.default_rng(1)
    model.feature_mean = rng.normal(size=model.feature_mean.shape)
    batch = batch_of([ATOMS, ATOMS[[3, 1, 4, 0]]], model.elements, model.cutoff, n_chunks=2)
    check_forces(model, batch, rel=1e-11)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (SETUPS[:2], "no line begins with C"),
        ([*SETUPS, SETUPS[0]], "O has two lines"),
        (["N radial_order=3"], "begins with none of the elements H, C, O"),
        (["H radial_order=3.5"], "'radial_order=3.5', expected a number"),
        (["H order=3"], "'order=3', expected a number for one of radial_cutoff"),
        (["H environment=H,C"], "environment must name each of H, C, O once"),
        (["H radial_cutoff=0"], "radial_cutoff = 0.0: must be above 0"),
    ],
)
def test_bad_setups_are_refused(lines, message):
    with pytest.raises(ConfigError, match=message):
        ElementalChebyshev(["H", "C", "O"], lines)
