"""The table: preparing, admitting, looking up, learning, statistics, and use inside a traced step."""

import threading

import numpy as np
import pytest
import tensorflow as tf

from features.errors import InputError
from training.elastic import CountAdmission, ElasticTable, GroupAdam, SlabSpec
from training.elastic.slab import initial_vectors

EXTREMES = np.array([0, -1, -(2**63), 2**63 - 1], np.int64)


def keys64(*keys):
    return np.array(keys, np.int64)


def one_slab(admission=None, seed=0, **strengths):
    return ElasticTable({"deep": SlabSpec(4, GroupAdam(learning_rate=0.1, **strengths), 0.1)}, admission, seed)


def wide_and_deep(admission=None):
    specs = {"wide": SlabSpec(1, GroupAdam(learning_rate=0.1), 0.0), "deep": SlabSpec(4, GroupAdam(learning_rate=0.1), 0.1)}
    return ElasticTable(specs, admission, seed=5)


def learn(table, keys, gradients):
    batch = table.prepare(keys)
    table.materialise(batch)
    table.apply_gradients(batch, gradients)
    return batch


def test_a_batch_names_each_key_its_row():
    table = one_slab()
    batch = table.prepare(keys64(7, 9, 7))
    assert batch.rows.tolist() == [1, 2]
    assert batch.inverse.tolist() == [0, 1, 0]
    assert batch.new_rows.tolist() == [1, 2]
    assert batch.new_keys.tolist() == [7, 9]
    assert [a.dtype for a in (batch.rows, batch.inverse, batch.new_rows, batch.new_keys)] == [np.int32] * 3 + [np.int64]


def test_unadmitted_keys_share_one_zero_row_and_get_no_gradient():
    table = one_slab(CountAdmission(2))
    batch = learn(table, keys64(1, 2, 2, 3), np.ones((4, 4)))
    assert batch.rows.tolist() == [1, 0]
    assert batch.inverse.tolist() == [1, 0, 0, 1]
    assert (table.lookup(keys64(1, 3)) == 0).all()
    assert (table.lookup(keys64(2)) != 0).all()
    assert (table.slabs["deep"].weights[0].numpy() == 0).all()
    assert len(table) == 1
    assert table.keys_seen == 3


def test_a_key_is_admitted_in_the_batch_that_completes_its_count():
    table = one_slab(CountAdmission(3))
    assert table.prepare(keys64(5, 5)).new_keys.tolist() == []
    batch = table.prepare(keys64(5, 6))
    assert batch.new_keys.tolist() == [5]
    assert batch.rows.tolist() == [1, 0]
    assert table.prepare(keys64(5)).new_keys.tolist() == []


def test_lookup_and_find_never_insert():
    table = one_slab(CountAdmission(2))
    learn(table, keys64(1, 1), np.ones((2, 4)))
    table.prepare(keys64(8))
    for _ in range(3):
        assert (table.lookup(keys64(4, 8, -4)) == 0).all()
        assert table.find(keys64(4, 1, 8)).tolist() == [0, 1, 0]
    assert (len(table), table.keys_seen) == (1, 2)
    assert table.prepare(keys64(4)).new_rows.tolist() == []


def test_prepared_rows_are_unknown_until_they_are_materialised():
    table = one_slab()
    batch = table.prepare(np.arange(5_000, dtype=np.int64))
    assert (table.find(keys64(4_999)) == 0).all()
    assert (table.lookup(keys64(4_999)) == 0).all()
    with pytest.raises(InputError, match="call materialise"):
        table.apply_gradients(batch, np.ones((5_000, 4)))
    table.materialise(batch)
    assert (table.lookup(keys64(4_999)) != 0).all()


def test_materialising_twice_writes_once():
    table = one_slab()
    batch = learn(table, keys64(1, 2), np.ones((2, 4)))
    before = table.lookup(keys64(1, 2))
    table.materialise(batch)
    np.testing.assert_array_equal(table.lookup(keys64(1, 2)), before)


def test_materialising_out_of_order_is_refused():
    table = one_slab()
    table.prepare(keys64(1))
    second = table.prepare(keys64(2))
    with pytest.raises(InputError, match="row 1 has no vector yet"):
        table.materialise(second)


def test_gradients_of_repeated_keys_add_up():
    repeated, summed = one_slab(), one_slab()
    g = np.arange(12, dtype=np.float32).reshape(3, 4) / 8
    learn(repeated, keys64(7, 9, 7), g)
    learn(summed, keys64(7, 9), np.stack([g[0] + g[2], g[1]]))
    np.testing.assert_array_equal(repeated.lookup(keys64(7, 9)), summed.lookup(keys64(7, 9)))


def test_the_first_adam_step_moves_by_the_learning_rate_against_the_gradient():
    table = one_slab()
    batch = table.prepare(keys64(3))
    table.materialise(batch)
    before = table.lookup(keys64(3))
    table.apply_gradients(batch, [[1.0, -2.0, 0.0, 0.5]])
    np.testing.assert_allclose(table.lookup(keys64(3)) - before, [[-0.1, 0.1, 0.0, -0.1]], atol=1e-6)
    assert int(table.step) == 1


def test_initial_vectors_are_a_function_of_key_and_seed():
    keys = np.random.default_rng(0).integers(-(2**63), 2**63, 300)
    tables = [one_slab(seed=4), one_slab(seed=4), one_slab(seed=5)]
    for table, order in zip(tables, (keys, keys[::-1].copy(), keys), strict=True):
        for part in np.array_split(order, 3):
            table.materialise(table.prepare(part))
    np.testing.assert_array_equal(tables[0].lookup(keys), tables[1].lookup(keys))
    assert not np.array_equal(tables[0].lookup(keys), tables[2].lookup(keys))


def test_slabs_of_one_table_do_not_start_correlated():
    spec = SlabSpec(4, GroupAdam(), 0.1)
    table = ElasticTable({"one": spec, "two": spec}, seed=0)
    keys = np.arange(2_000, dtype=np.int64)
    table.materialise(table.prepare(keys))
    one, two = table.lookup(keys, "one"), table.lookup(keys, "two")
    assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 0.05
    assert not np.array_equal(one, initial_vectors(keys, spec, 0))


def test_several_slabs_share_one_index():
    table = wide_and_deep()
    learn(table, keys64(1, 2), {"wide": np.ones((2, 1)), "deep": np.zeros((2, 4))})
    np.testing.assert_allclose(table.lookup(keys64(1, 2, 3), "wide"), [[-0.1], [-0.1], [0.0]], atol=1e-6)
    assert table.lookup(keys64(1), "deep").shape == (1, 4)
    assert int(table.step) == 1


@pytest.mark.parametrize(("slab", "message"), [(None, "say which"), ("other", "no slab 'other'")])
def test_a_slab_must_be_named_where_there_are_several(slab, message):
    with pytest.raises(InputError, match=message):
        wide_and_deep().lookup(keys64(1), slab)


def test_an_unknown_slab_is_refused_before_anything_is_learned():
    table = wide_and_deep()
    batch = table.prepare(keys64(1))
    table.materialise(batch)
    with pytest.raises(InputError, match="no slab 'depp'"):
        table.apply_gradients(batch, {"wide": np.ones((1, 1)), "depp": np.ones((1, 4))})
    assert int(table.step) == 0
    assert (table.lookup(keys64(1), "wide") == 0).all()


@pytest.mark.parametrize("slabs", [{}, {"a/b": SlabSpec(1, GroupAdam(), 0.0)}])
def test_slabs_need_a_name_that_can_be_a_file(slabs):
    with pytest.raises(InputError, match="identifier"):
        ElasticTable(slabs)


def test_growth_keeps_every_vector():
    table = one_slab()
    learn(table, np.arange(100, dtype=np.int64), np.ones((100, 4)))
    before = table.lookup(np.arange(100, dtype=np.int64))
    table.materialise(table.prepare(np.arange(100, 20_000, dtype=np.int64)))
    np.testing.assert_array_equal(table.lookup(np.arange(100, dtype=np.int64)), before)
    assert len(table) == 20_000


def test_every_int64_is_a_legal_key():
    table = one_slab()
    learn(table, EXTREMES, np.ones((4, 4)))
    assert len(np.unique(table.lookup(EXTREMES), axis=0)) == 4
    assert table.keys().tolist() == EXTREMES.tolist()


def test_an_empty_batch_takes_a_step_on_nothing():
    table = one_slab()
    batch = learn(table, keys64(), np.zeros((0, 4)))
    assert len(batch.rows) == len(table) == 0
    assert int(table.step) == 1


def test_statistics_count_rows_keys_zero_rows_and_bytes():
    table = one_slab(CountAdmission(2), l21=0.05)
    learn(table, keys64(1, 1, 2, 2, 3), np.array([[2.0] * 4, [2.0] * 4, [1e-4] * 4, [0.0] * 4, [9.0] * 4]))
    found = table.statistics()
    assert (found.rows, found.keys_seen, found.zero_rows) == (2, 3, 1)
    assert (table.lookup(keys64(2)) == 0).all()
    assert found.weight_bytes == 1024 * 4 * 4
    assert found.slot_bytes == 3 * found.weight_bytes
    assert table.memory_bytes() == found.index_bytes + found.weight_bytes + found.slot_bytes


def test_a_row_counts_as_zero_only_where_it_is_zero_in_every_slab():
    table = wide_and_deep()
    table.materialise(table.prepare(keys64(1, 2)))
    assert (table.lookup(keys64(1, 2), "wide") == 0).all()
    assert table.statistics().zero_rows == 0


def test_statistics_of_a_new_table():
    assert wide_and_deep().statistics().zero_rows == len(wide_and_deep()) == 0


def test_preparing_ahead_in_another_thread_changes_no_byte():
    """The producer runs far ahead of the consumer; what is learned must equal the run without threads."""
    rng = np.random.default_rng(3)
    batches = [rng.integers(0, 30 * (i + 1), 400) for i in range(25)]
    gradients = [rng.normal(size=(400, 4)) for _ in batches]
    alone, ahead = one_slab(CountAdmission(2)), one_slab(CountAdmission(2))
    for keys, g in zip(batches, gradients, strict=True):
        learn(alone, keys, g)
    prepared = []
    producer = threading.Thread(target=lambda: prepared.extend(ahead.prepare(keys) for keys in batches))
    producer.start()
    for i, g in enumerate(gradients):
        while len(prepared) <= i:
            ahead.lookup(batches[0])
        ahead.materialise(prepared[i])
        ahead.apply_gradients(prepared[i], g)
    producer.join()
    np.testing.assert_array_equal(ahead.keys(), alone.keys())
    np.testing.assert_array_equal(ahead.lookup(alone.keys()), alone.lookup(alone.keys()))


def test_a_traced_step_over_two_slabs_learns_without_retracing_as_the_table_grows():
    table = wide_and_deep()
    traces = []
    spec = tf.TensorSpec([None], tf.int32)

    @tf.function(input_signature=[spec, spec, tf.TensorSpec([None], tf.float32)])
    def step(rows, inverse, labels):
        traces.append(rows)
        table.step.assign_add(1)
        with tf.GradientTape() as tape:
            blocks = {name: slab.gather(rows) for name, slab in table.slabs.items()}
            tape.watch(blocks)
            deep = tf.reshape(tf.gather(blocks["deep"], inverse), [-1, 2, 4])
            logits = tf.reduce_sum(deep[:, 0] * deep[:, 1], 1)
            logits += tf.reduce_sum(tf.reshape(tf.gather(blocks["wide"], inverse), [-1, 2]), 1)
            loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits))
        for name, gradient in tape.gradient(loss, blocks).items():
            table.slabs[name].apply(rows, gradient, table.step)
        return loss

    rng = np.random.default_rng(0)
    losses = []
    for i in range(150):
        users, items = rng.integers(0, 40 * (i + 1), 64 + i), rng.integers(10**6, 10**6 + 20, 64 + i)
        batch = table.prepare(np.stack([users, items], 1).ravel())
        table.materialise(batch)
        losses.append(float(step(batch.rows, batch.inverse, (items % 2).astype(np.float32))))
    assert len(traces) == 1
    assert len(table) > 2048
    assert losses[0] == pytest.approx(np.log(2), abs=0.01)
    assert np.mean(losses[-10:]) < 0.2
    assert int(table.step) == 150
