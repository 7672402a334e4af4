"""Linear SNAP for tantalum by least squares, with the settings and weights of FitSNAP's example.

    python scripts/fit_tantalum.py ta_snap.extxyz.gz

The data are the 363 structures of Thompson et al., J. Comput. Phys. 285, 316 (2015), with
``config_type`` naming the group. Rows are weighted as in FitSNAP's Ta_Linear_JCP2014 example:
energies per atom (eV), force components (eV/Å) and stress components (bar), times the weights of
their group; reference: ZBL between 4.0 and 4.8 Å.

Prints unweighted errors of the fit, and times; --check also minimises the same loss by L-BFGS on
finite-difference gradients.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from fdforce.batch import make_batch
from fdforce.data_set import DataSet, residual_target
from fdforce.descriptors import Bispectrum
from fdforce.gradient import loss_gradient
from fdforce.least_squares import RowWeights, solve, weighted_rows
from fdforce.losses import LossTerms
from fdforce.models import LinearModel
from fdforce.models.zbl import LammpsZBL
from fdforce.neighbors import build_pairs
from fdforce.problem import without_offsets
from fdforce.structure_files import read_file
from fdforce.structures import read_structures
from fdforce.threads import limit_threads

BAR = 1.6021765e6
"""bar in eV/Å^3, as LAMMPS has it."""
WEIGHTS = {  # energy, force, stress
    "Displaced_A15": (100, 1, 1e-8), "Displaced_BCC": (100, 1, 1e-8),
    "Displaced_FCC": (100, 1, 1e-8), "Elastic_BCC": (1e-8, 1e-8, 1e-4),
    "Elastic_FCC": (1e-9, 1e-9, 1e-9), "GSF_110": (100, 1, 1e-8), "GSF_112": (100, 1, 1e-8),
    "Liquid": (467, 1, 1e-8), "Surface": (100, 1, 1e-8), "Volume_A15": (1, 1e-9, 1e-9),
    "Volume_BCC": (1, 1e-9, 1e-9), "Volume_FCC": (1, 1e-9, 1e-9),
}  # fmt: skip


def row_weights(structures, indices):
    """Factors of the squared errors of energies, forces and virials."""
    energy, forces, stress = np.array([WEIGHTS[structures.config_types[s]] for s in indices]).T
    counts, volumes = structures.counts[indices], structures.volumes[indices]
    # FitSNAP has a row for each of six stress components, ours counts the off-diagonal ones twice
    return RowWeights((energy / counts) ** 2, forces**2, (stress * BAR / volumes) ** 2)


def errors(model, structures, pairs):
    """Unweighted MAE and RMSE of energies per atom and force components."""
    batch = make_batch(structures, pairs)
    state = model.forward(batch)
    forces, _ = model.forces(state)
    found = {}
    for name, error in (
        ("energy", (state.energy - structures.energies) / structures.counts),
        ("force", (forces - structures.forces).ravel()),
    ):
        found[f"{name}_mae"] = float(np.abs(error).mean())
        found[f"{name}_rmse"] = float(np.sqrt(np.mean(error**2)))
    return found


def by_finite_differences(bare, dataset, blocks, start):
    """The same weighted loss by L-BFGS on the gradients of Eq. 7, in the metric of the rows."""
    parts = []
    for indices in blocks:
        batch, target = dataset.batch(indices, 1)
        parts.append((batch, target, row_weights(dataset.structures, indices)))

    def terms(target, weights):
        def loss(batch, energy, forces, virial):
            d_energy, d_forces, d_virial = (
                np.nan_to_num(a - b)
                for a, b in (
                    (energy, target.energy), (forces, target.forces), (virial, target.virial),
                )
            )  # fmt: skip
            by_atom = weights.forces[batch.structure][:, None]
            # six stress components: half of each pair of equal off-diagonal elements
            share = weights.virial[:, None, None] * np.where(np.eye(3), 1.0, 0.5)
            force_loss = np.add.reduceat(np.sum(by_atom * d_forces**2, axis=1), batch.offsets[:-1])
            force_loss = force_loss + np.sum(share * d_virial**2, axis=(1, 2))
            value = float(weights.energy @ d_energy**2 + force_loss.sum())
            return LossTerms(
                value, force_loss, 2 * weights.energy * d_energy, 2 * by_atom * d_forces,
                2 * share * d_virial, {},
            )  # fmt: skip

        return loss

    scale = start["scale"]

    def loss_and_gradient(x):
        bare.theta = scale @ x
        steps = [
            loss_gradient(bare, batch, terms(target, weights), epsilon=1e-5)
            for batch, target, weights in parts
        ]
        return sum(s.loss for s in steps), scale.T @ sum(s.gradient for s in steps)

    return minimize(
        loss_and_gradient, np.zeros(len(bare.theta)), jac=True, method="L-BFGS-B",
        options={"maxiter": 2000, "maxfun": 4000, "ftol": 1e-15, "gtol": 1e-12},
    )  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--check", action="store_true", help="also by finite differences")
    arguments = parser.parse_args()

    structures, _ = read_structures(read_file(arguments.data), elements=("Ta",))
    model = LinearModel(Bispectrum(("Ta",), twojmax=6, rcutfac=4.67637, bzeroflag=0))
    model.baseline = LammpsZBL(("Ta",), 4.8, 4.0)
    blocks = np.array_split(np.arange(len(structures)), 8)
    with limit_threads(arguments.threads) as threads:
        # the first pass compiles
        pairs = build_pairs(structures, model.cutoff, skin=0.01, threads=threads)
        model.standardise([make_batch(structures, pairs, n_chunks=threads)])
        for _ in range(2):
            begun = time.perf_counter()
            target = residual_target(structures, None, model.baseline, pairs)
            dataset = DataSet(structures, target, pairs)
            bare = without_offsets(model)

            def rows(bare=bare, dataset=dataset):
                for indices in blocks:
                    batch, labels = dataset.batch(indices, threads)
                    weights = row_weights(structures, indices)
                    yield half_shear(weighted_rows(bare, batch, labels, weights), batch, labels)

            solution = solve(rows())
            seconds = time.perf_counter() - begun
        model.theta = solution.theta
        found = {
            **errors(model, structures, pairs), "seconds": seconds, "threads": threads,
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "weighted_loss": solution.residual,
        }  # fmt: skip
        if arguments.check:
            factor = np.linalg.qr(np.concatenate(list(rows()))[:, :-1], mode="r")
            start = {"scale": np.linalg.inv(factor)}
            result = by_finite_differences(bare, dataset, blocks, start)
            found["finite_difference_loss"] = float(result.fun)
            found["iterations"] = int(result.nit)
    print(json.dumps(found, indent=1))


def half_shear(rows, batch, labels):
    """Rows with the off-diagonal stress components counted once, as FitSNAP does."""
    n = 6 * np.count_nonzero(~np.isnan(labels.virial[:, 0, 0]))
    tail = rows[len(rows) - n :].reshape(-1, 6, rows.shape[1])
    tail[:, 3:] /= np.sqrt(2)
    return rows


if __name__ == "__main__":
    main()
