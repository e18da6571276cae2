"""One task = one stage of the command line, in a process group of its own, so that Airflow never loads TensorFlow.

| exit code | the task |
|---|---|
| 0 | succeeds; its XCom is the path of the stage's manifest and nothing else |
| 4 | is skipped: the source has no data for the day or hour |
| 75, or killed by a signal | fails, and is tried again |
| 2, 3, any other | fails for good: trying again will not help |
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from dags.request import read_request
from dags.stage_process import StageProcess

if TYPE_CHECKING:
    from airflow.sdk import Context

EXIT_NO_DATA = 4
EXIT_RETRY = 75
MANIFEST = "manifest="
MAX_XCOM_CHARACTERS = 500
RUN_URL_VARIABLE = "ELASTIC_CTR_AIRFLOW_URL"

_SHELL_SIGNAL_BASE = 128
_MEANINGS = {2: "bad input or configuration", 3: "unsound data or model"}


class StageTask(BaseOperator):
    """Run `elastic-ctr <stage>` for the run's day or hour.

    `settings` (`a.b=value`) come after the form's. Nothing is a template: parameters reach the command as arguments, never as
    text that is rendered. A killed or timed-out task takes the whole process group of its stage with it.
    """

    template_fields = ()
    ui_color = "#e8f0fe"

    def __init__(self, *, stage: str, settings: tuple[str, ...] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stage = stage
        self.settings = settings
        self._process: StageProcess | None = None

    def execute(self, context: Context) -> str:
        """Run the stage and return its manifest's path; raises Airflow's exceptions by the table above."""
        request = read_request(context["params"], context["dag_run"])
        argv = replace(request, overrides=(*request.overrides, *self.settings)).command(self.stage)
        return self.run_command(argv, stage_environment(os.environ, _log_url(context)))

    def run_command(self, argv: list[str], environment: Mapping[str, str]) -> str:
        """Run a command as a stage: its output in the task's log, its exit code as the task's end."""
        self.log.info("Running %s", argv)
        manifest = _ManifestFinder(self.log.info)
        self._process = StageProcess(argv, environment)
        exit_code = self._process.run(manifest)
        raise_for_exit_code(self.stage, exit_code)
        return checked_manifest(self.stage, manifest.found)

    def on_kill(self) -> None:
        """End the stage's process group: SIGTERM, then SIGKILL."""
        if self._process is not None:
            self._process.terminate()


def stage_environment(environment: Mapping[str, str], run_url: str) -> dict[str, str]:
    """Return a stage's environment: Airflow's own settings (secrets among them) left out, output unbuffered."""
    own = {
        name: value
        for name, value in environment.items()
        if not name.startswith(("AIRFLOW__", "_AIRFLOW"))
    }
    return {**own, "PYTHONUNBUFFERED": "1", RUN_URL_VARIABLE: run_url}


def raise_for_exit_code(stage: str, exit_code: int) -> None:
    """Turn a stage's exit code into the exception that makes Airflow do what the table says; 0 passes."""
    if exit_code == 0:
        return
    if exit_code == EXIT_NO_DATA:
        raise AirflowSkipException(
            f"{stage}: the source has no data for this day or hour; it is skipped"
        )
    if exit_code == EXIT_RETRY:
        raise AirflowException(
            f"{stage}: trouble of the surroundings (exit code {exit_code}); worth another try"
        )
    if exit_code < 0 or exit_code > _SHELL_SIGNAL_BASE:
        raise AirflowException(
            f"{stage}: killed (exit code {exit_code}; -9 is often a lack of memory); worth another try"
        )
    meaning = _MEANINGS.get(exit_code, "an unexpected error")
    raise AirflowFailException(
        f"{stage}: {meaning} (exit code {exit_code}); the log above says why"
    )


def checked_manifest(stage: str, manifest: str) -> str:
    """Return the manifest's path when it is fit for XCom; raises AirflowFailException when it is missing or too long."""
    if not manifest or len(manifest) > MAX_XCOM_CHARACTERS:
        expected = f"a line `{MANIFEST}<path>` of at most {MAX_XCOM_CHARACTERS} characters"
        raise AirflowFailException(f"{stage}: expected {expected} on its output, got {manifest!r}")
    return manifest


class _ManifestFinder:
    """Pass each line on to the log and keep the last manifest path seen."""

    def __init__(self, log: Callable[[str, str], None]) -> None:
        self._log = log
        self.found = ""

    def __call__(self, line: str) -> None:
        self._log("%s", line)
        if line.startswith(MANIFEST):
            self.found = line.removeprefix(MANIFEST).strip()


def _log_url(context: Context) -> str:
    return str(getattr(context["ti"], "log_url", "") or "")
