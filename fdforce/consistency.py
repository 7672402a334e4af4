"""Does an energy code agree with itself? Forces, stress and dE/dtheta against its own energies.

An error in any of them makes the gradient of a force loss wrong for every epsilon, so these checks
come before a scan. Each compares analytic slopes with extrapolated differences of the energy along
random directions and names the quantity that is wrong. How far differences can be trusted follows
from the noise of the energies, which is measured, and not from what type they come in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise
from math import comb

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
RESOLVED = 3e-3
"""A quantity counts as checked when an error of this share would have been seen."""
RATTLE = 0.02
"""Å. Structures are moved off symmetric positions, where slopes vanish and prove nothing."""
STEP, LEVELS = 0.02, 6
"""Å. Largest displacement of the energy differences, and how often it is halved."""
STRIDE, FINE_STRIDE, STRIDES, ORDER = 1e-3, 1e-6, 20, 6
"""Å, Å, points and order of the differences that show the noise of energies."""
WALK, INTERVALS, HALVINGS = 0.3, 60, 22
"""Å. Path that is searched for jumps of the energy and of the forces."""
PIECES = 16
"""Parts of a large array of parameters that are checked one by one."""
EPS = float(np.finfo(np.float64).eps)
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
        """Add a note; of those that differ in their numbers alone the first is kept."""
        if _without_numbers(text) not in map(_without_numbers, self.notes):
            self.notes.append(text)


def _without_numbers(text):
    return re.sub(r"\d[\d.]*(e[+-]?\d+)?", "", text)


class _Probe:
    """A code near one structure: energies along lines, and their noise."""

    def __init__(self, code: EnergyCode, positions, cell):
        self.code, self.positions, self.cell = code, positions, cell
        self.noise = 0.0

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

    def point(self, direction, t: float) -> tuple[float, float]:
        """Energy and its slope by the forces."""
        moved = self.positions + t * direction
        energy, forces, _ = self.evaluate(moved)
        energy = self.energy(moved) if energy is None else energy
        return float(energy), -float(np.sum(forces * direction))

    def _arguments(self, positions, cell):
        if self.cell is None:
            return (positions.copy(),)
        return positions.copy(), (self.cell if cell is None else cell).copy()


def check_code(
    code: EnergyCode,
    positions,
    cell=None,
    *,
    symbols=None,
    seed: int = 0,
    result: Consistency | None = None,
) -> Consistency:
    """Check an energy code near one structure.

    Parameters
    ----------
    code : EnergyCode
    positions : array, shape (n_atoms, 3), Å
    cell : array, shape (3, 3), Å, optional
        For codes that are called with it.
    symbols : sequence of str, optional
        Element of each atom; the forces on each element are then checked by themselves too.
    seed : int
        Of the random directions.
    result : Consistency, optional
        To add to, from other structures. The search for jumps and the parameters one by one are
        left to the first structure.

    Returns
    -------
    Consistency

    Raises
    ------
    CodeError
        A result cannot be right (shapes, NaN), changes from call to call, jumps, or contradicts
        the energies. The message names the quantity and the likely cause.
    """
    first = result is None or not (result.checked or result.notes)
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
            "ε near 1e-3 to 1e-2 and a gradient good to 3 or 4 digits"
        )
    change = _check_repeatable(probe, energy, forces, gradient, "the energies" in coarse, result)
    if energy is None and from_gradient is None:
        result.note("the code returns no energies: forces and dE/dtheta cannot be checked")
        return result
    slope_noise = _measure_noise(probe, forces, rng, bool(coarse), result)
    _check_same_energy(energy, from_gradient, max(probe.noise, change))
    if first:
        _check_jumps(probe, rng, slope_noise, result)
    _check_forces(probe, forces, symbols, rng, result)
    if stress is not None and cell is not None:
        _check_stress(probe, stress, rng, result)
    _check_gradient(probe, gradient, rng, first, result)
    return result


# -- digits, noise, repeatability ------------------------------------------------------------------


def _coarse_quantities(probe, rng):
    """Names of what is exactly representable in float32."""
    energies, gradients = [], []
    for _ in range(3):
        moved = probe.positions + rng.normal(scale=RATTLE, size=probe.positions.shape)
        near = _Probe(probe.code, moved, probe.cell)
        from_gradient, gradient = near.gradient()
        energies += [near.evaluate()[0], from_gradient]
        gradients.append(flat(gradient))
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


def _noise_of(values) -> float:
    """Noise of a smooth function from high differences at equal steps (Hamming)."""
    return float(
        np.median(np.abs(np.diff(values, ORDER))) / 0.6745 / np.sqrt(comb(2 * ORDER, ORDER))
    )


def _measure_noise(probe, forces, rng, coarse, result) -> float:
    """Noise of the energies, kept by the probe, and of the slopes, along a random line."""
    direction = _unit_rows(rng, probe.positions.shape)
    wide, near = (
        np.array([probe.point(direction, stride * k) for k in range(STRIDES)])
        for stride in (STRIDE, FINE_STRIDE)
    )
    rounding = 2 * EPS * np.max(np.abs(wide[:, 0]))
    noises = [_noise_of(points[:, 0]) for points in (wide, near)]
    # where energies follow the forces over a tiny distance, what looks like noise over a larger one
    # are jumps; rounded output does not follow them
    work = np.mean(near[:, 1]) * FINE_STRIDE * (STRIDES - 1)
    follows = abs(near[-1, 0] - near[0, 0] - work) < 0.1 * abs(work)
    probe.noise = max(noises[1] if follows else max(noises), rounding)
    scale = np.linalg.norm(forces, axis=1).max()
    if not coarse and probe.noise > max(3e-9 * scale, 100 * rounding):
        result.note(
            f"the energies carry noise of {probe.noise:.0e} eV, where rounding of float64 would be "
            f"{rounding:.0e}: single precision inside, an iteration that is not converged to the "
            "last digits, or rounded output; it limits how small ε can be"
        )
    slope_noise = min(_noise_of(points[:, 1]) for points in (wide, near))
    return max(slope_noise, 2 * EPS * np.max(np.abs(wide[:, 1])))


def _check_repeatable(probe, energy, forces, gradient, single, result) -> float:
    """Change of the energy from call to call, which has to be small."""
    again = probe.evaluate()
    gradient_again = probe.gradient()[1]
    if layout(gradient) != layout(gradient_again):
        raise CodeError(
            f"dE/dtheta changes its shape from call to call: {layout(gradient)}, then "
            f"{layout(gradient_again)}"
        )
    size = np.linalg.norm(forces, axis=1).max() if len(forces) else 0.0
    slopes = flat(gradient)
    triples = [
        ("energy", energy, again[0], size),
        ("forces", forces, again[1], size),
        ("dE/dtheta", slopes, flat(gradient_again), np.max(np.abs(slopes), initial=0.0)),
    ]
    for name, first, second, scale in triples:
        if first is None or second is None or not np.size(first):
            continue
        change, value = np.max(np.abs(np.subtract(first, second))), np.max(np.abs(first))
        if change > max(1e-5 * scale, 1e3 * EPS * value, single * 1e-6 * value):
            raise CodeError(
                f"{name}: two calls at the same positions differ by {change:.1e} (of {value:.3g}): "
                "the code is not deterministic. Dropout left on? Random or uninitialised numbers? "
                "Put the model into evaluation mode, or fix its random state"
            )
        if change > 100 * EPS * value:
            result.note(
                f"{name}: two calls at the same positions differ by {change:.0e}: an iteration "
                "that is not converged to the last digits, or sums in changing order"
            )
    return 0.0 if energy is None or again[0] is None else float(abs(energy - again[0]))


def _check_same_energy(energy, from_gradient, noise):
    if energy is None or from_gradient is None:
        return
    size = max(abs(energy), abs(from_gradient))
    if abs(energy - from_gradient) > 1e-9 * size + 100 * noise:
        raise CodeError(
            f"energy_and_forces gives the energy {energy:.10g} and energy_gradient "
            f"{from_gradient:.10g} at the same positions: the two are not one model (other "
            "parameters, units, offsets, or dropout in one of them)"
        )


# -- smoothness ------------------------------------------------------------------------------------


def _check_jumps(probe, rng, slope_noise, result):
    """Walk along a random line: energies change by the work of the forces, forces steadily."""
    direction = _unit_rows(rng, probe.positions.shape)
    visited: dict[float, tuple[float, float]] = {}

    def at(t):
        if t not in visited:
            visited[t] = probe.point(direction, t)
        return visited[t]

    def unexplained(interval):
        """Change of the energy less the work of the forces."""
        (e0, s0), (e1, s1) = (at(t) for t in interval)
        return abs(e1 - e0 - 0.5 * (interval[1] - interval[0]) * (s0 + s1))

    path = list(pairwise(np.linspace(0, WALK, INTERVALS + 1)))
    jump, place = _largest_jump(unexplained, path, [unexplained(i) for i in path])
    energies, slopes = np.array([at(t) for t in np.linspace(0, WALK, INTERVALS + 1)]).T
    stride = WALK / INTERVALS
    steepest = max(np.max(np.abs(slopes)), np.max(np.abs(np.diff(energies))) / stride)
    # what forces that are wrong, or a kink, would do over the width that is left
    work = 10 * steepest * stride / 2**HALVINGS
    if jump > max(100 * probe.noise, work):
        raise CodeError(
            f"the energy jumps by {jump:.1e} eV when atoms move by {place:.4f} Å in a random "
            "direction: it is not continuous, so differences of its gradient mean nothing. "
            "A cutoff without a smooth switching function, or a neighbour list not rebuilt?"
        )

    def bent(interval):
        """Second difference of the slope."""
        low, high = interval
        return abs(at(low)[1] - 2 * at(0.5 * (low + high))[1] + at(high)[1])

    jump, _ = _largest_jump(bent, path, [bent(i) for i in path])
    if jump > max(1e-6 * np.max(np.abs(slopes)), 100 * slope_noise):
        result.note(
            f"the forces jump (by {jump:.1e} eV/Å along a random direction): the energy has a "
            "kink, as at a cutoff that is shifted but not switched off; the gradient of the loss "
            "is wrong wherever a displacement crosses it"
        )


def _largest_jump(change, path, changes) -> tuple[float, float]:
    """(size, place) of the largest change that is left when three intervals are narrowed down."""
    found = [(0.0, 0.0)]
    for k in np.argsort(changes)[::-1][:3]:
        low, high = path[k]
        for _ in range(HALVINGS):
            middle = 0.5 * (low + high)
            low, high = max((low, middle), (middle, high), key=change)
        found.append((change((low, high)), low))
    return max(found)


# -- slopes ----------------------------------------------------------------------------------------


def _check_forces(probe, forces, symbols, rng, result):
    groups = [("forces", slice(None))]
    if symbols is not None and len(set(symbols)) > 1:
        symbols = np.array(symbols)
        groups += [(f"forces on {name}", symbols == name) for name in sorted(set(symbols))]
    for name, atoms in groups:
        if not forces[atoms].any():
            if name == "forces":
                result.note("all forces are zero: they prove nothing")
            continue
        directions = []
        for direction in (forces, rng.normal(size=forces.shape), rng.normal(size=forces.shape)):
            moved = np.zeros(forces.shape)
            moved[atoms] = direction[atoms]
            directions.append(moved / np.linalg.norm(moved, axis=1).max())
        analytic = [-float(np.sum(forces * d)) for d in directions]
        numeric = [slope_at_zero(lambda t, d=d: probe.along(d, t), STEP, LEVELS)
                   for d in directions]  # fmt: skip
        _compare(
            name, analytic, numeric, 16 * probe.noise / STEP, result,
            sign="they have the sign of +dE/dr; return -dE/dr", whole=name == "forces",
        )  # fmt: skip


def _check_stress(probe, stress, rng, result):
    volume = abs(np.linalg.det(probe.cell))
    directions = [np.eye(3)]
    for _ in range(3):
        strain = rng.normal(size=(3, 3))
        directions.append((strain + strain.T) / np.abs(strain + strain.T).max())
    step = STEP / 5  # an atom 5 Å away moves by STEP
    analytic = [volume * float(np.sum(stress * strain)) for strain in directions]
    numeric = [slope_at_zero(lambda t, s=s: probe.strained(s, t), step, LEVELS)
               for s in directions]  # fmt: skip
    _compare(
        "stress", analytic, numeric, 16 * probe.noise / step, result,
        sign="it has the sign of a pressure; return (1/V) dE/ds, ASE's sign",
    )  # fmt: skip


def _check_gradient(probe, gradient, rng, first, result):
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
    theta, slopes = parameters.read(), flat(gradient)
    blocks = parameters.blocks()
    scale = _steps(theta, [block for _, block in blocks])
    # all parameters at once, then part after part: a small part hides behind a large one
    groups = [("dE/dtheta", [scale * rng.normal(size=theta.shape) for _ in range(3)])]
    for name, part in _parts(blocks, theta) if first else []:
        directions = np.zeros((2, *theta.shape))
        directions[:, part] = scale[part] * rng.normal(size=(2, *theta[part].shape))
        groups.append((name, list(directions)))
    try:
        compared = [
            (name, directions, _parameter_slopes(probe, parameters, theta, directions))
            for name, directions in groups
        ]
    finally:
        parameters.write(theta)
    if any(numeric is None for _, _, numeric in compared):
        result.note(
            "dE/dtheta was not compared with the energies: they are not finite when the parameters "
            "are moved by a part in 10^5"
        )
        return
    if np.any(slopes) and not any(slope for slope, _, _ in compared[0][2]):
        if not parameters.given:
            result.note(UNKNOWN_PARAMETERS)
            return
        raise CodeError(
            "the energy does not change with the parameters that were given, although dE/dtheta is "
            "not zero: the code must read these very arrays on every call, not a copy of them, and "
            "must not keep energies from earlier calls"
        )
    hint = "" if parameters.given else (
        f"; theta was taken to be the variable {parameters.name!r} beside the callables: if it is "
        "another, give EnergyCode(..., parameters=...)"
    )  # fmt: skip
    for name, directions, numeric in compared:
        floor = np.array([16 * probe.noise / step for _, _, step in numeric])
        _compare(
            name, [float(slopes @ d) for d in directions], [n[:2] for n in numeric], floor,
            result, sign="it has the wrong sign", whole=name == "dE/dtheta", hint=hint,
        )  # fmt: skip


def _steps(theta, blocks):
    """How far a parameter is moved: by its size, or that of its neighbours where it is zero."""
    typical = np.sqrt(np.mean(theta**2)) if theta.size else 0.0
    scale = np.abs(theta)
    for block in blocks:
        rms = np.sqrt(np.mean(theta[block] ** 2)) if theta[block].size else 0.0
        zero = scale[block] == 0
        scale[block] = np.where(zero, 0.1 * (rms or typical or 10.0), scale[block])
    return scale


def _parts(blocks, theta):
    """Arrays, and pieces of long ones, by name; none where there is a single parameter."""
    parts = []
    for name, block in blocks:
        places = np.arange(block.start, block.stop)
        pieces = min(len(places), PIECES) if len(blocks) <= PIECES else 1
        for piece in np.array_split(places, max(pieces, 1)):
            if not len(piece):
                continue
            inside = slice(int(piece[0]), int(piece[-1]) + 1)
            first, last = inside.start - block.start, inside.stop - block.start - 1
            where = "" if len(piece) == len(places) else (
                f"[{first}]" if first == last else f"[{first}..{last}]"
            )  # fmt: skip
            parts.append((f"dE/dtheta{name}{where}", inside))
    return parts if len(theta) > 1 else []


def _parameter_slopes(probe, parameters, theta, directions):
    """(slope, error, step) of the energy along each direction of the parameters, or None."""
    results = []
    for direction in directions:

        def energy(t, direction=direction):
            parameters.write(theta + t * direction)
            return probe.energy()

        for step in (0.02, 2e-3, 2e-4, 2e-5):
            try:
                results.append((*slope_at_zero(energy, step, LEVELS), step))
                break
            except CodeError as problem:
                if "not finite" not in str(problem):
                    raise
        else:
            return None
    return results


def _compare(name, analytic, numeric, floor, result, *, sign, whole=True, hint=""):
    """Raise CodeError where slopes differ; take note of how well they could be compared."""
    analytic = np.array(analytic)
    errors = np.maximum([error for _, error in numeric], floor)
    numeric = np.array([slope for slope, _ in numeric])
    size, uncertain = np.linalg.norm(numeric), np.linalg.norm(errors)
    difference = np.linalg.norm(analytic - numeric)
    if difference > max(TOLERANCE * size, CERTAINTY * uncertain):
        size = max(size, 1e-300)
        raise CodeError(
            f"{name} inconsistent with the energies: slopes along {len(analytic)} random "
            f"directions differ by {100 * difference / size:.3g} % (differences of the energy are "
            f"good to {uncertain / size:.0e}); {_cause(analytic, numeric, size, sign)}{hint}"
        )
    if not whole:
        return
    seen = CERTAINTY * uncertain
    if seen >= size:
        result.note(f"{name} NOT checked: the energies change too little, or are too noisy")
    elif seen > RESOLVED * size:
        result.note(
            f"{name} NOT checked beyond a coarse agreement to {seen / size:.1%}: the energies are "
            "too noisy, or not smooth"
        )
    else:
        if name not in result.checked:
            result.checked.append(name)
        if difference > max(1e-6 * size, CERTAINTY * uncertain):
            result.note(
                f"{name} and the energies agree to {difference / size:.0e} only (differences of "
                f"the energy are good to {uncertain / size:.0e}): a table, a rounded constant, or "
                "an error in a small part"
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
