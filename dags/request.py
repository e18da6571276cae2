"""What a DAG run requests, read from its parameters, and the command lines of its stages."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import yaml

from dags.run_date import Calendar, resolve_partition
from features.errors import InputError
from features.partition import Partition, is_before
from pipelines.services.environment import FOLDERS_VARIABLE, allowed_folders
from pipelines.services.schedule import runs_by_hour, schedule_zone

SUBJECT = ("config", "date", "hour", "workspace", "approval")
"""Parameters that are no settings of the configuration."""

CLI = (sys.executable, "-m", "pipelines.cli")
BACKFILL = "backfill"
PATHS = ("config", "workspace")


class DagRunLike(Protocol):
    """The attributes of Airflow's DAG run that are read here."""

    @property
    def run_type(self) -> str:
        """`manual`, `scheduled`, `backfill`, …"""

    @property
    def data_interval_start(self) -> datetime | None:
        """Start of the interval that the run covers; some runs have none."""


@dataclass(frozen=True)
class RunRequest:
    """A day or hour to train on, the configuration, the workspace, and overrides (`a.b=value`)."""

    day: Partition
    config: str
    workspace: str
    overrides: tuple[str, ...] = ()

    def follows(self, earlier: RunRequest) -> bool:
        """Whether `earlier` is of the same configuration and workspace and ended before this."""
        same_line = (self.config, self.workspace) == (earlier.config, earlier.workspace)
        return same_line and is_before(earlier.day, self.day)

    def command(self, stage: str) -> list[str]:
        """Return the arguments of a stage's command line."""
        # `--name=value` in one word: a value that begins with `-` does not become an option. No
        # shell is involved.
        argv = [*CLI, stage, f"--config={self.config}", f"--date={self.day.isoformat()}"]
        argv += [f"--workspace={self.workspace}"] if self.workspace else []
        return argv + [f"--set={override}" for override in self.overrides]


def read_request(params: Mapping[str, Any], run: DagRunLike) -> RunRequest:
    """Return what a run requests.

    Args:
        params: the run's parameters over the form's defaults; for a setting that is None the YAML
            file's value is used.
        run: gives the day or hour if `date` is empty.

    Raises:
        InputError: the day or hour is not known, or a path lies outside the allowed folders.
    """
    for name in PATHS:
        check_path(name, str(params.get(name) or ""))
    calendar = Calendar(schedule_zone(), runs_by_hour())
    day = resolve_partition(
        params.get("date"), params.get("hour"), run.data_interval_start, calendar
    )
    overrides = tuple(
        f"{path}={_to_yaml(value)}"
        for path, value in params.items()
        if path not in SUBJECT and value is not None
    )
    return RunRequest(day, str(params["config"]), str(params.get("workspace") or ""), overrides)


def check_params(params: Mapping[str, Any], run: DagRunLike, known: Collection[str]) -> None:
    """Check what Airflow does not check.

    Raises:
        InputError: a parameter is not in the form, or one date or hour is given for a whole
            backfill.
    """
    unknown = sorted(set(params) - set(known))
    if unknown:
        raise InputError(f"unknown parameters {unknown}: the form offers {', '.join(known)}")
    if is_backfill(run) and (params.get("date") or params.get("hour") is not None):
        raise InputError(
            "a backfill gives each run its own day or hour: leave `date` and `hour` empty, "
            "or trigger a single run"
        )


def check_path(name: str, value: str) -> None:
    """Check that a path of the form is below one of the allowed folders, links followed.

    A stage reads and writes with the rights of Airflow's user, and shows parts of a wrong
    configuration in its log: a person who may only trigger runs must not choose any file.

    Raises:
        InputError: it does not.
    """
    folders = [Path(folder).resolve() for folder in allowed_folders()]
    path = Path(value).resolve()
    if value and not any(path.is_relative_to(folder) for folder in folders):
        raise InputError(
            f"{name} {value}: not in an allowed folder ({', '.join(map(str, folders))}); "
            f"the environment variable {FOLDERS_VARIABLE} of Airflow lists them"
        )


def is_backfill(run: DagRunLike) -> bool:
    """Whether a backfill created this run."""
    # Airflow gives a string or an enum, depending on where the run comes from.
    return str(getattr(run.run_type, "value", run.run_type)) == BACKFILL


def _to_yaml(value: Any) -> str:
    """Return a value as one line of YAML. JSON does not do: YAML 1.1 reads its `1e-05` as text."""
    # Quoted, so that a text such as `yes` or `1` does not become another type.
    style = '"' if isinstance(value, str) else None
    # Never wrapped, because an override is one argument of a command line.
    text = yaml.safe_dump(value, default_style=style, width=math.inf)
    # PyYAML ends a plain scalar with the mark of a document's end.
    return text.removesuffix("...\n").rstrip("\n")
