"""The parameters of an outside code as one flat vector, changed where the code reads them."""

from __future__ import annotations

import inspect

import numpy as np

from fdforce.energy_code import EnergyCode, flat, in_order_of, layout


class Parameters:
    """Parameters of an energy code as one flat vector, changed in place.

    Parameters
    ----------
    container : ndarray, or list or dict of arrays or numbers
        What the code reads on every call.
    given : bool
        Whether the code says so itself; else they were found by their name.
    """

    NAMES = ("theta", "parameters", "params")
    """Under these names parameters are found where a code does not say which they are."""

    def __init__(self, container, *, given: bool = True):
        self.container = container
        self.given = given
        self.layout = layout(container)

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
            for container in _named_near(function, cls.NAMES):
                if not _is_parameters(container):
                    continue
                if layout(container) == layout(in_order_of(container, gradient)):
                    return cls(container, given=False)
        return None

    def read(self) -> np.ndarray:
        """A copy of all parameters, shape (P,), float64."""
        return flat(self.container).copy()

    def blocks(self) -> list[slice]:
        """Places of the arrays in the flat vector."""
        sizes = [np.size(leaf) for leaf, _ in self._leaves()]
        ends = np.cumsum(sizes)
        return [slice(int(end - size), int(end)) for end, size in zip(ends, sizes, strict=True)]

    def write(self, theta) -> None:
        """Put other values into the same arrays."""
        for block, (leaf, put) in zip(self.blocks(), self._leaves(), strict=True):
            put(np.reshape(theta[block], np.shape(leaf)))

    def _leaves(self):
        return list(_leaves(self.container, None, None))


def _leaves(value, parent, key):
    """(value, function that replaces it) of every array or number in a container."""
    if isinstance(value, list | dict):
        for k in value if isinstance(value, dict) else range(len(value)):
            yield from _leaves(value[k], value, k)
    elif isinstance(value, np.ndarray):

        def put(new):
            value[...] = new

        yield value, put
    else:

        def put(new):
            parent[key] = type(value)(new)

        yield value, put


def _is_parameters(value) -> bool:
    if isinstance(value, list | dict):
        items = value.values() if isinstance(value, dict) else value
        return len(value) > 0 and all(_is_parameters(item) or np.isscalar(item) for item in items)
    return isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.flags.writeable


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
    found = [scope[name] for scope in nearest for name in names if name in scope]
    if inspect.isfunction(function) and depth > 1:
        for value in inside.values():
            if inspect.isroutine(value):
                found += _named_near(value, names, depth - 1)
    return found
