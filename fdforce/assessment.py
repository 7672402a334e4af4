"""What a model, or an ensemble, makes of structures: predictions, errors, extrapolation."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fdforce.archive import write_bytes
from fdforce.calibration import MemberPredictions, ensemble_errors, predict_members
from fdforce.comparison import Comparison, compare, write_predictions
from fdforce.errors import FdforceError
from fdforce.evaluation import Prediction, errors, parts_of, predict
from fdforce.feature_range import OutOfRange, find_out_of_range
from fdforce.mapped import new_array, release
from fdforce.models import Ensemble
from fdforce.neighbors import build_pairs
from fdforce.threads import limit_threads


@dataclass(frozen=True)
class Assessment:
    """Predictions of a model for structures.

    Attributes
    ----------
    model : EnergyModel
    structures : Structures
    prediction : Prediction
        Of an ensemble, the mean.
    members : MemberPredictions or None
        Of an ensemble.
    outside : OutOfRange or None
        Atoms that extrapolate; None where nobody looked or the model does not know its range.
    """

    model: object
    structures: object
    prediction: Prediction
    members: MemberPredictions | None
    outside: OutOfRange | None

    def errors(self) -> dict:
        """`fdforce.evaluation.errors`, of an ensemble `fdforce.calibration.ensemble_errors`."""
        if self.members is None:
            return errors(self.structures, self.prediction)
        return ensemble_errors(self.structures, self.members)

    def compare(self) -> Comparison:
        """Predictions beside labels."""
        return compare(
            self.model, self.structures, self.prediction, self.outside, members=self.members
        )


def assess(
    model, structures, *, pairs=None, threads: int = 0, ranges: bool = True, device: str = "cpu"
) -> Assessment:
    """Predict, and find the atoms that extrapolate.

    Parameters
    ----------
    model : EnergyModel or Ensemble
    structures : Structures
        With the species of the model, in its order.
    pairs : PairList, optional
        Of the structures, with any skin; listed here, a part at a time, when absent.
    threads : int
        0: all cores.
    ranges : bool
        Whether to look for atoms that extrapolate; the processor does.
    device : {"cpu", "cuda"}
        Where energies and forces are computed.

    Returns
    -------
    Assessment
    """
    with limit_threads(threads) as threads:
        parts = list(parts_of(structures))
        if len(parts) == 1:
            return _assess(model, structures, pairs, threads, ranges, device)
        room: dict = {}
        outside = []
        for of_structures, of_atoms in parts:
            listed = None if pairs is None else pairs.of_some(structures, of_structures)
            part = structures.select(of_structures)
            found = _assess(model, part, listed, threads, ranges, device)
            members = found.members.members if found.members else []
            for number, prediction in enumerate([found.prediction, *members]):
                for name, values in vars(prediction).items():
                    of_atom = name in ("forces", "atom_energies")
                    shape = (structures.n_atoms if of_atom else len(structures), *values.shape[1:])
                    if (number, name) not in room:
                        room[number, name] = new_array(structures.positions, shape, values.dtype)
                    room[number, name][of_atoms if of_atom else of_structures] = values
            outside.append(found.outside)
            release(*vars(structures).values(), *room.values())
    predictions = [
        Prediction(**{name: room[number, name] for name in vars(prediction)})
        for number in range(len(members) + 1)
    ]
    starts = [part.start for part, _ in parts]
    return Assessment(
        model, structures, predictions[0],
        MemberPredictions(predictions[0], predictions[1:]) if members else None,
        None if outside[0] is None else OutOfRange.joined(outside, starts),
    )  # fmt: skip


def _assess(model, structures, pairs, threads: int, ranges: bool, device: str) -> Assessment:
    """The assessment of structures whose pairs are in memory together."""
    if pairs is None:
        pairs = build_pairs(structures, model.cutoff, skin=0.0, threads=threads)
    options = {"pairs": pairs, "threads": threads}
    members = None
    if isinstance(model, Ensemble):
        members = predict_members(model, structures, device=device, **options)
    prediction = members.mean if members else predict(model, structures, device=device, **options)
    outside = find_out_of_range(model, structures, **options) if ranges else None
    release(*vars(pairs).values())
    return Assessment(model, structures, prediction, members, outside)


def evaluate_run(
    directory, model, parts: dict, *, pairs: dict, threads: int = 0, log: Callable = print,
    device: str = "cpu",
) -> dict:  # fmt: skip
    """Evaluate the model of a run; what comes out goes to metrics.json and predictions.npz.

    A finished run is not lost where there is no room for its predictions.

    Parameters
    ----------
    directory : path
    model : EnergyModel or Ensemble
    parts : dict of str to Structures
        `fdforce.problem.Parts.by_name`.
    pairs : dict of str to PairList
        Of those parts whose pairs are listed already.
    threads : int
        0: all cores.
    log : callable
        Takes a line of text.
    device : {"cpu", "cuda"}

    Returns
    -------
    dict of str to dict
        Errors of every part.

    Raises
    ------
    FdforceError
        metrics.json cannot be written.
    """
    # the training set spans the range itself
    found = {
        name: assess(
            model, part, pairs=pairs.get(name), threads=threads, ranges=name != "train",
            device=device,
        )
        for name, part in parts.items()
    }  # fmt: skip
    metrics = {name: of_part.errors() for name, of_part in found.items()}
    write_bytes(Path(directory) / "metrics.json", json.dumps(metrics, indent=1).encode())
    comparisons = {name: of_part.compare() for name, of_part in found.items()}
    try:
        write_predictions(Path(directory) / "predictions.npz", comparisons)
    except FdforceError as problem:
        log(str(problem))
    return metrics
