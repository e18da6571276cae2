"""The compression DAG: a search for the champion's day, and stages that carry out its plan for that same day."""

from datetime import date
from itertools import pairwise
from pathlib import Path

import pytest

from dags.compress_champion import planned_request
from features.errors import InputError
from features.partition import Hour
from pipelines.services.environment import RUN_URL_VARIABLE

pytestmark = pytest.mark.airflow

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def dag(airflow_database):
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(REPOSITORY / "dags")
    assert not bag.import_errors
    return bag.dags["compress_champion"]


class Ti:
    """What is read of a task instance."""

    log_url = "http://127.0.0.1/task"

    def xcom_pull(self, task_ids):
        assert task_ids == "search_plan"
        return "/ws/compression-search/dt=2026-01-07/plan.yaml"


def commands(dag, task_id, **params):
    """The arguments that a task runs."""
    seen, task = [], dag.get_task(task_id)
    task.run_command = lambda argv, environment: seen.append(argv)
    given = dag.params.dump() | params
    task.run_stage({"params": given, "ti": Ti()})
    return seen[0][3:]


@pytest.mark.parametrize("task_id", ["search_plan", "compress"])
def test_its_stages_know_their_task_so_that_they_print_links(dag, task_id):
    """Issue 19: no task of this DAG had a link to its MLflow run."""
    environments, task = [], dag.get_task(task_id)
    task.run_command = lambda argv, environment: environments.append(environment)
    task.run_stage({"params": dag.params.dump(), "ti": Ti()})
    assert environments[0][RUN_URL_VARIABLE] == Ti.log_url


def test_search_and_then_the_stages_one_after_the_other(dag):
    order = ["search_plan", "compress", "export", "validate_model", "approve", "promote"]
    assert [task.task_id for task in dag.topological_sort()] == order
    assert all(dag.get_task(a).downstream_task_ids == {b} for a, b in pairwise(order))
    assert dag.timetable.expression == "0 6 * * 1"
    assert dag.catchup is False


def test_the_search_is_of_the_champion_within_the_limits_of_the_form(dag):
    assert commands(dag, "search_plan", config="my.yaml") == [
        "search-compression",
        "--config=my.yaml",
        "--date=champion",
        "--max-auc-drop=0.0005",
        "--plans=150",
    ]


def test_the_form_can_ask_for_fine_tuning(dag):
    assert "--fine-tune" not in commands(dag, "search_plan", config="my.yaml")
    assert commands(dag, "search_plan", config="my.yaml", fine_tune=True)[-1] == "--fine-tune"


def test_steps_of_the_form_are_carried_out_where_no_limit_is_given(dag):
    steps = "[{kind: quantize, form: int8}]"
    given = commands(
        dag,
        "search_plan",
        config="my.yaml",
        workspace="/ws",
        date="2026-01-06",
        max_auc_drop=None,
        steps=steps,
    )
    assert given[2:] == [
        "--date=2026-01-06",
        "--workspace=/ws",
        "--plans=150",
        f"--set=compression.steps={steps}",
    ]


def test_the_stages_take_day_and_plan_from_the_search(dag):
    plan = "/ws/compression-search/dt=2026-01-07/plan.yaml"
    for stage in ("compress", "export", "validate-model", "promote"):
        given = commands(
            dag, stage.replace("-", "_"), config="my.yaml", workspace="/ws", date="2020-01-01"
        )
        assert given == [
            stage,
            "--config=my.yaml",
            "--date=2026-01-07",
            "--workspace=/ws",
            f"--plan={plan}",
        ]


def test_an_hours_plan_is_of_that_hour_and_a_plan_elsewhere_is_refused():
    assert planned_request({"config": "c"}, "/w/s/dt=2026-01-07/hm=1300/plan.yaml").day == Hour(
        date(2026, 1, 7), 13
    )
    with pytest.raises(InputError, match="not the folder of a day"):
        planned_request({"config": "c"}, "/elsewhere/plan.yaml")
