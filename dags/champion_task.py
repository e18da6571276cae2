"""Tasks of `compress_champion`: a search for a plan, and stages that carry the plan out for the day that was searched.

The search's XCom is the path of its plan, `…/dt=<day>/plan.yaml`: the tasks after it take plan and day from there, so that all
of them are of one model, whatever is promoted meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from dags.request import CLI, Request
from dags.stage_task import StageTask, stage_environment
from features.partition import partition_of

if TYPE_CHECKING:
    from airflow.sdk import Context

SEARCH = "search_plan"
LIMITS = {"budget_bytes": "--budget-bytes", "max_auc_drop": "--max-auc-drop", "plans": "--plans"}
"""Options of the search by the parameter that gives them."""


class SearchTask(StageTask):
    """Run `elastic-ctr search-compression` for the champion's day, or the day that the form names."""

    def execute(self, context: Context) -> str:
        """Return the plan's path; raises Airflow's exceptions by the table of `dags.stage_task`."""
        params = context["params"]
        argv = [
            *CLI,
            self.stage,
            f"--config={params['config']}",
            f"--date={params.get('date') or 'champion'}",
        ]
        argv += [f"--workspace={params['workspace']}"] if params.get("workspace") else []
        argv += [
            f"{option}={params[name]}"
            for name, option in LIMITS.items()
            if params.get(name) is not None
        ]
        argv += ["--fine-tune"] if params.get("fine_tune") else []
        argv += [f"--set=compression.steps={params['steps']}"] if params.get("steps") else []
        return self.run_command(argv, stage_environment(os.environ, ""))


class PlannedTask(StageTask):
    """Run a stage with the plan that the search left, for the day that the search was of."""

    def execute(self, context: Context) -> str:
        """Return the manifest's path; raises Airflow's exceptions by the table of `dags.stage_task`."""
        plan = str(context["ti"].xcom_pull(task_ids=SEARCH))
        request = planned_request(context["params"], plan)
        return self.run_command(
            [*request.command(self.stage), f"--plan={plan}"], stage_environment(os.environ, "")
        )


def planned_request(params: Mapping[str, Any], plan: str) -> Request:
    """Return what the stages of a plan are run for; raises InputError when the plan does not lie in the folder of a day."""
    folder = PurePath(plan).parent
    day = partition_of(
        PurePath(*folder.parts[-2:]) if folder.name.startswith("hm=") else PurePath(folder.name)
    )
    return Request(day, str(params["config"]), str(params.get("workspace") or ""))
