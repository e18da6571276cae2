"""The data gate on aggregates by hand: a good day passes, a bad figure fails its expectation."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.errors import InputError
from features.schema import Schema
from validation.data.checks import data_checks
from validation.data.expectations import DataVerdict, check_data, standalone
from validation.settings import DataGateSettings

SCHEMA = Schema.model_validate(
    {
        "label": "click",
        "user": "uid",
        "item": "iid",
        "timestamp": {"column": "ts"},
        "fields": [
            {"kind": "categorical", "name": "user_id"},
            {"kind": "multi_valued", "name": "tags"},
            {"kind": "numeric", "name": "price"},
            {"kind": "time", "name": "hour"},
            {"kind": "cross", "name": "user_x_hour", "of": ["user_id", "hour"]},
        ],
    }
)

GOOD = {
    ("", "rows_in"): 2000,
    ("", "rows_kept"): 1950,
    ("", "rows_quarantined"): 50,
    ("", "ctr"): 0.1,
    ("user_id", "null_share"): 0.0,
    ("tags", "null_share"): 0.3,
    ("hour", "null_share"): 0.0,
    ("price", "null_share"): 0.1,
    ("price", "unreadable_share"): 0.01,
    ("price", "mean"): 3.0,
    ("price", "std"): 1.0,
    ("price", "min"): -5.0,
    ("price", "max"): 9.0,
}

ALL = {
    *("rows_kept", "rows_unaccounted", "quarantined_share", "ctr", "rows_ratio"),
    *("user_id.null_share", "tags.null_share", "price.null_share", "hour.null_share"),
    *("price.unreadable_share", "price.not_finite"),
}


NO_VALUES = pa.schema(
    {
        "field": pa.string(),
        "value": pa.string(),
        "hash": pa.int64(),
        "impressions": pa.int64(),
        "clicks": pa.int64(),
    }
).empty_table()


def write(path, metrics):
    rows = [{"field": f, "metric": m, "value": v} for (f, m), v in metrics.items()]
    columns = pa.schema([("field", pa.string()), ("metric", pa.string()), ("value", pa.float64())])
    pq.write_table(pa.Table.from_pylist(rows, columns), path)
    pq.write_table(NO_VALUES, path.with_name("values.parquet"))
    return path


def judge(folder, changes, settings=None, history=(1900, 2100)):
    earlier = [
        write(folder / f"h{i}.parquet", GOOD | {("", "rows_kept"): n})
        for i, n in enumerate(history)
    ]
    day = write(
        folder / "day.parquet", {k: v for k, v in (GOOD | changes).items() if v != "absent"}
    )
    return check_data(day, earlier, SCHEMA, settings or DataGateSettings(), folder)


def test_a_good_day_passes_and_every_expectation_is_evaluated(tmp_path):
    verdict = judge(tmp_path, {})
    assert verdict.passed
    assert verdict.reasons == ()
    assert {c.name for c in verdict.checks} == ALL
    assert verdict.evaluated == len(ALL) == 11


BAD = [
    (
        "too few rows",
        {("", "rows_in"): 990, ("", "rows_kept"): 940},
        {"rows_kept", "quarantined_share"},
    ),
    ("rows lost between reading and keeping", {("", "rows_in"): 2001}, {"rows_unaccounted"}),
    ("rows invented", {("", "rows_in"): 1999}, {"rows_unaccounted"}),
    (
        "a sixth of the day in quarantine",
        {("", "rows_in"): 2400, ("", "rows_quarantined"): 450},
        {"quarantined_share"},
    ),
    ("no click at all", {("", "ctr"): 0.0}, {"ctr"}),
    ("only clicks", {("", "ctr"): 1.0}, {"ctr"}),
    ("the rate is not a number", {("", "ctr"): math.nan}, {"ctr"}),
    ("the rate is missing", {("", "ctr"): "absent"}, {"ctr"}),
    ("a field became null", {("tags", "null_share"): 0.9}, {"tags.null_share"}),
    (
        "ingest did not look at a field",
        {("user_id", "null_share"): "absent"},
        {"user_id.null_share"},
    ),
    ("numbers became text", {("price", "unreadable_share"): 0.8}, {"price.unreadable_share"}),
    ("an infinite price", {("price", "max"): math.inf}, {"price.not_finite"}),
    ("a missing mean", {("price", "mean"): "absent"}, {"price.not_finite"}),
    ("eleven times the rows", {("", "rows_in"): 22050, ("", "rows_kept"): 22000}, {"rows_ratio"}),
    (
        "no record was read",
        {("", "rows_in"): 0, ("", "rows_kept"): 0, ("", "rows_quarantined"): 0},
        {"rows_kept", "quarantined_share", "rows_ratio"},
    ),
]


@pytest.mark.covers("data-1")
@pytest.mark.parametrize(
    ("changes", "expected"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
def test_each_bad_aggregate_fails_exactly_its_expectation(tmp_path, changes, expected):
    verdict = judge(tmp_path, changes)
    assert not verdict.passed
    assert {c.name for c in verdict.failed} == expected
    assert verdict.evaluated == 11
    assert len(verdict.reasons) == len(expected)


def test_the_verdict_file_says_what_was_seen_and_what_was_allowed(tmp_path):
    judge(tmp_path, {("", "ctr"): 0.99})
    document = json.loads((tmp_path / "verdict.json").read_text())
    assert document["passed"] is False
    assert document["reasons"] == [
        "click-through rate of the day: 0.99, must be between 0.0005 and 0.95; "
        "`data_gate.min_ctr, max_ctr` sets the limit"
    ]
    failed = [c for c in document["checks"] if not c["passed"]]
    assert failed == [
        {
            "name": "ctr",
            "value": 0.99,
            "limit": "between 0.0005 and 0.95",
            "passed": False,
            "words": "click-through rate of the day",
            "examples": "",
            "setting": "data_gate.min_ctr, max_ctr",
        }
    ]


def test_a_missing_value_is_null_in_the_file_and_named_in_words(tmp_path):
    verdict = judge(tmp_path, {("", "ctr"): math.nan})
    document = json.loads((tmp_path / "verdict.json").read_text(), parse_constant=pytest.fail)
    assert [c["value"] for c in document["checks"] if c["name"] == "ctr"] == [None]
    assert "not a number" in verdict.reasons[0]


def test_the_first_day_has_no_history_to_be_compared_with(tmp_path):
    verdict = judge(tmp_path, {}, history=())
    assert verdict.passed
    assert {c.name for c in verdict.checks} == ALL - {"rows_ratio"}


def test_history_without_row_counts_fails_closed(tmp_path):
    history = write(tmp_path / "history.parquet", {("", "clicks"): 3})
    day = write(tmp_path / "day.parquet", GOOD)
    assert {
        c.name for c in check_data(day, [history], SCHEMA, DataGateSettings(), tmp_path).failed
    } == {"rows_ratio"}


def test_a_field_may_have_a_null_limit_of_its_own(tmp_path):
    loose = DataGateSettings(null_share_by_field={"tags": 0.95})
    strict = DataGateSettings(null_share_by_field={"tags": 0.2})
    assert judge(tmp_path, {("tags", "null_share"): 0.9}, loose).passed
    assert {c.name for c in judge(tmp_path, {}, strict).failed} == {"tags.null_share"}


def test_a_numeric_field_without_any_value_has_no_bounds_to_be_finite(tmp_path):
    empty = {("price", "null_share"): 1.0, ("price", "unreadable_share"): 0.0}
    empty |= {("price", m): math.nan for m in ("mean", "std", "min", "max")}
    assert judge(tmp_path, empty, DataGateSettings(null_share_by_field={"price": 1.0})).passed


def test_limits_for_an_unknown_field_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"null_share_by_field.*'tgas'"):
        judge(tmp_path, {}, DataGateSettings(null_share_by_field={"tgas": 0.1}))


def test_an_expectation_that_was_not_evaluated_fails_the_day(tmp_path):
    verdict = replace(judge(tmp_path, {}), evaluated=10)
    assert not verdict.passed
    assert verdict.reasons == ("10 expectations were evaluated where 11 were asked for",)
    assert not DataVerdict(checks=(), failed=(), evaluated=0).passed


def test_the_report_shows_each_figure_and_contacts_no_host(tmp_path):
    judge(tmp_path, {("", "ctr"): 0.99})
    page = (tmp_path / "data_docs" / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|src=|<script|<link|@import|url\(", page)
    assert "<title>Data gate: 1 of 11 expectations failed</title>" in page
    assert all(name in page for name in ALL)
    assert "click-through rate of the day: between 0.0005 and 0.95" in page
    assert "0.99" in page
    assert (
        page.count("text-danger") - page.count(".text-danger") == 2
    )  # the overview and the one failure


def test_markup_in_a_title_is_escaped():
    page = standalone(
        '<html><head></head><body><a href="https://x.example/">x</a></body></html>', "a < b"
    )
    assert "<title>a &lt; b</title>" in page
    assert "x.example" not in page


def test_unreadable_aggregates_are_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.parquet.*run `ingest`"):
        check_data(tmp_path / "nowhere.parquet", [], SCHEMA, DataGateSettings(), tmp_path)
    pq.write_table(pa.table({"field": ["a"], "metric": ["b"]}), tmp_path / "short.parquet")
    with pytest.raises(InputError, match=r"short\.parquet"):
        check_data(tmp_path / "short.parquet", [], SCHEMA, DataGateSettings(), tmp_path)


def test_a_metric_written_twice_is_refused(tmp_path):
    rows = [{"field": "", "metric": "ctr", "value": v} for v in (0.1, 0.2)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "twice.parquet")
    with pytest.raises(InputError, match="appears twice"):
        check_data(tmp_path / "twice.parquet", [], SCHEMA, DataGateSettings(), tmp_path)


@pytest.mark.process
def test_loading_the_gate_starts_neither_tensorflow_nor_a_spark_session_nor_telemetry():
    code = (
        "import os, sys, validation.data.expectations;"
        "assert 'tensorflow' not in sys.modules;"
        "from pyspark.sql import SparkSession;"  # Great Expectations imports it
        "assert SparkSession.getActiveSession() is None;"
        "assert 'posthog' not in sys.modules and os.environ['GX_ANALYTICS_ENABLED'] == 'false';"
        "print('all of it ran')"
    )
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.stdout.strip() == "all of it ran", done.stderr[-2000:]


def test_a_day_that_only_needs_checks_needs_no_great_expectations():
    from validation.data.checks import Aggregates

    checks = data_checks(Aggregates(GOOD), [Aggregates(GOOD)], SCHEMA, DataGateSettings())
    assert all(c.passed for c in checks)
