"""TOML as text: reading a file, a value on the command line, and writing values."""

import json
import os
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from fdforce.errors import ConfigError


def read_toml(where):
    """Tables of a TOML file, unchecked; raises ConfigError where it is none."""
    try:
        with open(where, encoding="utf-8-sig") as file:
            text = file.read()
    except FileNotFoundError:
        raise ConfigError(
            f"{where}: no such file; `fdforce config > {where}` writes a template"
        ) from None
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: not a TOML file: not UTF-8 text") from error
    try:
        return tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, or an integer of thousands of digits
        raise ConfigError(f"{where}, {_toml_problem(str(error), text)}") from error


def _toml_problem(message, text):
    """``line N: what``, out of a message of tomllib."""
    found = re.search(r" \(at line (\d+), column \d+\)", message)
    line = found.group(1) if found else len(text.splitlines())
    what = re.sub(r" \(at [^)]*\)$", "", message)
    return f"line {line}: not valid TOML: {what[:1].lower()}{what[1:]}"


def parse_value(value, text):
    """A TOML value, a flat list of bare words, or a bare string."""
    try:
        parsed = tomllib.loads(f"value = {value}")
    except ValueError:
        parsed = {}
    if parsed.keys() == {"value"}:
        return parsed["value"]
    words = re.fullmatch(r"\[([^][{}\"']*)\]", value)
    if words:
        return [parse_value(word.strip(), text) for word in words.group(1).split(",")]
    if value[:1] in ("{", '"', "'") or re.fullmatch(r"\[.*\]", value):
        raise ConfigError(f"--set {text}: {value} is not valid TOML; check brackets and quotes")
    return value


def toml_table(name: str, values: Mapping[str, Any]) -> str:
    """A table of TOML with a line for each key."""
    lines = [f"{_toml_key(key)} = {toml_value(value)}" for key, value in values.items()]
    return "\n".join([f"[{name}]", *lines]) + "\n"


def toml_value(value):
    """One value in TOML; TypeError if it has no such form."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, os.PathLike):
        return _toml_string(os.fspath(value))
    if isinstance(value, str):
        return _toml_string(value)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    if isinstance(value, Mapping):
        items = [f"{_toml_key(key)} = {toml_value(item)}" for key, item in value.items()]
        return f"{{ {', '.join(items)} }}" if items else "{}"
    raise TypeError(f"{type(value).__name__} has no TOML form")


def _toml_string(text):
    """A basic string; JSON's escapes are TOML's, which also wants DEL escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _toml_key(key):
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml_string(key)
