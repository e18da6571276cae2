"""The tables that the demonstration ends with."""

from rich.console import Console
from rich.table import Table

from pipelines.cli.console import MISSING
from pipelines.demo.tables import day_table, stage_table
from pipelines.demo.watch import DayRun
from pipelines.services.airflow_api import DagRun, TaskInstance

REPORT = {
    "rows": 15432,
    "auc_progressive": 0.71239,
    "auc": 0.73,
    "auc_exported": 0.729,
    "auc_lr_baseline": 0.7,
    "auc_possible": 0.8,
    "rows_in_table": 20001,
    "bytes_trained": 12_300_000,
    "bytes_exported": 45_600,
    "parity_max_abs_diff": 1.2e-7,
    "verdict": "blessed",
}


def day(name: str, state: str, **seconds: float) -> DayRun:
    tasks = tuple(
        TaskInstance(task_id, "success", duration, 1) for task_id, duration in seconds.items()
    )
    return DayRun(DagRun(f"run-{name}", name, state), tasks)


def cells(table: Table) -> list[list[str]]:
    return [list(row) for row in zip(*(column.cells for column in table.columns), strict=True)]


def column(table: Table) -> dict[str, str]:
    """The labels and the only day's figures."""
    return dict(cells(table))


def test_a_day_shows_its_figures():
    table = day_table(
        [day("2022-04-25", "success", ingest=20.0, train=30.4)], {"2022-04-25": REPORT}
    )
    assert [each.header for each in table.columns] == ["", "2022-04-25"]
    assert column(table) == {
        "rows": "15,432",
        "AUC, progressive": "0.7124",
        "AUC, held out": "0.7300",
        "AUC, exported": "0.7290",
        "AUC, baseline": "0.7000",
        "AUC, possible": "0.8000",
        "rows in table": "20,001",
        "bytes, trained": "12.3 MB",
        "bytes, exported": "45.6 kB",
        "parity, max |Δp|": "1.2e-07",
        "verdict": "blessed",
        "run": "success",
        "seconds": "50",
    }


def test_each_day_has_its_column():
    days = [day("2022-04-25", "success"), day("2022-04-26", "failed")]
    table = day_table(days, {"2022-04-26": REPORT})
    assert cells(table)[0] == ["rows", MISSING, "15,432"]
    assert cells(table)[11] == ["run", "success", "failed"]


def test_a_failed_day_without_figures_has_dashes_not_zeros():
    figures = column(
        day_table([day("2022-04-25", "failed", ingest=1.0)], {"2022-04-25": dict.fromkeys(REPORT)})
    )
    assert {label for label, text in figures.items() if text != MISSING} == {"run", "seconds"}


def test_what_is_no_number_is_a_dash():
    report = {**REPORT, "auc_progressive": float("nan")}
    assert (
        column(day_table([day("2022-04-25", "success")], {"2022-04-25": report}))[
            "AUC, progressive"
        ]
        == MISSING
    )


def test_a_skipped_day_says_so():
    skipped = DayRun(
        DagRun("r", "2022-04-25", "success"), (TaskInstance("ingest", "skipped", 2.0, 1),)
    )
    assert column(day_table([skipped], {}))["run"] == "no data"


def test_where_the_time_went_is_per_task_and_day_with_shares():
    days = [
        day("2022-04-25", "success", ingest=30.0, train=10.0),
        day("2022-04-26", "success", ingest=40.0, train=20.0),
    ]
    assert cells(stage_table(days)) == [
        ["ingest", "30.0", "40.0", "70%"],
        ["train", "10.0", "20.0", "30%"],
        ["all", "40.0", "60.0", "100%"],
    ]


def test_a_task_that_never_ran_has_a_dash():
    days = [
        day("2022-04-25", "success", ingest=30.0, train=10.0),
        day("2022-04-26", "failed", ingest=5.0),
    ]
    assert cells(stage_table(days))[1] == ["train", "10.0", MISSING, "22%"]


def test_nothing_done_divides_by_nothing():
    assert cells(stage_table([])) == [["all", "100%"]]


def test_the_tables_can_be_printed():
    """Three days fit into eighty columns."""
    console = Console(width=80, record=True)
    days = [day(f"2022-04-2{number}", "success", ingest=20.0) for number in (5, 6, 7)]
    console.print(day_table(days, {each.run.day: REPORT for each in days}))
    assert console.export_text().count("0.7124") == 3
