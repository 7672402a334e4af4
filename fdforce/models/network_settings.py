"""Widths and activations of elemental networks, spelt out for every element or as short as they go.

Users and files write one list of widths or a table of them by element, and one name of an
activation, a list with a name for each layer, or a table of either by element.
"""

from __future__ import annotations

from collections.abc import Mapping

from fdforce.errors import ConfigError

ACTIVATIONS = (
    "tanh", "sigmoid", "softplus", "shifted_softplus", "silu", "celu", "relu", "linear",
    "gaussian", "cosine", "reverse_sigmoid", "exponential", "harmonic", "modified_tanh", "twist",
)  # fmt: skip
"""Names of the codes in kernels/cpu/activations.py."""


def spell_out(elements, hidden, activation):
    """Widths of the hidden layers and activations of all layers, of every element.

    Parameters
    ----------
    elements : sequence of str
    hidden : sequence of int, or dict of str to sequence of int
        The same for all elements, or those of each.
    activation : str or sequence of str, or dict of str to either
        The activation of all hidden layers, with a linear output; or one for each hidden layer and,
        where wanted, one more for the output.

    Returns
    -------
    hidden : tuple of tuple of int
    activation : tuple of tuple of str
        That of the output is the last one.

    Raises
    ------
    ConfigError
        An unknown activation, a width below 1, a wrong number of activations, or a table whose
        elements are not those of the model.
    """
    widths, activations = [], []
    for element in elements:
        own = _of_element("hidden", hidden, element, elements)
        if any(width < 1 for width in own):
            raise ConfigError(f"model.hidden = {list(own)}: widths must be at least 1")
        widths.append(tuple(int(width) for width in own))
        names = _of_element("activation", activation, element, elements)
        activations.append(_of_layers(names, len(own), element))
    return tuple(widths), tuple(activations)


def shorten(elements, hidden, activation) -> dict:
    """What `spell_out` takes, in its shortest form: lists and tables only where they are needed.

    Parameters
    ----------
    elements : sequence of str
    hidden, activation : tuple of tuple
        As `spell_out` returns them.

    Returns
    -------
    dict
        ``hidden`` and ``activation``, as a model file and a configuration hold them.
    """
    forms = {
        "hidden": [list(widths) for widths in hidden],
        "activation": [_shortest(names) for names in activation],
    }
    return {
        key: values[0] if all(v == values[0] for v in values) else dict(zip(elements, values))
        for key, values in forms.items()
    }


def _of_element(key, value, element, elements):
    if not isinstance(value, Mapping):
        return value
    wrong = [name for name in value if name not in elements]
    if wrong or element not in value:
        what = "no such element in the model" if wrong else "missing"
        raise ConfigError(
            f"model.{key}.{wrong[0] if wrong else element}: {what}; as a table, model.{key} has "
            f"an entry for each of {', '.join(elements)}"
        )
    return value[element]


def _of_layers(names, n_hidden, element):
    """Names of the activations of all layers."""
    given = names
    names = (names,) * n_hidden if isinstance(names, str) else tuple(names)
    for name in (given,) if isinstance(given, str) else names:
        if name not in ACTIVATIONS:
            raise ConfigError(
                f"model.activation = {name!r}: choose one of {', '.join(ACTIVATIONS)}"
            )
    if len(names) - n_hidden not in (0, 1):
        raise ConfigError(
            f"model.activation = {list(names)}: the network of {element} has {n_hidden} hidden "
            "layer(s); give a name for each, and one more if the output is not linear"
        )
    return names if len(names) > n_hidden else (*names, "linear")


def _shortest(names):
    *inner, last = names
    if last != "linear":
        return list(names)
    if len(set(inner)) > 1:
        return inner
    return inner[0] if inner else "linear"
