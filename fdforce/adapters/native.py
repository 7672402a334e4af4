"""Energies of C, Fortran and other compiled codes, in a shared library loaded by ctypes.

The library exports the three functions that ``docs/adapters/examples/fdforce_native.h`` describes;
``morse.c`` and ``morse.f90`` beside it are complete examples (docs/adapters/native.md).
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

from fdforce.energy_code import EnergyCode
from fdforce.errors import CodeError, FdforceError

_N = ctypes.c_int64
_INTEGERS = np.ctypeslib.ndpointer(np.int64, flags="C_CONTIGUOUS")
_DOUBLES = np.ctypeslib.ndpointer(np.float64, flags="C_CONTIGUOUS")
_STRUCTURE = [_N, _INTEGERS, _DOUBLES, _DOUBLES, _INTEGERS, _N, _DOUBLES]

SIGNATURES = {
    "fdforce_parameters": [ctypes.POINTER(_N), _DOUBLES],
    "fdforce_energy_and_forces": [*_STRUCTURE, _DOUBLES, _DOUBLES, _DOUBLES],
    "fdforce_energy_gradient": [*_STRUCTURE, _DOUBLES, _DOUBLES],
}
"""Name -> argument types of the functions that a library exports; each returns an int."""


class NativeCode:
    """An energy code compiled to a shared library.

    A library stays loaded until Python ends: one that was compiled anew needs a new process.

    Parameters
    ----------
    path : str or Path
        The library, for instance ``"./libmorse.so"``. The linker's search path is not used.

    Attributes
    ----------
    path : Path

    Raises
    ------
    FdforceError
        The file is missing or no library, lacks one of the three functions, or offers no
        parameters.

    Examples
    --------
    >>> code = NativeCode("./libmorse.so")  # doctest: +SKIP
    >>> of_water = code.energy_code(ase.build.molecule("H2O"))  # doctest: +SKIP
    >>> code.theta *= 1.1  # counts for all structures at once  # doctest: +SKIP
    """

    def __init__(self, path):
        self.path = Path(path)
        self._functions = _load(self.path)
        self._theta = self._initial_parameters()

    @property
    def theta(self) -> np.ndarray:
        """Parameters, shape (P,), passed on each call; a change in place counts.

        To assign is to copy into this array.
        """
        return self._theta

    @theta.setter
    def theta(self, values):
        values = np.asarray(values, dtype=np.float64)
        if values.shape != self._theta.shape:
            raise FdforceError(
                f"theta of shape {values.shape} was given to {self.path}, which has "
                f"{len(self._theta)} parameters: give an array of shape {self._theta.shape}"
            )
        self._theta[:] = values

    def energy_code(self, atoms) -> EnergyCode:
        """Energy, forces and parameter gradient of one structure.

        Parameters
        ----------
        atoms : ase.Atoms
            Gives species and periodicity, and the cell where the callables are called without.

        Returns
        -------
        EnergyCode
            Its callables take ``(positions)`` or ``(positions, cell)``, Å, positions of shape
            (n_atoms, 3) and lattice vectors in rows. ``energy_and_forces`` returns a stress where
            the library gives one. ``energy_gradient`` returns ``(energy, dE/dtheta)`` with
            dE/dtheta of shape (P,). ``parameters`` is `theta` itself.

        Raises
        ------
        CodeError
            The callables raise it where positions or cell do not fit the structure, the library
            returns anything but 0, or an output is not finite.
        """
        formula = atoms.get_chemical_formula()
        numbers = np.array(atoms.numbers, dtype=np.int64)
        periodic = np.array(atoms.pbc, dtype=np.int64)
        own_cell = np.array(atoms.cell) if periodic.any() else np.zeros((3, 3))

        def call(name, positions, cell, **outputs):
            cell = own_cell if cell is None else cell
            self._call(
                name, formula,
                len(numbers), numbers, self._doubles(positions, "positions", (len(numbers), 3)),
                self._doubles(cell, "a cell", (3, 3)), periodic, len(self._theta), self._theta,
                *outputs.values(),
            )  # fmt: skip
            for what, values in outputs.items():
                if what != "stress" or not np.isnan(values).all():
                    self._check_finite(name, formula, what, values)

        def energy_and_forces(positions, cell=None):
            energy, forces, stress = _unset(1), _unset(len(numbers), 3), _unset(3, 3)
            call(
                "fdforce_energy_and_forces", positions, cell,
                energy=energy, forces=forces, stress=stress,
            )  # fmt: skip
            if np.isnan(stress).all():
                return energy[0], forces
            return energy[0], forces, stress

        def energy_gradient(positions, cell=None):
            energy, gradient = _unset(1), _unset(len(self._theta))
            call("fdforce_energy_gradient", positions, cell, energy=energy, d_theta=gradient)
            return energy[0], gradient

        return EnergyCode(energy_and_forces, energy_gradient, parameters=self._theta)

    def _initial_parameters(self):
        name = "fdforce_parameters"
        count = _N(0)
        self._call(name, None, count, _unset(0))
        if count.value <= 0:
            raise FdforceError(
                f"{self.path}: {name} set n_parameters to {count.value}; it has to be the number "
                "of parameters, 1 at least"
            )
        theta = _unset(count.value)
        self._call(name, None, count, theta)
        self._check_finite(name, None, "theta", theta)
        return theta

    def _call(self, name, formula, *arguments):
        status = self._functions[name](*arguments)
        if status != 0:
            of = "" if formula is None else f" for {formula}"
            raise CodeError(
                f"{self.path}: {name} returned {status}{of}, where 0 is success: the source of the "
                f"library says what {status} means"
            )

    def _doubles(self, values, name, shape):
        if np.iscomplexobj(values):
            raise CodeError(
                f"{self.path} takes real numbers, but {name} were given as complex ones: the "
                'stencil "complex" is not for compiled codes'
            )
        values = np.ascontiguousarray(values, dtype=np.float64)
        if values.shape != shape:
            raise CodeError(
                f"{name} of shape {values.shape} were given to {self.path} for a structure that "
                f"takes shape {shape}"
            )
        return values

    def _check_finite(self, name, formula, what, values):
        wrong = np.argwhere(~np.isfinite(values))
        if len(wrong) == 0:
            return
        of = "" if formula is None else f" for {formula}"
        if what != "theta" and not np.isfinite(self._theta).all():
            hint = "theta is not finite either"
        else:
            hint = (
                "outputs hold NaN before the call, so either these were not assigned to, or the "
                "arithmetic failed"
            )
        first = ", ".join(str(k) for k in wrong[0])
        raise CodeError(
            f"{self.path}: {name} left {len(wrong)} of {values.size} values of {what} not "
            f"finite{of} ({what}[{first}] = {values[tuple(wrong[0])]}): {hint}"
        )


def _load(path: Path) -> dict:
    if not path.is_file():
        raise FdforceError(f"there is no library {path}: compile it first, or give its full path")
    try:
        library = ctypes.CDLL(str(path.resolve()))
    except OSError as problem:
        raise FdforceError(
            f"{path} cannot be loaded as a shared library: {problem}. Compile with -shared -fPIC "
            "and name at the end of that line the libraries it needs, such as -lm"
        ) from problem
    functions = {}
    for name, types in SIGNATURES.items():
        if not hasattr(library, name):
            raise FdforceError(
                f"{path} has no function {name}; it needs {', '.join(SIGNATURES)}, under these "
                'names: extern "C" in C++, bind(c) in Fortran'
            )
        functions[name] = getattr(library, name)
        functions[name].argtypes = types
        functions[name].restype = ctypes.c_int
    return functions


def _unset(*shape):
    """An output before the call: what a library leaves out stays NaN."""
    return np.full(shape, np.nan)
