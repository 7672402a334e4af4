"""An energy code from outside fdforce, as the tools on plain callables see it.

`EnergyCode` is what an adapter makes of PyTorch, LAMMPS or a C library for one structure, and what
``fdforce epsilon MODULE:FUNCTION`` expects of a user's own function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fdforce.errors import CodeError


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
        theta, in the layout of the gradient: the very NumPy arrays that the code reads on every
        call, so that a change in place changes its energies. With them dE/dtheta can be checked.
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


def read_forces(result, shape) -> tuple:
    """Energy, forces and stress of what ``energy_and_forces`` returned.

    Parameters
    ----------
    result : tuple
    shape : tuple
        Of the positions, (n_atoms, 3).

    Returns
    -------
    energy : float or None
    forces : ndarray, shape (n_atoms, 3)
    stress : ndarray, shape (3, 3), or None

    Raises
    ------
    CodeError
        The result has other parts or shapes, or holds numbers that are not finite.
    """
    if not isinstance(result, tuple) or len(result) not in (2, 3):
        raise CodeError(
            "energy_and_forces must return the tuple (energy, forces) or "
            f"(energy, forces, stress), not {_describe(result)}"
        )
    energy = None if result[0] is None else _energy(result[0], "energy_and_forces")
    forces = _array(result[1], "energy_and_forces", "forces")
    if forces.shape != tuple(shape):
        raise CodeError(
            f"energy_and_forces returned forces of shape {forces.shape} for positions of "
            f"shape {tuple(shape)}"
        )
    forces = _finite(forces, "energy_and_forces", "forces").astype(np.float64, copy=False)
    stress = None
    if len(result) == 3 and result[2] is not None:
        stress = _array(result[2], "energy_and_forces", "a stress")
        stress = full_stress(_finite(stress, "energy_and_forces", "a stress"))
    return energy, forces, stress


def read_gradient(result) -> tuple:
    """Energy (None where absent) and gradient of what ``energy_gradient`` returned.

    Raises
    ------
    CodeError
        A tuple other than (energy, gradient), or numbers that are not finite.
    """
    energy = None
    if isinstance(result, tuple):
        if len(result) != 2 or not _is_number(result[0]):
            raise CodeError(
                f"energy_gradient returned {_describe(result)}; return dE/dtheta as an array, or a "
                "list or dict of arrays, or the 2-tuple (energy, dE/dtheta)"
            )
        energy, result = result
        energy = None if energy is None else _energy(energy, "energy_gradient")
    if isinstance(result, tuple):
        raise CodeError(
            f"energy_gradient returned dE/dtheta as {_describe(result)}; make it a list or a dict"
        )
    return energy, _gradient(result)


def _is_number(value) -> bool:
    """None, or anything that NumPy reads as one number."""
    if value is None:
        return True
    try:
        return np.asarray(value).size == 1
    except Exception:
        return False


def layout(gradient) -> str:
    """Shapes of an array, or of a list or dict of arrays, for messages and comparisons."""
    if isinstance(gradient, dict):
        return "{" + ", ".join(f"{key}: {layout(value)}" for key, value in gradient.items()) + "}"
    if isinstance(gradient, list):
        return "[" + ", ".join(layout(value) for value in gradient) + "]"
    return str(tuple(np.shape(gradient)))


def is_single(gradient) -> bool:
    """Whether any array of a gradient is float32 or coarser."""
    if isinstance(gradient, dict):
        gradient = list(gradient.values())
    if isinstance(gradient, list):
        return any(is_single(value) for value in gradient)
    return np.asarray(gradient).dtype in (np.float32, np.float16, np.complex64)


def flat(value) -> np.ndarray:
    """All numbers of an array, or of a list or dict of arrays, as one float64 vector."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return np.concatenate([flat(item) for item in value]) if value else np.zeros(0)
    return np.ravel(np.asarray(value, dtype=np.float64))


def in_order_of(container, gradient):
    """The gradient with the keys of its dicts in the order of the container's."""
    if (
        isinstance(gradient, dict)
        and isinstance(container, dict)
        and set(gradient) == set(container)
    ):
        return {key: in_order_of(value, gradient[key]) for key, value in container.items()}
    return gradient


def full_stress(stress):
    """3x3 tensor of a stress given as such or in ASE's Voigt order xx yy zz yz xz xy."""
    stress = np.asarray(stress, dtype=np.float64)
    if stress.shape == (6,):
        return stress[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]]
    if stress.shape != (3, 3):
        raise CodeError(f"stress has shape {stress.shape}; expected (3, 3) or (6,)")
    return 0.5 * (stress + stress.T)


def _gradient(value, name="dE/dtheta"):
    if isinstance(value, dict):
        return {key: _gradient(item, f"{name}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list):
        return [_gradient(item, f"{name}[{k}]") for k, item in enumerate(value)]
    return _finite(_array(value, "energy_gradient", name), "energy_gradient", name)


def _energy(value, function):
    energy = _array(value, function, "an energy")
    if energy.size != 1:
        raise CodeError(
            f"{function} returned an energy of shape {energy.shape}; return the total energy of "
            "the structure, one number"
        )
    return _finite(energy, function, "an energy").reshape(())[()]


def _array(value, function, name):
    try:
        array = np.array(value)  # a copy: codes reuse their buffers
    except Exception as problem:
        raise CodeError(
            f"{function} returned {name} that NumPy cannot read as an array "
            f"({type(value).__name__}: {problem})"
        ) from problem
    if array.dtype.kind not in "biufc":
        raise CodeError(f"{function} returned {name} of type {_describe(value)}; expected numbers")
    return array


def _finite(array, function, name):
    finite = np.isfinite(array)
    if finite.all():
        return array
    first = tuple(int(i) for i in np.argwhere(~np.atleast_1d(finite))[0])
    where = f", first at {list(first)}" if array.ndim else ""
    raise CodeError(
        f"{function} returned {name} with {np.count_nonzero(~finite)} of {array.size} numbers not "
        f"finite (NaN or infinity{where}): atoms on top of each other, a root or logarithm out of "
        "range, or parameters that have diverged"
    )


def _describe(value):
    if isinstance(value, tuple):
        return f"a tuple of {len(value)} ({', '.join(type(item).__name__ for item in value)})"
    return type(value).__name__
