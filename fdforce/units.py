"""The units of fdforce, said once, and the constants that lead to them.

Lengths are in Å, energies in eV, forces in eV/Å, stresses in eV/Å^3 with the sign that ASE uses
(the derivative of the energy by the strain, divided by the volume: positive under tension).
Masses, where needed at all, are in atomic mass units. No other unit occurs in an array; a name
carries a unit only where it differs from these (``time_fs``).

The values are those of CODATA 2018. Multiply by a constant to enter fdforce's units, divide to
leave them: ``energy_hartree * HARTREE`` is in eV.
"""

BOHR = 0.529177210903
"""Å in a bohr."""

HARTREE = 27.211386245988
"""eV in a hartree."""

KCAL_PER_MOL = 4184.0 / (6.02214076e23 * 1.602176634e-19)
"""eV in a kcal/mol (thermochemical calorie)."""

GPA = 1.0 / 160.2176634
"""eV/Å^3 in a gigapascal."""

COULOMB = HARTREE * BOHR
"""e^2 / (4 pi eps0) in eV Å, 14.399645: the energy of two unit charges 1 Å apart."""

BOLTZMANN = 8.617333262e-5
"""eV in a kelvin."""

GRAM_PER_CM3 = 1.66053906660
"""g/cm^3 in an atomic mass unit per Å^3."""
