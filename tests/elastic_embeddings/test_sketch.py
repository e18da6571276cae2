"""The sketch: never too low, seldom too high, fixed in size, fading, and undone without a trace."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elastic_embeddings.admission.sketch import CountingSketch, SketchSpec
from features.errors import InputError

KEYS = st.integers(-(2**63), 2**63 - 1)
BATCHES = st.lists(
    st.dictionaries(st.one_of(st.integers(0, 30), KEYS), st.integers(1, 400), max_size=12),
    max_size=10,
)


def add(sketch, times, events=None):
    """Add a dictionary key → times; return the counts in its order, and the log."""
    keys, numbers = np.array(list(times), np.int64), np.array(list(times.values()), np.int32)
    return sketch.add(keys, numbers, int(numbers.sum()) if events is None else events)


def content(sketch):
    return {name: array.tobytes() for name, array in sketch.arrays().items()}


def random_keys(count, seed):
    return np.unique(np.random.default_rng(seed).integers(-(2**63), 2**63, count, dtype=np.int64))


@pytest.mark.slow
@given(BATCHES, st.integers(1, 12), st.sampled_from([None, 50, 1000]), st.sampled_from([255, 5000]))
@settings(max_examples=150, deadline=None)
def test_never_below_the_truth_of_this_generation_and_exact_where_there_is_room(
    batches, capacity, decay_every, max_count
):
    """Small sketches: the count is at least that since the last renewal, up to saturation."""
    full = SketchSpec(capacity, 0.3, decay_every, max_count)
    roomy = CountingSketch(SketchSpec(100_000, 1e-6, None, max_count), 1)
    sketch, since, ever, limit = (
        CountingSketch(full, 1),
        Counter(),
        Counter(),
        np.iinfo(full.dtype).max,
    )
    for batch in batches:
        counts, log = add(sketch, batch)
        since = Counter(batch) if log.dropped is not None else since + Counter(batch)
        ever += Counter(batch)
        assert all(
            count >= min(since[key], limit)
            for key, count in zip(batch, counts.tolist(), strict=True)
        )
        assert add(roomy, batch)[0].tolist() == [min(ever[key], limit) for key in batch]


@given(BATCHES, st.integers(1, 12), st.sampled_from([None, 100]), st.data())
@settings(max_examples=150, deadline=None)
def test_undo_newest_first_leaves_no_trace(batches, capacity, decay_every, data):
    sketch = CountingSketch(SketchSpec(capacity, 0.3, decay_every), 2)
    states, logs = [content(sketch)], []
    for batch in batches:
        logs.append(add(sketch, batch)[1])
        states.append(content(sketch))
    for _ in range(data.draw(st.integers(0, len(batches)))):
        states.pop()
        sketch.undo(logs.pop())
        assert content(sketch) == states[-1]
    again = [add(sketch, batch)[0].tolist() for batch in batches]
    fresh = CountingSketch(SketchSpec(capacity, 0.3, decay_every), 2)
    for batch in batches[: len(logs)]:
        add(fresh, batch)
    assert again == [add(fresh, batch)[0].tolist() for batch in batches]


def test_undo_of_a_large_batch_whose_keys_share_counters():
    sketch = CountingSketch(SketchSpec(1400, 0.3), 2)  # room for both batches: the generation stays
    sketch.add(random_keys(300, 5), np.arange(1, 301, dtype=np.int32) % 7 + 1, 1200)
    before = content(sketch)
    _, log = sketch.add(random_keys(1001, 6), np.arange(1, 1002, dtype=np.int32) % 5 + 1, 3000)
    assert content(sketch) != before
    assert log.dropped is None
    sketch.undo(log)
    assert content(sketch) == before


@pytest.mark.parametrize("rate", [0.1, 0.01, 0.001])
def test_false_positives_at_capacity_are_as_rare_as_asked(rate):
    """At capacity, 100,000 other keys: within 4 standard errors and the hashes' rounding."""
    keys = np.random.default_rng(0).permutation(random_keys(120_000, 0))
    sketch = CountingSketch(SketchSpec(20_000, rate), 3)
    sketch.add(keys[:20_000], np.ones(20_000, np.int32), 20_000)
    wrong = 0
    for others in np.split(keys[20_000:], 1000):
        counts, log = sketch.add(others, np.ones(100, np.int32), 100)
        sketch.undo(log)
        wrong += np.count_nonzero(counts > 1)
    assert wrong / 100_000 < 1.1 * rate + 4 * (rate / 100_000) ** 0.5


def test_size_is_the_published_one():
    spec = SketchSpec(1_000_000, 0.01)
    assert spec.num_counters == 9_585_059  # ⌈4.60517 / 0.480453 · 10⁶⌉
    assert spec.hashes == 7
    assert SketchSpec(1000, 0.5).hashes == 1
    sketch = CountingSketch(spec)
    assert 2 * spec.num_counters <= sketch.nbytes() <= 2 * spec.num_counters + 64
    wide = CountingSketch(SketchSpec(1_000_000, 0.01, max_count=256))
    assert 4 * spec.num_counters <= wide.nbytes() <= 4 * spec.num_counters + 64


def test_memory_stays_and_the_error_too_whatever_the_number_of_keys():
    """Keys seen once, a hundred times the capacity: the same size, 2 % at most miscounted."""
    sketch = CountingSketch(SketchSpec(2_000, 0.01), 4)
    size, wrong = sketch.nbytes(), 0
    keys = random_keys(200_000, 1)
    for part in np.array_split(keys, 400):
        counts, _ = sketch.add(part, np.ones(len(part), np.int32), len(part))
        wrong += np.count_nonzero(counts > 1)
    assert sketch.nbytes() == size == sum(array.nbytes for array in sketch.arrays().values())
    assert wrong / len(keys) < 0.02


def test_what_is_not_seen_again_is_forgotten_after_two_generations():
    sketch = CountingSketch(SketchSpec(1000, 0.001, decay_every=100), 5)
    assert add(sketch, {7: 4}, events=60)[0].tolist() == [4]
    assert add(sketch, {7: 1}, events=40)[0].tolist() == [5]
    assert add(sketch, {7: 1}, events=100)[0].tolist() == [
        6
    ]  # its first generation is the previous one now
    assert add(sketch, {7: 1}, events=100)[0].tolist() == [2]  # the first is forgotten
    for _ in range(2):
        add(sketch, {8: 1}, events=100)
    assert add(sketch, {7: 1}, events=1)[0].tolist() == [1]


def test_a_generation_ends_with_its_capacity_where_no_clock_ends_it():
    sketch = CountingSketch(SketchSpec(100, 0.001), 6)
    endings = []
    for part in np.split(random_keys(1000, 2), 100):
        endings.append(sketch.add(part, np.ones(10, np.int32), 10)[1].dropped is not None)
    assert sum(endings) == 9
    assert endings.index(True) == 10


def test_coverage_is_the_share_of_events_that_is_remembered():
    sketch = CountingSketch(SketchSpec(1000, decay_every=100), 7)
    assert sketch.coverage == 1
    seen = []
    for _ in range(4):
        add(sketch, {1: 1}, events=100)
        seen.append(sketch.coverage)
    assert seen == [1, 1, 2 / 3, 2 / 4]


@pytest.mark.parametrize(("max_count", "limit"), [(255, 255), (256, 65_535)])
def test_counters_stop_at_their_limit(max_count, limit):
    sketch = CountingSketch(SketchSpec(10, max_count=max_count), 8)
    for expected in (limit - 5, limit, limit):
        assert add(sketch, {1: limit - 5})[0].tolist() == [expected]


def test_conservative_update_spares_a_rare_key_its_neighbours():
    """At capacity keys share counters; conservative updates keep nearly all counts exact."""
    sketch = CountingSketch(SketchSpec(200, 0.05), 9)
    rare = random_keys(200, 3)
    sketch.add(rare, np.ones(len(rare), np.int32), 200)
    counts, _ = sketch.add(rare, np.ones(len(rare), np.int32), 200)
    assert (counts >= 2).all()
    assert counts.sum() <= 2 * len(rare) * 1.03


def test_the_same_calls_give_the_same_bytes_and_another_seed_other_ones():
    def filled(seed):
        sketch = CountingSketch(SketchSpec(500), seed)
        sketch.add(random_keys(400, 4), np.ones(400, np.int32), 400)
        return content(sketch)

    assert filled(1) == filled(1)
    assert filled(1)["current"] != filled(2)["current"]


def test_content_survives_a_checkpoint():
    old = CountingSketch(SketchSpec(50, decay_every=120), 10)
    for seed in range(4):
        old.add(random_keys(50, seed), np.ones(50, np.int32), 50)
    new = CountingSketch(SketchSpec(50, decay_every=120), 10)
    new.load({name: array.copy() for name, array in old.arrays().items()})
    for seed in range(2, 6):
        keys = random_keys(50, seed)
        assert (
            old.add(keys, np.ones(50, np.int32), 50)[0].tolist()
            == new.add(keys, np.ones(50, np.int32), 50)[0].tolist()
        )
    assert content(old) == content(new)


def test_what_is_loaded_is_a_copy():
    old, new = (CountingSketch(SketchSpec(50), 10) for _ in range(2))
    new.load(old.arrays())
    add(new, {1: 1})
    assert add(old, {1: 1})[0].tolist() == [1]


@pytest.mark.parametrize("other", [SketchSpec(51), SketchSpec(50, max_count=300)])
def test_a_sketch_of_another_spec_is_refused(other):
    with pytest.raises(InputError, match="spec that it was saved with"):
        CountingSketch(other).load(CountingSketch(SketchSpec(50)).arrays())
    with pytest.raises(InputError, match="'clock'"):
        CountingSketch(SketchSpec(50)).load(
            {
                name: a
                for name, a in CountingSketch(SketchSpec(50)).arrays().items()
                if name != "clock"
            }
        )


def test_no_key_is_a_batch():
    sketch = CountingSketch(SketchSpec(10))
    counts, log = add(sketch, {}, events=5)
    assert len(counts) == 0
    sketch.undo(log)
    assert content(sketch) == content(CountingSketch(SketchSpec(10)))


WRONG = [
    {"capacity": 0},
    {"false_positive_rate": 0},
    {"false_positive_rate": 1},
    {"max_count": 0},
    {"max_count": 65_536},
]
WRONG += [{"decay_every": 0}, {"capacity": 10**10}]


@pytest.mark.parametrize("numbers", WRONG, ids=str)
def test_numbers_out_of_range_are_refused(numbers):
    with pytest.raises(InputError, match="give"):
        SketchSpec(**numbers)
