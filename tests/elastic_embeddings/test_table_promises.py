"""What a table promises beyond one process, one rule and one caller: found missing by an audit."""

import copy
import math
import pickle
from itertools import pairwise

import numpy as np
import pytest
from saved_tables import digests

from elastic_embeddings import (
    ElasticTable,
    Eviction,
    GroupAdagrad,
    GroupAdam,
    GroupFTRL,
    Idle,
    RowwiseGroupAdagrad,
    SlabSpec,
    SmallNorm,
)
from elastic_embeddings.optimizers.learning_rates import CosineDecay, ExponentialDecay, Warmup
from elastic_embeddings.optimizers.proximal import DynamicL1
from elastic_embeddings.slabs.slab import make_slab
from elastic_embeddings.storage.checkpoint import read_header
from elastic_embeddings.storage.delta import fold
from features.errors import InputError


def new_table(rule=None, seed=3, dtype="float32", eviction=None):
    return ElasticTable(
        SlabSpec(3, rule or GroupAdagrad(0.1), 0.1, dtype), seed=seed, eviction=eviction
    )


def learn(table, steps, start=0, rows=20):
    for step in range(start, start + steps):
        draw = np.random.default_rng(step)
        keys = draw.integers(0, 30, rows)
        table.apply_gradients(table.prepare(keys), draw.normal(size=(rows, 3)))
    return table


# Fault M3: rounding drew by row number, which a restore changes, and without the seed.


@pytest.mark.covers("audit-M3")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bit_rows_go_on_with_the_same_bytes_after_restore_and_compact(dtype, tmp_path):
    straight = learn(new_table(dtype=dtype), 6)
    straight.evict(Eviction((Idle(steps=2),)))
    straight.save(tmp_path / "half")
    restored = new_table(dtype=dtype).restore(tmp_path / "half")
    compacted = new_table(dtype=dtype).restore(tmp_path / "half")
    compacted.evict(Eviction((SmallNorm(1e-9),)))
    straight_bytes = []
    for table in (straight, restored, compacted):
        if table is compacted:
            table.compact()
        learn(table, 6, start=6).save(tmp_path / "end")
        straight_bytes.append(digests(tmp_path / "end"))
    assert straight_bytes[0] == straight_bytes[1] == straight_bytes[2]


def test_16_bit_rounding_depends_on_the_seed_and_the_slab():
    specs = {name: SlabSpec(3, GroupAdagrad(0.1), 0.0, "bfloat16") for name in ("a", "b")}
    keys, gradients = np.arange(500), np.random.default_rng(0).normal(size=(500, 3))
    found = []
    for seed in (1, 2):
        table = ElasticTable(specs, seed=seed)
        table.apply_gradients(table.prepare(keys), {"a": gradients, "b": gradients})
        found += [table.lookup(keys, "a"), table.lookup(keys, "b")]
    for one, other in pairwise(found):
        assert (one != other).any()


# Faults M4, M5, L4, L5: batches.


@pytest.mark.covers("audit-M4")
def test_a_batch_that_is_never_trained_on_leaves_no_trace_at_an_eviction(tmp_path):
    """Fault M4: the keys of every visible batch were spared."""
    for name, trace in (("with", True), ("without", False)):
        table = new_table(eviction=Eviction((Idle(steps=2),), every=4))
        for key in (1, 7, 8, 9):
            if trace and key == 9:
                table.prepare(np.array([1, 2]))
            table.apply_gradients(table.prepare(np.array([key])), np.ones((1, 3)))
        table.discard()
        table.save(tmp_path / name)
        assert table.keys().tolist() == [8, 9]
    assert digests(tmp_path / "with") == digests(tmp_path / "without")


@pytest.mark.covers("audit-M5")
def test_a_caller_may_fill_its_key_array_again():
    """Fault M5: the table trained on the keys that the caller wrote meanwhile."""
    table, keys, codes = new_table(), np.array([1, 2, 3]), np.zeros(3, np.int16)
    batch = table.prepare(keys, codes)
    keys[:], codes[:] = 99, 7
    table.statistics()  # prepares the batch again
    table.apply_gradients(batch, np.ones((3, 3)))
    assert table.keys().tolist() == [1, 2, 3]


@pytest.mark.covers("audit-L5")
def test_a_batch_of_another_table_is_refused():
    """Fault L5: the same number and length sufficed."""
    one, other = new_table(), new_table()
    batch, strange = one.prepare(np.array([1, 2])), other.prepare(np.array([5, 6]))
    with pytest.raises(InputError, match="another table"):
        one.apply_gradients(strange, np.ones((2, 3)))
    one.apply_gradients(batch, np.ones((2, 3)))
    assert one.keys().tolist() == [1, 2]


def test_apply_refuses_another_shape_of_the_same_size():
    table = new_table()
    batch = table.prepare(np.array([1, 2]))
    with pytest.raises(InputError, match="shaped as lookup"):
        table.apply(batch, {"vectors": np.ones((1, 6), np.float32)})
    assert table.step == 0


@pytest.mark.covers("audit-L4")
def test_a_step_whose_batch_another_thread_undid_ends_with_a_message(monkeypatch):
    """Fault L4: the trainer died of "pop from an empty deque"."""
    table = new_table()
    batch, slab = table.prepare(np.array([1])), table.slabs["vectors"]
    apply = slab.apply

    def meanwhile(*arguments):
        apply(*arguments)
        table.discard()

    monkeypatch.setattr(slab, "apply", meanwhile)
    with pytest.raises(InputError, match="another thread"):
        table.apply_gradients(batch, np.ones((1, 3)))


@pytest.mark.covers("audit-L3")
@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_table_is_not_pickled_or_copied(copied):
    """Fault L3: a copy of an empty table filled the machine's memory."""
    with pytest.raises(TypeError, match="save and restore"):
        copied(new_table())


# Fault H4: deleted keys were never forgotten.


def churned(table, steps, start=0):
    for step in range(start, start + steps):
        keys = np.arange(step * 50, step * 50 + 50)
        table.apply_gradients(table.prepare(keys), np.ones((50, 3)))
    return table


@pytest.mark.covers("audit-H4")
def test_saved_bytes_stay_bounded_when_deletions_are_forgotten(tmp_path):
    table = new_table(eviction=Eviction((Idle(steps=1),), every=1))
    sizes, counted = [], []
    for part in range(3):
        churned(table, 10, start=part * 10)
        counted.append(table.memory_bytes())
        table.forget_deletions()
        table.save(tmp_path / "table")
        sizes.append(sum(path.stat().st_size for path in (tmp_path / "table").glob("*.npy")))
    assert len(set(sizes)) == 1
    assert len(set(counted[1:])) == 1
    header = read_header(tmp_path / "table")
    assert header.deletions_since == table.step == 30
    # What was forgotten stays so after a restore, and a delta that needs it is refused.
    restored = churned(new_table().restore(tmp_path / "table"), 1, start=30)
    with pytest.raises(InputError, match="save a full table"):
        restored.save_delta(tmp_path / "delta", 20)
    restored.save_delta(tmp_path / "delta", 30)


def test_memory_and_statistics_count_deleted_keys():
    table = churned(new_table(), 10)
    table.evict(Eviction((Idle(steps=1),)))
    before, counted = table.memory_bytes(), table.statistics().bytes
    table.forget_deletions()
    assert table.memory_bytes() == before  # those of the last step are kept
    churned(table, 1, start=10)
    grown = table.memory_bytes()
    table.forget_deletions()
    assert grown - table.memory_bytes() >= 450 * 8
    assert counted >= 450 * 8


# Mutants E15 and E16: the tombstones of the moment between a save and the next step.


def test_a_delta_deletes_what_was_evicted_right_after_the_save(tmp_path):
    table = learn(new_table(), 3)
    table.save(tmp_path / "full")
    assert table.evict(Eviction((Idle(steps=1),)))
    learn(table, 1, start=3)
    table.save_delta(tmp_path / "delta", 3)
    table.save(tmp_path / "end")
    followed = new_table().restore(tmp_path / "full").apply_delta(tmp_path / "delta")
    followed.save(tmp_path / "followed")
    fold(tmp_path / "full", [tmp_path / "delta"], tmp_path / "folded")
    assert digests(tmp_path / "followed") == digests(tmp_path / "end")
    assert digests(tmp_path / "folded") == digests(tmp_path / "end")


def test_a_delta_does_not_repeat_deletions_that_its_base_has(tmp_path):
    table = learn(new_table(), 3)
    assert table.evict(Eviction((Idle(steps=1),)))
    table.save(tmp_path / "full")  # with tombstones of step 4
    learn(table, 2, start=3)
    table.save_delta(tmp_path / "delta", 3)
    table.save(tmp_path / "end")
    followed = new_table().restore(tmp_path / "full").apply_delta(tmp_path / "delta")
    followed.save(tmp_path / "followed")
    assert digests(tmp_path / "followed") == digests(tmp_path / "end")


# Fault M2: fold mixed optimizer state of different rules.


@pytest.mark.covers("audit-M2")
@pytest.mark.parametrize("other", [GroupFTRL(0.02), GroupFTRL(0.1, beta=1.0), GroupAdagrad(0.1)])
def test_fold_refuses_deltas_of_another_rule(other, tmp_path):
    learn(new_table(GroupFTRL(0.1)), 3).save(tmp_path / "full")
    table = learn(new_table(other).restore(tmp_path / "full"), 2, start=3)
    table.save_delta(tmp_path / "delta", 3)
    with pytest.raises(InputError, match="restore the first"):
        fold(tmp_path / "full", [tmp_path / "delta"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Fault L2: a gradient that is not finite.


@pytest.mark.parametrize(("bad", "l21"), [(np.nan, 0), (np.nan, 0.1), (np.inf, 0), (1e30, 0.1)])
@pytest.mark.parametrize("rule", [GroupAdam, GroupFTRL, RowwiseGroupAdagrad])
def test_a_gradient_that_is_not_finite_spoils_the_same_numbers_on_both_devices(rule, bad, l21):
    gradients = np.full((2, 3), 0.5, np.float32)
    gradients[0, 1] = bad
    found = []
    for device in ("host", "device"):
        table = ElasticTable(SlabSpec(3, rule(0.1, l21=l21), 0.1), device=device)
        with np.errstate(all="ignore"):
            table.apply_gradients(table.prepare(np.array([1, 2])), gradients)
        found.append(table.lookup(np.array([1, 2])))
    np.testing.assert_array_equal(np.isnan(found[0]), np.isnan(found[1]))
    assert np.isnan(found[0][0, 1])
    assert np.isfinite(found[0][1]).all()


# Fault L6: settings that are not numbers.


@pytest.mark.parametrize(
    "make",
    [
        lambda bad: GroupAdam(bad),
        lambda bad: GroupAdam(l1=bad),
        lambda bad: GroupAdam(l2=bad),
        lambda bad: GroupAdam(l21=bad),
        lambda bad: GroupAdam(decay=bad),
        lambda bad: GroupAdam(epsilon=bad),
        lambda bad: GroupFTRL(beta=bad),
        lambda bad: GroupFTRL(initial_accumulator=bad),
        lambda bad: DynamicL1(bad, 3),
        lambda bad: SlabSpec(3, init_scale=bad),
        lambda bad: SlabSpec(3, fallback=bad),
        lambda bad: ExponentialDecay(bad, 0.5, 10),
        lambda bad: CosineDecay(bad, 10),
        lambda bad: Warmup(bad, 10),
        lambda bad: SmallNorm(bad),
    ],
)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_settings_that_are_not_finite_are_refused(make, bad):
    with pytest.raises(InputError):
        make(bad)


def test_a_warm_up_gives_a_positive_rate_at_every_step():
    rate = Warmup(0.1, 10, since=100)
    assert rate.at(50) == rate.at(100) == rate.at(101) == pytest.approx(0.01)
    assert rate.at(110) == pytest.approx(0.1)


@pytest.mark.parametrize("dim", [1, 3, 7, 8])
def test_16_bit_rows_of_any_width_are_gathered(dim):
    slab = make_slab(SlabSpec(dim, GroupAdagrad(), 0.1, "bfloat16"), "host")
    rows = np.arange(1, 6, dtype=np.int32)
    slab.initialise(rows, rows.astype(np.int64), seed=1)
    np.testing.assert_array_equal(slab.vectors(rows[::-1].copy())[::-1], slab.vectors(rows))
