"""MODULE:FUNCTION, the name of an outside energy code on the command line."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

from fdforce.energy_code import EnergyCode
from fdforce.errors import FdforceError
from fdforce.model_code import is_model, model_code

EXPECTED = (
    "make it a function of ase.Atoms that returns an fdforce.EnergyCode, or the pair "
    "(energy_and_forces, energy_gradient)"
)


def is_code_name(name: str) -> bool:
    """Whether a name is MODULE:FUNCTION rather than a file."""
    module, colon, function = name.rpartition(":")
    return bool(colon and module) and function.isidentifier()


def load_codes(name: str) -> Callable:
    """The function behind MODULE:FUNCTION, as one that makes an `EnergyCode` of `ase.Atoms`.

    Parameters
    ----------
    name : str
        MODULE is found as by ``import`` in the current folder, or is the path of a .py file.
        FUNCTION takes `ase.Atoms`, or nothing where the code is the same for all structures. It
        returns an `EnergyCode`, an object or dict with these names, the pair (energy_and_forces,
        energy_gradient), an adapter (anything with a method ``energy_code(atoms)``), or an
        `EnergyModel`.

    Returns
    -------
    callable
        ``make(atoms) -> EnergyCode``, whose callables take positions, and the cell where the
        structure is periodic and they accept it: ``make(atoms).energy_and_forces(positions, ...)``.

    Raises
    ------
    FdforceError
        No such module or function, an exception inside, or a result of another kind.
    """
    function = _import(name)
    made = _called(name, function) if _required(function) == 0 else function

    def make(atoms) -> EnergyCode:
        found = made
        if not _is_code(found) and not hasattr(found, "energy_code") and callable(found):
            found = _called(name, found, atoms)
        if hasattr(found, "energy_code"):
            found = _called(name, found.energy_code, atoms)
        if is_model(found):
            return model_code(found, atoms)
        if not _is_code(found):
            raise FdforceError(
                f"{name} gives no energy code (found: {type(found).__name__}); {EXPECTED}"
            )
        return _as_code(found)

    return make


def takes_cell(code: EnergyCode) -> bool:
    """Whether the callables accept (positions, cell)."""
    return all(_accepts(f, 2) for f in (code.energy_and_forces, code.energy_gradient))


def needs_cell(code: EnergyCode) -> bool:
    """Whether one of the callables cannot be called with positions alone."""
    return any((_required(f) or 0) > 1 for f in (code.energy_and_forces, code.energy_gradient))


def _import(name):
    module, _, function = name.rpartition(":")
    try:
        if module.endswith(".py"):
            path = Path(module)
            if not path.is_file():
                raise FdforceError(f"{module}: no such file")
            spec = importlib.util.spec_from_file_location(path.stem, path)
            loaded = importlib.util.module_from_spec(spec)
            sys.modules[path.stem] = loaded
            spec.loader.exec_module(loaded)
        else:
            if "" not in sys.path and str(Path.cwd()) not in sys.path:
                sys.path.insert(0, str(Path.cwd()))
            loaded = importlib.import_module(module)
    except FdforceError:
        raise
    except ModuleNotFoundError as problem:
        if problem.name and not module.startswith(problem.name):
            raise FdforceError(f"{name}: {module} needs the module {problem.name}") from problem
        raise FdforceError(
            f"{name}: no module {module} here ({Path.cwd()}) or on Python's path"
        ) from problem
    except Exception as problem:
        raise FdforceError(f"{name}: {_where(problem)}") from problem
    if not callable(getattr(loaded, function, None)):
        raise FdforceError(f"{name}: {module} has no function {function}; {EXPECTED}")
    return getattr(loaded, function)


def _called(name, function, *arguments):
    try:
        return function(*arguments)
    except FdforceError:
        raise
    except Exception as problem:
        raise FdforceError(f"{name}: {_where(problem)}") from problem


def _where(problem) -> str:
    """An exception with the place in the user's file."""
    frame = inspect.getinnerframes(problem.__traceback__)[-1]
    what = f"{type(problem).__name__}: {problem}"
    return f"{what} ({Path(frame.filename).name}, line {frame.lineno})"


def _parts(made) -> list:
    names = ("energy_and_forces", "energy_gradient", "parameters", "true_gradient")
    if isinstance(made, tuple):
        return list(made) if len(made) == 2 else [None]
    if isinstance(made, dict):
        return [made.get(key) for key in names]
    return [getattr(made, key, None) for key in names]


def _is_code(made) -> bool:
    return is_model(made) or all(callable(part) for part in _parts(made)[:2])


def _as_code(made) -> EnergyCode:
    if isinstance(made, EnergyCode):
        return made
    parts = _parts(made)
    if len(parts) > 2 and callable(parts[2]):  # a method of that name, as torch has, is no array
        parts[2] = None
    return EnergyCode(*parts)


def _positional(function):
    """Positional parameters of a callable; None where Python cannot tell."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p for p in parameters if p.kind in (*kinds, inspect.Parameter.VAR_POSITIONAL)]


def _required(function):
    parameters = _positional(function)
    if parameters is None:
        return None
    return sum(p.default is p.empty and p.kind is not p.VAR_POSITIONAL for p in parameters)


def _accepts(function, count):
    parameters = _positional(function)
    if parameters is None:
        return True
    return len(parameters) >= count or any(p.kind is p.VAR_POSITIONAL for p in parameters)
