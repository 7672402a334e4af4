#!/usr/bin/env python3
"""What epsilon does: a rule for it, and what it costs at the end of a training run.

    python scripts/measure_epsilon.py rules      # 2 minutes on one core
    python scripts/measure_epsilon.py training   # 15 minutes on one core
    python scripts/measure_epsilon.py rules --plot   # the figure again, from the JSON

``rules`` trains a network on each example inside the package and scans epsilon on test structures:
Err[L~] and Err[grad L~] for float64 and float32 kernels, three stencils, the loss of forces alone
and of stress alone, before and after training. Theory: with u the unit round-off of the kernels and
p the order of the stencil, the error is a / epsilon + b epsilon^p with a proportional to u, and
hence least at C u^(1 / (1 + p)). C is what is measured.

``training`` repeats the same run with epsilon fixed at values over many decades and with the exact
gradient of the complex step, for several seeds. One thread, so that runs are reproducible.

Each writes a JSON file and a figure into docs/figures.
"""

import argparse
import json
import os
import platform
import re
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np

import fdforce
from fdforce.data_set import DataSet, residual_target
from fdforce.epsilon import FLAT, default_epsilons, fit_error_curve, recommend, scan_model
from fdforce.errors import TrainingError
from fdforce.examples import EXAMPLE_SETTINGS, example_files
from fdforce.gradient import COMPLEX_STEP, STENCILS, loss_gradient
from fdforce.losses import make_loss
from fdforce.model_file import in_precision
from fdforce.neighbors import build_pairs
from fdforce.problem import without_offsets
from fdforce.structures import read_structures
from fdforce.threads import limit_threads

FIGURES = Path(__file__).resolve().parents[1] / "docs" / "figures"
#: Of the rules: scanned range (1 Å), structures, and loss terms of the examples.
LOWEST, HIGHEST, STRUCTURES = 1e-11, 0.1, 16
TERMS = {"ethanol": ("forces",), "diamond": ("forces", "stress")}
UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24}
#: Of the training runs: example -> (seeds, epsilons in float64, epsilons in float32).
RUNS = {
    "ethanol": (
        3,
        (1e-1, 3e-2, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-10, 1e-12, 1e-14, 1e-15),
        (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7),
    ),
    "diamond": (2, (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7), (1e-2, 1e-3, 1e-4)),
}
#: Errors are kept to 7 digits; smaller changes are drawn here.
SAME = 1e-7
BLUE, ORANGE, GREY = "#1f5fa8", "#d9731a", "#777777"
COLOURS = {"float64": BLUE, "float32": ORANGE}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("rules", "training"))
    parser.add_argument("--epochs", type=int, default=100, help="of every training run")
    parser.add_argument("--out", type=Path, default=FIGURES, help="folder of JSON and figure")
    parser.add_argument("--plot", action="store_true", help="draw what the JSON holds, no more")
    options = parser.parse_args()
    path = options.out / f"epsilon_{options.what}.json"
    if not options.plot:
        begun = time.monotonic()
        with limit_threads(1):
            results = {"rules": rules, "training": training}[options.what](options)
        results = {
            "command": " ".join(["python scripts/measure_epsilon.py", *sys.argv[1:]]),
            "date": date.today().isoformat(),
            "seconds": round(time.monotonic() - begun),
            "machine": machine(),
            **results,
        }
        path.write_text(on_lines(results))
    results = json.loads(path.read_text())
    {"rules": plot_rules, "training": plot_training}[options.what](
        results, path.with_suffix(".png")
    )


def on_lines(results):
    """JSON with lists of numbers on one line each."""

    def joined(found):
        return f"[{' '.join(found[1].split())}]"

    return re.sub(r"\[([^][{}]*)\]", joined, json.dumps(results, indent=1)) + "\n"


def machine():
    """Where and with what the numbers were made."""
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        processor = models[0] if models else processor
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": 1,
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "numba", "scipy", "ase")},
        "fdforce": fdforce.__version__,
    }


def train(example, **changes):
    """A training run with the settings of the example and these changes."""
    training_file, test_file = (str(path) for path in example_files(example))
    config = {name: dict(table) for name, table in EXAMPLE_SETTINGS[example].items()}
    config["data"] = {"train": [training_file], "test": test_file}
    with tempfile.TemporaryDirectory() as folder:
        return fdforce.fit(
            config, out=Path(folder) / "run", threads=1, log=lambda line: None, **changes
        )


def digits(values, number=4):
    """Numbers with so many digits, also in lists."""
    if np.ndim(values):
        return [digits(value, number) for value in values]
    return None if not np.isfinite(values) else float(f"{values:.{number}g}")


# -- rules -----------------------------------------------------------------------------------------


def rules(options):
    curves = []
    for example, terms in TERMS.items():
        # one epoch of vanishing steps leaves the first parameters as they are
        models = {
            "untrained": train(example, epochs=1, learning_rate=1e-12).model,
            "trained": train(example, epochs=options.epochs).model,
        }
        for state, model in models.items():
            for term in terms:
                curves += scans(model, example, state, term)
    for curve in curves:
        print(
            f"{curve['example']:8} {curve['state']:9} {curve['term']:6} {curve['precision']} "
            f"{curve['stencil']:8} best {curve['best']:.1e} least {curve['least_error']:.1e} "
            f"flat {curve['flat'][0]:.0e} .. {curve['flat'][1]:.0e} "
            f"slopes {curve['slope_roundoff']} {curve['slope_truncation']} "
            f"from Err[L] {curve['recommended']:.1e}: {curve['error_at_recommended']:.1e} "
            f"pairs cross from {first_crossing(curve):.0e}"
            f"{'' if curve['order_holds'] else ', order of the stencil lost'}"
        )
    found = {"rule": rule(curves), "roundoff_float32_over_float64": amplitudes(curves)}
    for name, row in found["rule"].items():
        print(name, row)
    print(found["roundoff_float32_over_float64"])
    setting = {"epochs": options.epochs, "structures": STRUCTURES, "unit_roundoff": UNIT_ROUNDOFF}
    return {"settings": setting, **found, "curves": curves}


def scans(model, example, state, term):
    """Curves of one model and loss term, over precisions and stencils."""
    structures, _ = read_structures(
        str(example_files(example)[1]), elements=model.elements, require_labels=True
    )
    spaced = np.linspace(0, len(structures) - 1, STRUCTURES).round().astype(int)
    structures = structures.select(spaced)
    pairs = build_pairs(structures, model.cutoff, skin=6.01 * HIGHEST)
    target = residual_target(structures, model.reference_energies, model.baseline, pairs)
    dataset = DataSet(structures, target, pairs)
    # weights that turn the means of the squared loss into sums, 1/2 |f - f_ref|^2
    weights = {"forces": (1.5, 0.0), "stress": (0.0, 4.5)}[term]
    loss = make_loss(
        "squared", energy_weight=0.0, force_weight=weights[0], stress_weight=weights[1]
    )
    batches, losses = [], []
    for s in range(len(structures)):
        batch, labels = dataset.batch([s], 1)
        batches.append(batch)
        losses.append(lambda *result, labels=labels: loss(*result, labels))
    bare = without_offsets(model)
    exact = [
        loss_gradient(in_precision(bare, "float64"), batch, of_batch, stencil="complex")
        for batch, of_batch in zip(batches, losses)
    ]
    truth = [step.gradient for step in exact]
    settings = model.descriptor.settings
    cutoffs = settings["radial_cutoff"], settings["angular_cutoff"]
    curves = []
    for precision in UNIT_ROUNDOFF:
        kernels = in_precision(bare, precision)
        for stencil in ("forward", "central", "central4"):
            scan = scan_model(
                kernels, batches, losses, default_epsilons(LOWEST, HIGHEST),
                stencil=stencil, truth=truth,
            )  # fmt: skip
            curves.append(
                {
                    "example": example, "state": state, "term": term,
                    "precision": precision, "stencil": stencil, **describe(scan),
                    "epsilon": digits(scan.epsilon), "err_loss": digits(scan.err_loss),
                    "err_gradient": digits(scan.err_gradient),
                    "crossing_pairs": [
                        sum(
                            crossings(batch, step, epsilon, stencil, cutoffs)
                            for batch, step in zip(batches, exact)
                        )
                        for epsilon in scan.epsilon
                    ],
                }
            )  # fmt: skip
    return curves


def crossings(batch, exact, epsilon, stencil, cutoffs):
    """Pairs whose distance crosses a cutoff between the outermost replicas of a structure.

    The second derivative of the cutoff function jumps there.
    """
    terms = exact.details["terms"]
    nodes = STENCILS[stencil].nodes
    outer = np.array([[max(nodes)], [min(*nodes, 0)]])
    replicas = batch.displaced(
        terms.d_forces, outer * exact.eta * (epsilon / COMPLEX_STEP), terms.d_virial
    )
    first, last = batch.row_begin[0], batch.row_end[-1]
    n_atoms = len(batch.species)
    i = np.repeat(np.arange(len(batch.row_begin)), batch.row_end - batch.row_begin)
    i //= len(batch.row_begin) // n_atoms
    j, shift = batch.neighbor[first:last], batch.shift[:, first:last].T
    r = [
        np.linalg.norm(x[j] + shift @ cell - x[i], axis=1)
        for x, cell in zip(replicas.positions.reshape(2, n_atoms, 3), replicas.cells)
    ]
    return sum(int(np.sum((r[0] < cutoff) != (r[1] < cutoff))) for cutoff in cutoffs) // 2


def describe(scan):
    """Optimum, slopes and flat range of Err[grad L~]; what Err[L~] alone would recommend.

    Where the curve with the order of the stencil misses the lowest point by more than a factor of
    ten (pairs that cross the cutoff, central4), the lowest point is the best.
    """
    order = STENCILS[scan.stencil].order
    epsilon, error = scan.epsilon, scan.err_gradient
    a, b = fit_error_curve(epsilon, error, order)
    best, lowest = recommend(a, b, order), float(epsilon[error.argmin()])
    holds = bool(interpolate(best, epsilon, error) < 10 * error.min())
    grid = best * np.logspace(-3, 3, 1201)
    fitted = a / grid + b * grid**order
    if not holds:
        best, grid, fitted = lowest, epsilon, error
    flat = grid[fitted <= FLAT * fitted.min()]
    below = (epsilon < best / 3) & (error < 0.1)
    above = (epsilon > best * 3) & (error < 0.1)
    at_recommended = interpolate(scan.recommended, epsilon, error)
    return {
        "best": digits(best),
        "least_error": digits(interpolate(best, epsilon, error)),
        "lowest_point": digits([lowest, error.min()]),
        "order_holds": holds,
        "flat": digits([flat[0], flat[-1]]),
        "slope_roundoff": slope(epsilon[below], error[below]),
        "slope_truncation": slope(epsilon[above], error[above]),
        "fit": digits([a, b]),
        "recommended": digits(scan.recommended),
        "error_at_recommended": digits(at_recommended),
    }


def first_crossing(curve):
    """Least scanned epsilon at which a pair crosses a cutoff."""
    number = np.array(curve["crossing_pairs"])
    return curve["epsilon"][np.argmax(number > 0)] if number.any() else np.inf


def interpolate(x, epsilon, error):
    """An error curve between its points, on logarithmic scales."""
    return float(np.exp(np.interp(np.log(x), np.log(epsilon), np.log(error))))


def slope(epsilon, error):
    """Of a straight line through the logarithms; None with fewer than three points."""
    if len(epsilon) < 3:
        return None
    return round(float(np.polyfit(np.log(epsilon), np.log(error), 1)[0]), 2)


def rule(curves):
    """C in best = C u^(1 / (1 + p)) by stencil and precision, and what a fixed rule costs.

    From the curves that have the order of their stencil.
    """
    found = {}
    for stencil in ("forward", "central", "central4"):
        for precisions in (("float64",), ("float32",), ("float64", "float32")):
            every = [c for c in curves if c["stencil"] == stencil and c["precision"] in precisions]
            chosen = [c for c in every if c["order_holds"]]
            power = 1 / (1 + STENCILS[stencil].order)
            constants = [c["best"] / UNIT_ROUNDOFF[c["precision"]] ** power for c in chosen]
            c = np.exp(np.log(constants).mean())
            excess = {
                name: [
                    interpolate(value, curve["epsilon"], curve["err_gradient"])
                    / min(curve["err_gradient"])
                    for value, curve in zip(values, every)
                ]
                for name, values in (
                    ("rule", [c * UNIT_ROUNDOFF[x["precision"]] ** power for x in every]),
                    ("scan", [x["recommended"] for x in every]),
                )
            }
            found[f"{stencil}, {' and '.join(precisions)}"] = {
                "C": digits(c, 3),
                "curves": len(chosen),
                "scatter_factor": digits(np.exp(np.log(constants).std()), 3),
                "extremes_of_C": digits([min(constants), max(constants)], 3),
                "epsilon": {p: digits(c * UNIT_ROUNDOFF[p] ** power, 2) for p in precisions},
                "least_error": digits([f([x["least_error"] for x in chosen]) for f in (min, max)]),
                "worst_error_over_least": {
                    name: digits(max(values), 3) for name, values in excess.items()
                },
            }
    return found


def amplitudes(curves):
    """a of float32 over a of float64; the unit round-offs differ by 2^29 = 5.4e8."""
    ratios = {}
    for stencil in ("forward", "central", "central4"):
        a = {
            precision: np.array(
                [
                    c["fit"][0]
                    for c in curves
                    if c["stencil"] == stencil and c["precision"] == precision
                ]
            )
            for precision in UNIT_ROUNDOFF
        }
        ratio = a["float32"] / a["float64"]
        ratios[stencil] = digits([ratio.min(), np.exp(np.log(ratio).mean()), ratio.max()], 3)
    return ratios


def plot_rules(results, path):
    figure, axes = panels(2, 3, (11.0, 7.2))
    styles = {("ethanol", "forces"): "-", ("diamond", "forces"): "--", ("diamond", "stress"): ":"}
    for column, stencil in enumerate(("forward", "central", "central4")):
        for row, key in enumerate(("err_gradient", "err_loss")):
            axis = axes[row, column]
            for curve in results["curves"]:
                if curve["stencil"] == stencil:
                    axis.plot(
                        curve["epsilon"], curve[key],
                        styles[curve["example"], curve["term"]], color=COLOURS[curve["precision"]],
                        alpha=1.0 if curve["state"] == "trained" else 0.45, linewidth=1.3,
                    )  # fmt: skip
            both = results["rule"][f"{stencil}, float64 and float32"]
            for precision, epsilon in both["epsilon"].items():
                axis.axvline(epsilon, color=COLOURS[precision], linewidth=5, alpha=0.15)
            axis.set(xscale="log", yscale="log", ylim=(3e-13, 10))
            if row == 0:
                power = 1 + STENCILS[stencil].order
                axis.set_title(f"{stencil}: ε = {both['C']:.2f} $u^{{1/{power}}}$", fontsize=11)
            else:
                axis.set_xlabel("ε, largest displacement / Å")
    axes[0, 0].set_ylabel(r"Err[$\tilde{\nabla}L$], against the true gradient")
    axes[1, 0].set_ylabel(r"Err[$\tilde{L}$], known in every run")
    for axis in axes[:, 1:].flat:
        axis.tick_params(labelleft=False)
    from matplotlib.lines import Line2D

    entries = [
        *((name, dict(color=colour)) for name, colour in COLOURS.items()),
        *((f"{e}, {t}", dict(color=GREY, linestyle=s)) for (e, t), s in styles.items()),
        ("untrained", dict(color=GREY, alpha=0.45)),
        ("the rule", dict(color=GREY, alpha=0.3, linewidth=5)),
    ]
    figure.legend(
        [Line2D([], [], **style) for _, style in entries], [name for name, _ in entries],
        loc="outside lower center", ncols=7, frameon=False, fontsize=9,
    )  # fmt: skip
    figure.savefig(path, dpi=110)


# -- training --------------------------------------------------------------------------------------


def training(options):
    rows, repeated = [], {}
    for example, (n_seeds, doubles, singles) in RUNS.items():
        settings = [
            ("float64", "complex", 1e-5),
            *(("float64", "central", epsilon) for epsilon in doubles),
            *(("float32", "central", epsilon) for epsilon in singles),
        ]
        for precision, stencil, epsilon in settings:
            for seed in range(n_seeds):
                rows.append(final_errors(example, precision, stencil, epsilon, seed, options))
        again = final_errors(example, "float64", "central", 1e-5, 0, options)
        first = next(r for r in rows if all(r[k] == again[k] for k in list(again)[:5]))
        repeated[example] = first == again
    return {"settings": {"epochs": options.epochs}, "repeats_exactly": repeated, "runs": rows}


def final_errors(example, precision, stencil, epsilon, seed, options):
    """One run; errors are those of the model with the least validation loss."""
    row = {
        "example": example, "precision": precision, "stencil": stencil,
        "epsilon": None if stencil == "complex" else epsilon, "seed": seed,
    }  # fmt: skip
    try:
        result = train(
            example, epochs=options.epochs, seed=seed, precision=precision,
            finite_difference={"stencil": stencil, "epsilon": epsilon},
        )  # fmt: skip
    except TrainingError as problem:
        row["failed"] = str(problem).split(";")[0]
    else:
        for part in ("valid", "test"):
            for quantity in ("energy", "force", "stress"):
                error = result.metrics[part].get(f"{quantity}_rmse")
                if error is not None and np.isfinite(error):
                    row[f"{part}_{quantity}_rmse"] = digits(error, 7)
        row["err_loss"] = digits(result.history["err_loss"][-1])
    print(*row.values(), flush=True)
    return row


def plot_training(results, path):
    figure, axes = panels(1, 2, (10.0, 4.4))
    for axis, example in zip(axes[0], RUNS):
        rows = [row for row in results["runs"] if row["example"] == example and "failed" not in row]
        exact = {r["seed"]: r["test_force_rmse"] for r in rows if r["stencil"] == "complex"}
        errors = np.array(list(exact.values()))
        axis.axhline(
            (errors.max() - errors.min()) / errors.mean(), color=GREY, linestyle="--",
            label="range over the seeds, exact gradient",
        )  # fmt: skip
        for precision, marker in (("float64", "o"), ("float32", "s")):
            chosen = [r for r in rows if r["precision"] == precision and r["stencil"] == "central"]
            for seed in exact:
                of_seed = [r for r in chosen if r["seed"] == seed]
                of_seed.sort(key=lambda row: row["epsilon"])
                change = [abs(r["test_force_rmse"] / exact[seed] - 1) for r in of_seed]
                axis.plot(
                    [r["epsilon"] for r in of_seed], np.maximum(change, SAME),
                    marker=marker, color=COLOURS[precision], linewidth=0.8, markersize=4,
                    label=f"{precision}, each seed" if seed == 0 else None,
                )  # fmt: skip
        axis.set(xscale="log", yscale="log", xlim=(3e-16, 0.3), ylim=(SAME / 2, 1))
        axis.set(xlabel="ε, largest displacement / Å")
        axis.set_title(
            f"{example}, {len(errors)} seeds: {1e3 * errors.min():.1f} to "
            f"{1e3 * errors.max():.1f} meV/Å",
            fontsize=11,
        )
    axes[0, 0].set_ylabel(
        "relative change of the final test force error\nfrom the run with the exact gradient"
    )
    axes[0, 1].tick_params(labelleft=False)
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc="outside lower center", ncols=3, frameon=False, fontsize=9,
    )  # fmt: skip
    figure.savefig(path, dpi=110)


def panels(rows, columns, size):
    """A figure in the style of fdforce.report.plots."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.grid(color="#dddddd", linewidth=0.5)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


if __name__ == "__main__":
    main()
