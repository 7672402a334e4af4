"""What a device does when its memory is small, and fits, predictions and errors through it."""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest

from fdforce.computation import HostComputation
from fdforce.config import OptimizerConfig
from fdforce.cuda import computation as computations
from fdforce.cuda.adam import DeviceAdam
from fdforce.cuda.computation import DeviceComputation
from fdforce.cuda.data import DeviceData
from fdforce.cuda.device import CudaDevice
from fdforce.cuda.gradient import DeviceGradient, Packed
from fdforce.cuda.networks import DeviceNetworks
from fdforce.cuda.prediction import predict_on_device
from fdforce.cuda.stream import Stream, part_of
from fdforce.errors import FdforceError
from fdforce.evaluation import predict
from fdforce.kernels.cuda import runtime
from fdforce.mixed_batches import with_force_labels
from fdforce.models.zbl import LammpsZBL
from fdforce.optimizers import adam
from tests.checks import relative
from tests.cuda.on_device import DEVICE
from tests.test_mixed_batches import loss_of_kind, problem

INDICES = [1, 2, 5]
EPSILON = 1e-4
TOLERANCE = 1e-9
"""Rounding of differences of energies, u / epsilon, with some margin."""


@pytest.fixture
def parts():
    model, data = problem()
    lines = []
    return DeviceComputation(model, log=lines.append, device=DEVICE), model, data, lines


def expected(model, data, indices=INDICES, kind="squared"):
    return HostComputation(model).gradient(data, indices, loss_of_kind(kind), epsilon=EPSILON)


def test_data_stay_on_the_device(parts):
    _, model, data, lines = parts
    computation = DeviceComputation(model, log=lines.append, device=CudaDevice())
    for indices in (INDICES, INDICES[:2]):
        found = computation.gradient(data, indices, loss_of_kind("squared"), epsilon=EPSILON)
        assert relative(found.gradient, expected(model, data, indices).gradient) < TOLERANCE
    assert len(computation._kept) == 1
    assert lines == []


def test_new_labels_of_the_same_structures_count(parts):
    computation, model, data, _ = parts
    computation.gradient(data, INDICES[:1], loss_of_kind("squared"), epsilon=EPSILON)
    other = replace(data, target=replace(data.target, forces=data.target.forces + 0.3))
    found = computation.gradient(other, INDICES[:1], loss_of_kind("squared"), epsilon=EPSILON)
    assert relative(found.gradient, expected(model, other, INDICES[:1]).gradient) < TOLERANCE


def test_what_does_not_fit_is_copied_in_turn(parts, monkeypatch):
    computation, model, data, lines = parts
    monkeypatch.setattr(computations, "DATA_SHARE", 0.0)
    found = computation.gradient(data, INDICES, loss_of_kind("squared"), epsilon=EPSILON)
    assert relative(found.gradient, expected(model, data).gradient) < TOLERANCE
    assert len(lines) == 1
    assert "every batch is copied when its turn comes" in lines[0]
    terms = computation.terms(data, INDICES[:2], loss_of_kind("squared"))
    host = HostComputation(model).terms(data, INDICES[:2], loss_of_kind("squared"))
    assert terms.value == pytest.approx(host.value, rel=1e-12)


def test_the_next_batch_is_copied_while_the_device_computes(parts, monkeypatch):
    computation, model, data, _ = parts
    monkeypatch.setattr(computations, "DATA_SHARE", 0.0)
    loss, batches = loss_of_kind("squared"), [INDICES, [0, 3], [4, 1]]
    order, copy, to_host = [], Stream._copy, Packed.to_host

    def copied(stream, data, indices):
        order.append(f"copy {len(indices)}")
        return copy(stream, data, indices)

    def waited(packed):
        order.append("wait")
        return to_host(packed)

    monkeypatch.setattr(Stream, "_copy", copied)
    monkeypatch.setattr(Packed, "to_host", waited)
    monkeypatch.setattr(
        computation, "_parts", lambda data, indices, loss: [np.arange(len(indices))]
    )
    for indices, following in zip(batches, [*batches[1:], None]):
        computation.expect(following)
        found = computation.gradient(data, indices, loss, epsilon=EPSILON)
        assert relative(found.gradient, expected(model, data, indices).gradient) < TOLERANCE
    assert order == ["copy 3", "copy 2", "wait", "copy 2", "wait", "wait"]
    # what was not asked for is not taken for something else
    computation.expect([0, 3])
    computation.gradient(data, INDICES, loss, epsilon=EPSILON)
    found = computation.gradient(data, [3, 0], loss, epsilon=EPSILON)
    assert relative(found.gradient, expected(model, data, [3, 0]).gradient) < TOLERANCE


def test_no_memory_for_the_next_batch_stops_nothing(parts, monkeypatch):
    computation, model, data, _ = parts
    monkeypatch.setattr(computations, "DATA_SHARE", 0.0)
    copy, loss = Stream._copy, loss_of_kind("squared")

    def never(stream, data, indices):
        raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY")

    computation.terms(data, INDICES, loss)
    computation._expected, prepare = INDICES[:1], Stream.prepare

    def prepare_without_memory(stream, data, indices):
        monkeypatch.setattr(Stream, "_copy", never)
        prepare(stream, data, indices)
        monkeypatch.setattr(Stream, "_copy", copy)

    monkeypatch.setattr(Stream, "prepare", prepare_without_memory)
    for indices in (INDICES, INDICES[:1]):
        found = computation.gradient(data, indices, loss, epsilon=EPSILON)
        assert relative(found.gradient, expected(model, data, indices).gradient) < TOLERANCE


def some_without_forces(data):
    """The data set without every other structure's forces and stresses, and who has them."""
    moves = np.arange(len(data)) % 2 == 1
    forces, virial = data.target.forces.copy(), data.target.virial.copy()
    forces[~np.repeat(moves, data.structures.counts)] = virial[~moves] = np.nan
    data = replace(data, target=replace(data.target, forces=forces, virial=virial))
    moves &= with_force_labels(data.target, data.structures.counts)
    assert 0 < moves.sum() < len(moves)
    return data, moves


def test_a_copied_batch_that_is_too_large_is_cut_and_the_next_expected(parts, monkeypatch):
    """The device runs out of memory in the step, while another batch is waited for."""
    computation, model, data, lines = parts
    monkeypatch.setattr(computations, "DATA_SHARE", 0.0)
    step, loss = DeviceGradient.__call__, loss_of_kind("squared")

    def failing(steps, indices, *arguments, **options):
        if len(indices) > 2:
            raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY")
        return step(steps, indices, *arguments, **options)

    monkeypatch.setattr(DeviceGradient, "__call__", failing)
    for indices, following in ((INDICES, [3, 1]), ([3, 1], None)):
        computation.expect(following)
        found = computation.gradient(data, indices, loss, epsilon=EPSILON)
        assert relative(found.gradient, expected(model, data, indices).gradient) < TOLERANCE
    assert sum("the device has no memory for a batch" in line for line in lines) == 1


def test_a_data_set_for_which_there_is_no_memory_after_all(parts, monkeypatch):
    computation, model, data, lines = parts
    build = DeviceData.__init__

    def failing(there, device, data, memory=None, *known):
        if memory is None:
            raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY")
        build(there, device, data, memory, *known)

    monkeypatch.setattr(DeviceData, "__init__", failing)
    found = computation.gradient(data, INDICES, loss_of_kind("squared"), epsilon=EPSILON)
    assert relative(found.gradient, expected(model, data).gradient) < TOLERANCE
    assert computation._resident == 0
    assert "every batch is copied when its turn comes" in lines[0]


def test_errors_of_a_batch_that_is_too_large(parts, monkeypatch):
    computation, model, data, lines = parts
    on_device, loss = computation._on_device, loss_of_kind("squared")

    def failing(data, indices):
        if len(indices) > 1:
            raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY")
        return on_device(data, indices)

    monkeypatch.setattr(computation, "_on_device", failing)
    terms = computation.terms(data, INDICES, loss)
    host = HostComputation(model).terms(data, INDICES, loss)
    assert terms.value == pytest.approx(host.value, rel=1e-12)
    for quantity, sums in host.errors.items():
        np.testing.assert_allclose(terms.errors[quantity], sums, rtol=1e-12)
    assert len(lines) == 2


def test_memory_that_cannot_be_locked_serves_too(monkeypatch):
    def refuse(*_):
        raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: cuMemHostAlloc")

    monkeypatch.setattr(runtime.cuda, "pinned_array", refuse)
    device = CudaDevice()
    with device.step():
        array = device.upload([1, 2], np.int64)
        device.send()
        assert array.copy_to_host().tolist() == [1, 2]


def test_blocks_go_with_their_device():
    device = CudaDevice()
    with device.step():
        device.empty(10, np.float64)
    block = weakref.ref(device._memory._arena._blocks[0])
    gc.disable()
    try:
        del device
        assert block() is None
    finally:
        gc.enable()


def test_structures_without_forces_are_evaluated_once(parts, monkeypatch):
    computation, model, data, _ = parts
    data, moves = some_without_forces(data)
    indices, evaluated = np.arange(len(data)), []
    forward = DeviceNetworks.forward

    def counted(networks, batch, *energy):
        evaluated.append(batch.n_structures)
        return forward(networks, batch, *energy)

    monkeypatch.setattr(DeviceNetworks, "forward", counted)
    found = computation.gradient(data, indices, loss_of_kind("squared"), epsilon=EPSILON)
    assert evaluated == [moves.sum(), 2 * moves.sum(), (~moves).sum()]
    whole = expected(model, data, indices)
    assert relative(found.gradient, whole.gradient) < TOLERANCE
    for name in ("force_loss", "slope"):
        np.testing.assert_allclose(found.details[name], whole.details[name], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.details["terms"].d_energy, whole.details["terms"].d_energy)
    # of a loss that is no mean over structures all at once
    found = computation.gradient(data, indices, loss_of_kind("rmse"), epsilon=EPSILON)
    assert relative(
        found.gradient, expected(model, data, kind="rmse", indices=indices).gradient
    ) < (TOLERANCE)
    assert evaluated[3:] == [len(indices), 2 * len(indices)]


def test_parts_of_a_batch_add_up_on_the_device(parts, monkeypatch):
    """Cut for memory, and for what has no forces; a part that did not fit counts once."""
    computation, model, data, lines = parts
    data, _ = some_without_forces(data)
    indices, loss = np.arange(len(data)), loss_of_kind("squared")
    kept = DeviceAdam(
        DEVICE, model.theta, model.theta, adam.init(model.theta, []), dtype=model.dtype,
        frozen=np.zeros(len(model.theta), bool), settings=OptimizerConfig(),
    )  # fmt: skip

    step = DeviceGradient.__call__

    def failing(steps, indices, *arguments, **options):
        if len(indices) <= 2:
            return step(steps, indices, *arguments, **options)

        def never(*_):
            raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY")

        # as late as it may happen: the last launch of a step
        with monkeypatch.context() as patch:
            patch.setattr(kept._kernels, "take", never)
            return step(steps, indices, *arguments, **options)

    monkeypatch.setattr(DeviceGradient, "__call__", failing)
    found = computation.gradient(data, indices, loss, epsilon=EPSILON, keep=kept)
    assert found.gradient is None
    assert len(lines) >= 1
    whole = expected(model, data, indices)
    assert relative(kept._total.copy_to_host(), whole.gradient) < TOLERANCE
    assert found.loss == pytest.approx(whole.loss, rel=1e-12)
    assert kept.is_finite


def test_a_batch_beyond_the_memory_is_cut(parts, monkeypatch):
    computation, model, data, lines = parts
    largest = int(data.structures.counts[INDICES].max())
    monkeypatch.setattr(computation, "atoms_that_fit", lambda *_: largest)
    found = computation.gradient(data, INDICES, loss_of_kind("squared"), epsilon=EPSILON)
    whole = expected(model, data)
    assert relative(found.gradient, whole.gradient) < TOLERANCE
    assert found.loss == pytest.approx(whole.loss, rel=1e-12)
    assert lines == []
    with pytest.raises(FdforceError, match=r"take a smaller optimizer\.batch_size"):
        computation.gradient(data, INDICES, loss_of_kind("rmse"), epsilon=EPSILON)


def test_no_memory_left_halves_the_batch_with_a_note(parts, monkeypatch):
    computation, model, data, lines = parts
    on_device = computation._on_device

    def failing(data, indices):
        if len(indices) > 1:
            raise RuntimeError("[CUresult.CUDA_ERROR_OUT_OF_MEMORY] Call to cuMemAlloc")
        return on_device(data, indices)

    monkeypatch.setattr(computation, "_on_device", failing)
    found = computation.gradient(data, INDICES[:2], loss_of_kind("squared"), epsilon=EPSILON)
    assert relative(found.gradient, expected(model, data, INDICES[:2]).gradient) < TOLERANCE
    atoms = int(data.structures.counts[INDICES[:2]].sum())
    assert lines == [
        f"the device has no memory for a batch of {atoms} atoms: from now on in parts of "
        f"{atoms // 2}"
    ]

    def never(data, indices):
        raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY")

    monkeypatch.setattr(computation, "_on_device", never)
    with pytest.raises(FdforceError, match='atoms do not fit on the device; take device = "cpu"'):
        computation.gradient(data, INDICES[:1], loss_of_kind("squared"), epsilon=EPSILON)

    def other(data, indices):
        raise ValueError("a bug")

    monkeypatch.setattr(computation, "_on_device", other)
    with pytest.raises(ValueError, match="a bug"):
        computation.gradient(data, INDICES[:1], loss_of_kind("squared"), epsilon=EPSILON)


def test_a_kernel_that_needs_too_much_shared_memory_says_so(parts, monkeypatch):
    computation, _, data, _ = parts
    monkeypatch.setattr(runtime, "SHARED_BYTES", 100)
    with pytest.raises(FdforceError, match="bytes of shared memory and has 100: take fewer"):
        computation.terms(data, [1], loss_of_kind("squared"))


def test_arrays_of_a_step_share_memory_and_do_not_overlap():
    device = CudaDevice()
    kept = device.table([7.0], np.float64)

    def fill(sizes):
        arrays = [device.empty(size, np.float32) for size in sizes]
        for number, array in enumerate(arrays):
            if array.size:
                array.copy_to_device(np.full(array.shape, number, np.float32))
        uploaded = device.upload(np.arange(5), np.int64)
        device.send()
        for number, array in enumerate(arrays):
            assert (array.copy_to_host() == number).all()
        assert uploaded.copy_to_host().tolist() == [0, 1, 2, 3, 4]
        return device._memory._arena.size

    with device.step():
        fill([(3, 5), 1000, (2, 2, 7), 0, 90_000])
    with device.step():  # what was in several blocks is now in one
        size = fill([(3, 5), 1000, (2, 2, 7), 0, 90_000])
        assert len(device._memory._arena._blocks) == 1
        with device.step():  # a part of the same step
            fill([10])
    with device.step():
        assert fill([1000, 10]) == size
    outside = device.empty(3, np.float32)
    with device.step():
        device.zeros(100, np.float32)
    assert outside.shape == (3,)
    assert kept.copy_to_host() == [7.0]


def test_what_was_uploaded_has_to_be_sent():
    device = CudaDevice()

    def upload_after_sending():
        with device.step():
            device.upload([1], np.int64)
            device.send()
            device.upload([2], np.int64)

    with pytest.raises(RuntimeError, match="uploaded after the last `send`"):
        upload_after_sending()
    with device.step():
        assert not device._memory.waiting
    assert device.upload([3], np.int64).copy_to_host() == [3]  # outside a step, at once


def test_parts_of_a_part_of_a_data_set():
    _, data = problem()
    part = part_of(part_of(data, [3, 1, 4]), [2, 0])
    expected = data.batch([4, 3], 1)[0]
    found = part.batch([0, 1], 1)[0]
    np.testing.assert_array_equal(found.positions, expected.positions)
    np.testing.assert_array_equal(found.row_begin, expected.row_begin)


def test_predictions_with_a_baseline(monkeypatch):
    model, data = problem()
    model.baseline = LammpsZBL(model.elements, 2.5, 1.5)
    model.reference_energies = np.array([-3.0, 1.0])
    monkeypatch.setattr(computations, "find_device", lambda: DEVICE)
    structures = part_of(data, [1, 4]).structures
    from fdforce.neighbors import build_pairs

    pairs = build_pairs(structures, model.cutoff, skin=0.0)
    found = predict_on_device(model, structures, pairs)
    host = predict(model, structures, pairs=pairs)
    for name, values in vars(host).items():
        np.testing.assert_allclose(getattr(found, name), values, rtol=1e-11, atol=1e-11)
    model.baseline = None
    model.reference_energies = np.zeros(2)
