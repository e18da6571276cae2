"""Eviction: who goes, who stays, and what the table is like afterwards."""

import numpy as np
import pytest

from elastic_embeddings import (
    AlwaysAdmit,
    CountAdmission,
    ElasticTable,
    Eviction,
    GroupAdam,
    Idle,
    LeastFrequent,
    SlabSpec,
    SmallNorm,
    ZeroRows,
)
from features.errors import InputError


def new_table(admission=None, eviction=None, l21=0.0):
    return ElasticTable(
        SlabSpec(2, GroupAdam(0.1, l21=l21)), admission or AlwaysAdmit(), eviction=eviction
    )


def learn(table, *keys, gradient=1.0):
    table.apply_gradients(
        table.prepare(np.array(keys, np.int64)), np.full((len(keys), 2), gradient, np.float32)
    )


def evicted(table, *policies, keep_rows=0):
    count = table.evict(Eviction(policies, keep_rows=keep_rows))
    return count, table.keys().tolist()


@pytest.mark.slow
def test_keys_go_that_were_not_seen_for_so_many_steps():
    table = new_table()
    learn(table, 1, 2)
    learn(table, 2, 3)
    learn(table, 3)
    assert evicted(table, Idle(steps=3)) == (0, [1, 2, 3])
    assert evicted(table, Idle(steps=2)) == (1, [2, 3])
    assert evicted(table, Idle(steps=1)) == (1, [3])


def test_keys_go_that_were_not_seen_since_a_day_began():
    table = new_table()
    learn(table, 1, 2)
    table.start_day()
    learn(table, 2, 3)
    table.start_day()
    learn(table, 3)
    assert evicted(table, Idle(days=2)) == (0, [1, 2, 3])
    assert evicted(table, Idle(days=1)) == (1, [2, 3])


def test_waiting_keys_go_too_and_count_from_nothing_when_they_come_back():
    table = new_table(CountAdmission(2))
    learn(table, 1, 2, 2)
    learn(table, 2)
    assert evicted(table, Idle(steps=1)) == (1, [2])
    assert table.keys_seen == 1
    learn(table, 1)
    assert table.keys().tolist() == [2]


def test_zero_rows_go_and_others_stay():
    table = new_table(l21=0.05)
    learn(table, 1, gradient=5.0)
    learn(table, 2, gradient=1e-4)
    assert (table.lookup(np.array([2])) == 0).all()
    assert (table.lookup(np.array([1])) != 0).all()
    assert evicted(table, ZeroRows(idle_steps=1)) == (0, [1, 2])
    assert evicted(table, ZeroRows()) == (1, [1])


def test_short_vectors_go():
    table = new_table()
    learn(table, *range(50))
    norms = np.linalg.norm(table.lookup(np.arange(50)), axis=1)
    below = float(np.sort(norms)[20]) * (1 + 1e-6)
    assert evicted(table, SmallNorm(below))[1] == np.flatnonzero(norms >= below).tolist()


def test_the_rarest_go_above_a_budget_and_of_equals_the_one_seen_longest_ago():
    table = new_table()
    learn(table, 1, 1, 1, 2, 3, 4)
    learn(table, 3, 5)
    learn(table, 2)
    assert evicted(table, LeastFrequent(3)) == (2, [1, 2, 3])


def test_a_floor_of_rows_stays_the_most_frequent_first():
    table = new_table()
    learn(table, 1, 1, 2, 3, 3, 3, 4)
    learn(table, 9)
    assert evicted(table, Idle(steps=1), keep_rows=3) == (2, [1, 3, 9])


def test_an_evicted_row_is_given_to_another_key_with_fresh_state():
    table, untouched = new_table(), new_table()
    learn(table, 1, gradient=3.0)
    row = table.find(np.array([1]))
    learn(table, 2)
    table.evict(Eviction((Idle(steps=1),)))
    learn(untouched, 8)
    learn(untouched, 2)
    for each in (table, untouched):
        learn(each, 7)
    assert table.find(np.array([7])) == row
    np.testing.assert_array_equal(table.lookup(np.array([7])), untouched.lookup(np.array([7])))


def test_a_batch_that_is_being_learned_keeps_its_rows():
    table = new_table()
    learn(table, 1, 2)
    learn(table, 3)
    batch = table.begin(table.prepare(np.array([1], np.int64)))
    vector = table.lookup(np.array([1]))
    assert evicted(table, Idle(steps=1)) == (1, [1, 3])
    np.testing.assert_array_equal(table.lookup(np.array([1])), vector)
    table.apply_gradients(batch, np.ones((1, 2), np.float32))
    assert table.keys().tolist() == [1, 3]


def test_a_batch_prepared_ahead_of_an_eviction_meets_the_table_as_it_is_then(tmp_path):
    """Bytes do not depend on how far ahead preparation ran."""
    folders = []
    for ahead in (1, 3):
        table = new_table(CountAdmission(2), Eviction((Idle(steps=2),), every=2))
        stream = [
            np.array(k, np.int64) for k in ([1, 1, 2], [3, 3], [1, 2], [2, 4, 4], [1], [1, 3, 3])
        ]
        for start in range(0, len(stream), ahead):
            part = stream[start : start + ahead]
            for keys, batch in zip(part, [table.prepare(k, ahead=True) for k in part], strict=True):
                table.apply_gradients(batch, np.ones((len(keys), 2), np.float32))
        folders.append(tmp_path / str(ahead))
        table.save(folders[-1])
    assert table.statistics().evicted > 0
    assert {p.name: p.read_bytes() for p in folders[0].iterdir()} == {
        p.name: p.read_bytes() for p in folders[1].iterdir()
    }


def test_compact_gives_memory_back_and_changes_no_vector():
    table = new_table()
    learn(table, *range(200_000))
    learn(table, *range(0, 200_000, 10))
    before = table.memory_bytes()
    table.evict(Eviction((Idle(steps=1),)))
    kept = np.arange(0, 200_000, 10)
    vectors = table.lookup(kept)
    table.compact()
    assert len(table) == 20_000
    assert table.memory_bytes() < before / 5
    np.testing.assert_array_equal(table.lookup(kept), vectors)
    learn(table, 1, 3)
    assert len(table) == 20_002


@pytest.mark.parametrize(
    "make",
    [
        lambda: Idle(),
        lambda: Idle(steps=1, days=1),
        lambda: Idle(steps=0),
        lambda: SmallNorm(0),
        lambda: LeastFrequent(0),
        lambda: Eviction(()),
        lambda: Eviction((ZeroRows(),), every=-1),
    ],
)
def test_policies_refuse_what_makes_no_sense(make):
    with pytest.raises(InputError):
        make()


def test_evicting_without_a_policy_gives_a_hint():
    with pytest.raises(InputError, match=r"give one such as Eviction\(\(ZeroRows\(\),\)\)"):
        new_table().evict()
