"""Checks that many tests share."""

from functools import partial

import numpy as np
import pytest
from ase import Atoms
from scipy.spatial.transform import Rotation

from fdforce.batch import make_batch
from fdforce.gradient import loss_gradient
from fdforce.losses import SquaredLoss, Target
from fdforce.models import ElementalNetworks
from fdforce.neighbors import build_pairs
from fdforce.structures import read_structures
from tests.systems import SYSTEMS

COMPLEX_STEP = 1e-20


def batch_of(frames, elements, cutoff, *, indices=None, skin=0.05, n_chunks=1):
    """A batch of `ase.Atoms` frames."""
    structures, _ = read_structures(frames, elements=elements)
    pairs = build_pairs(structures, cutoff, skin=skin)
    return make_batch(structures, pairs, indices, n_chunks=n_chunks)


def voigt(tensor):
    """Components xx yy zz yz xz xy of symmetric tensors (..., 3, 3)."""
    return tensor[..., [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]


def symmetric(rng, n):
    """n random symmetric 3x3 tensors."""
    tensor = rng.normal(size=(n, 3, 3))
    return tensor + tensor.swapaxes(1, 2)


def slope_of(f, x, direction, step):
    """d f(x + t direction) / dt at t = 0 by the five-point formula, error O(step^4)."""
    near = f(x + step * direction) - f(x - step * direction)
    far = f(x + 2 * step * direction) - f(x - 2 * step * direction)
    return (8 * near - far) / (12 * step)


def check_directional(f, df, x, *, step, tolerance, seeds=(0, 1, 2), name="gradient"):
    """Compare the gradient `df(x)` of the scalar `f` with its slopes along random unit directions.

    Parameters
    ----------
    f, df : callable
        A scalar function of an array and its gradient, an array of the same shape.
    x : ndarray
    step : float
        Of the five-point formula, in units of x.
    tolerance : float
        Largest difference relative to |df| / sqrt(n), the typical size of a slope. A slope that
        is small by chance is thus not asked for more digits than the gradient has.
    seeds : sequence of int
        A direction for each.
    """
    gradient = df(x)
    scale = np.linalg.norm(gradient) / np.sqrt(gradient.size)
    assert scale > 0, f"{name}: a gradient that vanishes proves nothing"
    for seed in seeds:
        direction = np.random.default_rng(seed).normal(size=x.shape)
        direction /= np.linalg.norm(direction)
        analytic = float(np.sum(gradient * direction))
        numeric = slope_of(f, x, direction, step)
        error = abs(analytic - numeric) / scale
        print(f"{name}, seed {seed}: analytic {analytic:.12g}, numeric {numeric:.12g}, {error:.1e}")
        assert error < tolerance, (
            f"{name}, seed {seed}: analytic {analytic:.12g}, numeric {numeric:.12g}, "
            f"relative difference {error:.2e} > {tolerance:.0e}"
        )
        # a direction to which the gradient is almost normal would not notice a wrong gradient
        assert abs(analytic) > 1e-2 * scale, f"{name}, seed {seed}: choose another seed"


def relative(a, b):
    """|a - b| / |b| over all entries."""
    return np.linalg.norm(np.asarray(a) - b) / np.linalg.norm(b)


# Descriptors: systems and tables

every_system = pytest.mark.parametrize("system", SYSTEMS)
ELEMENTS = ["Ti", "O"]
EPS, EPS_32 = np.finfo(np.float64).eps, np.finfo(np.float32).eps


def elements_of(atoms):
    """The elements of a structure, in the order neither of the alphabet nor of atomic numbers."""
    return sorted(set(atoms.get_chemical_symbols()), key=lambda e: e[::-1], reverse=True)


def oxides():
    """Structures of `ELEMENTS`, of several sizes, with and without a cell and pairs."""
    names = ("two_species", "dimer", "left_handed", "single_atom", "thin_triclinic")
    return [SYSTEMS[name]() for name in names]


def cluster(n, *, reach=4.9, symbols=("Cu",)):
    """An atom in the middle of n others between 1.5 Å and `reach`, 0.4 Å apart, of some kinds."""
    rng = np.random.default_rng(0)
    positions = [np.zeros(3)]
    while len(positions) < n + 1:
        trial = rng.uniform(-reach, reach, size=3)
        apart = np.linalg.norm(np.array(positions) - trial, axis=1)
        if 1.5 < apart[0] < reach and apart.min() > 0.4:
            positions.append(trial)
    return Atoms([symbols[0], *(symbols[k % len(symbols)] for k in range(n))], positions)


def bent_oxide(distance):
    """TiO2 with one O at a distance from Ti (Å), and the direction in which it is."""
    atoms = Atoms("TiO2", [[0, 0, 0], [1.6, 0.3, 0], [-0.4, 0.2, 1.0]])
    direction = np.zeros((3, 3))
    direction[2] = atoms.positions[2] / np.linalg.norm(atoms.positions[2])
    atoms.positions[2] = distance * direction[2]
    return atoms, direction


def plain(descriptor, dtype=np.float64):
    """Mean and scale that change nothing."""
    zeros = np.zeros((len(descriptor.elements), descriptor.n_features), dtype)
    return zeros, zeros + zeros.dtype.type(1)


def random_standardisation(descriptor, seed=0):
    """Mean and scale."""
    rng = np.random.default_rng(seed)
    shape = (len(descriptor.elements), descriptor.n_features)
    return rng.normal(size=shape), rng.uniform(0.5, 2, size=shape)


def setting_of(make, system, *, seed=0, **options):
    """Descriptor that `make` gives for the elements of a system, its batch, mean and scale."""
    atoms = SYSTEMS[system]()
    descriptor = make(elements_of(atoms))
    batch = batch_of([atoms], descriptor.elements, descriptor.cutoff, **options)
    return descriptor, batch, *random_standardisation(descriptor, seed)


def of_first_atom(descriptor, batch, direction, eta):
    """Features of the first atom and the two derivatives of their sum, at r + eta * direction."""
    mean, scale = plain(descriptor)
    moved = batch.displaced(direction, np.array([eta]))
    features, kept = descriptor.forward(moved, mean, scale)
    row = moved.place[0]
    d_features = np.zeros_like(features)
    d_features[row] = 1
    return features[row], *descriptor.backward(moved, d_features, kept, scale)


def check_standardisation(descriptor, batch, mean, scale, expected, abs=1e-11):
    """Features are those expected, in rows sorted by species, shifted and scaled per element."""
    features, _ = descriptor.forward(batch, mean, scale)
    z = batch.species
    assert features[batch.place] == pytest.approx((expected - mean[z]) * scale[z], 1e-10, abs)
    assert (np.diff(z[np.argsort(batch.place)]) >= 0).all()


# Descriptors: backward


def check_backward(descriptor, batch, mean, scale, limit, *, seed=3, atom=None):
    """Compare `backward` with the complex step of `forward`: a displacement, a strain, and both.

    Parameters
    ----------
    limit : callable
        Largest difference, of the terms that `backward` gives and of those that `forward` gives.
    seed : int
    atom : int, optional
        Whose features count; all unless given.

    Returns
    -------
    slopes, limits : ndarray, shape (3,)
        Sizes of what was compared, and by how much it might have differed.
    """
    rng = np.random.default_rng(seed)
    features, kept = descriptor.forward(batch, mean, scale)
    if atom is None:
        d_features = rng.normal(size=features.shape)
    else:
        d_features = np.zeros_like(features)
        d_features[batch.place[atom]] = rng.normal(size=descriptor.n_features)
    d_positions, d_strain = descriptor.backward(batch, d_features, kept, scale)
    direction, strain = rng.normal(size=d_positions.shape), symmetric(rng, len(batch))
    slopes, limits = [], []
    for g, h in ((direction, 0 * strain), (0 * direction, strain), (direction, strain)):
        moved = batch.displaced(g, np.full(len(batch), 1j * COMPLEX_STEP), h)
        forth = d_features * descriptor.forward(moved, mean, scale)[0].imag / COMPLEX_STEP
        of_strain = d_strain * voigt(h)[batch.structure] * [1, 1, 1, 2, 2, 2]
        back = np.concatenate([(d_positions * g).ravel(), of_strain.ravel()])
        limits.append(limit(back, forth))
        assert back.sum() == pytest.approx(forth.sum(), rel=0, abs=limits[-1])
        slopes.append(abs(forth.sum()))
    return np.array(slopes), np.array(limits)


def check_backward_in_float32(descriptor, batch, mean, scale, tolerance):
    """Compare `backward` in float32 with that in float64, relative to the largest derivative."""
    results = []
    for dtype in (np.float32, np.float64):
        mean, scale = mean.astype(dtype), scale.astype(np.float32).astype(dtype)
        features, kept = descriptor.forward(batch, mean, scale)
        assert features.dtype == dtype
        assert len(kept) == batch.n_atoms
        d_features = np.random.default_rng(4).normal(size=features.shape)
        d_features = d_features.astype(np.float32).astype(dtype)
        results.append(descriptor.backward(batch, d_features, kept, scale))
    for single, double in zip(*results):
        assert single.dtype == np.float64  # sums over neighbours and atoms are in double
        assert np.abs(single - double).max() <= tolerance * np.abs(double).max()


# Descriptors: physics. `error` measures features against others: error(features, expected)


def check_rotation_and_translation(descriptor, atoms, error, tolerance, *, mirrored=False):
    """Features of the structure turned and moved, and also mirrored if asked for."""
    features = descriptor.compute(atoms)
    rotation = Rotation.random(random_state=5).as_matrix()
    for transform in (rotation, -rotation) if mirrored else (rotation,):
        moved = atoms.copy()
        moved.set_cell(atoms.cell @ transform.T)
        moved.positions = atoms.positions @ transform.T + [3.1, -20.7, 8.8]
        assert error(descriptor.compute(moved), features) < tolerance


def check_permutation(descriptor, atoms, error, tolerance):
    """Features follow their atoms."""
    order = np.roll(np.arange(len(atoms)), 1)[::-1]
    features = descriptor.compute(atoms)
    assert not np.allclose(features[order], features)
    assert error(descriptor.compute(atoms[order]), features[order]) < tolerance


def check_supercell(descriptor, atoms, error, tolerance):
    """Features of repeated cells are repeated."""
    repeats = np.where(atoms.pbc, [3, 2, 2], 1)
    expected = np.tile(descriptor.compute(atoms), (repeats.prod(), 1))
    assert error(descriptor.compute(atoms.repeat(repeats)), expected) < tolerance


def check_wrapping(descriptor, error, tolerance):
    """Atoms outside the cell have the features that they have inside it."""
    atoms = SYSTEMS["left_handed"]()
    wrapped = atoms.copy()
    wrapped.wrap()
    assert np.abs(wrapped.positions - atoms.positions).max() > 1
    assert error(descriptor.compute(wrapped), descriptor.compute(atoms)) < tolerance


# Descriptors: batches


def largest_error(result, expected):
    """Relative to the largest entry."""
    return np.abs(result - expected).max() / np.abs(expected).max()


def check_chunks(descriptor, n_chunks, tolerances=(0, 10 * EPS, 0)):
    """Features, d_positions and d_strain of a batch in chunks are those of the whole one.

    The contributions of chunks to the forces on an atom are summed in another order.
    """
    results = []
    for chunks in (1, n_chunks):
        batch = batch_of(oxides(), ELEMENTS, descriptor.cutoff, n_chunks=chunks)
        assert len(batch.chunks) == chunks + 1
        mean, scale = plain(descriptor)
        features, kept = descriptor.forward(batch, mean, scale)
        d_features = np.random.default_rng(8).normal(size=features.shape)
        results.append((features, *descriptor.backward(batch, d_features, kept, scale)))
    for one, many, tolerance in zip(*results, tolerances):
        assert largest_error(many, one) <= tolerance


def check_replicas(descriptor, n_replicas, *, of_features=0.0, of_derivatives=0.0):
    """Displaced replicas in one batch are what they are in batches of their own."""
    rng = np.random.default_rng(9)
    shape = (len(ELEMENTS), descriptor.n_features)
    mean, scale = rng.normal(size=shape), rng.uniform(0.5, 2, size=shape)
    batch = batch_of(oxides(), ELEMENTS, descriptor.cutoff)
    direction, strain = rng.normal(size=batch.positions.shape), symmetric(rng, len(batch))
    eta = 1e-3 * rng.uniform(-1, 1, size=(n_replicas, len(batch)))
    replicas = batch.displaced(direction, eta, strain)
    features, kept = descriptor.forward(replicas, mean, scale)
    d_features = rng.normal(size=features.shape)
    d_positions, d_strain = descriptor.backward(replicas, d_features, kept, scale)
    n = len(batch.species)
    for k in range(n_replicas):
        one = batch.displaced(direction, eta[k], strain)
        alone, kept = descriptor.forward(one, mean, scale)
        rows = slice(k * n, (k + 1) * n)
        assert largest_error(features[replicas.place[rows]], alone[one.place]) <= of_features
        d_alone = np.empty_like(alone)
        d_alone[one.place] = d_features[replicas.place[rows]]
        of_positions, of_strain = descriptor.backward(one, d_alone, kept, scale)
        assert largest_error(d_positions[rows], of_positions) <= of_derivatives
        assert largest_error(d_strain[rows], of_strain) <= of_derivatives
        assert k == 0 or not (alone == features[: len(alone)]).all()


def check_keeping_nothing(descriptor, batch, mean, scale):
    """Features are the same without what `backward` needs."""
    features, kept = descriptor.forward(batch, mean, scale)
    alone, nothing = descriptor.forward(batch, mean, scale, keep=False)
    assert (features == alone).all()
    assert len(kept) == batch.n_atoms
    assert len(nothing) == 0


def check_nan(descriptor, dtype=np.float64):
    """A position that is no number makes features and derivatives that are none.

    Every atom of rutile has atom 3 or an image of it within 4 Å.
    """
    mean, scale = plain(descriptor, dtype)
    batch = batch_of([SYSTEMS["two_species"]()], ELEMENTS, descriptor.cutoff)
    batch.positions[3, 1] = np.nan
    features, kept = descriptor.forward(batch, mean, scale)
    assert np.isnan(features).any(axis=1).all()
    d_positions, _ = descriptor.backward(batch, np.ones_like(features), kept, scale)
    assert np.isnan(d_positions).any()


# Models


def networks_and_batch(descriptor, hidden, frames, **options):
    """Networks on a descriptor of `ELEMENTS`, standardised on a batch of some structures."""
    model = ElementalNetworks(descriptor, hidden, "tanh", **options)
    batch = batch_of(frames, ELEMENTS, descriptor.cutoff)
    model.standardise([batch])
    return model, batch


def check_forces(model, batch, *, rel, abs=1e-12):
    """Forces and virials are the complex slopes of the energies; they act on nothing outside."""
    forces, virial = model.forces(model.forward(batch))
    rng = np.random.default_rng(6)
    direction, strain = rng.normal(size=forces.shape), symmetric(rng, len(batch))
    for g, h in ((direction, 0 * strain), (0 * direction, strain), (direction, strain)):
        moved = batch.displaced(g, np.full(len(batch), 1j * COMPLEX_STEP), h)
        slope = -model.forward(moved).energy.imag / COMPLEX_STEP
        work = np.add.reduceat((forces * g).sum(axis=1), batch.offsets[:-1])
        work += (virial * h).sum(axis=(1, 2))
        assert work == pytest.approx(slope, rel=rel, abs=abs)
        assert np.abs(slope).max() > 1e-2
    assert np.add.reduceat(forces, batch.offsets[:-1]) == pytest.approx(0, abs=1e-9)
    assert virial == pytest.approx(virial.swapaxes(1, 2), abs=1e-10)


def check_loss_gradient(model, batch, *, without_stress=()):
    """The gradient of the loss: by complex step, against its slopes and the central difference."""
    rng = np.random.default_rng(2)
    virial = symmetric(rng, len(batch))
    virial[list(without_stress)] = np.nan
    target = Target(
        rng.normal(size=len(batch)), rng.normal(size=(batch.n_atoms, 3)), virial,
        np.ones(len(batch)),
    )  # fmt: skip
    kind = SquaredLoss(energy_weight=0.5, force_weight=1.0, stress_weight=2.0, mean_atoms=4.0)
    loss = partial(kind, target=target)

    def value(theta):
        before, model.theta = model.theta, theta
        state = model.forward(batch)
        terms = loss(batch, state.energy, *model.forces(state))
        model.theta = before
        return terms.value

    exact = loss_gradient(model, batch, loss, stencil="complex")
    check_directional(
        value, lambda _: exact.gradient, model.theta, step=1e-3, tolerance=1e-8, name="dL/dtheta"
    )
    central = loss_gradient(model, batch, loss, stencil="central", epsilon=1e-5)
    # features over deviations of 0.01 to 1 have large third derivatives
    assert 0 < relative(central.gradient, exact.gradient) < 1e-6
    assert central.loss == exact.loss
