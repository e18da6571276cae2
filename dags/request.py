"""What a DAG run asks for, read from its parameters, and the command line that a stage gets for it."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import yaml

from dags.partition import Calendar, resolve_partition
from features.errors import InputError
from features.partition import Partition, is_before
from pipelines.services.schedule import runs_by_hour, schedule_zone

SUBJECT = ("config", "date", "hour", "workspace")
CLI = (sys.executable, "-m", "pipelines.cli")
BACKFILL = "backfill"


class DagRunLike(Protocol):
    """What is read of Airflow's DAG run."""

    @property
    def run_type(self) -> str:
        """`manual`, `scheduled`, `backfill`, …"""

    @property
    def data_interval_start(self) -> datetime | None:
        """Start of the interval that the run covers; some runs have none."""


@dataclass(frozen=True)
class Request:
    """A day or hour to train, from which configuration, into which workspace, with which settings overridden (`a.b=value`)."""

    day: Partition
    config: str
    workspace: str
    overrides: tuple[str, ...] = ()

    def follows(self, earlier: Request) -> bool:
        """Whether `earlier` is a day or hour before this one, of the same configuration and workspace."""
        return (self.config, self.workspace) == (earlier.config, earlier.workspace) and is_before(
            earlier.day, self.day
        )

    def command(self, stage: str) -> list[str]:
        """Return the arguments of a stage's command line; a value never becomes an option or shell text."""
        argv = [*CLI, stage, f"--config={self.config}", f"--date={self.day.isoformat()}"]
        argv += [f"--workspace={self.workspace}"] if self.workspace else []
        return argv + [f"--set={override}" for override in self.overrides]


def read_request(params: Mapping[str, Any], run: DagRunLike) -> Request:
    """Return what a run asks for; raises InputError when its day or hour is not known.

    Args:
        params: the run's parameters over the form's defaults; a setting that is None keeps the YAML's value.
        run: gives the day or hour where `date` is empty.
    """
    calendar = Calendar(schedule_zone(), runs_by_hour())
    day = resolve_partition(
        params.get("date"), params.get("hour"), run.data_interval_start, calendar
    )
    settings = {
        path: value for path, value in params.items() if path not in SUBJECT and value is not None
    }
    overrides = tuple(f"{path}={_spell(value)}" for path, value in settings.items())
    return Request(day, str(params["config"]), str(params.get("workspace") or ""), overrides)


def check_params(params: Mapping[str, Any], run: DagRunLike, known: Collection[str]) -> None:
    """Refuse what Airflow lets through: parameters that the form does not have, and one date or hour for a whole backfill.

    Raises:
        InputError: naming the parameters, and what to do.
    """
    unknown = sorted(set(params) - set(known))
    if unknown:
        raise InputError(f"unknown parameters {unknown}: the form offers {', '.join(known)}")
    if is_backfill(run) and (params.get("date") or params.get("hour") is not None):
        raise InputError(
            "a backfill gives each run its own day or hour: leave `date` and `hour` empty, or trigger a single run"
        )


def is_backfill(run: DagRunLike) -> bool:
    """Whether a backfill made this run."""
    return str(getattr(run.run_type, "value", run.run_type)) == BACKFILL


def _spell(value: Any) -> str:
    """Write a value in one line so that YAML reads it back as it is (YAML 1.1 takes the `1e-05` of JSON for text)."""
    style = '"' if isinstance(value, str) else None
    return (
        yaml.safe_dump(value, default_style=style, width=math.inf)
        .removesuffix("...\n")
        .rstrip("\n")
    )
