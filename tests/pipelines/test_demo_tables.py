"""The tables that the demonstration ends with."""

from rich.console import Console
from rich.table import Table

from pipelines.demo.tables import MISSING, day_table, stage_table
from pipelines.demo.watch import DayRun
from pipelines.services.airflow_api import DagRun, TaskInstance

REPORT = {
    "rows": 15432,
    "auc_progressive": 0.71239,
    "auc": 0.73,
    "auc_exported": 0.73,
    "auc_lr_baseline": 0.7,
    "rows_in_table": 20001,
    "bytes_trained": 12_300_000,
    "bytes_exported": 45_600,
    "parity_max_abs_diff": 1.2e-7,
    "verdict": "blessed",
}


def day(name: str, state: str, **seconds: float) -> DayRun:
    tasks = tuple(TaskInstance(task_id, "success", taken, 1) for task_id, taken in seconds.items())
    return DayRun(DagRun(f"run-{name}", name, state), tasks)


def cells(table: Table) -> list[list[str]]:
    return [list(row) for row in zip(*(column.cells for column in table.columns), strict=True)]


def test_a_day_shows_its_figures():
    table = day_table([day("2022-04-25", "success", ingest=20.0, train=30.4)], {"2022-04-25": REPORT})
    assert cells(table) == [
        [
            "2022-04-25",
            "15,432",
            "0.7124",
            "0.7300",
            "0.7300",
            "0.7000",
            "20,001",
            "12.3 MB → 45.6 kB",
            "1.2e-07",
            "blessed",
            "success",
            "50",
        ]
    ]


def test_the_headings_stand_over_their_figures():
    table = day_table([], {})
    assert [column.header for column in table.columns][1:7] == [
        "rows",
        "AUC progressive",
        "AUC",
        "AUC exported",
        "AUC baseline",
        "rows in table",
    ]


def test_a_failed_day_without_figures_has_dashes_not_zeros():
    (row,) = cells(day_table([day("2022-04-25", "failed", ingest=1.0)], {"2022-04-25": dict.fromkeys(REPORT)}))
    assert row[1:10] == [MISSING] * 6 + [f"{MISSING} → {MISSING}", MISSING, MISSING]
    assert row[10] == "failed"


def test_a_skipped_day_says_so():
    skipped = DayRun(DagRun("r", "2022-04-25", "success"), (TaskInstance("ingest", "skipped", 2.0, 1),))
    (row,) = cells(day_table([skipped], {}))
    assert row[10] == "no data"


def test_where_the_time_went_is_per_task_and_day_with_shares():
    days = [day("2022-04-25", "success", ingest=30.0, train=10.0), day("2022-04-26", "success", ingest=40.0, train=20.0)]
    assert cells(stage_table(days)) == [
        ["ingest", "30.0", "40.0", "70%"],
        ["train", "10.0", "20.0", "30%"],
        ["all", "40.0", "60.0", "100%"],
    ]


def test_a_task_that_never_ran_has_a_dash():
    days = [day("2022-04-25", "success", ingest=30.0, train=10.0), day("2022-04-26", "failed", ingest=5.0)]
    assert cells(stage_table(days))[1] == ["train", "10.0", MISSING, "22%"]


def test_nothing_done_divides_by_nothing():
    assert cells(stage_table([])) == [["all", "100%"]]


def test_the_tables_can_be_printed():
    console = Console(width=200, record=True)
    console.print(day_table([day("2022-04-25", "success", ingest=20.0)], {"2022-04-25": REPORT}))
    assert "0.7124" in console.export_text()
