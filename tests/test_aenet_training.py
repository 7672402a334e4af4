"""Training directories of ænet and ænet-PyTorch as configurations."""

import contextlib
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fdforce.config import config_from_dict
from fdforce.errors import ConfigError, DataError, FdforceError
from fdforce.formats import TRAINING, find_module, recognised_training
from fdforce.problem import new_model

AENET = find_module(TRAINING, "aenet")
GOLDEN = Path(__file__).parent / "golden"
BEHLER = GOLDEN / "own" / "aenet" / "water_behler"

GENERATE = """OUTPUT Ti.train
! the energy of an atom
TYPES
2
O  -1.5d0 ! eV
Ti -2.5
SETUPS
Ti Ti.stp
O  O.stp
forces
forcespercent 25
FILES
2
structures/a.xsf
structures/b.xsf
"""

SETUP = """DESCR
 Atomic environment
 ENV of no meaning
END DESCR
ATOM {}
ENV 2
Ti
O
RMIN 0.5d0
BASIS type=Chebyshev
radial_Rc = 4.  radial_N = 3 angular_Rc=3.0d0 angular_N = 2"""

PYTORCH = """TRAININGSET Ti.train.ascii
TESTPERCENT 20
ITERATIONS  7
BATCHSIZE   16
NPSEED 3
PHSEED 2
MAXFORCES 10
FORCES
alpha=0.1
METHOD
method=adamw lr=0.001
REGULARIZATION 0.02
NETWORKS
  O  O.nn  2  5:tanh 5:tanh
  Ti Ti.nn 2  5:tanh 5:tanh
"""

FORTRAN = """TRAININGSET Ti.train
ITERATIONS 5
METHOD
{}
NETWORKS
  Ti Ti.nn 2 6:twist 4:sigmoid
  O  O.nn  1 5:t
"""

STRUCTURE = "# total energy = -9 eV\nATOMS\nTi 0 0 0 0 0 0\nO 0 0 1.8 0 0 0\n"


@pytest.fixture
def folder(tmp_path):
    return fill(tmp_path)


def fill(folder):
    (folder / "structures").mkdir(exist_ok=True)
    (folder / "generate.in").write_text(GENERATE)
    (folder / "train.in").write_text(PYTORCH)
    for name in ("Ti", "O"):
        (folder / f"{name}.stp").write_text(SETUP.format(name))
    for name in "ab":
        (folder / "structures" / f"{name}.xsf").write_text(STRUCTURE)
    return folder


def test_aenet_pytorch(folder):
    assert recognised_training(folder) is AENET
    training = AENET.read_training(folder)
    config = config_from_dict(training.tables)
    data, model, loss = config.data, config.model, config.loss
    assert data.train == [str(folder / "structures" / f"{name}.xsf") for name in "ab"]
    assert data.reference_energies == {"O": -1.5, "Ti": -2.5}
    assert (data.valid, data.test) == (0.2, 0.0)
    assert (model.descriptor, model.elements, model.baseline) == ("chebyshev", ["Ti", "O"], "none")
    assert (model.radial_cutoff, model.radial_order) == (4, 3)
    assert (model.angular_cutoff, model.angular_order) == (3, 2)
    assert (model.hidden, model.activation) == ([5, 5], "tanh")
    assert (loss.kind, loss.alpha, loss.force_fraction) == ("rmse", 0.1, 0.25)
    assert loss.stress_weight == 0
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.learning_rate) == ("adamw", 0.001)
    assert (optimizer.batch_size, optimizer.weight_decay) == (16, 0.02)
    assert (config.training.epochs, config.training.seed) == (7, 3)
    assert config.training.schedule == "constant"
    said = "\n".join(training.notes)
    for word in ("OUTPUT", "TRAININGSET", "PHSEED", "MAXFORCES 10", "RMIN", "TESTPERCENT 20"):
        assert word in said
    for word in ("ITERATIONS", "NPSEED", "NETWORKS", "METHOD", "FILES"):
        assert f": {word} " not in said
    new_model(config, model.elements)


def test_aenet_itself(folder):
    def read(method):
        (folder / "train.in").write_text(FORTRAN.format(method))
        training = AENET.read_training(folder)
        return config_from_dict(training.tables), "\n".join(training.notes)

    config, said = read("bfgs")
    assert config.optimizer.name == "lbfgs"
    assert config.model.hidden == {"Ti": [6, 4], "O": [5]}
    assert config.model.activation == {"Ti": ["twist", "sigmoid"], "O": "tanh"}
    assert (config.loss.kind, config.loss.force_weight) == ("squared", 0)
    assert config.data.valid == 0.1
    assert "learns from energies alone" in said
    config, said = read("adam mu=0.002 b1=0.8 eps=1.d-8 batchsize=4")
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.learning_rate) == ("adam", 0.002)
    assert (optimizer.beta1, optimizer.beta2, optimizer.batch_size) == (0.8, 0.999, 4)
    assert "eps=1.d-8 is not used" in said
    config, said = read("online_sd gamma=5.0d-1 alpha=0.02")
    assert (config.optimizer.name, config.optimizer.learning_rate) == ("sgd", 0.02)
    config, said = read("ekf lambda=0.99")
    assert config.optimizer.name == "kalman"
    assert "lambda=0.99 is not used" in said
    with pytest.raises(DataError, match=r"train\.in, line 4: 'magic'"):
        read("magic")


def test_setups_of_their_own_and_behler(folder):
    text = SETUP.format("O").replace("radial_N = 3", "radial_N = 4").replace("Ti\nO\n", "O\nTi\n")
    (folder / "O.stp").write_text(text)
    config = config_from_dict(AENET.read_training(folder).tables)
    assert config.model.descriptor == "elemental_chebyshev"
    model = new_model(config, config.model.elements)
    ti, o = (model.descriptor.descriptors[model.elements.index(name)] for name in ("Ti", "O"))
    assert (ti.radial_order, ti.environment) == (3, ("Ti", "O"))
    assert (o.radial_order, o.environment) == (4, ("O", "Ti"))

    text = GENERATE.replace("Ti", "H")
    (folder / "generate.in").write_text(text.replace("O  -1.5d0 ! eV\nH -2.5", "H -2.5\nO -1.5"))
    (folder / "train.in").unlink()
    for name in ("H", "O"):
        shutil.copyfile(BEHLER / f"{name}.stp", folder / f"{name}.stp")
    training = AENET.read_training(folder)
    config = config_from_dict(training.tables)
    assert (config.model.descriptor, config.model.order) == ("symmetry_functions", "given")
    assert len(config.model.functions) == 34
    assert "no train.in" in "\n".join(training.notes)
    (folder / "generate.in").write_text(text)
    with pytest.raises(DataError, match="ænet evaluates Behler2011 wrongly"):
        AENET.read_training(folder)


@pytest.mark.parametrize("case", ["hco_cheb", "ti_cheb", "tio2_cheb", "water_cheb"])
def test_setups_and_networks_name_one_descriptor(case):
    config = config_from_dict(AENET.read_training(GOLDEN / "aenet" / case).tables)
    model = new_model(config, config.model.elements)
    potential = AENET.read_potential(GOLDEN / "aenet" / case)
    assert model.descriptor.settings == potential.descriptor.settings
    assert len(config.data.train) == len(list((GOLDEN / "aenet" / case).glob("*.xsf")))


def test_where_the_inputs_are(folder):
    (folder / "02-train").mkdir()
    (folder / "train.in").rename(folder / "02-train" / "train.in")
    assert AENET.read_training(folder).tables["training"]["epochs"] == 7
    (folder / "generate.in").rename(folder / "other.in")
    assert AENET.read_training(folder).tables["training"]["epochs"] == 7
    shutil.copyfile(folder / "other.in", folder / "third.in")
    with pytest.raises(DataError, match=r"other\.in and third\.in are both inputs"):
        AENET.read_training(folder)
    for name in ("other.in", "third.in"):
        (folder / name).unlink()
    with pytest.raises(DataError, match=r"train\.in, but no generate\.in"):
        AENET.read_training(folder)
    shutil.rmtree(folder / "02-train")
    assert recognised_training(folder) is None
    with pytest.raises(ConfigError, match="hartree-bohr"):
        AENET.read_training(folder, units="hartree-bohr")


def test_cohesive_energies_need_no_others(folder):
    for name in "ab":
        text = STRUCTURE.replace("total", "cohesive")
        (folder / "structures" / f"{name}.xsf").write_text(text)
    training = AENET.read_training(folder)
    assert training.tables["data"]["reference_energies"] == {"O": 0, "Ti": 0}
    assert "cohesive" in "\n".join(training.notes)
    (folder / "structures" / "a.xsf").write_text(STRUCTURE)
    with pytest.raises(DataError, match="keep them apart"):
        AENET.read_training(folder)


def test_comments_in_utf8(folder):
    """The second byte of Å is a line end of Latin-1."""
    expected = AENET.read_training(folder).tables
    for file in ("generate.in", "train.in", "Ti.stp"):
        text = (folder / file).read_text()
        (folder / file).write_text("! cutoffs in Å of one\n" + text, encoding="utf-8")
    assert AENET.read_training(folder).tables == expected


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("generate.in", "b.xsf", "c.xsf", r"generate\.in, line 15: structures/c\.xsf: no such"),
        ("generate.in", "FILES\n2", "FILES\n3", r"line 13: FILES: 3 lines, but 2 follow"),
        ("generate.in", "O  -1.5d0", "O  much", r"line 5: energy of an atom: 'much' is not"),
        ("generate.in", "O  -1.5d0", "Xx -1", r"line 5: 'Xx -1 ! eV': expected an element"),
        ("generate.in", "Ti Ti.stp", "Ti O.stp", r"line 8: O\.stp is the setup of O"),
        ("generate.in", "Ti Ti.stp", "Ti C.stp", r"C\.stp: cannot be read: No such file"),
        ("generate.in", "percent 25", "percent 0", r"FORCESPERCENT 0\.0, expected"),
        ("Ti.stp", "ENV 2", "ENV 3", r"Ti\.stp, line 9: ENV: 'RMIN', expected 3"),
        ("Ti.stp", "ENV 2", "ENV 1", r"Ti\.stp, line 8: 'O': unknown keyword O"),
        ("Ti.stp", "radial_N = 3", "", r"Ti\.stp, line 11: no radial_N"),
        ("Ti.stp", "radial_N = 3", "radial_N = 3.5", r"line 11: radial_N: '3\.5' is not a whole"),
        ("Ti.stp", "type=Chebyshev", "type=Magic", r"line 10: .* expected BASIS type=Chebyshev"),
        ("Ti.stp", "Ti\nO\n", "Ti\nN\n", r"ENV of Ti is Ti N, but the elements are O Ti"),
        ("train.in", "20\n", "100\n", r"TESTPERCENT 100\.0, expected 0 to below 100"),
        ("train.in", "O.nn  2", "O.nn  3", r"train\.in, line 14: 3 hidden layers, but 2 nodes"),
        ("train.in", "5:tanh\n  Ti", "5:relu\n  Ti", r"line 14: 5:relu: expected nodes:activation"),
        ("train.in", "alpha=0.1", "beta=0.1", r"line 9: 'beta=0\.1': expected alpha="),
        ("train.in", "ITERATIONS  7", "ITERATIONS", r"line 3: ITERATIONS has no value"),
        ("train.in", "adamw", "soap", r"line 11: 'soap': expected adam,"),
    ],
)
def test_mistakes_are_named(folder, file, old, new, message):
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    with pytest.raises(DataError, match=message):
        AENET.read_training(folder)


@given(data=st.data(), file=st.sampled_from(["generate.in", "train.in", "Ti.stp"]))
def test_damaged_files_raise_nothing_else(tmp_path_factory, data, file):
    folder = fill(tmp_path_factory.getbasetemp())
    content = bytearray((folder / file).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        length = data.draw(st.sampled_from([0, 1, 1, 4, 40]))
        content[at : at + length] = data.draw(st.binary(max_size=6))
    (folder / file).write_bytes(content)
    if recognised_training(folder) is None:
        return
    with contextlib.suppress(FdforceError):
        config_from_dict(AENET.read_training(folder).tables)
