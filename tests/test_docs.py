"""The code blocks of the documentation run as they stand."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import fdforce
from fdforce.cli import main
from fdforce.config import TABLES, config_from_dict, model_config
from fdforce.descriptors import DESCRIPTORS
from fdforce.examples import example_files
from fdforce.losses import LOSSES
from fdforce.structure_files import read_file
from tests.checks import batch_of, symmetric
from tests.naive.chebyshev import neighbours
from tests.systems import SYSTEMS

DOCS = Path(__file__).resolve().parents[1] / "docs"


def blocks(page, language):
    text = (DOCS / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's folder with the examples in it."""
    for name in ("mycode", "gaussians"):
        shutil.copy(DOCS / f"examples/{name}.py", tmp_path)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
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


def test_losses():
    (block,) = blocks("losses.md", "toml")
    loss = config_from_dict(tomllib.loads(block)).loss
    assert (loss.energy_weight, loss.force_weight) == ([1.0, 20.0], [0.0, 1.0])
    page = (DOCS / "losses.md").read_text()
    kinds = re.findall(r"^\| `(\w+)` \|", page[: page.index("## Weights")], flags=re.MULTILINE)
    assert kinds == ["kind", *LOSSES]
    keys = set(re.findall(r"`(\w+)", page))
    assert set(TABLES["loss"]) - {"kind"} <= keys


def test_descriptors(capsys):
    for block in blocks("descriptors.md", "python"):
        exec(compile(block, "descriptors.md", "exec"), {})
    assert capsys.readouterr().out == "(3, 3) [3, 2]\n46 [33, 39, 33] 20\n"


def test_ensembles(folder, capsys):
    import ase.io

    frames = read_file(example_files("ethanol")[1])
    ase.io.write("train.extxyz", frames[::15])
    ase.io.write("test.extxyz", frames[5::60])
    namespace = {}
    for block in blocks("ensembles.md", "python"):
        exec(compile(block, "ensembles.md", "exec"), namespace)
    assert capsys.readouterr().out.endswith("3 ['energy', 'force']\n(9, 3)\n")
    assert (fdforce.load_model("best.npz").theta == namespace["ensemble"].theta[1]).all()
    assert len(fdforce.load_model("two.npz")) == 2


#: A client that waits for its server.
WHEN_SERVED = """\
import time, fdforce
while True:
    try:
        exec('''{}''')
        break
    except (FileNotFoundError, ConnectionRefusedError):
        time.sleep(0.1)
"""


@pytest.fixture
def potentials(folder):
    """Quick models of the examples."""
    import ase.io

    for name, every, settings in (
        ("ethanol", 4, dict(hidden=[16], epochs=40)),
        ("diamond", 6, dict(model={"kind": "linear"}, optimizer={"name": "least_squares"})),
    ):
        ase.io.write("train.extxyz", read_file(example_files(name)[0])[::every])
        model = {"radial_order": 6, "angular_order": 3} | settings.pop("model", {})
        result = fdforce.fit(train="train.extxyz", model=model, out=name, threads=1, **settings)
        shutil.copy(result.directory / "model.npz", f"{name}.npz")


def test_dynamics(potentials, folder, capsys):
    import ase.io
    from ase.build import molecule

    found, namespace = blocks("dynamics.md", "python"), {}
    socket = f"fdforce-{os.getpid()}"
    found = [block.replace('unixsocket="fdforce"', f'unixsocket="{socket}"') for block in found]
    *ordinary, client, server = found
    capsys.readouterr()
    for block in ordinary:
        exec(compile(block, "dynamics.md", "exec"), namespace)
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        "21 True", "21 True True", "3.6 Å", "(1, 9, 6) True", "True True",
    ]  # fmt: skip

    ase.io.write("start.xyz", molecule("CH3CH2OH"))
    (folder / "client.py").write_text(WHEN_SERVED.format(client))
    environment = {**os.environ, "PYTHONPATH": str(DOCS.parent)}
    process = subprocess.Popen([sys.executable, "client.py"], env=environment)
    try:
        exec(compile(server, "dynamics.md", "exec"), namespace)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
    assert capsys.readouterr().out == "True\n"
    remote = namespace["remote"]
    here = remote.copy()
    here.calc = fdforce.Calculator("ethanol.npz", threads=1)
    # there and back through hartree and bohr; both from neighbour lists of their own
    assert here.get_potential_energy() == pytest.approx(remote.calc.results["energy"], rel=1e-12)
    assert here.get_forces() == pytest.approx(remote.calc.results["forces"], abs=1e-9)


@pytest.fixture
def gaussians(folder, monkeypatch):
    monkeypatch.setattr("fdforce.descriptors.DESCRIPTORS", dict(DESCRIPTORS))
    model_config.cache_clear()
    yield __import__("gaussians")
    model_config.cache_clear()


def test_add_a_descriptor(gaussians, folder, capsys):
    namespace = {}
    for block in blocks("add_a_descriptor.md", "python"):
        exec(compile(block, "add_a_descriptor.md", "exec"), namespace)
    assert capsys.readouterr().out.endswith("eV/Å\n['forces', 'dE/dtheta']\n")
    assert namespace["result"].metrics["test"]["force_rmse"] < 1.0
    model = fdforce.load_model(folder / "run" / "model.npz")
    assert model.descriptor.settings["reach"] == 4.0
    assert "reach = 4.0" in (folder / "run" / "config.toml").read_text()


def test_the_descriptor_of_the_page(gaussians):
    """Features against the formula, backward against the complex step."""
    descriptor = gaussians.Gaussians(("Ti", "O"), reach=4.0, n_gaussians=3)
    atoms = SYSTEMS["left_handed"]()
    features, expected = descriptor.compute(atoms), np.zeros((len(atoms), 2, 3))
    for i in range(len(atoms)):
        for j, _, d in neighbours(atoms, i, 4.0):
            r = np.linalg.norm(d)
            z = ("Ti", "O").index(atoms.symbols[j])
            value = np.exp(-((3 / 4.0) ** 2) * (r - np.linspace(0.7, 4.0, 3)) ** 2)
            expected[i, z] += value * (1 - (r / 4.0) ** 2) ** 3
    np.testing.assert_allclose(features, expected.reshape(len(atoms), 6), rtol=1e-12)

    rng = np.random.default_rng(0)
    batch = batch_of([SYSTEMS["left_handed"](), SYSTEMS["thin_triclinic"]()], ("Ti", "O"), 4.0)
    mean, scale = rng.normal(size=(2, 2, 6))
    d_features, direction = rng.normal(size=(batch.n_atoms, 6)), rng.normal(size=(batch.n_atoms, 3))
    strain = symmetric(rng, len(batch))
    of_atoms = strain[batch.structure]
    moved = replace(
        batch,
        positions=batch.positions
        + 1e-20j * (direction + np.einsum("aij,aj->ai", of_atoms, batch.positions)),
        cells=batch.cells + 1e-20j * batch.cells @ strain,
    )
    slope = np.sum(descriptor.forward(moved, mean, scale)[0].imag * d_features) / 1e-20
    d_positions, d_strain = descriptor.backward(batch, d_features, [None], scale)
    voigt = of_atoms[:, [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]] * [1, 1, 1, 2, 2, 2]
    found = np.sum(d_positions * direction) + np.sum(d_strain * voigt)
    assert found == pytest.approx(slope, rel=1e-11)


def test_networks():
    """The configuration of the page is one, and its table has every activation."""
    (tables,) = blocks("networks.md", "toml")
    model = config_from_dict(tomllib.loads(tables)).model
    assert model.hidden == {"H": [16], "C": [32, 16], "O": [32, 16]}
    page = (DOCS / "networks.md").read_text()
    named = re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)
    assert sorted(named) == sorted(TABLES["model"]["activation"].metadata["choices"])
