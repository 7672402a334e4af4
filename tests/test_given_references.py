"""Reference energies that are given leave the cohesive energy, which no network has to learn."""

import shutil

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

import fdforce
from fdforce.archive import read_archive, write_archive
from fdforce.checkpoint import FORMAT, load_checkpoint
from fdforce.config import default_config
from fdforce.data_set import DataSet, residual_target
from fdforce.descriptors import Chebyshev
from fdforce.errors import CheckpointError
from fdforce.formats.aenet.xsf import write_structures
from fdforce.models import ElementalNetworks
from fdforce.neighbors import build_pairs
from fdforce.problem import loss_of, output_scale
from fdforce.structures import read_structures
from tests.test_fitting import SMALL, crystals
from tests.test_n2p2_potential import energy_and_forces
from tests.test_n2p2_training import INPUT, directory

ATOMS = {"Cu": 40.0, "Au": -7.0}
"""Energies of atoms far from those that are fitted, which are near 0 in EMT (eV)."""


def silent(line):
    pass


@pytest.fixture(scope="module")
def frames():
    return crystals(6) + crystals(6, "Au")


@pytest.fixture(scope="module")
def data(frames, tmp_path_factory) -> str:
    """Crystals, and isolated atoms of 3.5 and 3.8 eV."""
    atoms = []
    for element in ATOMS:
        atoms.append(Atoms(element, info={"config_type": "IsolatedAtom"}))
        atoms[-1].calc = SinglePointCalculator(
            atoms[-1], energy=Atoms(element, calculator=EMT()).get_potential_energy()
        )
    path = tmp_path_factory.mktemp("data") / "alloy.extxyz"
    ase.io.write(path, frames + atoms)
    return str(path)


def fit(data, out, references="fit", *, training=None, **tables):
    """A small run, with weight decay, in which every label counts."""
    tables = {
        "optimizer": {"name": "adamw", "batch_size": 4}, "model": {**SMALL, "baseline": "zbl"},
        **tables,
    }  # fmt: skip
    tables["model"].pop("threads", None)
    given = {"epochs": 3, "threads": 1, "checkpoint_every": 1, **(training or {})}
    return fdforce.fit(
        train=data, valid=0.25, out=out, log=silent, training=given,
        data={"reference_energies": references}, **tables,
    )  # fmt: skip


def energies(model, frames):
    return np.array([energy_and_forces(model, atoms)[0] for atoms in frames])


def assert_alike(given, fitted, frames):
    """The same training but for round-off, which Adam's first steps make larger where a slope is
    near 0; every label of one of the runs counting for more would change the first digit."""
    for name in ("train_loss", "valid_loss", "train_energy_rmse", "train_force_rmse"):
        np.testing.assert_allclose(given.history[name], fitted.history[name], rtol=1e-6)
    np.testing.assert_allclose(
        energies(given.model, frames), energies(fitted.model, frames), atol=1e-6
    )


@pytest.fixture(scope="module")
def fitted(data, tmp_path_factory):
    return fit(data, tmp_path_factory.mktemp("fitted") / "run")


@pytest.fixture(scope="module")
def given(data, tmp_path_factory):
    return fit(data, tmp_path_factory.mktemp("given") / "run", ATOMS)


def test_training_is_that_with_fitted_ones(given, fitted, frames):
    assert_alike(given, fitted, frames)


def test_isolated_atoms(data, fitted, frames, tmp_path):
    result = fit(data, tmp_path / "run", "isolated")
    assert_alike(result, fitted, frames)
    expected = [Atoms(element, calculator=EMT()).get_potential_energy() for element in ATOMS]
    assert result.model.reference_energies.tolist() == pytest.approx(expected, abs=1e-8)  # digits


def test_the_model_has_the_references_that_were_asked_for(given, fitted):
    assert given.model.reference_energies.tolist() == [40.0, -7.0]
    moved = fitted.model.reference_energies - given.model.reference_energies
    assert np.abs(moved).min() > 5
    constants = [
        [matrices[-1][-1, 0] * result.model.scale for matrices in result.model.matrices()]
        for result in (given, fitted)
    ]
    np.testing.assert_allclose(np.subtract(*constants), moved, atol=1e-6)


def test_resumed(data, given, tmp_path):
    def interrupt(progress, row):
        if progress.epoch == 1:
            raise KeyboardInterrupt

    shutil.copytree(given.directory, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fdforce.fit(given.directory / "config.toml", out=tmp_path / "run", log=silent,
                    on_epoch=interrupt)  # fmt: skip
    result = fdforce.fit(resume=tmp_path / "run", log=silent)
    assert result.model.reference_energies.tolist() == [40.0, -7.0]
    np.testing.assert_array_equal(result.model.theta, given.model.theta)
    np.testing.assert_array_equal(result.history["train_loss"], given.history["train_loss"])


def test_a_checkpoint_of_an_earlier_version(given, fitted, tmp_path):
    """Its loss was another one, but for fitted references."""
    for number, run in enumerate((given, fitted)):
        shutil.copytree(run.directory, tmp_path / str(number))
        path = tmp_path / str(number) / "checkpoint.npz"
        header, arrays = read_archive(path, FORMAT, 1, CheckpointError)
        del arrays["reference_energies"]
        write_archive(path, header, arrays)
    with pytest.raises(CheckpointError, match="of an earlier version, which counted energies"):
        fdforce.fit(resume=tmp_path / "0", log=silent, epochs=4)
    assert len(fdforce.fit(resume=tmp_path / "1", log=silent, epochs=4).history["epoch"]) == 4


def test_members_of_an_ensemble_share_them(data, frames, tmp_path):
    results = [
        fit(data, tmp_path / name, references, training={"ensemble": 2, "epochs": 1})
        for name, references in (("given", ATOMS), ("fitted", "fit"))
    ]
    assert results[0].model.reference_energies.tolist() == [40.0, -7.0]
    assert_alike(*results, frames)
    offsets = [
        load_checkpoint(tmp_path / "given" / f"member-{k}" / "checkpoint.npz")[1][
            "model_reference_energies"
        ]
        for k in range(2)
    ]
    np.testing.assert_array_equal(*offsets)  # those of all structures, not of a member's


@pytest.mark.parametrize("optimizer", ["adamw", "kalman", "least_squares"])
def test_linear_models_have_constants_too(data, frames, tmp_path, optimizer):
    results = [
        fit(
            data, tmp_path / name, references,
            model={"kind": "linear", "radial_order": 3, "angular_order": 1},
            optimizer={"name": optimizer, **({"ridge": 1e-3} if "least" in optimizer else {})},
            training={"average": 0.0, "epochs": 1},
        )
        for name, references in (("given", ATOMS), ("fitted", "fit"))
    ]  # fmt: skip
    assert results[0].model.reference_energies.tolist() == [40.0, -7.0]
    assert_alike(*results, frames)


def test_an_output_that_is_bounded_keeps_the_constant_beside_it(data, frames, fitted, tmp_path):
    networks = {**SMALL, "activation": {"Au": ["tanh", "tanh"], "Cu": "tanh"}}
    results = [
        fit(data, tmp_path / name, references, model=dict(networks))
        for name, references in (("given", ATOMS), ("fitted", "fit"))
    ]
    assert_alike(*results, frames)
    copper, gold = results[0].model.reference_energies
    assert gold == pytest.approx(fitted.model.reference_energies[1], abs=0.5)  # ZBL is the rest
    assert copper == 40.0


@pytest.mark.parametrize("references", [ATOMS, "fit"])
def test_a_fit_that_starts_from_the_model(data, given, frames, references, tmp_path):
    """What it has learnt of the cohesive energy stays, and is not counted as an error."""
    result = fit(
        data, tmp_path / "run", references, model={},
        optimizer={"name": "adamw", "batch_size": 4, "learning_rate": 1e-12},
        training={"start_from": str(given.directory / "model.npz"), "epochs": 1},
    )  # fmt: skip
    if references == "fit":
        # all that changes is the mean error of an early model
        assert np.abs(result.model.reference_energies - [40.0, -7.0]).max() < 0.5
    else:
        assert result.model.reference_energies.tolist() == [40.0, -7.0]
        np.testing.assert_allclose(
            energies(result.model, frames), energies(given.model, frames), atol=1e-8
        )
    np.testing.assert_allclose(result.model.theta, given.model.theta, atol=1e-9)
    assert result.history["train_loss"][0] < 2 * given.history["train_loss"][-1]


# -- models and units ------------------------------------------------------------------------------


def test_other_references_leave_the_energy_as_it_is():
    model = ElementalNetworks(
        Chebyshev(("Cu", "H", "O"), 4.0, 3, 3.5, 1), {"Cu": (4,), "H": (), "O": (3, 2)},
        {"Cu": "tanh", "H": [], "O": ["tanh", "silu", "sigmoid"]}, seed=1,
    )  # fmt: skip
    model.reference_energies, model.scale = np.array([-1.0, 2.0, -3.0]), 0.3
    other = model.referred_to([40.0, -50.0, 60.0])
    assert other.reference_energies.tolist() == [40.0, -50.0, -3.0]  # O has no linear output
    atoms = Atoms("CuHOOH", np.random.default_rng(0).uniform(0, 3, (5, 3)))
    # energies of some 100 eV: 1e-12 is some 50 roundings
    assert energies(other, [atoms]) == pytest.approx(energies(model, [atoms]), abs=1e-12)
    assert model.theta[-1] == 0  # the model itself is as it was


def labelled(*entries):
    """Chains of atoms 2 Å apart with an energy; forces are 1 eV/Å along x."""
    frames = []
    for symbols, energy in entries:
        number = len(Atoms(symbols))
        atoms = Atoms(symbols, [[2.0 * k, 0, 0] for k in range(number)])
        forces = np.tile([1.0, 0, 0], (number, 1))
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        frames.append(atoms)
    structures = read_structures(frames)[0]
    return DataSet(structures, residual_target(structures), build_pairs(structures, 3.0))


def energy_unit(*entries):
    return loss_of(default_config(), labelled(*entries)).energy_unit


def with_constants(entries):
    return [(s, e + sum(ATOMS[a] for a in Atoms(s).symbols)) for s, e in entries]


ALLOYS = [("Cu", 0.0), ("Au", 0.3), ("CuAu", 0.2), ("Cu2Au", -0.4), ("Cu3", 0.6), ("Au2Cu3", 1.0)]


def test_the_unit_of_energies_is_that_of_what_composition_leaves():
    composition = np.array([[1, 0], [0, 1], [1, 1], [2, 1], [3, 0], [3, 2]], float)  # Cu Au
    values = np.array([energy for _, energy in ALLOYS])
    left = values - composition @ np.linalg.lstsq(composition, values)[0]
    expected = np.sqrt(np.mean((left / composition.sum(axis=1)) ** 2))
    # 100 eV lose two of sixteen digits
    for entries in (ALLOYS, with_constants(ALLOYS)):
        assert energy_unit(*entries) == pytest.approx(expected, rel=1e-12)


def test_energies_alone_set_the_scale_of_the_outputs():
    sets = [labelled(*entries) for entries in (ALLOYS, with_constants(ALLOYS))]
    for data in sets:
        data.target.forces[:] = np.nan
    scales = [output_scale(data) for data in sets]
    assert scales[1] == pytest.approx(scales[0], rel=1e-12)
    assert scales[0] < 0.5


def test_one_stoichiometry():
    """Cu against Au is open; the mean is taken off and the differences are left."""
    entries = ("CuAu", 20.0), ("Cu2Au2", 40.4), ("AuCu", 20.2)
    left = np.array([20.0, 40.4, 20.2]) / [2, 4, 2] - (20.0 + 2 * 40.4 + 20.2) / 12
    assert energy_unit(*entries) == pytest.approx(np.sqrt(np.mean(left**2)), rel=1e-12)


@pytest.mark.parametrize(
    "entries",
    [
        [("Cu2Au", 33.0)],
        [("Cu2Au", 33.0), ("Cu", 40.0)],
        with_constants([("Cu", 0), ("Au", 0), ("CuAu", 0), ("Cu3Au", 0)]),
        [("Cu3", -10.123457), ("Cu3", -10.123456), ("Cu3", -10.123457)],
        [("Cu3", -123456.7), ("Cu2", -82304.466666667)],
    ],
    ids=["one structure", "as many as elements", "a sum over atoms", "digits of a file", "large"],
)
def test_where_composition_leaves_nothing_the_unit_is_one(entries):
    assert energy_unit(*entries) == 1.0


# -- training directories of other programs --------------------------------------------------------


def first_epochs(folder, tmp_path, references, **settings):
    """First rows of history with the references of a directory, and with fitted ones."""
    given, fitted = (
        fdforce.fit(train=str(folder), out=tmp_path / name, log=silent, threads=1, epochs=1,
                    valid=0.25, **settings, **changes)
        for name, changes in (("own", {}), ("fitted", {"data": {"reference_energies": "fit"}}))
    )  # fmt: skip
    assert given.model.reference_energies.tolist() == pytest.approx(references, rel=1e-12)
    for name in ("train_loss", "train_energy_rmse", "train_force_rmse", "valid_energy_rmse"):
        np.testing.assert_allclose(given.history[name], fitted.history[name], rtol=1e-6)
    return given


def test_a_directory_of_n2p2(tmp_path):
    """Energies of atoms that are far off, with a mean that is not taken anew."""
    text = INPUT.replace("-75.0", "-60.0").replace("-0.5", "3.0") + "mean_energy 0.0\n"
    text += "conv_energy 1.0\nconv_length 1.0\n"
    folder = directory(tmp_path / "d", text)
    first_epochs(folder, tmp_path, [3.0, -60.0], units="ev-angstrom")


GENERATE = """OUTPUT Cu.train
TYPES
2
Au {Au}
Cu {Cu}
SETUPS
Au Au.stp
Cu Cu.stp
FILES
{number}
{files}
"""
SETUP = """ATOM {}
ENV 2
Au
Cu
RMIN 0.5d0
BASIS type=Chebyshev
radial_Rc = 4. radial_N = 3 angular_Rc = 3.0 angular_N = 1
"""
TRAIN = """TRAININGSET Cu.train.ascii
TESTPERCENT 20
ITERATIONS 1
BATCHSIZE 4
FORCES
alpha=0.1
METHOD
method=adamw lr=0.01
REGULARIZATION 0.03
NETWORKS
  Au Au.nn 1 4:tanh
  Cu Cu.nn 1 4:tanh
"""


def test_a_directory_of_aenet(frames, tmp_path):
    folder = tmp_path / "d"
    folder.mkdir()
    files = [f"s{k}.xsf" for k in range(len(frames))]
    for name, atoms in zip(files, frames, strict=True):
        write_structures(folder / name, [atoms])
    text = GENERATE.format(**ATOMS, number=len(files), files="\n".join(files))
    (folder / "generate.in").write_text(text)
    (folder / "train.in").write_text(TRAIN)
    for element in ATOMS:
        (folder / f"{element}.stp").write_text(SETUP.format(element))
    given = first_epochs(folder, tmp_path, [-7.0, 40.0])  # Au first
    assert given.history["train_energy_rmse"][0] < 1  # E_atom is off by 7 and 40 eV
