"""How exact the force gradient of a model or an outside code is: what ``fdforce epsilon`` shows."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from fdforce.callables import force_loss_gradient
from fdforce.code_loading import needs_cell, takes_cell, where
from fdforce.consistency import CERTAINTY, Consistency, check_code
from fdforce.data_set import DataSet, residual_target
from fdforce.energy_code import EnergyCode, flat, read_forces
from fdforce.epsilon import (
    LOWEST,
    RICHARDSON_EPSILONS,
    EpsilonScan,
    default_epsilons,
    quiet_float32,
    richardson_gradients,
    scan,
)
from fdforce.errors import CodeError, FdforceError
from fdforce.extrapolation import extrapolate
from fdforce.gradient import loss_gradient
from fdforce.losses import make_loss
from fdforce.model_file import in_precision
from fdforce.neighbors import build_pairs
from fdforce.problem import without_offsets
from fdforce.structures import Structures, to_atoms

HIGHEST = 0.1
SKIN = 6.01 * HIGHEST
"""Å. What central4 needs at the largest epsilon, strain included."""
STENCILS = ("forward", "central", "central4")
PRECISIONS = ("float64", "float32")
SLOPE_TOLERANCE = 2e-5
"""Defect in units of |g||f| from which the forces of a structure contradict its energies."""
CHECKED = 4
"""Most structures on which an outside code is checked against its energies."""


@dataclass
class Subject:
    """Something whose gradient of ``1/2 sum |f - f_ref|^2`` can be judged.

    Attributes
    ----------
    evaluate : callable
        ``evaluate(epsilon, stencil, g0)`` -> list of GradientStep, one for each structure.
    precision : str
    truth : list, optional
        True gradients, one for each structure.
    reference : str
        "exact" or "richardson".
    reference_error : float
    consistency : Consistency, optional
        Of an outside code.
    """

    evaluate: Callable
    precision: str
    truth: list | None = None
    reference: str = "exact"
    reference_error: float = 0.0
    consistency: Consistency | None = None

    def scan(self, stencil: str, g0=None) -> EpsilonScan:
        """Error curves up to displacements of 0.1 Å."""
        highest = HIGHEST if g0 is None else self._highest(g0)
        epsilons = default_epsilons(LOWEST[stencil], highest)
        try:
            return scan(
                lambda epsilon: self.evaluate(epsilon, stencil, g0), epsilons,
                stencil=stencil, precision=self.precision, truth=self.truth,
                reference=self.reference, reference_error=self.reference_error,
            )  # fmt: skip
        except CodeError:
            raise
        except ValueError as problem:
            raise FdforceError(str(problem)) from problem

    def _highest(self, g0):
        """Largest epsilon for which displacements in units of a fixed g0 stay within 0.1 Å."""
        etas = [np.max(step.eta) for step in self.evaluate(1e-5, "central", None)]
        etas = [eta for eta in etas if eta > 0]
        if not etas:
            return HIGHEST
        largest = 1e-5 / min(etas)
        highest = min(HIGHEST, HIGHEST * g0 / largest)
        if highest < 1e3 * LOWEST["central"]:
            raise FdforceError(
                f"--fixed-g0 {g0:g}: the largest force error is {largest:.3g} eV/Å; take a g0 near "
                "it"
            )
        return highest


@dataclass
class Diagnosis:
    """Error curves of a subject and what follows from them.

    Attributes
    ----------
    scan : EpsilonScan
        With the stencil, precision and g0 that were asked for.
    others : list of EpsilonScan
        Other stencils and precisions, for recommendations.
    scaled : EpsilonScan or None
        The same as `scan` with g0 = max |g_i| of each structure, where `scan` has a fixed g0.
    consistency : Consistency or None
    """

    scan: EpsilonScan
    others: list = field(default_factory=list)
    scaled: EpsilonScan | None = None
    consistency: Consistency | None = None

    def recommendations(self) -> list[dict]:
        """A row for each precision and stencil, with the errors at its best epsilon."""
        rows = []
        first = self.scaled or self.scan
        for one in sorted([first, *self.others], key=_place):
            err_loss, err_gradient = one.at(one.recommended)
            rows.append({
                "precision": one.precision, "stencil": one.stencil,
                "recommended": one.recommended, "err_loss": err_loss,
                "err_gradient": err_gradient, "flat": list(one.flat), "slopes": list(one.slopes),
            })  # fmt: skip
        return rows


def _place(scan):
    return PRECISIONS.index(scan.precision), STENCILS.index(scan.stencil)


def diagnose(subjects: Sequence[Subject], *, stencil=None, g0=None) -> Diagnosis:
    """Scan epsilon.

    Parameters
    ----------
    subjects : sequence of Subject
        The first is shown in full; the others, of another precision, only recommended for.
    stencil : str, optional
        This one alone; by default "central" in full and recommendations for all.
    g0 : float, eV/Å, optional
        Fixed in place of the largest ``|g_i|`` of each structure.

    Returns
    -------
    Diagnosis
    """
    first = subjects[0]
    main = first.scan(stencil or "central", g0)
    scaled = None if g0 is None else first.scan(main.stencil)
    others = []
    if stencil is None:
        others = [
            subject.scan(name)
            for subject in subjects
            for name in STENCILS
            if not (subject is first and name == main.stencil)
        ]
    return Diagnosis(main, others, scaled, first.consistency)


# -- a model of fdforce ----------------------------------------------------------------------------


def of_model(model, structures: Structures, precisions, threads: int = 1) -> list[Subject]:
    """A model on some structures, in each of some precisions.

    The true gradient, that of the complex step, is the same for all of them.

    Parameters
    ----------
    model : EnergyModel
    structures : Structures
    precisions : sequence of {"float64", "float32"}
    threads : int
    """
    pairs = build_pairs(structures, model.cutoff, skin=SKIN, threads=threads)
    target = residual_target(structures, model.reference_energies, model.baseline, pairs)
    dataset, bare = DataSet(structures, target, pairs), without_offsets(model)
    parts = []
    for s in range(len(structures)):
        batch, labels = dataset.batch([s], threads)
        parts.append((batch, _squared(labels)))

    def evaluate(epsilon, stencil, g0, model):
        return [
            loss_gradient(model, batch, loss, epsilon=epsilon, stencil=stencil, g0=g0)
            for batch, loss in parts
        ]

    exact = evaluate(0.0, "complex", None, in_precision(bare, "float64"))
    truth = [step.gradient for step in exact]
    return [
        Subject(partial(evaluate, model=in_precision(bare, precision)), precision, truth)
        for precision in precisions
    ]


def _squared(labels):
    # weights that turn the means of the squared loss into 1/2 sum, so that g = f - f_ref
    loss = make_loss("squared", energy_weight=0.0, force_weight=1.5, stress_weight=4.5)
    return lambda *result: loss(*result, labels)


# -- a code from outside ---------------------------------------------------------------------------


@dataclass
class _Case:
    """A code bound to a structure with its labels."""

    label: str
    code: EnergyCode
    positions: np.ndarray
    cell: np.ndarray | None
    forces: np.ndarray
    stress: np.ndarray | None
    symbols: list
    bare_stress: bool = False

    def step(self, epsilon, stencil, g0):
        return force_loss_gradient(
            self.code.energy_and_forces, self.code.energy_gradient, self.positions, self.forces,
            cell=self.cell, reference_stress=self.stress,
            epsilon=epsilon, stencil=stencil, g0=g0,
        )  # fmt: skip

    def true_gradient(self):
        terms = self.step(1e-5, "central", None).details["terms"]
        if self.cell is None:
            return self.code.true_gradient(self.positions.copy(), terms.d_forces)
        return self.code.true_gradient(
            self.positions.copy(), self.cell.copy(), terms.d_forces,
            None if terms.d_virial is None else terms.d_virial[0],
        )  # fmt: skip


def of_code(make: Callable, structures: Structures) -> Subject:
    """An outside code on some structures, after its forces and dE/dtheta have been checked.

    Parameters
    ----------
    make : callable
        ``make(atoms) -> EnergyCode`` (`fdforce.code_loading.load_codes`).
    structures : Structures
        With forces.

    Raises
    ------
    CodeError
        The code contradicts itself; see `fdforce.consistency.check_code`.
    """
    cases = [_case(make, structures, s) for s in range(len(structures))]
    found = Consistency()
    few = _few(cases)
    for case in few:
        with _named(case.label):
            check_code(case.code, case.positions, case.cell, symbols=case.symbols, result=found)
    if len(few) < len(cases) and "dE/dtheta" in found.checked:
        found.note(
            f"dE/dtheta was compared with the energies of {len(few)} of {len(cases)} structures, "
            "forces with those of all"
        )
    _note_stress(cases, structures, found)

    def evaluate(epsilon, stencil, g0):
        steps = []
        for case in cases:
            with _named(case.label):
                steps.append(case.step(epsilon, stencil, g0))
        return steps

    subject = Subject(evaluate, found.precision, consistency=found)
    with quiet_float32():
        ladder = [evaluate(float(e), "central", None) for e in RICHARDSON_EPSILONS]
    _check_every_structure(cases, ladder)
    if all(case.code.true_gradient is not None for case in cases):
        subject.truth = [case.true_gradient() for case in cases]
    else:
        subject.truth, subject.reference_error = richardson_gradients(ladder)
        subject.reference = "richardson"
    if not any(np.any(flat(gradient)) for gradient in subject.truth):
        raise FdforceError(
            "the gradient of the force loss is zero for all structures: forces equal their "
            "references, or have no slope in theta (a single atom, a perfect crystal)"
        )
    return subject


def _check_every_structure(cases, ladder):
    """The work of the forces along the force error against the energies, in each structure.

    The steps of the reference hold what this needs: their defects, extrapolated.
    """
    for s, case in enumerate(cases):
        details = [steps[s].details for steps in ladder]
        if any(one["defect"] is None for one in details):
            return
        scale = float(details[0]["scale"][0])
        defect, error = extrapolate([float(one["defect"][0]) for one in details])
        noise = max(abs(float(one["defect"][0]) - defect) for one in details[3:6])
        if scale > 0 and abs(defect) > max(SLOPE_TOLERANCE * scale, CERTAINTY * error, 2 * noise):
            slope = float(details[0]["slope"][0])
            raise CodeError(
                f"{case.label}: forces inconsistent with the energies: along the force error the "
                f"slope of the energy is {slope + defect:.6g} and that of the forces {slope:.6g}; "
                "a term, a species or a unit is wrong in one of them"
            )


def _note_stress(cases, structures, found):
    labelled = [case for s, case in enumerate(cases) if structures.has_stress[s]]
    if any(case.stress is None for case in labelled):
        found.note(
            "stress labels are not used: the callables take no cell, or energy_and_forces returns "
            "no stress"
        )
    elif any(case.bare_stress for case in cases):
        found.note("the stress is not checked: the callables take no cell to strain")


def _case(make, structures, s) -> _Case:
    atoms = to_atoms(structures, s)
    label = structures.labels[s]
    with _named(label):
        code = make(atoms)
        cell = None
        if needs_cell(code) or (atoms.pbc.any() and takes_cell(code)):
            cell = atoms.cell.array.copy()
        # calculators stay with the code; what it sees here are arrays
        arguments = (atoms.positions.copy(),) if cell is None else (atoms.positions.copy(), cell)
        returned = read_forces(code.energy_and_forces(*arguments), atoms.positions.shape)
    stress = None
    if structures.has_stress[s] and returned[2] is not None and cell is not None:
        stress = structures.stresses[s]
    begin, end = structures.offsets[s : s + 2]
    return _Case(
        label, code, atoms.positions.copy(), cell, structures.forces[begin:end], stress,
        list(atoms.symbols), returned[2] is not None and cell is None,
    )  # fmt: skip


def _few(cases):
    """Small structures that hold every element, two at least."""
    chosen, missing = [], {symbol for case in cases for symbol in case.symbols}
    for case in sorted(cases, key=lambda case: (len(case.positions) < 2, len(case.positions))):
        if len(chosen) < CHECKED and (missing.intersection(case.symbols) or len(chosen) < 2):
            chosen.append(case)
            missing.difference_update(case.symbols)
    return chosen


@contextmanager
def _named(label):
    """Add the structure to what goes wrong inside an outside code."""
    try:
        yield
    except CodeError as problem:
        raise CodeError(f"{label}: {problem}") from problem
    except FdforceError:
        raise
    except Exception as problem:
        raise CodeError(f"{label}: the energy code failed with {where(problem)}") from problem
    except SystemExit as problem:
        raise CodeError(f"{label}: the energy code ended the process ({problem})") from problem


# -- the monitor of a finished run -----------------------------------------------------------------


@dataclass(frozen=True)
class RunMonitor:
    """Err[L~] of the epochs of a run.

    Attributes
    ----------
    epoch, epsilon, err_loss, force_error : ndarray
        Columns of history.csv; `force_error` is the training RMSE in eV/Å.
    """

    epoch: np.ndarray
    epsilon: np.ndarray
    err_loss: np.ndarray
    force_error: np.ndarray

    @property
    def drift(self) -> np.ndarray:
        """Err[L~] times the force error, relative to the first epoch.

        Err[L~] is relative to the loss and grows as that falls; this product does not
        (docs/method.md), so it shows whether epsilon still fits.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            product = self.err_loss * self.force_error
            return product / product[0]

    @property
    def changes(self) -> np.ndarray:
        """Epochs from which on another epsilon was used."""
        return self.epoch[1:][np.diff(self.epsilon) != 0]


def read_monitor(run_directory) -> RunMonitor:
    """The monitor of a run from its history.csv.

    Raises
    ------
    FdforceError
        No such run, or one that has finished no epoch.
    """
    path = Path(run_directory) / "history.csv"
    if not path.is_file():
        raise FdforceError(f"{run_directory}: no history.csv there; give the folder of a run")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise FdforceError(f"{path}: no epoch has been finished")
    if "member" in rows[0]:
        raise FdforceError(
            f"{run_directory}: is an ensemble; watch one of its runs, {run_directory}/member-0"
        )
    names = ("epoch", "epsilon", "err_loss", "train_force_rmse")
    try:
        columns = [np.array([float(row[name] or "nan") for row in rows]) for name in names]
    except (KeyError, ValueError, TypeError) as problem:
        raise FdforceError(f"{path}: not the history of a run ({problem})") from problem
    return RunMonitor(*columns)
