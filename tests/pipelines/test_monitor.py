"""The day's metrics file, and how the day differs from the one monitored before."""

import json
from dataclasses import replace

import pytest
from tiny_days import DAYS, make_context, publish

from features.errors import InputError
from pipelines.stages.monitor import Monitor
from pipelines.stages.stage import execute


@pytest.fixture
def context(tmp_path):
    return make_context(tmp_path)


def monitor(context, day, rows=None, **checkpoint):
    """Make up a day that grew to these figures and monitor it; returns the committed version."""
    if rows is not None:
        publish(context.store, "impressions", day, rows_kept=rows)
    publish(context.store, "checkpoint", day, **checkpoint)
    publish(context.store, "validation_report", day, verdict="blessed")
    return execute(Monitor(), replace(context, day=day)).version


def test_the_first_day_has_figures_and_no_growth(context):
    figures = monitor(context, DAYS[0], 100, rows_in_table=40, keys_seen=60, auc=0.7).metrics
    assert {
        "rows": 100.0,
        "rows_in_table": 40.0,
        "keys_seen": 60.0,
        "auc": 0.7,
    }.items() <= figures.items()
    assert [name for name in figures if name.endswith("_change")] == []


@pytest.mark.covers("monitoring-7")
def test_growth_is_the_difference_to_the_last_monitored_day(context):
    monitor(context, DAYS[0], 100, rows_in_table=40, keys_seen=60)
    figures = monitor(context, DAYS[3], 70, rows_in_table=55, keys_seen=61).metrics
    assert {k: v for k, v in figures.items() if k.endswith("_change")} == {
        "rows_change": -30.0,
        "rows_in_table_change": 15.0,
        "keys_seen_change": 1.0,
    }


def test_growth_reads_nothing_of_later_days(context):
    monitor(context, DAYS[2], 100, rows_in_table=40, keys_seen=60)
    assert "rows_change" not in monitor(context, DAYS[0], 10, rows_in_table=4, keys_seen=6).metrics


def test_a_figure_that_one_of_the_days_lacks_has_no_growth(context):
    monitor(context, DAYS[0], rows_in_table=40)
    figures = monitor(context, DAYS[1], 100, rows_in_table=41, keys_seen=60).metrics
    assert {k for k in figures if k.endswith("_change")} == {"rows_in_table_change"}


def test_the_file_holds_the_report_with_nulls_and_no_run_id(context):
    version = monitor(context, DAYS[0], 100, auc_progressive=float("nan"))
    written = json.loads((version.path / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert (written["date"], written["rows"], written["auc_progressive"]) == (
        "2026-01-01",
        100,
        None,
    )
    assert "run_id" not in written


def test_everything_the_day_made_is_an_input(context):
    assert set(monitor(context, DAYS[0], 100).commit["inputs"]) == {
        "impressions",
        "checkpoint",
        "validation_report",
    }


def test_a_day_without_a_verdict_is_not_monitored(context):
    publish(context.store, "checkpoint", DAYS[0])
    with pytest.raises(InputError, match="elastic-ctr validate-model"):
        execute(Monitor(), context)
