"""Slabs in host memory and on a device: equal rows and steps, growth, compaction, new rows."""

import numpy as np
import pytest
from group_adam_reference import ReferenceRow

from elastic_embeddings import (
    CountAdmission,
    DynamicL1,
    ElasticTable,
    GroupAdam,
    GroupFTRL,
    RowwiseGroupAdagrad,
    SlabSpec,
)
from elastic_embeddings.batch import make_batch
from elastic_embeddings.slabs.slab import initial_vectors, make_slab
from features.errors import InputError

DEVICES = ("host", "device")


def new_slab(device, dim=3, init_scale=0.1, **strengths):
    return make_slab(SlabSpec(dim, GroupAdam(learning_rate=0.1, **strengths), init_scale), device)


def rows32(*rows):
    return np.array(rows, np.int32)


def keys64(*keys):
    return np.array(keys, np.int64)


def batch_of(rows):
    """A batch of keys whose rows are these, each distinct row once in `rows` of the batch."""
    rows = rows32(*rows)
    distinct, inverse = np.unique(rows, return_inverse=True)
    distinct, inverse = (
        distinct[::-1].copy(),
        (len(distinct) - 1 - inverse).astype(np.int32),
    )  # row 0 last, as prepared
    counts = np.ones(len(distinct), np.int32)
    return make_batch(1, rows.astype(np.int64), None, distinct, inverse, counts, rows32(), keys64())


def learn(slab, rows, gradients, step):
    slab.apply(batch_of(rows), np.asarray(gradients, np.float32), step, seed=0)


@pytest.mark.parametrize("device", DEVICES)
def test_rows_start_at_zero_and_are_gathered_in_order(device):
    slab = new_slab(device)
    assert (slab.vectors(rows32(0, 7)) == 0).all()
    slab.initialise(rows32(1, 2), keys64(10, 20), seed=1)
    gathered = np.asarray(slab.gather(batch_of([2, 0, 1, 2])))
    np.testing.assert_array_equal(gathered[1], [0, 0, 0])
    np.testing.assert_array_equal(
        gathered[[0, 2, 3]], initial_vectors(keys64(20, 10, 20), slab.spec, 1)
    )


@pytest.mark.parametrize("device", DEVICES)
def test_apply_follows_the_reference_row_by_row_and_repeated_keys_add_up(device):
    slab = new_slab(device, l21=0.05)
    slab.initialise(rows32(1, 2, 3), keys64(1, 2, 3), seed=1)
    reference = {
        row: ReferenceRow(vector)
        for row, vector in enumerate(slab.vectors(rows32(1, 2, 3)), start=1)
    }
    rng = np.random.default_rng(0)
    for t in range(1, 40):
        rows = rng.integers(0, 4, rng.integers(1, 6))
        g = rng.normal(size=(len(rows), 3)).astype(np.float32)
        learn(slab, rows, g, t)
        for row in set(rows.tolist()) - {0}:
            reference[row].learn(g[rows == row].astype(np.float64).sum(axis=0), t, 0.1, l21=0.05)
    np.testing.assert_allclose(
        slab.vectors(rows32(1, 2, 3)), [reference[row].x for row in (1, 2, 3)], atol=2e-5
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("gradient", [1.0, np.nan, np.inf])
def test_row_0_stays_zero_in_weights_and_state_whatever_its_gradient(device, gradient):
    slab = new_slab(device)
    slab.initialise(rows32(1), keys64(1), seed=1)
    learn(slab, [1, 0], [[0.5] * 3, [gradient] * 3], 1)
    assert (slab.read_weights(rows32(0)) == 0).all()
    assert (slab.read_state(rows32(0), slice(None)) == 0).all()
    assert (slab.read_weights(rows32(1)) != 0).all()
    assert (slab.read_state(rows32(1), slice(None)) != 0).all()


@pytest.mark.parametrize("device", DEVICES)
def test_keys_without_a_row_read_the_fallback_which_does_not_learn(device):
    table = ElasticTable(
        SlabSpec(3, GroupAdam(0.1), fallback=0.25), CountAdmission(2), device=device
    )
    keys = keys64(1, 1, 2)
    table.apply_gradients(table.prepare(keys), np.ones((3, 3)))
    np.testing.assert_array_equal(table.lookup(keys64(2, 9)), np.full((2, 3), 0.25))
    assert (table.lookup(keys64(1)) < 0).all()
    table.compact()
    np.testing.assert_array_equal(table.lookup(keys64(9)), np.full((1, 3), 0.25))


@pytest.mark.parametrize("device", DEVICES)
def test_rows_outside_the_batch_are_left_alone(device):
    slab = new_slab(device)
    slab.initialise(rows32(1, 2), keys64(1, 2), seed=1)
    learn(slab, [1, 2], np.ones((2, 3)), 1)
    before = slab.read_weights(rows32(2)), slab.read_state(rows32(2), slice(None))
    learn(slab, [1], np.ones((1, 3)), 2)
    np.testing.assert_array_equal(slab.read_weights(rows32(2)), before[0])
    np.testing.assert_array_equal(slab.read_state(rows32(2), slice(None)), before[1])


@pytest.mark.parametrize("device", DEVICES)
def test_growth_keeps_values_and_new_rows_are_zero(device):
    slab = new_slab(device)
    slab.initialise(rows32(1, 2), keys64(1, 2), seed=1)
    before = slab.read_weights(rows32(1, 2))
    slab.ensure(90_000)
    np.testing.assert_array_equal(slab.read_weights(rows32(1, 2)), before)
    assert (slab.read_weights(rows32(3, 90_000)) == 0).all()


@pytest.mark.parametrize("device", DEVICES)
def test_compaction_moves_rows_down_and_clears_the_rest(device):
    slab = new_slab(device)
    rows = np.arange(1, 301, dtype=np.int32)
    slab.ensure(300)
    slab.initialise(rows, rows.astype(np.int64), seed=1)
    kept = rows[rows % 3 == 0]
    expected = slab.read_weights(kept)
    slab.compact(kept)
    np.testing.assert_array_equal(slab.read_weights(np.arange(1, 101, dtype=np.int32)), expected)
    slab.ensure(300)
    assert (slab.read_weights(np.arange(101, 301, dtype=np.int32)) == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer",
    [
        GroupAdam(0.05, l1=0.01, l21=0.01, dynamic_l1=DynamicL1(3.0, 4)),
        GroupFTRL(0.1, l21=0.02),
        RowwiseGroupAdagrad(0.1, l21=0.01),
    ],
)
def test_host_and_device_learn_the_same(optimizer):
    tables = [
        ElasticTable(SlabSpec(8, optimizer), CountAdmission(2), seed=3, device=device)
        for device in DEVICES
    ]
    rng = np.random.default_rng(0)
    for _ in range(60):
        keys, g = rng.integers(0, 150, 200), rng.normal(size=(200, 8)).astype(np.float32)
        for table in tables:
            table.apply_gradients(table.prepare(keys), g)
    vectors = [table.lookup(np.arange(150)) for table in tables]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=2e-5)


def test_initial_vectors_are_uniform_within_the_scale():
    vectors = initial_vectors(
        np.arange(5_000, dtype=np.int64), SlabSpec(4, GroupAdam(), 0.25), seed=7
    )
    assert vectors.dtype == np.float32
    assert np.abs(vectors).max() <= 0.25
    assert abs(vectors.mean()) < 0.005
    assert vectors.std() == pytest.approx(0.25 / 3**0.5, rel=0.02)


def test_initial_vectors_do_not_depend_on_the_order_of_keys():
    keys = np.random.default_rng(0).integers(-(2**63), 2**63, 500)
    order = np.random.default_rng(1).permutation(500)
    spec = SlabSpec(8, GroupAdam(), 0.01)
    np.testing.assert_array_equal(
        initial_vectors(keys[order], spec, 3), initial_vectors(keys, spec, 3)[order]
    )


def test_scale_0_starts_at_zero():
    assert (initial_vectors(keys64(1, 2), SlabSpec(2, GroupAdam(), 0.0), 1) == 0).all()


def test_a_host_slab_refuses_more_rows_than_memory_holds():
    with pytest.raises(MemoryError, match="evict, or shard"):
        new_slab("host", dim=64).ensure(2**31 - 2)


def test_no_device_variable_is_trainable():
    slab = new_slab("device")
    assert not slab._weights.trainable
    assert not slab._state.trainable


def test_a_16_bit_slab_is_refused_on_a_device():
    with pytest.raises(InputError, match="use device='host'"):
        make_slab(SlabSpec(4, dtype="bfloat16"), "device")


def test_adam_in_float16_is_refused():
    with pytest.raises(InputError, match="give dtype='bfloat16'"):
        SlabSpec(4, GroupAdam(), dtype="float16")


@pytest.mark.parametrize(("dim", "scale"), [(0, 0.1), (4, -0.1)])
def test_a_slab_without_width_or_with_a_negative_scale_is_refused(dim, scale):
    with pytest.raises(InputError, match="dim must be at least 1"):
        SlabSpec(dim, GroupAdam(), scale)
