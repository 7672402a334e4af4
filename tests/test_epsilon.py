"""The scan of epsilon for plain callables, its reference, and outside codes by name."""

import numpy as np
import pytest

import fdforce
from fdforce import EnergyCode, scan_epsilon
from fdforce.code_loading import is_code_name, load_codes, needs_cell, takes_cell
from fdforce.diagnosis import diagnose, of_code, read_monitor
from fdforce.errors import CodeError, FdforceError
from fdforce.extrapolation import extrapolate, slope_at_zero
from fdforce.gradient import STENCILS
from fdforce.structures import read_structures
from tests.checks import COMPLEX_STEP, relative
from tests.morse import CELL, THETA, morse


class Code:
    """Morse callables that count their calls and refuse complex positions."""

    def __init__(self, theta=THETA, energies=True):
        self.theta, self.energies = theta.copy(), energies
        self.forces_at, self.gradients_at = [], []

    def energy_and_forces(self, positions, cell=None):
        assert np.isrealobj(positions)
        self.forces_at.append(positions)
        result = morse(positions, cell, self.theta)
        return result[:2] if cell is None else result[:3]

    def energy_gradient(self, positions, cell=None):
        assert np.isrealobj(positions)
        self.gradients_at.append(positions)
        energy, _, _, gradient = morse(positions, cell, self.theta)
        return (energy, gradient) if self.energies else gradient


def structure(seed):
    rng = np.random.default_rng(seed)
    grid = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)][: 5 + seed % 2])
    positions = 2.3 * grid + rng.uniform(-0.25, 0.25, size=grid.shape)
    return positions, rng.normal(size=positions.shape)


def true_gradient(positions, reference, theta=THETA):
    """Complex step over theta of the loss with true forces."""
    gradient = np.zeros(len(theta))
    for k in range(len(theta)):
        shifted = theta.astype(complex)
        shifted[k] += 1j * COMPLEX_STEP
        error = morse(positions, None, shifted)[1] - reference
        gradient[k] = 0.5 * np.sum(error**2).imag / COMPLEX_STEP
    return gradient


def scan(stencil="central", **options):
    code = Code()
    structures = [structure(seed) for seed in range(3)]
    positions, references = (list(part) for part in zip(*structures, strict=True))
    result = scan_epsilon(
        code.energy_and_forces, code.energy_gradient, positions, references,
        stencil=stencil, **options,
    )  # fmt: skip
    return result, [true_gradient(*one) for one in structures], code


@pytest.mark.parametrize("stencil", ["forward", "central", "central4"])
def test_slopes_and_reference(stencil):
    """Truncation rises with the order of the stencil, round-off falls with 1 / epsilon."""
    found, truth, code = scan(stencil)
    exact, _, _ = scan(stencil, true_gradient=truth)
    order = STENCILS[stencil].order
    assert found.reference == "richardson"
    assert exact.reference == "exact"
    assert exact.reference_error == 0
    for curve in (found, exact):
        assert curve.slopes[0] == pytest.approx(-1, abs=0.25)
        assert curve.slopes[1] == pytest.approx(order, abs=0.1 * order)
    # the extrapolation is as good as it says, so the curves agree wherever errors are larger
    assert found.reference_error < 1e-11
    large = exact.err_gradient > 1e-10
    np.testing.assert_allclose(found.err_gradient[large], exact.err_gradient[large], rtol=0.1)
    assert 0.1 < found.recommended / exact.recommended < 10
    assert all(np.isrealobj(r) for r in code.gradients_at)


def test_number_of_calls():
    """A scan makes, for each epsilon, one call for forces and two for the gradient."""
    code, (positions, reference) = Code(), structure(0)
    epsilons = [1e-6, 1e-5, 1e-4, 1e-3]
    scan_epsilon(
        code.energy_and_forces, code.energy_gradient, positions, reference,
        epsilons=epsilons, true_gradient=true_gradient(positions, reference),
    )  # fmt: skip
    assert len(code.forces_at) == len(epsilons)
    assert len(code.gradients_at) == 2 * len(epsilons)
    moved = [np.abs(r - positions).max(axis=1).max() for r in code.gradients_at]
    for k, epsilon in enumerate(epsilons):
        largest = np.linalg.norm(code.gradients_at[2 * k] - positions, axis=1).max()
        assert largest == pytest.approx(epsilon, rel=1e-6 / epsilon * 1e-3 + 1e-9)
        assert moved[2 * k] <= epsilon * (1 + 1e-6)


def test_reference_is_the_extrapolation_of_the_truth():
    positions, reference = structure(1)
    code = Code()
    found = scan_epsilon(code.energy_and_forces, code.energy_gradient, positions, reference)
    truth = true_gradient(positions, reference)
    exact = scan_epsilon(
        code.energy_and_forces, code.energy_gradient, positions, reference, true_gradient=truth
    )
    k = np.argmin(np.abs(np.log(found.epsilon / 1e-3)))
    assert found.err_gradient[k] == pytest.approx(exact.err_gradient[k], rel=1e-4)


def test_structures_with_callables_of_their_own():
    codes = [Code(THETA), Code(1.1 * THETA)]
    structures = [structure(0), structure(1)]
    positions, references = (list(part) for part in zip(*structures, strict=True))
    truth = [
        true_gradient(*one, theta=code.theta) for one, code in zip(structures, codes, strict=True)
    ]
    functions = [c.energy_and_forces for c in codes], [c.energy_gradient for c in codes]
    step = fdforce.force_loss_gradients(*functions, positions, references, epsilon=1e-5)
    assert relative(step.gradient, sum(truth)) < 1e-7
    found = scan_epsilon(*functions, positions, references, true_gradient=truth)
    assert found.err_gradient.min() < 1e-9
    with pytest.raises(ValueError, match="energy_gradient has 1 callables for 2 structures"):
        fdforce.force_loss_gradients(functions[0], functions[1][:1], positions, references)


def test_without_energies_the_reference_chooses():
    code, (positions, reference) = Code(energies=False), structure(2)
    found = scan_epsilon(code.energy_and_forces, code.energy_gradient, positions, reference)
    assert found.err_loss is None
    assert found.reference == "richardson"
    truth = true_gradient(positions, reference)
    step = fdforce.force_loss_gradient(
        code.energy_and_forces, code.energy_gradient, positions, reference,
        epsilon=found.recommended,
    )  # fmt: skip
    assert relative(step.gradient, truth) < 1e-8


def test_float32_code():
    code, (positions, reference) = Code(), structure(2)

    def single(r):
        energy, gradient = code.energy_gradient(r)
        return energy, gradient.astype(np.float32)

    found = scan_epsilon(code.energy_and_forces, single, positions, reference)
    # the reference is made of the same rounded gradients, and says how little it is worth
    assert 1e-9 < found.reference_error < 1e-3


def test_perfect_fit_has_nothing_to_scan():
    code, (positions, _) = Code(), structure(0)
    forces = morse(positions, None, THETA)[1]
    with pytest.raises(ValueError, match="true gradient vanishes"):
        scan_epsilon(code.energy_and_forces, code.energy_gradient, positions, forces)


def curve_scan(error, stencil, epsilons):
    """A scan whose defects are given: one structure with a loss of one half."""
    from fdforce.epsilon import scan as scan_of
    from fdforce.gradient import GradientStep

    def evaluate(epsilon):
        details = {"defect": np.array([error(epsilon)]), "force_loss": np.array([0.5])}
        return [GradientStep(np.zeros(1), 0.5, None, None, None, details)]

    return scan_of(evaluate, epsilons, stencil=stencil)


def test_an_accidental_zero_is_not_recommended():
    epsilons = np.logspace(-9, -1, 25)
    zero = epsilons[18]

    def error(epsilon):
        return 1e-20 if epsilon == zero else 1e-16 / epsilon + 50 * epsilon**2

    # the minimum of a / e + b e^2 is at (a / 2 b)^(1/3) = 1e-6
    assert curve_scan(error, "central", epsilons).recommended == pytest.approx(1e-6, rel=0.1)


def test_a_curve_that_jumps_is_not_fitted_across_the_jump():
    """central4 on a solid: beyond 3e-5 pairs cross a cutoff whose second derivative jumps."""
    epsilons = np.logspace(-9, -1, 25)

    def error(epsilon):
        crossed = 1e2 * epsilon**2 if epsilon > 3e-5 else 0.0
        return 1e-16 / epsilon + 0.1 * epsilon**4 + crossed

    found = curve_scan(error, "central4", epsilons)
    assert error(found.recommended) < 4 * min(error(e) for e in epsilons)
    assert found.flat[0] <= found.recommended <= found.flat[1] < 5e-5


# -- extrapolation ---------------------------------------------------------------------------------


def test_extrapolated_slope_and_its_error():
    slope, error = slope_at_zero(lambda t: np.exp(1.3 * t), 0.1)
    assert abs(slope - 1.3) < 1e-12
    assert error < 1e-11
    # noise of 1e-8 in the function: the error estimate says so
    rng = np.random.default_rng(3)
    slope, error = slope_at_zero(lambda t: np.exp(1.3 * t) + 1e-8 * rng.normal(), 0.1)
    assert abs(slope - 1.3) < 1e-6
    assert 1e-10 < error < 1e-5
    # a kink at zero: central differences of |t| vanish, those of t |t| converge slowly
    slope, error = slope_at_zero(lambda t: t * abs(t) ** 0.5, 0.1)
    assert abs(slope) < 10 * error


def test_extrapolation_of_vectors():
    a = np.array([1.0, 2.0, 3.0])
    steps = 0.1 / 2.0 ** np.arange(6)
    best, error = extrapolate([np.sin(a * h) / h for h in steps])
    assert np.abs(best - a).max() < 1e-12
    assert error < 1e-11


# -- codes by name ---------------------------------------------------------------------------------

MODULE = """
import numpy as np
from fdforce import EnergyCode
from tests.morse import THETA, morse

theta = THETA.copy()

def energy_and_forces(r, cell=None):
    e, f, s, _ = morse(r, cell, theta)
    return (e, f) if cell is None else (e, f, s)

def energy_gradient(r, cell=None):
    e, _, _, g = morse(r, cell, theta)
    return e, g

def pair(atoms):
    assert atoms.get_chemical_symbols()
    return energy_and_forces, energy_gradient

def constant():
    return energy_and_forces, energy_gradient

def code(atoms):
    return EnergyCode(energy_and_forces, energy_gradient, theta)

def record(atoms):
    return {"energy_and_forces": energy_and_forces, "energy_gradient": energy_gradient}

class Adapter:
    def energy_code(self, atoms):
        return code(atoms)

def adapter():
    return Adapter()

def factory():
    return pair

def positions_only(atoms):
    cell = atoms.cell.array if atoms.pbc.any() else None
    def e(r):
        return morse(r, cell, theta)[:2]
    def g(r):
        result = morse(r, cell, theta)
        return result[0], result[3]
    return e, g

def needs_both(atoms):
    def e(r, cell):
        return morse(r, cell if cell.any() else None, theta)[:2]
    def g(r, cell):
        result = morse(r, cell if cell.any() else None, theta)
        return result[0], result[3]
    return e, g

def wrong_forces(atoms):
    return lambda r: (morse(r, None, theta)[0], 1.001 * morse(r, None, theta)[1]), energy_gradient

def wrong_gradient(atoms):
    def g(r, cell=None):
        e, g = energy_gradient(r, cell)
        return e, 0.999 * g
    return EnergyCode(energy_and_forces, g, theta)

def wrong_sign(atoms):
    return lambda r: (morse(r, None, theta)[0], -morse(r, None, theta)[1]), energy_gradient

def with_truth(atoms):
    def true_gradient(r, direction):
        # the model is analytic: the complex step along the direction is exact
        h = 1e-20
        return -morse(r + 1j * h * direction, None, theta)[3].imag / h
    return EnergyCode(energy_and_forces, energy_gradient, theta, true_gradient)

def nothing(atoms):
    return None

def broken(atoms):
    return 1 / 0

def broken_later(atoms):
    def e(r):
        raise KeyError("Xx")
    return e, energy_gradient

class OfAtoms:
    def __init__(self, atoms):
        self.n = len(atoms)
    def energy_and_forces(self, r):
        return energy_and_forces(r)
    def energy_gradient(self, r):
        return energy_gradient(r)

def default(atoms=None):
    assert len(atoms)
    return energy_and_forces, energy_gradient

ready = EnergyCode(energy_and_forces, energy_gradient, theta)

def verbose(atoms):
    def e(r, verbose=False):
        return energy_and_forces(r)
    def g(r, verbose=False):
        return energy_gradient(r)
    return e, g

def quits(atoms):
    raise SystemExit(3)

not_a_function = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "outside_code"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.setattr("sys.path", [str(tmp_path), *__import__("sys").path])
    __import__("sys").modules.pop(name, None)
    return name


@pytest.fixture(scope="module")
def frames():
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    frames = []
    for seed in range(3):
        positions, noise = structure(seed)
        atoms = Atoms("Ar" * len(positions), positions=positions)
        forces = morse(positions, None, THETA)[1] + 0.3 * noise
        atoms.calc = SinglePointCalculator(atoms, forces=forces, energy=0.0)
        frames.append(atoms)
    return frames


@pytest.fixture(scope="module")
def structures(frames):
    return read_structures(frames)[0]


@pytest.fixture(scope="module")
def crystals():
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    rng = np.random.default_rng(7)
    scaled = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    scaled = scaled + rng.uniform(-0.05, 0.05, size=(4, 3))
    atoms = Atoms("Ar4", scaled_positions=scaled, cell=CELL, pbc=True)
    _, forces, stress, _ = morse(atoms.positions, CELL, THETA)
    noise = rng.normal(size=(3, 3))
    stress = stress + 0.01 * (noise + noise.T)
    voigt = stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    forces = forces + 0.3 * rng.normal(size=forces.shape)
    atoms.calc = SinglePointCalculator(atoms, forces=forces, energy=0.0, stress=voigt)
    return read_structures([atoms])[0]


def test_names():
    assert is_code_name("module:function")
    assert is_code_name("path/to/file.py:make")
    assert not is_code_name("runs/a/model.npz")
    assert not is_code_name("C:/model.npz")
    assert not is_code_name(":function")


KINDS = [
    "pair", "constant", "code", "record", "adapter", "factory", "positions_only", "needs_both",
    "OfAtoms", "default", "ready", "verbose",
]  # fmt: skip


@pytest.mark.parametrize("function", KINDS)
def test_every_form_of_code(module, structures, function):
    subject = of_code(load_codes(f"{module}:{function}"), structures)
    assert "forces" in subject.consistency.checked
    assert subject.reference == "richardson"
    found = subject.scan("central")
    assert found.err_gradient.min() < 1e-9
    assert found.slopes[1] == pytest.approx(2, abs=0.2)


def test_file_instead_of_module(module, structures, tmp_path):
    subject = of_code(load_codes(str(tmp_path / f"{module}.py:code")), structures)
    assert subject.consistency.checked == ["forces", "dE/dtheta"]


@pytest.mark.parametrize("function", ["pair", "positions_only", "needs_both"])
def test_periodic_structures(module, crystals, function):
    subject = of_code(load_codes(f"{module}:{function}"), crystals)
    step = subject.evaluate(1e-5, "central", None)[0]
    stress = step.details["terms"].d_virial
    assert (stress is not None) == (function == "pair")  # the other two return none
    assert ("stress" in subject.consistency.checked) == (function == "pair")
    assert subject.scan("central").err_gradient.min() < 1e-8


def test_signatures():
    def one(r):
        pass

    def both(r, cell):
        pass

    def optional(r, cell=None):
        pass

    def many(*arguments):
        pass

    cases = [(one, False, False), (both, True, True), (optional, True, False), (many, True, False)]
    for function, takes, needs in cases:
        code = EnergyCode(function, function)
        assert (takes_cell(code), needs_cell(code)) == (takes, needs)


def test_exact_reference(module, structures):
    subject = of_code(load_codes(f"{module}:with_truth"), structures)
    assert subject.reference == "exact"
    found = subject.scan("central")
    assert found.reference == "exact"
    assert found.err_gradient.min() < 1e-9


def test_diagnosis(module, structures):
    subject = of_code(load_codes(f"{module}:code"), structures)
    found = diagnose([subject])
    rows = found.recommendations()
    assert [row["stencil"] for row in rows] == ["forward", "central", "central4"]
    best = [row["recommended"] for row in rows]
    assert best[0] < best[1] < best[2]
    fixed = diagnose([subject], stencil="central", g0=0.05)
    assert fixed.scaled.err_gradient.min() < 1e-9
    assert fixed.others == []
    # displacements stay below 0.1 Å, so epsilon does where g0 is small
    assert fixed.scan.epsilon[-1] < 0.1 * 0.05 / 0.3


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("wrong_forces", r"\[0\]: forces inconsistent .* 1.001 times"),
        ("wrong_gradient", r"\[0\]: dE/dtheta inconsistent .* 0.999 times"),
        ("wrong_sign", r"forces inconsistent .* return -dE/dr"),
        ("broken_later", r"\[0\]: the energy code failed with KeyError: 'Xx' \(outside_code.py, l"),
    ],
)
def test_contradictions_are_named(module, structures, function, message):
    with pytest.raises(CodeError, match=message):
        of_code(load_codes(f"{module}:{function}"), structures)


def test_forces_wrong_in_one_structure_alone(structures):
    """Not one of those that are checked in depth: 0.1 % in the largest structure."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    frames = []
    for seed in range(6):
        positions, noise = structure(seed)
        atoms = Atoms("Ar" * len(positions), positions=positions + np.array([0, 0, seed]))
        forces = morse(positions, None, THETA)[1] + 0.3 * noise
        atoms.calc = SinglePointCalculator(atoms, forces=forces, energy=0.0)
        frames.append(atoms)
    many, _ = read_structures(frames)

    def make(atoms):
        factor = 1.001 if atoms.positions[:, 2].min() > 4.5 else 1.0
        return EnergyCode(
            lambda r: (morse(r, None, THETA)[0], factor * morse(r, None, THETA)[1]),
            lambda r: (morse(r, None, THETA)[0], morse(r, None, THETA)[3]),
        )

    with pytest.raises(CodeError, match=r"\[5\]: forces inconsistent .* along the force error"):
        of_code(make, many)


def test_all_zero_energies_leave_the_choice_to_the_gradient():
    """A linear model that has not been trained."""
    theta = np.zeros(2)

    def features(r):
        d = r[:, None] - r
        square = (d * d).sum(axis=-1) + np.eye(len(r))
        weights = np.exp(-square / np.array([1.0, 4.0])[:, None, None])
        slopes = -2 * weights[..., None] * d / np.array([1.0, 4.0])[:, None, None, None]
        return weights.sum(axis=(1, 2)), 2 * slopes.sum(axis=2)

    positions, reference = structure(0)
    found = scan_epsilon(
        lambda r: (theta @ features(r)[0], -np.tensordot(theta, features(r)[1], 1)),
        lambda r: (theta @ features(r)[0], features(r)[0]), positions, reference,
    )  # fmt: skip
    assert not np.any(found.err_loss)
    assert found.err_gradient.min() < 1e-8
    assert 1e-7 < found.recommended < 1e-4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("outside_code:absent", "has no function absent; make it a function of ase.Atoms"),
        ("outside_code:not_a_function", "has no function not_a_function"),
        ("outside_code:nothing", "gives no energy code"),
        ("outside_code:broken", r"ZeroDivisionError: .* \(outside_code.py, line \d+\)"),
        ("absent_module:make", "no module absent_module here"),
        ("absent_file.py:make", "absent_file.py: no such file"),
        ("needing:make", "needing needs the module absent_dependency"),
        ("faulty:make", r"SyntaxError: .* \(faulty.py, line 1\)"),
        ("outside_code:quits", r"SystemExit: 3 \(outside_code.py, line \d+\)"),
    ],
)
def test_names_that_lead_nowhere(module, structures, tmp_path, name, message):
    (tmp_path / "needing.py").write_text("import absent_dependency\n")
    (tmp_path / "faulty.py").write_text("def make(:\n")
    with pytest.raises(FdforceError, match=message):
        of_code(load_codes(name), structures)


@pytest.fixture(scope="module")
def model():
    from fdforce.descriptors import Chebyshev
    from fdforce.models import ElementalNetworks

    model = ElementalNetworks(Chebyshev(("Ar",), 4.5, 4, 3.5, 2), (5,), "silu")
    model.theta = model.theta + np.random.default_rng(1).normal(scale=0.3, size=len(model.theta))
    return model


def test_models_of_fdforce_pass_the_checks(model, structures, crystals):
    """Forces, stress and dE/dtheta of the engine, judged like anybody's."""
    from fdforce.model_code import model_code

    for data in (structures, crystals):
        found = of_code(lambda atoms: model_code(model, atoms), data).consistency
        assert found.checked == ["forces", *(["stress"] if data is crystals else []), "dE/dtheta"]
        assert all("structures, forces with those of all" in note for note in found.notes)


def test_a_model_by_name(model, structures, tmp_path, monkeypatch):
    fdforce.save_model(tmp_path / "model.npz", model)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import fdforce\ndef make_model():\n    return fdforce.load_model('model.npz')\n"
    )
    subject = of_code(load_codes("mine.py:make_model"), structures)
    assert subject.consistency.checked == ["forces", "dE/dtheta"]


# -- the monitor of a run --------------------------------------------------------------------------


def test_monitor_of_a_run(tmp_path):
    (tmp_path / "history.csv").write_text(
        "epoch,seconds,epsilon,err_loss,train_force_rmse\r\n"
        "1,0.1,1e-6,1e-10,0.8\r\n2,0.1,1e-6,2e-10,0.4\r\n3,0.1,2e-6,4e-10,0.4\r\n"
    )
    monitor = read_monitor(tmp_path)
    assert monitor.epoch.tolist() == [1, 2, 3]
    assert monitor.drift.tolist() == pytest.approx([1, 1, 2])
    assert monitor.changes.tolist() == [3]
    (tmp_path / "history.csv").write_text("epoch,epsilon,err_loss,train_force_rmse\r\n")
    with pytest.raises(FdforceError, match="no epoch has been finished"):
        read_monitor(tmp_path)
    (tmp_path / "history.csv").write_text("a,b\r\n1,2\r\n")
    with pytest.raises(FdforceError, match="not the history of a run"):
        read_monitor(tmp_path)
    with pytest.raises(FdforceError, match=r"no history\.csv there"):
        read_monitor(tmp_path / "nowhere")
