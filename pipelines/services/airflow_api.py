"""The calls of Airflow's REST API that the embedded services and the demonstration need."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import httpx
from tenacity import Retrying, retry_if_result, stop_after_attempt, wait_fixed

from features.errors import InputError, RetryableError

TIMEOUT_S = 120.0
BUSY = (httpx.codes.SERVICE_UNAVAILABLE,)
"""Airflow's answer while another of its processes locks its SQLite database."""

# 75 seconds in all, longer than a writer waits for the lock (`environment.SQLITE_BUSY_S`).
BUSY_WAIT_S = 3.0
BUSY_ATTEMPTS = 25

_PAGE = 100


@dataclass(frozen=True)
class DagRun:
    """A run of a DAG: id, day (`YYYY-MM-DD`, "" without one), state, seconds (None: not ended)."""

    run_id: str
    day: str
    state: str
    seconds: float | None = None
    dag_id: str = ""


@dataclass(frozen=True)
class TaskInstance:
    """A task of a run: state ("": not scheduled yet), seconds (None: not ended), tries."""

    task_id: str
    state: str
    seconds: float | None
    tries: int


class AirflowApi:
    """A client of one Airflow. `url` is its base address; tokens are fetched and renewed."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self._login = {"username": user, "password": password}
        # trust_env=False: requests to the loopback interface must not go through a proxy.
        self._client = httpx.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False)

    def healthy(self, *components: str) -> bool:
        """Whether the API answers and reports these components (`scheduler`, …) as healthy."""
        try:
            health = self._client.get("/api/v2/monitor/health", timeout=5.0)
            return health.is_success and all(
                health.json()[name]["status"] == "healthy" for name in components
            )
        except (httpx.HTTPError, ValueError):
            return False

    def set_pool(self, name: str, slots: int, description: str) -> None:
        """Create a pool, or give an existing one this number of slots."""
        body = {"slots": slots, "description": description, "include_deferred": False}
        created = self._send(
            "POST", "/api/v2/pools", json={"name": name, **body}, accept=(httpx.codes.CONFLICT,)
        )
        if created.status_code == httpx.codes.CONFLICT:
            self._send("PATCH", f"/api/v2/pools/{name}", json={"pool": name, **body})

    def has_dag(self, dag_id: str) -> bool:
        """Whether Airflow has read this DAG.

        Raises:
            InputError: a DAG file cannot be imported; the message shows the traceback.
        """
        errors = self._send("GET", "/api/v2/importErrors").json()["import_errors"]
        if errors:
            raise InputError(
                f"Airflow cannot import {errors[0]['filename']}:\n{errors[0]['stack_trace']}"
            )
        path = f"/api/v2/dags/{dag_id}"
        return self._send("GET", path, accept=(httpx.codes.NOT_FOUND,)).is_success

    def backfill(
        self, dag_id: str, first: date, last: date, conf: Mapping[str, Any], zone: ZoneInfo
    ) -> int:
        """Request a run for each day, one at a time and in order; return the backfill's id.

        Days that ran before are run again.
        """
        # A second before midnight: the next day's run must not be part of the range.
        end = datetime.combine(last, time.min, zone) + timedelta(days=1, seconds=-1)
        body = {
            "dag_id": dag_id,
            "from_date": datetime.combine(first, time.min, zone).isoformat(),
            "to_date": end.isoformat(),
            "max_active_runs": 1,
            "reprocess_behavior": "completed",
            "dag_run_conf": dict(conf),
        }
        # Airflow allows one backfill of a DAG at a time (409 Conflict), and notices only after a
        # while that one has ended.
        busy = (*BUSY, httpx.codes.CONFLICT)
        return int(self._send("POST", "/api/v2/backfills", busy=busy, json=body).json()["id"])

    def runs(self, dag_id: str, first: date, last: date, zone: ZoneInfo) -> list[DagRun]:
        """Return the backfill's runs of these days (at most a hundred), in order."""
        begin = datetime.combine(first, time.min, zone)
        end = datetime.combine(last, time.min, zone) + timedelta(days=1)
        query = {
            "logical_date_gte": begin.isoformat(),
            "logical_date_lt": end.isoformat(),
            "run_type": "backfill",
            "order_by": "logical_date",
            "limit": _PAGE,
        }
        answer = self._send("GET", f"/api/v2/dags/{dag_id}/dagRuns", params=query).json()
        return [_run_of(run, _day_of(run, zone)) for run in answer["dag_runs"]]

    def trigger(self, dag_id: str, conf: Mapping[str, Any]) -> DagRun:
        """Start a run with these parameters, as a person does in the form."""
        body = {"logical_date": None, "conf": dict(conf)}
        run = self._send("POST", f"/api/v2/dags/{dag_id}/dagRuns", json=body).json()
        return _run_of(run, str(conf.get("date") or ""))

    def refreshed(self, run: DagRun) -> DagRun:
        """Return the run with its present state."""
        answer = self._send("GET", f"/api/v2/dags/{run.dag_id}/dagRuns/{run.run_id}").json()
        return _run_of(answer, run.day)

    def task_instances(self, dag_id: str, run_id: str) -> list[TaskInstance]:
        """Return the tasks of a run."""
        answer = self._send("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances").json()
        return [
            TaskInstance(each["task_id"], each["state"] or "", each["duration"], each["try_number"])
            for each in answer["task_instances"]
        ]

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int) -> str:
        """Return a task's log as text."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{try_number}"
        content = self._send("GET", path, headers={"accept": "application/json"}).json()["content"]
        return "\n".join(
            str(line.get("event", line)) if isinstance(line, dict) else str(line)
            for line in content
        )

    def _send(
        self,
        method: str,
        path: str,
        accept: Collection[int] = (),
        busy: Collection[int] = BUSY,
        **options: Any,
    ) -> httpx.Response:
        """Return a successful answer, or one whose status is in `accept`.

        The request is repeated while the status is in `busy`.
        """
        attempts = Retrying(
            retry=retry_if_result(lambda response: response.status_code in busy),
            wait=wait_fixed(BUSY_WAIT_S),
            stop=stop_after_attempt(BUSY_ATTEMPTS),
            # After the last attempt its answer is returned, not tenacity's own error.
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
        )
        try:
            response = attempts(self._client.request, method, path, **options)
            if response.status_code == httpx.codes.UNAUTHORIZED:
                # There is no token yet, or it has expired.
                answer = self._client.post("/auth/token", json=self._login)
                token = answer.raise_for_status().json()["access_token"]
                self._client.headers["Authorization"] = f"Bearer {token}"
                response = attempts(self._client.request, method, path, **options)
        except httpx.HTTPError as error:
            raise RetryableError(
                f"Airflow at {self._client.base_url} does not answer ({error}); see its logs"
            ) from error
        if response.is_success or response.status_code in accept:
            return response
        raise InputError(
            f"Airflow refused {method} {path} ({response.status_code}): {response.text[:2000]}"
        )


def _run_of(run: Mapping[str, Any], day: str) -> DagRun:
    return DagRun(run["dag_run_id"], day, run["state"], run.get("duration"), run["dag_id"])


def _day_of(run: Mapping[str, Any], zone: ZoneInfo) -> str:
    text = run["logical_date"]
    return datetime.fromisoformat(text).astimezone(zone).date().isoformat() if text else ""
