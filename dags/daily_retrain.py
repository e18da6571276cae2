"""Train, compress, check and promote the model of one day or of one hour.

Each task is one stage of `elastic-ctr`, in its own process. The first task waits until every
earlier day (or hour) that was requested is done, so that they are trained on in order. `ingest`
waits for a day without data until its deadline (`schedule.deadline_hours`); then the run is red, or
the day is skipped (`schedule.missing_input: skip`). A candidate that is not better is refused, and
the run is green; unsound data or an unsound model makes the run red.

**To run it:** trigger a run and pick a date (and an hour of it), or create a backfill over a range
of days with *max active runs* 1 (Airflow ignores the DAG's own limit there). Settings that are left
empty in the form have the values of the YAML file.

**By the hour:** with `ELASTIC_CTR_PARTITION=hour` in Airflow's environment each scheduled or
backfilled run is of the hour that just ended.
"""

from __future__ import annotations

import inspect
from datetime import timedelta

from airflow.sdk import DAG, CronDataIntervalTimetable, TaskGroup
from airflow.sdk.bases.operator import chain

from dags.approval import Approval, approval_form
from dags.earlier_days import EarlierDays
from dags.form import trigger_form
from dags.stage_task import StageTask, dag_arguments
from pipelines.services.schedule import schedule_cron, schedule_zone
from pipelines.stages.registry import PHASES, dependencies, stage_class, stages_of_phases

TIMEOUTS = {
    "default_pool": timedelta(hours=1),
    "spark": timedelta(hours=4),
    "gpu": timedelta(hours=12),
}
"""How long a task may take, by its pool."""


def build_dag() -> DAG:
    """Return the DAG.

    `ELASTIC_CTR_PARTITION`, `ELASTIC_CTR_SCHEDULE` (cron) and `ELASTIC_CTR_TIMEZONE` set its
    schedule.
    """
    dag = DAG(
        dag_id="daily_retrain",
        description="One task per stage: a day (or hour) of impressions becomes a promoted model.",
        doc_md=__doc__,
        # Gives each run an interval, from which `dags.run_date` reads the day. In Airflow 3 a
        # plain cron string gives an empty one at the time of the run, unless configured otherwise.
        schedule=CronDataIntervalTimetable(schedule_cron(), timezone=schedule_zone().key),
        params={**trigger_form(), **approval_form()},
        tags=["elastic-ctr", "training"],
        **dag_arguments(),
    )
    with dag:
        first = EarlierDays(
            task_id="earlier_days",
            poke_interval=15,
            timeout=timedelta(days=1),
            doc_md=EarlierDays.__doc__,
        )
        tasks: dict[str, StageTask] = {}
        for phase, names in stages_of_phases().items():
            # Without the group's prefix: a task keeps its id when a stage changes its phase.
            with TaskGroup(phase, prefix_group_id=False, group_display_name=PHASES[phase][0]):
                tasks |= {name: _task(name) for name in names}
                if "promote" in names:
                    approval = Approval(task_id="approve")
        for name, needed in dependencies().items():
            # A stage that needs no other stage waits for the earlier days.
            before = [tasks[other] for other in needed] or [first]
            chain(before, *([approval] if name == "promote" else []), tasks[name])
    return dag


def _task(name: str) -> StageTask:
    stage = stage_class(name)
    command = f"elastic-ctr {name} --config FILE --date YYYY-MM-DD"
    # Without an approval there is no promotion, and the day still has figures.
    rule = "none_failed_min_one_success" if name == "monitor" else "all_success"
    return StageTask(
        task_id=name.replace("-", "_"),
        stage=name,
        pool=stage.pool,
        trigger_rule=rule,
        execution_timeout=TIMEOUTS[stage.pool],
        doc_md=f"{inspect.getdoc(stage)}\n\nBy hand: `{command}` (or `YYYY-MM-DDTHH`)",
    )


daily_retrain = build_dag()
