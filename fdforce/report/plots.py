"""Figures: parity plots, error curves over epsilon.

Figures are objects of their own: nothing here touches the state of ``matplotlib.pyplot``.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from fdforce.archive import write_bytes
from fdforce.errors import FdforceError

SUFFIXES = (".png", ".svg", ".pdf")
_BLUE, _ORANGE, _GREY = "#1f5fa8", "#d9731a", "#777777"
_MANY = 20000
"""Points of a panel beyond which a random part is drawn."""


def has_matplotlib() -> bool:
    """Whether figures can be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def check_plot_file(path) -> None:
    """Refuse what cannot become a figure, before any work is done.

    Raises
    ------
    FdforceError
        matplotlib is missing, or the suffix is none of `SUFFIXES`.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise FdforceError(f"{path}: a figure is one of {', '.join(SUFFIXES)}, by its suffix")
    if not has_matplotlib():
        raise FdforceError(f"{path}: figures need matplotlib: pip install 'fdforce[plot]'")


def plot_parity(structures, prediction, path) -> None:
    """Predicted against reference values.

    Parameters
    ----------
    structures : Structures
    prediction : Prediction
    path : path
    """
    panels = _parity_data(structures, prediction)
    figure, axes = _figure(path, len(panels))
    for axis, (title, unit, reference, predicted) in zip(axes, panels, strict=True):
        error = np.sqrt(np.mean((predicted - reference) ** 2))
        low, high = _range_of(reference, predicted)
        axis.plot([low, high], [low, high], color=_GREY, linewidth=0.8)
        reference, predicted = _thinned(reference, predicted)
        axis.plot(reference, predicted, ".", color=_BLUE, markersize=3, alpha=0.5, rasterized=True)
        axis.set(
            xlim=(low, high), ylim=(low, high), aspect="equal",
            xlabel=f"reference {title} ({unit})", ylabel=f"predicted {title} ({unit})",
        )  # fmt: skip
        axis.set_title(f"RMS error {1e3 * error:.4g} m{unit}", fontsize=10)
    _save(figure, path)


def _parity_data(structures, prediction):
    """(title, unit, reference, predicted) of every quantity that has labels."""
    counts = structures.counts
    has_energy, has_stress = structures.has_energy, structures.has_stress
    energies = (structures.energies / counts)[has_energy]
    # energies of one composition are told apart by small differences
    origin = energies.mean() if energies.size else 0.0
    voigt = ([0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1])
    has_forces = ~np.isnan(structures.forces)
    panels = [
        ("energy less its mean", "eV/atom", energies - origin,
         (prediction.energies / counts)[has_energy] - origin),
        ("force component", "eV/Å", structures.forces[has_forces], prediction.forces[has_forces]),
        ("stress component", "eV/Å³", structures.stresses[has_stress][:, *voigt].ravel(),
         prediction.stresses[has_stress][:, *voigt].ravel()),
    ]  # fmt: skip
    return [panel for panel in panels if panel[2].size]


def _range_of(*values):
    low, high = min(v.min() for v in values), max(v.max() for v in values)
    margin = 0.04 * (high - low) or 1e-3
    return low - margin, high + margin


def _thinned(*values):
    if len(values[0]) <= _MANY:
        return values
    chosen = np.random.default_rng(0).choice(len(values[0]), _MANY, replace=False)
    return [value[chosen] for value in values]


def plot_epsilon(scan, path, length_scale: float = 1.0, *, scaled=None, monitor=None) -> None:
    """Error curves over epsilon with the recommendation.

    Parameters
    ----------
    scan : EpsilonScan
    path : path
    length_scale : float, Å
        a0.
    scaled : EpsilonScan, optional
        With the g0 of each structure, where `scan` has a fixed one.
    monitor : RunMonitor, optional
        Epochs of a run.
    """
    figure, (axis,) = _figure(path, 1, width=6.0)
    axis.axvspan(*scan.flat, color="#e8eef6", label="within twice the least error")
    true = "the true gradient" if scan.reference == "exact" else "a Richardson extrapolation"
    curves = [
        (scan.err_loss, "o-", _BLUE, r"Err[$\tilde{L}$], known without a true gradient"),
        (scan.err_gradient, "s-", _ORANGE, rf"Err[$\tilde{{\nabla}}L$], against {true}"),
    ]
    for error, style, colour, label in curves:
        if error is not None:
            axis.plot(
                scan.epsilon, error, style, color=colour, markersize=3.5, linewidth=1, label=label
            )
    if scaled is not None:
        for error, colour in ((scaled.err_loss, _BLUE), (scaled.err_gradient, _ORANGE)):
            if error is not None:
                label = "the same, $g_0$ of each structure" if colour == _ORANGE else None
                axis.plot(scaled.epsilon, error, ":", color=colour, linewidth=1, label=label)
    if scan.reference == "richardson" and scan.reference_error > 0:
        axis.axhline(
            scan.reference_error, color=_ORANGE, linewidth=0.8, linestyle="--",
            label="error of the reference itself",
        )  # fmt: skip
    if monitor is not None:
        axis.plot(
            monitor.epsilon, monitor.err_loss, ".", color="#3a3a3a", markersize=3, alpha=0.4,
            label=r"Err[$\tilde{L}$] of the run's epochs",
        )  # fmt: skip
    axis.axvline(
        scan.recommended, color=_GREY, linewidth=1, linestyle="--",
        label=f"recommended ε = {scan.recommended:.2g}",
    )  # fmt: skip
    axis.set(
        xscale="log", yscale="log", ylabel="relative error",
        xlabel=f"ε, largest displacement / {length_scale:g} Å",
        title=f"{scan.stencil} differences, {scan.precision}",
    )  # fmt: skip
    axis.legend(frameon=False, fontsize=8)
    _save(figure, path)


def plot_monitor(monitor, path) -> None:
    """Err[L~] and its drift over the epochs of a run.

    Parameters
    ----------
    monitor : RunMonitor
    path : path
    """
    figure, axes = _figure(path, 2)
    axes[0].plot(monitor.epoch, monitor.err_loss, color=_BLUE, linewidth=1.2)
    axes[0].set(xlabel="epoch", ylabel=r"Err[$\tilde{L}$]", yscale="log")
    axes[1].axhspan(0.1, 10, color="#e8eef6")
    axes[1].plot(monitor.epoch, monitor.drift, color=_ORANGE, linewidth=1.2)
    axes[1].set(
        xlabel="epoch", ylabel=r"Err[$\tilde{L}$] × force error / first epoch", yscale="log",
        ylim=(min(0.05, np.nanmin(monitor.drift)), max(20, np.nanmax(monitor.drift))),
    )  # fmt: skip
    for epoch in monitor.changes:
        for axis in axes:
            axis.axvline(epoch, color=_GREY, linewidth=0.8, linestyle="--")
    axes[0].set_title(f"ε = {monitor.epsilon[-1]:.2g}", fontsize=10)
    _save(figure, path)


def plot_dynamics(run, path) -> None:
    """Energies and temperature of a run over time, and its spectrum where it has one.

    Parameters
    ----------
    run : Dynamics
    path : path
    """
    figure, axes = _figure(path, 2 if run.spectrum is None else 3)
    rows, time = run.rows, run.rows["time_fs"] / 1000
    for name, colour in (("potential", _ORANGE), ("total", _BLUE)):
        energy = 1e3 * (rows[name] - rows[name][0]) / run.n_atoms
        axes[0].plot(time, energy, color=colour, linewidth=0.8, label=name)
    axes[0].set(xlabel="time (ps)", ylabel="energy less its start (meV/atom)")
    axes[0].legend(frameon=False, fontsize=8)
    axes[1].plot(time, rows["temperature"], color=_BLUE, linewidth=0.8)
    axes[1].set(xlabel="time (ps)", ylabel="temperature (K)")
    if run.spectrum is not None:
        _draw_density(axes[2], run.spectrum.wavenumber, run.spectrum.density)
    _save(figure, path)


def _draw_density(axis, wavenumber, density):
    """Densities of states up to the highest one that is not empty."""
    for k, (name, values) in enumerate(density.items()):
        style = {"color": _GREY, "linewidth": 1.2} if name == "total" else {"linewidth": 0.7}
        axis.plot(wavenumber, values, **style, label=name if k else "all atoms")
    used = wavenumber[density["total"] > 2e-3 * density["total"].max()]
    axis.set(xlabel="wavenumber (cm$^{-1}$)", ylabel="density of states (cm)", ylim=(0, None))
    axis.set_xlim(0, 1.05 * used.max())
    axis.legend(frameon=False, fontsize=8)


def plot_modes(modes, path, width: float = 10.0) -> None:
    """Vibrations as lines, imaginary ones below zero, and their density.

    Parameters
    ----------
    modes : Modes
    path : path
    width : float, cm^-1
        Standard deviation of the Gaussians of the density.
    """
    figure, (axis,) = _figure(path, 1, width=6.0)
    found = modes.vibrations
    if len(found):
        grid = np.arange(found.min() - 5 * width, found.max() + 5 * width, width / 5)
        density = np.zeros(len(grid))
        for frequency in found:
            density += np.exp(-(((grid - frequency) / width) ** 2) / 2)
        axis.plot(grid, density / (width * np.sqrt(2 * np.pi)), color=_BLUE, linewidth=1)
    for sign, colour in ((1, _GREY), (-1, _ORANGE)):
        lines = found[sign * found > 0]
        height = 0.25 / (width * np.sqrt(2 * np.pi))
        axis.vlines(lines, 0, height, color=colour, linewidth=0.8)
    axis.set(
        xlabel="frequency (cm$^{-1}$; imaginary ones are negative)",
        ylabel="density of vibrations (cm)", ylim=(0, None),
    )  # fmt: skip
    _save(figure, path)


def _figure(path, n_panels, width=4.2):
    check_plot_file(path)
    from matplotlib.figure import Figure

    n_panels = max(n_panels, 1)
    figure = Figure(figsize=(width * n_panels, 4.0), layout="constrained")
    axes = figure.subplots(1, n_panels, squeeze=False)[0]
    for axis in axes:
        axis.grid(color="#dddddd", linewidth=0.5)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure, path):
    content = io.BytesIO()
    figure.savefig(content, format=Path(path).suffix.lower().lstrip("."), dpi=150)
    write_bytes(path, content.getvalue())
