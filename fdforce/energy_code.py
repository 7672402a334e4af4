"""An energy code from outside fdforce, as the tools on plain callables see it.

`EnergyCode` is what an adapter makes of PyTorch, LAMMPS or a C library for one structure, and what
``fdforce epsilon MODULE:FUNCTION`` expects of a user's own function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class EnergyCode:
    """Energy, forces and parameter gradient of one structure, as functions of its positions.

    Species, and whatever else the code needs to know, are bound into the callables.

    Attributes
    ----------
    energy_and_forces : callable
        ``f(positions) -> (energy, forces)`` or ``(energy, forces, stress)``; eV, eV/Å, eV/Å^3
        (ASE's sign), forces of shape (n_atoms, 3). For periodic structures ``f(positions, cell)``
        with lattice vectors in rows.
    energy_gradient : callable
        Same arguments; ``(energy, gradient)`` or the gradient alone. The gradient is dE/dtheta as
        an array, or a list or dict of arrays.
    parameters : array, or list or dict of arrays, optional
        theta, in the layout of the gradient: the very arrays that the code reads on every call, so
        that a change in place changes its energies. With them dE/dtheta can be checked.
    true_gradient : callable, optional
        ``f(positions, direction)``, for periodic structures ``f(positions, cell, direction,
        strain)``: the exact ``sum_i direction_i . df_i/dtheta``, plus ``sum_ab strain_ab
        dW_ab/dtheta`` (W the virial -dE/ds; strain may be None), in the layout of the gradient.
        Only to judge the finite difference.
    """

    energy_and_forces: Callable
    energy_gradient: Callable
    parameters: Any = None
    true_gradient: Callable | None = None
