"""Does an energy code agree with itself? Forces, stress and dE/dtheta against its own energies.

An error in any of them makes the gradient of a force loss wrong for every epsilon, so these checks
come before a scan. Each compares analytic slopes with extrapolated differences of the energy along
random directions and names the quantity that is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from fdforce.code_parameters import Parameters
from fdforce.energy_code import (
    EnergyCode,
    flat,
    in_order_of,
    layout,
    read_forces,
    read_gradient,
)
from fdforce.errors import CodeError
from fdforce.extrapolation import slope_at_zero

TOLERANCE = 1e-4
"""Relative difference between slopes from which a code contradicts itself."""
CERTAINTY = 10.0
"""A difference counts only when it is this many times the error of the numerical slope."""
RATTLE = 0.02
"""Å. Structures are moved off symmetric positions, where slopes vanish and prove nothing."""
STEP = 0.02
"""Å. Largest displacement of the energy differences."""
WALK = 0.3
"""Å. Length of the path that is searched for jumps of the energy."""
UNITS = {
    51.4221: "eV/Å against Hartree/Bohr",
    27.2114: "eV against Hartree",
    1.88973: "Å against Bohr",
    23.0605: "eV against kcal/mol",
    96.4853: "eV against kJ/mol",
    43.3641: "meV against kcal/mol",
    160.2177: "eV/Å³ against GPa",
    2.0: "a factor of two: pairs counted twice or half",
}
"""Ratios that betray a unit."""
UNKNOWN_PARAMETERS = (
    "dE/dtheta was not compared with the energies, because the parameters are not known: give them "
    "as EnergyCode(..., parameters=theta), the arrays that the code reads on every call"
)


@dataclass
class Consistency:
    """What the checks of a code found that is no contradiction.

    Attributes
    ----------
    precision : str
        "float64", or "float32" where energies or gradients carry no more digits.
    notes : list of str
        What could not be checked, and why; what is suspicious.
    checked : list of str
        The quantities found to agree with the energies.
    """

    precision: str = "float64"
    notes: list[str] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Add a note once."""
        if text not in self.notes:
            self.notes.append(text)


class _Probe:
    """A code near one structure: energies along lines."""

    def __init__(self, code: EnergyCode, positions, cell):
        self.code, self.positions, self.cell = code, positions, cell

    def evaluate(self, positions=None, cell=None):
        """(energy or None, forces, stress or None)."""
        positions = self.positions if positions is None else positions
        result = self.code.energy_and_forces(*self._arguments(positions, cell))
        return read_forces(result, positions.shape)

    def gradient(self):
        return read_gradient(self.code.energy_gradient(*self._arguments(self.positions, None)))

    def energy(self, positions=None, cell=None) -> float:
        """From energy_and_forces, or from energy_gradient where that has none; NaN without."""
        energy = self.evaluate(positions, cell)[0]
        if energy is None:
            positions = self.positions if positions is None else positions
            result = self.code.energy_gradient(*self._arguments(positions, cell))
            energy = read_gradient(result)[0]
        return np.nan if energy is None else float(energy)

    def along(self, direction, t: float) -> float:
        return self.energy(self.positions + t * direction)

    def strained(self, strain, t: float) -> float:
        return self.energy(self.positions + t * self.positions @ strain,
                           self.cell + t * self.cell @ strain)  # fmt: skip

    def _arguments(self, positions, cell):
        if self.cell is None:
            return (positions.copy(),)
        return positions.copy(), (self.cell if cell is None else cell).copy()


def check_code(
    code: EnergyCode, positions, cell=None, *, seed: int = 0, result: Consistency | None = None
) -> Consistency:
    """Check an energy code near one structure.

    Parameters
    ----------
    code : EnergyCode
    positions : array, shape (n_atoms, 3), Å
    cell : array, shape (3, 3), Å, optional
        For codes that are called with it.
    seed : int
        Of the random directions.
    result : Consistency, optional
        To add to, from other structures.

    Returns
    -------
    Consistency

    Raises
    ------
    CodeError
        A result cannot be right (shapes, NaN), changes from call to call, jumps, or contradicts
        the energies. The message names the quantity and the likely cause.
    """
    result = Consistency() if result is None else result
    rng = np.random.default_rng(seed)
    positions = np.array(positions, dtype=np.float64)
    cell = None if cell is None else np.array(cell, dtype=np.float64)
    rattle = np.clip(rng.normal(scale=RATTLE, size=positions.shape), -2 * RATTLE, 2 * RATTLE)
    probe = _Probe(code, positions + rattle, cell)
    energy, forces, stress = probe.evaluate()
    from_gradient, gradient = probe.gradient()
    coarse = _coarse_quantities(probe, rng)
    if coarse:
        result.precision = "float32"
        result.note(
            f"{' and '.join(coarse)} carry the digits of float32 only, though they may come as "
            "float64: differences of them lose the rest; compute in float64, or expect "
            "ε near 1e-2 and a gradient good to 3 or 4 digits"
        )
    unit = np.finfo(result.precision).eps
    _check_repeatable(probe, energy, forces, gradient, unit)
    if energy is None and from_gradient is None:
        result.note("the code returns no energies: forces and dE/dtheta cannot be checked")
        return result
    _check_same_energy(energy, from_gradient, unit)
    noise = 2 * unit * max(abs(e) for e in (energy, from_gradient) if e is not None)
    _check_jumps(probe, forces, rng, noise, result)
    _check_forces(probe, forces, rng, noise, result)
    if stress is not None and cell is not None:
        _check_stress(probe, stress, rng, noise, result)
    _check_gradient(probe, gradient, rng, noise, result)
    return result


# -- digits, repeatability -------------------------------------------------------------------------


def _coarse_quantities(probe, rng):
    """Names of what is exactly representable in float32."""
    energies, gradients = [], []
    for _ in range(3):
        moved = probe.positions + rng.normal(scale=RATTLE, size=probe.positions.shape)
        near = _Probe(probe.code, moved, probe.cell)
        energies += [near.evaluate()[0], near.gradient()[0]]
        gradients.append(flat(near.gradient()[1]))
    energies = np.array([e for e in energies if e is not None], dtype=np.float64)
    names = ["the energies"] if _float32_digits(energies) else []
    return names + (["dE/dtheta"] if _float32_digits(np.concatenate(gradients)) else [])


def _float32_digits(values) -> bool:
    values = np.unique(values[values != 0])
    with np.errstate(over="ignore"):
        if len(values) < 3 or not np.array_equal(values, values.astype(np.float32)):
            return False
    # counts and other short numbers are exact in float32 without having been rounded to it
    mantissas = np.frexp(values)[0] * 2.0**12
    return bool(np.count_nonzero(mantissas != np.round(mantissas)) > len(values) / 2)


def _check_repeatable(probe, energy, forces, gradient, unit):
    again = probe.evaluate()
    gradient_again = probe.gradient()[1]
    if layout(gradient) != layout(gradient_again):
        raise CodeError(
            f"dE/dtheta changes its shape from call to call: {layout(gradient)}, then "
            f"{layout(gradient_again)}"
        )
    pairs = [
        ("energy", energy, again[0]),
        ("forces", forces, again[1]),
        ("dE/dtheta", flat(gradient), flat(gradient_again)),
    ]
    for name, first, second in pairs:
        if first is None or second is None:
            continue
        change, size = np.max(np.abs(np.subtract(first, second))), np.max(np.abs(first))
        if change > 1e3 * unit * size:
            raise CodeError(
                f"{name}: two calls at the same positions differ by {change:.1e} (of {size:.3g}): "
                "the code is not deterministic. Dropout left on? Random or uninitialised numbers? "
                "Put the model into evaluation mode, or fix its random state"
            )


def _check_same_energy(energy, from_gradient, unit):
    if energy is None or from_gradient is None:
        return
    size = max(abs(energy), abs(from_gradient))
    if abs(energy - from_gradient) > max(100 * unit, 1e-9) * size:
        raise CodeError(
            f"energy_and_forces gives the energy {energy:.10g} and energy_gradient "
            f"{from_gradient:.10g} at the same positions: the two are not one model (other "
            "parameters, units, offsets, or dropout in one of them)"
        )


# -- smoothness ------------------------------------------------------------------------------------


def _check_jumps(probe, forces, rng, noise, result, points: int = 60):
    """Walk along a random line: energies must change by the work of the forces."""
    direction = _unit_rows(rng, probe.positions.shape)
    visited: dict[float, tuple[float, float]] = {}

    def at(t):
        if t not in visited:
            moved = probe.positions + t * direction
            energy, f, _ = probe.evaluate(moved)
            energy = probe.energy(moved) if energy is None else energy
            visited[t] = float(energy), -float(np.sum(f * direction))
        return visited[t]

    def unexplained(interval):
        """Change of the energy less the work of the forces."""
        (e0, s0), (e1, s1) = (at(t) for t in interval)
        return abs(e1 - e0 - 0.5 * (interval[1] - interval[0]) * (s0 + s1))

    def turned(interval):
        """Change of the slope."""
        return abs(at(interval[1])[1] - at(interval[0])[1])

    path = list(pairwise(np.linspace(0, WALK, points + 1)))
    jump, place = _largest_jump(unexplained, path, 10 * noise)
    if jump > 100 * noise:
        raise CodeError(
            f"the energy jumps by {jump:.1e} eV when atoms move by {place:.4f} Å in a random "
            "direction: it is not continuous, so differences of its gradient mean nothing. "
            "A cutoff without a smooth switching function, or a neighbour list not rebuilt?"
        )
    steepest = max(abs(slope) for _, slope in visited.values())
    jump, _ = _largest_jump(turned, path, 1e-6 * steepest)
    if jump > 1e-6 * steepest:
        result.note(
            f"the forces jump (by {jump:.1e} eV/Å along a random direction): the energy has a "
            "kink, as at a cutoff that is shifted but not switched off; the gradient of the loss "
            "is wrong wherever a displacement crosses it"
        )


def _largest_jump(change, path, least):
    """(size, place) of a change that does not shrink with the interval it lies in; else (0, 0).

    Only intervals are looked into whose change stands out from those of their neighbours.
    """
    changes = np.array([change(interval) for interval in path])
    beside = np.pad(changes, 1, mode="edge")
    excess = changes - np.maximum(beside[:-2], beside[2:])
    usual = 5 * np.median(np.abs(changes - 0.5 * (beside[:-2] + beside[2:]))) + least
    for k in np.argsort(excess)[::-1][:3]:
        if excess[k] < usual:
            break
        low, high = path[k]
        for _ in range(24):
            middle = 0.5 * (low + high)
            low, high = max((low, middle), (middle, high), key=change)
        if change((low, high)) > 0.1 * excess[k]:
            return change((low, high)), low
    return 0.0, 0.0


# -- slopes ----------------------------------------------------------------------------------------


def _check_forces(probe, forces, rng, noise, result):
    size = np.linalg.norm(forces, axis=1).max()
    if size == 0:
        result.note("all forces are zero: they prove nothing")
        return
    directions = [forces / size] + [_unit_rows(rng, forces.shape) for _ in range(3)]
    analytic = [-float(np.sum(forces * d)) for d in directions]
    numeric = [slope_at_zero(lambda t, d=d: probe.along(d, t), STEP) for d in directions]
    _compare(
        "forces", analytic, numeric, 16 * noise / STEP, result,
        sign="they have the sign of +dE/dr; return -dE/dr",
    )  # fmt: skip


def _check_stress(probe, stress, rng, noise, result):
    volume = abs(np.linalg.det(probe.cell))
    directions = [np.eye(3)]
    for _ in range(3):
        strain = rng.normal(size=(3, 3))
        directions.append((strain + strain.T) / np.abs(strain + strain.T).max())
    step = STEP / 5  # an atom 5 Å away moves by STEP
    analytic = [volume * float(np.sum(stress * strain)) for strain in directions]
    numeric = [slope_at_zero(lambda t, s=s: probe.strained(s, t), step) for s in directions]
    _compare(
        "stress", analytic, numeric, 16 * noise / step, result,
        sign="it has the sign of a pressure; return (1/V) dE/ds, ASE's sign",
    )  # fmt: skip


def _check_gradient(probe, gradient, rng, noise, result):
    parameters = Parameters.of(probe.code, gradient)
    if parameters is None:
        result.note(UNKNOWN_PARAMETERS)
        return
    gradient = in_order_of(parameters.container, gradient)
    if parameters.layout != layout(gradient):
        raise CodeError(
            f"dE/dtheta has the shape {layout(gradient)}, the parameters {parameters.layout}: they "
            "must have the same layout"
        )
    theta, blocks = parameters.read(), parameters.blocks()
    slopes = flat(gradient)
    typical = np.sqrt(np.mean(theta**2)) or 1.0
    scale = np.empty_like(theta)
    for block in blocks:
        rms = np.sqrt(np.mean(theta[block] ** 2)) if theta[block].size else 0.0
        scale[block] = np.maximum(np.abs(theta[block]), 0.1 * (rms or typical))
    # all parameters at once, then block after block: a small block hides behind a large one
    directions = [scale * rng.normal(size=theta.shape) for _ in range(3)]
    groups = [slice(0, 3)]
    for block in blocks if 1 < len(blocks) <= 32 else []:
        for _ in range(2):
            directions.append(np.zeros_like(theta))
            directions[-1][block] = scale[block] * rng.normal(size=theta[block].shape)
        groups.append(slice(len(directions) - 2, len(directions)))

    def energy(t, direction):
        parameters.write(theta + t * direction)
        return probe.energy()

    step = 0.02
    try:
        numeric = [slope_at_zero(lambda t, d=d: energy(t, d), step, 6) for d in directions]
    finally:
        parameters.write(theta)
    analytic = [float(slopes @ d) for d in directions]
    if np.any(slopes) and not any(slope for slope, _ in numeric):
        if not parameters.given:
            result.note(UNKNOWN_PARAMETERS)
            return
        raise CodeError(
            "the energy does not change with the parameters that were given, although dE/dtheta is "
            "not zero: the code must read these very arrays on every call, not a copy of them"
        )
    for group in groups:
        _compare(
            "dE/dtheta", analytic[group], numeric[group], 16 * noise / step, result,
            sign="it has the wrong sign",
        )  # fmt: skip


def _compare(name, analytic, numeric, noise, result, sign):
    analytic = np.array(analytic)
    errors = np.maximum([error for _, error in numeric], noise)
    numeric = np.array([slope for slope, _ in numeric])
    size, uncertain = np.linalg.norm(numeric), np.linalg.norm(errors)
    difference = np.linalg.norm(analytic - numeric)
    if difference <= max(TOLERANCE * size, CERTAINTY * uncertain):
        if CERTAINTY * uncertain > 1e-3 * size:
            digits = CERTAINTY * uncertain / size if size > 0 else np.inf
            result.note(
                f"{name} could be compared with the energies to {digits:.1%} only: the energies "
                "are noisy, or not smooth"
                if digits < 1
                else f"{name} could not be compared with the energies, which do not change enough"
            )
        elif difference > max(1e-6 * size, CERTAINTY * uncertain):
            result.note(
                f"{name} and the energies agree to {difference / size:.0e} only (differences of "
                f"the energy are good to {uncertain / size:.0e}): a table, a rounded constant, or "
                "an error in a small part of them"
            )
        if name not in result.checked:
            result.checked.append(name)
        return
    size = max(size, 1e-300)
    raise CodeError(
        f"{name} inconsistent with the energies: slopes along {len(analytic)} random directions "
        f"differ by {100 * difference / size:.3g} % (differences of the energy are good to "
        f"{uncertain / size:.0e}); {_cause(analytic, numeric, size, sign)}"
    )


def _cause(analytic, numeric, size, sign):
    ratio = float(analytic @ numeric) / size**2 if size > 0 else 0.0
    rest = np.linalg.norm(analytic - ratio * numeric)
    if ratio == 0 or rest > 0.05 * np.linalg.norm(analytic - numeric):
        return "not by a constant factor: a term is missing or wrong in one of them"
    if abs(ratio + 1) < 1e-3:
        return sign
    for known, meaning in UNITS.items():
        if min(abs(abs(ratio) / known - 1), abs(abs(ratio) * known - 1)) < 1e-4:
            return f"everywhere {ratio:.6g} times the right value ({meaning})"
    return f"everywhere {ratio:.6g} times the right value: a factor or a unit"


def _unit_rows(rng, shape):
    """A random direction whose largest displacement is one."""
    direction = rng.normal(size=shape)
    return direction / np.linalg.norm(direction, axis=1).max()
