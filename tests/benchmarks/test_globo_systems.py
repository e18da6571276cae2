"""The parts of the Globo benchmark: which files hold a day, fixed hashed rows, what is new, sizes,
kept variants, figures.
"""

import gzip
import json
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import globo_systems as fixed
import numpy as np
import pytest
from globo_systems import (
    COLUMNS,
    RELATED,
    VARIANTS,
    Day,
    Known,
    Run,
    columns,
    drawn,
    drawn_schema,
    figures,
    hourly_auc,
    kept,
    lines,
    plot_hours,
    recipe,
    run,
    schema_of,
    slices,
    stream_figures,
    with_gaps,
    within_share,
)
from harness.globo_files import files_of, moments, narrowed
from hypothesis import given
from hypothesis import strategies as st

from elastic_embeddings.optimizers.rules import GroupAdam
from elastic_embeddings.slabs.slab import SlabSpec
from elastic_embeddings.table import ElasticTable
from features.errors import InputError
from features.schema import Cross
from pipelines.config import load_config
from training.data.inputs import Inputs
from training.data.layout import FieldLayout

CONFIG = Path(__file__).resolve().parents[2] / "conf" / "globo.yaml"
DAY = date(2017, 10, 3)
KEYS = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=50)


def at(text):
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def chosen(times):
    config = load_config(CONFIG)
    return [
        path.name
        for path in files_of(
            {Path(n): np.array(t) for n, t in times.items()}, config.source, config.features, DAY
        )
    ]


@pytest.mark.parametrize(
    ("moment", "holds"),
    [
        ("2017-10-02T22:54:59.999", False),
        (
            "2017-10-02T22:55:00",
            True,
        ),  # the window before midnight, and the part of a slot that it begins in
        ("2017-10-03T00:00:00", True),
        ("2017-10-03T23:59:59.999", True),
        ("2017-10-04T00:00:00", False),
    ],
)
def test_a_file_is_read_if_it_holds_a_click_of_the_day_or_of_the_window_before(moment, holds):
    assert chosen({"a": [at(moment)]}) == (["a"] if holds else [])


def test_a_session_that_lasts_for_days_makes_its_file_one_of_the_later_day():
    assert chosen(
        {
            "long": [at("2017-10-01T05:00:00"), at("2017-10-03T05:00:00")],
            "empty": [],
            "other": [at("2017-10-09")],
        }
    ) == ["long"]


def test_moments_are_read_from_the_files_that_the_source_names(tmp_path, monkeypatch):
    folder = tmp_path / "globo" / "clicks"
    folder.mkdir(parents=True)
    for number, rows in ((0, ["1,7"]), (1, ["1,5", "2,6"]), (2, [])):
        with gzip.open(folder / f"clicks_hour_{number:03}.csv.gz", "wt") as file:
            file.write("\n".join(["user_id,click_timestamp", *rows]) + "\n")
    monkeypatch.setenv("ELASTIC_CTR_DATA", str(tmp_path))
    got = moments(load_config(CONFIG), DAY)
    assert [values.tolist() for values in got.values()] == [[7], [5, 6], []]
    (folder / "clicks_hour_000.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(InputError, match=r"clicks_hour_000.*replace the file"):
        moments(load_config(CONFIG), DAY)


def test_absent_data_is_said_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("ELASTIC_CTR_DATA", str(tmp_path))
    with pytest.raises(InputError, match="ELASTIC_CTR_DATA"):
        moments(load_config(CONFIG), DAY)


def test_a_narrowed_configuration_differs_in_its_files_alone():
    config = load_config(CONFIG)
    got = narrowed(config, [Path("/x/a.csv.gz"), Path("/x/b.csv.gz")])
    assert got.source.path == ("/x/a.csv.gz", "/x/b.csv.gz")
    assert got.model_copy(update={"source": config.source}) == config


def splitmix64(key):
    """The finaliser in Python integers."""
    z, mask = (key + 0x9E3779B97F4A7C15) % 2**64, 2**64 - 1
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
    return z ^ z >> 31


@given(KEYS, st.integers(1, 10**7))
def test_a_hashed_row_is_splitmix_modulo_the_rows(keys, rows):
    got = fixed.hashed_keys(np.array([keys], np.int64), rows)
    assert got.dtype == np.int64
    assert got.tolist() == [[splitmix64(key % 2**64) % rows for key in keys]]


def test_ids_share_rows_as_often_as_chance_says():
    ids, rows = 40_000, 50_000
    used = len(np.unique(fixed.hashed_keys(np.arange(ids)[:, None], rows)))
    assert used == pytest.approx(rows * (1 - np.exp(-ids / rows)), rel=0.01)


def test_hashing_changes_keys_alone():
    day = next(drawn(1, drawn_schema(), rows=60))
    got = fixed.hashed(day.inputs, 7)
    assert set(got.keys.ravel().tolist()) <= set(range(7))
    assert replace(got, keys=day.inputs.keys) == day.inputs


def table_of(ids):
    table = ElasticTable(
        {"wide": SlabSpec(1, GroupAdam()), "deep": SlabSpec(16, GroupAdam())}, device="host"
    )
    batch = table.prepare(np.arange(ids, dtype=np.int64))
    table.apply_gradients(
        batch,
        {name: np.ones((ids, slab.spec.dim), np.float32) for name, slab in table.slabs.items()},
    )
    return table


@pytest.mark.slow
def test_bytes_of_a_row_are_its_weights_and_state_by_hand():
    slots = len(GroupAdam().slot_names)
    assert fixed.row_bytes(table_of(3)) == (1 + 16) * 4 * (1 + slots)


def test_a_fixed_table_holds_more_rows_in_the_same_bytes_as_it_needs_no_index():
    table = table_of(5000)
    size = fixed.Size.of(table)
    statistics = table.statistics()
    assert size == fixed.Size(
        5000, statistics.index_bytes + statistics.weight_bytes + statistics.slot_bytes
    )
    rows = fixed.rows_within(size.bytes, table)
    assert rows > 5000
    assert size.bytes - fixed.row_bytes(table) < rows * fixed.row_bytes(table) <= size.bytes
    assert fixed.rows_within(1, table) == 1


def test_a_size_grows_in_rows_and_bytes_apart():
    assert fixed.Size(3, 10).grown(fixed.Size(2, 20)) == fixed.Size(3, 20)


@given(st.lists(st.lists(st.integers(-5, 5), max_size=20), max_size=6))
def test_an_item_is_known_as_often_as_it_was_there_before(days):
    known, before = Known(), []
    for items in days:
        assert known.times(np.array(items, np.int64)).tolist() == [
            before.count(item) for item in items
        ]
        known.add(np.array(items, np.int64))
        before += items


def made_day(items, label, times_before, hour=None):
    count, nothing = len(items), np.zeros((len(items), 0), np.float32)
    inputs = Inputs(np.array(items)[:, None], (), nothing, nothing, np.array(label, np.float32))
    return Day(
        DAY,
        inputs,
        np.array(items),
        np.array(hour if hour is not None else [0] * count),
        np.array(times_before),
    )


def test_new_is_what_was_never_there_and_rare_what_was_there_fewer_than_ten_times():
    day = made_day([1, 2, 3, 4], [0, 1, 0, 1], [0, 1, 9, 10])
    assert day.new.tolist() == [True, False, False, False]
    assert day.rare.tolist() == [False, True, True, False]


def test_an_article_is_new_all_day_long_and_known_the_next():
    first, second = drawn(2, drawn_schema(), rows=3000)
    assert first.new.all()
    assert second.new.tolist() == (~np.isin(second.item, first.item)).tolist()
    assert 0 < second.new.mean() < 1


@given(KEYS)
def test_every_user_is_of_the_whole_and_none_leaves_as_the_share_grows(keys):
    keys = np.array(keys, np.int64)
    assert within_share(keys, 1.0).all()
    assert not np.any(within_share(keys, 0.2) & ~within_share(keys, 0.5))


def test_a_share_of_users_is_that_share():
    assert within_share(np.arange(100_000), 0.25).mean() == pytest.approx(0.25, abs=0.01)


def test_an_variant_without_crosses_reads_the_other_columns():
    schema = drawn_schema()
    part, day = schema_of(VARIANTS["relations"], schema), next(drawn(1, schema, rows=20))
    got = columns(day.inputs, schema, part)
    assert not any(isinstance(field, Cross) for field in part.fields)
    np.testing.assert_array_equal(got.keys, day.inputs.keys[:, :-1])
    assert columns(day.inputs, schema, schema_of(VARIANTS["elastic"], schema)) == replace(
        day.inputs, keys=pytest.approx(day.inputs.keys)
    )


def test_variants_differ_in_what_they_say_and_nothing_else():
    schema = drawn_schema()
    made = {name: recipe(variant, schema, 17, 512) for name, variant in VARIANTS.items()}
    base = made["elastic"]
    assert (base.model.deep.beta_1, base.model.wide.beta_2, base.model.hidden) == (0.0, 0.99, (64,))
    assert {name for name, other in made.items() if other.training != base.training} == {
        "small",
        "daily",
        "daily_hashed",
    }
    assert {name for name, other in made.items() if other.model != base.model} == {
        "relations",
        "usual_betas",
    }
    assert {name for name, other in made.items() if other.schema != base.schema} == {
        "relations",
        "no_crosses",
    }
    assert made["relations"].model.relations.fields == RELATED


def test_crosses_of_the_real_configuration_are_of_related_fields():
    schema = load_config(CONFIG).features
    declared = [field for field in schema.fields if isinstance(field, Cross)]
    assert len(declared) == 2
    assert (
        {part for cross in declared for part in cross.of}
        < set(RELATED)
        <= set(FieldLayout.of(schema).singles)
    )


def test_the_day_is_sliced_by_its_hours_or_not_at_all():
    day = made_day([1] * 5, [0, 1, 0, 1, 0], [0] * 5, hour=[0, 0, 3, 3, 7])
    assert list(slices(day, "hour")) == [(0, 2), (2, 4), (4, 5)]
    assert list(slices(day, "day")) == [(0, 5)]


def learned(name, days, like=None):
    return run(VARIANTS[name], like, days, drawn_schema(), 17, 64, lambda _: None)


@pytest.fixture(scope="module")
def days():
    return list(drawn(2, drawn_schema(), rows=1200))


@pytest.fixture(scope="module")
def hourly(days):
    return learned("elastic", days)


def test_nothing_is_scored_before_something_is_learned(days, hourly):
    daily = learned("daily", days)
    assert np.isnan(daily.probability[0]).all()
    assert np.isnan(hourly.probability[0]).tolist() == (days[0].hour == 0).tolist()
    assert not np.isnan(daily.probability[1]).any()


def test_an_hour_is_scored_by_what_came_before_it(days, hourly):
    flipped = replace(
        days[1].inputs,
        label=np.where(days[1].hour >= 12, 1 - days[1].inputs.label, days[1].inputs.label),
    )
    other = learned("elastic", [days[0], replace(days[1], inputs=flipped)])
    same = hourly.probability[1] == other.probability[1]
    assert same[days[1].hour <= 12].all()
    assert not same[days[1].hour > 12].all()


def test_the_same_seed_gives_the_same_probabilities(days, hourly):
    again = learned("elastic", days)
    np.testing.assert_array_equal(
        np.concatenate(again.probability), np.concatenate(hourly.probability)
    )


def test_a_fixed_table_has_the_size_that_it_goes_by(days, hourly):
    fixed_run = learned("hashed", days, hourly.size)
    assert hourly.size.bytes * 0.99 < fixed_run.size.bytes <= hourly.size.bytes
    assert fixed_run.size.rows > hourly.size.rows > fixed_run.touched[-1]
    assert (
        learned("hashed_rows", days, hourly.size).size.rows
        == hourly.size.rows
        == hourly.touched[-1]
    )


def test_a_kept_variant_is_read_and_not_made_again(tmp_path):
    first = Run([np.array([0.5, np.nan], np.float32)], fixed.Size(3, 40), [2], 7, 1.5, 2)
    assert kept(tmp_path, "arm", ["told", 1], lambda: first) is first
    read = kept(tmp_path, "arm", ["told", 1], lambda: pytest.fail("made twice"))
    np.testing.assert_array_equal(read.probability.pop(), first.probability.pop())
    assert read == first
    other = Run()
    assert kept(tmp_path, "arm", ["told", 2], lambda: other) is other


def test_figures_by_hand():
    days = [made_day([1], [1], [0]), made_day([1, 2, 2, 1], [1, 0, 1, 0], [1, 0, 0, 1])]
    given_run = Run(
        [np.array([np.nan], np.float32), np.array([0.9, 0.4, 0.3, 0.2], np.float32)],
        fixed.Size(8, 99),
        [1, 2],
        5,
        2.0,
        5,
    )
    got = figures(given_run, days)
    assert (got["auc"], got["auc_new"], got["auc_rare"]) == (0.75, 0.0, 1.0)
    assert got["auc_by_day"] == {"2017-10-03": 0.75}
    assert got["log_loss"] == pytest.approx(-np.log([0.9, 0.6, 0.3, 0.8]).mean(), abs=1e-5)
    assert (got["rows"], got["bytes"], got["dense_bytes"], got["examples_per_s"]) == (8, 99, 5, 2)
    assert lines({"arm": got}) == [
        ("arm", "0.75", "0.0", "1.0", str(got["log_loss"]), "8", "99", "2")
    ]
    assert len(COLUMNS) == len(lines({"arm": got})[0]) - 1


def test_an_undefined_figure_is_null_in_strict_json():
    days = [made_day([1], [1], [0]), made_day([1, 2], [1, 0], [10, 10])]
    got = figures(Run([np.zeros(1, np.float32), np.array([0.9, 0.4], np.float32)]), days)
    assert (got["auc_new"], got["auc_rare"], got["examples_per_s"]) == (None, None, None)
    json.dumps(got, allow_nan=False)


def test_the_stream_is_told_by_day():
    days = [made_day([1], [1], [0]), made_day([1, 2, 3, 4], [1, 0, 0, 0], [1, 0, 10, 10])]
    got = stream_figures(days)
    assert (got["judged_impressions"], got["share_new"], got["share_rare"]) == (4, 0.25, 0.25)
    assert got["impressions"] == {"2017-10-03": 4}


def test_an_hour_with_few_impressions_has_no_point(tmp_path):
    label = [0, 1] * 300
    day = made_day([1] * 620, label + [0, 1] * 10, [1] * 620, hour=[4] * 600 + [5] * 20)
    right = day.inputs.label
    assert hourly_auc(day, right) == [(4, 1.0)]
    path = plot_hours(
        [day, day],
        {"one": [right, right], "other": [right, 1 - right]},
        tmp_path / "new" / "hours.png",
    )
    assert path.read_bytes().startswith(b"\x89PNG")


def test_no_line_is_drawn_over_hours_without_impressions():
    hours = [datetime(2017, 10, 5, hour, 30, tzinfo=UTC) for hour in (3, 4, 13, 14)]
    points = [*with_gaps(list(zip(hours, [0.1, 0.2, 0.3, 0.4], strict=True)))]
    assert [moment.hour for moment, _ in points] == [3, 4, 5, 13, 14]
    assert np.isnan(points[2][1])
    assert list(with_gaps([])) == []
