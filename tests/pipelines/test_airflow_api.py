"""The REST client and the progress watcher, with a small HTTP server in place of Airflow."""

import json
import threading
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse
from zoneinfo import ZoneInfo

import pytest

from features.errors import InputError, RetryableError
from pipelines.demo.watch import Watcher
from pipelines.services.airflow_api import AirflowApi, DagRun, TaskInstance
from pipelines.services.processes import free_ports

UTC = ZoneInfo("UTC")
SHANGHAI = ZoneInfo("Asia/Shanghai")
FIRST, LAST = date(2022, 4, 25), date(2022, 4, 26)
RUNS = "/api/v2/dags/daily_retrain/dagRuns"


class Server(ThreadingHTTPServer):
    """Answers by (method, path): (status, body), or a list of them, one per request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[tuple[str, str], object] = {
            ("POST", "/auth/token"): (201, {"access_token": "secret"})
        }
        self.requests: list[tuple[str, str, dict, object]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


def airflow(server: Server) -> AirflowApi:
    return AirflowApi(server.url, "admin", "right")


class Handler(BaseHTTPRequestHandler):
    def answer(self) -> None:
        address = urlparse(self.path)
        length = int(self.headers.get("content-length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.server.requests.append((self.command, address.path, parse_qs(address.query), body))
        status, content = self._choose(address.path)
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _choose(self, path: str) -> tuple[int, object]:
        if (
            path.startswith("/api/v2/")
            and self.headers.get("authorization") != "Bearer secret"
            and "health" not in path
        ):
            return 401, {"detail": "Not authenticated"}
        planned = self.server.answers.get((self.command, path), (404, {"detail": "not found"}))
        if isinstance(planned, list):
            return planned.pop(0) if len(planned) > 1 else planned[0]
        return planned

    do_GET = do_POST = do_PATCH = answer

    def log_message(self, *_arguments: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def server() -> Iterator[Server]:
    instance = Server()
    thread = threading.Thread(target=instance.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield instance
    instance.shutdown()
    instance.server_close()


def run_of(day: str, state: str, hour: str = "00") -> dict:
    at = f"{day}T{hour}:00:00Z"
    own = {"dag_run_id": f"run-{day}", "dag_id": "daily_retrain"}
    return {**own, "logical_date": at, "state": state}


def task_of(name: str, state: str | None, seconds: float | None = None) -> dict:
    return {"task_id": name, "state": state, "duration": seconds, "try_number": 1}


def test_a_first_request_logs_in_and_goes_through(server):
    server.answers["GET", RUNS] = (200, {"dag_runs": [run_of("2022-04-25", "success")]})
    assert airflow(server).runs("daily_retrain", FIRST, LAST, UTC) == [
        DagRun("run-2022-04-25", "2022-04-25", "success", dag_id="daily_retrain")
    ]
    assert [path for _, path, _, _ in server.requests] == [RUNS, "/auth/token", RUNS]


def test_days_are_asked_for_and_told_in_the_schedules_zone(server):
    server.answers["GET", RUNS] = (200, {"dag_runs": [run_of("2022-04-24", "queued", hour="16")]})
    assert [run.day for run in airflow(server).runs("daily_retrain", FIRST, LAST, SHANGHAI)] == [
        "2022-04-25"
    ]
    query = server.requests[-1][2]
    assert query["logical_date_gte"] == ["2022-04-25T00:00:00+08:00"]
    assert query["logical_date_lt"] == ["2022-04-27T00:00:00+08:00"]


def test_a_backfill_covers_whole_days_one_run_at_a_time(server):
    server.answers["POST", "/api/v2/backfills"] = (200, {"id": 7})
    assert airflow(server).backfill("daily_retrain", FIRST, LAST, {"config": "a.yaml"}, UTC) == 7
    body = server.requests[-1][3]
    assert body["from_date"] == "2022-04-25T00:00:00+00:00"
    assert body["to_date"] == "2022-04-26T23:59:59+00:00"
    assert body["max_active_runs"] == 1
    assert body["dag_run_conf"] == {"config": "a.yaml"}


def test_a_run_is_triggered_with_its_parameters_and_looked_at_again(server):
    path = "/api/v2/dags/compress_champion/dagRuns"
    answer = {"dag_run_id": "manual_1", "dag_id": "compress_champion", "state": "queued"}
    server.answers["POST", path] = (200, answer)
    run = airflow(server).trigger("compress_champion", {"plans": 25, "date": "2022-04-25"})
    assert server.requests[-1][3] == {
        "logical_date": None,
        "conf": {"plans": 25, "date": "2022-04-25"},
    }
    assert (run.run_id, run.dag_id, run.day, run.state) == (
        "manual_1",
        "compress_champion",
        "2022-04-25",
        "queued",
    )
    server.answers["GET", f"{path}/manual_1"] = (200, {**answer, "state": "success"})
    assert airflow(server).refreshed(run).state == "success"


def test_a_pool_is_made_or_changed(server):
    server.answers["POST", "/api/v2/pools"] = (409, {"detail": "exists"})
    server.answers["PATCH", "/api/v2/pools/gpu"] = (200, {})
    airflow(server).set_pool("gpu", 1, "One training at a time.")
    assert server.requests[-1][:2] == ("PATCH", "/api/v2/pools/gpu")
    changed = {
        "pool": "gpu",
        "slots": 1,
        "description": "One training at a time.",
        "include_deferred": False,
    }
    assert server.requests[-1][3] == changed


def test_a_backfill_waits_until_the_one_before_it_is_noticed_to_have_ended(server, monkeypatch):
    monkeypatch.setattr("pipelines.services.airflow_api.BUSY_WAIT_S", 0.0)
    server.answers["POST", "/api/v2/backfills"] = [
        (409, {"detail": "already running"}),
        (200, {"id": 9}),
    ]
    assert airflow(server).backfill("daily_retrain", FIRST, LAST, {}, UTC) == 9


def test_what_airflow_refuses_is_told_with_its_words(server, monkeypatch):
    monkeypatch.setattr("pipelines.services.airflow_api.BUSY_WAIT_S", 0.0)
    server.answers["POST", "/api/v2/backfills"] = (
        409,
        {"detail": "There is already a running backfill"},
    )
    with pytest.raises(InputError, match=r"409.*already a running backfill"):
        airflow(server).backfill("daily_retrain", FIRST, LAST, {}, UTC)


def test_a_locked_database_is_asked_again(server, monkeypatch):
    monkeypatch.setattr("pipelines.services.airflow_api.BUSY_WAIT_S", 0.0)
    server.answers["POST", "/api/v2/backfills"] = [
        (503, {"detail": "Database is locked"}),
        (200, {"id": 8}),
    ]
    assert airflow(server).backfill("daily_retrain", FIRST, LAST, {}, UTC) == 8


def test_a_database_that_stays_locked_is_an_error(server, monkeypatch):
    monkeypatch.setattr("pipelines.services.airflow_api.BUSY_WAIT_S", 0.0)
    server.answers["POST", "/api/v2/backfills"] = (503, {"detail": "Database is locked"})
    with pytest.raises(InputError, match="Database is locked"):
        airflow(server).backfill("daily_retrain", FIRST, LAST, {}, UTC)


def test_a_dag_that_cannot_be_imported_is_an_error_with_its_traceback(server):
    broken = {"filename": "daily_retrain.py", "stack_trace": "SyntaxError: invalid syntax"}
    server.answers["GET", "/api/v2/importErrors"] = (200, {"import_errors": [broken]})
    with pytest.raises(InputError, match=r"(?s)daily_retrain\.py.*SyntaxError"):
        airflow(server).has_dag("daily_retrain")


def test_a_dag_that_was_not_read_yet_is_not_there(server):
    server.answers["GET", "/api/v2/importErrors"] = (200, {"import_errors": []})
    assert not airflow(server).has_dag("daily_retrain")
    server.answers["GET", "/api/v2/dags/daily_retrain"] = (200, {})
    assert airflow(server).has_dag("daily_retrain")


def test_nobody_listening_is_worth_a_retry():
    (port,) = free_ports(1)
    api = AirflowApi(f"http://127.0.0.1:{port}", "admin", "right")
    assert not api.healthy()
    with pytest.raises(RetryableError, match="does not answer"):
        api.has_dag("daily_retrain")


@pytest.mark.parametrize(
    ("scheduler", "expected"), [("healthy", True), ("unhealthy", False), (None, False)]
)
def test_health_is_that_of_the_named_components(server, scheduler, expected):
    health = {
        "metadatabase": {"status": "healthy"},
        "scheduler": {"status": scheduler},
        "triggerer": {"status": None},
    }
    server.answers["GET", "/api/v2/monitor/health"] = (200, health)
    assert airflow(server).healthy("metadatabase", "scheduler") is expected
    assert airflow(server).healthy()


def test_a_log_is_the_text_of_its_events(server):
    path = f"{RUNS}/r/taskInstances/train/logs/1"
    server.answers["GET", path] = (
        200,
        {"content": [{"event": "one", "level": "info"}, {"event": "two"}, "three"]},
    )
    assert airflow(server).log("daily_retrain", "r", "train", 1) == "one\ntwo\nthree"


def watch(server: Server, timeout_s: float = 30.0) -> tuple[list, list[str], list[tuple[int, int]]]:
    lines: list[str] = []
    moves: list[tuple[int, int]] = []
    api = airflow(server)
    watcher = Watcher(
        api,
        lambda: api.runs("daily_retrain", FIRST, LAST, UTC),
        lines.append,
        lambda *move: moves.append(move),
    )
    return watcher.follow(timeout_s), lines, moves


def test_the_watcher_says_each_change_once_and_ends_with_the_last_day(server, monkeypatch):
    monkeypatch.setattr("pipelines.demo.watch.POLL_S", 0.01)
    running = [run_of("2022-04-25", "running"), run_of("2022-04-26", "queued")]
    ended = [run_of("2022-04-25", "success"), run_of("2022-04-26", "failed")]
    server.answers["GET", RUNS] = [
        (200, {"dag_runs": runs}) for runs in ([], running, running, ended)
    ]
    first = f"{RUNS}/run-2022-04-25/taskInstances"
    begun = {"task_instances": [task_of("ingest", "running"), task_of("train", None)]}
    done = {
        "task_instances": [task_of("ingest", "success", 21.25), task_of("train", "success", 3.0)]
    }
    server.answers["GET", first] = [(200, begun), (200, begun), (200, done)]
    failed = {
        "task_instances": [task_of("ingest", "failed", 1.0), task_of("train", "upstream_failed")]
    }
    server.answers["GET", f"{RUNS}/run-2022-04-26/taskInstances"] = (200, failed)
    days, lines, moves = watch(server)
    assert [line.split() for line in lines] == [
        ["2022-04-25", "ingest", "running"],
        ["2022-04-25", "ingest", "success", "21.2", "s"],
        ["2022-04-25", "train", "success", "3.0", "s"],
        ["2022-04-26", "ingest", "failed", "1.0", "s"],
    ]
    assert moves[-1] == (4, 4)
    assert [(day.run.state, day.seconds) for day in days] == [("success", 24.25), ("failed", 1.0)]
    assert days[0].tasks[0] == TaskInstance("ingest", "success", 21.25, 1)


def test_the_watcher_gives_up_when_the_time_is_up(server, monkeypatch):
    monkeypatch.setattr("pipelines.demo.watch.POLL_S", 0.01)
    server.answers["GET", RUNS] = (200, {"dag_runs": [run_of("2022-04-25", "queued")]})
    with pytest.raises(RetryableError, match="not done after"):
        watch(server, timeout_s=0.05)
