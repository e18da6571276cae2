"""Train, shrink, check and promote the model of one day, or of one hour.

Each task is one stage of `elastic-ctr`, in its own process. The first task waits until every earlier day (or hour) that was
requested is done, so that they are learned in order. One without data is skipped; a candidate that is not better is
refused on a green day; unsound data or an unsound model turns the day red.

**To run it:** trigger a run and pick a date (and an hour of it), or make a backfill over a range of days with *max active
runs* 1 (Airflow ignores the DAG's own limit there). Settings that are left empty in the form keep the values of the YAML file.

**By the hour:** with `ELASTIC_CTR_PARTITION=hour` in Airflow's environment each run of the schedule, or of a backfill, is of
the hour that just ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from airflow.sdk import DAG, CronDataIntervalTimetable

from dags.defaults import DEFAULT_ARGUMENTS
from dags.earlier_days import EarlierDays
from dags.form import trigger_form
from dags.stage_task import StageTask
from pipelines.services.schedule import schedule_cron, schedule_zone


@dataclass(frozen=True)
class Stage:
    """A task: the stage it runs, what that does in a sentence, the pool it waits for and how long it may take."""

    name: str
    doc: str
    pool: str = "default_pool"
    timeout: timedelta = timedelta(hours=1)

    @property
    def task_id(self) -> str:
        """The stage's name, as Airflow spells identifiers."""
        return self.name.replace("-", "_")


STAGES = (
    Stage(
        "ingest",
        "Read the day's raw log, type and deduplicate it, put bad rows aside.",
        "spark",
        timedelta(hours=4),
    ),
    Stage(
        "validate-data",
        "Check the day's aggregates (Great Expectations); an unsound day stops here.",
    ),
    Stage(
        "feature-statistics",
        "Count impressions and clicks per field and value.",
        "spark",
        timedelta(hours=4),
    ),
    Stage(
        "cross-counts",
        "Count the day's co-occurrences, for the graphs of later days.",
        "spark",
        timedelta(hours=4),
    ),
    Stage(
        "cross-graph",
        "Build the graph of the days before, where encodings are due.",
        "spark",
        timedelta(hours=4),
    ),
    Stage(
        "pretrain",
        "Fit encodings of the graph's nodes, where the last ones are too old; training reads them frozen.",
    ),
    Stage(
        "train",
        "Evaluate yesterday's model on the day, then learn the day.",
        "gpu",
        timedelta(hours=12),
    ),
    Stage("compress", "Drop zero rows and optimizer state from a copy of the checkpoint."),
    Stage("export", "Write the SavedModel of stock ops: raw strings in, probability out."),
    Stage(
        "validate-model",
        "Compare the export with the trained model, the champion and the baselines; write the verdict.",
    ),
    Stage("promote", "Move the champion alias to a blessed candidate; leave it for a refused one."),
    Stage("monitor", "Write the day's metrics file."),
)

FLOW = (
    ("ingest", "validate_data", "feature_statistics", "train"),
    ("ingest", "cross_graph", "pretrain", "train"),
    ("validate_data", "cross_counts", "monitor"),
    ("train", "compress", "export", "validate_model", "promote", "monitor"),
)
"""Chains of tasks. The graph reads only earlier days, so it is built beside the check of this one; this day's own counts are
for the days after it."""


def build_dag() -> DAG:
    """Return the DAG; `ELASTIC_CTR_PARTITION`, `ELASTIC_CTR_SCHEDULE` (cron) and `ELASTIC_CTR_TIMEZONE` say when it runs."""
    zone = schedule_zone()
    dag = DAG(
        dag_id="daily_retrain",
        description="One task a stage: a day (or hour) of impressions becomes a checked and promoted model.",
        doc_md=__doc__,
        schedule=CronDataIntervalTimetable(schedule_cron(), timezone=zone.key),
        start_date=datetime(2015, 1, 1, tzinfo=zone),
        catchup=False,
        max_active_runs=1,
        params=trigger_form(),
        default_args=DEFAULT_ARGUMENTS,
        tags=["elastic-ctr", "training"],
    )
    with dag:
        _wire(
            EarlierDays(
                task_id="earlier_days",
                poke_interval=15,
                timeout=timedelta(days=1),
                doc_md=EarlierDays.__doc__,
            )
        )
    return dag


def _wire(first: EarlierDays) -> None:
    tasks = {stage.task_id: _task(stage) for stage in STAGES}
    first >> tasks["ingest"]
    for chain in FLOW:
        for before, after in pairwise(chain):
            tasks[before] >> tasks[after]


def _task(stage: Stage) -> StageTask:
    return StageTask(
        task_id=stage.task_id,
        stage=stage.name,
        pool=stage.pool,
        execution_timeout=stage.timeout,
        doc_md=f"{stage.doc}\n\nBy hand: `elastic-ctr {stage.name} --config FILE --date YYYY-MM-DD` (or `YYYY-MM-DDTHH`)",
    )


daily_retrain = build_dag()
