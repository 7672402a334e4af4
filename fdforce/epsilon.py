"""The error measures, the choice of epsilon, and the monitor of a run.

Smith, Lubbers, Thompson and Barros, arXiv:2006.05475 (S20), Eqs. 11-14. Err[grad L~] compares the
finite-difference gradient with a true one. Err[L~] compares the slope of the energy along the force
error, known from the replicas, with the same slope from the forces; it costs nothing and has its
minimum at nearly the same epsilon. Truncation grows as epsilon^order, round-off as 1/epsilon.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np

from fdforce.callables import for_each, force_loss_gradient
from fdforce.energy_code import flat
from fdforce.extrapolation import RATIO, extrapolate
from fdforce.gradient import STENCILS, find_stencil, loss_gradient, relative_loss_error

DRIFT = 10.0
"""A monitored error that changes by more than this factor has epsilon chosen again."""
FLAT = 2.0
"""The optimum is called flat where the error stays within this factor of its minimum."""
MISFIT = 4.0
"""How many times the least error may be at the minimum of a fit that is to be believed."""
LOWEST = {"forward": 1e-11, "central": 1e-9, "central4": 1e-9}
"""Where a scan of each stencil begins: well below its best epsilon in float64."""
RICHARDSON_EPSILONS = 0.064 / RATIO ** np.arange(10)
"""Displacements of the extrapolated reference."""


@dataclass(frozen=True)
class EpsilonScan:
    """Error curves over epsilon and the recommendation.

    Attributes
    ----------
    epsilon : ndarray
    err_loss : ndarray or None
        Err[L~] (S20, Eq. 12); None where the model gives no energies.
    err_gradient : ndarray or None
        Err[grad L~] (S20, Eq. 11); None where there is nothing to compare with.
    recommended : float
        Minimum of the fit to the error curve, or of the curve itself where it does not follow the
        fit. The curve is that of Err[L~] where there is one, since this is what a run can know.
    stencil, precision : str
    fit : tuple of float
        a and b of the fitted ``a / epsilon + b epsilon^order``.
    flat : tuple of float
        Range of epsilon in which the error is within a factor of two of its minimum.
    reference : str or None
        What Err[grad L~] compares with: "exact", or "richardson" for an extrapolation of central
        differences.
    reference_error : float
        Relative error of that reference as far as known; errors below it say nothing.
    slopes : tuple of float
        Of log error over log epsilon below and above the minimum: -1 and the order of the stencil
        for smooth energies; NaN where too few points show it.
    """

    epsilon: np.ndarray
    err_loss: np.ndarray | None
    err_gradient: np.ndarray | None
    recommended: float
    stencil: str
    precision: str
    fit: tuple[float, float]
    flat: tuple[float, float]
    reference: str | None = None
    reference_error: float = 0.0
    slopes: tuple[float, float] = (np.nan, np.nan)

    def as_dict(self) -> dict:
        """Plain lists and numbers, for JSON."""
        values = asdict(self)
        for key in ("epsilon", "err_loss", "err_gradient"):
            values[key] = None if values[key] is None else [float(x) for x in values[key]]
        return values

    def at(self, epsilon: float) -> tuple[float | None, float | None]:
        """Err[L~] and Err[grad L~] at an epsilon, between the points of the scan."""
        curves = []
        for error in (self.err_loss, self.err_gradient):
            if error is None:
                curves.append(None)
                continue
            with np.errstate(divide="ignore"):
                between = np.interp(np.log(epsilon), np.log(self.epsilon), np.log(error))
            curves.append(float(np.exp(between)))
        return tuple(curves)

    @property
    def minima(self) -> tuple[float | None, float | None]:
        """Epsilon of the least Err[L~] and of the least Err[grad L~] by fits to the curves."""
        order = STENCILS[self.stencil].order
        return tuple(
            None if error is None or np.count_nonzero(error > 0) < 2
            else _best(self.epsilon, error, order, self.reference_error if k else 0.0)[0]
            for k, error in enumerate((self.err_loss, self.err_gradient))
        )  # fmt: skip


def default_epsilons(lowest: float = 1e-9, highest: float = 0.1) -> np.ndarray:
    """Three values a decade."""
    count = round(3 * np.log10(highest / lowest)) + 1
    return np.logspace(np.log10(lowest), np.log10(highest), count)


def fit_error_curve(epsilon, error, order: int):
    """Fit ``a / epsilon + b epsilon^order`` to an error curve, on a logarithmic scale.

    The raw minimum of Err[L~] may be an accidental zero; the fit uses both sides and gives little
    weight to points far off it.

    Parameters
    ----------
    epsilon, error : array
    order : int
        Order of the stencil.

    Returns
    -------
    a, b : float
    """
    from scipy.optimize import least_squares

    epsilon, error = np.asarray(epsilon, float), np.asarray(error, float)
    # errors of order one carry no information on either side
    usable = np.isfinite(error) & (error > 0) & (error < 0.3)
    if usable.sum() < 3:
        usable = np.isfinite(error) & (error > 0)
    if usable.sum() < 2:
        raise ValueError("the error curve has fewer than two finite points above zero")
    x, y = np.log(epsilon[usable]), np.log(error[usable])
    best = None
    for split in range(len(x) + 1):
        below = np.median(y[:split] + x[:split]) if split else y[0] + x[0] - 5
        above = y[split:] - order * x[split:]
        above = np.median(above) if split < len(x) else y[-1] - order * x[-1] - 5
        fitted = least_squares(
            lambda p: np.logaddexp(p[0] - x, p[1] + order * x) - y,
            [below, above], loss="soft_l1", f_scale=0.5,
        )  # fmt: skip
        if best is None or fitted.cost < best.cost:
            best = fitted
    return float(np.exp(best.x[0])), float(np.exp(best.x[1]))


def recommend(a: float, b: float, order: int) -> float:
    """Epsilon where ``a / epsilon + b epsilon^order`` is least."""
    return float((a / (order * b)) ** (1 / (order + 1)))


def _best(epsilon, error, order, floor=0.0):
    """Recommended epsilon, the fit (a, b) and the flat range, from the points above a floor.

    Where the curve does not follow the fit, because pairs cross a cutoff whose derivatives jump,
    the least of the running median is taken: a single accidental zero does not move that.
    """
    error = np.where(error > 3 * floor, error, np.nan)
    a, b = fit_error_curve(epsilon, error, order)
    best = float(np.clip(recommend(a, b, order), epsilon[0], epsilon[-1]))
    grid = best * np.logspace(-4, 4, 801)
    fitted = a / grid + b * grid**order
    usable = np.isfinite(error) & (error > 0)
    x, y = epsilon[usable], np.log(error[usable])
    if len(x) > 2:
        x, smooth = x[1:-1], np.median([y[:-2], y[1:-1], y[2:]], axis=0)
        if np.interp(np.log(best), np.log(x), smooth) > smooth.min() + np.log(MISFIT):
            best, grid, fitted = float(x[np.argmin(smooth)]), x, np.exp(smooth)
    inside = grid[fitted <= FLAT * fitted.min()]
    return best, (a, b), (float(inside[0]), float(inside[-1]))


def _slopes(epsilon, error, best, floor):
    """Median slopes of the curve below and above its minimum, on logarithmic axes."""
    x, y = np.log10(epsilon), np.log10(np.where(error > 0, error, np.nan))
    usable = np.isfinite(y) & (error < 0.1) & (error > 10 * floor)
    sides = (x < np.log10(best) - 0.4), (x > np.log10(best) + 0.4) & (x < np.log10(best) + 2.5)
    slopes = []
    for side in sides:
        k = np.flatnonzero(side & usable)
        i, j = np.triu_indices(len(k), 1)
        pairs = (y[k[j]] - y[k[i]]) / (x[k[j]] - x[k[i]])
        slopes.append(float(np.median(pairs)) if len(k) >= 3 else float("nan"))
    return tuple(slopes)


def _make_scan(epsilon, err_loss, err_gradient, stencil, precision, reference, reference_error):
    order = STENCILS[stencil].order
    silent = err_loss is None or np.count_nonzero(err_loss > 0) < 2  # energies that are all zero
    curve, floor = (err_gradient, reference_error) if silent else (err_loss, 0.0)
    if curve is None:
        raise ValueError(
            "neither energies at the replicas nor a true gradient: there is no error to minimise; "
            "let energy_gradient return (energy, gradient)"
        )
    best, fit, flat = _best(epsilon, curve, order, floor)
    if err_gradient is not None:
        curve, floor = err_gradient, reference_error
    return EpsilonScan(
        epsilon, err_loss, err_gradient, best, stencil, precision, fit, flat, reference,
        reference_error,
        _slopes(epsilon, curve, best, floor),
    )  # fmt: skip


def richardson_gradients(ladder) -> tuple[list, float]:
    """Reference gradients where nothing exact is known: central differences, extrapolated.

    Parameters
    ----------
    ladder : sequence of list of GradientStep
        For each of `RICHARDSON_EPSILONS` the steps of all structures, with the central stencil.

    Returns
    -------
    gradients : list of ndarray, shape (P,)
        One for each structure.
    error : float
        Estimate of their relative error.
    """
    differences = [[flat(step.gradient) for step in steps] for steps in ladder]
    best = [extrapolate(of_one) for of_one in zip(*differences, strict=True)]
    gradients = [gradient for gradient, _ in best]
    scale = np.linalg.norm(np.concatenate(gradients))
    error = np.linalg.norm([error for _, error in best])
    return gradients, float(error / scale) if scale > 0 else 0.0


@contextmanager
def quiet_float32():
    """A scan tries small epsilons on purpose, so their warning says nothing new."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="dE/dtheta comes in float32")
        yield


def scan(
    evaluate: Callable, epsilons, *, stencil="central", precision="float64", truth=None,
    reference="exact", reference_error=0.0,
) -> EpsilonScan:  # fmt: skip
    """Error curves of anything that evaluates a list of structures.

    Parameters
    ----------
    evaluate : callable
        ``evaluate(epsilon)`` -> list of GradientStep, one for each structure or batch.
    epsilons : sequence of float
        In any order; the result has them increasing.
    stencil, precision : str
    truth : list, optional
        True gradients, one for each step, for Err[grad L~]; both norms run over parameters and
        structures (S20, after Eq. 11).
    reference : str
        What the true gradients are, "exact" or "richardson".
    reference_error : float
        Their relative error.

    Returns
    -------
    EpsilonScan

    Raises
    ------
    ValueError
        The stencil has no epsilon, or there is nothing to minimise.
    """
    find_stencil(stencil)
    if stencil == "complex":
        raise ValueError("stencil = 'complex' is exact and has no epsilon to choose")
    epsilons = np.sort(np.asarray(epsilons, dtype=np.float64))
    err_loss, err_gradient = [], []
    for epsilon in epsilons:
        with quiet_float32():
            steps = evaluate(float(epsilon))
        defects = [step.details["defect"] for step in steps]
        if all(defect is not None for defect in defects):
            losses = np.concatenate([step.details["force_loss"] for step in steps])
            err_loss.append(relative_loss_error(np.concatenate(defects), losses))
        if truth is not None:
            difference = [flat(s.gradient) - flat(t) for s, t in zip(steps, truth, strict=True)]
            scale = np.linalg.norm(np.concatenate([flat(t) for t in truth]))
            if scale == 0:
                raise ValueError("the true gradient vanishes: there is no relative error of it")
            err_gradient.append(np.linalg.norm(np.concatenate(difference)) / scale)
    return _make_scan(
        epsilons,
        np.array(err_loss) if err_loss else None,
        np.array(err_gradient) if truth is not None else None,
        stencil, precision, None if truth is None else reference, reference_error,
    )  # fmt: skip


def scan_model(
    model, batches: Sequence, losses: Sequence[Callable], epsilons, *,
    stencil="central", length_scale=1.0, truth=None,
) -> EpsilonScan:  # fmt: skip
    """Scan an `EnergyModel` over batches.

    Parameters
    ----------
    model : EnergyModel
    batches, losses : sequences of equal length
        A loss belongs to each batch (its labels).
    epsilons : sequence of float
    stencil : str
    length_scale : float, Å
    truth : list, optional
        True gradients, for Err[grad L~].

    Returns
    -------
    EpsilonScan
    """

    def evaluate(epsilon):
        return [
            loss_gradient(
                model, batch, loss, epsilon=epsilon, length_scale=length_scale, stencil=stencil
            )
            for batch, loss in zip(batches, losses, strict=True)
        ]

    precision = str(getattr(model, "dtype", "float64"))
    return scan(evaluate, epsilons, stencil=stencil, precision=precision, truth=truth)


def scan_epsilon(
    energy_and_forces: Callable | Sequence[Callable],
    energy_gradient: Callable | Sequence[Callable],
    positions,
    reference_forces,
    *,
    epsilons=None,
    true_gradient=None,
    stencil: str = "central",
    precision: str = "float64",
    **options,
) -> EpsilonScan:
    """Scan epsilon for any energy code and recommend a value.

    Parameters
    ----------
    energy_and_forces, energy_gradient : callable, or sequence of callables
        As for `fdforce.force_loss_gradients`; ``energy_gradient`` should return ``(energy,
        gradient)``, which makes Err[L~] available.
    positions, reference_forces : array (n_atoms, 3), or sequences of such
        One structure or several.
    epsilons : sequence of float, optional
        Values to try; three a decade by default, from 1e-9 (forward: 1e-11) to 0.1.
    true_gradient : array, list or dict, or a sequence of such for several structures, optional
        Gradient of the loss by other means, for Err[grad L~]. Without it central differences are
        extrapolated to a vanishing step (`richardson_gradients`); the scan says so in `reference`.
    stencil : str
    precision : str
        Noted in the result.
    **options
        ``cell``, ``reference_stress``, ``direction``, ``weights`` (sequences for several
        structures) and the remaining arguments of `fdforce.force_loss_gradient`.

    Returns
    -------
    EpsilonScan

    Raises
    ------
    ValueError
        The stencil has no epsilon, or a result of the callables cannot be right (CodeError).
    """
    one = np.ndim(positions[0]) == 1
    per_structure = ("cell", "reference_stress", "direction", "weights")
    if one:
        positions, reference_forces = [positions], [reference_forces]
        options = {k: [v] if k in per_structure else v for k, v in options.items()}
        true_gradient = None if true_gradient is None else [true_gradient]
    shared = {k: v for k, v in options.items() if k not in per_structure}
    energy_and_forces = for_each(energy_and_forces, len(positions), "energy_and_forces")
    energy_gradient = for_each(energy_gradient, len(positions), "energy_gradient")

    def evaluate(epsilon, stencil=stencil, shared=shared):
        return [
            force_loss_gradient(
                energy_and_forces[s], energy_gradient[s], positions[s], reference_forces[s],
                epsilon=epsilon, stencil=stencil, **shared,
                **{k: options[k][s] for k in per_structure if options.get(k) is not None},
            )
            for s in range(len(positions))
        ]  # fmt: skip

    truth, reference, error = true_gradient, "exact", 0.0
    if truth is None:
        # displacements of the reference stay small, whatever g0 the scan is asked to use
        scaled = {**shared, "g0": None}
        with quiet_float32():
            ladder = [evaluate(float(e), "central", scaled) for e in RICHARDSON_EPSILONS]
        truth, error = richardson_gradients(ladder)
        reference = "richardson"
    if epsilons is None:
        epsilons = default_epsilons(LOWEST.get(stencil, 1e-9))
    return scan(
        evaluate, epsilons, stencil=stencil, precision=precision,
        truth=truth, reference=reference, reference_error=error,
    )  # fmt: skip


class Monitor:
    """Err[L~] of a run and the normalised defect that says whether epsilon still fits.

    Err[L~] is relative to the loss, so it grows as the model improves; the defect over |g||f| does
    not (docs/method.md).

    Attributes
    ----------
    reference : float
        Normalised defect of the first epoch after epsilon was chosen; 0 before that.
    """

    def __init__(self, reference: float = 0.0):
        self.reference = reference
        self.reset()

    def reset(self) -> None:
        """Begin an epoch."""
        self._defect = self._loss = self._scale = 0.0

    def add(self, step) -> None:
        """Take note of a `GradientStep`."""
        details = step.details
        if details["defect"] is None:
            return
        self._defect += float(np.sum(details["defect"] ** 2))
        self._loss += float(np.sum(details["force_loss"] ** 2))
        self._scale += float(np.sum(details["scale"] ** 2))

    @property
    def err_loss(self) -> float:
        """Err[L~] over the structures of the epoch."""
        return 0.5 * float(np.sqrt(self._defect / self._loss)) if self._loss > 0 else 0.0

    @property
    def normalised(self) -> float:
        """Defect over |g||f|."""
        return float(np.sqrt(self._defect / self._scale)) if self._scale > 0 else 0.0

    def drifted(self) -> bool:
        """Whether the normalised defect left its reference by more than a factor of ten.

        The first epoch sets the reference.
        """
        if self.normalised == 0.0:
            return False
        if self.reference == 0.0:
            self.reference = self.normalised
            return False
        ratio = self.normalised / self.reference
        return ratio > DRIFT or ratio < 1 / DRIFT
