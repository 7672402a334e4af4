"""FitSNAP's folders of structures and input files."""

import json
import re
import tarfile
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fdforce import FdforceError, fit
from fdforce.config import config_from_dict
from fdforce.errors import DataError
from fdforce.formats import fitsnap_input, fitsnap_json, recognised, recognised_training
from fdforce.structure_files import read_file
from fdforce.structures import read_structures

SHARED = Path(__file__).parents[1].parent / "shared"
INPUT = """\
[BISPECTRUM]
numTypes = 2
twojmax = 2 2
rcutfac = 4.5
rfac0 = 0.99363
rmin0 = 0.0
wj = 1.0 0.9   # a comment
radelem = 0.5 0.45
type = Cu Au
bzeroflag = 0
[CALCULATOR]
calculator = LAMMPSSNAP
energy = 1
force = 1
stress = 1
[ESHIFT]
Cu = 0.5
Au = 0.0
[SCRAPER]
scraper = JSON
[PATH]
dataPath = JSON
[REFERENCE]
units = metal
pair_style = hybrid/overlay zero 10.0 zbl 1.5 2.5
pair_coeff1 = * * zero
pair_coeff2 = 1 1 zbl 29 29
pair_coeff3 = 1*2 2 zbl 29 79
pair_coeff4 = 2 2 zbl 79 79
[GROUPS]
group_sections = name training_size testing_size eweight fweight vweight
group_types = str float float float float float
Rattled = 1.0 0.0 100 2 1e-8
Strained = 1.0 0.0 10 1 1e-5
[EXTRAS]
dump_truth = 1
"""


def shared(name):
    path = SHARED / name
    if not path.exists():
        pytest.skip("../shared is absent")
    return path


def frames():
    """Two groups of two structures."""
    found = {}
    for k, group in enumerate(("Rattled", "Strained")):
        for number in (1, 10):
            atoms = bulk("Cu", a=3.7, cubic=True) * (1, 1, 1 + k)
            atoms.symbols[1] = "Au"
            atoms.rattle(0.1, seed=k + number)
            atoms.set_cell(
                atoms.cell.array @ [[1, 0, 0], [0.01 * number, 1, 0], [0, 0, 1.02]],
                scale_atoms=True,
            )
            atoms.calc = EMT()
            found[group, f"s_{number}.json"] = atoms
    return found


def contents(atoms, **changes):
    """The text of a file of FitSNAP."""
    pressure = -atoms.get_stress(voigt=False) * 1.602176634e6
    data = {
        "Energy": atoms.get_potential_energy(),
        "AtomTypes": atoms.get_chemical_symbols(),
        "NumAtoms": len(atoms),
        "Lattice": atoms.cell.array.tolist(),
        "Positions": atoms.positions.tolist(),
        "Forces": atoms.get_forces().tolist(),
        "Stress": pressure.tolist(),
    }
    dataset = {"Data": [data], "StressStyle": "bar", "EnergyStyle": "electronvolt"}
    for key, value in changes.items():
        (dataset if key.endswith("Style") else data)[key] = value
    return "# a comment\n" + json.dumps({"Dataset": dataset})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("fitsnap")
    for (group, name), atoms in frames().items():
        path = made / "JSON" / group / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(contents(atoms))
    (made / "Cu.in").write_text(INPUT)
    return made


def test_folder_of_groups(folder):
    assert recognised(folder / "JSON") is fitsnap_json
    found = read_file(folder / "JSON")
    assert [a.info["config_type"] for a in found] == ["Rattled"] * 2 + ["Strained"] * 2
    for atoms in found:
        expected = frames()[atoms.info["config_type"], atoms.info["source_file"]]
        assert (atoms.positions == expected.positions).all()
        assert atoms.get_potential_energy() == expected.get_potential_energy()
        assert (atoms.get_forces() == expected.get_forces()).all()
        # through bar and back: two roundings
        assert atoms.get_stress() == pytest.approx(expected.get_stress(), rel=1e-15, abs=1e-18)
    group = read_file(folder / "JSON" / "Rattled")
    assert [a.info["source_file"] for a in group] == ["s_1.json", "s_10.json"]
    (one,) = read_file(folder / "JSON" / "Strained" / "s_10.json")
    assert one.info["config_type"] == "Strained"
    structures, _ = read_structures(folder / "JSON")
    assert structures.has_stress.all()


def test_other_folders_are_not_recognised(tmp_path):
    assert recognised(tmp_path) is None
    (tmp_path / "a.json").write_text('{"something": "Dataset"}')
    assert recognised(tmp_path) is None
    assert recognised(tmp_path / "a.json") is None


def test_units(tmp_path):
    atoms = next(iter(frames().values()))
    path = tmp_path / "a.json"
    path.write_text(
        contents(atoms, StressStyle="kB", LatticeStyle="bohr", PositionsStyle="bohr").partition(
            "\n"
        )[2]  # and no comment
    )
    (found,) = read_file(path)
    assert found.positions == pytest.approx(0.529177210903 * atoms.positions, rel=1e-14)
    assert found.get_stress() == pytest.approx(1e3 * atoms.get_stress(), rel=1e-14, abs=1e-16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"EnergyStyle": "hartree"}, "EnergyStyle 'hartree' is none of electronvolt"),
        ({"NumAtoms": 3}, "NumAtoms is 3, AtomTypes has 4"),
        ({"AtomTypes": ["Cu", "Xq", "Cu", "Cu"]}, "AtomTypes holds 'Xq', which is no element"),
        ({"Energy": "low"}, "Energy is not one number"),
        ({"Energy": True}, "Energy is not one number"),
        ({"Energy": float("nan")}, "Energy holds nan"),
        ({"Forces": [[0, 0, 0]]}, "Forces is not 4 x 3 numbers"),
        ({"Lattice": [[1, 0, 0], [2, 0, 0], [0, 0, 1]]}, "the cell is singular"),
        ({"Positions": None}, "Positions is not 4 x 3 numbers"),
    ],
)
def test_damaged_structures(tmp_path, change, message):
    path = tmp_path / "a.json"
    path.write_text(contents(next(iter(frames().values())), **change))
    with pytest.raises(DataError, match=re.escape(message)):
        read_file(path)


def test_input_file(folder):
    for path in (folder, folder / "Cu.in"):
        assert recognised_training(path) is fitsnap_input
    training = fitsnap_input.read_training(folder)
    config = config_from_dict(training.tables)  # every key is known
    model, loss = config.model, config.loss
    assert [Path(path).name for path in config.data.train] == ["Rattled", "Strained"]
    assert config.data.valid == 0
    assert config.data.reference_energies == {"Cu": -0.5, "Au": 0}
    assert (model.kind, model.descriptor, model.elements) == ("linear", "bispectrum", ["Cu", "Au"])
    assert (model.twojmax, model.rcutfac, model.bzeroflag) == (2, 4.5, 0)
    assert (model.radelem, model.wj) == ([0.5, 0.45], [1.0, 0.9])
    assert (model.baseline, model.baseline_inner, model.baseline_outer) == ("zbl_lammps", 1.5, 2.5)
    assert config.optimizer.name == "least_squares"
    # sum (100 dE/n)^2 + (2 dF)^2 + (1e-8 dP in bar)^2, the loss times the number of structures
    assert (loss.normalise, loss.energy_weight, loss.force_weight) == (False, 1, 3 * 6)
    assert loss.group_weights["Rattled"][:2] == [1e4, 4]
    volumes = [a.get_volume() / len(a) for (g, _), a in frames().items() if g == "Rattled"]
    weight = loss.stress_weight * loss.group_weights["Rattled"][2] / 9
    expected = (1e-8 * 1.602176634e6) ** 2 * np.mean(1 / np.array(volumes) ** 2)
    assert weight == pytest.approx(expected, rel=1e-12)
    notes = "\n".join(training.notes)
    assert "[EXTRAS] dump_truth: not read" in notes
    assert "ESHIFT" in notes


def test_the_loss_is_that_of_fitsnap(folder, tmp_path):
    """The value of the loss after a fit, from the errors themselves."""
    tables = fitsnap_input.read_training(folder).tables
    tables["loss"]["stress_weight"] = 0.0  # of which the group means are an approximation
    result = fit(tables, out=tmp_path / "run", threads=1, log=lambda line: None)
    from fdforce import Calculator

    value = 0.0
    for (group, _), atoms in frames().items():
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = Calculator(result.model, threads=1)
        e, f = {"Rattled": (100, 2), "Strained": (10, 1)}[group]
        value += (e * (atoms.get_potential_energy() - energy) / len(atoms)) ** 2
        value += np.sum((f * (atoms.get_forces() - forces)) ** 2)
    rows = np.genfromtxt(result.directory / "history.csv", delimiter=",", names=True)
    # sums of squares of errors that lose 1e-12 of labels of order 1, errors of order 1e-2
    assert 4 * float(rows["train_loss"]) == pytest.approx(value, rel=1e-8)
    assert value > 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("twojmax = 2 2", "twojmax = 2 4"), r"line 3: \[BISPECTRUM\] twojmax: one value for all"),
        (("LAMMPSSNAP", "LAMMPSPACE"), "calculator: LAMMPSPACE is not supported"),
        (("scraper = JSON", "scraper = XYZ"), "scraper: XYZ is not supported"),
        (("zbl 1.5 2.5", "zbl 1.5 2.5 coul/cut 9"), "pair_style: hybrid/overlay zero 10.0 zbl"),
        (("zbl 29 79", "zbl 29 78"), "zbl of Cu and Au has the charges"),
        (("pair_coeff4 = 2 2 zbl 79 79", ""), "zbl of Au and Au has the charges"),
        (("wj = 1.0 0.9", "wj = 1.0"), "wj: 1 values for 2 elements"),
        (("Rattled = 1.0 0.0", "Rattled = 1.0"), "4 values for the columns training_size"),
        (("Rattled = 1.0", "Absent = 1.0"), "holds no .json files"),
        (("rcutfac = 4.5", "rcutfac = four"), "line 4: .*rcutfac: four: a number is expected"),
        (("rcutfac = 4.5", "rcutfac = 4.5\nrcutfac = 4"), "not a FitSNAP input file .*already"),
        (("energy = 1\nforce = 1\nstress = 1", "energy=0\nforce=0\nstress=0"), "are all 0"),
    ],
)
def test_input_files_that_are_refused(folder, change, message):
    path = folder / "other.in"
    assert change[0] in INPUT
    path.write_text(INPUT.replace(*change))
    try:
        with pytest.raises(DataError, match=message):
            fitsnap_input.read_training(path)
        with pytest.raises(DataError, match=r"one FitSNAP input file .*: Cu.in, other.in"):
            fitsnap_input.read_training(folder)
    finally:
        path.unlink()


def test_network(folder, tmp_path):
    path = folder / "network" / "a.in"
    path.parent.mkdir(exist_ok=True)
    text = INPUT.replace("energy = 1", "energy = 1\nnonlinear = 1")
    text = text.replace("dataPath = JSON", "dataPath = ../JSON")
    path.write_text(text + "[PYTORCH]\nlayer_sizes = num_desc 20 10 1\nnum_epochs = 3\n")
    training = fitsnap_input.read_training(path)
    config = config_from_dict(training.tables)
    assert (config.model.kind, config.model.hidden) == ("elemental_networks", [20, 10])
    assert config.model.activation == "softplus"
    assert any("num_epochs: not read" in note for note in training.notes)


@pytest.fixture(scope="module")
def tantalum(tmp_path_factory):
    """FitSNAP's own example."""
    made = tmp_path_factory.mktemp("Ta")
    source = shared("data/formats/fitsnap_json")
    (made / "Ta-example.in").write_text((source / "Ta-example.in").read_text())
    with tarfile.open(source / "Ta_JSON.tar.gz") as archive:
        archive.extractall(made, filter="data")
    return made


def test_published_structures(tantalum):
    """All 363, against the same ones converted by others."""
    expected = {
        (a.info["config_type"], a.info["source_file"]): a
        for a in ase.io.read(shared("data/ta_snap.extxyz.gz"), ":")
    }
    found = read_file(tantalum / "JSON")
    assert len(found) == len(expected) == 363
    for atoms in found:
        other = expected[atoms.info["config_type"], atoms.info["source_file"]]
        assert atoms.get_potential_energy() == other.get_potential_energy()
        assert (atoms.get_forces() == other.get_forces()).all()
        # written with 16 digits by the one, read by the other
        assert atoms.get_stress() == pytest.approx(other.get_stress(), rel=1e-14, abs=1e-18)


@pytest.mark.slow
def test_published_fit(tantalum, tmp_path):
    """Errors of FitSNAP's fit, from its input file alone."""
    tables = fitsnap_input.read_training(tantalum).tables
    result = fit(tables, out=tmp_path / "run", threads=1, log=lambda line: None)
    errors = result.metrics["train"]
    # Ta_metrics.md: stresses, the one term that differs, weigh little
    assert errors["energy_mae"] == pytest.approx(0.112787, rel=1e-3)
    assert errors["energy_rmse"] == pytest.approx(0.379769, rel=1e-3)
    assert errors["force_mae"] == pytest.approx(0.0757576, rel=1e-3)
    assert errors["force_rmse"] == pytest.approx(0.160973, rel=1e-3)


texts = st.sampled_from(
    ["0", "1", "-1", "1e999", "nan", "[", "]", "{", "}", '"', ",", "null", "Cu", "=", "\n", "#", ""]
)


@given(data=st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_fuzzed_structures(data, tmp_path):
    parts = re.split(r"([\s,\[\]{}:]+)", contents(next(iter(frames().values()))))
    for _ in range(data.draw(st.integers(1, 3))):
        k = data.draw(st.integers(0, len(parts) - 1))
        parts[k] = data.draw(texts | st.text(max_size=3))
    path = tmp_path / "a.json"
    path.write_bytes("".join(parts).encode("utf-8", "surrogatepass"))
    try:
        found = list(fitsnap_json.read_structures(path))
    except FdforceError:
        return
    for atoms in found:
        assert np.isfinite(atoms.positions).all()
        assert all(np.isfinite(value).all() for value in atoms.calc.results.values())


@given(data=st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_fuzzed_input(data, folder):
    parts = re.split(r"(\s+)", INPUT)
    for _ in range(data.draw(st.integers(1, 3))):
        k = data.draw(st.integers(0, len(parts) - 1))
        parts[k] = data.draw(texts | st.text(max_size=3))
    path = folder / "fuzz" / "a.in"
    path.parent.mkdir(exist_ok=True)
    text = "".join(parts).replace("dataPath = JSON", "dataPath = ../JSON")
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    if recognised_training(path) is None:
        return
    try:
        tables = fitsnap_input.read_training(path).tables
        config_from_dict(tables)
    except FdforceError:
        return
