"""The replay against a dictionary, and on Zipf traffic against the published table."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elastic_embeddings.admission.policies import (
    AlwaysAdmit,
    ByField,
    CountAdmission,
    PoissonAdmission,
    SketchAdmission,
)
from elastic_embeddings.admission.rate_models import GammaPrior, PlugInRate
from elastic_embeddings.admission.replay import OFFLINE, explain, traffic
from elastic_embeddings.admission.sketch import SketchSpec
from elastic_embeddings.core.ragged import Ragged
from features.errors import InputError

EVENTS, IDS, WORTH = 1_000_000, 200_000, 10


def int64(values):
    return np.array(values, np.int64)


def lines_of(lines, policy):
    """Field → line, None for all fields."""
    return {line.field: line for line in lines if line.policy == policy}


def figures(line):
    return line.events, line.keys, line.rows, line.trained


def count_admission_by_hand(keys, batch_size, threshold):
    """Rows and trained events of one field, with a dictionary."""
    counts, rows, trained = Counter(), set(), 0
    for start in range(0, len(keys), batch_size):
        batch = keys[start : start + batch_size]
        counts.update(batch)
        rows |= {key for key in batch if counts[key] >= threshold}
        trained += sum(key in rows for key in batch)
    return rows, trained


@given(
    st.lists(st.integers(-4, 4), min_size=1, max_size=60),
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(1, 5),
)
@settings(max_examples=150, deadline=None)
def test_one_field_equals_a_dictionary(keys, batch_size, threshold, worth):
    kept = {key for key, count in Counter(keys).items() if count >= worth}
    rows, trained = count_admission_by_hand(keys, batch_size, threshold)
    lines = explain(
        traffic({"ad": int64(keys)}, batch_size), {"mine": CountAdmission(threshold)}, worth
    )
    offline, mine = lines_of(lines, OFFLINE), lines_of(lines, "mine")
    events, distinct = len(keys), len(set(keys))
    assert figures(offline["ad"]) == (events, distinct, len(kept), sum(key in kept for key in keys))
    assert figures(mine["ad"]) == figures(mine[None]) == (events, distinct, len(rows), trained)
    assert mine["ad"].share_trained == trained / events
    for value, part, whole in (
        (mine["ad"].precision, rows & kept, rows),
        (mine["ad"].recall, rows & kept, kept),
    ):
        assert value == pytest.approx(len(part) / len(whole) if whole else math.nan, nan_ok=True)


def test_fields_are_counted_apart_and_lists_by_value():
    """Two impressions a batch. Keys of `tag` are lists; their third is empty."""
    tags = Ragged(int64([7, 8, 7, 9, 7]), int64([0, 2, 3, 3, 5]))
    stream = traffic({"ad": int64([1, 1, 1, 2]), "tag": tags}, 2)
    assert stream.events_by_field() == {"ad": 4, "tag": 5}
    lines = lines_of(explain(stream, {"two": CountAdmission(2)}, min_count=3), "two")
    assert figures(lines["ad"]) == (4, 2, 1, 3)
    assert figures(lines["tag"]) == (5, 3, 1, 3)
    assert figures(lines[None]) == (9, 5, 2, 6)
    assert lines[None].precision == lines[None].recall == 1


def test_fields_that_share_a_vocabulary_share_their_counts():
    """Key 5 occurs as `liked` and as `shown`: twice in all; its row belongs to the first field."""
    stream = traffic({"liked": int64([5, 6]), "shown": int64([7, 5])}, 1)
    lines = lines_of(explain(stream, {"two": CountAdmission(2)}, min_count=2), "two")
    assert figures(lines["liked"]) == (2, 2, 1, 0)
    assert figures(lines["shown"]) == (2, 1, 0, 1)


def test_each_field_has_its_policy():
    stream = traffic({"ad": int64([1, 2, 1]), "user": int64([10, 11, 12])}, 1)
    policy = ByField({"user": AlwaysAdmit()}, otherwise=CountAdmission(2))
    lines = lines_of(explain(stream, {"mixed": policy}, min_count=2), "mixed")
    assert (lines["ad"].rows, lines["user"].rows) == (1, 3)
    with pytest.raises(InputError, match="usr"):
        explain(stream, {"wrong": ByField({"usr": AlwaysAdmit()}, AlwaysAdmit())}, min_count=2)


def test_each_field_has_its_own_clock():
    """Fields of 40 and 400 events: one early occurrence means more in the shorter field."""
    ads = int64([1, 2, 1, *range(100, 137)])
    tags = np.arange(1000, 1400)
    policy = PoissonAdmission(
        3, until=60, prior=GammaPrior(0.5, 1), threshold_only=True, sketch=None
    )
    stream = traffic({"ad": ads, "tag": Ragged(tags, np.arange(41) * 10)}, 1)
    lines = lines_of(explain(stream, {"poisson": policy}, min_count=3), "poisson")
    expected = [
        admitted_by_hand(keys, policy) for keys in (ads.reshape(40, 1), tags.reshape(40, 10))
    ]
    assert [lines["ad"].rows, lines["tag"].rows] == [len(rows) for rows in expected]
    assert 0 < len(expected[0]) < 39
    assert 0 < len(expected[1]) < 400


def admitted_by_hand(batches, policy):
    """The keys with p > ½ at the end of any batch in which they were sighted."""
    counts, events, rows = Counter(), 0, set()
    for batch in batches.tolist():
        counts.update(batch)
        events += len(batch)
        rows |= {
            key
            for key in batch
            if policy.probability(int64([counts[key]]), int64([events]))[0] > 0.5
        }
    return rows


def test_a_small_sketch_forgets_and_a_large_one_counts_like_a_dictionary():
    rng = np.random.default_rng(0)
    stream = traffic({"ad": rng.integers(0, 2000, 20_000)}, 50)
    policies = {
        "exact": CountAdmission(5),
        "large": SketchAdmission(5, 10_000),
        "small": SketchAdmission(5, 100),
    }
    lines = explain(stream, policies, min_count=5)
    exact, large, small = (lines_of(lines, name)[None] for name in policies)
    assert figures(large) == figures(exact)
    assert small.rows < 0.2 * exact.rows


def test_the_same_seed_gives_the_same_rows():
    stream = traffic({"ad": np.random.default_rng(0).zipf(1.5, 3000)}, 10)
    policy = {"poisson": PoissonAdmission(5, until=3000, sketch=SketchSpec(1000))}
    assert (
        explain(stream, policy, 5, seed=1)
        == explain(stream, policy, 5, seed=1)
        != explain(stream, policy, 5, seed=2)
    )


@pytest.mark.parametrize("columns", [{}, {"ad": int64([1]), "user": int64([1, 2])}])
def test_fields_of_different_length_are_refused(columns):
    with pytest.raises(InputError, match="same impressions"):
        traffic(columns, 1)


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(InputError, match="at least 1"):
        traffic({"ad": int64([1])}, 0)


def test_no_impression_is_traffic_too():
    lines = explain(traffic({"ad": int64([])}, 5), {"all": AlwaysAdmit()}, 2)
    assert [figures(line) for line in lines] == [(0, 0, 0, 0)] * 4
    assert math.isnan(lines[0].share_trained)


def poisson(prior=None, threshold_only=False, sketch=None):
    return PoissonAdmission(
        WORTH, until=EVENTS, prior=prior, threshold_only=threshold_only, sketch=sketch
    )


PUBLISHED = {
    "counter n ≥ 10": (CountAdmission(10), 6_038, 1.000, 0.786),
    "counter n ≥ 2": (CountAdmission(2), 39_720, 0.152, 0.912),
    "plug-in": (poisson(PlugInRate()), 23_248, 0.260, 0.890),
    "Gamma .1, u": (poisson(GammaPrior(0.1, 0.1 * EVENTS)), 14_647, 0.412, 0.855),
    "Gamma .1, p > ½": (
        poisson(GammaPrior(0.1, 0.1 * EVENTS), threshold_only=True),
        9_065,
        0.666,
        0.842,
    ),
    "Gamma .3, u": (poisson(GammaPrior(0.3, 0.3 * EVENTS)), 9_872, 0.612, 0.833),
    "Gamma .3, p > ½": (
        poisson(GammaPrior(0.3, 0.3 * EVENTS), threshold_only=True),
        7_130,
        0.847,
        0.824,
    ),
}
"""Rule → policy, and the table's rows, precision and share of events trained."""

SKETCHED = {
    "sketch n ≥ 10": SketchAdmission(10, capacity=100_000),
    "sketch, Gamma .3, u": poisson(sketch=SketchSpec(100_000)),
}


@pytest.fixture(scope="module")
def zipf_table():
    """Rule → line, on Zipf(1.1) over 200,000 ids, 1 M events in batches of 128."""
    weights = np.arange(1, IDS + 1) ** -1.1
    law = np.cumsum(weights) / weights.sum()
    keys = np.searchsorted(law, np.random.default_rng(0).random(EVENTS)).astype(np.int64)
    policies = {name: policy for name, (policy, *_) in PUBLISHED.items()}
    lines = explain(traffic({"id": keys}, 128), {**policies, **SKETCHED}, WORTH, seed=5)
    return {line.policy: line for line in lines if line.field is None}


@pytest.mark.slow
def test_the_offline_filter_keeps_what_was_published(zipf_table):
    offline = zipf_table[OFFLINE]
    assert offline.keys == pytest.approx(88_031, rel=0.01)
    assert offline.rows == pytest.approx(6_038, rel=0.01)
    assert offline.share_trained == pytest.approx(0.840, abs=0.002)


@pytest.mark.parametrize("rule", PUBLISHED)
def test_every_rule_gives_its_published_line(zipf_table, rule):
    """With other draws: rows within 5 %, precision 0.02, events trained 0.003; recall 1."""
    _, rows, precision, share = PUBLISHED[rule]
    line = zipf_table[rule]
    assert line.rows == pytest.approx(rows, rel=0.05)
    assert line.precision == pytest.approx(precision, abs=0.02)
    assert line.recall == 1
    assert line.share_trained == pytest.approx(share, abs=0.003)


@pytest.mark.parametrize("rule", ["Gamma .3, u", "sketch, Gamma .3, u"])
def test_gamma_poisson_is_near_the_offline_filter_and_the_others_are_not(zipf_table, rule):
    """Only these are within 0.01 of the offline filter's events on at most 1.7 times its rows."""

    def is_near(line):
        offline = zipf_table[OFFLINE]
        return (
            abs(line.share_trained - offline.share_trained) <= 0.01
            and line.rows <= 1.7 * offline.rows
        )

    assert is_near(zipf_table[rule])
    assert not any(
        is_near(zipf_table[other])
        for other in ("counter n ≥ 10", "counter n ≥ 2", "plug-in", "sketch n ≥ 10")
    )


@pytest.mark.parametrize(
    ("sketched", "exact"),
    [("sketch n ≥ 10", "counter n ≥ 10"), ("sketch, Gamma .3, u", "Gamma .3, u")],
)
def test_a_sketch_of_enough_capacity_changes_next_to_nothing(zipf_table, sketched, exact):
    assert zipf_table[sketched].rows == pytest.approx(zipf_table[exact].rows, rel=0.01)
    assert zipf_table[sketched].share_trained == pytest.approx(
        zipf_table[exact].share_trained, abs=0.001
    )
