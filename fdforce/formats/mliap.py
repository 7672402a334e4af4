"""``pair_style mliap`` of LAMMPS: NAME.mliap.model and NAME.mliap.descriptor, in units metal.

The descriptor file holds a `Bispectrum` (``descriptor sna``). The model file holds a network for
each element (``model nn``), a linear model or a quadratic one.

    # model nn: numbers of elements and of parameters of each, then layers, then for each element
    # mean and deviation of the features and, unit by unit, bias and weights
    1 497
    NET 30 3 tanh 12 tanh 8 linear 1

A linear or quadratic model has the constant and the coefficients of each element, one on a line.
"""

from __future__ import annotations

import math

import numpy as np
from ase.data import atomic_numbers

from fdforce.descriptors.bispectrum import FLAGS, Bispectrum
from fdforce.descriptors.quadratic import Quadratic
from fdforce.errors import ConfigError, ModelFileError
from fdforce.formats.snap import (
    NUMBERS,
    as_float,
    baseline_comment,
    bispectrum_of,
    checked_twojmax,
    equal_components,
    expected_coefficients,
    numbered_lines,
    orbit_mean,
    pair_lines,
    prefix_of,
    read_baseline,
    read_zbl,
    set_coefficients,
    symmetric_coefficients,
    two_files,
    write_lines,
    zbl_of,
)
from fdforce.models import ElementalNetworks, LinearModel

ACTIVATIONS = ("tanh", "sigmoid", "relu", "linear")
"""What ``model nn`` knows; it takes other names for linear without a word."""
MODEL, DESCRIPTOR = ".mliap.model", ".mliap.descriptor"
PER_ELEMENT = {
    "radelem": "radelems", "wj": "welems", "sinner": "sinnerelems", "dinner": "dinnerelems",
}  # fmt: skip
A_LINE = 10
"""Numbers on a line; LAMMPS takes 30, and lines of 1023 characters."""


def write_potential(model, path) -> str:
    """Write NAME.mliap.model and NAME.mliap.descriptor.

    Parameters
    ----------
    model : ElementalNetworks or LinearModel
        On `Bispectrum`; a linear model also on `Quadratic` of it.
    path : path
        NAME, with or without ``.mliap.model``.

    Returns
    -------
    str
        The pair_style and pair_coeff lines of a LAMMPS script.

    Raises
    ------
    ModelFileError
        The files cannot hold the model.
    """
    descriptor, quadratic = bispectrum_of(model, "mliap")
    zbl = zbl_of(model, "mliap")
    prefix = prefix_of(path, (MODEL, DESCRIPTOR))
    if model.kind == "linear":
        kind = "quadratic" if quadratic else "linear"
        rows = symmetric_coefficients(model.coefficients(), descriptor, quadratic)
        lines = [f"{len(rows)} {rows.shape[1]}", *map(repr, rows.ravel().tolist())]
    else:
        kind = "nn"
        lines = _network_lines(model, descriptor, quadratic)
    write_lines(prefix + MODEL, [f"# {kind} model of fdforce; LAMMPS units metal", *lines])
    comments = ["# bispectrum components of fdforce; LAMMPS units metal", *baseline_comment(zbl)]
    write_lines(prefix + DESCRIPTOR, comments + _descriptor_lines(descriptor))
    arguments = f"model {kind} {prefix}{MODEL} descriptor sna {prefix}{DESCRIPTOR}"
    elements = " ".join(descriptor.elements)
    return pair_lines(descriptor.elements, "mliap", arguments, elements, zbl)


def read_potential(path, *, units: str = "ev-angstrom"):
    """A potential of pair_style mliap with the descriptor sna.

    Parameters
    ----------
    path : path
        NAME.mliap.model; NAME.mliap.descriptor stands beside it.
    units : str
        "ev-angstrom": units metal are assumed.

    Returns
    -------
    ElementalNetworks or LinearModel

    Raises
    ------
    ModelFileError
        A file is missing, damaged, or holds what is not supported.
    """
    path, beside = two_files(path, units, MODEL, DESCRIPTOR)
    descriptor, zbl = _read_descriptor(beside)
    lines = [(number, line.split("#")[0].split()) for number, line in numbered_lines(path)]
    lines = [(number, words) for number, words in lines if words]
    if not lines or len(lines[0][1]) != 2:
        raise ModelFileError(f"{path}: numbers of elements and parameters are expected first")
    number, words = lines[0]
    n_elements, n_parameters = (as_float(word, path, number) for word in words)
    if n_elements != len(descriptor.elements):
        raise ModelFileError(
            f"{path}, line {number}: {n_elements:g} elements; {beside.name} has "
            f"{len(descriptor.elements)}"
        )
    if len(lines) > 1 and lines[1][1][0].startswith("NET"):
        model = _read_networks(path, lines[1:], descriptor, n_parameters)
    else:
        model = _read_linear(path, lines[1:], descriptor, n_parameters, beside)
    model.baseline = read_zbl(descriptor.elements, zbl, beside)
    return model


def _network_lines(model, descriptor, quadratic):
    """Lines of ``model nn``; scale and reference energies go into the last layer."""
    if quadratic:
        raise ModelFileError("mliap: networks on quadratic features are not known to LAMMPS")
    if len(set(zip(model.hidden, model.activation, strict=True))) > 1:
        raise ModelFileError("mliap: networks differ between elements; in LAMMPS all are alike")
    hidden, (*activations, output) = model.hidden[0], model.activation[0]
    unknown = [name for name in activations if name not in ACTIVATIONS]
    if unknown:
        raise ModelFileError(
            f"mliap: model nn of LAMMPS knows {', '.join(ACTIVATIONS)}, not the activation "
            f"{unknown[0]}; fit with model.activation = tanh, or run the model by fix external "
            "(docs/lammps.md)"
        )
    if output != "linear":
        raise ModelFileError(f"mliap: the output of a network is {output}; it has to be linear")
    layers = [f"{name} {width}" for name, width in zip(activations, hidden, strict=True)]
    per_element = len(model.theta) // len(model.elements)
    lines = [
        f"{len(model.elements)} {per_element}",
        f"NET {descriptor.n_features} {1 + len(layers)} {' '.join([*layers, 'linear 1'])}",
    ]
    group = equal_components(descriptor)
    for z, theta in enumerate(model.theta.reshape(len(model.elements), -1)):
        mean, slope = model.feature_mean[z], model.feature_scale[z]
        shared_mean, shared_slope = orbit_mean(mean, group), orbit_mean(slope, group)
        used = shared_slope != 0
        divisor = np.where(used, shared_slope, 1.0)
        numbers = []
        for layer, (rows, columns) in enumerate(model.layers[: len(hidden) + 1]):
            block, theta = theta[: rows * columns].reshape(rows, columns), theta[rows * columns :]
            weights, bias = block[:-1], block[-1]
            if layer == 0 and descriptor.chemflag:
                # the same sums, with weights that equal components share (see equal_components)
                plain = weights * slope[:, None]
                shared = orbit_mean(plain.T, group).T
                bias = bias + shared_mean @ shared - mean @ plain
                weights = shared / divisor[:, None]
            if layer == 0:
                weights = np.where(used[:, None], weights, 0.0)
            if layer == len(hidden):
                weights = model.scale * weights
                bias = model.scale * bias + model.reference_energies[z]
            numbers.append(np.vstack([bias, weights]).T.ravel())
        for values in (shared_mean, 1 / divisor, np.concatenate(numbers)):
            words = [repr(float(value)) for value in values]
            lines += [" ".join(words[k : k + A_LINE]) for k in range(0, len(words), A_LINE)]
    return lines


def _descriptor_lines(descriptor):
    lines = [f"{name} {getattr(descriptor, name)!r}" for name in (*NUMBERS, *FLAGS)]
    lines += [f"nelems {len(descriptor.elements)}", f"elems {' '.join(descriptor.elements)}"]
    for name, keyword in PER_ELEMENT.items():
        if name in ("radelem", "wj") or descriptor.switchinnerflag:
            lines.append(f"{keyword} {' '.join(map(repr, getattr(descriptor, name)))}")
    return lines


def _read_descriptor(path):
    """The `Bispectrum` of a descriptor file and the radii of a baseline that a comment names."""
    settings, zbl, elements, wanted = {}, None, None, None
    of_keyword = {keyword: name for name, keyword in PER_ELEMENT.items()}
    for number, line in numbered_lines(path):
        zbl = read_baseline(line, path, number) or zbl
        keyword, *values = line.split("#")[0].replace('"', " ").replace("'", " ").split() or [""]
        if not keyword:
            continue
        if keyword == "elems":
            elements = values
            if unknown := [name for name in elements if not atomic_numbers.get(name)]:
                raise ModelFileError(f"{path}, line {number}: {unknown[0]:.40} is no element")
        elif keyword in of_keyword:
            settings[of_keyword[keyword]] = [as_float(x, path, number, keyword) for x in values]
        elif keyword in (*NUMBERS, *FLAGS, "nelems") and len(values) == 1:
            value = as_float(values[0], path, number, keyword)
            if keyword == "nelems":
                wanted = value
            elif keyword in FLAGS or keyword == "twojmax":
                settings[keyword] = int(value) if value.is_integer() else value
            else:
                settings[keyword] = value
        else:
            raise ModelFileError(f"{path}, line {number}: {' '.join([keyword, *values])}: unknown")
    missing = [name for name in ("rcutfac", "twojmax", "radelem", "wj") if name not in settings]
    if missing or not elements or wanted != len(elements):
        raise ModelFileError(
            f"{path}: needs rcutfac, twojmax, nelems, and elems, radelems and welems of that length"
        )
    settings["twojmax"] = checked_twojmax(settings["twojmax"], path)
    try:
        return Bispectrum(elements, **settings), zbl
    except ConfigError as error:
        raise ModelFileError(f"{path}: {error}") from None


def _read_linear(path, lines, descriptor, n_parameters, beside):
    for number, words in lines:
        if len(words) != 1:
            raise ModelFileError(f"{path}, line {number}: one coefficient is expected")
    values = [as_float(words[0], path, number) for number, words in lines]
    counts = {expected_coefficients(descriptor, quadratic): quadratic for quadratic in (1, 0)}
    if n_parameters not in counts or len(values) != n_parameters * len(descriptor.elements):
        raise ModelFileError(
            f"{path}: {len(values)} coefficients, {n_parameters:g} for an element; "
            f"{' or '.join(map(str, sorted(counts)))} belong to {beside.name}"
        )
    quadratic = counts[n_parameters]
    model = LinearModel(Quadratic(descriptor) if quadratic else descriptor)
    set_coefficients(model, np.reshape(values, (len(descriptor.elements), -1)))
    return model


def _read_networks(path, lines, descriptor, n_parameters):
    number, words = lines[0]
    names, widths = words[3::2], words[4::2]
    counts = [as_float(word, path, number) for word in (*words[1:3], *widths)]
    if len(counts) < 3 or not all(count.is_integer() and count > 0 for count in counts):
        raise ModelFileError(f"{path}, line {number}: NET, features, layers, then name and width")
    (n_features, n_layers), widths = counts[:2], [int(count) for count in counts[2:]]
    if n_features != descriptor.n_features or n_layers != len(names) or len(names) != len(widths):
        raise ModelFileError(
            f"{path}, line {number}: {n_features:g} features and {n_layers:g} layers; the "
            f"descriptor has {descriptor.n_features} and the line names {len(names)}"
        )
    if names[-1] != "linear" or widths[-1] != 1 or {*names} - {*ACTIVATIONS}:
        raise ModelFileError(
            f"{path}, line {number}: {' '.join(words[3:])}: networks with activations "
            f"{', '.join(ACTIVATIONS)} and a last layer 'linear 1' can be read"
        )
    shapes = list(zip([descriptor.n_features, *widths[:-1]], widths))
    of_element = sum((rows + 1) * columns for rows, columns in shapes)
    values = np.array([as_float(word, path, n) for n, words in lines[1:] for word in words])
    wanted = len(descriptor.elements) * (2 * descriptor.n_features + of_element)
    if n_parameters != of_element or len(values) != wanted:
        raise ModelFileError(
            f"{path}: {n_parameters:g} parameters of an element and {len(values)} numbers; "
            f"{of_element} and {wanted} belong to its layers"
        )
    model = ElementalNetworks(descriptor, widths[:-1], names[:-1])
    theta = []
    for z, block in enumerate(values.reshape(len(descriptor.elements), -1)):
        mean, deviation, block = np.split(block, np.cumsum([descriptor.n_features] * 2))
        if not deviation.all() or not all(map(math.isfinite, 1 / deviation)):
            raise ModelFileError(f"{path}: a deviation of the features is 0")
        model.feature_mean[z], model.feature_scale[z] = mean, 1 / deviation
        for rows, columns in shapes:
            unit, block = np.split(block, [(rows + 1) * columns])
            unit = unit.reshape(columns, rows + 1).T
            theta += [unit[1:].ravel(), unit[0]]
    model.theta = np.concatenate(theta)
    return model
