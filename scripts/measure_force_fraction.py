"""Time of a training step when only some structures have forces (docs/losses.md).

    python scripts/measure_force_fraction.py tio2.extxyz.gz

Chebyshev descriptor, radial 6.5 Å / 20, angular 5.0 Å / 6, two hidden layers of 15, batches of 16
structures, central differences, one thread, float64. The time of a batch is the least of several
rounds.
"""

import sys
import time

import numpy as np

from fdforce.config import config_from_dict
from fdforce.data_set import DataSet, residual_target
from fdforce.losses import make_loss
from fdforce.mixed_batches import force_aware_gradient
from fdforce.neighbors import TRAINING_SKIN, build_pairs
from fdforce.problem import new_model
from fdforce.selection import select_forces
from fdforce.structures import read_structures
from fdforce.threads import limit_threads

STRUCTURES, ROUNDS = 160, 5
SETTINGS = {
    "radial_cutoff": 6.5, "radial_order": 20, "angular_cutoff": 5.0, "angular_order": 6,
    "hidden": [15, 15], "baseline": "none",
}  # fmt: skip


def main(path):
    structures, _ = read_structures(path)
    structures = structures.select(
        np.random.default_rng(0).permutation(len(structures))[:STRUCTURES]
    )
    model = new_model(config_from_dict({"model": SETTINGS}), structures.elements)
    pairs = build_pairs(structures, model.cutoff, skin=TRAINING_SKIN)
    whole = DataSet(structures, residual_target(structures), pairs)
    model.standardise([whole.batch(np.arange(STRUCTURES), 1)[0]])
    loss = make_loss("squared", mean_atoms=structures.n_atoms / STRUCTURES)
    batches = np.array_split(np.arange(STRUCTURES), STRUCTURES // 16)
    cases = [("all", 1.0, "structures"), ("50 %", 0.5, "structures"), ("25 %", 0.25, "structures"),
             ("10 %", 0.1, "structures"), ("none", 0.0, "structures"),
             ("25 % of the atoms", 0.25, "atoms")]  # fmt: skip
    least = np.full((len(cases), len(batches)), np.inf)
    for _ in range(ROUNDS):
        for k, (_, fraction, how) in enumerate(cases):
            target = select_forces(whole.target, structures, fraction, how, seed=1)
            data = DataSet(structures, target, pairs)
            for b, indices in enumerate(batches):
                begun = time.perf_counter()
                force_aware_gradient(model, data, indices, loss)
                least[k, b] = min(least[k, b], time.perf_counter() - begun)
    times = 1e6 * least.sum(axis=1) / structures.n_atoms
    for (name, *_), value in zip(cases, times, strict=True):
        print(f"{name:<20}{value:8.1f} µs per atom{value / times[0]:8.2f}")


if __name__ == "__main__":
    with limit_threads(1):
        main(sys.argv[1])
