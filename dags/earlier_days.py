"""The first task of a day or hour: refuse bad parameters, and wait for what was requested too and lies before it.

It warm-starts from the day or hour before, so it must not train over a hole. A run's state decides: a skipped day (no data)
succeeded, a failed one stops every later day of the same configuration and workspace until it is cleared and done, or
is marked a success by a person who accepts the hole. Runs without a logical date are not seen (Airflow cannot list
them to a task); the trigger form always sets one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator
from airflow.sdk.exceptions import AirflowFailException

from dags.request import Request, check_params, is_backfill, read_request
from features.errors import InputError
from features.partition import in_order

if TYPE_CHECKING:
    from airflow.sdk import Context

_END_OF_TIME = datetime(9999, 1, 1, tzinfo=UTC)


class RunState(StrEnum):
    """States of a DAG run, as Airflow spells them."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"


@dataclass(frozen=True)
class EarlierRun:
    """A run of the same DAG: what it asked for, how it stands, and whether a backfill made it."""

    run_id: str
    state: RunState
    request: Request
    backfill: bool


class EarlierDays(BaseSensorOperator):
    """Succeed when no earlier requested day or hour is open. Frees its slot between looks."""

    template_fields = ()

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(mode="reschedule", **kwargs)

    def poke(self, context: Context) -> bool:
        """Return whether the day or hour may start; raises AirflowFailException when it must not, ever, as things stand."""
        run, params = context["dag_run"], context["params"]
        try:
            check_params(params, run, list(self.dag.params))
            request = read_request(params, run)
        except InputError as error:
            raise AirflowFailException(str(error)) from error
        self.log.info("This run trains %s with %s", request.day, request.config)
        defaults = {name: self.dag.params[name] for name in ("config", "workspace")}
        return may_start(
            request, lambda state: _runs(self.dag_id, state, defaults), backfill=is_backfill(run)
        )


def may_start(
    request: Request, runs: Callable[[RunState], Iterable[EarlierRun]], *, backfill: bool
) -> bool:
    """Return whether a day or hour may start now (False: look again later).

    Args:
        request: the day or hour that wants to start.
        runs: the DAG's runs in a given state.
        backfill: whether a backfill asked for it (backfills and other runs have a limit of their own each).

    Raises:
        AirflowFailException: an earlier day or hour failed, or waits behind this run and could never start.
    """
    failed = [run for run in runs(RunState.FAILED) if request.follows(run.request)]
    if failed:
        _refuse_holes(request, failed, runs(RunState.SUCCESS))
    queued = [run for run in runs(RunState.QUEUED) if request.follows(run.request)]
    _refuse_deadlock(request, [run for run in queued if run.backfill == backfill])
    return not queued and not any(request.follows(run.request) for run in runs(RunState.RUNNING))


def _refuse_holes(
    request: Request, failed: list[EarlierRun], succeeded: Iterable[EarlierRun]
) -> None:
    done = {run.request.day for run in succeeded if request.follows(run.request)}
    open_days = {run.request.day: run.run_id for run in failed if run.request.day not in done}
    if open_days:
        listed = ", ".join(f"{day} (run {open_days[day]})" for day in in_order(open_days))
        raise AirflowFailException(
            f"{request.day} would train over a hole: {listed} failed. Clear that run and let it finish, then clear this one; "
            "or mark it a success in the grid to go on without it."
        )


def _refuse_deadlock(request: Request, queued: list[EarlierRun]) -> None:
    """One run at a time: an earlier day that is queued behind this run would wait for it for ever."""
    if queued:
        listed = ", ".join(f"{run.request.day} (run {run.run_id})" for run in queued)
        raise AirflowFailException(
            f"{listed} was requested and is queued behind {request.day}: clear this run when it is done."
        )


def _runs(dag_id: str, state: RunState, defaults: Mapping[str, Any]) -> Iterator[EarlierRun]:
    """Yield the DAG's runs in this state, the latest logical date first; runs whose day cannot be told are left out."""
    cursor: datetime | None = _END_OF_TIME
    while cursor is not None and (run := _previous(dag_id, cursor, state)) is not None:
        cursor = run.logical_date
        try:
            request = read_request({**defaults, **(run.conf or {})}, run)
        except InputError:
            continue
        yield EarlierRun(run.run_id, state, request, is_backfill(run))


def _previous(dag_id: str, before: datetime, state: RunState) -> Any:
    """Ask Airflow for the last run before a logical date, or None."""
    from airflow.sdk.execution_time.comms import GetPreviousDagRun
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

    answer = SUPERVISOR_COMMS.send(
        GetPreviousDagRun(dag_id=dag_id, logical_date=before, state=state)
    )
    return answer.dag_run
