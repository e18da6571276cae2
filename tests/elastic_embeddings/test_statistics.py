"""Statistics against plain Python, on tables small enough to count by hand and on random ones."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elastic_embeddings.pending import FieldCounters
from elastic_embeddings.statistics import (
    FREQUENCY_EDGES,
    HOTTEST,
    NORM_EDGES,
    HotKey,
    SlabSnapshot,
    TableSnapshot,
    summarise,
)
from elastic_embeddings.statistics_plot import plot_statistics

NAMES = ("user", "item", "never seen")


def snapshot_of(keys, counts, has_row, fields, norms, counters=None, names=NAMES, **changes):
    """`norms` by slab, of the admitted keys in order; a row is zero where its norm is."""
    slabs = {}
    for name, values in norms.items():
        array = np.array(values, np.float32)
        slabs[name] = SlabSnapshot(
            array, array == 0, row_bytes=100, weight_bytes=1000, slot_bytes=3000
        )
    arrays = (
        np.array(keys, np.int64),
        np.array(counts, np.int32),
        np.array(has_row, np.bool_),
        np.array(fields, np.int16),
    )
    return TableSnapshot(
        *arrays,
        names,
        slabs,
        counters or FieldCounters.zeros(len(names)),
        **{"index_bytes": 60, "sketch_bytes": 7} | changes,
    )


@pytest.fixture
def by_hand():
    counters = FieldCounters(
        *(np.array(values) for values in ([20, 5, 0], [10, 4, 0], [3, 1, 0], [1, 0, 0], [0, 2, 0]))
    )
    norms = {"wide": [0, 0, 0.5], "deep": [0, 2.0, 0.25]}
    return snapshot_of([7, -1, 8, 9], [9, 1, 2, 3], [1, 0, 1, 1], [0, 0, 1, 0], norms, counters)


def test_a_table_counted_by_hand(by_hand):
    table = summarise(by_hand)
    assert (table.rows, table.keys_seen, table.zero_rows) == (3, 4, 1)
    assert (table.events, table.rejected, table.hit_rate) == (25, 11, 14 / 25)
    assert (table.admitted, table.evicted, table.revived) == (4, 1, 2)
    assert (table.index_bytes, table.weight_bytes, table.slot_bytes, table.sketch_bytes) == (
        60,
        2000,
        6000,
        7,
    )
    assert table.bytes == 60 + 2000 + 6000 + 7
    assert table.hottest == (
        HotKey(7, "user", 9),
        HotKey(9, "user", 3),
        HotKey(8, "item", 2),
        HotKey(-1, "user", 1),
    )


def test_fields_counted_by_hand(by_hand):
    user, item, never = summarise(by_hand).fields.values()
    assert (user.rows, user.keys_seen, user.zero_rows) == (2, 3, 1)
    assert (user.events, user.rejected, user.hit_rate) == (20, 10, 0.5)
    assert (user.admitted, user.evicted, user.revived) == (3, 1, 0)
    assert user.bytes == 2 * 200 + 45  # two rows of both slabs, three quarters of the index
    assert user.hottest == (HotKey(7, "user", 9), HotKey(9, "user", 3), HotKey(-1, "user", 1))
    assert (item.rows, item.zero_rows, item.hit_rate, item.bytes) == (1, 0, 0.8, 200 + 15)
    assert (never.rows, never.events, never.hit_rate, never.bytes, never.hottest) == (
        0,
        0,
        0.0,
        0,
        (),
    )


def filled(histogram):
    """Bin → count of the bins that hold something, by lower edge."""
    return {
        edge: count for edge, count in zip(histogram.edges, histogram.counts, strict=False) if count
    }


def quarters(histogram):
    """The same by 4 log10 of the lower edge."""
    return {round(4 * np.log10(edge)): count for edge, count in filled(histogram).items()}


def test_histograms_counted_by_hand(by_hand):
    table = summarise(by_hand)
    assert filled(table.frequencies) == {8: 1, 1: 1, 2: 2}
    assert filled(table.fields["item"].frequencies) == {2: 1}
    assert quarters(table.norms["wide"]) == {-2: 1}  # 10^-0.5 <= 0.5 < 10^-0.25
    assert quarters(table.norms["deep"]) == {
        1: 1,
        -3: 1,
    }  # 10^0.25 <= 2 < 10^0.5, 10^-0.75 <= 0.25 < 10^-0.5
    assert quarters(table.fields["user"].norms["wide"]) == {-2: 1}
    assert len(table.frequencies.edges) == len(table.frequencies.counts) + 1


def test_values_outside_the_edges_are_counted_in_the_bins_at_the_ends():
    table = summarise(
        snapshot_of(
            [1, 2, 3], [2**31 - 1, 1, 1], [1, 1, 1], [0, 0, 0], {"deep": [1e-30, 1e30, np.inf]}
        )
    )
    assert table.norms["deep"].counts[0] == 1
    assert table.norms["deep"].counts[-1] == 2
    assert filled(table.frequencies) == {2**30: 1, 1: 2}


@st.composite
def random_parts(draw):
    seed, size, fields = (
        draw(st.integers(0, 2**32 - 1)),
        draw(st.integers(0, 300)),
        draw(st.integers(1, 5)),
    )
    rng = np.random.default_rng(seed)
    has_row = rng.random(size) < 0.6
    rows = int(has_row.sum())
    norms = {
        slab: np.where(rng.random(rows) < 0.3, 0, rng.lognormal(0, 9, rows))
        for slab in ("wide", "deep")
    }
    keys = rng.permutation(10 * size)[:size] - size
    counts = rng.integers(
        1, draw(st.sampled_from([2, 5, 2**31 - 1])), size
    )  # many equals, few, none
    return snapshot_of(
        keys,
        counts,
        has_row,
        rng.integers(0, fields, size),
        norms,
        names=tuple(f"f{i}" for i in range(fields)),
    )


def hottest_of(parts, field=None):
    triples = zip(parts.keys.tolist(), parts.fields.tolist(), parts.counts.tolist(), strict=True)
    chosen = [
        HotKey(key, parts.field_names[code], count)
        for key, code, count in triples
        if field in (None, code)
    ]
    return tuple(sorted(chosen, key=lambda hot: (-hot.count, hot.key))[:HOTTEST])


@given(random_parts())
@settings(max_examples=60, deadline=None)
def test_any_table_against_plain_python(parts):
    table = summarise(parts)
    assert table.hottest == hottest_of(parts)
    seen, rows = Counter(parts.fields.tolist()), Counter(parts.fields[parts.has_row].tolist())
    zero = parts.slabs["wide"].zero & parts.slabs["deep"].zero
    for code, name in enumerate(parts.field_names):
        field = table.fields[name]
        assert (field.keys_seen, field.rows) == (seen[code], rows[code])
        assert field.zero_rows == int((zero & (parts.fields[parts.has_row] == code)).sum())
        assert field.hottest == hottest_of(parts, code)
        expected = Counter(
            int(np.log2(count)) for count in parts.counts[parts.fields == code].tolist()
        )
        assert Counter({i: n for i, n in enumerate(field.frequencies.counts) if n}) == expected


@given(random_parts())
@settings(max_examples=30, deadline=None)
def test_the_fields_add_up_to_the_table(parts):
    table = summarise(parts)
    for name in (
        "rows",
        "keys_seen",
        "zero_rows",
        "events",
        "rejected",
        "admitted",
        "evicted",
        "revived",
    ):
        assert getattr(table, name) == sum(getattr(field, name) for field in table.fields.values())
    assert table.keys_seen == len(parts.keys) == sum(table.frequencies.counts)
    for slab in ("wide", "deep"):
        assert sum(table.norms[slab].counts) == table.rows - int(parts.slabs[slab].zero.sum())
        added = np.sum([field.norms[slab].counts for field in table.fields.values()], axis=0)
        assert table.norms[slab].counts == tuple(added.tolist())


def test_large_tables_are_counted_in_parts():
    size = 3 * 2**20 // 2
    counts = np.where(np.arange(size) % 3 == 0, 1, 70).astype(np.int32)
    fields = (np.arange(size) % 2).astype(np.int16)
    parts = snapshot_of(np.arange(size), counts, np.zeros(size, bool), fields, {"deep": []})
    table = summarise(parts)
    assert filled(table.frequencies) == {1: size // 3, 64: size - size // 3}
    assert table.fields["user"].hottest[0] == HotKey(2, "user", 70)


def test_metrics_have_names_that_a_tracker_takes_and_every_figure(by_hand):
    metrics = summarise(by_hand).as_metrics()
    assert metrics["table.rows"] == 3.0
    assert metrics["table.index_bytes"] == 60.0
    assert metrics["field.user.hit_rate"] == 0.5
    assert metrics["field.never_seen.rows"] == 0.0
    assert all(isinstance(value, float) and np.isfinite(value) for value in metrics.values())
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_.-") for name in metrics)
    assert len(metrics) == 14 + 3 * 10


def test_json_holds_everything(by_hand, tmp_path):
    table = summarise(by_hand)
    table.write_json(tmp_path / "statistics.json")
    found = json.loads((tmp_path / "statistics.json").read_text())
    assert found["rows"] == 3
    assert found["fields"]["user"]["hottest"][0] == {"key": 7, "field": "user", "count": 9}
    assert found["norms"]["deep"]["edges"] == NORM_EDGES.tolist()
    assert found["frequencies"]["edges"] == FREQUENCY_EDGES.tolist()


def coloured(path):
    """The share of the pixels that are neither white nor grey."""
    from matplotlib.image import imread

    pixels = imread(path)[..., :3]
    return float((pixels.max(axis=2) - pixels.min(axis=2) > 0.2).mean())


@pytest.mark.slow
def test_the_plot_shows_the_table(by_hand, tmp_path):
    path = plot_statistics(summarise(by_hand), tmp_path / "new" / "table.png")
    empty = plot_statistics(
        summarise(snapshot_of([], [], [], [], {"deep": []})), tmp_path / "empty.png"
    )
    assert path == tmp_path / "new" / "table.png"
    assert coloured(path) > 4 * coloured(empty)


@pytest.mark.parametrize("fields", [1, 40])
def test_the_plot_takes_one_field_and_more_than_it_shows(fields, tmp_path):
    names = tuple(f"field_{i}" for i in range(fields))
    many = snapshot_of(
        np.arange(80),
        np.ones(80),
        np.ones(80, bool),
        np.arange(80) % fields,
        {"deep": np.ones(80)},
        names=names,
    )
    assert plot_statistics(summarise(many), tmp_path / "many.png").stat().st_size > 10_000
