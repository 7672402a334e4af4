"""Shared libraries: the examples of docs/adapters/native.md in C and Fortran, and broken ones."""

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ase.neighborlist import neighbor_list
from scipy.optimize import minimize

from fdforce import EnergyCode, FdforceError, force_loss_gradient, force_loss_gradients
from fdforce.adapters.native import SIGNATURES, NativeCode
from tests.checks import COMPLEX_STEP, check_directional, relative, slope_of, symmetric
from tests.systems import SYSTEMS

DOCS = Path(__file__).resolve().parents[1] / "docs" / "adapters"
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", (DOCS / "native.md").read_text(), re.DOTALL)
LIBRARIES = {"gcc": "libmorse.so", "gfortran": "libmorse_f.so"}

SWITCH, CUTOFF = 4.0, 5.0
INITIAL = np.array([0.3, 1.2, 3.0, 1.0, 1.6, 2.0, 0.5, 1.1, 3.2])


def run(command, folder):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def need(compiler):
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Library of an example by compiler, compiled once by the line that the page shows."""

    @cache
    def build(compiler):
        folder = tmp_path_factory.mktemp(compiler)
        for source in (DOCS / "examples").iterdir():
            shutil.copy(source, folder)
        lines = "".join(text for kind, text in BLOCKS if kind == "bash").splitlines()
        (line,) = [line for line in lines if line.startswith(compiler + " ")]
        run(line.split(), folder)
        return folder / LIBRARIES[compiler]

    return build


@pytest.fixture(params=LIBRARIES)
def library(request, built):
    need(request.param)
    return built(request.param)


@pytest.fixture
def code(library):
    return NativeCode(library)


# The formulas of the examples over ASE's pairs, analytic in positions, cell and parameters


def pairs_of(atoms):
    """i, j, image and pair of elements, to 0.1 Å beyond the cutoff: displaced atoms lose none."""
    i, j, image = neighbor_list("ijS", atoms, CUTOFF + 0.1)
    titanium = (atoms.numbers == 22).astype(int)
    return i, j, image, titanium[i] + titanium[j]


def morse(pairs, positions, cell, theta):
    """Energy, forces, stress (None without a volume) and dE/dtheta."""
    i, j, image, kind = pairs
    v = positions[j] + image @ cell - positions[i]
    r = np.sqrt((v * v).sum(axis=1))
    depth, a, r0 = theta.reshape(3, 3)[kind].T
    t = np.where(r.real > SWITCH, (r - SWITCH) / (CUTOFF - SWITCH), 0)
    s = np.where(r.real < CUTOFF, 1 - t**4 * (35 - 84 * t + 70 * t**2 - 20 * t**3), 0)
    ds = np.where(r.real < CUTOFF, -140 * t**3 * (1 - t) ** 3 / (CUTOFF - SWITCH), 0)
    e = np.exp(-a * (r - r0))
    well, dwell = (1 - e) ** 2 - 1, 2 * (1 - e) * e
    along = (depth * (dwell * a * s + well * ds) / r)[:, None] * v
    forces = np.zeros(positions.shape, along.dtype)
    np.add.at(forces, i, along)
    gradient = np.zeros((3, 3), along.dtype)
    by_theta = [well * s, depth * dwell * (r - r0) * s, -depth * dwell * a * s]
    np.add.at(gradient, kind, 0.5 * np.array(by_theta).T)
    volume = abs(np.linalg.det(cell.real))
    stress = 0.5 * np.einsum("pa,pb->ab", along, v) / volume if volume else None
    return 0.5 * np.sum(depth * well * s), forces, stress, gradient.ravel()


class NumpyMorse:
    """What `NativeCode` is, in NumPy."""

    def __init__(self):
        self.theta = INITIAL.copy()

    def energy_code(self, atoms):
        pairs, own_cell = pairs_of(atoms), np.array(atoms.cell)

        def energy_and_forces(positions, cell=own_cell):
            energy, forces, stress, _ = morse(pairs, positions, cell, self.theta)
            return (energy, forces) if stress is None else (energy, forces, stress)

        def energy_gradient(positions, cell=own_cell):
            energy, _, _, gradient = morse(pairs, positions, cell, self.theta)
            return energy, gradient

        return EnergyCode(energy_and_forces, energy_gradient, self.theta)


def true_gradient(atoms, reference, theta):
    """Gradient of the force loss by the complex step over every parameter."""
    pairs, gradient = pairs_of(atoms), np.zeros(len(theta))
    for k in range(len(theta)):
        shifted = theta.astype(complex)
        shifted[k] += 1j * COMPLEX_STEP
        error = morse(pairs, atoms.positions, atoms.cell.array, shifted)[1] - reference
        gradient[k] = 0.5 * np.sum(error**2).imag / COMPLEX_STEP
    return gradient


def oxide(name):
    """A system of tests/systems.py with O and Ti for its elements."""
    atoms = SYSTEMS[name]()
    forces = atoms.get_forces()
    atoms.numbers = np.where(np.isin(atoms.numbers, (6, 22, 29)), 22, 8)
    if name == "molecule":
        atoms.positions *= 1.6  # bonds of hydrogen are short for oxygen
    return atoms, forces


def random_oxide(seed, cell=None):
    """Ti4O3 with pairs and images at least 1.9 Å apart."""
    rng = np.random.default_rng(seed)
    box = 4.8 * np.eye(3) if cell is None else np.array(cell)
    atoms = Atoms(cell=cell, pbc=cell is not None)
    while len(atoms) < 7:
        element = ("Ti", "O")[len(atoms) % 2]
        trial = atoms + Atoms(element, [rng.uniform(size=3) @ box])
        if len(neighbor_list("i", trial, 1.9)) == 0:
            atoms = trial
    return atoms


TRICLINIC = [[4.6, 0.3, 0.0], [-0.8, 5.1, 0.4], [0.5, 0.2, 4.9]]
LEFT_HANDED = [[0.2, 5.2, 0.1], [4.7, 0.3, 0.0], [0.6, -0.4, 5.0]]


@cache
def training_set():
    """Two free and two periodic structures with the forces of other parameters, and those."""
    truth = INITIAL * np.random.default_rng(5).uniform(0.9, 1.1, size=len(INITIAL))
    cells = (None, None, TRICLINIC, LEFT_HANDED)
    frames = [random_oxide(seed, cell) for seed, cell in enumerate(cells)]
    forces = [morse(pairs_of(a), a.positions, a.cell.array, truth)[1] for a in frames]
    return frames, forces, truth


def train(code):
    """Parameters that SciPy finds from the gradients of the method."""
    frames, forces, _ = training_set()
    codes = [code.energy_code(atoms) for atoms in frames]
    functions = [c.energy_and_forces for c in codes], [c.energy_gradient for c in codes]

    def loss(theta):
        code.theta[:] = theta
        step = force_loss_gradients(*functions, [atoms.positions for atoms in frames], forces)
        return step.loss, step.gradient

    return minimize(loss, code.theta.copy(), jac=True, method="BFGS", options={"gtol": 1e-10}).x


@cache
def trained_by_numpy():
    return train(NumpyMorse())


# The examples


@pytest.mark.parametrize("name", SYSTEMS)
def test_examples_equal_numpy(name, code):
    atoms, _ = oxide(name)
    cell = (atoms.cell.array,) if atoms.pbc.any() else ()
    results = [
        (*c.energy_and_forces(atoms.positions, *cell), *c.energy_gradient(atoms.positions, *cell))
        for c in (code.energy_code(atoms), NumpyMorse().energy_code(atoms))
    ]
    assert len(results[0]) == len(results[1]) == (5 if atoms.cell.volume else 4)
    for value, expected in zip(*results):
        # sums of up to thousands of terms of both signs, each good to 1e-16
        assert np.linalg.norm(value - expected) <= 1e-12 * np.linalg.norm(expected)


@pytest.mark.parametrize("distance", [SWITCH, 4.4, CUTOFF, CUTOFF + 1e-9])
def test_examples_at_the_cutoff(distance, code):
    atoms = Atoms("TiO", [[0, 0, 0], [0, 0, distance]])
    value = code.energy_code(atoms).energy_and_forces(atoms.positions)
    expected = NumpyMorse().energy_code(atoms).energy_and_forces(atoms.positions)
    assert value[0] == pytest.approx(expected[0], rel=1e-12)
    assert value[1] == pytest.approx(expected[1], rel=1e-12)
    assert (value[0] == 0) == (distance >= CUTOFF)


@pytest.mark.parametrize("name", ["molecule", "slab", "wire", "thin_triclinic", "left_handed"])
def test_forces_stress_and_gradient_are_slopes(name, code):
    atoms, _ = oxide(name)
    made = code.energy_code(atoms)
    start, cell = atoms.positions, atoms.cell.array
    # five points 1e-3 apart (3e-5 for strain, which moves neighbours by 10 Å): errors near 1e-10
    check_directional(
        lambda r: made.energy_and_forces(r)[0], lambda r: -made.energy_and_forces(r)[1],
        start, step=1e-3, tolerance=1e-8, seeds=(0, 2, 5), name="forces",
    )  # fmt: skip

    def at(theta):
        code.theta = theta
        return made.energy_gradient(start)

    check_directional(
        lambda t: at(t)[0], lambda t: at(t)[1], INITIAL, step=1e-3, tolerance=1e-8, name="theta"
    )
    code.theta = INITIAL
    if atoms.cell.volume:
        strain = symmetric(np.random.default_rng(3), 1)[0]

        def strained(x):
            return made.energy_and_forces(start @ (np.eye(3) + x), cell @ (np.eye(3) + x))[0]

        slope = slope_of(strained, np.zeros((3, 3)), strain, 3e-5)
        stress = made.energy_and_forces(start, cell)[2]
        assert atoms.cell.volume * np.sum(stress * strain) == pytest.approx(slope, rel=1e-8)


def test_cells_of_the_examples_do_not_matter(library):
    """The same crystal in another cell, or with its atoms moved by lattice vectors."""
    code = NativeCode(library)
    atoms, _ = oxide("thin_triclinic")
    energy, forces, stress = code.energy_code(atoms).energy_and_forces(atoms.positions)
    moved = atoms.copy()
    moved.positions += [[7], [-5]] @ atoms.cell.array[:1] - 3 * atoms.cell.array[2]
    sheared = atoms.copy()
    sheared.set_cell([[1, 0, 0], [-2, 1, 0], [3, 1, -1]] @ atoms.cell.array)
    for other in (moved, sheared):
        result = code.energy_code(other).energy_and_forces(other.positions)
        assert result[0] == pytest.approx(energy, rel=1e-12)
        assert relative(result[1], forces) < 1e-10  # forces are a small rest of a large sum
        assert relative(result[2], stress) < 1e-12
    double = atoms.repeat((1, 2, 1))
    assert code.energy_code(double).energy_and_forces(double.positions)[0] == pytest.approx(
        2 * energy, rel=1e-12
    )


# The method with the examples


@pytest.mark.parametrize("name", ["molecule", "slab", "wire", "thin_triclinic", "two_species"])
def test_gradient_of_the_force_loss(name, code):
    atoms, forces = oxide(name)
    steps = []
    for some in (code, NumpyMorse()):
        made = some.energy_code(atoms)
        steps.append(
            force_loss_gradient(
                made.energy_and_forces, made.energy_gradient, atoms.positions, forces
            )
        )
    expected = true_gradient(atoms, forces, INITIAL)
    error = [relative(step.gradient, expected) for step in steps]
    print(f"{name}: {relative(steps[0].gradient, steps[1].gradient):.1e}, to the truth {error}")
    # round-off: energies to 1e-15 and eta = 1e-5; truncation: third derivatives times eta^2
    assert relative(steps[0].gradient, steps[1].gradient) < 1e-8
    assert error[0] < 1e-8
    assert steps[0].loss_error < 1e-7


def test_gradient_with_a_stress(code):
    atoms, forces = oxide("left_handed")
    reference = SYSTEMS["left_handed"]().get_stress()
    steps = []
    for some in (code, NumpyMorse()):
        made = some.energy_code(atoms)
        steps.append(
            force_loss_gradient(
                made.energy_and_forces, made.energy_gradient, atoms.positions, forces,
                cell=atoms.cell.array, reference_stress=reference, stress_weight=1e3,
                cutoff=CUTOFF,
            )
        )  # fmt: skip
    assert steps[0].loss == pytest.approx(steps[1].loss, rel=1e-12)
    assert relative(steps[0].gradient, steps[1].gradient) < 1e-8
    assert steps[0].loss_error < 1e-7


def test_training_recovers_the_parameters_of_the_labels(code):
    truth = training_set()[2]
    trained = train(code)
    print(trained / truth - 1)
    assert np.abs(INITIAL / truth - 1).max() > 0.05
    assert trained == pytest.approx(truth, rel=1e-6)
    assert trained == pytest.approx(trained_by_numpy(), rel=1e-8)


def test_page_trains(built, tmp_path, monkeypatch, capsys):
    need("gcc")
    shutil.copy(built("gcc"), tmp_path)
    frames, forces, truth = training_set()
    for atoms, labels in zip(frames, forces):
        labelled = atoms.copy()
        labelled.calc = SinglePointCalculator(labelled, forces=labels)
        write(tmp_path / "train.extxyz", labelled, append=True)
    monkeypatch.chdir(tmp_path)
    names = {}
    training, check = [block for kind, block in BLOCKS if kind == "python"]
    exec(training, names)
    assert names["fit"].x == pytest.approx(truth, rel=1e-4)  # labels have 8 digits in the file
    capsys.readouterr()
    exec(check, names)
    assert capsys.readouterr().out == "['forces', 'dE/dtheta']\n"


# Parameters


def test_parameters_are_one_array(code):
    atoms, _ = oxide("dimer")
    made = code.energy_code(atoms)
    energy, gradient = made.energy_gradient(atoms.positions)
    made.parameters[3] *= 2  # D of O-Ti
    assert made.energy_gradient(atoms.positions)[0] == pytest.approx(2 * energy, rel=1e-14)
    held = code.theta
    code.theta = INITIAL
    assert code.theta is held is made.parameters
    assert made.energy_gradient(atoms.positions)[0] == energy
    assert gradient[3] == pytest.approx(energy / INITIAL[3], rel=1e-14)


def test_structures_and_codes_are_independent(library):
    one, other = NativeCode(library), NativeCode(library)
    atoms, _ = oxide("dimer")
    made = [some.energy_code(atoms) for some in (one, other)]
    one.theta *= 1.1
    assert np.array_equal(other.theta, INITIAL)
    energies = [c.energy_and_forces(atoms.positions)[0] for c in made]
    assert energies[0] != energies[1]
    atoms.numbers[:] = 1  # what was bound stays
    assert made[0].energy_and_forces(atoms.positions)[0] == energies[0]


# Messages


def refused(pattern, function, *arguments):
    with pytest.raises(FdforceError, match=pattern):
        function(*arguments)


def test_wrong_arguments(code):
    atoms, _ = oxide("left_handed")
    made = code.energy_code(atoms)
    for wrong in ([1.0], np.ones(10), np.ones((3, 3)), 1.0):
        refused(
            r"theta of shape \(.*\) was given to .*libmorse.*\.so, which has 9 parameters: "
            r"give an array of shape \(9,\)",
            setattr, code, "theta", wrong,
        )  # fmt: skip
    assert np.array_equal(code.theta, INITIAL)
    refused(
        r"positions of shape \(2, 3\) were given to .* for a structure that takes shape \(3, 3\)",
        made.energy_gradient, atoms.positions[:2],
    )  # fmt: skip
    refused(r"cell of shape \(3,\)", made.energy_and_forces, atoms.positions, [4.0, 4.0, 4.0])
    refused("complex ones", made.energy_gradient, atoms.positions + 0j)


def test_code_of_return_and_infinite_results(code):
    water = Atoms("OH2", [[0, 0, 0], [0, 0, 1], [0, 1, 0]])
    refused(
        r"fdforce_energy_and_forces returned 1 for H2O, where 0 is success",
        code.energy_code(water).energy_and_forces, water.positions,
    )  # fmt: skip
    flat = Atoms("O", cell=[[1, 0, 0], [2, 0, 0], [0, 0, 1]], pbc=True)
    refused("returned 2 for O", code.energy_code(flat).energy_gradient, flat.positions)
    close = Atoms("OTi", np.zeros((2, 3)))
    refused(
        r"fdforce_energy_and_forces left 6 of 6 values of forces not finite for OTi "
        r"\(forces\[0, 0\] = -?nan\): outputs hold NaN before",
        code.energy_code(close).energy_and_forces, close.positions,
    )  # fmt: skip
    dimer, _ = oxide("dimer")
    code.theta[4] = np.nan
    for function in (
        code.energy_code(dimer).energy_and_forces,
        code.energy_code(dimer).energy_gradient,
    ):
        refused("energy not finite for OTi .*: theta is not finite", function, dimer.positions)


TRIO = """
#include <math.h>
#include <stdint.h>
#define STRUCTURE int64_t n, const int64_t *z, const double *x, const double *cell, \\
    const int64_t *periodic, int64_t p, const double *theta
int fdforce_parameters(int64_t *n, double *theta) { PARAMETERS; return 0; }
int FORCES_NAME(STRUCTURE, double *energy, double *forces, double *stress)
{ FORCES; return 0; }
int fdforce_energy_gradient(STRUCTURE, double *energy, double *d_theta) { GRADIENT; return 0; }
"""
GOOD = {
    "PARAMETERS": "if (*n >= 2) theta[0] = theta[1] = 1; *n = 2",
    "FORCES": "*energy = 3; for (int k = 0; k < 3 * n; k++) forces[k] = 0",
    "FORCES_NAME": "fdforce_energy_and_forces",
    "GRADIENT": "*energy = 3; d_theta[0] = d_theta[1] = 0",
}


def compiled(folder, source=TRIO, options=None, **changes):
    need("gcc")
    (folder / "code.c").write_text(source)
    defines = [f"-D{name}={value}" for name, value in {**GOOD, **changes}.items()]
    sources = [folder / "code.c", *(options or [])]
    run(["gcc", "-shared", "-fPIC", *defines, *sources, "-o", "libcode.so", "-lm"], folder)
    return folder / "libcode.so"


def test_a_minimal_library(tmp_path):
    code = NativeCode(str(compiled(tmp_path)))
    atoms, _ = oxide("bulk")
    made = code.energy_code(atoms)
    assert np.array_equal(code.theta, [1, 1])
    energy, forces = made.energy_and_forces(atoms.positions, atoms.cell.array)  # no stress
    assert energy == 3
    assert forces.shape == (4, 3)
    assert made.energy_gradient(atoms.positions)[1].shape == (2,)


def test_files_that_are_no_library(tmp_path):
    refused(
        f"there is no library {tmp_path}/libnone.so: compile", NativeCode, tmp_path / "libnone.so"
    )
    refused("there is no library", NativeCode, tmp_path)  # a folder
    (tmp_path / "libtext.so").write_text("no ELF header here")
    refused(
        r"libtext.so cannot be loaded as a shared library: .*-shared",
        NativeCode,
        tmp_path / "libtext.so",
    )


def test_library_that_lacks_a_symbol_of_its_own(tmp_path):
    source = "double nowhere(double);" + TRIO
    path = compiled(tmp_path, source, GRADIENT="*energy = nowhere(1)")
    refused("cannot be loaded .*nowhere.*-lm", NativeCode, path)


def test_missing_function(tmp_path):
    path = compiled(tmp_path, FORCES_NAME="fdforce_forces")
    refused(
        "libcode.so has no function fdforce_energy_and_forces; it needs " + ", ".join(SIGNATURES),
        NativeCode, path,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("*n = 0", "set n_parameters to 0; it has to be the number of parameters, 1 at least"),
        ("*n = -3", "set n_parameters to -3"),
        ("*n = *n", "set n_parameters to 0"),
        ("*n = 2", r"left 2 of 2 values of theta not finite \(theta\[0\] = nan\): outputs hold"),
        ("return 7", "fdforce_parameters returned 7, where 0 is success"),
    ],
)
def test_mistakes_in_the_parameters(parameters, message, tmp_path):
    refused(message, NativeCode, compiled(tmp_path, PARAMETERS=parameters))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"FORCES": "*energy = 3"}, "12 of 12 values of forces"),
        ({"FORCES": "*energy = forces[0] = 3"}, r"11 of 12 values of forces .*forces\[0, 1\]"),
        ({"FORCES": "for (int k = 0; k < 12; k++) forces[k] = 0"}, "1 of 1 values of energy"),
        ({"FORCES": GOOD["FORCES"] + "; stress[4] = 1"}, r"8 of 9 values of stress .*\[0, 0\]"),
        ({"FORCES": GOOD["FORCES"] + "; stress[4] = INFINITY"}, r"9 of 9 values of stress"),
        ({"GRADIENT": "*energy = 3; d_theta[0] += 1; d_theta[1] = 1"}, r"1 of 2 .*d_theta\[0\]"),
        ({"GRADIENT": "d_theta[0] = d_theta[1] = 1"}, "1 of 1 values of energy"),
        ({"GRADIENT": "return -2"}, "fdforce_energy_gradient returned -2 for Ti4"),
    ],
)  # fmt: skip
def test_mistakes_in_the_outputs(change, message, tmp_path):
    atoms, _ = oxide("bulk")
    made = NativeCode(compiled(tmp_path, **change)).energy_code(atoms)
    function = made.energy_gradient if "GRADIENT" in change else made.energy_and_forces
    refused(message, function, atoms.positions)


WRAPPED = """
#include "fdforce_native.h"
#undef fdforce_energy_gradient
int fdforce_energy_gradient(int64_t n, const int64_t *z, const double *x, const double *cell,
    const int64_t *periodic, int64_t p, const double *theta, double *energy, double *d_theta)
{
    int code = right(n, z, x, cell, periodic, p, theta, energy, d_theta);
    d_theta[WRONG] *= 1.001;
    return code;
}
"""


@pytest.mark.parametrize("wrong", [1, 5])
def test_gradient_off_by_a_thousandth_is_noticed(wrong, tmp_path):
    """One component of dE/dtheta, so that the norm hardly changes."""
    examples = DOCS / "examples"
    path = compiled(
        tmp_path, WRAPPED, [f"-I{examples}", examples / "morse.c"],
        fdforce_energy_gradient="right", WRONG=wrong,
    )  # fmt: skip
    code = NativeCode(path)
    atoms, _ = oxide("two_species")
    made = code.energy_code(atoms)

    def at(theta):
        code.theta = theta
        return made.energy_gradient(atoms.positions)

    with pytest.raises(AssertionError, match="relative difference"):
        check_directional(
            lambda t: at(t)[0], lambda t: at(t)[1], INITIAL, step=1e-3, tolerance=1e-8
        )
