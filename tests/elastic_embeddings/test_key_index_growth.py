"""Growth, deletion and adversarial keys at sizes where the table grows in many stages."""

import os
from pathlib import Path

import numpy as np
import pytest
from key_index_reference import EXTREMES, DictIndex, assert_same, colliding_keys

from elastic_embeddings.core import memory
from elastic_embeddings.core.hashing import mix64
from elastic_embeddings.index.hash_slots import SALT
from elastic_embeddings.index.key_index import KeyIndex

MANY = int(os.environ.get("ELASTIC_CTR_ADVERSARIAL_KEYS", "100_000_000"))
PART = 250_000


def scattered(start, stop):
    """Distinct keys: the odd multiplier is a bijection of int64."""
    return np.arange(start, stop, dtype=np.int64) * np.int64(-7046029254386353131)


@pytest.mark.slow
@pytest.mark.parametrize("repeat", [1, 3], ids=["distinct", "each key three times"])
def test_growth_in_the_middle_of_a_batch_loses_nothing(repeat):
    keys = np.repeat(np.concatenate([EXTREMES, scattered(1, 200_000)]), repeat)
    np.random.default_rng(0).shuffle(keys)
    index, model = KeyIndex(), DictIndex()
    assigned = index.find_or_insert(keys, 1)
    entries, inverse, times, _, _ = model.find_or_insert(keys.tolist(), 1, [0] * len(keys))
    assert (assigned.entries.tolist(), assigned.inverse.tolist(), assigned.times.tolist()) == (
        entries,
        inverse,
        times,
    )
    assert_same(index, model)


def test_keys_that_were_sampled_by_their_plain_hash_do_not_crowd_into_a_part_of_the_table():
    """A tenth of the ids, drawn by the very hash that the table uses before it is salted."""
    keys = scattered(0, 1_000_000)
    index = KeyIndex()
    index.find_or_insert(keys[mix64(keys.view(np.uint64)) < np.uint64(2**64 // 10)], 1)
    empty = np.flatnonzero(index._slots.pairs[: int(index._slots.layout[1]), 1] == 0)
    assert np.diff(empty, prepend=-1).max() < 500, "a search walks over a run of used slots"


def test_all_is_found_at_every_stage_of_growth():
    """Enough keys for several capacities that take many stages each; stages move 65,536 slots."""
    index, grew = KeyIndex(), 0
    for start in range(0, 600_000, 7_500):
        index.find_or_insert(scattered(start, start + 7_500), 1)
        grew += index._slots.growing
        found = index.find(scattered(0, start + 8_000))
        np.testing.assert_array_equal(found[: start + 7_500], np.arange(start + 7_500))
        assert (found[start + 7_500 :] == -1).all()
    assert grew > 10, "the test means to look into the table while it grows"


def test_batches_with_few_new_keys_do_not_fill_the_table_while_it_grows():
    """A step of training brings fewer new keys than a stage of growth lets in."""
    index, grew = KeyIndex(), 0
    for start in range(0, 300_000, 100):
        index.find_or_insert(scattered(start, start + 100), 1)
        grew += index._slots.growing
        assert len(index) <= 0.7 * int(index._slots.layout[0])
    assert grew > 20, "the test means to look into the table while it grows"


def test_keys_can_be_deleted_while_the_table_grows():
    rng = np.random.default_rng(3)
    index = KeyIndex()
    keys = scattered(0, 400_000)
    alive = np.zeros(len(keys), bool)
    for start in range(0, len(keys), 8_000):
        index.find_or_insert(keys[start : start + 8_000], 1)
        alive[start : start + 8_000] = True
        removed = np.unique(rng.integers(0, start + 8_000, 2_000).astype(np.int32))
        index.remove(index.find(keys[removed[alive[removed]]]))
        alive[removed] = False
    np.testing.assert_array_equal(index.find(keys) >= 0, alive)
    assert index.keys[index.live()].tolist() == keys[alive].tolist()


@pytest.mark.parametrize(
    "high", [0, 12345, 2**32 - 1], ids=["the first slot", "some slot", "the last slot"]
)
def test_keys_that_share_a_slot_at_any_capacity_are_kept_apart(high):
    keys = colliding_keys(high, 1_500)
    assert len(set((mix64(keys.view(np.uint64) ^ SALT) >> np.uint64(32)).tolist())) == 1
    index = KeyIndex()
    index.find_or_insert(keys, 1)
    assert index.find(keys).tolist() == list(range(1_500))
    index.remove(np.arange(0, 1_500, 2, dtype=np.int32))
    assert index.find(keys).tolist() == [-1 if i % 2 == 0 else i for i in range(1_500)]


def test_a_reservation_that_is_outgrown_is_replaced():
    index, roomy = KeyIndex(reserve=100), KeyIndex()
    for start in range(0, 60_000, 10_000):
        for one in (index, roomy):
            one.find_or_insert(
                scattered(start, start + 10_000), start, np.full(10_000, start // 10_000)
            )
    for name in ("keys", "counts", "last_seen", "fields"):
        np.testing.assert_array_equal(getattr(index, name), getattr(roomy, name))
    np.testing.assert_array_equal(index.find(scattered(0, 60_001))[:-1], np.arange(60_000))


def test_an_index_works_where_memory_is_not_committed_lazily(monkeypatch):
    monkeypatch.setattr(memory, "LAZY_MEMORY", False)
    index = KeyIndex(reserve=64)
    index.find_or_insert(scattered(0, 50_000), 1)
    index.remove(np.arange(0, 50_000, 2, dtype=np.int32))
    index.squeeze()
    assert index.find(scattered(0, 6)).tolist() == [-1, 0, -1, 1, -1, 2]
    index.find_or_insert(scattered(0, 100_000), 2)
    np.testing.assert_array_equal(
        index.keys[index.find(scattered(0, 100_000))], scattered(0, 100_000)
    )


def test_bytes_an_entry_stay_bounded_whatever_the_size():
    index = KeyIndex()
    for start in range(0, 2_000_000, 10_000):
        index.find_or_insert(scattered(start, start + 10_000), 1)
        assert start < 100_000 or index.nbytes() / len(index) <= 72


def test_the_bytes_stated_are_those_the_system_counts():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    batches = [scattered(start, start + 100_000) for start in range(0, 3_000_000, 100_000)]
    KeyIndex().find_or_insert(batches[0], 1)
    index, before = KeyIndex(), resident()
    for batch in batches:
        index.find_or_insert(batch, 1)
    assert resident() - before == pytest.approx(index.nbytes(), rel=0.15)
    index.remove(np.arange(2_500_000, dtype=np.int32))
    index.squeeze()
    assert resident() - before == pytest.approx(index.nbytes(), rel=0.15, abs=12 * 2**20)


def test_batches_that_are_undone_leave_no_trace():
    """The same calls, with and without undone ones between them, give the same arrays."""
    rng = np.random.default_rng(5)
    plain, busy = KeyIndex(), KeyIndex()
    for step in range(1, 30):
        batch = rng.integers(0, 20_000, 5_000)
        detours = [busy.find_or_insert(rng.integers(0, 60_000, 5_000), step + i) for i in range(3)]
        given = [assigned.entries[busy.rows[assigned.entries] == 0] for assigned in detours[-1:]]
        busy.allocate_rows(given[0])
        busy.deallocate_rows(given[0])
        for assigned in reversed(detours):
            busy.undo(assigned)
        for index in (plain, busy):
            assigned = index.find_or_insert(batch, step)
            index.allocate_rows(
                assigned.entries[
                    (index.rows[assigned.entries] == 0) & (index.counts[assigned.entries] > 1)
                ]
            )
        for name in ("keys", "rows", "counts", "last_seen"):
            assert getattr(plain, name).tobytes() == getattr(busy, name).tobytes()


def adversarial(part):
    """Keys, distinct over all parts: extremes, small, large, and 768 groups that share a slot."""
    run = np.arange(part * PART // 4, (part + 1) * PART // 4, dtype=np.int64)
    slots = (
        np.arange(part * 768, (part + 1) * 768, dtype=np.uint64)
        * np.uint64(2654435761)
        % np.uint64(2**32)
    )
    hashes = (slots[:, None] << np.uint64(32) | np.arange(16, dtype=np.uint64)[None, :]).ravel()
    groups = (_unmixed(hashes) ^ SALT).view(np.int64)
    kinds = [
        10 + run,
        -10 - run,
        np.int64(-(2**63)) + 10 + run,
        np.int64(2**63 - 1) - 10 - run,
        groups,
    ]
    return np.concatenate([*kinds, EXTREMES[:5] if part == 0 else EXTREMES[:0]])


def _unmixed(bits):
    """`key_index_reference.unmix64` over an array."""
    with np.errstate(over="ignore"):
        for shift, factor in ((31, 0x94D049BB133111EB), (27, 0xBF58476D1CE4E5B9)):
            bits = _unshifted(bits, shift) * np.uint64(pow(factor, -1, 2**64))
        return _unshifted(bits, 30) - np.uint64(0x9E3779B97F4A7C15)


def _unshifted(bits, shift):
    found = bits
    for _ in range(64 // shift):
        found = bits ^ (found >> np.uint64(shift))
    return found


@pytest.mark.parametrize("count", [3_000_000, pytest.param(MANY, marks=pytest.mark.sweep)])
def test_many_adversarial_keys_in_parts_lose_nothing(count):
    """100 M keys take 6 GiB; ELASTIC_CTR_ADVERSARIAL_KEYS sets another number."""
    index, sizes = KeyIndex(), [0]
    parts = count // PART
    for part in range(parts):
        assigned = index.find_or_insert(adversarial(part), part)
        sizes.append(sizes[-1] + len(assigned.inverse))
        assert len(assigned.new) == len(assigned.inverse), "distinct keys must not be confused"
    assert (index.counts == 1).all()
    for part in range(0, parts, max(1, parts // 20)):
        np.testing.assert_array_equal(
            index.find(adversarial(part)), np.arange(sizes[part], sizes[part + 1])
        )
