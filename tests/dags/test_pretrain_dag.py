"""The pretraining DAG: its two tasks make new encodings, for the day of its schedule or form."""

from datetime import timedelta
from pathlib import Path

import pytest

pytestmark = pytest.mark.airflow

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def dag(airflow_database):
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(REPOSITORY / "dags").dags["pretrain_cross_features"]


def test_a_new_graph_and_then_new_encodings(dag):
    assert {task.task_id: task.downstream_task_ids for task in dag.tasks} == {
        "cross_graph": {"pretrain"},
        "pretrain": set(),
    }
    assert {(task.stage, task.settings) for task in dag.tasks} == {
        ("cross-graph", ("pretraining.every_days=1",)),
        ("pretrain", ("pretraining.every_days=1",)),
    }
    assert all(task.retries == 2 and len(task.doc_md) > 30 for task in dag.tasks)


def test_weekly_and_for_the_day_that_has_just_ended(dag):
    from airflow.sdk import CronTriggerTimetable

    assert isinstance(dag.timetable, CronTriggerTimetable)
    assert dag.timetable.expression == "0 0 * * 1"
    assert dag.timetable.interval == timedelta(days=1), "the data interval, whose start is the day"
    assert dag.catchup is False


def test_the_form_has_a_date(dag):
    from dags.form import trigger_form

    assert list(dag.params) == list(trigger_form())


def test_its_settings_come_last_on_the_command_line(dag):
    class Run:
        """What is read of a run."""

        run_type = "manual"
        data_interval_start = None

    seen = []
    task = dag.get_task("pretrain")
    task.run_command = lambda argv, environment: seen.append(argv)
    params = {"config": "conf/simulated.yaml", "date": "2026-01-08", "training.seed": 3}
    task.run_stage({"params": params, "dag_run": Run(), "ti": None})
    assert seen[0][-3:] == [
        "--date=2026-01-08",
        "--set=training.seed=3",
        "--set=pretraining.every_days=1",
    ]
