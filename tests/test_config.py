"""The configuration: defaults, reading, checking with its messages, and writing."""

import dataclasses
import inspect
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fdforce.config import (
    TABLES,
    AnyModelConfig,
    Config,
    ModelConfig,
    absolute_paths,
    config_from_dict,
    default_config,
    end_weight,
    keys_of,
    load_config,
    override,
    parse_override,
    to_toml,
)
from fdforce.descriptors import DESCRIPTORS, PowerSpectrum
from fdforce.errors import ConfigError

# What users are promised: a key may be added, never lost.
DOCUMENTED = {
    "data": "train valid test energy_key forces_key stress_key split reference_energies",
    "model": "kind descriptor cutoff radial_order angular_order hidden "
    "activation elements baseline",
    "loss": "energy_weight force_weight stress_weight force_fraction kind",
    "finite_difference": "epsilon stencil length_scale",
    "optimizer": "name learning_rate batch_size weight_decay beta1 beta2 gradient_clip",
    "training": "epochs max_time patience schedule seed threads device precision checkpoint_every",
}


def write(folder, text, name="fit.toml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def message(call, *args, **kwargs):
    with pytest.raises(ConfigError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


# -- the schema ------------------------------------------------------------------------------------


def test_tables_are_the_documented_ones():
    assert list(TABLES) == list(DOCUMENTED)


@pytest.mark.parametrize(
    ("keys", "descriptor"),
    [
        ({"radial_order": 3}, "power_spectrum"),
        ({"radial_cutoff": 5.0}, "chebyshev"),
        ({"radial_cutoff": 6.5, "radial_order": 20, "angular_order": 6}, "chebyshev"),
        ({"twojmax": 8, "hidden": [5]}, "bispectrum"),
        ({"functions": "auto"}, "symmetry_functions"),
    ],
)
def test_the_descriptor_follows_from_its_keys(keys, descriptor):
    model = config_from_dict({"model": keys}).model
    assert model.descriptor == descriptor
    assert all(getattr(model, key) == value for key, value in keys.items())
    assert config_from_dict({}, [f"model.{k}={v}" for k, v in keys.items()]).model == model


def test_a_named_descriptor_is_not_changed_by_other_keys():
    text = message(config_from_dict, {"model": {"descriptor": "chebyshev", "twojmax": 8}})
    assert "unknown key model.twojmax" in text
    chosen = config_from_dict({"model": {"radial_cutoff": 5.0}})
    assert "unknown key model.twojmax" in message(override, chosen, {"model": {"twojmax": 8}})
    assert "unknown key model.twojmx" in message(config_from_dict, {"model": {"twojmx": 8}})


def test_the_table_of_the_default_descriptor_is_that_of_its_class():
    """Written out for its ranges and choices; names, defaults and types are the signature's."""
    signature = inspect.signature(PowerSpectrum.__init__).parameters
    own = dataclasses.fields(ModelConfig)[len(dataclasses.fields(AnyModelConfig)) :]
    assert [key.name for key in own] == list(PowerSpectrum.setting_help)
    for key in own:
        assert key.default == signature[key.name].default
        assert key.type == get_type_hints(PowerSpectrum.__init__)[key.name]


@pytest.mark.parametrize("table", DOCUMENTED)
def test_every_documented_key_is_there(table):
    assert set(DOCUMENTED[table].split()) <= set(TABLES[table])


@pytest.mark.parametrize(("table", "key"), [(t, k) for t in TABLES for k in TABLES[t]])
def test_every_key_has_one_line_of_help_and_a_valid_default(table, key):
    field = TABLES[table][key]
    assert field.metadata["help"]
    assert "\n" not in field.metadata["help"]
    assert isinstance(field.metadata["choices"], tuple)
    default = getattr(getattr(default_config(), table), key)
    same = config_from_dict({table: {key: default}})
    assert getattr(getattr(same, table), key) == default
    assert type(getattr(getattr(same, table), key)) is type(default)


def test_tables_are_frozen_and_defaults_are_not_shared():
    with pytest.raises(dataclasses.FrozenInstanceError):
        default_config().training.epochs = 3
    default_config().model.hidden.append(7)
    assert 7 not in default_config().model.hidden


def test_importing_config_needs_no_array_library():
    source = (
        "import sys, fdforce; before = set(sys.modules); import fdforce.config;"
        "print({'numpy', 'numba', 'ase'} & (set(sys.modules) - before))"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-c", source],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
        cwd=Path(__file__).parents[1],
    )
    assert done.stdout.strip() == "set()"


# -- reading ---------------------------------------------------------------------------------------


def test_an_empty_file_gives_the_defaults(tmp_path):
    assert load_config(write(tmp_path, "")) == default_config() == Config()


def test_a_file_changes_what_it_names(tmp_path):
    config = load_config(write(tmp_path, "[training]\nepochs = 7\n[model]\nradial_cutoff = 4\n"))
    assert config.training.epochs == 7
    assert config.model.radial_cutoff == 4.0
    assert isinstance(config.model.radial_cutoff, float)
    assert config.optimizer == default_config().optimizer


def test_a_byte_order_mark_is_harmless(tmp_path):
    assert load_config(write(tmp_path, "\ufeff[training]\nepochs = 7\n")).training.epochs == 7


def test_files_in_a_file_start_at_its_folder(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    absolute = str(tmp_path / "b.xyz")
    text = f"[data]\ntrain = ['a.xyz', '{absolute}']\nvalid = '../v.xyz'\ntest = 0.2\n"
    write(tmp_path / "in", text)
    monkeypatch.chdir(tmp_path)
    data = load_config("in/fit.toml").data
    assert data.train == [str(tmp_path / "in" / "a.xyz"), absolute]
    assert data.valid == str(tmp_path / "v.xyz")
    assert data.test == 0.2


def test_files_in_overrides_stay_as_given(tmp_path):
    assert load_config(write(tmp_path, ""), ["data.train=a.xyz"]).data.train == ["a.xyz"]


def test_absolute_paths_understands_home_and_folder(monkeypatch):
    monkeypatch.setenv("HOME", os.path.abspath("/home/me"))
    config = config_from_dict({"data": {"train": ["~/a.xyz", "b.xyz"], "valid": ["c.xyz"]}})
    data = absolute_paths(config, os.path.abspath("/x")).data
    assert data.train == [os.path.abspath("/home/me/a.xyz"), os.path.abspath("/x/b.xyz")]
    assert data.valid == [os.path.abspath("/x/c.xyz")]
    assert data.energy_key == ""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("model.hidden=[15,15]", [15, 15]),
        ("model.hidden = [ 15, 15, ]", [15, 15]),
        ("model.activation=silu", "silu"),
        ('model.activation="silu"', "silu"),
        ("model.activation=[silu, tanh]", ["silu", "tanh"]),
        ('model.activation={O = "silu", H = ["tanh"]}', {"O": "silu", "H": ["tanh"]}),
        ("model.hidden={O = [4, 3], H = []}", {"O": [4, 3], "H": []}),
        ("data.train=a.xyz", ["a.xyz"]),
        ("data.train=a.xyz,b.xyz", ["a.xyz,b.xyz"]),
        ("data.train=[a.xyz, b.xyz]", ["a.xyz", "b.xyz"]),
        ("data.train=x=1.xyz", ["x=1.xyz"]),
        ("data.train=a[12].xyz", ["a[12].xyz"]),
        ("data.valid=0.25", 0.25),
        ("data.valid=0", 0.0),
        ("data.valid=v.xyz", "v.xyz"),
        ('data.valid=["v.xyz", "w.xyz"]', ["v.xyz", "w.xyz"]),
        ("data.energy_key=#e", "#e"),
        ("data.energy_key=", ""),
        ("model.elements=[Ti, O]", ["Ti", "O"]),
        ("model.elements=[]", []),
        ("model.elements=Si", ["Si"]),
        ("data.reference_energies={Ti = -1.5, O = -2}", {"Ti": -1.5, "O": -2.0}),
        ("finite_difference.epsilon=1e-5", 1e-5),
        ("finite_difference.epsilon=auto", "auto"),
        ("optimizer.weight_decay=0", 0.0),
    ],
)
def test_override_strings(text, value):
    table, key = text.partition("=")[0].strip().split(".")
    result = getattr(getattr(config_from_dict({}, [text]), table), key)
    assert result == value
    assert type(result) is type(value)


def test_an_override_cannot_bring_a_second_key():
    assert parse_override("data.energy_key=1\nx = 2") == {"data": {"energy_key": "1\nx = 2"}}


def test_overrides_win_over_the_file_and_the_last_one_wins(tmp_path):
    path = write(tmp_path, "[training]\nepochs = 7\nseed = 3\n")
    training = load_config(path, ["training.epochs=8", "training.epochs=9"]).training
    assert (training.epochs, training.seed) == (9, 3)


def test_override_leaves_the_original_alone():
    config = default_config()
    changed = override(config, {"training": {"epochs": 5}, "data": {"train": Path("a.xyz")}})
    assert changed.training.epochs == 5
    assert changed.data.train == ["a.xyz"]
    assert config == default_config()


def test_numbers_of_numpy_and_tuples_become_plain():
    model = {"hidden": (np.int64(3), 4), "radial_cutoff": np.float32(4.5)}
    result = config_from_dict({"model": model}).model
    assert [type(width) for width in result.hidden] == [int, int]
    assert (result.hidden, result.radial_cutoff) == ([3, 4], 4.5)


# -- messages --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[trainig]\nepochs = 3", "unknown table [trainig]; did you mean [training]?"),
        (
            "[xyz]\n",
            "unknown table [xyz]; the tables are data, model, loss, finite_difference, "
            "optimizer, training",
        ),
        ("epochs = 3", "epochs is outside its table; it belongs below [training]"),
        (
            "training = 3",
            "training = 3: expected a table, [training] with key = value lines below it",
        ),
        (
            "[training]\nepoch = 3",
            "unknown key training.epoch; did you mean training.epochs?",
        ),
        (
            "[training]\nlearning_rate = 1.0",
            "unknown key training.learning_rate; did you mean optimizer.learning_rate?",
        ),
        (
            "[finite_difference]\nqqq = 1",
            "unknown key finite_difference.qqq; the keys of [finite_difference] are epsilon, "
            "stencil, length_scale",
        ),
    ],
)
def test_unknown_names(tmp_path, text, expected):
    path = write(tmp_path, text)
    assert message(load_config, path) == f"{path}: {expected}"


def no_activation(value):
    return (
        f'model.activation = {value}: expected one of "tanh", "sigmoid", "softplus", '
        '"shifted_softplus", "silu", "celu", "relu", "linear", "gaussian", "cosine", '
        '"reverse_sigmoid", "exponential", "harmonic", "modified_tanh", "twist", or a list of '
        'these, or a table of either; did you mean "silu"?'
    )


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("training.epochs=-1", "training.epochs = -1: must be at least 0"),
        ("training.epochs=1.5", "training.epochs = 1.5: expected an integer"),
        ("training.epochs=true", "training.epochs = true: expected an integer"),
        ("training.epochs=ten", 'training.epochs = "ten": expected an integer'),
        ("training.seed=-1", "training.seed = -1: must be at least 0"),
        (
            "loss.force_weight=true",
            "loss.force_weight = true: expected a number, or a list of numbers",
        ),
        ("loss.force_weight=-1", "loss.force_weight = -1: must be at least 0"),
        ("loss.force_weight=inf", "loss.force_weight = inf: must be finite"),
        ("loss.force_weight=[0,-1]", "loss.force_weight = [0, -1]: every item must be at least 0"),
        ("loss.element_weights={H=-1}", "loss.element_weights = { H = -1 }: must be at least 0"),
        ("loss.alpha=1.5", "loss.alpha = 1.5: must be at least 0 and at most 1"),
        (
            "loss.force_fraction=1.5",
            "loss.force_fraction = 1.5: must be at least 0 and at most 1",
        ),
        ("model.cutoff=-6.0", "model.cutoff = -6.0: must be more than 0"),
        ("model.angular_cutoff=nan", "model.angular_cutoff = nan: must be finite"),
        ("model.hidden=[15,0]", "model.hidden = [15, 0]: every item must be at least 1"),
        (
            "model.hidden=15",
            "model.hidden = 15: expected a list of integers, or a table of lists of integers",
        ),
        (
            "model.hidden=[15.0]",
            "model.hidden = [15.0]: expected a list of integers, or a table of lists of integers",
        ),
        (
            "model.hidden=15,15",
            'model.hidden = "15,15": expected a list of integers, or a table of lists of integers',
        ),
        (
            "model.hidden={O=4}",
            "model.hidden = { O = 4 }: expected a list of integers, or a table of lists of "
            "integers",
        ),
        ("model.hidden={O=[0]}", "model.hidden = { O = [0] }: must be at least 1"),
        ("model.elements=[1]", "model.elements = [1]: expected a list of strings"),
        ('model.elements=[""]', 'model.elements = [""]: no item may be empty'),
        ("model.activation=Silu", no_activation('"Silu"')),
        ("model.activation=[tanh, Silu]", no_activation('["tanh", "Silu"]')),
        ("model.activation={O = 'Silu'}", no_activation('{ O = "Silu" }')),
        ("model.activation={O = ['Silu']}", no_activation('{ O = ["Silu"] }')),
        (
            "model.baseline=3",
            'model.baseline = 3: expected one of "zbl", "zbl_lammps", "calculator", "none"',
        ),
        (
            "training.device=gpu",
            'training.device = "gpu": expected one of "cpu", "cuda"; did you mean "cpu"?',
        ),
        ("data.valid=1.0", "data.valid = 1.0: must be at least 0 and less than 1"),
        ("data.test=-0.1", "data.test = -0.1: must be at least 0 and less than 1"),
        (
            "data.valid=true",
            "data.valid = true: expected a fraction, or a file, or a list of files",
        ),
        ("data.valid=", 'data.valid = "": must not be empty'),
        ("data.train=3", "data.train = 3: expected a list of files"),
        ("data.energy_key=2024-01-01", "data.energy_key = 2024-01-01: expected a string"),
        (
            "data.reference_energies={O = true}",
            "data.reference_energies = { O = true }: "
            'expected one of "fit", "isolated", or a table of numbers',
        ),
        (
            "data.reference_energies={O = nan}",
            "data.reference_energies = { O = nan }: must be finite",
        ),
        ("finite_difference.epsilon=0", "finite_difference.epsilon = 0: must be more than 0"),
        (
            "finite_difference.epsilon=small",
            'finite_difference.epsilon = "small": expected a number, or "auto"',
        ),
        (
            "loss.group_weights={bulk = [1, 2]}",
            "loss.group_weights.bulk = [1.0, 2.0]: give three numbers, for energies, forces "
            "and stresses",
        ),
        (
            "loss.group_weights={bulk = [1, -2, 3]}",
            "loss.group_weights = { bulk = [1, -2, 3] }: must be at least 0",
        ),
        ("optimizer.beta1=1", "optimizer.beta1 = 1: must be at least 0 and less than 1"),
        ("optimizer.batch_size=0", "optimizer.batch_size = 0: must be at least 1"),
        ("training.epoch=3", "unknown key training.epoch; did you mean training.epochs?"),
    ],
)
def test_values_that_are_refused(setting, expected):
    assert message(config_from_dict, {}, [setting]) == f"--set: {expected}"


def test_a_file_is_named_with_its_value(tmp_path):
    path = write(tmp_path, "[training]\nepochs = -1\n")
    assert message(load_config, path) == f"{path}: training.epochs = -1: must be at least 0"


def test_the_caller_can_name_the_source():
    changes = {"training": {"epochs": "x" * 100}}
    text = message(override, default_config(), changes, where="command line")
    assert text == f'command line: training.epochs = "{"x" * 56}...: expected an integer'


def test_rules_between_keys():
    assert message(config_from_dict, {"data": {"valid": 0.6, "test": 0.4}}) == (
        "configuration: data.valid = 0.6 and data.test = 0.4: "
        "their sum must be less than 1, or nothing is left to train on"
    )
    none = {"energy_weight": 0, "force_weight": 0, "stress_weight": 0}
    assert message(config_from_dict, {"loss": none}) == (
        "configuration: loss.energy_weight, loss.force_weight and loss.stress_weight are all 0: "
        "at least one must be more than 0"
    )
    for weights in ([], [1.0, 2.0, 3.0]):
        assert message(config_from_dict, {"loss": {"force_weight": weights}}) == (
            f"configuration: loss.force_weight = {weights}: give one number, or two, for the start "
            "and the end of the run"
        )
    faded = {name: [1.0, 0.0] for name in none}  # nothing to judge the best model by
    assert "are all 0" in message(config_from_dict, {"loss": faded})
    assert config_from_dict({"loss": {"force_weight": [0, 1]}}).loss.force_weight == [0.0, 1.0]
    wider = config_from_dict({"model": {"radial_cutoff": 4.0, "angular_cutoff": 5.0}})
    assert wider.model.angular_cutoff == 5.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epochs=5", "expected table.key=value, e.g. training.epochs=VALUE"),
        ("training.epochs", "expected table.key=value, e.g. training.epochs=100"),
        ("=5", "expected table.key=value, e.g. training.epochs=100"),
        ('model.elements=["Ti" O]', '["Ti" O] is not valid TOML; check brackets and quotes'),
        ("data.reference_energies={O}", "{O} is not valid TOML; check brackets and quotes"),
    ],
)
def test_overrides_that_are_not_overrides(text, expected):
    assert message(parse_override, text) == f"--set {text}: {expected}"


@pytest.mark.parametrize(
    ("text", "line"),
    [("[training]\nepochs 5\n", 2), ("[training]\n\nepochs = 5\nepochs = 6\n", 4), ("a = ", 1)],
)
def test_broken_toml_names_file_and_line(tmp_path, text, line):
    path = write(tmp_path, text)
    assert message(load_config, path).startswith(f"{path}, line {line}: not valid TOML: ")


def test_files_that_cannot_be_read(tmp_path):
    missing = tmp_path / "none.toml"
    assert message(load_config, missing) == (
        f"{missing}: no such file; `fdforce config > {missing}` writes a template"
    )
    assert message(load_config, tmp_path).startswith(f"{tmp_path}: cannot be read: ")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert message(load_config, binary) == f"{binary}: not a TOML file: not UTF-8 text"


# -- writing ---------------------------------------------------------------------------------------

TEXT = st.text(max_size=12)
FILES = st.text("abcé \"'\\#=[]\x7f\t", min_size=1, max_size=8).map(lambda name: f"/d/{name}z")


WIDTHS = st.lists(st.integers(1, 10**20), max_size=3)
NAMES = st.sampled_from(TABLES["model"]["activation"].metadata["choices"])


def values_of(table, key):
    """A strategy for the valid values of a key, from its type and rules."""
    field, default = TABLES[table][key], getattr(getattr(default_config(), table), key)
    rules = field.metadata
    low = rules.get("minimum", rules.get("above"))
    high = rules.get("maximum", rules.get("below"))
    numbers = st.floats(low, high, allow_nan=False, allow_infinity=False).filter(
        lambda x: x > rules.get("above", -1e400) and x < rules.get("below", 1e400)
    )
    if key in ("valid", "test"):
        return numbers.map(lambda x: x / 2) | FILES | st.lists(FILES, max_size=3)
    special = {
        "train": st.lists(FILES, max_size=3),
        "elements": st.lists(st.text(min_size=1, max_size=3), max_size=3),
        "hidden": WIDTHS | st.dictionaries(TEXT, WIDTHS, max_size=2),
        "activation": NAMES
        | st.lists(NAMES, max_size=3)
        | st.dictionaries(TEXT, NAMES | st.lists(NAMES, max_size=3), max_size=2),
        "reference_energies": st.sampled_from(rules["choices"])
        | st.dictionaries(TEXT, st.floats(allow_nan=False, allow_infinity=False), max_size=3),
        "epsilon": st.just("auto") | numbers,
        "member": st.just(-1),  # others need an ensemble and its seed
        "group_weights": st.dictionaries(
            TEXT, st.lists(st.floats(0, 1e9), min_size=3, max_size=3), max_size=2
        ),
        "element_weights": st.dictionaries(TEXT, st.floats(0, 1e9), max_size=2),
        "kind": st.sampled_from(["squared", "huber", "l1"]),  # rmse refuses some weights
    }
    if table == "loss" and key.endswith("_weight"):
        return numbers | st.lists(numbers, min_size=2, max_size=2)
    if key in special:
        return special[key]
    if rules["choices"]:
        return st.sampled_from(rules["choices"])
    kinds = {str: TEXT, int: st.integers(low), float: numbers, bool: st.booleans()}
    return kinds[type(default)]


ANY_CONFIG = st.fixed_dictionaries(
    {},
    optional={
        table: st.fixed_dictionaries({}, optional={key: values_of(table, key) for key in keys})
        for table, keys in TABLES.items()
    },
).filter(lambda mapping: any({"a": 1.0, "b": 1.0, "c": 1.0, **weights(mapping)}.values()))


def weights(mapping):
    names = {"energy_weight": "a", "force_weight": "b", "stress_weight": "c"}
    return {names[k]: end_weight(v) for k, v in mapping.get("loss", {}).items() if k in names}


@given(mapping=ANY_CONFIG, comments=st.booleans())
def test_written_text_reads_back_equal(tmp_path_factory, mapping, comments):
    config = config_from_dict(mapping)
    path = tmp_path_factory.getbasetemp() / "round_trip.toml"
    path.write_text(to_toml(config, comments=comments), encoding="utf-8")
    assert load_config(path) == absolute_paths(config)


@pytest.mark.parametrize("name", sorted(DESCRIPTORS))
def test_every_descriptor_has_its_keys(tmp_path, name):
    """Those of its class, with help, valid defaults, and a template that reads back."""
    config = config_from_dict({}, [f"model.descriptor={name}"])
    family = DESCRIPTORS[name]
    keys = keys_of(config.model)
    assert set(family.setting_help) <= set(keys)
    assert all(keys[key].metadata["help"] for key in family.setting_help)
    path = write(tmp_path, to_toml(config, comments=True))
    assert load_config(path) == absolute_paths(config)
    descriptor = family(
        elements=["Ti", "O"], **{key: getattr(config.model, key) for key in family.setting_help}
    )
    again = family(**descriptor.settings)
    assert again.settings == descriptor.settings
    assert len(descriptor.labels) == descriptor.n_features


def test_keys_of_another_descriptor():
    text = message(config_from_dict, {}, ["model.descriptor=bispectrum", "model.radial_order=3"])
    assert "model.radial_order belongs to another descriptor" in text
    assert "twojmax" in message(config_from_dict, {}, ["model.descriptor=bispectrum", "model.x=3"])
    config = config_from_dict({"model": {"hidden": [7], "radial_order": 3}})
    other = override(config, {"model": {"descriptor": "bispectrum", "twojmax": 4}})
    assert (other.model.hidden, other.model.twojmax) == ([7], 4)
    assert not hasattr(other.model, "radial_order")


def test_written_files_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = config_from_dict({"data": {"train": "a.xyz"}})
    assert tomllib.loads(to_toml(config))["data"]["train"] == [str(tmp_path / "a.xyz")]


def test_plain_text_holds_every_key_and_no_comment():
    text = to_toml(default_config())
    assert "#" not in text
    assert {t: set(keys) for t, keys in tomllib.loads(text).items()} == {
        t: set(keys) for t, keys in TABLES.items()
    }


def test_template_explains_every_key():
    text = to_toml(default_config(), comments=True)
    assert text.startswith("# Settings of `fdforce fit`. Every key may be left out.\n\n# ")
    assert max(map(len, text.splitlines())) <= 100
    joined = re.sub(r"\n#   ", " ", text)
    for keys in TABLES.values():
        for name, field in keys.items():
            comment = re.search(
                rf"^# (.*{re.escape(field.metadata['help'])}.*)\n{name} = ", joined, re.M
            )
            assert comment, name
            assert all(f'"{choice}"' in comment.group(1) for choice in field.metadata["choices"])
            assert "(default " in comment.group(1)
    assert "# wall-clock budget (s); 0 = no limit; at least 0 (default 0.0)\nmax_time = 0.0" in text


def test_template_keeps_the_default_beside_another_value():
    text = to_toml(config_from_dict({"training": {"seed": 4}}), comments=True)
    assert "at least 0 (default 0)\nseed = 4\n" in text
