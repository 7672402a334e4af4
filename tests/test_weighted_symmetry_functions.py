import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.data import atomic_numbers

from fdforce.descriptors.weighted_symmetry_functions import WeightedSymmetryFunctions
from fdforce.errors import ConfigError, DataError
from tests.checks import (
    ELEMENTS,
    EPS_32,
    check_backward,
    check_forces,
    check_permutation,
    check_rotation_and_translation,
    elements_of,
    every_system,
    networks_and_batch,
    setting_of,
)
from tests.naive.chebyshev import half_cosine, neighbours
from tests.systems import SYSTEMS

SHARED = Path(__file__).parents[1].parent / "shared" / "golden" / "wacsf" / "wacsf.npz"

SMALL = dict(cutoff=4.0, n_radial=4, n_angular=2, zetas=[1, 4])
CASES = {
    "weighted": SMALL,
    "centered": dict(SMALL, centered=True, zetas=[2.5]),
    "crossterms": dict(SMALL, crossterms=True, n_radial=2),
    "elements": dict(SMALL, mode="elements"),
    "elements, crossterms": dict(SMALL, mode="elements", crossterms=True, centered=True),
    "radial": dict(SMALL, n_angular=0),
}
every_case = pytest.mark.parametrize("case", CASES)


def loops(
    atoms, elements, cutoff, n_radial, n_angular, zetas, centered=False, crossterms=False,
    mode="weighted",
):  # fmt: skip
    """Features by loops over neighbours and pairs, in SchNetPack's layout."""
    symbols = atoms.get_chemical_symbols()
    if centered:
        radial = [lambda r, m=m: np.exp(-0.5 * (r / m) ** 2)
                  for m in np.linspace(1, cutoff - 0.5, n_radial)]  # fmt: skip
    else:
        centres = np.linspace(0.5, cutoff - 0.5, n_radial)
        width = centres[1] - centres[0]
        radial = [lambda r, m=m: np.exp(-0.5 * ((r - m) / width) ** 2) for m in centres]
    n = len(elements)
    pairs = list(itertools.combinations_with_replacement(range(n), 2))

    def single(j):
        """Weights of a neighbour in the features of one radial function."""
        z = elements.index(symbols[j])
        return [atomic_numbers[symbols[j]]] if mode == "weighted" else np.eye(n)[z]

    def double(j, k):
        if mode == "weighted":
            return [atomic_numbers[symbols[j]] * atomic_numbers[symbols[k]]]
        a, b = np.eye(n)[elements.index(symbols[j])], np.eye(n)[elements.index(symbols[k])]
        outer = np.outer(a, b)
        return [(outer + outer.T)[pair] for pair in pairs]

    result = []
    for i in range(len(atoms)):
        near = neighbours(atoms, i, cutoff)
        row = []
        for g in radial:
            total = np.zeros(1 if mode == "weighted" else n)
            for j, _, d in near:
                r = np.linalg.norm(d)
                total += np.multiply(single(j), g(r) * half_cosine(r, cutoff))
            row.extend(total)
        for mu in np.linspace(1, cutoff - 0.5, n_angular):
            for sign, zeta in itertools.product((-1, 1), zetas):
                total = np.zeros(1 if mode == "weighted" else len(pairs))
                for (j, _, dj), (k, _, dk) in itertools.combinations(near, 2):
                    rj, rk, rjk = (np.linalg.norm(d) for d in (dj, dk, dj - dk))
                    term = half_cosine(rj, cutoff) * half_cosine(rk, cutoff)
                    square = rj**2 + rk**2
                    if crossterms:
                        term *= half_cosine(rjk, cutoff)
                        square += rjk**2
                    base = max((1 + sign * (dj @ dk) / (rj * rk)) / 2, 0.0)
                    term *= 2 * base**zeta * np.exp(-0.5 * square / mu**2)
                    total += np.multiply(double(j, k), term)
                row.extend(total)
        result.append(row)
    return np.array(result)


def setting(system, case):
    return setting_of(lambda elements: WeightedSymmetryFunctions(elements, **CASES[case]), system)


def worst(features, expected):
    """Largest error relative to the size of a feature, which is a sum of terms of one sign."""
    return np.max(np.abs(features - expected) / (1e-2 + np.abs(expected)), initial=0.0)


@every_case
@every_system
def test_features_are_those_of_the_loops(system, case):
    atoms = SYSTEMS[system]()
    elements = elements_of(atoms)
    descriptor = WeightedSymmetryFunctions(elements, **CASES[case])
    expected = loops(atoms, elements, **CASES[case])
    features = descriptor.compute(atoms)
    assert features.dtype == np.float64
    assert expected.shape[1] == descriptor.n_features == len(descriptor.labels)
    # densities: the difference of (sum_j Z_j f)^2 and sum_j (Z_j f)^2
    assert worst(features, expected) < 1e-10


SCHNETPACK = {
    "w_default": {},
    "w_centered_cross": dict(
        cutoff=4.0, n_radial=6, n_angular=4, zetas=[1, 4], centered=True, crossterms=True
    ),
    "behler": dict(cutoff=4.0, n_radial=6, n_angular=3, zetas=[1, 2], mode="elements"),
}


@pytest.mark.parametrize("molecule", ["CH3CH2OH", "NH3", "HCN"])
@pytest.mark.parametrize("case", SCHNETPACK)
def test_features_are_those_of_schnetpack(case, molecule):
    if not SHARED.is_file():
        pytest.skip("../shared is absent")
    golden = np.load(SHARED)
    atoms = Atoms(golden[f"{molecule}_disp_Z"], golden[f"{molecule}_disp_pos"])
    descriptor = WeightedSymmetryFunctions(["H", "C", "N", "O", "F"], **SCHNETPACK[case])
    expected = golden[f"{case}_{molecule}_disp"]
    features = descriptor.compute(atoms)
    assert features.shape == expected.shape
    assert np.max(np.abs(features - expected) / (1e-3 + np.abs(expected))) < 1e-11


@every_case
@every_system
def test_backward_is_the_complex_step_of_forward(system, case):
    slopes, _ = check_backward(
        *setting(system, case), lambda back, forth: 1e-12 * (1 + np.abs(back).sum())
    )
    assert (slopes > 1e-3).all() or system in ("single_atom", "atom_on_cutoff")


@pytest.mark.parametrize("case", ["weighted", "crossterms"])
def test_float32(case):
    descriptor, batch, mean, scale = setting("three_species", case)
    results = []
    for dtype in (np.float32, np.float64):
        mean, scale = mean.astype(np.float32).astype(dtype), scale.astype(np.float32).astype(dtype)
        features, kept = descriptor.forward(batch, mean, scale)
        assert features.dtype == dtype
        d_features = np.ones_like(features)
        results.append((features, *descriptor.backward(batch, d_features, kept, scale)))
    for single, double in zip(*results):
        assert np.abs(single - double).max() < 100 * EPS_32 * np.abs(double).max()


@pytest.mark.parametrize("case", ["weighted", "elements"])
@pytest.mark.parametrize("system", ["molecule", "thin_triclinic", "slab"])
def test_rotation_and_translation(system, case):
    atoms = SYSTEMS[system]()
    descriptor = WeightedSymmetryFunctions(elements_of(atoms), **CASES[case])
    check_rotation_and_translation(descriptor, atoms, worst, 1e-10)


@pytest.mark.parametrize("case", ["weighted", "elements"])
@pytest.mark.parametrize("system", ["molecule", "left_handed", "slab"])
def test_permutation_of_atoms(system, case):
    atoms = SYSTEMS[system]()
    descriptor = WeightedSymmetryFunctions(elements_of(atoms), **CASES[case])
    check_permutation(descriptor, atoms, worst, 1e-10)


def test_forces_are_the_slopes_of_the_energy():
    frames = [SYSTEMS[name]() for name in ("left_handed", "two_species", "single_atom", "dimer")]
    descriptor = WeightedSymmetryFunctions(ELEMENTS, **SMALL)
    check_forces(*networks_and_batch(descriptor, (6, 5), frames), rel=1e-11)


def test_atoms_of_any_number_of_elements_have_equally_many_features():
    assert WeightedSymmetryFunctions(["H"]).n_features == 22 + 2 * 5
    assert WeightedSymmetryFunctions(["H", "C", "N", "O"]).n_features == 22 + 2 * 5
    one = WeightedSymmetryFunctions(["H", "O"], 4.0, 2, 1, [1, 2], mode="elements")
    assert one.labels == [
        "radial 0.05556 0.5, H", "radial 0.05556 0.5, O",
        "radial 0.05556 3.5, H", "radial 0.05556 3.5, O",
        "angular 0.5 -1 1, H-H", "angular 0.5 -1 1, H-O", "angular 0.5 -1 1, O-O",
        "angular 0.5 -1 2, H-H", "angular 0.5 -1 2, H-O", "angular 0.5 -1 2, O-O",
        "angular 0.5 1 1, H-H", "angular 0.5 1 1, H-O", "angular 0.5 1 1, O-O",
        "angular 0.5 1 2, H-H", "angular 0.5 1 2, H-O", "angular 0.5 1 2, O-O",
    ]  # fmt: skip
    assert one.n_features == 16


@every_case
def test_settings_make_an_equal_descriptor(case):
    descriptor = WeightedSymmetryFunctions(["Ti", "O"], **CASES[case])
    settings = json.loads(json.dumps(descriptor.settings))
    assert set(settings) == {"elements", *descriptor.setting_help}
    again = WeightedSymmetryFunctions(**settings)
    assert again.settings == descriptor.settings
    assert again.labels == descriptor.labels


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(elements=[]), r"elements = \[\]: name every element once"),
        (dict(elements=["O", "O"]), r"elements = \['O', 'O'\]: name every element once"),
        (dict(elements=["Qq"]), r"'Qq' is no chemical element"),
        (dict(cutoff=1.0), r"cutoff = 1.0: must be at least 1.5 Å"),
        (dict(n_radial=1), r"n_radial = 1: must be a whole number, at least 2"),
        (dict(n_angular=-1), r"n_angular = -1: must be a whole number, at least 0"),
        (dict(zetas=[0.5]), r"zetas = \[0.5\]: must be at least 1"),
        (dict(zetas=[1, 1]), r"zetas = \[1.0, 1.0\]: name each once"),
        (dict(mode="none"), r"mode = 'none': choose one of weighted, elements"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        WeightedSymmetryFunctions(**{"elements": ["Ti", "O"], **options})


def test_unknown_element_is_refused():
    with pytest.raises(DataError, match="Cu"):
        WeightedSymmetryFunctions(["Ti", "O"]).compute(SYSTEMS["bulk"]())
