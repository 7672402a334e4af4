"""Figures of a run's report, each a piece of SVG (needs matplotlib).

Points are drawn as an image inside the SVG, axes and lines as lines. No text from a file becomes
part of a figure.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import numpy as np

COLOURS = {"train": "#8fb0d6", "valid": "#d9731a", "test": "#1f4e8c"}
NAMES = {"train": "training", "valid": "validation", "test": "test"}
_GREY = "#777777"
_MANY = 20000
"""Points of a data set beyond which a random part is drawn, with those furthest off."""
_SETTINGS = {
    "font.size": 9,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"],
    "svg.fonttype": "none",
    "svg.hashsalt": "fdforce",
    "axes.titlesize": 9,
    "legend.fontsize": 8,
    "axes.formatter.useoffset": False,
}


def curves(lines: dict, xlabel: str, ylabel: str, *, log: bool = True) -> str:
    """Lines over epochs.

    Parameters
    ----------
    lines : dict of str to list of (ndarray, ndarray)
        Epochs and values of every member, or of the only run, by the name of a part or "" for lines
        of their own.
    log : bool
        Logarithmic ordinate, where all values are positive.
    """

    def draw(axis):
        for part, of_members in lines.items():
            for k, (x, y) in enumerate(of_members):
                style = "-" if np.isfinite(y).sum() > 1 else "o"
                axis.plot(
                    x, y, style, color=COLOURS.get(part, COLOURS["test"]),
                    label=None if k else NAMES.get(part), markersize=4,
                    linewidth=1.2 if len(of_members) == 1 else 0.5,
                )  # fmt: skip
        shown = np.concatenate([y for of_members in lines.values() for _, y in of_members])
        if log and (shown[np.isfinite(shown)] > 0).all():
            axis.set_yscale("log")
        axis.set(xlabel=xlabel, ylabel=ylabel)
        if len(lines) > 1:
            axis.legend(frameon=False)

    return _svg(draw)


def parity(parts: dict, xlabel: str, ylabel: str) -> str:
    """Predicted against reference values.

    Parameters
    ----------
    parts : dict of str to (ndarray, ndarray)
        Reference and prediction, by the name of the part; later ones lie on top.
    """

    def draw(axis):
        everything = np.concatenate([np.concatenate(pair) for pair in parts.values()])
        low, high = everything.min(), everything.max()
        margin = 0.04 * (high - low) or 1e-3
        low, high = low - margin, high + margin
        for part, (reference, predicted) in parts.items():
            chosen = _thinned(np.abs(predicted - reference))
            axis.plot(
                reference[chosen], predicted[chosen], ".", color=COLOURS[part], alpha=0.6,
                markersize=3 if len(everything) > 1000 else 6, markeredgewidth=0, rasterized=True,
                label=NAMES[part],
            )  # fmt: skip
        axis.plot([low, high], [low, high], color=_GREY, linewidth=0.7)
        axis.set(xlim=(low, high), ylim=(low, high), aspect="equal", xlabel=xlabel, ylabel=ylabel)
        _legend(axis, parts)

    return _svg(draw, (3.6, 3.4))


def histogram(parts: dict, xlabel: str, ylabel: str) -> str:
    """Distributions of errors.

    Parameters
    ----------
    parts : dict of str to ndarray
        Errors, by the name of the part.
    """

    def draw(axis):
        limit = max(_limit(errors) for errors in parts.values())
        # an odd number of bins, so that small errors of both signs share one
        fewest = min(len(errors) for errors in parts.values())
        edges = np.linspace(-limit, limit, 2 * int(np.clip(1.5 * np.sqrt(fewest), 5, 25)) + 2)
        for part, errors in parts.items():
            counts = np.histogram(errors, edges)[0]
            axis.stairs(
                100 * counts / len(errors), edges, color=COLOURS[part], label=NAMES[part],
                linewidth=1.2,
            )  # fmt: skip
        axis.axvline(0, color=_GREY, linewidth=0.6)
        axis.set(xlim=(-limit, limit), ylim=(0, None), xlabel=xlabel, ylabel=ylabel)
        _legend(axis, parts)

    return _svg(draw)


def outside_histogram(parts: dict) -> int:
    """Errors beyond the axis of `histogram`."""
    limit = max(_limit(errors) for errors in parts.values())
    return sum(int(np.sum(np.abs(errors) > limit)) for errors in parts.values())


def _limit(errors) -> float:
    """All of them, unless the last hundredth is more than twice as far out as the rest."""
    size = np.abs(errors)
    most, rest = size.max(), np.quantile(size, 0.99)
    return float(1.02 * (most if most <= 2 * rest else 1.5 * rest)) or 1e-9


def angles(magnitude, degrees, part: str) -> str:
    """Angle between predicted and reference force over the size of the reference."""

    def draw(axis):
        chosen = _thinned(degrees)
        axis.plot(
            magnitude[chosen], degrees[chosen], ".", color=COLOURS[part], markersize=3, alpha=0.5,
            markeredgewidth=0, rasterized=True,
        )  # fmt: skip
        edges = np.quantile(magnitude, np.linspace(0, 1, 13 if len(magnitude) > 240 else 3))
        inside = np.digitize(magnitude, edges[1:-1])
        numbers = np.unique(inside)
        axis.plot(
            [np.median(magnitude[inside == k]) for k in numbers],
            [np.median(degrees[inside == k]) for k in numbers],
            "o-", color="#111111", linewidth=1.2, markersize=3, label="median",
        )  # fmt: skip
        axis.set(
            xscale="log", yscale="log",
            xlim=(0.8 * np.quantile(magnitude, 0.005), 1.2 * magnitude.max()),
            ylim=(max(min(np.quantile(degrees, 0.02), 10), 1e-3), 220),
            xlabel="size of the reference force (eV/Å)", ylabel="angle (degrees)",
        )  # fmt: skip
        axis.legend(frameon=False, loc="upper right")

    return _svg(draw)


def deviations(std, errors, part: str, unit: str) -> str:
    """Size of the errors over the standard deviation that an ensemble predicts for them."""

    def draw(axis):
        size = np.abs(errors)
        chosen = _thinned(size)
        axis.plot(
            std[chosen], size[chosen], ".", color=COLOURS[part], markersize=3, alpha=0.4,
            markeredgewidth=0, rasterized=True,
        )  # fmt: skip
        edges = np.quantile(std, np.linspace(0, 1, 13 if len(std) > 240 else 3))
        inside = np.digitize(std, edges[1:-1])
        groups = [inside == k for k in np.unique(inside)]
        root_mean = [[np.sqrt(np.mean(x[g] ** 2)) for g in groups] for x in (std, errors)]
        axis.plot(*root_mean, "o-", color="#111111", linewidth=1.2, markersize=3, label="RMSE")
        ends = np.array([0.8 * std.min(), 1.2 * std.max()])
        axis.plot(ends, ends, color=_GREY, linewidth=0.9, linestyle="--", label="RMSE = deviation")
        largest = max(size.max(), ends[1])
        axis.set(
            xscale="log", yscale="log", xlim=ends,
            ylim=(min(0.2 * ends[0], 0.3 * largest), 1.5 * largest),
            xlabel=f"standard deviation of the members ({unit})",
            ylabel=f"size of the error ({unit})",
        )  # fmt: skip
        axis.legend(frameon=False, loc="lower right")

    return _svg(draw)


def scans(entries: Sequence[dict]) -> str:
    """Err[L~] over epsilon, one curve for each time that it was chosen."""

    def draw(axis):
        epsilons = np.concatenate([entry["epsilon"] for entry in entries])
        axis.set(xscale="log", xlim=(0.6 * epsilons.min(), 1.6 * epsilons.max()))
        for number, entry in enumerate(entries):
            share = number / max(len(entries) - 1, 1)
            colour = (0.12 + 0.73 * share, 0.31 + 0.14 * share, 0.55 - 0.45 * share)
            error = np.array([np.nan if e is None else e for e in entry["err_loss"]], dtype=float)
            ends = number in (0, len(entries) - 1)
            axis.plot(
                entry["epsilon"], np.where(error > 0, error, np.nan), "o-", color=colour,
                linewidth=1, markersize=2.5,
                label=f"after epoch {entry['epoch']}" if ends else None,
            )  # fmt: skip
            axis.axvline(entry["recommended"], color=colour, linewidth=0.8, linestyle="--")
        axis.set(yscale="log", xlabel="ε (in units of the length scale)", ylabel="Err[L̃]")
        axis.legend(frameon=False)

    return _svg(draw)


def _legend(axis, parts):
    if len(parts) > 1:
        axis.legend(frameon=False, markerscale=2.5, handlelength=1.2)


def _thinned(size):
    """Indices of the points to draw: all, or a random part and the largest."""
    if len(size) <= _MANY:
        return np.arange(len(size))
    chosen = np.random.default_rng(0).choice(len(size), _MANY, replace=False)
    return np.union1d(chosen, np.argpartition(size, -100)[-100:])


def _set_ticks(axis):
    """Few ticks; on logarithmic axes 20, 50, 100 or 1e-05, as mathematical text is slow to draw."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    for ticks, (low, high) in ((axis.xaxis, axis.get_xlim()), (axis.yaxis, axis.get_ylim())):
        if ticks.get_scale() != "log":
            ticks.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
            continue
        subs = (1, 2, 5) if high < 100 * low else (1,)
        ticks.set_major_locator(LogLocator(subs=subs, numticks=6))
        ticks.set_major_formatter(StrMethodFormatter("{x:g}"))
        ticks.set_minor_formatter(NullFormatter())


def _svg(draw, size=(3.9, 2.9)) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_SETTINGS):
        # margins for the longest tick labels; a layout engine would draw everything twice
        figure = Figure(figsize=size)
        axis = figure.add_axes((0.2, 0.155, 0.78, 0.815))
        axis.yaxis.set_label_coords(0.05, 0.56, transform=figure.transFigure)
        axis.grid(color="#dddddd", linewidth=0.5)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        draw(axis)
        _set_ticks(axis)
        content = io.StringIO()
        figure.savefig(content, format="svg", dpi=180, metadata={"Date": None, "Creator": None})
    return _inline(content.getvalue())


def _inline(text: str) -> str:
    """The SVG element alone; the names of groups would not be unique on a page."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    return re.sub(r"\n\s*", "\n", text)
