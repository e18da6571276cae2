"""Pretrain the cross features anew: build the graph of the days before, fit encodings of its nodes, gate them.

Weekly by itself (`ELASTIC_CTR_PRETRAIN_SCHEDULE`). `daily_retrain` uses the last ones of a day not after its own, and makes
them itself only where there are none or they are older than `pretraining.every_days`. Trigger a run here after a change of the
relations or of `pretraining`, or to have new ones sooner.

**To run it:** trigger a run and pick a date: the day whose training may use them first. The graph holds no impression of it.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import DAG, CronTriggerTimetable

from dags.defaults import DEFAULT_ARGUMENTS
from dags.form import trigger_form
from dags.stage_task import StageTask
from pipelines.services.schedule import pretrain_cron, schedule_zone

ANEW = ("pretraining.every_days=1",)
"""No encodings of a day before are young enough."""


def build_dag() -> DAG:
    """Return the DAG; a scheduled run is for the day that ends when it starts."""
    zone = schedule_zone()
    dag = DAG(
        dag_id="pretrain_cross_features",
        description="The cross graph and the encodings that the click model reads frozen.",
        doc_md=__doc__,
        schedule=CronTriggerTimetable(
            pretrain_cron(), timezone=zone.key, interval=timedelta(days=1)
        ),
        start_date=datetime(2015, 1, 1, tzinfo=zone),
        catchup=False,
        max_active_runs=1,
        params=trigger_form(),
        default_args=DEFAULT_ARGUMENTS,
        tags=["elastic-ctr", "training"],
    )
    with dag:
        _graph() >> _pretrain()
    return dag


def _graph() -> StageTask:
    return StageTask(
        task_id="cross_graph",
        stage="cross-graph",
        settings=ANEW,
        pool="spark",
        execution_timeout=timedelta(hours=4),
        doc_md="Build the graph of the days before.\n\nBy hand: `elastic-ctr cross-graph --set pretraining.every_days=1`",
    )


def _pretrain() -> StageTask:
    return StageTask(
        task_id="pretrain",
        stage="pretrain",
        settings=ANEW,
        execution_timeout=timedelta(hours=4),
        doc_md="Fit and gate the encodings.\n\nBy hand: `elastic-ctr pretrain --set pretraining.every_days=1`",
    )


pretrain_cross_features = build_dag()
