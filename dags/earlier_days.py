"""The first task of a run: checks the parameters and waits for earlier requested days and hours.

A day warm-starts from the day before, so none may be left out. The state of the earlier runs
decides: a skipped day (no data) counts as a success; a failed one stops every later day of the same
configuration and workspace until it is cleared and succeeds, or until a person marks it a success.
Runs without a logical date are not seen (Airflow cannot list them to a task); the trigger form
always sets one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator
from airflow.sdk.exceptions import AirflowFailException

from dags.request import RunRequest, check_params, is_backfill, read_request
from features.errors import InputError
from features.partition import in_order

if TYPE_CHECKING:
    from airflow.sdk import Context

_END_OF_TIME = datetime(9999, 1, 1, tzinfo=UTC)


class RunState(StrEnum):
    """States of a DAG run, with Airflow's names."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"


@dataclass(frozen=True)
class EarlierRun:
    """A run of the same DAG: its state, what it requests, and whether a backfill created it."""

    run_id: str
    state: RunState
    request: RunRequest
    backfill: bool


class EarlierDays(BaseSensorOperator):
    """Wait until no earlier requested day or hour is open."""

    template_fields = ()

    def __init__(self, **kwargs: Any) -> None:
        # `reschedule` frees the worker slot between two pokes; `poke` would block it for hours.
        super().__init__(mode="reschedule", **kwargs)

    def poke(self, context: Context) -> bool:
        """Return whether the day or hour may start.

        Raises:
            AirflowFailException: the parameters are wrong, or an earlier run must be cleared first.
        """
        run, params = context["dag_run"], context["params"]
        try:
            check_params(params, run, list(self.dag.params))
            request = read_request(params, run)
        except InputError as error:
            raise AirflowFailException(str(error)) from error
        self.log.info("This run trains %s with %s", request.day, request.config)
        # The parameters of another run are only those that were set for it.
        defaults = {name: self.dag.params[name] for name in ("config", "workspace")}
        return may_start(
            request, lambda state: _runs(self.dag_id, state, defaults), backfill=is_backfill(run)
        )


def may_start(
    request: RunRequest, runs: Callable[[RunState], Iterable[EarlierRun]], *, backfill: bool
) -> bool:
    """Return whether a day or hour may start now.

    Args:
        request: the day or hour.
        runs: returns the DAG's runs in a given state.
        backfill: whether a backfill requested it.

    Raises:
        AirflowFailException: an earlier day or hour failed, or is queued behind this run and could
            never start.
    """

    def earlier(state: RunState) -> list[EarlierRun]:
        return [run for run in runs(state) if request.follows(run.request)]

    # 1. A failed day leaves a gap, unless another run of that day succeeded.
    if failed := earlier(RunState.FAILED):
        done = {run.request.day for run in earlier(RunState.SUCCESS)}
        gaps = {run.request.day: run.run_id for run in failed if run.request.day not in done}
        if gaps:
            listed = ", ".join(f"{day} (run {gaps[day]})" for day in in_order(gaps))
            raise AirflowFailException(
                f"{request.day} would train after a gap: {listed} failed. Clear that run and let "
                "it finish, then clear this one; or mark it a success in the grid to go on "
                "without it."
            )

    # 2. Airflow runs one backfill run and one other run at a time. An earlier day that is queued
    # behind this run would wait for it while it waits for that day.
    queued = earlier(RunState.QUEUED)
    behind = [run for run in queued if run.backfill == backfill]
    if behind:
        listed = ", ".join(f"{run.request.day} (run {run.run_id})" for run in behind)
        raise AirflowFailException(
            f"{listed} was requested and is queued behind {request.day}: "
            "clear this run when it is done."
        )

    # 3. Otherwise wait for the earlier days that are queued or running.
    return not queued and not earlier(RunState.RUNNING)


def _runs(dag_id: str, state: RunState, defaults: Mapping[str, Any]) -> Iterator[EarlierRun]:
    """Yield the DAG's runs in this state, the latest logical date first."""
    # Airflow 3 gives a task no list of runs, only the last run before a date, through an internal
    # channel to the supervisor of the task (Airflow 3.3).
    from airflow.sdk.execution_time.comms import GetPreviousDagRun
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

    cursor: datetime | None = _END_OF_TIME
    while cursor is not None:
        question = GetPreviousDagRun(dag_id=dag_id, logical_date=cursor, state=state)
        run = SUPERVISOR_COMMS.send(question).dag_run
        if run is None:
            return
        cursor = run.logical_date
        try:
            request = read_request({**defaults, **(run.conf or {})}, run)
        except InputError:
            # The run failed for its parameters and has no day.
            continue
        yield EarlierRun(run.run_id, state, request, is_backfill(run))
