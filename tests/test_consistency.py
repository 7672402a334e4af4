"""Codes that contradict themselves are named before an epsilon is chosen for them."""

import numpy as np
import pytest

from fdforce import EnergyCode
from fdforce.consistency import Consistency, check_code
from fdforce.errors import CodeError
from tests.morse import CELL, THETA, morse


class Code:
    """The Morse potential with one fault."""

    def __init__(self, **fault):
        self.theta = THETA.copy()
        self.fault = {
            "forces": 1, "stress": 1, "gradient": 1, "energy": lambda e: e, "noise": 0,
            "step_at": None, "kink_at": None, "digits": lambda g: g, **fault,
        }  # fmt: skip
        self.rng = np.random.default_rng(5)

    def energy_and_forces(self, positions, cell=None):
        energy, forces, stress, _ = morse(positions, cell, self.theta)
        bond = np.linalg.norm(positions[1] - positions[0])
        if self.fault["step_at"] is not None and bond < self.fault["step_at"]:
            energy += 1e-4
        if self.fault["kink_at"] is not None and bond < self.fault["kink_at"]:
            along = 0.1 * (positions[1] - positions[0]) / bond
            energy += 0.1 * (bond - self.fault["kink_at"])
            forces = forces + np.array([along, -along] + [np.zeros(3)] * (len(positions) - 2))
        energy = self.fault["energy"](energy + self.fault["noise"] * self.rng.normal())
        forces = self.fault["forces"] * forces
        return (energy, forces) if cell is None else (energy, forces, self.fault["stress"] * stress)

    def energy_gradient(self, positions, cell=None):
        energy = self.energy_and_forces(positions, cell)[0]
        gradient = morse(positions, cell, self.theta)[3]
        return energy, self.fault["digits"](self.fault["gradient"] * gradient)

    def code(self, **changes):
        parts = {
            "energy_and_forces": self.energy_and_forces, "energy_gradient": self.energy_gradient,
            "parameters": self.theta, **changes,
        }  # fmt: skip
        return EnergyCode(**parts)


def positions():
    return np.array([[0.0, 0.1, 0.2], [2.3, 0.3, 0.1], [0.4, 2.5, 0.2], [2.2, 2.4, 1.9]])


def rattled(seed=0):
    """Where `check_code` begins: positions moved off symmetry."""
    rng = np.random.default_rng(seed)
    return positions() + np.clip(rng.normal(scale=0.02, size=(4, 3)), -0.04, 0.04)


@pytest.mark.parametrize("cell", [None, CELL], ids=["free", "periodic"])
def test_right_code_passes_and_is_left_as_it_was(cell):
    code = Code()
    found = check_code(code.code(), positions(), cell)
    assert found.notes == []
    assert found.checked == ["forces", *(["stress"] if cell is not None else []), "dE/dtheta"]
    assert found.precision == "float64"
    assert np.array_equal(code.theta, THETA)


HARTREE_PER_BOHR = 51.42206747  # eV/Å

WRONG = [
    ({"forces": 1.001}, r"forces inconsistent .* 0\.1 % .* 1\.001 times"),
    ({"forces": -1}, r"forces inconsistent with the energies: .* sign of \+dE/dr; return -dE/dr"),
    ({"forces": 1 / HARTREE_PER_BOHR}, "forces inconsistent .* Hartree/Bohr"),
    ({"forces": np.array([[1], [1], [1], [1.01]])}, "forces inconsistent .* not by a constant"),
    ({"stress": 0.999}, "stress inconsistent .* 0.999 times"),
    ({"stress": -1}, "stress inconsistent .* sign of a pressure"),
    ({"stress": 160.2177}, "stress inconsistent .* GPa"),
    ({"gradient": 0.999}, r"dE/dtheta inconsistent .* 0\.1 % .* 0\.999 times"),
    ({"gradient": -1}, "dE/dtheta inconsistent .* wrong sign"),
    ({"gradient": np.array([1, 1.001, 1])}, "dE/dtheta inconsistent .* not by a constant"),
    ({"noise": 1e-2}, r"energy: two calls .* not deterministic. Dropout"),
]


@pytest.mark.parametrize(("fault", "message"), WRONG, ids=[str(w[0]) for w in WRONG])
def test_faults_are_named(fault, message):
    with pytest.raises(CodeError, match=message):
        check_code(Code(**fault).code(), positions(), CELL)


def test_a_small_error_in_a_small_part_is_noted():
    part = np.array([[1], [1], [1], [1.0001]])
    found = check_code(Code(forces=part).code(), positions())
    assert any("forces and the energies agree to" in note for note in found.notes)


def test_discontinuous_energy():
    bond = np.linalg.norm(rattled()[1] - rattled()[0])
    messages = []
    for below in (0.02, -0.02):  # the walk may shorten or lengthen the bond
        try:
            check_code(Code(step_at=bond - below).code(), positions())
        except CodeError as problem:
            messages.append(str(problem))
    assert messages
    assert all("the energy jumps by 1.0e-04 eV" in message for message in messages)
    assert all("cutoff without a smooth switching" in message for message in messages)


def test_discontinuous_forces_are_noted():
    bond = np.linalg.norm(rattled()[1] - rattled()[0])
    notes = [
        note
        for below in (0.04, -0.04)
        for note in check_code(Code(kink_at=bond - below).code(), positions()).notes
    ]
    assert any("the forces jump" in note and "kink" in note for note in notes)


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ({"energy": lambda e: float(np.float32(e))}, "the energies carry"),
        ({"digits": lambda g: g.astype(np.float32).astype(float)}, "dE/dtheta carry"),
    ],
)
def test_float32_in_disguise(fault, what):
    found = check_code(Code(**fault).code(), positions())
    assert found.precision == "float32"
    assert any(what in note and "float32 only" in note for note in found.notes)


def test_notes_that_differ_in_numbers_alone_are_one():
    found = Consistency()
    for text in ("noise of 3e-07 eV in dE/dtheta", "noise of 1.5e-08 eV in dE/dtheta", "noise of"):
        found.note(text)
    assert found.notes == ["noise of 3e-07 eV in dE/dtheta", "noise of"]


def test_float32_forces_are_still_judged():
    """A wrong sign shows whatever the digits are."""
    with pytest.raises(CodeError, match="forces inconsistent"):
        check_code(Code(energy=lambda e: float(np.float32(e)), forces=-1).code(), positions())


def test_counts_are_not_taken_for_float32():
    def energy_gradient(r):
        return morse(r, None, THETA)[0], np.array([1.0, 2.0, float(len(r))])

    def energy_and_forces(r):
        return morse(r, None, THETA)[:2]

    found = check_code(EnergyCode(energy_and_forces, energy_gradient), positions())
    assert found.precision == "float64"


def test_parameters_by_name_and_unknown():
    code = Code(gradient=1.001)
    with pytest.raises(CodeError, match="dE/dtheta inconsistent"):
        check_code(code.code(parameters=None), positions())  # an attribute `theta`
    theta = THETA.copy()

    def energy_and_forces(r):
        return morse(r, None, theta)[:2]

    def energy_gradient(r):
        energy, _, _, gradient = morse(r, None, theta)
        return energy, 1.001 * gradient

    with pytest.raises(CodeError, match="dE/dtheta inconsistent"):
        check_code(EnergyCode(energy_and_forces, energy_gradient), positions())  # a closure
    assert np.array_equal(theta, THETA)
    hidden = THETA.copy()

    def hidden_gradient(r):
        energy, _, _, gradient = morse(r, None, hidden)
        return energy, gradient

    found = check_code(
        EnergyCode(lambda r: morse(r, None, hidden)[:2], hidden_gradient), positions()
    )
    assert any("parameters are not known" in note for note in found.notes)
    assert found.checked == ["forces"]


def test_parameters_that_are_a_copy_or_of_another_layout():
    code = Code()
    with pytest.raises(CodeError, match="does not change with the parameters"):
        check_code(code.code(parameters=THETA.copy()), positions())
    with pytest.raises(CodeError, match=r"has the shape \(3,\), the parameters \(4,\)"):
        check_code(code.code(parameters=np.zeros(4)), positions())


@pytest.mark.parametrize("container", ["list", "dict"])
def test_parameters_in_containers(container):
    parts = {"depth": THETA[:1].copy(), "shape": THETA[1:].copy()}
    if container == "list":
        parts = list(parts.values())

    def theta():
        return np.concatenate(list(parts.values()) if container == "dict" else parts)

    def energy_and_forces(r):
        return morse(r, None, theta())[:2]

    def gradient(r, factor=1.0):
        energy, _, _, g = morse(r, None, theta())
        if container == "list":
            return energy, [g[:1], factor * g[1:]]
        return energy, {"shape": factor * g[1:], "depth": g[:1]}  # in another order

    found = check_code(EnergyCode(energy_and_forces, gradient, parts), positions())
    assert found.checked == ["forces", "dE/dtheta"]
    with pytest.raises(CodeError, match="dE/dtheta inconsistent"):
        check_code(EnergyCode(energy_and_forces, lambda r: gradient(r, 1.001), parts), positions())
    assert np.array_equal(theta(), THETA)


def test_reused_buffers_are_not_accused():
    code, buffers = Code(), (np.zeros((4, 3)), np.zeros(3))

    def energy_and_forces(r):
        energy, buffers[0][:] = code.energy_and_forces(r)
        return energy, buffers[0]

    def energy_gradient(r):
        energy, buffers[1][:] = code.energy_gradient(r)
        return energy, buffers[1]

    found = check_code(EnergyCode(energy_and_forces, energy_gradient, code.theta), positions())
    assert found.checked == ["forces", "dE/dtheta"]


def test_two_models_in_one():
    code, other = Code(), Code(energy=lambda e: e + 1.0)
    with pytest.raises(CodeError, match="the two are not one model"):
        check_code(code.code(energy_gradient=other.energy_gradient), positions())


def test_without_energies_there_is_a_note():
    found = check_code(
        EnergyCode(lambda r: (None, morse(r, None, THETA)[1]), lambda r: morse(r, None, THETA)[3]),
        positions(),
    )
    assert found.checked == []
    assert "returns no energies" in found.notes[0]


def test_energies_that_come_with_the_gradient_alone():
    code = Code(forces=1.001)

    def forces_only(r):
        return None, code.energy_and_forces(r)[1]

    with pytest.raises(CodeError, match="forces inconsistent"):
        check_code(code.code(energy_and_forces=forces_only), positions())


def test_large_offsets_leave_the_checks_sharp():
    """Total energies of -1e5 eV have 1e-11 eV of rounding; 0.1 % of a force is still seen."""
    offset = dict(energy=lambda e: e - 1e5)
    assert "forces" in check_code(Code(**offset).code(), positions()).checked
    with pytest.raises(CodeError, match="forces inconsistent"):
        check_code(Code(**offset, forces=1.001).code(), positions())


SHAPES = [
    (lambda r: (np.zeros(4), np.zeros((4, 3))), None, r"energy of shape \(4,\); return the total"),
    (lambda r: (0.0, np.zeros((3, 4))), None, r"forces of shape \(3, 4\) for positions"),
    (lambda r: (0.0, np.full((4, 3), np.nan)), None, "12 of 12 numbers not finite"),
    (lambda r: (np.nan, np.zeros((4, 3))), None, "an energy with 1 of 1 numbers not finite"),
    (lambda r: (0.0, "forces"), None, "forces of type str"),
    (lambda r: [0.0, np.zeros((4, 3))], None, r"must return the tuple .*, not list"),
    (lambda r: (1, 2, 3, 4), None, "not a tuple of 4"),
    (lambda r: (0.0, np.zeros((4, 3)), np.zeros(5)), None, r"stress has shape \(5,\)"),
    (None, lambda r: (np.zeros(3), np.zeros(3), np.zeros(3)), "tuple of 3 .* list or dict"),
    (None, lambda r: (np.zeros(3), np.zeros(3)), "tuple of 2 .* 2-tuple"),
    (None, lambda r: np.array([0.0, np.inf, 1.0]), r"1 of 3 numbers not finite .* at \[1\]"),
    (None, lambda r: {"a": np.zeros(3), "b": [np.array([np.nan])]}, r"dE/dtheta\['b'\]\[0\] with"),
    (None, lambda r: (0.0, (np.zeros(3), np.zeros(3))), "make it a list or a dict"),
    (None, lambda r: None, "of type NoneType"),
]  # fmt: skip


@pytest.mark.parametrize(("forces", "gradient", "message"), SHAPES, ids=[s[2] for s in SHAPES])
def test_results_that_cannot_be_right(forces, gradient, message):
    from fdforce import force_loss_gradient

    code = Code()
    forces, gradient = forces or code.energy_and_forces, gradient or code.energy_gradient
    with pytest.raises(CodeError, match=message):
        check_code(EnergyCode(forces, gradient), positions())
    with pytest.raises(ValueError, match=message):
        force_loss_gradient(forces, gradient, positions(), np.ones((4, 3)))


def test_a_gradient_that_changes_shape():
    sizes = iter(range(1, 100))
    code = Code()
    with pytest.raises(CodeError, match="changes its shape from call to call"):
        check_code(
            code.code(energy_gradient=lambda r: np.zeros(next(sizes)), parameters=None), positions()
        )
