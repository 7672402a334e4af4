"""The code blocks of the documentation run as they stand."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fdforce.cli import main
from fdforce.examples import example_files
from fdforce.structure_files import read_file

DOCS = Path(__file__).resolve().parents[1] / "docs"


def blocks(page, language):
    text = (DOCS / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's folder with the example code in it."""
    shutil.copy(DOCS / "examples/mycode.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "mycode", raising=False)
    return tmp_path


def test_add_force_training(folder, capsys):
    namespace = {}
    for block in blocks("add_force_training.md", "python"):
        exec(compile(block, "add_force_training.md", "exec"), namespace)
    assert namespace["after"] < 0.6 * namespace["before"]
    printed = capsys.readouterr().out.strip()
    assert f"`{printed}`" in (DOCS / "add_force_training.md").read_text()
    # the gradient of the page is that of the loss
    loss, x = namespace["loss_and_gradient"], namespace["start"]
    direction = np.random.default_rng(0).normal(size=x.shape)
    slope = (loss(x + 1e-5 * direction)[0] - loss(x - 1e-5 * direction)[0]) / 2e-5
    assert slope == pytest.approx(loss(x)[1] @ direction, rel=1e-7)


def test_the_example_code_passes_its_check(folder):
    (command,) = [c for c in blocks("add_force_training.md", "bash") if "epsilon" in c]
    import ase.io

    ase.io.write("ethanol.extxyz", read_file(example_files("ethanol")[1])[:4])
    result = CliRunner().invoke(main, command.split()[1:])
    assert result.exit_code == 0, result.output
    assert "consistent with the energies: forces, dE/dtheta" in result.output
