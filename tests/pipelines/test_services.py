"""The embedded services, started and stopped for real."""

import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from zoneinfo import ZoneInfo

import httpx
import psutil
import pytest
import yaml

from features.errors import InputError
from pipelines.demo.run import SIMULATED, last_of, run_demo
from pipelines.demo.watch import DAG_ID, Watcher
from pipelines.services import control
from pipelines.services.environment import (
    QUIET,
    ServiceLayout,
    airflow_environment,
    mlflow_environment,
    spark_environment,
)
from pipelines.services.processes import free_ports, stop_all, tagged, wait_until
from pipelines.services.schedule import (
    PARTITION_VARIABLE,
    SCHEDULE_VARIABLE,
    TIMEZONE_VARIABLE,
    runs_by_hour,
    schedule_cron,
    schedule_zone,
)

REPOSITORY = Path(__file__).resolve().parents[2]


def layout(folder: Path) -> ServiceLayout:
    airflow, mlflow = free_ports(2)
    return ServiceLayout(folder, airflow, mlflow, "s" * 128)


def test_telemetry_is_off_everywhere(tmp_path):
    for environment in (airflow_environment(layout(tmp_path)), mlflow_environment()):
        assert QUIET.items() <= environment.items()
    assert QUIET["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert QUIET["DO_NOT_TRACK"] == "true"


def test_everything_stays_on_loopback_and_in_the_run_folder(tmp_path):
    environment = airflow_environment(layout(tmp_path))
    assert environment["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert environment["AIRFLOW_HOME"].startswith(str(tmp_path))
    assert (
        environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
        == f"sqlite:///{tmp_path}/airflow/airflow.db?timeout=60"
    )
    assert environment["MLFLOW_TRACKING_URI"].startswith("http://127.0.0.1:")


def test_another_installations_settings_do_not_leak_in(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "theirs")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    environment = airflow_environment(layout(tmp_path))
    assert environment["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert "AIRFLOW__CORE__FERNET_KEY" not in environment
    assert "MLFLOW_TRACKING_URI" not in mlflow_environment()


def test_stages_find_the_spark_server_that_was_started_beside_airflow(tmp_path, monkeypatch):
    monkeypatch.delenv("SPARK_REMOTE", raising=False)
    where = control.new_layout(tmp_path)
    found = {
        name: value
        for name, value in airflow_environment(where).items()
        if name.startswith("SPARK_")
    }
    assert where.spark.client_environment().items() <= found.items()
    assert where.spark.url == f"sc://localhost:{where.spark.port}"
    assert "SPARK_REMOTE" not in spark_environment(where.spark)
    assert control.new_layout(tmp_path).spark.token != where.spark.token


def test_where_the_environment_names_a_spark_server_none_is_started_and_stages_use_that(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("SPARK_REMOTE", "sc://cluster:443/;use_ssl=true")
    where = control.new_layout(tmp_path)
    assert where.spark is None
    assert airflow_environment(where)["SPARK_REMOTE"] == "sc://cluster:443/;use_ssl=true"


@pytest.mark.parametrize(
    ("schedule", "expected"), [(None, "False"), ("", "False"), ("0 3 * * *", "True")]
)
def test_only_a_schedule_that_was_asked_for_runs_by_itself(
    tmp_path, monkeypatch, schedule, expected
):
    monkeypatch.delenv(SCHEDULE_VARIABLE, raising=False)
    if schedule is not None:
        monkeypatch.setenv(SCHEDULE_VARIABLE, schedule)
    assert airflow_environment(layout(tmp_path))["AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE"] == expected
    assert schedule_cron() == (schedule or "0 0 * * *")


@pytest.mark.parametrize(
    ("schedule", "expected"), [("", "0 * * * *"), ("20 * * * *", "20 * * * *")]
)
def test_by_the_hour_the_schedule_is_hourly_unless_one_is_given(monkeypatch, schedule, expected):
    monkeypatch.setenv(PARTITION_VARIABLE, "hour")
    monkeypatch.setenv(SCHEDULE_VARIABLE, schedule)
    assert runs_by_hour()
    assert schedule_cron() == expected


def test_an_unknown_kind_of_partition_is_refused(monkeypatch):
    monkeypatch.setenv(PARTITION_VARIABLE, "minute")
    with pytest.raises(InputError, match="ELASTIC_CTR_PARTITION='minute': write day or hour"):
        schedule_cron()


def test_the_demo_goes_by_the_day(monkeypatch, tmp_path):
    monkeypatch.setenv(PARTITION_VARIABLE, "hour")
    with pytest.raises(InputError, match="unset ELASTIC_CTR_PARTITION"):
        run_demo(tmp_path / "a.yaml", tmp_path, date(2022, 4, 25), date(2022, 4, 25), keep=False)


def test_an_unknown_zone_is_refused(monkeypatch):
    monkeypatch.setenv(TIMEZONE_VARIABLE, "Mars/Olympus")
    with pytest.raises(InputError, match="Asia/Shanghai"):
        schedule_zone()


def test_each_start_has_a_long_secret_of_its_own(tmp_path):
    first, second = control.new_layout(tmp_path), control.new_layout(tmp_path)
    assert first.secret != second.secret
    assert len(first.secret) >= 64


def test_the_demonstration_begins_on_the_first_simulated_day():
    config = yaml.safe_load(SIMULATED.config.read_text())
    assert config["simulator"]["first_day"] == SIMULATED.first


def test_three_days_end_two_days_later():
    assert last_of(date(2022, 4, 30), 3) == date(2022, 5, 2)


@pytest.mark.process
def test_mlflow_starts_answers_and_leaves_nothing(tmp_path):
    where = layout(tmp_path)
    process = control.start_mlflow(where)
    try:
        wait_until(lambda: _answers(f"{where.mlflow_url}/health"), [process], 120, "MLflow")
        body = {"name": "probe"}
        made = httpx.post(
            f"{where.mlflow_url}/api/2.0/mlflow/experiments/create", json=body, trust_env=False
        )
        assert made.is_success
        assert made.json()["experiment_id"] == "1"
        assert _listening(tmp_path) == {("127.0.0.1", where.mlflow_port)}
    finally:
        stop_all(tmp_path, 10)
    assert tagged(tmp_path) == []
    assert (tmp_path / "mlflow" / "mlflow.db").is_file()


def test_nothing_is_up_in_an_empty_folder(tmp_path):
    assert control.status(tmp_path) is None
    assert control.down(tmp_path) == 0


def test_a_record_of_processes_that_ended_is_not_up(tmp_path):
    ended = control.Services(
        str(tmp_path),
        "http://127.0.0.1:9",
        "http://127.0.0.1:9",
        (control.ServiceProcess("x", 1, 0.0, ""),),
    )
    control.record(ended)
    assert control.status(tmp_path) is None


@pytest.mark.process
def test_status_of_what_is_not_up_has_exit_code_1(tmp_path):
    command = [sys.executable, "-m", "pipelines.services", "status", "--run-dir", str(tmp_path)]
    outcome = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (outcome.returncode, outcome.stdout.strip()) == (1, "not up")


@pytest.mark.covers("F10", "F34")
@pytest.mark.process
@pytest.mark.slow
@pytest.mark.airflow
@pytest.mark.covers("H4", "F11")
def test_airflow_runs_days_in_order_skips_the_empty_one_and_stops_behind_a_failed_one(
    tmp_path, monkeypatch
):
    """One real start (about a minute); each assertion has a comment."""
    monkeypatch.setenv("ELASTIC_CTR_FOLDERS", f"{tmp_path}:{REPOSITORY}")
    folder = tmp_path / "run"
    with control.running(folder, keep=False) as services:
        assert control.up(folder) == services  # the second `up` finds the first
        _check_login(services)
        listening = _listening(folder)
        assert {ip for ip, _ in listening} == {"127.0.0.1"}
        urls = (services.airflow_url, services.mlflow_url, services.spark_url)
        # Where SPARK_REMOTE names a Spark server, none was started.
        known = {httpx.URL(url).port for url in urls if url}
        assert known <= {port for _, port in listening}
        # Spark's driver and its block manager have a port each.
        assert len(listening) <= len(known) + 2
        api = services.api()
        api.set_pool("gpu", 1, "as it is already")
        wait_until(lambda: api.has_dag(DAG_ID), services.processes, 120, DAG_ID)
        missing, unknown = _outcome(
            api, date(2022, 4, 25), 2, {"config": str(tmp_path / "none.yaml")}
        )
        assert missing["ingest"] == ("failed", 1)  # bad input is not tried again
        assert unknown["earlier_days"] == ("failed", 1)  # the next day does not train over the hole
        assert unknown["ingest"][0] == "upstream_failed"
        (refused,) = _outcome(api, date(2022, 4, 28), 1, {"config": "other.yaml", "batchsize": 1})
        assert refused["earlier_days"] == ("failed", 1)  # unknown parameter
        config = _with_an_empty_day(tmp_path, "fail")
        empty = {"config": str(config), "workspace": str(tmp_path / "ws")}
        (absent,) = _outcome(api, last_of(SIMULATED.first, 2), 1, empty)
        # Faults H4, F11: red by default, and at once: waiting does not help a past day.
        assert absent["ingest"] == ("failed", 1)
        empty["config"] = str(_with_an_empty_day(tmp_path, "skip"))
        (skipped,) = _outcome(api, SIMULATED.first, 1, empty)
        assert {state for task, (state, _) in skipped.items() if task != "earlier_days"} == {
            "skipped"
        }
        assert skipped["earlier_days"][0] == "success"
        # Faults H4, F11: before its deadline a day is waited for, without using up a retry.
        empty["config"] = str(_with_an_empty_day(tmp_path, "fail", deadline_hours=1_000_000))
        day, zone = last_of(SIMULATED.first, 3), ZoneInfo("UTC")
        api.backfill(DAG_ID, day, day, empty, zone)

        def ingest() -> set[tuple[str, int]]:
            runs = api.runs(DAG_ID, day, day, zone)
            tasks = [task for run in runs for task in api.task_instances(DAG_ID, run.run_id)]
            return {(task.state, task.tries) for task in tasks if task.task_id == "ingest"}

        waits = {("up_for_reschedule", 1)}
        wait_until(lambda: ingest() == waits, services.processes, 120, "ingest")
        time.sleep(5)
        assert ingest() == waits
        log = (folder / "logs" / "stage-server.log").read_text()
        assert "pipelines.cli ingest" in log  # stages were forked from the server
        assert "refused" not in log
    assert control.status(folder) is None
    assert tagged(folder) == []


def _check_login(services: control.Services) -> None:
    """Nobody without the password, and no web page of a foreign name, reaches Airflow's API."""
    assert services.passwords.stat().st_mode & 0o777 == 0o600
    assert Path(services.folder).stat().st_mode & 0o777 == 0o700
    dags, token = f"{services.airflow_url}/api/v2/dags", f"{services.airflow_url}/auth/token"
    with httpx.Client(trust_env=False, timeout=60) as anybody:
        assert anybody.get(dags).status_code == 401
        assert anybody.get(token).status_code == 403
        wrong = {"username": "admin", "password": "guess"}
        assert anybody.post(token, json=wrong).status_code == 401
        right = {**wrong, "password": services.password}
        assert anybody.post(token, json=right).status_code == 201
        foreign = anybody.post(token, json=right, headers={"host": "evil.example"})
        assert foreign.status_code == 400
    with pytest.raises(InputError, match="run with a login: stop them first"):
        control.up(Path(services.folder), login=False)


def _outcome(api, first: date, days: int, conf: dict) -> list[dict[str, tuple[str, int]]]:
    """Run a backfill and return, for each day, every task's state and number of tries."""
    window = first, last_of(first, days)
    api.backfill(DAG_ID, *window, conf, ZoneInfo("UTC"))
    watcher = Watcher(
        api,
        lambda: api.runs(DAG_ID, *window, ZoneInfo("UTC")),
        lambda _line: None,
        lambda _done, _total: None,
    )
    runs = watcher.follow(300)
    return [{task.task_id: (task.state, task.tries) for task in run.tasks} for run in runs]


def _with_an_empty_day(folder: Path, missing_input: str, deadline_hours: int = 6) -> Path:
    """Write the simulator's profile, small, with no record on its first three days."""
    document = yaml.safe_load(SIMULATED.config.read_text())
    faults = [{"kind": "empty_day", "days": [last_of(SIMULATED.first, n) for n in (1, 2, 3)]}]
    document["simulator"].update(impressions_per_day=200, faults=faults)
    document["schedule"] = {"missing_input": missing_input, "deadline_hours": deadline_hours}
    path = folder / f"empty_day_{missing_input}_{deadline_hours}.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def _listening(folder: Path) -> set[tuple[str, int]]:
    """Addresses on which any process of the run folder listens."""
    connections = [each for process in tagged(folder) for each in _connections(process)]
    listening = (each.laddr for each in connections if each.status == psutil.CONN_LISTEN)
    return {(address.ip.removeprefix("::ffff:"), address.port) for address in listening}


def _connections(process: psutil.Process) -> list:
    try:
        return process.net_connections(kind="inet")
    except psutil.NoSuchProcess:
        return []


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def test_the_run_folder_can_be_named_by_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv(control.RUN_FOLDER_VARIABLE, str(tmp_path))
    assert control.default_folder() == tmp_path
    monkeypatch.delenv(control.RUN_FOLDER_VARIABLE)
    assert control.default_folder() == REPOSITORY / ".run"
