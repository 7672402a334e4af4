"""The sections of a run's report."""

from __future__ import annotations

import numpy as np

from fdforce.calibration import member_range
from fdforce.comparison import (
    Comparison,
    errors_by_element,
    errors_by_group,
    force_error_of_structures,
)
from fdforce.feature_range import MARGIN
from fdforce.report import page
from fdforce.report.plots import has_matplotlib
from fdforce.report.run_files import RunFiles

WORST = 10
"""Structures in the tables of the worst."""
PANELS = 12
"""Groups that have a figure of their own: those with most atoms."""
LISTED = 100
"""Extrapolating atoms that the page lists for each part."""

NAMES = {"train": "training", "valid": "validation", "test": "test"}
_ERRORS = [
    (f"{quantity} {kind.upper()} ({unit})", f"{quantity}_{kind}")
    for quantity, unit in (("energy", "meV/atom"), ("force", "meV/Å"), ("stress", "meV/Å³"))
    for kind in ("rmse", "mae")
]
_NO_FIGURES = "No figures: they need matplotlib. Install it with pip install 'fdforce[plot]'."


def run_page(run: RunFiles) -> str:
    """The report of a run as HTML."""
    sections = [("Errors", _errors(run))]
    if any(run.n_epochs):
        sections.append(("Learning curves", _learning(run)))
    if run.predictions:
        sections += [
            ("Predicted against reference", _parity(run)),
            ("Distribution of the errors", _histograms(run)),
            *([("Disagreement of the members", _deviations(run))] if run.n_members > 1 else []),
            ("Direction of the forces", _angles(run)),
            ("Errors by element and group", _groups(run)),
            ("Worst structures", _worst(run)),
            ("Extrapolation", _extrapolation(run)),
        ]
    sections += [
        ("Choice of ε", _epsilon(run)),
        ("Time and memory", _time(run)),
        ("Settings", page.preformatted(run.config or "config.toml is missing.")),
        ("Provenance", _provenance(run)),
        ("Log", page.preformatted(run.log or "log.txt is missing.")),
    ]
    return page.page(run.directory.resolve().name, _head(run), sections)


def _head(run) -> str:
    asked = run.settings.get("training", {}).get("epochs") or 0
    done = ", ".join(map(str, run.n_epochs))
    epochs = f"{done} of {asked} epochs" if asked else f"{done} epochs"
    if run.n_members > 1:
        epochs = f"ensemble of {run.n_members} members, {epochs}"
    parts = ", ".join(
        f"{comparison.counts.size} {NAMES.get(part, part)} structures"
        for part, comparison in run.predictions.items()
    )
    elements = next(iter(run.predictions.values())).elements if run.predictions else []
    facts = [", ".join(elements), parts, epochs]
    html = page.paragraph("fdforce fit. " + "; ".join(fact for fact in facts if fact) + ".")
    if not run.finished:
        html += page.paragraph(_unfinished(run))
    if not has_matplotlib():
        html += page.paragraph(_NO_FIGURES)
    return html


def _unfinished(run) -> str:
    if run.predictions:
        return (
            "The last session of this run has not come to its end: errors and predictions are "
            "those of the session before."
        )
    return (
        "This run has not come to its end: there are no predictions yet, and this page shows what "
        "there is. `fdforce fit --resume` goes on, `fdforce report` writes this page again."
    )


def _milli(value):
    return None if value is None else 1e3 * value


# -- errors and learning ---------------------------------------------------------------------------


def _errors(run) -> str:
    if run.metrics:
        rows = [
            [name, errors.get("n_structures"), errors.get("n_atoms"),
             *(_milli(errors.get(key)) for _, key in _ERRORS)]
            for name, errors in _named_errors(run.metrics)
        ]  # fmt: skip
        note = (
            "RMSE: root mean square error. MAE: mean absolute error. Energies count per atom, "
            "forces and stresses per component. The model is that of the epoch with the least "
            "validation loss."
        )
        if run.n_members > 1:
            note += (
                " Of the ensemble, errors are those of the mean of its members; below them, mean "
                "and range of the members' own."
            )
        columns = ["", "structures", "atoms", *(name for name, _ in _ERRORS)]
        return _without_empty(columns, rows) + page.paragraph(note)
    if not any(run.n_epochs):
        return page.paragraph("No epoch is complete.")
    begun = [(k, history) for k, history in enumerate(run.histories) if len(history["epoch"])]
    rows = [
        [f"{f'member {k}, ' if run.n_members > 1 else ''}{NAMES[part]}",
         f"{history['epoch'][-1]:.0f}",
         *(_last(history[f"{part}_{key}"]) for _, key in _ERRORS)]
        for k, history in begun for part in ("train", "valid")
    ]  # fmt: skip
    columns = ["", "epoch", *(name for name, _ in _ERRORS)]
    return _without_empty(columns, rows, 2) + page.paragraph("Of the last epoch that is complete.")


def _named_errors(metrics):
    """Names and errors of the parts, those of the members of an ensemble after the mean's."""
    for part, errors in metrics.items():
        yield NAMES.get(part, part), errors
        if errors.get("members"):
            for name, of_members in member_range(errors).items():
                yield f"\u2003{name if name == 'members' else f'{name} of them'}", of_members


def _last(column):
    return 1e3 * float(column[-1]) if np.isfinite(column[-1]) else None


def _without_empty(columns, rows, text=1) -> str:
    """A table without the columns that say nothing."""
    kept = [k for k in range(len(columns)) if k < text or any(row[k] is not None for row in rows)]
    return page.table([columns[k] for k in kept], [[row[k] for k in kept] for row in rows], text)


def _learning(run) -> str:
    if not has_matplotlib():
        return page.paragraph(_NO_FIGURES)
    from fdforce.report import run_figures as draw

    drawn = []
    for name, unit in (("force", "meV/Å"), ("energy", "meV/atom"), ("stress", "meV/Å³")):
        lines = _lines(run, f"{name}_rmse", 1e3)
        if lines:
            svg = draw.curves(lines, "epoch", f"{name} RMSE ({unit})")
            drawn.append((svg, f"{name.capitalize()} error; training is the mean over an epoch."))
    lines = _lines(run, "loss", 1.0)
    if lines:
        svg = draw.curves(lines, "epoch", "loss (1 = predicting nothing)")
        drawn.append((svg, "Loss; each of its terms is 1 for a model that predicts nothing."))
    svg = draw.curves({"": _over_epochs(run, "learning_rate")}, "epoch", "learning rate", log=False)
    drawn.append((svg, "Learning rate at the end of each epoch."))
    return page.figures(drawn)


def _over_epochs(run, column, factor=1.0) -> list:
    """Epochs and a column, of every member."""
    return [(history["epoch"], factor * history[column]) for history in run.histories]


def _lines(run, name, factor) -> dict:
    lines = {part: _over_epochs(run, f"{part}_{name}", factor) for part in ("train", "valid")}
    return {
        part: of_members
        for part, of_members in lines.items()
        if any(np.isfinite(values).any() for _, values in of_members)
    }


# -- predictions -----------------------------------------------------------------------------------


def _energies(comparison: Comparison, chosen=slice(None)):
    """Reference and prediction per atom, without what the model takes as given."""
    fixed, counts = comparison.fixed_energies, comparison.counts
    pair = [
        ((energies - fixed) / counts)[chosen]
        for energies in (comparison.energies, comparison.predicted_energies)
    ]
    return _labelled(*pair)


def _forces(comparison: Comparison, atoms=slice(None)):
    return _labelled(comparison.forces[atoms], comparison.predicted_forces[atoms])


def _labelled(reference, predicted):
    """Flat arrays of what has a label and a finite prediction."""
    good = np.isfinite(reference) & np.isfinite(predicted)
    return reference[good].astype(np.float64), predicted[good].astype(np.float64)


def _held_out(run) -> tuple[str, Comparison]:
    """The part that says most about new structures."""
    part = next(name for name in ("test", "valid", "train") if name in run.predictions)
    return part, run.predictions[part]


def _of_parts(run, values) -> dict:
    found = {part: values(comparison) for part, comparison in run.predictions.items()}
    return {part: pair for part, pair in found.items() if pair[0].size}


_PANELS = {
    "energy": ("reference energy (eV/atom)", "predicted energy (eV/atom)"),
    "force": ("reference force component (eV/Å)", "predicted force component (eV/Å)"),
    "stress": ("reference stress component (eV/Å³)", "predicted stress component (eV/Å³)"),
}


def _parity(run) -> str:
    if not has_matplotlib():
        return page.paragraph(_NO_FIGURES)
    from fdforce.report.run_figures import parity

    def stresses(comparison):
        return _labelled(comparison.stresses, comparison.predicted_stresses)

    drawn = []
    for name, values, caption in (
        ("energy", _energies, "Energy less the reference energies of the atoms."),
        ("force", _forces, "Force components."),
        ("stress", stresses, "Stress components."),
    ):
        parts = _of_parts(run, values)
        if parts:
            drawn.append((parity(parts, *_PANELS[name]), caption))
    html = page.figures(drawn)
    part, comparison = _held_out(run)
    panels = []
    if len(comparison.elements) > 1:
        for z, element in enumerate(comparison.elements):
            pair = _forces(comparison, comparison.species == z)
            if pair[0].size:
                panels.append((parity({part: pair}, *_PANELS["force"]), f"Forces on {element}."))
        html += page.heading(f"By element ({NAMES[part]} structures)") + page.figures(
            panels[:PANELS]
        )
    return html + _parity_of_groups(part, comparison)


def _parity_of_groups(part, comparison) -> str:
    from fdforce.report.run_figures import parity

    groups = errors_by_group(comparison)
    if len(groups) < 2:
        return ""
    types = np.array(comparison.config_types)
    largest = sorted(groups, key=lambda name: -groups[name]["n_atoms"])[:PANELS]
    drawn = []
    for name in (name for name in groups if name in largest):
        inside, shown = types == name, name or "(no config_type)"
        for quantity, pair in (
            ("energy", _energies(comparison, inside)),
            ("force", _forces(comparison, inside[comparison.structure])),
        ):
            if pair[0].size:
                svg = parity({part: pair}, *_PANELS[quantity])
                drawn.append((svg, f"{quantity.capitalize()}, {shown}."))
    html = page.heading(f"By config_type ({NAMES[part]} structures)")
    if len(groups) > PANELS:
        html += page.paragraph(f"The {PANELS} of {len(groups)} groups with most atoms.")
    return html + page.figures(drawn)


def _histograms(run) -> str:
    if not has_matplotlib():
        return page.paragraph(_NO_FIGURES)
    from fdforce.report.run_figures import histogram, outside_histogram

    drawn = []
    for name, unit, errors, what in (
        ("energy error", "meV/atom", lambda c: c.energy_errors, "structures"),
        ("force component error", "meV/Å", lambda c: c.force_errors, "components"),
        ("stress component error", "meV/Å³", lambda c: c.stress_errors, "components"),
    ):
        parts = {}
        for part, comparison in run.predictions.items():
            values = errors(comparison)
            values = 1e3 * values[np.isfinite(values)].astype(np.float64)
            if values.size:
                parts[part] = values
        if parts:
            beyond = outside_histogram(parts)
            note = f" {beyond} {what} lie outside the axis." if beyond else ""
            svg = histogram(parts, f"{name} ({unit})", f"{what} (%)")
            drawn.append((svg, f"{name.capitalize()}, predicted less reference.{note}"))
    return page.figures(drawn)


def _deviations(run) -> str:
    """How well the standard deviation of the members tells the error of their mean."""
    rows = [
        [NAMES.get(part, part), quantity, values["rmse_over_std"],
         100 * values["within_1_std"], 100 * values["within_2_std"]]
        for part, errors in run.metrics.items()
        for quantity, values in (errors.get("calibration") or {}).items() if values
    ]  # fmt: skip
    columns = ["", "", "RMSE / RMS deviation", "within 1 deviation (%)", "within 2 deviations (%)"]
    html = page.table(columns, rows, 2) + page.paragraph(
        "The standard deviation of the members is an estimate of the error of their mean. Where it "
        "is right the ratio is 1; 68 % and 95 % of normal errors are within one and two deviations."
    )
    part, comparison = _held_out(run)
    if not has_matplotlib():
        return html + page.paragraph(_NO_FIGURES)
    if comparison.energy_std is None:
        return html
    from fdforce.report.run_figures import deviations

    drawn = []
    for name, unit, std, errors in (
        ("Energy", "meV/atom", comparison.energy_std / comparison.counts, comparison.energy_errors),
        ("Force components", "meV/Å", comparison.forces_std, comparison.force_errors),
    ):
        good = np.isfinite(errors) & (std > 0)
        if good.any():
            pair = (1e3 * values[good].astype(np.float64) for values in (std, errors))
            svg = deviations(*pair, part, unit)
            drawn.append((svg, f"{name} of the {NAMES[part]} structures; RMSE of those alike."))
    return html + page.figures(drawn)


def _angles(run) -> str:
    part, comparison = _held_out(run)
    reference = comparison.forces.astype(np.float64)
    predicted = comparison.predicted_forces.astype(np.float64)
    sizes = [np.linalg.norm(force, axis=1) for force in (reference, predicted)]
    # a force that vanishes by symmetry has no direction
    good = (sizes[0] > 1e-3) & (sizes[1] > 0) & np.isfinite(sizes[1])
    if not good.any():
        return page.paragraph("No forces above 1 meV/Å among the labels.")
    cosine = np.einsum("ai,ai->a", reference[good], predicted[good])
    cosine /= sizes[0][good] * sizes[1][good]
    degrees = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    magnitude = sizes[0][good]
    strong = magnitude >= np.median(magnitude)
    html = page.paragraph(
        f"Angle between predicted and reference force on the atoms of the {NAMES[part]} "
        f"structures: median {np.median(degrees):.3g}°, and {np.median(degrees[strong]):.3g}° for "
        f"the half with the larger forces. {good.sum()} forces above 1 meV/Å count."
    )
    if has_matplotlib():
        from fdforce.report.run_figures import angles

        svg = angles(magnitude, np.maximum(degrees, 1e-3), part)
        html += page.figures([(svg, "A small force turns easily; a large one should not.")])
    return html


def _groups(run) -> str:
    rows = []
    for part, comparison in run.predictions.items():
        for element, errors in errors_by_element(comparison).items():
            rms, rmse = errors["force_rms"], errors["force_rmse"]
            share = 100 * rmse / rms if rms else None
            rows.append(
                [NAMES[part], element, errors["n_atoms"], _milli(rms), _milli(rmse),
                 _milli(errors["force_mae"]), share]
            )  # fmt: skip
    columns = [
        "", "element", "atoms", "reference force RMS (meV/Å)", "force RMSE (meV/Å)",
        "force MAE (meV/Å)", "RMSE / RMS (%)",
    ]  # fmt: skip
    html = page.heading("By element") + page.table(columns, rows, 2)
    types = {name for c in run.predictions.values() for name in c.config_types}
    if len(types) < 2:
        return html
    rows = [
        [NAMES[part], group or "(none)", errors["n_structures"], errors["n_atoms"],
         *(_milli(errors[key]) for _, key in _ERRORS)]
        for part, comparison in run.predictions.items()
        for group, errors in errors_by_group(comparison).items()
    ]  # fmt: skip
    columns = ["", "config_type", "structures", "atoms", *(name for name, _ in _ERRORS)]
    return html + page.heading("By config_type") + _without_empty(columns, rows, 2)


def _worst(run) -> str:
    energy, force = [], []
    for part, comparison in run.predictions.items():
        start = np.cumsum(comparison.counts) - comparison.counts
        per_atom = (comparison.energies - comparison.fixed_energies) / comparison.counts
        for s in _largest(comparison.energy_errors):
            error = 1e3 * float(comparison.energy_errors[s])
            cells = [*_named(part, comparison, s), float(per_atom[s]), error]
            energy.append((abs(error), cells))
        of_structures = force_error_of_structures(comparison)
        for s in _largest(of_structures):
            atoms = slice(start[s], start[s] + comparison.counts[s])
            sizes = np.linalg.norm(comparison.force_errors[atoms], axis=1)
            atom = int(np.argmax(sizes))
            element = comparison.elements[comparison.species[start[s] + atom]]
            cells = [
                *_named(part, comparison, s), 1e3 * float(of_structures[s]),
                1e3 * float(sizes[atom]), f"{element} {atom}",
            ]  # fmt: skip
            force.append((of_structures[s], cells))
    names = ["", "index", "structure", "config_type", "atoms"]
    return (
        page.heading("By energy error")
        + page.table([*names, "energy (eV/atom)", "error (meV/atom)"], _first(energy), 4)
        + page.heading("By force error")
        + page.table(
            [*names, "force RMSE (meV/Å)", "largest error (meV/Å)", "of atom"], _first(force), 4
        )
        + page.paragraph(
            "Index and atom are counted from 0, the index within its part, the number in brackets "
            "within its file. Energies are less the reference energies of the atoms."
        )
    )


def _largest(errors):
    size = np.abs(errors)
    order = np.argsort(np.where(np.isfinite(size), -size, np.inf), kind="stable")[:WORST]
    return [int(s) for s in order if np.isfinite(size[s])]


def _named(part, comparison, s):
    group = comparison.config_types[s] or "–"
    return [NAMES[part], str(s), comparison.labels[s], group, int(comparison.counts[s])]


def _first(entries):
    return [cells for _, cells in sorted(entries, key=lambda entry: -entry[0])[:WORST]]


def _extrapolation(run) -> str:
    looked = {p: c for p, c in run.predictions.items() if c.extrapolating is not None}
    if not looked:
        return page.paragraph(
            "Not known: the model does not hold the ranges of its features, or there are no "
            "structures besides those of training."
        )
    html = page.paragraph(
        "Atoms with a feature outside the range that it has over the training atoms of the same "
        f"element, by more than {100 * MARGIN:.0f} % of that range. Predictions for them, and for "
        "their neighbours, rest on nothing that the model has seen."
    )
    for part, comparison in looked.items():
        atoms, structures = comparison.n_extrapolating
        html += page.paragraph(
            f"{NAMES[part].capitalize()}: {atoms} of {comparison.counts.sum()} atoms, in "
            f"{structures} of {len(comparison)} structures."
        )
        rows = [
            [entry["structure"], str(entry["index"]), entry["element"], str(entry["atom"]),
             entry["feature"], entry["n_features"], *_how_far(entry)]
            for entry in comparison.extrapolating[:LISTED]
        ]  # fmt: skip
        if rows:
            columns = [
                "structure", "index", "element", "atom", "furthest feature", "features outside",
                "value", "training range", "outside by (ranges)",
            ]  # fmt: skip
            html += page.table(columns, rows, 5)
        if atoms > LISTED:
            html += page.paragraph(
                f"The {LISTED} furthest; `fdforce evaluate --json` lists all of them."
            )
    return html


def _how_far(entry):
    if entry["range"] is None:
        return [None, None, None]
    low, high = entry["range"]
    ranges = entry["ranges"]
    return [
        entry["value"], f"{low:.4g} … {high:.4g}",
        "did not vary" if ranges is None else ranges,
    ]  # fmt: skip


# -- the method, and where the run comes from ------------------------------------------------------


def _epsilon(run) -> str:
    settings = run.settings.get("finite_difference", {})
    if run.settings.get("optimizer", {}).get("name") == "least_squares":
        return page.paragraph("Solved by least squares: nothing was differenced.")
    html = page.paragraph(
        f"Stencil {settings.get('stencil', '?')}, epsilon = {settings.get('epsilon', '?')}, length "
        f"scale {settings.get('length_scale', '?')} Å. Err[L̃] compares the loss that the "
        "differences imply with the loss itself; it measures the differences on every step."
    )
    if run.n_members > 1:
        html += page.paragraph(
            "Every member chooses its own; `fdforce report` on its folder shows its scans."
        )
    rows = []
    for member, history in enumerate(run.histories):
        values, defect = history["epsilon"], history["err_loss"]
        for k in [0, *(np.flatnonzero(np.diff(values)) + 1)][: len(values)]:
            found = None if np.isnan(defect[k]) else f"{defect[k]:.1e}"
            rows.append([member, f"{history['epoch'][k]:.0f}", f"{values[k]:.2e}", found])
    if rows:
        first = 0 if run.n_members > 1 else 1
        columns = ["member", "from epoch", "ε", "Err[L̃] there"]
        html += page.table(columns[first:], [row[first:] for row in rows], 0)
    if not has_matplotlib():
        return html + page.paragraph(_NO_FIGURES)
    from fdforce.report import run_figures as draw

    drawn = []
    lines = _over_epochs(run, "err_loss")
    if any((values > 0).any() for _, values in lines):
        svg = draw.curves({"": lines}, "epoch", "Err[L̃]")
        drawn.append((svg, "Err[L̃] of each epoch."))
    # of forces alone there is no Err[L̃], and the scan is empty
    scans = [scan for scan in run.scans if any(scan["err_loss"])]
    if scans:
        drawn.append((draw.scans(scans), "Scans by which ε was chosen; the choices are dashed."))
    return html + page.figures(drawn)


def _time(run) -> str:
    rows = []
    if any(run.n_epochs):
        seconds = np.concatenate([history["seconds"] for history in run.histories])
        elapsed = [history["elapsed"][-1] for history in run.histories if len(history["elapsed"])]
        rows += [
            ["one epoch, median (s)", float(np.median(seconds))],
            ["first epoch (s)", float(seconds[0])],
            ["all epochs with compilation and data (s)", float(sum(elapsed))],
        ]
    memory = [session["peak_memory_mb"] for session in run.sessions if "peak_memory_mb" in session]
    if memory:
        rows.append(["most memory of the process (MB)", float(max(memory))])
    return page.table(["", ""], rows) if rows else page.paragraph("Nothing is known yet.")


def _provenance(run) -> str:
    if not run.sessions:
        return page.paragraph("provenance.json is missing.")
    html = ""
    for number, session in enumerate(run.sessions, 1):
        rows = [[key.replace("_", " "), _said(value)] for key, value in session.items()]
        html += (page.heading(f"Session {number}") if len(run.sessions) > 1 else "") + page.table(
            ["", ""], rows, 2
        )
    return html


def _said(value) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {version}" for name, version in value.items() if version)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
