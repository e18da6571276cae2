"""Pretrain the cross features: build the graph of the days before, fit and gate its encodings.

By default it runs weekly (`ELASTIC_CTR_PRETRAIN_SCHEDULE`). `daily_retrain` uses the last encodings
that are not of a later day, and pretrains itself only where there are none or they are older than
`pretraining.every_days`. Trigger a run here after a change of the relations or of `pretraining`.

**To run it:** trigger a run and pick a date: the first day whose training may use the encodings.
The graph holds no impression of it.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, CronTriggerTimetable

from dags.form import trigger_form
from dags.stage_task import StageTask, dag_arguments
from pipelines.services.schedule import pretrain_cron, schedule_zone

# With this setting no earlier encodings are recent enough, so both stages do their work.
SETTINGS = ("pretraining.every_days=1",)


def build_dag() -> DAG:
    """Return the DAG; a scheduled run is for the day that ends when it starts."""
    dag = DAG(
        dag_id="pretrain_cross_features",
        description="The cross graph and the encodings that the click model reads frozen.",
        doc_md=__doc__,
        # An interval of one day, not of the week between two runs: a run is for the day that ends
        # when it starts.
        schedule=CronTriggerTimetable(
            pretrain_cron(), timezone=schedule_zone().key, interval=timedelta(days=1)
        ),
        params=trigger_form(),
        tags=["elastic-ctr", "training"],
        **dag_arguments(),
    )
    with dag:
        graph = _task("cross-graph", "Build the graph of the days before.", "spark")
        graph >> _task("pretrain", "Fit and gate the encodings.", "default_pool")
    return dag


def _task(stage: str, text: str, pool: str) -> StageTask:
    return StageTask(
        task_id=stage.replace("-", "_"),
        stage=stage,
        settings=SETTINGS,
        pool=pool,
        execution_timeout=timedelta(hours=4),
        doc_md=f"{text}\n\nBy hand: `elastic-ctr {stage} --set {SETTINGS[0]}`",
    )


pretrain_cross_features = build_dag()
