"""The table: preparing, admitting, looking up, learning, statistics, threads."""

import os
import threading

import numpy as np
import pytest

from elastic_embeddings import CountAdmission, ElasticTable, GroupAdam, SlabSpec
from elastic_embeddings.core.threads import set_threads
from elastic_embeddings.slabs.slab import initial_vectors
from features.errors import InputError

EXTREMES = np.array([0, -1, -(2**63), 2**63 - 1], np.int64)


def keys64(*keys):
    return np.array(keys, np.int64)


def one_slab(admission=None, seed=0, **strengths):
    return ElasticTable(
        {"deep": SlabSpec(4, GroupAdam(learning_rate=0.1, **strengths), 0.1)}, admission, seed
    )


def wide_and_deep(admission=None, device=None):
    specs = {
        "wide": SlabSpec(1, GroupAdam(learning_rate=0.1), 0.0),
        "deep": SlabSpec(4, GroupAdam(learning_rate=0.1), 0.1),
    }
    return ElasticTable(specs, admission, seed=5, device=device)


def learn(table, keys, gradients):
    batch = table.prepare(keys)
    table.apply_gradients(batch, gradients)
    return batch


def test_a_batch_names_each_key_its_row():
    table = one_slab()
    batch = table.prepare(keys64(7, 9, 7))
    assert batch.rows.tolist() == [1, 2]
    assert batch.inverse.tolist() == [0, 1, 0]
    assert batch.new_rows.tolist() == [1, 2]
    assert batch.new_keys.tolist() == [7, 9]
    assert [a.dtype for a in (batch.rows, batch.inverse, batch.new_rows, batch.new_keys)] == [
        np.int32
    ] * 3 + [np.int64]


def test_unadmitted_keys_share_one_zero_row_and_get_no_gradient():
    table = one_slab(CountAdmission(2))
    batch = learn(table, keys64(1, 2, 2, 3), np.ones((4, 4)))
    assert batch.rows.tolist() == [1, 0]
    assert batch.inverse.tolist() == [1, 0, 0, 1]
    assert (table.lookup(keys64(1, 3)) == 0).all()
    assert (table.lookup(keys64(2)) != 0).all()
    assert (table.slabs["deep"].vectors(np.zeros(1, np.int32)) == 0).all()
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
    learn(table, keys64(8), np.ones((1, 4)))
    for _ in range(3):
        assert (table.lookup(keys64(4, 8, -4)) == 0).all()
        assert table.find(keys64(4, 1, 8)).tolist() == [0, 1, 0]
    assert (len(table), table.keys_seen) == (1, 2)
    assert table.prepare(keys64(4)).new_rows.tolist() == []


def test_rows_prepared_ahead_are_unknown_until_they_are_begun():
    table = one_slab()
    batch = table.prepare(np.arange(5_000, dtype=np.int64), ahead=True)
    assert (table.find(keys64(4_999)) == 0).all()
    assert (table.lookup(keys64(4_999)) == 0).all()
    table.begin(batch)
    assert (table.lookup(keys64(4_999)) != 0).all()


def test_what_is_prepared_can_be_looked_up_and_is_part_of_the_table_once_it_is_learned():
    table = one_slab()
    batch = table.prepare(keys64(1, 2))
    before = table.lookup(keys64(1, 2))
    assert (before != 0).all()
    assert (len(table), table.keys_seen, table.keys().tolist(), table.statistics().rows) == (
        0,
        0,
        [],
        0,
    )
    np.testing.assert_array_equal(table.lookup(keys64(1, 2)), before)
    table.apply_gradients(batch, np.zeros((2, 4)))
    assert (len(table), table.keys_seen, table.keys().tolist()) == (2, 2, [1, 2])


def test_a_batch_that_is_passed_over_leaves_no_trace(tmp_path):
    """Key 2 waits at count 1; the lost batch would have admitted it and 9."""
    straight, disturbed = one_slab(CountAdmission(2)), one_slab(CountAdmission(2))
    for table in (straight, disturbed):
        learn(table, keys64(1, 1, 2), np.ones((3, 4)))
    lost = disturbed.prepare(keys64(2, 9, 9), ahead=True)
    assert lost.new_keys.tolist() == [2, 9]
    for table in (straight, disturbed):
        learn(table, keys64(1, 7, 7), np.ones((3, 4)))
        table.save(tmp_path / ("straight" if table is straight else "disturbed"))
    with pytest.raises(InputError, match="trained on, skipped or discarded"):
        disturbed.begin(lost)
    assert contents(tmp_path / "straight") == contents(tmp_path / "disturbed")


def test_a_batch_cannot_be_learned_twice():
    table = one_slab()
    batch = learn(table, keys64(1), np.ones((1, 4)))
    with pytest.raises(InputError, match="prepare its keys again"):
        table.apply_gradients(batch, np.ones((1, 4)))


def test_a_save_between_prepare_and_learning_changes_nothing(tmp_path):
    straight, saving = one_slab(CountAdmission(2)), one_slab(CountAdmission(2))
    keys = [keys64(1, 1, 2), keys64(2, 3), keys64(3, 4, 4)]
    for table in (straight, saving):
        batches = [table.prepare(k, ahead=True) for k in keys]
        for k, batch in zip(keys, batches, strict=True):
            if table is saving:
                table.save(tmp_path / "midway")
                assert len(table) == len(one_slab(CountAdmission(2)).restore(tmp_path / "midway"))
            table.apply_gradients(batch, np.ones((len(k), 4)))
        table.save(tmp_path / ("saving" if table is saving else "straight"))
    assert contents(tmp_path / "straight") == contents(tmp_path / "saving")


def test_gradients_of_another_shape_are_refused_before_anything_is_learned():
    table = one_slab()
    batch = table.prepare(keys64(1, 2))
    with pytest.raises(InputError, match=r"give \(2, 4\), shaped as lookup"):
        table.apply_gradients(batch, np.ones((1, 4)))
    assert table.step == 0


def test_a_field_code_that_is_no_field_is_refused():
    with pytest.raises(InputError, match="the table's fields are"):
        one_slab().prepare(keys64(1, 2), np.array([0, 1], np.int16))


def test_gradients_of_repeated_keys_add_up():
    repeated, summed = one_slab(), one_slab()
    g = np.arange(12, dtype=np.float32).reshape(3, 4) / 8
    learn(repeated, keys64(7, 9, 7), g)
    learn(summed, keys64(7, 9), np.stack([g[0] + g[2], g[1]]))
    np.testing.assert_array_equal(repeated.lookup(keys64(7, 9)), summed.lookup(keys64(7, 9)))


def test_the_first_adam_step_moves_by_the_learning_rate_against_the_gradient():
    table = one_slab()
    batch = table.prepare(keys64(3))
    before = table.lookup(keys64(3))
    table.apply_gradients(batch, [[1.0, -2.0, 0.0, 0.5]])
    np.testing.assert_allclose(
        table.lookup(keys64(3)) - before, [[-0.1, 0.1, 0.0, -0.1]], atol=1e-6
    )
    assert table.step == 1


def test_initial_vectors_are_a_function_of_key_and_seed():
    keys = np.random.default_rng(0).integers(-(2**63), 2**63, 300)
    tables = [one_slab(seed=4), one_slab(seed=4), one_slab(seed=5)]
    for table, order in zip(tables, (keys, keys[::-1].copy(), keys), strict=True):
        for part in np.array_split(order, 3):
            learn(table, part, np.zeros((len(part), 4)))
    np.testing.assert_array_equal(tables[0].lookup(keys), tables[1].lookup(keys))
    assert not np.array_equal(tables[0].lookup(keys), tables[2].lookup(keys))


def test_slabs_of_one_table_do_not_start_correlated():
    spec = SlabSpec(4, GroupAdam(), 0.1)
    table = ElasticTable({"one": spec, "two": spec}, seed=0)
    keys = np.arange(2_000, dtype=np.int64)
    table.prepare(keys)
    one, two = table.lookup(keys, "one"), table.lookup(keys, "two")
    assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 0.05
    assert not np.array_equal(one, initial_vectors(keys, spec, 0))


def test_several_slabs_share_one_index():
    table = wide_and_deep()
    learn(table, keys64(1, 2), {"wide": np.ones((2, 1)), "deep": np.zeros((2, 4))})
    np.testing.assert_allclose(
        table.lookup(keys64(1, 2, 3), "wide"), [[-0.1], [-0.1], [0.0]], atol=1e-6
    )
    assert table.lookup(keys64(1), "deep").shape == (1, 4)
    assert table.step == 1


@pytest.mark.parametrize(("slab", "message"), [(None, "say which"), ("other", "no slab 'other'")])
def test_a_slab_must_be_named_where_there_are_several(slab, message):
    with pytest.raises(InputError, match=message):
        wide_and_deep().lookup(keys64(1), slab)


def test_an_unknown_slab_is_refused_before_anything_is_learned():
    table = wide_and_deep()
    batch = table.prepare(keys64(1))
    with pytest.raises(InputError, match="no slab 'depp'"):
        table.apply_gradients(batch, {"wide": np.ones((1, 1)), "depp": np.ones((1, 4))})
    assert table.step == 0
    assert (table.lookup(keys64(1), "wide") == 0).all()


@pytest.mark.parametrize("slabs", [{}, {"a/b": SlabSpec(1, GroupAdam(), 0.0)}])
def test_slabs_need_a_name_that_can_be_a_file(slabs):
    with pytest.raises(InputError, match="identifier"):
        ElasticTable(slabs)


def test_growth_keeps_every_vector():
    table = one_slab()
    learn(table, np.arange(100, dtype=np.int64), np.ones((100, 4)))
    before = table.lookup(np.arange(100, dtype=np.int64))
    learn(table, np.arange(100, 20_000, dtype=np.int64), np.zeros((19_900, 4)))
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
    assert table.step == 1


def test_statistics_count_rows_keys_zero_rows_and_bytes():
    table = one_slab(CountAdmission(2), l21=0.05)
    learn(
        table,
        keys64(1, 1, 2, 2, 3),
        np.array([[2.0] * 4, [2.0] * 4, [1e-4] * 4, [0.0] * 4, [9.0] * 4]),
    )
    found = table.statistics()
    assert (found.rows, found.keys_seen, found.zero_rows) == (2, 3, 1)
    assert (table.lookup(keys64(2)) == 0).all()
    assert found.weight_bytes == 3 * 4 * 4  # row 0 included
    assert found.slot_bytes == 3 * found.weight_bytes
    assert (
        table.memory_bytes()
        == found.bytes
        == found.index_bytes + found.weight_bytes + found.slot_bytes
    )
    assert (found.events, found.rejected, found.hit_rate) == (5, 1, 0.8)


def test_a_row_counts_as_zero_only_where_it_is_zero_in_every_slab():
    table = wide_and_deep()
    learn(table, keys64(1, 2), {"deep": np.ones((2, 4))})
    assert (table.lookup(keys64(1, 2), "wide") == 0).all()
    assert table.statistics().zero_rows == 0


def test_statistics_of_a_new_table():
    assert wide_and_deep().statistics().zero_rows == len(wide_and_deep()) == 0


def test_preparing_ahead_in_another_thread_changes_no_byte():
    """The producer runs far ahead of the consumer; the result equals the run without threads."""
    rng = np.random.default_rng(3)
    batches = [rng.integers(0, 30 * (i + 1), 400) for i in range(25)]
    gradients = [rng.normal(size=(400, 4)) for _ in batches]
    alone, ahead = one_slab(CountAdmission(2)), one_slab(CountAdmission(2))
    for keys, g in zip(batches, gradients, strict=True):
        learn(alone, keys, g)
    prepared = []
    producer = threading.Thread(
        target=lambda: prepared.extend(ahead.prepare(keys, ahead=True) for keys in batches)
    )
    producer.start()
    for i, g in enumerate(gradients):
        while len(prepared) <= i:
            ahead.lookup(batches[0])
        ahead.apply_gradients(prepared[i], g)
    producer.join()
    np.testing.assert_array_equal(ahead.keys(), alone.keys())
    np.testing.assert_array_equal(ahead.lookup(alone.keys()), alone.lookup(alone.keys()))


def test_the_same_seed_gives_the_same_bytes_whatever_the_thread_count(tmp_path):
    keys = [np.random.default_rng(i).integers(0, 40_000, 30_000) for i in range(4)]
    for threads in (1, 2, 7):
        set_threads(threads)
        table = one_slab(CountAdmission(2), l21=0.01)
        for i, k in enumerate(keys):
            learn(table, k, np.random.default_rng(100 + i).normal(size=(30_000, 4)))
        table.save(tmp_path / str(threads))
    set_threads(os.cpu_count() or 1)
    assert contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "7")


@pytest.mark.parametrize("device", ["host", "device"])
def test_a_step_over_two_slabs_learns_as_the_table_grows(device):
    table = wide_and_deep(device=device)
    rng = np.random.default_rng(0)
    losses = []
    for i in range(150):
        users, items = (
            rng.integers(0, 40 * (i + 1), 64 + i),
            rng.integers(10**6, 10**6 + 20, 64 + i),
        )
        batch = table.begin(table.prepare(np.stack([users, items], 1).ravel()))
        vectors = {
            name: np.asarray(table.gather(batch, name)).astype(np.float64)
            for name in ("wide", "deep")
        }
        loss, gradients = bilinear_step(vectors["wide"], vectors["deep"], items % 2)
        losses.append(loss)
        table.apply(batch, gradients)
    assert len(table) > 2048
    assert losses[0] == pytest.approx(np.log(2), abs=0.01)
    assert np.mean(losses[-10:]) < 0.2
    assert table.step == 150


def bilinear_step(wide, deep, labels):
    """Log loss of u·v + w_u + w_v, and its gradients, by hand."""
    u, v = deep.reshape(-1, 2, 4)[:, 0], deep.reshape(-1, 2, 4)[:, 1]
    p = 1 / (1 + np.exp(-((u * v).sum(1) + wide.reshape(-1, 2).sum(1))))
    loss = -np.mean(np.where(labels == 1, np.log(p), np.log(1 - p)))
    d = ((p - labels) / len(labels))[:, None]
    return loss, {
        "wide": np.repeat(d, 2, axis=0).astype(np.float32),
        "deep": np.stack([d * v, d * u], 1).reshape(-1, 4).astype(np.float32),
    }


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}
