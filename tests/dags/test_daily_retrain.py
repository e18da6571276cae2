"""The DAG as Airflow reads it: structure, form, limits, documents, and what parsing costs."""

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

pytestmark = pytest.mark.airflow

REPOSITORY = Path(__file__).resolve().parents[2]
STAGES = (
    "ingest",
    "validate_data",
    "feature_statistics",
    "cross_counts",
    "cross_graph",
    "pretrain",
    "train",
    "compress",
    "export",
    "validate_model",
    "promote",
    "monitor",
)

PARSE = """
import json, sys, time
from airflow.sdk import DAG, BaseOperator, BaseSensorOperator, CronDataIntervalTimetable, Param
began = time.perf_counter()
import dags.daily_retrain
seconds = time.perf_counter() - began
heavy = (
    "tensorflow", "keras", "pyspark", "mlflow", "great_expectations",
    "pandas", "numpy", "sklearn", "numba", "matplotlib",
)
print(json.dumps({"seconds": seconds, "heavy": [name for name in heavy if name in sys.modules]}))
"""


@pytest.fixture(scope="module")
def dag_bag(airflow_database):
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(REPOSITORY / "dags")


@pytest.fixture(scope="module")
def dag(dag_bag):
    return dag_bag.dags["daily_retrain"]


def test_every_dag_file_imports(dag_bag):
    assert dag_bag.import_errors == {}
    assert set(dag_bag.dags) == {"compress_champion", "daily_retrain", "pretrain_cross_features"}


def test_only_dag_files_are_read_for_dags(dag_bag):
    files = {Path(dag.fileloc).name for dag in dag_bag.dags.values()}
    ignored = set((REPOSITORY / "dags" / ".airflowignore").read_text().split())
    assert {path.name for path in (REPOSITORY / "dags").glob("*.py")} == files | ignored


def test_the_edges_follow_from_what_the_stages_read(dag):
    assert {task.task_id: task.downstream_task_ids for task in dag.tasks} == {
        "earlier_days": {"ingest"},
        "ingest": {"validate_data", "cross_graph"},
        "validate_data": {"feature_statistics", "cross_counts"},
        "feature_statistics": {"train"},
        "cross_counts": {"monitor"},
        "cross_graph": {"pretrain"},
        "pretrain": {"train"},
        "train": {"compress"},
        "compress": {"export"},
        "export": {"validate_model"},
        "validate_model": {"approve"},
        "approve": {"promote"},
        "promote": {"monitor"},
        "monitor": set(),
    }


def test_the_stages_are_grouped_by_the_four_phases_and_keep_their_ids(dag):
    groups = dag.task_group.get_task_group_dict()
    assert {name: set(group.children) for name, group in groups.items() if name} == {
        "data": {"ingest", "validate_data", "feature_statistics", "cross_counts"},
        "graph_and_pretraining": {"cross_graph", "pretrain"},
        "training": {"train"},
        "compression_and_release": {
            "compress",
            "export",
            "validate_model",
            "approve",
            "promote",
            "monitor",
        },
    }


def test_artifacts_that_matter_are_assets(dag_bag):
    outlets = {
        (dag.dag_id, task.task_id): [outlet.name for outlet in task.outlets]
        for dag in dag_bag.dags.values()
        for task in dag.tasks
        if task.outlets
    }
    assert outlets == {
        ("daily_retrain", "ingest"): ["elastic_ctr.impressions"],
        ("daily_retrain", "pretrain"): ["elastic_ctr.encodings"],
        ("daily_retrain", "promote"): ["elastic_ctr.champion"],
        ("pretrain_cross_features", "pretrain"): ["elastic_ctr.encodings"],
        ("compress_champion", "promote"): ["elastic_ctr.champion"],
    }


def test_each_stage_is_one_command_of_the_command_line(dag):
    from pipelines.stages.registry import STAGES as COMMANDS

    assert {dag.get_task(stage).stage for stage in STAGES} == set(COMMANDS)


def test_each_task_has_links_and_only_the_data_check_has_data_docs(dag):
    links = {
        name: [link.name for link in dag.get_task(name).operator_extra_links] for name in STAGES
    }
    assert links.pop("validate_data") == ["MLflow run", "Report", "Data Docs"]
    assert set(map(tuple, links.values())) == {("MLflow run", "Report")}


def test_without_an_approval_the_day_still_has_figures(dag):
    assert dag.get_task("monitor").trigger_rule == "none_failed_min_one_success"
    assert {task.trigger_rule for task in dag.tasks if task.task_id != "monitor"} == {"all_success"}


def test_one_run_at_a_time_and_no_catching_up(dag):
    assert dag.max_active_runs == 1
    assert dag.catchup is False


def test_each_run_covers_the_day_before_it(dag):
    from airflow.sdk import CronDataIntervalTimetable

    assert isinstance(dag.timetable, CronDataIntervalTimetable)
    assert dag.timetable.expression == "0 0 * * *"


def test_scarce_things_have_pools(dag):
    pools = {task.task_id: task.pool for task in dag.tasks}
    assert {task for task, pool in pools.items() if pool == "gpu"} == {"train"}
    spark = {"ingest", "feature_statistics", "cross_counts", "cross_graph"}
    assert {task for task, pool in pools.items() if pool == "spark"} == spark


@pytest.mark.parametrize("task_id", ["earlier_days", *STAGES])
def test_every_task_has_retries_an_owner_and_documents(dag, task_id):
    task = dag.get_task(task_id)
    assert task.retries == 2
    assert task.retry_exponential_backoff
    assert task.owner == "elastic-ctr"
    assert len(task.doc_md) > 30


@pytest.mark.parametrize("task_id", STAGES)
def test_every_stage_has_a_time_limit(dag, task_id):
    assert timedelta(minutes=1) < dag.get_task(task_id).execution_timeout <= timedelta(hours=12)


def test_waiting_takes_no_slot_and_ends(dag):
    waiting = dag.get_task("earlier_days")
    assert waiting.reschedule
    assert waiting.timeout <= 86_400


def test_the_dag_is_described(dag):
    assert dag.doc_md
    assert "backfill" in dag.doc_md
    assert {"elastic-ctr", "training"} <= set(dag.tags)


def test_the_form_offers_the_marked_settings_flattened(dag):
    from dags.form import FORM

    assert list(dag.params) == ["config", "date", "hour", "workspace", *FORM, "approval"]
    assert all(dag.params[path] is None for path in (*FORM, "date", "hour"))


def test_the_form_knows_types_limits_and_sections(dag):
    batch_size = dag.params.get_param("training.batch_size")
    assert batch_size.schema["type"] == ["null", "integer"]
    assert batch_size.schema["minimum"] == 1
    assert batch_size.schema["section"] == "How to train"
    assert dag.params.get_param("training.device").schema["enum"] == [None, "auto", "cpu", "gpu"]
    assert batch_size.description
    assert dag.params.get_param("date").schema["format"] == "date"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("training.batch_size", 0),
        ("training.batch_size", "many"),
        ("date", 5),
        ("training.device", "tpu"),
        ("hour", 24),
        ("hour", -1),
        ("config", "a\0b"),
    ],
)
def test_the_form_refuses_wrong_values(dag, name, value):
    from airflow.sdk.exceptions import ParamValidationError

    with pytest.raises(ParamValidationError):
        dag.params.get_param(name).__copy__().resolve(value)


def parse(**environment: str) -> dict:
    outcome = subprocess.run(
        [sys.executable, "-c", PARSE],
        env={**os.environ, **environment},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(outcome.stdout.splitlines()[-1])


@pytest.mark.process
def test_parsing_is_quick_and_loads_nothing_heavy():
    parsed = min((parse() for _ in range(2)), key=lambda each: each["seconds"])
    assert parsed["heavy"] == []
    assert parsed["seconds"] < 1.0


@pytest.mark.process
def test_schedule_zone_and_default_config_come_from_the_environment():
    script = (
        "from dags.daily_retrain import daily_retrain as dag; "
        "print(dag.timetable.expression, dag.timetable.timezone, dag.params['config'])"
    )
    environment = {
        "ELASTIC_CTR_SCHEDULE": "30 2 * * *",
        "ELASTIC_CTR_TIMEZONE": "Asia/Shanghai",
        "ELASTIC_CTR_CONFIG": "conf/mine.yaml",
    }
    outcome = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **environment},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    line = outcome.stdout.splitlines()[-1]
    assert line.startswith("30 2 * * *")
    assert "Asia/Shanghai" in line
    assert line.endswith("conf/mine.yaml")


@pytest.mark.process
def test_by_the_hour_a_run_is_due_as_each_hour_ends():
    script = "from dags.daily_retrain import daily_retrain as dag; print(dag.timetable.expression)"
    environment = {**os.environ, "ELASTIC_CTR_PARTITION": "hour"}
    outcome = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert outcome.stdout.splitlines()[-1] == "0 * * * *"


@pytest.mark.process
def test_an_unknown_time_zone_is_a_clear_error():
    outcome = subprocess.run(
        [sys.executable, "-c", "import dags.daily_retrain"],
        env={**os.environ, "ELASTIC_CTR_TIMEZONE": "Mars/Olympus"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ELASTIC_CTR_TIMEZONE='Mars/Olympus' is no time zone" in outcome.stderr
