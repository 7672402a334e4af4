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

CELL_NAMES = ("cell", "lattice", "box", "h")


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
    made = function if _takes_atoms(function) else _called(name, function)

    def make(atoms) -> EnergyCode:
        found = made
        ready = _is_code(found) or hasattr(found, "energy_code")
        if inspect.isclass(found) or (not ready and callable(found)):
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


def load_function(name: str) -> Callable:
    """The function behind MODULE:FUNCTION; what goes wrong inside it becomes an FdforceError."""
    if not is_code_name(name):
        raise FdforceError(f"{name}: expected MODULE:FUNCTION, or FILE.py:FUNCTION")
    function = _import(name)
    return lambda *arguments: _called(name, function, *arguments)


def takes_cell(code: EnergyCode) -> bool:
    """Whether the callables accept (positions, cell): a second argument without default, or one
    whose name says that it is the cell.
    """
    return all(_accepts_cell(f) for f in (code.energy_and_forces, code.energy_gradient))


def needs_cell(code: EnergyCode) -> bool:
    """Whether one of the callables cannot be called with positions alone."""
    return any((_required(f) or 0) > 1 for f in (code.energy_and_forces, code.energy_gradient))


def _import(name):
    module, _, function = name.rpartition(":")
    try:
        loaded = _load_file(module) if module.endswith(".py") else _load_module(module)
    except FdforceError:
        raise
    except ModuleNotFoundError as problem:
        if problem.name and not module.startswith(problem.name):
            raise FdforceError(f"{name}: {module} needs the module {problem.name}") from problem
        raise FdforceError(
            f"{name}: no module {module} here ({Path.cwd()}) or on Python's path"
        ) from problem
    except (Exception, SystemExit) as problem:
        raise FdforceError(f"{name}: {where(problem)}") from problem
    found = getattr(loaded, function, None)
    if not (callable(found) or (found is not None and _is_ready(found))):
        raise FdforceError(f"{name}: {module} has no function {function}; {EXPECTED}")
    return found if callable(found) else lambda: found


def _load_file(module):
    path = Path(module)
    if not path.is_file():
        raise FdforceError(f"{module}: no such file")
    sys.path.insert(0, str(path.parent.resolve()))  # for modules beside it
    # a name of its own: torch.py or lammps.py is what such files like to be called
    spec = importlib.util.spec_from_file_location(f"fdforce_user_{path.stem}", path)
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def _load_module(module):
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(module)


def _called(name, function, *arguments):
    try:
        return function(*arguments)
    except FdforceError:
        raise
    except (Exception, SystemExit) as problem:
        raise FdforceError(f"{name}: {where(problem)}") from problem


def where(problem) -> str:
    """An exception in one line, with the place in the user's file."""
    if isinstance(problem, SyntaxError) and problem.filename:
        place = f"{Path(problem.filename).name}, line {problem.lineno}"
        return f"{type(problem).__name__}: {problem.msg} ({place})"
    frames = inspect.getinnerframes(problem.__traceback__)
    own = Path(__file__).parent
    theirs = [f for f in frames if own not in Path(f.filename).parents and f.filename[0] != "<"]
    # the innermost line of the user's own file says more than one inside NumPy
    beside = [f for f in theirs if "site-packages" not in f.filename]
    frame = (beside or theirs or frames)[-1]
    lines = str(problem).strip().splitlines() or [""]
    text = f"{type(problem).__name__}: {lines[0]:.200}".rstrip(": ")
    return f"{text} ({Path(frame.filename).name}, line {frame.lineno})"


def _is_ready(made) -> bool:
    return hasattr(made, "energy_code") or _is_code(made)


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


def _takes_atoms(function) -> bool:
    """Whether a function wants the structure: its first argument has no default, or says so."""
    parameters = _positional(function)
    if not parameters:
        return parameters is None
    first = parameters[0]
    return (
        first.default is first.empty and first.kind is not first.VAR_POSITIONAL
    ) or first.name in ("atoms", "structure")


def _accepts_cell(function) -> bool:
    parameters = _positional(function)
    if parameters is None:
        return True
    if len(parameters) < 2:
        return any(p.kind is p.VAR_POSITIONAL for p in parameters)
    second = parameters[1]
    return second.default is second.empty or second.name.lower() in CELL_NAMES
