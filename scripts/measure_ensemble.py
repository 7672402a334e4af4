"""Time of energy and forces of an ensemble against one model, the table of docs/ensembles.md.

    python scripts/measure_ensemble.py

Default settings, untrained; one thread; the example data of the package. The kinds of work are
timed in turn and the least time of each counts.
"""

import argparse
import time
from functools import partial

from fdforce.batch import make_batch
from fdforce.benchmark import untrained_model
from fdforce.config import config_from_dict
from fdforce.evaluation import groups
from fdforce.examples import EXAMPLES, example_files
from fdforce.models import Ensemble
from fdforce.neighbors import build_pairs
from fdforce.structures import read_structures
from fdforce.threads import limit_threads

ROUNDS = 50


def energy_and_forces(model, forces, batch):
    return forces(model.forward(batch))


def least_times(work: dict) -> dict:
    """Seconds of each kind of work."""
    least = {}
    for number in range(ROUNDS + 1):
        for name, function in work.items():
            start = time.perf_counter()
            function()
            if number:  # the first round compiles
                least[name] = min(least.get(name, 1e9), time.perf_counter() - start)
    return least


def measure(name: str, precision: str, n_members: int) -> None:
    """Print the rows of one data set: a batch of about 1000 atoms, and one structure."""
    structures, _ = read_structures(example_files(name)[1])
    config = config_from_dict({"training": {"precision": precision}})
    model = untrained_model(config, structures)
    ensemble = Ensemble(model, [model.theta + 0.01 * k for k in range(n_members)])
    pairs = build_pairs(structures, model.cutoff, skin=0.0)
    for indices in (next(groups(structures)), [0]):
        batch = make_batch(structures, pairs, indices)
        least = least_times({
            "one": partial(energy_and_forces, model, model.forces, batch),
            "mean": partial(energy_and_forces, ensemble, ensemble.forces, batch),
            "all": partial(energy_and_forces, ensemble, ensemble.member_forces, batch),
        })  # fmt: skip
        one, mean, apart = (1e6 * least[key] / batch.n_atoms for key in ("one", "mean", "all"))
        print(
            f"| {name}, {batch.n_atoms} atoms | {precision} | {one:.2f} µs/atom | {mean:.2f} | "
            f"{mean / one:.1f} | {apart / one:.1f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=8)
    members = parser.parse_args().members
    with limit_threads(1):
        for name in EXAMPLES:
            for precision in ("float64", "float32"):
                measure(name, precision, members)


if __name__ == "__main__":
    main()
