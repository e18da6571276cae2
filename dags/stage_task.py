"""One task is one stage of the command line, in its own process group: Airflow loads no TensorFlow.

| exit code | the task |
|---|---|
| 0 | succeeds; its XCom is the path of the stage's manifest and nothing else |
| 4 | fails without another try: the source has no data for the day or hour; with |
|   | `schedule.missing_input: skip` it is skipped |
| 75 before the day's deadline, without data | starts again in ten minutes |
| 75 otherwise, or killed by a signal | fails and is tried again |
| 2, 3, any other | fails without another try, which would fail as well |
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, AssetAlias, BaseOperator, BaseOperatorLink
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSkipException,
    AirflowTaskTimeout,
)

from dags.request import read_request
from dags.stage_process import StageProcess
from pipelines.services.environment import RUN_URL_VARIABLE
from pipelines.services.schedule import schedule_zone
from pipelines.stages.registry import PUBLISHED

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.types import TaskInstanceKey

EXIT_NO_DATA = 4
EXIT_RETRY = 75
MANIFEST = "manifest="
MISSING_INPUT = "missing_input="
LINK = "link="
LINKS = ("MLflow run", "Report")
DATA_DOCS = "Data Docs"
WAIT = timedelta(minutes=10)
"""Time between two looks for the data of a day or hour whose deadline has not passed."""
# An XCom is a row of Airflow's database: a path, never data.
MAX_XCOM_CHARACTERS = 500

# A shell reports a command that signal n killed as 128 + n.
_SHELL_SIGNAL_BASE = 128
_MEANINGS = {
    2: (
        "bad input or configuration",
        "correct what the cause names. A file or the log: clear this task. A value of the form: "
        "trigger a new run.",
    ),
    3: (
        "unsound data or model",
        "the last champion still serves. See the report; correct the data and clear `ingest`, or "
        "change the gate (`data_gate`, `model_gate`) in the YAML file and clear this task.",
    ),
    EXIT_NO_DATA: (
        "the source has no data for this day or hour",
        "repair the source and clear this task, or mark the run as a success to go on without it.",
    ),
}
_UNEXPECTED = (
    "an unexpected error",
    "see docs/troubleshooting.md and the traceback's file that the cause names; clear this task "
    "when it is corrected.",
)
_TRY_AGAIN = (
    "Airflow tries again, if tries are left. After the last one correct what the cause names and "
    "clear this task."
)
MAX_CAUSE_CHARACTERS = 2000
# The beginning of the CLI's error message.
_ERROR = "error:"


def dag_arguments() -> dict[str, Any]:
    """Return the arguments that all DAGs share.

    They are here and not in a DAG file, because importing a DAG file from another one would
    register its DAG twice. Each DAG file calls `DAG` itself: Airflow records the calling file.
    """
    return {
        "start_date": datetime(2015, 1, 1, tzinfo=schedule_zone()),
        "catchup": False,
        # A day starts from the model of the day before, so its run cannot overlap with that one's.
        "max_active_runs": 1,
        "default_args": {
            "owner": "elastic-ctr",
            # For the exit codes that are worth another try; the others fail without one.
            "retries": 2,
            "retry_delay": timedelta(seconds=30),
            "retry_exponential_backoff": True,
            "max_retry_delay": timedelta(minutes=10),
        },
    }


class StageLink(BaseOperatorLink):
    """A button on a task: it opens an address that the stage printed (`link=<name> <address>`).

    Airflow reads it when the task has ended, also when it failed.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def name(self) -> str:
        """The text of the button."""
        return self._name

    @property
    def xcom_key(self) -> str:
        """The key under which Airflow stores the address."""
        return f"link_{self._name}"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the address; empty where the stage printed none."""
        return str(getattr(operator, "links", {}).get(self._name, ""))


class StageTask(BaseOperator):
    """Run `elastic-ctr <stage>` for the run's day or hour.

    A killed or timed-out task ends the whole process group of its stage.

    Args:
        stage: the command.
        settings: overrides (`a.b=value`) that come after those of the form.
        **kwargs: those of every Airflow operator.
    """

    # Parameters reach the command as arguments, never as text that Jinja renders.
    template_fields = ()
    ui_color = "#e8f0fe"

    def __init__(self, *, stage: str, settings: tuple[str, ...] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stage = stage
        self.settings = settings
        self._process: StageProcess | None = None
        self.links: dict[str, str] = {}
        names = (*LINKS, *([DATA_DOCS] if stage == "validate-data" else []))
        self.operator_extra_links = [StageLink(name) for name in names]
        if stage in PUBLISHED:
            # An alias: Airflow would update a plain asset whenever the task succeeds, also where
            # a candidate was refused or earlier encodings are still valid.
            self.outlets = [AssetAlias(asset_of(stage).name)]

    def execute(self, context: Context) -> str:
        """Run the stage and return its manifest's path; raises by the table of this module."""
        manifest = self.run_stage(context)
        if self.outlets and is_new(manifest, context["dag_run"].start_date):
            asset = asset_of(self.stage)
            # Airflow creates the asset at its first update.
            context["outlet_events"][self.outlets[0]].add(asset, extra={"manifest": manifest})
        return manifest

    def run_stage(self, context: Context) -> str:
        """Run the command and return the manifest's path."""
        request = read_request(context["params"], context["dag_run"])
        # The task's own settings come last, so they override those of the form.
        argv = replace(request, overrides=(*request.overrides, *self.settings)).command(self.stage)
        return self.run_command(argv, stage_environment(os.environ, context))

    def run_command(self, argv: list[str], environment: Mapping[str, str]) -> str:
        """Run a command as a stage: log its output and raise by its exit code."""
        manifest = missing_input = cause = ""

        def forward(line: str) -> None:
            nonlocal manifest, missing_input, cause
            self.log.info("%s", line)
            if line.startswith(MANIFEST):
                manifest = line.removeprefix(MANIFEST).strip()
            if line.startswith(MISSING_INPUT):
                missing_input = line.removeprefix(MISSING_INPUT).strip()
            if line.startswith(LINK):
                name, _, address = line.removeprefix(LINK).strip().rpartition(" ")
                self.links[name] = address
            # The message comes last; it may have several lines.
            if line.startswith(_ERROR) or cause:
                cause = f"{cause}\n{line.removeprefix(_ERROR)}".strip()[:MAX_CAUSE_CHARACTERS]

        self.log.info("Running %s", argv)
        self._process = StageProcess(argv, environment)
        try:
            exit_code = self._process.run(forward)
        except AirflowTaskTimeout as error:
            limit = self.execution_timeout
            what = f"took longer than {limit}, the limit of this task, and was ended"
            remedy = (
                "Airflow tries again, if tries are left; a training continues from its last saved "
                "state. If it is only slow, raise `execution_timeout` in the DAG file."
            )
            raise AirflowException(_failure(self.stage, what, "the log above", remedy)) from error
        raise_for_exit_code(self.stage, exit_code, missing_input, cause)
        if not manifest or len(manifest) > MAX_XCOM_CHARACTERS:
            raise AirflowFailException(
                f"{self.stage}: expected a line `{MANIFEST}<path>` of at most "
                f"{MAX_XCOM_CHARACTERS} characters on its output, got {manifest!r}"
            )
        return manifest

    def on_kill(self) -> None:
        """End the stage's process group: SIGTERM, then SIGKILL."""
        if self._process is not None:
            self._process.terminate()


def stage_environment(environment: Mapping[str, str], context: Context) -> dict[str, str]:
    """Return a stage's environment, with the task's address in Airflow.

    It is without Airflow's settings, which hold secrets.
    """
    run_url = str(getattr(context["ti"], "log_url", "") or "")
    airflow = ("AIRFLOW__", "_AIRFLOW")
    kept = {name: value for name, value in environment.items() if not name.startswith(airflow)}
    # Unbuffered, so that a line of the stage is in the log when it is printed.
    return {**kept, "PYTHONUNBUFFERED": "1", RUN_URL_VARIABLE: run_url}


def asset_of(stage: str) -> Asset:
    """Return the asset that a stage updates, `elastic_ctr.champion` for instance."""
    name = PUBLISHED[stage]
    return Asset(f"elastic_ctr.{name}", uri=f"elastic-ctr://{name}")


def is_new(manifest: str, since: datetime | None) -> bool:
    """Whether a version was committed since this time and, of `promote`, moved the champion."""
    commit = json.loads(Path(manifest).read_text(encoding="utf-8"))
    new = since is None or commit["committed_at_s"] >= int(since.timestamp())
    return new and bool(commit["metrics"].get("promoted", True))


def raise_for_exit_code(
    stage: str, exit_code: int, missing_input: str = "", cause: str = ""
) -> None:
    """Raise the exception by which Airflow does what the table says; exit code 0 raises none.

    Args:
        stage: the command.
        exit_code: of its process.
        missing_input: what the command said of a day or hour without data: `wait`, `skip`, or
            nothing.
        cause: the command's error message. It ends the task's log, with what to do.
    """
    cause = cause or "the log above says why"
    if exit_code == 0:
        return
    if exit_code == EXIT_NO_DATA and missing_input == "skip":
        raise AirflowSkipException(
            f"{stage}: the source has no data for this day or hour; it is skipped"
        )
    if exit_code == EXIT_RETRY and missing_input == "wait":
        # No retry: those are few, and for failures.
        raise AirflowRescheduleException(datetime.now(UTC) + WAIT)
    if exit_code == EXIT_RETRY:
        what = f"a service it depends on failed (exit code {exit_code})"
        raise AirflowException(_failure(stage, what, cause, _TRY_AGAIN))
    if exit_code < 0 or exit_code > _SHELL_SIGNAL_BASE:
        what = f"killed (exit code {exit_code}; -9 often means that memory ran out)"
        raise AirflowException(_failure(stage, what, cause, _TRY_AGAIN))
    meaning, remedy = _MEANINGS.get(exit_code, _UNEXPECTED)
    what = f"{meaning} (exit code {exit_code})"
    raise AirflowFailException(_failure(stage, what, cause, remedy))


def _failure(stage: str, what: str, cause: str, remedy: str) -> str:
    return f"{stage}: {what}\nCause: {cause}\nWhat to do: {remedy}"
