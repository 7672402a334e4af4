"""The parameters of an outside code as one flat vector, changed where the code reads them."""

from __future__ import annotations

import inspect

import numpy as np

from fdforce.energy_code import EnergyCode, flat, in_order_of, layout
from fdforce.errors import CodeError


class Parameters:
    """Parameters of an energy code as one flat vector, changed in place.

    Parameters
    ----------
    container : ndarray, or list or dict of arrays or numbers
        What the code reads on every call.
    name : str, optional
        Under which it was found, where the code does not say itself which it is.

    Raises
    ------
    CodeError
        Anything else than writable NumPy arrays of floats, or a list or dict of such.
    """

    NAMES = ("theta", "parameters", "params")
    """Under these names parameters are found where a code does not say which they are."""

    def __init__(self, container, name: str | None = None):
        if not _is_parameters(container):
            raise CodeError(
                f"parameters are {_kind(container)}; give writable NumPy arrays of floats, or a "
                "list or dict of such: the very ones that the code reads"
            )
        self.container = container
        self.name = name
        self.layout = layout(container)

    @property
    def given(self) -> bool:
        """Whether the code says itself which its parameters are."""
        return self.name is None

    @classmethod
    def of(cls, code: EnergyCode, gradient):
        """The parameters of a code: as given, or found by name beside its callables; else None.

        Looked for are arrays named as in `NAMES`, with the layout of the gradient: attributes of
        the object that the callables are methods of, variables of their closures, and of their
        module.
        """
        if code.parameters is not None:
            return cls(code.parameters)
        for function in (code.energy_gradient, code.energy_and_forces):
            for name, container in _named_near(function, cls.NAMES):
                if not _is_parameters(container):
                    continue
                if layout(container) == layout(in_order_of(container, gradient)):
                    return cls(container, name)
        return None

    def read(self) -> np.ndarray:
        """A copy of all parameters, shape (P,), float64."""
        return flat(self.container).copy()

    def blocks(self) -> list[tuple[str, slice]]:
        """Name ("['width']", "[0]", "" for a single array) and place of each array."""
        blocks, end = [], 0
        for name, leaf, _ in self._leaves():
            begin, end = end, end + np.size(leaf)
            blocks.append((name, slice(begin, end)))
        return blocks

    def write(self, theta) -> None:
        """Put other values into the same arrays."""
        for (_, block), (_, leaf, put) in zip(self.blocks(), self._leaves(), strict=True):
            put(np.reshape(theta[block], np.shape(leaf)))

    def _leaves(self):
        return list(_leaves(self.container, "", None, None))


def _leaves(value, name, parent, key):
    """(name, value, function that replaces it) of every array or number in a container."""
    if isinstance(value, list | dict):
        for k in value if isinstance(value, dict) else range(len(value)):
            yield from _leaves(value[k], f"{name}[{k!r}]", value, k)
    elif isinstance(value, np.ndarray):

        def put(new):
            value[...] = new

        yield name, value, put
    else:

        def put(new):
            parent[key] = type(value)(new)

        yield name, value, put


def _is_parameters(value) -> bool:
    if isinstance(value, list | dict):
        items = list(value.values() if isinstance(value, dict) else value)
        return len(items) > 0 and all(
            _is_parameters(item) or isinstance(item, float) for item in items
        )
    return isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.flags.writeable


def _kind(value) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}" + ("" if value.flags.writeable else ", read-only")
    if isinstance(value, list | dict) and len(value):
        items = list(value.values() if isinstance(value, dict) else value)
        wrong = next(item for item in items if not _is_parameters(item))
        return f"a {type(value).__name__} with {_kind(wrong)}"
    return f"of type {type(value).__module__}.{type(value).__name__}"


def _named_near(function, names, depth=2):
    """Variables of these names: attributes, closures (and of functions in them), the module."""
    function = inspect.unwrap(function)
    owner = getattr(function, "__self__", None)
    if owner is None and not inspect.isroutine(function):
        owner = function  # an object with __call__
    function = getattr(function, "__func__", function)
    nearest = [getattr(owner, "__dict__", {})]
    if inspect.isfunction(function):
        inside = inspect.getclosurevars(function).nonlocals
        nearest += [inside, function.__globals__]
    found = [(name, scope[name]) for scope in nearest for name in names if name in scope]
    if inspect.isfunction(function) and depth > 1:
        for value in inside.values():
            if inspect.isroutine(value):
                found += _named_near(value, names, depth - 1)
    return found
