"""The few calls of Airflow's REST API that the embedded services and the demonstration need."""

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
"""What Airflow answers when its sqlite database is locked by another of its processes."""

BUSY_WAIT_S = 3.0
BUSY_ATTEMPTS = 25

_PAGE = 100


@dataclass(frozen=True)
class DagRun:
    """A run of a DAG: its id, the date that names it (`YYYY-MM-DD`, "" for none), its state, its seconds (None: not ended)."""

    run_id: str
    day: str
    state: str
    seconds: float | None = None


@dataclass(frozen=True)
class TaskInstance:
    """A task of a run: its state ("" before it is scheduled), the seconds it took (None before it ended), its tries."""

    task_id: str
    state: str
    seconds: float | None
    tries: int


class AirflowApi:
    """A client of one Airflow. `url` is its base address; tokens are fetched and renewed as needed."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False)

    def healthy(self, *components: str) -> bool:
        """Whether the API answers and says that these components (`scheduler`, …) are healthy."""
        try:
            health = self._client.get("/api/v2/monitor/health", timeout=5.0)
            return health.is_success and all(
                health.json()[name]["status"] == "healthy" for name in components
            )
        except (httpx.HTTPError, ValueError):
            return False

    def set_pool(self, name: str, slots: int, description: str) -> None:
        """Make a pool, or give an existing one this number of slots."""
        body = {"slots": slots, "description": description, "include_deferred": False}
        made = self._send(
            "POST", "/api/v2/pools", json={"name": name, **body}, accept=(httpx.codes.CONFLICT,)
        )
        if made.status_code == httpx.codes.CONFLICT:
            self._send("PATCH", f"/api/v2/pools/{name}", json={"pool": name, **body})

    def has_dag(self, dag_id: str) -> bool:
        """Whether Airflow has read this DAG; raises InputError with the traceback when a DAG file cannot be imported."""
        errors = self._send("GET", "/api/v2/importErrors").json()["import_errors"]
        if errors:
            raise InputError(
                f"Airflow cannot import {errors[0]['filename']}:\n{errors[0]['stack_trace']}"
            )
        return self._send(
            "GET", f"/api/v2/dags/{dag_id}", accept=(httpx.codes.NOT_FOUND,)
        ).is_success

    def backfill(
        self, dag_id: str, first: date, last: date, conf: Mapping[str, Any], zone: ZoneInfo
    ) -> int:
        """Request a run for each day, one at a time and in order, days that ran before again; return the backfill's id.

        Airflow allows one backfill of a DAG at a time, and notices only after a while that one has ended: wait for it.
        """
        body = {
            "dag_id": dag_id,
            "from_date": datetime.combine(first, time.min, zone).isoformat(),
            "to_date": (
                datetime.combine(last, time.min, zone) + timedelta(days=1, seconds=-1)
            ).isoformat(),
            "max_active_runs": 1,
            "reprocess_behavior": "completed",
            "dag_run_conf": dict(conf),
        }
        return int(
            self._send(
                "POST", "/api/v2/backfills", busy=(*BUSY, httpx.codes.CONFLICT), json=body
            ).json()["id"]
        )

    def runs(self, dag_id: str, first: date, last: date, zone: ZoneInfo) -> list[DagRun]:
        """Return the backfill's runs of these days (at most a hundred), in order."""
        begin = datetime.combine(first, time.min, zone)
        end = datetime.combine(last, time.min, zone) + timedelta(days=1)
        dates = {"logical_date_gte": begin.isoformat(), "logical_date_lt": end.isoformat()}
        query = {**dates, "run_type": "backfill", "order_by": "logical_date", "limit": _PAGE}
        answer = self._send("GET", f"/api/v2/dags/{dag_id}/dagRuns", params=query).json()[
            "dag_runs"
        ]
        return [
            DagRun(run["dag_run_id"], _day_of(run, zone), run["state"], run.get("duration"))
            for run in answer
        ]

    def task_instances(self, dag_id: str, run_id: str) -> list[TaskInstance]:
        """Return the tasks of a run."""
        answer = self._send("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances").json()[
            "task_instances"
        ]
        return [
            TaskInstance(each["task_id"], each["state"] or "", each["duration"], each["try_number"])
            for each in answer
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
        """Return a good answer, or one whose status is in `accept`; ask again while the status is in `busy`."""
        try:
            response = self._patiently(method, path, busy, options)
            if response.status_code == httpx.codes.UNAUTHORIZED:
                self._log_in()
                response = self._patiently(method, path, busy, options)
        except httpx.HTTPError as error:
            raise RetryableError(
                f"Airflow at {self._client.base_url} does not answer ({error}); see its logs"
            ) from error
        if response.is_success or response.status_code in accept:
            return response
        raise InputError(
            f"Airflow refused {method} {path} ({response.status_code}): {response.text[:2000]}"
        )

    def _patiently(
        self, method: str, path: str, busy: Collection[int], options: Mapping[str, Any]
    ) -> httpx.Response:
        attempts = Retrying(
            retry=retry_if_result(lambda response: response.status_code in busy),
            wait=wait_fixed(BUSY_WAIT_S),
            stop=stop_after_attempt(BUSY_ATTEMPTS),
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
        )
        return attempts(self._client.request, method, path, **options)

    def _log_in(self) -> None:
        token = self._client.get("/auth/token").raise_for_status().json()["access_token"]
        self._client.headers["Authorization"] = f"Bearer {token}"


def _day_of(run: Mapping[str, Any], zone: ZoneInfo) -> str:
    text = run["logical_date"]
    return datetime.fromisoformat(text).astimezone(zone).date().isoformat() if text else ""
