"""Hours and days in one workspace: folders, order, windows, gates, the command line."""

import json
from dataclasses import replace
from datetime import date

import pytest
from tiny_days import DAYS, make_context, promote_candidate, publish, write_config

from features.partition import Hour, folder_of
from pipelines.stages.cross_graph import BuildCrossGraph
from pipelines.stages.feature_statistics import FeatureStatistics
from pipelines.stages.monitor import Monitor
from pipelines.stages.registry import artifacts
from pipelines.stages.report import days_with_artifacts
from pipelines.stages.stage import execute
from pipelines.stages.train import Train, begins_day, gap_days
from pipelines.stages.validate_data import ValidateData
from pipelines.store.artifacts import Store
from pipelines.store.cleaning import clean
from pipelines.store.lineage import ancestry
from pipelines.tracking.champion import serving_champion
from pipelines.tracking.journal import Event, TrackingJournal
from pipelines.tracking.registry import CHAMPION, Registry
from pipelines.tracking.sync import RUN_KEY, Tracker


def hours(day, *numbers):
    return [Hour(day, number) for number in numbers]


@pytest.fixture
def context(tmp_path):
    return make_context(tmp_path)


def give(context, artifact, *partitions, **metrics):
    return [publish(context.store, artifact, partition, **metrics) for partition in partitions]


def inputs(stage, context, partition):
    """Names of what a stage reads for a day or hour."""
    return set(stage.inputs(replace(context, day=partition)))


def test_an_hour_has_a_folder_and_a_pointer_of_its_own_below_its_day(context):
    day, hour = give(context, "export", DAYS[0], Hour(DAYS[0], 7))
    assert (
        hour.path
        == context.store.workspace / "export" / "dt=2026-01-01" / "hm=0700" / f"v-{hour.hash}"
    )
    assert (hour.path.parent / "CURRENT").read_text().strip() == hour.hash
    assert hour.commit["day"] == "2026-01-01T07"
    assert context.store.current("export", DAYS[0]) == day
    assert context.store.current("export", Hour(DAYS[0], 7)) == hour
    assert context.store.days("export") == [Hour(DAYS[0], 7), DAYS[0]]


def test_days_go_on_by_the_hour_and_hours_by_the_day(context):
    give(context, "checkpoint", DAYS[0], DAYS[1], *hours(DAYS[2], 0, 1, 23))
    latest = {
        p: context.store.latest_before("checkpoint", p).day
        for p in (*hours(DAYS[2], 0, 1, 5), DAYS[2], DAYS[3])
    }
    assert latest == {
        Hour(DAYS[2], 0): DAYS[1],
        Hour(DAYS[2], 1): Hour(DAYS[2], 0),
        Hour(DAYS[2], 5): Hour(DAYS[2], 1),
        DAYS[2]: DAYS[1],
        DAYS[3]: Hour(DAYS[2], 23),
    }


def test_of_a_day_and_its_last_hour_each_kind_goes_on_from_its_own(context):
    give(context, "checkpoint", DAYS[0], Hour(DAYS[0], 23))
    assert context.store.latest_before("checkpoint", DAYS[1]).day == DAYS[0]
    assert context.store.latest_before("checkpoint", Hour(DAYS[1], 0)).day == Hour(DAYS[0], 23)


@pytest.mark.parametrize(
    ("before", "now", "gap", "begins"),
    [
        (DAYS[0], Hour(DAYS[1], 0), 1 / 24, True),
        (Hour(DAYS[1], 0), Hour(DAYS[1], 1), 1 / 24, False),
        (Hour(DAYS[1], 0), Hour(DAYS[1], 12), 0.5, False),
        (Hour(DAYS[0], 23), DAYS[1], 1, True),
        (Hour(DAYS[0], 22), Hour(DAYS[1], 22), 1, True),
    ],
)
def test_a_gap_in_days_may_be_a_part_of_one_and_an_hour_goes_on_with_its_day(
    context, before, now, gap, begins
):
    (checkpoint,) = give(context, "checkpoint", before)
    assert gap_days(replace(context, day=now), checkpoint) == pytest.approx(gap)
    assert begins_day(replace(context, day=now), checkpoint) is begins


def test_training_of_an_hour_starts_from_the_hour_before_and_the_impressions_it_is_of(context):
    for partition in hours(DAYS[1], 4, 5):
        impressions = give(context, "impressions", partition)
        give(context, "encodings", partition, relations_used=1, graph_last_day=None)
        give(context, "data_verdict", partition, passed=True)
        give(context, "feature_statistics", partition)
        checkpoint = publish(context.store, "checkpoint", partition, inputs=impressions)
        publish(
            context.store, "validation_report", partition, inputs=[checkpoint], verdict="refused"
        )
    found = Train().inputs(replace(context, day=Hour(DAYS[1], 5)))
    assert {name: str(version.day)[-2:] for name, version in found.items()} == {
        **dict.fromkeys(("impressions", "encodings", "data_verdict"), "05"),
        **dict.fromkeys(("statistics", "checkpoint", "previous_impressions"), "04"),
    }


def test_windows_are_of_so_many_times_24_hours_and_a_day_and_its_hours_count_once(context):
    config = context.config
    config = config.model_copy(
        update={"statistics": config.statistics.model_copy(update={"window_days": 2})}
    )
    config = config.model_copy(update={"graph": config.graph.model_copy(update={"window_days": 1})})
    two_days = replace(context, config=config)
    partitions = [
        DAYS[0],
        DAYS[1],
        *hours(DAYS[0], 4, 5, 6, 23),
        *hours(DAYS[1], 5, 23),
        *hours(DAYS[2], 0, 4, 5),
    ]
    give(context, "feature_statistics", *partitions)
    give(context, "impressions", *partitions)
    statistics = inputs(FeatureStatistics(), two_days, Hour(DAYS[2], 5))
    assert statistics == {
        "impressions",
        *(f"statistics-2026-01-01T{hour}" for hour in ("06", "23")),
        "statistics-2026-01-02",
        *(f"statistics-2026-01-03T{hour}" for hour in ("00", "04")),
    }
    assert inputs(BuildCrossGraph(), two_days, Hour(DAYS[2], 5)) == {
        f"counts-2026-01-{hour}" for hour in ("02T05", "02T23", "03T00", "03T04")
    }
    assert inputs(BuildCrossGraph(), two_days, Hour(DAYS[2], 0)) == {"counts-2026-01-02"}
    give(context, "impressions", DAYS[2])
    assert inputs(FeatureStatistics(), two_days, DAYS[2]) == {
        "impressions",
        "statistics-2026-01-02",
    }


def test_rows_of_an_hour_are_compared_with_the_same_hour_of_earlier_days_and_days_with_days(
    context,
):
    give(
        context, "impressions", *DAYS[:4], *(Hour(day, hour) for day in DAYS[:4] for hour in (2, 3))
    )
    assert inputs(ValidateData(), context, Hour(DAYS[3], 3)) == {
        "impressions",
        *(f"history-2026-01-0{day}T03" for day in (1, 2, 3)),
    }
    assert inputs(ValidateData(), context, DAYS[3]) == {
        "impressions",
        *(f"history-2026-01-0{day}" for day in (1, 2, 3)),
    }


def test_growth_is_to_the_last_of_the_same_kind(context):
    for partition, rows in ((Hour(DAYS[0], 3), 10), (DAYS[0], 900), (Hour(DAYS[1], 0), 12)):
        give(context, "impressions", partition, rows_kept=rows)
        give(context, "validation_report", partition, verdict="blessed")
        version = execute(Monitor(), replace(context, day=partition)).version
    assert version.metrics["rows_change"] == 2
    assert json.loads((version.path / "metrics.json").read_text())["date"] == "2026-01-02T00"


def test_cleaning_keeps_the_hours_of_the_latest_days_and_leaves_no_empty_folder(context):
    give(context, "export", *hours(DAYS[0], 1, 2), DAYS[1], *hours(DAYS[2], 0, 5))
    assert clean(context.store, 1).versions == 3
    assert list(days_with_artifacts(context.store)) == hours(DAYS[2], 0, 5)
    assert [path.name for path in (context.store.workspace / "export").iterdir()] == [
        "dt=2026-01-03"
    ]


def test_lineage_goes_from_an_hour_to_the_day_it_started_from(context):
    (day,) = give(context, "checkpoint", DAYS[0])
    hour = publish(context.store, "checkpoint", Hour(DAYS[1], 0), inputs=[day])
    tree = ancestry(context.store, hour)
    assert (tree["day"], tree["made_from"]["checkpoint"]["day"]) == ("2026-01-02T00", "2026-01-01")


@pytest.mark.slow
def test_the_champion_moves_forward_in_time_over_days_and_hours(mlflow_here, tmp_path):
    context = make_context(tmp_path)
    registry = Registry(Tracker(mlflow_here, "elastic-ctr").client(), "ctr")

    def promoted(partition):
        return promote_candidate(context, partition).metrics["promoted"]

    order = [
        DAYS[0],
        *hours(DAYS[1], 0, 9),
        Hour(DAYS[1], 8),
        DAYS[1],
        Hour(DAYS[1], 23),
        Hour(DAYS[2], 0),
    ]
    assert [promoted(partition) for partition in order] == [
        True,
        True,
        True,
        False,
        True,
        False,
        True,
    ]
    assert registry.read(registry.alias(CHAMPION)).day == "2026-01-03T00"
    assert serving_champion(context.store, "ctr").day == "2026-01-03T00"
    runs = registry.client.search_runs(
        [Tracker(mlflow_here, "elastic-ctr").experiment_id(registry.client)]
    )
    assert {run.data.tags[RUN_KEY] for run in runs} == {f"tiny/{partition}" for partition in order}


def test_an_hour_s_events_lie_in_its_folder_and_wait_in_order(tmp_path):
    journal = TrackingJournal(tmp_path)
    for ended, day in ((2, "2026-01-01T07"), (1, "2026-01-01"), (3, "2026-01-02")):
        journal.append(Event("p", day, "train", "aa", "FINISHED", 0, ended))
    paths = journal.pending()
    events = [journal.read(path) for path in paths]
    assert [event.run_key for event in events] == [
        "p/2026-01-01/train/aa",
        "p/2026-01-01T07/train/aa",
        "p/2026-01-02/train/aa",
    ]
    assert paths[1].parent == tmp_path / "tracking" / "dt=2026-01-01" / "hm=0700"
    journal.remember_run("2026-01-01T07", "abc")
    assert (journal.run_id(Hour(date(2026, 1, 1), 7)), journal.run_id(date(2026, 1, 1))) == (
        "abc",
        None,
    )


def test_run_goes_over_midnight_by_the_hour_and_status_and_report_know_hours(
    here, tmp_path, tiny_chain, mlflow_away
):
    config, store = write_config(tmp_path), Store(tmp_path / "workspace")
    code, out, _ = here(
        "run", "--config", config, "--from", "2026-01-03T23", "--to", "2026-01-04T00"
    )
    assert code == 0
    assert "2026-01-03T23" in out
    for hour in (Hour(DAYS[2], 23), Hour(DAYS[3], 0)):
        assert all(
            (store.workspace / artifact / folder_of(hour) / "CURRENT").is_file()
            for artifact in artifacts()
        )
    assert (
        "every hour is already committed"
        in here("run", "--config", config, "--from", "2026-01-04T00", "--to", "2026-01-04T00")[1]
    )
    assert "01-03T23" in here("status")[1]
    assert (
        json.loads(here("report", "--date", "2026-01-04T00", "--json")[1])["date"]
        == "2026-01-04T00"
    )


@pytest.mark.parametrize(
    ("first", "last", "words"),
    [
        ("2026-01-01", "2026-01-01T05", "one is a day, the other an hour"),
        ("2026-01-01T05", "2026-01-01T04", "the first hour must not be later"),
        ("2026-01-01T5", "2026-01-01T06", "write YYYY-MM-DD, or YYYY-MM-DDTHH"),
    ],
)
def test_run_refuses_ends_that_do_not_fit(here, tmp_path, tiny_chain, first, last, words):
    code, _, err = here("run", "--config", write_config(tmp_path), "--from", first, "--to", last)
    assert code == 2
    assert words in err


def test_an_artifact_of_an_hour_that_is_missing_is_asked_for_by_the_hour(
    here, tmp_path, mlflow_away
):
    code, _, err = here("compress", "--config", write_config(tmp_path), "--date", "2026-01-01T07")
    assert code == 2
    assert "no checkpoint of 2026-01-01T07" in err
    assert "for that hour first" in err
