"""n2p2's weights.ZZZ.data: the weights and biases of the network of one element.

A line for each, ``value a|b index l_s n_s [l_e n_e]``: of every layer first the weights, grouped by
the node they start from, then the biases. n2p2 reads the values in this order and nothing else.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

from fdforce.errors import ModelFileError
from fdforce.formats.n2p2.text import read_lines
from fdforce.formats.numbers import to_integer, to_number

HEADER = """\
# Neural network connection values (weights and biases).
# Col  Name       Description
# 1    connection Neural network connection value.
# 2    t          Connection type (a = weight, b = bias).
# 3    index      Index enumerating weights.
# 4    l_s        Starting point layer (end point layer for biases).
# 5    n_s        Starting point neuron in starting layer (end point neuron for biases).
# 6    l_e        End point layer.
# 7    n_e        End point neuron in end layer.
"""


def file_name(atomic_number: int) -> str:
    """Name of the file of an element."""
    return f"weights.{atomic_number:03d}.data"


def read_weights(path: Path, options: list[list[int]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights (n_in, n_out) and biases (n_out,) of every layer.

    Parameters
    ----------
    path : Path
    options : list of list of int
        Possible widths of all layers, inputs and output included.

    Raises
    ------
    ModelFileError
        A line that cannot be read, or a network that is none of the options.
    """
    values, places = [], []
    for line, words in read_lines(path, ModelFileError):
        try:
            values.append(to_number(words[0]))
        except ValueError as problem:
            raise ModelFileError(f"{path}, line {line}: {problem}") from None
        places.append((line, _place(words[1:])))
    fitting = [widths for widths in options if _n_values(widths) == len(values)]
    if not fitting:
        wanted = " or ".join(
            f"{_n_values(widths)} ({'-'.join(map(str, widths))})" for widths in options
        )
        raise ModelFileError(f"{path}: has {len(values)} weights; input.nn asks for {wanted}")
    problem = None
    for widths in fitting:
        for (line, found), expected in zip(places, _places(widths)):
            if found is not None and found != expected:
                problem = problem or (line, found, expected)
                break
        else:
            return _layers(np.array(values), widths)
    line, found, expected = problem
    raise ModelFileError(
        f"{path}, line {line}: is {' '.join(map(str, found))}, where n2p2 reads "
        f"{' '.join(map(str, expected))}"
    )


def _place(words):
    """('a', l_s, n_s, l_e, n_e) or ('b', l, n), or None where a line does not say."""
    n = {"a": 4, "b": 2}.get(words[0] if words else None)
    if n is None or len(words) < 2 + n:
        return None
    try:
        return words[0], *map(to_integer, words[2 : 2 + n])
    except ValueError:
        return None


def _places(widths):
    for layer, (n_in, n_out) in enumerate(pairwise(widths)):
        for i in range(n_in):
            for j in range(n_out):
                yield "a", layer, i + 1, layer + 1, j + 1
        for j in range(n_out):
            yield "b", layer + 1, j + 1


def _n_values(widths):
    return sum((n_in + 1) * n_out for n_in, n_out in pairwise(widths))


def _layers(values, widths):
    layers, at = [], 0
    for n_in, n_out in pairwise(widths):
        end = at + n_in * n_out
        layers.append((values[at:end].reshape(n_in, n_out), values[end : end + n_out]))
        at = end + n_out
    return layers


def format_weights(layers: list[tuple[np.ndarray, np.ndarray]]) -> str:
    """The text of a file; the inverse of `read_weights`."""
    widths = [len(layers[0][0]), *(len(biases) for _, biases in layers)]
    values = np.concatenate([part.ravel() for layer in layers for part in layer])
    lines = [HEADER]
    for index, (value, (kind, *place)) in enumerate(zip(values, _places(widths), strict=True), 1):
        lines.append(f"{value:24.16E} {kind} {index:9d} {' '.join(f'{n:5d}' for n in place)}\n")
    return "".join(lines)
