import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from fdforce.errors import ConfigError
from fdforce.reference_energies import reference_energies
from fdforce.structures import read_structures

EXACT = {"O": -431.7, "Ti": -1604.2}


def chain(symbols, energy=None):
    atoms = Atoms(symbols, [[2.0 * k, 0, 0] for k in range(len(Atoms(symbols)))])
    if energy is not None:
        atoms.calc = SinglePointCalculator(atoms, energy=energy)
    return atoms


def packed(*entries):
    return read_structures([chain(*entry) for entry in entries])[0]


def additive(symbols):
    return symbols, sum(EXACT[s] for s in Atoms(symbols).symbols)


def test_fit_recovers_additive_energies():
    structures = packed(additive("TiO2"), additive("Ti2O3"), additive("TiO"), ("Ti3O",))
    assert structures.elements == ("O", "Ti")
    # Condition number below 10, energies of 1e4 eV: 1e-8 is a thousand times the round-off.
    assert reference_energies(structures, "fit") == pytest.approx([-431.7, -1604.2], abs=1e-8)


def test_fit_is_a_least_squares_solution_of_the_totals():
    structures = packed(("Ti", 1.0), ("Ti2", 2.6), ("Ti3", 3.0))
    assert reference_energies(structures, "fit") == pytest.approx([(1 + 5.2 + 9.0) / 14], rel=1e-12)


def test_weights_are_ignored():
    frames = [chain("Ti", 1.0), chain("Ti", 2.0)]
    frames[0].info["weight"] = 100.0
    assert reference_energies(read_structures(frames)[0], "fit") == pytest.approx([1.5], rel=1e-12)


def test_one_stoichiometry_gives_every_element_the_mean_per_atom():
    structures = packed(("TiO2", -30.0), ("Ti2O4", -60.0))
    assert reference_energies(structures, "fit") == pytest.approx([-10.0, -10.0], rel=1e-12)


def test_undetermined_combination_does_not_spoil_the_fit():
    # Ti against O is open; the total per formula unit is not.
    structures = packed(("TiO2", -30.0), ("Ti2O4", -61.0), ("Cu", -5.0), ("Cu2", -10.0))
    energies = dict(zip(structures.elements, reference_energies(structures, "fit"), strict=True))
    assert energies["Cu"] == pytest.approx(-5.0, rel=1e-12)
    per_formula = (1 * -30.0 + 2 * -61.0) / 5
    assert energies["Ti"] + 2 * energies["O"] == pytest.approx(per_formula, rel=1e-12)
    assert max(abs(e) for e in energies.values()) < 20.0


def test_no_energies_give_zeros():
    assert reference_energies(packed(("TiO2",)), "fit").tolist() == [0.0, 0.0]


def test_isolated_atoms_and_tables_follow_the_order_of_elements():
    structures = read_structures(chain("TiO2"), elements=["Ti", "O"])[0]
    table = {"O": -1.0, "Ti": -2.0, "H": -3.0}
    assert reference_energies(structures, "isolated", table).tolist() == [-2.0, -1.0]
    assert reference_energies(structures, table).tolist() == [-2.0, -1.0]


def test_missing_elements_are_named():
    structures = packed(("TiO2",))
    with pytest.raises(ConfigError, match=r"no isolated atom .* of Ti; add it or use 'fit'"):
        reference_energies(structures, "isolated", {"O": -1.0})
    with pytest.raises(ConfigError, match=r"table data\.reference_energies has no O; add it"):
        reference_energies(structures, {"Ti": -1.0})
    with pytest.raises(ConfigError, match=r"data\.reference_energies: Ti is nan"):
        reference_energies(structures, {"Ti": np.nan, "O": 0.0})
    with pytest.raises(ConfigError, match="is 'atoms'; choose 'fit', 'isolated' or a table"):
        reference_energies(structures, "atoms")
