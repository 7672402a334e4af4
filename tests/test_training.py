"""The training loop: what stops it, what it keeps, how it watches epsilon."""

import copy
from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from fdforce.config import default_config, override
from fdforce.data_set import DataSet, residual_target
from fdforce.descriptors import Chebyshev, PowerSpectrum
from fdforce.direct_fit import DirectFit
from fdforce.epsilon import Monitor
from fdforce.errors import ConfigError, TrainingError
from fdforce.evaluation import take
from fdforce.examples import example_files
from fdforce.full_batch import FullBatchTrainer
from fdforce.kalman import KalmanTrainer
from fdforce.losses import SquaredLoss
from fdforce.models import ElementalNetworks, LinearModel
from fdforce.neighbors import build_pairs
from fdforce.problem import loss_of, moderate
from fdforce.reference_energies import reference_energies
from fdforce.schedules import SCHEDULES
from fdforce.selection import select_forces
from fdforce.structures import read_structures
from fdforce.training import COLUMNS, Trainer


@pytest.fixture(scope="module")
def data():
    structures, _ = read_structures(example_files("ethanol")[0])
    sets = []
    for indices in (np.arange(0, 240, 10), np.arange(5, 45, 10)):
        part = structures.select(indices)
        pairs = build_pairs(part, 3.5)
        offsets = reference_energies(structures, "fit")
        sets.append(DataSet(part, residual_target(part, offsets), pairs))
    return sets


def trainer(data, log=lambda line: None, **changes):
    """A small network on a few ethanol molecules; `changes` are tables of the configuration."""
    return Trainer(*parts_of(data, **changes), log=log)


def parts_of(data, **changes):
    """Model, data, loss and configuration of `trainer`."""
    config = override(
        default_config(),
        {
            **changes,
            "optimizer": {"name": "adamw", "batch_size": 8, **changes.get("optimizer", {})},
            "training": {"average": 0.0, **changes.get("training", {})},
        },
    )
    train, valid = data
    descriptor = Chebyshev(train.structures.elements, 3.5, 6, 3.0, 2)
    model = ElementalNetworks(descriptor, (6,), "tanh", seed=1)
    model.standardise([train.batch(np.arange(len(train)), 1)[0]])
    loss = SquaredLoss(energy_weight=1.0, force_weight=1.0, energy_unit=0.03, mean_atoms=9.0)
    return model, train, valid, loss, config


def column(progress, name):
    return np.array(progress.rows)[:, COLUMNS.index(name)]


def test_the_loss_falls(data):
    progress = trainer(data, training={"epochs": 30}).run()
    losses = column(progress, "train_loss")
    # a model that predicts nothing stays at its first loss; 0.5 is far from any chance
    assert losses[-1] < 0.5 * losses[0]
    assert column(progress, "epoch").tolist() == list(range(1, 31))


def test_the_best_model_is_that_of_the_least_validation_loss(data):
    run = trainer(data, training={"epochs": 12}, optimizer={"learning_rate": 0.05, "batch_size": 4})
    seen = {}
    progress = run.run(lambda now, row: seen.update({now.epoch: now.theta.copy()}))
    best = int(np.argmin(column(progress, "valid_loss"))) + 1
    assert progress.best_epoch == best
    np.testing.assert_array_equal(progress.best_theta, seen[best])


def test_one_seed_one_result_another_seed_another(data):
    runs = [trainer(data, training={"epochs": 2, "seed": seed}).run() for seed in (3, 3, 4)]
    np.testing.assert_array_equal(runs[0].theta, runs[1].theta)
    assert not np.array_equal(runs[0].theta, runs[2].theta)


def test_patience_stops_early(data):
    lines = []
    run = trainer(
        data, lines.append, training={"epochs": 500, "patience": 3},
        optimizer={"learning_rate": 0.3, "batch_size": 4},
    )  # fmt: skip
    progress = run.run()
    assert progress.epoch == progress.best_epoch + 3 < 500
    assert any("stopped early" in line for line in lines)


def test_a_budget_ends_the_run_and_its_schedule(data):
    trainer(data, training={"epochs": 1}).run()  # compiles
    progress = trainer(data, training={"epochs": 0, "max_time": 3.0}).run()
    assert progress.epoch >= 1
    # the schedule is over with the budget: its last factor is the floor
    rates = column(progress, "learning_rate")
    assert rates[-1] < 0.2 * rates.max()


def test_neither_epochs_nor_budget(data):
    with pytest.raises(ConfigError, match=r"training\.epochs = 0 needs training\.max_time"):
        trainer(data, training={"epochs": 0})


def test_an_unknown_optimizer_lists_the_choices(data):
    with pytest.raises(ConfigError, match=r"optimizer\.name = 'adma': choose one of adam"):
        trainer(data, optimizer={"name": "adma"})


def test_settings_without_an_effect_are_refused(data):
    text = r"optimizer\.gradient_clip = 0\.1: does not apply to .*kalman"
    with pytest.raises(ConfigError, match=text):
        KalmanTrainer(*parts_of(data, optimizer={"name": "kalman", "gradient_clip": 0.1}))
    with pytest.raises(ConfigError, match=r"training\.dropout = 0\.5: does not apply to .*lbfgs"):
        FullBatchTrainer(*parts_of(data, optimizer={"name": "lbfgs"}, training={"dropout": 0.5}))


def test_lbfgs_reaches_what_least_squares_solve(data):
    """A linear model on energies and forces: one minimum, found through finite differences."""
    train, _ = data
    descriptor = Chebyshev(train.structures.elements, 3.5, 3, 3.0, 2)
    model = LinearModel(descriptor, seed=1)
    model.standardise([train.batch(np.arange(len(train)), 1)[0]])
    loss = SquaredLoss(energy_unit=0.03, mean_atoms=9.0)
    changes = {"training": {"epochs": 600}, "model": {"kind": "linear"}}
    ends = []
    for kind, name in ((FullBatchTrainer, "lbfgs"), (DirectFit, "least_squares")):
        config = override(default_config(), {**changes, "optimizer": {"name": name}})
        run = kind(copy.copy(model), train, None, loss, config, log=lambda line: None)
        ends.append(column(run.run(), "train_loss")[-1])
    # SciPy's L-BFGS-B with as many pairs has 0.212 after 60 steps, as this one has, and 0.160 after
    # 300: the flat directions of correlated features take thousands
    assert ends[1] < ends[0] < 1.02 * ends[1]


@pytest.mark.parametrize("seed", range(3))
def test_lbfgs_where_features_hardly_vary(seed):
    """A gold atom, whose scaled features make a step of 1 in theta far too long."""
    rng, frames = np.random.default_rng(seed), []
    for k in range(9):
        atoms = bulk("Cu", cubic=True)
        atoms.symbols[3] = "Au" if k == 4 else "Cu"
        atoms.positions += rng.normal(scale=0.005, size=(4, 3))
        atoms.calc = EMT()
        results = {
            name: atoms.calc.get_property(name, atoms) for name in ("energy", "forces", "stress")
        }
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    structures, _ = read_structures(frames)
    pairs = build_pairs(structures, 5.0)
    offsets = reference_energies(structures, "fit")
    train = DataSet(structures, residual_target(structures, offsets), pairs)
    model = LinearModel(PowerSpectrum(structures.elements, 5.0), seed=seed)
    model.standardise([train.batch(np.arange(9), 1)[0]])
    config = override(
        default_config(),
        {"optimizer": {"name": "lbfgs"}, "training": {"epochs": 12}, "model": {"kind": "linear"}},
    )
    moderate(model, train, config)
    run = FullBatchTrainer(
        model, train, None, loss_of(config, train), config, log=lambda line: None
    )
    losses = column(run.run(), "train_loss")
    assert len(losses) == 12
    assert (np.diff(losses) < 0).all()  # a step that does not lower the loss is none


def test_lbfgs_stops_where_no_step_lowers_the_loss(data):
    lines = []
    parts = parts_of(data, optimizer={"name": "lbfgs"}, training={"epochs": 50})
    run = FullBatchTrainer(*parts, log=lines.append)
    real = run._gradient

    def uphill(indices, given):  # as of a model whose gradient is wrong
        step = real(indices, given)
        return replace(step, gradient=-step.gradient)

    run._gradient = uphill
    begin = run.model.theta.copy()
    progress = run.run()
    assert progress.epoch == 1
    np.testing.assert_array_equal(progress.theta, begin)
    assert lines[-1] == "epoch 1: no step along the gradient lowers the loss: stopped early"


def test_lbfgs_stops_at_the_minimum(data):
    """A linear model of two features is at rounding soon."""
    train, _ = data
    model = LinearModel(Chebyshev(train.structures.elements, 3.5, 0, 3.0, 0), seed=1)
    model.standardise([train.batch(np.arange(len(train)), 1)[0]])
    config = override(
        default_config(),
        {"optimizer": {"name": "lbfgs"}, "training": {"epochs": 900}, "model": {"kind": "linear"}},
    )
    lines = []
    loss = SquaredLoss(energy_unit=0.03, mean_atoms=9.0)
    progress = FullBatchTrainer(model, train, None, loss, config, log=lines.append).run()
    assert progress.epoch < 900
    assert "no step along the gradient lowers the loss: stopped early" in lines[-1]


def test_a_loss_that_is_not_finite_at_the_start_is_no_minimum(data):
    train, valid = data
    forces = train.target.forces.copy()
    forces[9 * 7 + 2] = np.inf  # structure 7
    broken = replace(train, target=replace(train.target, forces=forces))
    parts = parts_of((broken, valid), optimizer={"name": "lbfgs"}, training={"epochs": 2})
    with pytest.raises(TrainingError, match="the loss is"):
        FullBatchTrainer(*parts).run()


def test_kalman_filter_learns_more_from_an_epoch_than_adam(data):
    losses = {}
    for kind, name in ((KalmanTrainer, "kalman"), (Trainer, "adamw")):
        run = kind(*parts_of(data, optimizer={"name": name}, training={"epochs": 15}))
        losses[name] = column(run.run(), "train_loss")[-1]
    assert losses["kalman"] < 0.7 * losses["adamw"]


def test_nan_stops_the_run_and_names_the_structure(data):
    train, valid = data
    forces = train.target.forces.copy()
    forces[9 * 7 + 2] = np.inf  # structure 7
    broken = replace(train, target=replace(train.target, forces=forces))
    with pytest.raises(TrainingError) as caught:
        trainer((broken, valid), training={"epochs": 2}).run()
    assert train.structures.labels[7] in str(caught.value).split(";")[1].split(",")[0]


def test_explosion_stops_the_run(data):
    run = trainer(data, training={"epochs": 50}, optimizer={"learning_rate": 1e4, "batch_size": 4})
    with pytest.raises(TrainingError, match=r"the loss is .*; largest in .*extxyz"):
        run.run()
    assert np.all(np.isfinite(run.progress.theta))  # that of the last whole epoch


def test_epsilon_is_chosen_again_when_the_defect_drifts(data):
    lines = []
    run = trainer(data, lines.append, training={"epochs": 3})
    run.progress.epsilon, run.progress.reference = 1e-3, 1e-12  # truncation far above the reference
    progress = run.run()
    assert column(progress, "epsilon")[0] == 1e-3
    assert column(progress, "epsilon")[1] < 1e-4
    assert any("epsilon chosen again: 1.0e-03 -> " in line for line in lines)


def test_epsilon_is_chosen_on_structures_with_forces(data):
    """The scan takes 32 structures; with forces of one in a hundred it must not miss them."""
    train = data[0]
    many = np.resize(np.arange(len(train)), 100)
    structures = train.structures.select(many)
    wide = DataSet(structures, take(train.target, train.structures, many),
                   build_pairs(structures, 3.5))  # fmt: skip
    for seed in range(4):
        tables = {"training": {"epochs": 1, "seed": seed}, "loss": {"force_fraction": 0.01}}
        run = trainer((wide, None), **tables)
        assert run._choose_epsilon(0) != 1e-5  # what is taken where nothing can be displaced


def test_a_given_epsilon_is_kept(data):
    run = trainer(data, training={"epochs": 2}, finite_difference={"epsilon": 2e-4})
    run.progress.reference = 1e-15
    assert column(run.run(), "epsilon").tolist() == [2e-4, 2e-4]


def test_dropout_leaves_hidden_units_out(data):
    run = trainer(data)
    model = run.model
    kept = model.thinned(0.5, np.random.default_rng(0))
    n = model.descriptor.n_features
    first, second = np.split(kept.reshape(len(model.elements), -1), [(n + 1) * 6], axis=1)
    assert (first == 1).all()  # features are not dropped
    assert (second[:, -1] == 1).all()  # nor the bias of the output
    assert set(second[:, :-1].ravel()) == {0.0, 2.0}  # the others keep the mean of the sum
    share = np.mean([model.thinned(0.3, np.random.default_rng(k))[-7:-1] == 0 for k in range(300)])
    assert share == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / 1800) ** 0.5)


def test_dropout_is_frozen_over_the_replicas(data):
    """With one mask for r, r+ and r- the difference is that of one network; with two it is not."""

    def error(masks):
        run = trainer(data, training={"dropout": 0.5})
        run.progress.epsilon = 1e-5
        model, whole = run.model, run.model.theta
        forward, given = model.forward, iter(masks)

        def masked(batch):
            model.theta = whole * model.thinned(0.5, np.random.default_rng(next(given)))
            return forward(batch)

        model.forward = masked
        return run._gradient(np.arange(8), run.loss).loss_error

    # central: epsilon squared; with another mask the slope along g is that of another network
    assert error([3, 3]) < 1e-7
    assert error([3, 4]) > 0.01


def test_dropout_trains_the_units_it_keeps(data):
    run = trainer(data, training={"dropout": 0.5}, optimizer={"weight_decay": 0.0})
    run.progress.epsilon = 1e-5
    kept, before = run._kept_units(0), run.model.theta.copy()
    run._step(np.arange(8), run.loss, run.progress, 1e-3)
    moved = run.model.theta != before
    np.testing.assert_array_equal(moved[kept == 0], False)
    assert moved[kept != 0].mean() > 0.3  # the weights into a dropped unit stay too


def test_the_average_is_validated(data):
    """A share a of the steps so far: after t steps the last one weighs 1 / (1 + a t)."""
    seen = [None]
    run = trainer(data, training={"epochs": 5, "average": 0.5}, optimizer={"batch_size": 24})
    begin = run.model.theta
    averages = []
    progress = run.run(lambda now, row: (seen.append(now.theta), averages.append(now.average)))
    mean = begin
    for t in range(1, 6):
        mean = mean + (seen[t] - mean) / (1 + 0.5 * t)
    np.testing.assert_allclose(progress.average, mean, rtol=1e-12)
    run.model.theta = progress.average
    losses = run._errors(run.valid, "valid")["valid_loss"]
    assert column(progress, "valid_loss")[-1] == pytest.approx(losses, rel=1e-12)
    saved = averages[progress.best_epoch - 1]
    np.testing.assert_array_equal(progress.best_theta, saved)
    plain = trainer(data, training={"epochs": 2}).run()
    np.testing.assert_array_equal(plain.average, plain.theta)


def test_penalty_and_decay_shrink_parameters(data):
    def after(**settings):
        run = trainer(data, optimizer={"name": "sgd", **settings})
        run.progress.epsilon = 1e-5
        before = run.model.theta
        run._step(np.arange(8), run.loss, run.progress, 0.01)
        return before, run.model.theta

    before, plain = after(weight_decay=0.0)
    _, decayed = after(weight_decay=0.5)
    np.testing.assert_allclose(decayed, plain - 0.01 * 0.5 * before, atol=1e-14)
    _, penalised = after(weight_decay=0.0, l2=0.5)  # a tenth of it reaches the first momentum
    np.testing.assert_allclose(penalised, plain - 0.01 * 0.1 * 0.5 * before, atol=1e-14)


def test_gradient_clipping_bounds_the_norm(data):
    run = trainer(data, optimizer={"gradient_clip": 0.5})
    gradient = np.array([3.0, 4.0])
    np.testing.assert_allclose(run._clipped(gradient), [0.3, 0.4], rtol=1e-15)
    np.testing.assert_array_equal(run._clipped(gradient / 100), gradient / 100)


def test_monitor_sums_over_structures():
    class Step:
        details = {
            "defect": np.array([3e-6, 4e-6]),
            "force_loss": np.array([0.6, 0.8]),
            "scale": np.array([6.0, 8.0]),
        }

    monitor = Monitor()
    for _ in range(2):
        monitor.add(Step)
    # S20, Eq. 12: half the defect over the loss, L2 norms over structures
    assert monitor.err_loss == pytest.approx(2.5e-6, rel=1e-12)
    assert monitor.normalised == pytest.approx(5e-7, rel=1e-12)
    assert not monitor.drifted()  # sets the reference
    assert monitor.reference == monitor.normalised
    near = Monitor(reference=5.1e-8)
    near.add(Step)
    assert not near.drifted()
    later = Monitor(reference=4.9e-8)
    later.add(Step)
    assert later.drifted()


@pytest.mark.parametrize("fraction", [0.0, 0.25, 1.0])
def test_force_fraction_keeps_whole_structures(data, fraction):
    train = data[0]
    target = select_forces(train.target, train.structures, fraction, "structures", seed=2)
    kept = ~np.isnan(target.forces).reshape(len(train), -1)
    assert set(kept.sum(axis=1)) <= {0, kept.shape[1]}
    assert kept.all(axis=1).sum() == round(fraction * len(train))
    np.testing.assert_array_equal(target.energy, train.target.energy)


def schedule(name, history=(), **settings):
    settings = override(default_config(), {"training": settings}).training
    return SCHEDULES[name](list(history), settings)


def test_plateau_reduces_after_waiting():
    settings = {"plateau_patience": 2, "plateau_factor": 0.5}
    assert schedule("plateau", [3.0, 2.0, 1.0], **settings)(0.5) == 1.0
    assert schedule("plateau", [3.0, 2.0, 2.5, 2.5], **settings)(0.5) == 0.5
    assert schedule("plateau", [3.0, 2.0, 2.5, 2.5, 2.5, 2.5], **settings)(0.5) == 0.25


def test_cosine_falls_to_its_last_factor():
    factor = schedule("cosine", final_rate=0.01, warm_up=0.2)
    assert factor(0.2) == pytest.approx(1.0)
    assert factor(0.6) == pytest.approx(0.5 * (1 + 0.01), rel=1e-12)
    assert factor(1.0) == factor(1.5) == pytest.approx(0.01)


def test_cosine_begins_again():
    factor = schedule("cosine", restarts=2, warm_up=0.0, final_rate=1e-3)
    assert [factor(k / 3 + 1e-12) for k in range(3)] == pytest.approx([1.0] * 3, rel=1e-9)
    assert factor(1 / 3 - 1e-9) == factor(1.0) == pytest.approx(1e-3, rel=1e-6)


def test_exponential_falls_by_equal_factors():
    factor = schedule("exponential", final_rate=1e-4, warm_up=0.0)
    assert [factor(s) for s in (0, 0.25, 0.5, 1)] == pytest.approx([1, 0.1, 0.01, 1e-4], rel=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_rises_first(name):
    factor = schedule(name, [1.0], warm_up=0.1)
    assert factor(0.0) == pytest.approx(0.1)
    assert factor(0.05) == pytest.approx(0.5)
    assert factor(0.1) == pytest.approx(1.0)
    assert schedule(name, [1.0], warm_up=0.0)(0.0) == pytest.approx(1.0)
