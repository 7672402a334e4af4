"""One value of a configuration: conversion to the type of its key, and the rules of the key."""

import difflib
import math
import numbers
import os
from collections.abc import Mapping
from types import UnionType
from typing import get_args, get_origin

from fdforce.config.toml import toml_value
from fdforce.errors import ConfigError

_NO = object()


def checked_value(value, field, name):
    """The value as a key stores it; ConfigError, which begins with a name, if it is not valid."""
    result = converted(value, field.type)
    if result is _NO or not _is_choice(result, field):
        problem = f"expected {_expected(field)}{nearest(value, field.metadata['choices'])}"
    else:
        problem = _value_problem(result, field)
    if problem:
        raise ConfigError(f"{name} = {show(value)}: {problem}")
    return result


def converted(value, kind):
    """The value as the type (int to float, a string to a list of one), or _NO."""
    if isinstance(kind, UnionType):
        results = (converted(value, option) for option in get_args(kind))
        return next((result for result in results if result is not _NO), _NO)
    if get_origin(kind) is list:
        return _converted_list(value, get_args(kind)[0])
    if get_origin(kind) is dict:
        return _converted_dict(value, *get_args(kind))
    if kind is str and isinstance(value, os.PathLike):
        value = os.fspath(value)
    if kind in (str, bool):
        return value if isinstance(value, kind) else _NO
    number = numbers.Integral if kind is int else numbers.Real
    if isinstance(value, bool) or not isinstance(value, number):
        return _NO
    try:
        return kind(value)
    except OverflowError:
        return math.inf


def _converted_list(value, kind):
    if kind is str and isinstance(value, str | os.PathLike):
        value = [value]
    if not isinstance(value, list | tuple):
        return _NO
    items = [converted(item, kind) for item in value]
    return _NO if any(item is _NO for item in items) else items


def _converted_dict(value, key_kind, value_kind):
    if not isinstance(value, Mapping):
        return _NO
    items = {converted(k, key_kind): converted(v, value_kind) for k, v in value.items()}
    return _NO if _NO in items or any(item is _NO for item in items.values()) else items


def _is_choice(value, field):
    choices = field.metadata["choices"]
    return not (choices and isinstance(value, str)) or value in choices


def _value_problem(value, field):
    """What is wrong with a value of the right type, or None."""
    items = value if isinstance(value, list) else [value]
    items = list(value.values()) if isinstance(value, dict) else items
    items = [part for item in items for part in (item if isinstance(item, list) else [item])]
    if any(isinstance(item, float) and not math.isfinite(item) for item in items):
        return "must be finite"
    if not all(_in_range(item, field.metadata) for item in items if not isinstance(item, str)):
        return f"{'every item ' if isinstance(value, list) else ''}must be {range_text(field)}"
    needs_name = isinstance(value, list) or field.metadata.get("files")
    if needs_name and "" in items:
        return "must not be empty" if isinstance(value, str) else "no item may be empty"
    return None


def _in_range(number, rules):
    return (
        number >= rules.get("minimum", -math.inf)
        and number <= rules.get("maximum", math.inf)
        and number > rules.get("above", -math.inf)
        and number < rules.get("below", math.inf)
    )


def range_text(field):
    """The range of a key in words, or nothing."""
    words = {
        "minimum": "at least",
        "above": "more than",
        "maximum": "at most",
        "below": "less than",
    }
    rules = field.metadata
    return " and ".join(f"{words[rule]} {rules[rule]}" for rule in words if rule in rules)


def _expected(field):
    """The types and choices of a key in words."""
    names = {
        float: "a number",
        int: "an integer",
        bool: "true or false",
        str: "a string",
        list[str]: "a list of strings",
        list[int]: "a list of integers",
        list[float]: "a list of numbers",
        dict[str, float]: "a table of numbers",
        dict[str, list[float]]: "a table of lists of numbers",
    }
    if field.metadata.get("files"):
        names |= {float: "a fraction", str: "a file", list[str]: "a list of files"}
    choices = ", ".join(f'"{choice}"' for choice in field.metadata["choices"])
    if choices:
        names[str] = f"one of {choices}" if len(field.metadata["choices"]) > 1 else choices
    options = get_args(field.type) if isinstance(field.type, UnionType) else (field.type,)
    return ", or ".join(names[option] for option in options)


def nearest(value, names, form='"{}"'):
    """``; did you mean …?`` with the most similar name, or nothing."""
    near = difflib.get_close_matches(value.lower() if isinstance(value, str) else "", names, n=1)
    return f"; did you mean {form.format(near[0])}?" if near else ""


def show(value):
    """The value as TOML where it has such a form, cut to a readable length."""
    try:
        text = toml_value(value)
    except TypeError:
        text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
