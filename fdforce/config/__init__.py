"""The configuration of a fit.

`tables` is the one place where keys, defaults, help lines and ranges are written; `values` checks
a value against its key, once, where it enters; `reading` makes a `Config` of a TOML file, a dict
and overrides; `writing` makes TOML of a `Config`; `toml` knows the text and no keys.
"""

from fdforce.config.reading import (
    absolute_paths,
    checked_values,
    config_from_dict,
    load_config,
    merge_overrides,
    override,
    parse_override,
)
from fdforce.config.tables import (
    TABLES,
    AnyModelConfig,
    Config,
    ModelConfig,
    OptimizerConfig,
    default_config,
    descriptor_of,
    end_weight,
    key,
    keys_of,
    known_keys,
    model_config,
    start_weight,
)
from fdforce.config.toml import read_toml, toml_table
from fdforce.config.writing import to_toml

__all__ = [
    "TABLES",
    "AnyModelConfig",
    "Config",
    "ModelConfig",
    "OptimizerConfig",
    "absolute_paths",
    "checked_values",
    "config_from_dict",
    "default_config",
    "descriptor_of",
    "end_weight",
    "key",
    "keys_of",
    "known_keys",
    "load_config",
    "merge_overrides",
    "model_config",
    "override",
    "parse_override",
    "read_toml",
    "start_weight",
    "to_toml",
    "toml_table",
]
