"""Compress the champion: search a plan on its held-out impressions, apply it, promote the result.

By default it runs weekly (`ELASTIC_CTR_COMPRESS_SCHEDULE`). The plan is searched on one half of the
held-out users and evaluated on the other half. The candidate is exported and compared with the
trained model and the champion before; it becomes the champion only if it passes the model gate. The
checkpoint that the next day starts from is not changed, and the next day's model is compressed as
its YAML file says: copy the plan there to keep it.

**To run it:** trigger a run. `max_auc_drop` or `budget_bytes` is the goal of the search; without
both, `steps` (a YAML list) are applied as given. Plan, figures and plot are written to
`<workspace>/compression-search/dt=<day>/` and to MLflow.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, CronTriggerTimetable
from airflow.sdk.bases.operator import chain

from dags.approval import Approval, approval_form
from dags.form import compression_form
from dags.request import CLI, RunRequest
from dags.stage_task import StageTask, dag_arguments, stage_environment
from features.partition import partition_of
from pipelines.services.schedule import compress_cron, schedule_zone

if TYPE_CHECKING:
    from airflow.sdk import Context

SEARCH = "search_plan"
STAGES = ("compress", "export", "validate-model", "promote")
"""The stages that run with the plan, in order."""

LIMITS = {"budget_bytes": "--budget-bytes", "max_auc_drop": "--max-auc-drop", "plans": "--plans"}
"""Parameter of the form → option of the search."""


class SearchTask(StageTask):
    """Run `elastic-ctr search-compression` for the champion's day, or for the day of the form."""

    def run_stage(self, context: Context) -> str:
        """Return the plan's path; raises by the table of `dags.stage_task`."""
        params = context["params"]
        day = params.get("date") or "champion"
        argv = [*CLI, self.stage, f"--config={params['config']}", f"--date={day}"]
        argv += [f"--workspace={params['workspace']}"] if params.get("workspace") else []
        limits = {option: params.get(name) for name, option in LIMITS.items()}
        argv += [f"{option}={value}" for option, value in limits.items() if value is not None]
        argv += ["--fine-tune"] if params.get("fine_tune") else []
        argv += [f"--set=compression.steps={params['steps']}"] if params.get("steps") else []
        return self.run_command(argv, stage_environment(os.environ, context))


class PlannedTask(StageTask):
    """Run a stage with the plan of the search, for the day that was searched."""

    def run_stage(self, context: Context) -> str:
        """Return the manifest's path; raises by the table of `dags.stage_task`."""
        # Plan and day come from the search's XCom, so that all tasks are of one model, also if
        # another one is promoted meanwhile.
        plan = str(context["ti"].xcom_pull(task_ids=SEARCH))
        command = planned_request(context["params"], plan).command(self.stage)
        return self.run_command(
            [*command, f"--plan={plan}"], stage_environment(os.environ, context)
        )


def planned_request(params: Mapping[str, Any], plan: str) -> RunRequest:
    """Return the request of a plan's stages.

    Raises:
        InputError: the plan is not in the folder of a day or hour (`…/dt=<day>/plan.yaml`).
    """
    folder = PurePath(plan).parent
    # A day is a folder `dt=`, an hour a folder `hm=` in it.
    parts = folder.parts[-2:] if folder.name.startswith("hm=") else folder.parts[-1:]
    day = partition_of(PurePath(*parts))
    return RunRequest(day, str(params["config"]), str(params.get("workspace") or ""))


def build_dag() -> DAG:
    """Return the DAG."""
    dag = DAG(
        dag_id="compress_champion",
        description="A smaller export of the model that serves, through the gates.",
        doc_md=__doc__,
        # A run is for the model that serves when it starts, not for an interval of data.
        schedule=CronTriggerTimetable(compress_cron(), timezone=schedule_zone().key),
        params={**compression_form(), **approval_form()},
        tags=["elastic-ctr", "compression"],
        **dag_arguments(),
    )
    with dag:
        search = SearchTask(
            task_id=SEARCH,
            stage="search-compression",
            execution_timeout=timedelta(hours=4),
            doc_md="Find the steps.\n\nBy hand: "
            "`elastic-ctr search-compression --date champion --max-auc-drop 0.0005`",
        )
        planned = [
            PlannedTask(
                task_id=stage.replace("-", "_"),
                stage=stage,
                execution_timeout=timedelta(hours=2),
                doc_md=f"Stage `{stage}` with the plan.\n\n"
                f"By hand: `elastic-ctr {stage} --date DAY --plan plan.yaml`",
            )
            for stage in STAGES
        ]
        chain(search, *planned[:-1], Approval(task_id="approve"), planned[-1])
    return dag


compress_champion = build_dag()
