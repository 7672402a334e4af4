"""The report of a run: what it says, from what it is made, and what cannot stop it."""

import json
import re
import shutil
import sys
from html.parser import HTMLParser

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

import fdforce
from fdforce.calibration import predict_members
from fdforce.comparison import (
    compare,
    errors_by_element,
    errors_by_group,
    force_error_of_structures,
    read_predictions,
    write_predictions,
)
from fdforce.epsilon_scans import read_scans
from fdforce.errors import FdforceError
from fdforce.evaluation import errors, predict
from fdforce.feature_range import find_out_of_range
from fdforce.provenance import read_sessions
from fdforce.report import run_figures, write_report
from fdforce.structures import read_structures

SMALL = {"hidden": [6], "radial_order": 4, "angular_order": 2, "threads": 1, "batch_size": 8}
NASTY = "<script>alert(1)</script>&$x_1$"
SECTIONS = (
    "Errors", "Learning curves", "Predicted against reference", "Distribution of the errors",
    "Direction of the forces", "Errors by element and group", "Worst structures", "Extrapolation",
    "Choice of ε", "Time and memory", "Settings", "Provenance", "Log",
)  # fmt: skip


def silent(line):
    pass


def alloys(number, first=0, rattle=0.08, stress=True):
    frames = []
    for k in range(number):
        atoms = bulk("Cu", cubic=True)
        atoms.symbols[0] = "Au"
        atoms.rattle(rattle, seed=first + k)
        atoms.calc = EMT()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        if stress:
            results["stress"] = atoms.get_stress()
        atoms.calc = SinglePointCalculator(atoms, **results)
        atoms.info["config_type"] = NASTY if k % 3 == 0 else "solid"
        frames.append(atoms)
    return frames


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    test = alloys(5, first=100)
    forces = test[2].get_forces()
    test[2].positions[1] += [0.7, 0.2, 0]
    test[2].calc = SinglePointCalculator(test[2], energy=-1.0, forces=forces)
    ase.io.write(folder / "train.extxyz", alloys(14))
    ase.io.write(folder / "test.extxyz", test)
    return folder


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
    """A finished run whose data files are gone."""
    out = tmp_path_factory.mktemp("runs") / "a&b"
    fdforce.fit(
        train=str(files / "train.extxyz"), test=str(files / "test.extxyz"), valid=0.2, out=out,
        epochs=3, log=silent, **SMALL,
    )  # fmt: skip
    write_report(out)
    return out


class Outline(HTMLParser):
    """Tags that are opened are closed; text and addresses are kept."""

    VOID = {"meta", "br", "img", "path", "use", "rect", "image"}

    def __init__(self, text):
        super().__init__()
        self.open, self.titles, self.addresses, self.rows = [], [], [], []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)
        self.addresses += [v for k, v in attributes if k in ("src", "href", "xlink:href")]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "h2":
            self.titles.append("")

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data
        elif self.open[-1:] == ["h2"]:
            self.titles[-1] += data


def text_of(path):
    return path.read_text(encoding="utf-8")


def row_of(outline, *start):
    (row,) = [row for row in outline.rows if row[: len(start)] == list(start)]
    return row


def test_the_report_is_whole_and_asks_for_nothing(run):
    text = text_of(run / "report.html")
    outline = Outline(text)
    assert tuple(outline.titles) == SECTIONS
    assert "<script" not in text
    assert "@import" not in text
    assert "$x_1$" in outline.text  # it is not taken for mathematics
    assert NASTY in outline.text
    for address in outline.addresses:
        assert address.startswith(("#", "data:image/png;base64,")), address
    anchors = re.findall(r'<h2 id="([^"]*)"', text)
    assert [a for a in outline.addresses if a.startswith("#section")] == [f"#{a}" for a in anchors]
    # 3 errors, loss, rate; 3 parities, 2 elements, 2 groups of energies and forces; 3 histograms;
    # angles; Err[L~] and the scan
    assert text.count("<svg") == 5 + 3 + 2 + 4 + 3 + 1 + 2
    for axis in ("force RMSE (meV/Å)", "reference energy (eV/atom)", "angle (degrees)", "Err[L̃]"):
        assert axis in outline.text


def test_the_numbers_are_those_of_the_run(run):
    outline = Outline(text_of(run / "report.html"))
    metrics = json.loads((run / "metrics.json").read_text())
    for part, name in (("train", "training"), ("valid", "validation"), ("test", "test")):
        row = next(row for row in outline.rows if row[0] == name)
        assert row[1:3] == [str(metrics[part]["n_structures"]), str(metrics[part]["n_atoms"])]
        assert row[3] == f"{1e3 * metrics[part]['energy_rmse']:.4g}"
        assert row[5] == f"{1e3 * metrics[part]['force_rmse']:.4g}"
    tables = outline.rows
    worst = next(k for k, row in enumerate(tables) if row[-1] == "error (meV/atom)") + 1
    assert tables[worst][:3] == ["test", "2", "test.extxyz[2]"]
    assert "test.extxyz[2]" in text_of(run / "report.html").split("Extrapolation</h2>")[1]
    session = read_sessions(run)[0]
    assert row_of(outline, "python")[1] == session["python"]
    for key in ("packages", "processor", "cores", "command", "ended", "peak_memory_mb"):
        assert session[key]
    assert f"numpy {np.__version__}" in row_of(outline, "packages")[1]


def test_rebuilt_without_the_data(run, files, tmp_path):
    copy = tmp_path / "a&b"
    shutil.copytree(run, copy)
    (copy / "report.html").unlink()
    hidden = files.with_name("hidden")
    files.rename(hidden)
    try:
        assert write_report(copy) == copy / "report.html"
    finally:
        hidden.rename(files)
    assert text_of(copy / "report.html") == text_of(run / "report.html")
    assert write_report(copy, tmp_path / "other.html") == tmp_path / "other.html"
    assert text_of(tmp_path / "other.html") == text_of(run / "report.html")


def test_without_matplotlib_the_tables_stay(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    path = write_report(run, tmp_path / "plain.html")
    outline = Outline(text_of(path))
    assert tuple(outline.titles) == SECTIONS
    assert "<svg" not in text_of(path)
    assert "pip install 'fdforce[plot]'" in outline.text
    assert [row for row in outline.rows if row] == Outline(text_of(run / "report.html")).rows


@pytest.mark.parametrize("epochs", [0, 2])
def test_a_run_that_was_killed(run, tmp_path, epochs):
    copy = tmp_path / "killed"
    shutil.copytree(run, copy)
    for name in ("predictions.npz", "metrics.json", "model.npz", "epsilon_scans.json"):
        (copy / name).unlink()
    lines = (copy / "history.csv").read_text().splitlines()
    # the last line was being written
    cut = [*lines[: 1 + epochs], lines[1 + epochs][:20]]
    (copy / "history.csv").write_text("\n".join(cut))
    outline = Outline(text_of(write_report(copy)))
    assert "has not come to its end" in outline.text
    assert f"{epochs} of 3 epochs" in outline.text
    assert ("Learning curves" in outline.titles) == bool(epochs)
    assert "Settings" in outline.titles
    assert "Worst structures" not in outline.titles


def test_a_run_that_goes_on_says_whose_predictions_they_are(run, tmp_path):
    copy = tmp_path / "resumed"
    shutil.copytree(run, copy)

    def stop(progress, row):
        if progress.epoch == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fdforce.fit(resume=copy, epochs=8, log=silent, on_epoch=stop)
    outline = Outline(text_of(write_report(copy)))
    assert "those of the session before" in outline.text
    assert "5 of 8 epochs" in outline.text
    fdforce.fit(resume=copy, log=silent)
    sessions = read_sessions(copy)
    assert [session["first_epoch"] for session in sessions] == [1, 4, 6]
    assert all(session["ended"] for session in sessions)
    outcomes = [session["outcome"] for session in sessions]
    assert outcomes == ["finished", "interrupted", "finished"]
    assert [session["last_epoch"] for session in sessions] == [3, 5, 8]
    assert "those of the session before" not in text_of(write_report(copy))
    scans = read_scans(copy)
    assert scans[: len(read_scans(run))] == read_scans(run)
    assert scans[0]["epoch"] == 0
    assert len(scans[0]["epsilon"]) == len(scans[0]["err_loss"])
    assert scans[0]["recommended"] > 0


@pytest.mark.parametrize("name", ["predictions.npz", "metrics.json", "provenance.json",
                                  "epsilon_scans.json", "config.toml", "history.csv"])  # fmt: skip
def test_damaged_files_do_not_stop_it(run, tmp_path, name):
    copy = tmp_path / "damaged"
    shutil.copytree(run, copy)
    (copy / name).write_bytes(b'\xff{"a": [\x00')
    assert "Settings" in Outline(text_of(write_report(copy))).titles


def test_directories_without_a_run(tmp_path):
    with pytest.raises(FdforceError, match="no such directory"):
        write_report(tmp_path / "absent")
    with pytest.raises(FdforceError, match="holds no run"):
        write_report(tmp_path)


def test_predictions_that_cannot_be_written_lose_no_run(files, tmp_path):
    lines, out = [], tmp_path / "run"
    (out / "predictions.npz").mkdir(parents=True)
    result = fdforce.fit(
        train=str(files / "train.extxyz"), out=out, epochs=1, log=lines.append, **SMALL
    )
    assert result.metrics["train"]["n_structures"] == 13
    (line,) = [line for line in lines if "predictions.npz: cannot be written" in line]
    assert line in (out / "log.txt").read_text()
    assert "has not come to its end" in text_of(write_report(out))


def test_awkward_labels_have_a_report(tmp_path):
    """One epoch, one structure without energy, one without forces, no validation."""
    frames = alloys(3, stress=False)
    del frames[0].calc.results["energy"], frames[1].calc.results["forces"]
    ase.io.write(tmp_path / "few.extxyz", frames)
    fdforce.fit(
        train=str(tmp_path / "few.extxyz"), valid=0.0, out=tmp_path / "run", epochs=1, log=silent,
        **SMALL,
    )  # fmt: skip
    outline = Outline(text_of(write_report(tmp_path / "run")))
    assert "nan" not in "".join(cell for row in outline.rows for cell in row).lower()
    assert "no structures besides those of training" in outline.text


def test_a_least_squares_fit_has_a_report(files, tmp_path):
    fdforce.fit(
        train=str(files / "train.extxyz"), out=tmp_path / "run", log=silent, threads=1,
        model={"kind": "linear", "radial_order": 4, "angular_order": 2},
        optimizer={"name": "least_squares"},
    )  # fmt: skip
    assert "nothing was differenced" in text_of(write_report(tmp_path / "run"))


@pytest.fixture(scope="module")
def ensemble(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "ensemble"
    return fdforce.fit(
        train=str(files / "train.extxyz"), test=str(files / "test.extxyz"), valid=0.2, out=out,
        epochs=3, ensemble=3, log=silent, **SMALL,
    )  # fmt: skip


def test_the_report_of_an_ensemble(ensemble):
    text = text_of(write_report(ensemble.directory))
    outline = Outline(text)
    titles = list(SECTIONS)
    titles.insert(titles.index("Direction of the forces"), "Disagreement of the members")
    assert outline.titles == titles
    errors = ensemble.metrics["test"]
    rows = [row for row in outline.rows if row]
    first = next(k for k, row in enumerate(rows) if row[0] == "test")
    own = [member["force_rmse"] for member in errors["members"]]
    for row, force in zip(
        rows[first : first + 4], (errors["force_rmse"], np.mean(own), min(own), max(own)),
        strict=True,
    ):  # fmt: skip
        assert row[5] == f"{1e3 * force:.4g}"
    calibration = errors["calibration"]["force"]
    row = row_of(outline, "test", "force")
    assert row[2] == f"{calibration['rmse_over_std']:.4g}"
    assert row[3] == f"{100 * calibration['within_1_std']:.4g}"
    assert "ensemble of 3 members, 3, 3, 3 of 3 epochs" in outline.text
    # those of an ordinary run, without its scan, and energies and forces over their deviations
    assert text.count("<svg") == 5 + 3 + 2 + 4 + 3 + 1 + 1 + 2
    assert "standard deviation of the members (meV/Å)" in outline.text
    # a line for each member
    history = np.unique(ensemble.history["member"])
    assert [row[0] for row in rows if row[1:2] == ["1"] and len(row) == 4] == [
        f"{k:.0f}" for k in history
    ]


def test_the_members_of_an_ensemble_have_reports(ensemble):
    outline = Outline(text_of(write_report(ensemble.directory / "member-1")))
    assert tuple(outline.titles) == SECTIONS


def test_an_ensemble_without_the_folders_of_its_members(ensemble, tmp_path):
    copy = tmp_path / ensemble.directory.name
    shutil.copytree(ensemble.directory, copy, ignore=shutil.ignore_patterns("member-*"))
    assert text_of(write_report(copy)) == text_of(write_report(ensemble.directory))


def test_an_ensemble_that_was_interrupted(files, tmp_path):
    def stop(progress, row):
        if (row["member"], progress.epoch) == (1, 2):
            raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fdforce.fit(
            train=str(files / "train.extxyz"), out=out, epochs=3, ensemble=3, log=silent,
            on_epoch=stop, **SMALL,
        )  # fmt: skip
    outline = Outline(text_of(write_report(out)))
    assert "ensemble of 3 members, 3, 2 of 3 epochs" in outline.text
    assert "has not come to its end" in outline.text
    assert row_of(outline, "member 1, validation")[1] == "2"
    fdforce.fit(resume=out, log=silent)
    sessions = read_sessions(out)
    assert [session["outcome"] for session in sessions] == ["interrupted", "finished"]
    assert sessions[0]["members"] == 3
    assert "has not come to its end" not in text_of(write_report(out))


def test_deviations_are_kept(ensemble, files):
    model = fdforce.load_model(ensemble.directory / "model.npz")
    structures, _ = read_structures(files / "test.extxyz", elements=model.elements)
    expected = predict_members(model, structures, threads=1)
    found = read_predictions(ensemble.directory / "predictions.npz")["test"]
    # sums over pairs in another order of the batches; kept in float32, 24 bits
    np.testing.assert_allclose(found.energy_std, expected.energy_std, rtol=1e-9)
    np.testing.assert_allclose(found.forces_std, expected.forces_std, rtol=2**-23)
    np.testing.assert_allclose(found.predicted_energies, expected.mean.energies, rtol=1e-12)
    np.testing.assert_array_equal(model.feature_min, model.member(0).feature_min)
    outside = find_out_of_range(model, structures)
    assert 0 < outside.n_structures < len(structures)
    assert found.n_extrapolating == [len(outside), outside.n_structures]


@pytest.fixture(scope="module")
def compared(run, files):
    model = fdforce.load_model(run / "model.npz")
    structures, _ = read_structures(files / "test.extxyz", elements=model.elements)
    prediction = predict(model, structures, threads=1)
    outside = find_out_of_range(model, structures)
    return structures, prediction, compare(model, structures, prediction, outside)


def test_groups_and_elements_add_up(compared):
    structures, prediction, comparison = compared
    whole = errors(structures, prediction)
    by_group, by_element = errors_by_group(comparison), errors_by_element(comparison)
    assert list(by_group) == [NASTY, "solid"]
    assert list(by_element) == ["Cu", "Au"] or list(by_element) == ["Au", "Cu"]
    for groups, key, count in (
        (by_group, "energy", "n_structures"), (by_group, "force", "n_atoms"),
        (by_element, "force", "n_atoms"),
    ):  # fmt: skip
        weights = [group[count] for group in groups.values()]
        squares = [group[f"{key}_rmse"] ** 2 for group in groups.values()]
        absolutes = [group[f"{key}_mae"] for group in groups.values()]
        # sums of some 60 float64 numbers
        assert np.average(squares, weights=weights) ** 0.5 == pytest.approx(
            whole[f"{key}_rmse"], rel=1e-12
        )
        assert np.average(absolutes, weights=weights) == pytest.approx(
            whole[f"{key}_mae"], rel=1e-12
        )
    assert set(by_group["solid"]) == set(whole)
    one = structures.select([1])
    labels = one.forces - prediction.forces[4:8]
    assert force_error_of_structures(comparison)[1] == pytest.approx(
        np.sqrt(np.mean(labels**2)), rel=1e-12
    )


def test_predictions_read_again(compared, tmp_path):
    _, _, comparison = compared
    write_predictions(tmp_path / "p.npz", {"test": comparison})
    again = read_predictions(tmp_path / "p.npz")["test"]
    np.testing.assert_array_equal(again.energies, comparison.energies)
    # forces are kept in float32: half a unit in the 24th bit
    np.testing.assert_allclose(again.forces, comparison.forces, rtol=2**-24)
    assert again.labels == comparison.labels
    assert again.extrapolating == comparison.extrapolating
    assert tuple(again.n_extrapolating) == comparison.n_extrapolating
    assert comparison.n_extrapolating[1] >= 1
    (tmp_path / "p.npz").write_bytes((tmp_path / "p.npz").read_bytes()[:-100])
    with pytest.raises(FdforceError, match="damaged"):
        read_predictions(tmp_path / "p.npz")


def test_awkward_numbers_can_be_drawn():
    """One point, equal values, zeros; warnings are errors here."""
    one, equal = np.ones(1), np.full(300, 0.5)
    scan = {"epoch": 0, "epsilon": [1e-8, 1e-7], "err_loss": [None, 1e-9], "recommended": 1e-7}
    drawn = [
        run_figures.curves(
            {"train": [(one, 2 * one)], "valid": [(one, np.nan * one)]}, "epoch", "error"
        ),
        run_figures.curves({"": [(np.arange(3.0), np.zeros(3)), (one[:0], one[:0])]}, "e", "y"),
        run_figures.deviations(one, 0 * one, "test", "eV"),
        run_figures.deviations(equal, equal, "test", "eV"),
        run_figures.parity({"test": (one, one)}, "reference", "predicted"),
        run_figures.parity({"test": (np.arange(3e4), np.arange(3e4))}, "reference", "predicted"),
        run_figures.histogram({"test": np.zeros(3)}, "error", "share"),
        run_figures.angles(one, one, "test"),
        run_figures.angles(equal, equal, "test"),
        run_figures.scans([scan, {**scan, "epoch": 4}]),
    ]
    assert all(text.startswith("<svg") for text in drawn)
    errors = {"train": np.array([0.0] * 500 + [9.0, -9.0]), "test": np.ones(3)}
    assert run_figures.outside_histogram(errors) == 2


def test_scans_that_measured_nothing(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    empty = [{"epoch": 0, "epsilon": [1e-6], "err_loss": [None], "recommended": 1e-6}]
    (copy / "epsilon_scans.json").write_text(json.dumps(empty))
    text = text_of(write_report(copy))
    assert text.count("<svg") == text_of(run / "report.html").count("<svg") - 1
