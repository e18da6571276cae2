"""The figures behind the data gate, by hand, without Great Expectations."""

import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import InputError
from features.schema import Schema
from validation.data.checks import Aggregates, data_checks, read_aggregates
from validation.settings import DataGateSettings

SCHEMA = Schema.model_validate(
    {
        "label": "click",
        "user": "uid",
        "item": "iid",
        "timestamp": {"column": "ts"},
        "fields": [
            {"kind": "categorical", "name": "city"},
            {"kind": "numeric", "name": "age", "transform": "buckets", "boundaries": [18, 40]},
        ],
    }
)


def day(**metrics):
    counts = {"rows_in": 5000, "rows_kept": 4900, "rows_quarantined": 100, "ctr": 0.2} | metrics
    return Aggregates({("", name): value for name, value in counts.items()})


def check(name, aggregates, history=(), settings=None):
    checks = data_checks(aggregates, history, SCHEMA, settings or DataGateSettings())
    return {c.name: c for c in checks}[name]


def test_the_checks_come_in_the_order_of_the_report():
    names = [c.name for c in data_checks(day(), [day()], SCHEMA, DataGateSettings())]
    whole = ["rows_kept", "rows_unaccounted", "quarantined_share", "ctr", "rows_ratio"]
    assert names == [
        *whole,
        "city.null_share",
        "age.null_share",
        "age.unreadable_share",
        "age.not_finite",
    ]


def test_shares_and_ratios_by_hand():
    assert check("quarantined_share", day()).value == 0.02
    assert check("rows_ratio", day(), [day(rows_kept=1000), day(rows_kept=3000)]).value == 2.45
    assert check("rows_unaccounted", day(rows_quarantined=40)).value == 60


def test_the_ratio_has_a_limit_on_both_sides():
    settings = DataGateSettings(max_rows_ratio=4)
    ratio = check("rows_ratio", day(), [day()], settings)
    assert (ratio.low, ratio.high) == (0.25, 4)
    history = [day(rows_kept=1000)]
    passed = {
        n: check("rows_ratio", day(rows_kept=n), history, settings).passed
        for n in (249, 250, 4000, 4001)
    }
    assert passed == {249: False, 250: True, 4000: True, 4001: False}


@given(st.integers(1, 10**9), st.integers(0, 10**9))
def test_every_record_is_kept_or_quarantined(kept, quarantined):
    balanced = day(rows_in=kept + quarantined, rows_kept=kept, rows_quarantined=quarantined)
    assert check("rows_unaccounted", balanced).passed
    lost = day(rows_in=kept + quarantined + 1, rows_kept=kept, rows_quarantined=quarantined)
    assert not check("rows_unaccounted", lost).passed


@pytest.mark.parametrize("metric", ["rows_in", "rows_kept", "rows_quarantined"])
def test_a_missing_count_fails_what_is_made_of_it(metric):
    checks = data_checks(day(**{metric: math.nan}), [day()], SCHEMA, DataGateSettings())
    assert "rows_unaccounted" in {c.name for c in checks if not c.passed}


def test_a_history_of_empty_days_cannot_be_compared_with():
    assert not check("rows_ratio", day(), [day(rows_kept=0)]).passed


def test_an_average_with_one_unknown_day_is_unknown():
    assert not check("rows_ratio", day(), [day(), day(rows_kept=math.nan)]).passed


@pytest.mark.parametrize("broken", ["mean", "std", "min", "max"])
def test_each_bound_of_a_number_must_be_finite(broken):
    figures = {("age", m): 1.0 for m in ("mean", "std", "min", "max")} | {
        ("age", "null_share"): 0.0,
        ("age", "unreadable_share"): 0.0,
    }
    assert check("age.not_finite", Aggregates(figures)).value == 0
    assert check("age.not_finite", Aggregates(figures | {("age", broken): -math.inf})).value == 1


def test_a_field_that_is_partly_there_must_have_bounds():
    missing = {("age", m): math.nan for m in ("mean", "std", "min", "max")}
    there = {("age", "null_share"): 0.5, ("age", "unreadable_share"): 0.4}
    assert check("age.not_finite", Aggregates(missing | there)).value == 4
    assert (
        check("age.not_finite", Aggregates(missing | there | {("age", "null_share"): 0.6})).value
        == 0
    )
    thirds = {("age", "null_share"): 0.333333333333, ("age", "unreadable_share"): 0.666666666666}
    assert check("age.not_finite", Aggregates(missing | thirds)).value == 0
    assert check("age.not_finite", Aggregates({})).value == 4


def test_aggregates_are_read_as_ingest_writes_them(tmp_path):
    rows = [
        ("", "rows_in", 7.0),
        ("city", "null_share", 0.25),
        ("", "quarantined:no_label", 1.0),
        ("", "ctr", None),
    ]
    table = pa.table(
        dict(zip(("field", "metric", "value"), map(list, zip(*rows, strict=True)), strict=True))
    )
    pq.write_table(table, tmp_path / "aggregates.parquet")
    read = read_aggregates(tmp_path / "aggregates.parquet")
    assert (
        read.day("rows_in"),
        read.of("city", "null_share"),
        read.day("quarantined:no_label"),
    ) == (7.0, 0.25, 1.0)
    assert math.isnan(read.day("ctr"))
    assert math.isnan(read.day("clicks"))
    assert math.isnan(read.of("town", "null_share"))


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "aggregates.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match=r"aggregates\.parquet.*run `ingest`"):
        read_aggregates(tmp_path / "aggregates.parquet")
