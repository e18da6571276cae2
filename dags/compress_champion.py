"""Make the model that serves smaller: search a plan on its held-out impressions, carry it out, promote it if every gate passes.

Weekly by itself (`ELASTIC_CTR_COMPRESS_SCHEDULE`). The plan is searched for on one half of the held-out users and reported on
the other; the candidate is exported, compared with the trained model and the champion before, and becomes champion only through
the model gate. The checkpoint that tomorrow starts from is not touched, and tomorrow's model is compressed as its YAML says: copy
the plan there to keep it.

**To run it:** trigger a run. `max_auc_drop` or `budget_bytes` say what the search is for; `steps` (a YAML list) with neither of
them is carried out as it is. Plan, figures and picture lie in `<workspace>/compression-search/dt=<day>/` and in MLflow.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import DAG, CronTriggerTimetable
from airflow.sdk.bases.operator import chain

from dags.champion_task import SEARCH, PlannedTask, SearchTask
from dags.defaults import DEFAULT_ARGUMENTS
from dags.form import compression_form
from pipelines.services.schedule import compress_cron, schedule_zone

STAGES = ("compress", "export", "validate-model", "promote")
"""What is done with the plan, in order."""


def build_dag() -> DAG:
    """Return the DAG."""
    zone = schedule_zone()
    dag = DAG(
        dag_id="compress_champion",
        description="A smaller export of the model that serves, through the gates.",
        doc_md=__doc__,
        schedule=CronTriggerTimetable(compress_cron(), timezone=zone.key),
        start_date=datetime(2015, 1, 1, tzinfo=zone),
        catchup=False,
        max_active_runs=1,
        params=compression_form(),
        default_args=DEFAULT_ARGUMENTS,
        tags=["elastic-ctr", "compression"],
    )
    with dag:
        chain(_search(), *map(_planned, STAGES))
    return dag


def _search() -> SearchTask:
    return SearchTask(
        task_id=SEARCH,
        stage="search-compression",
        execution_timeout=timedelta(hours=4),
        doc_md="Find the steps.\n\nBy hand: `elastic-ctr search-compression --date champion --max-auc-drop 0.0005`",
    )


def _planned(stage: str) -> PlannedTask:
    return PlannedTask(
        task_id=stage.replace("-", "_"),
        stage=stage,
        execution_timeout=timedelta(hours=2),
        doc_md=f"Stage `{stage}` with the plan.\n\nBy hand: `elastic-ctr {stage} --date DAY --plan plan.yaml`",
    )


compress_champion = build_dag()
