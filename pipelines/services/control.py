"""Up, down and status of the embedded services."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from features.errors import RetryableError
from pipelines.services.airflow_api import AirflowApi
from pipelines.services.environment import (
    LOOPBACK,
    REPOSITORY,
    Layout,
    airflow_environment,
    mlflow_environment,
    spark_environment,
    stage_server_environment,
)
from pipelines.services.processes import Process, free_ports, start, stop_all, wait_until
from pipelines.services.stage_server import can_listen
from spark_jobs.server import REMOTE_VARIABLE, SparkServer, accepts_connections
from spark_jobs.settings import SparkSettings

RUN_FOLDER_VARIABLE = "ELASTIC_CTR_RUN_DIR"
START_TIMEOUT_S = 240.0
GRACE_S = 12.0
POOLS = {"gpu": "One training at a time.", "spark": "One Spark session at a time."}

CLIENT_ENVIRONMENT = "client.env"

_STATE = "services.json"
_COMPONENTS = {
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "api-server": ("api-server",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}
_HEALTH = ("metadatabase", "scheduler", "dag_processor", "triggerer")


@dataclass(frozen=True)
class Services:
    """Running services: addresses and processes, as `<folder>/services.json` records them.

    `spark_url` is empty where stages use a Spark server that was not started here.
    """

    folder: str
    airflow_url: str
    mlflow_url: str
    processes: tuple[Process, ...]
    spark_url: str = ""

    def api(self) -> AirflowApi:
        """Return a client of this Airflow."""
        return AirflowApi(self.airflow_url)

    @property
    def spark_environment(self) -> Path:
        """The file by whose variables another terminal uses the Spark server."""
        return Path(self.folder) / "spark" / CLIENT_ENVIRONMENT

    def alive(self) -> bool:
        """Whether every process runs and every service answers."""
        if not all(process.alive() for process in self.processes):
            return False
        spark = not self.spark_url or accepts_connections(self.spark_url)
        return spark and self.api().healthy() and _mlflow_answers(self.mlflow_url)


def default_folder() -> Path:
    """The run folder when none is named: `ELASTIC_CTR_RUN_DIR`, else `.run` in the repository."""
    return Path(os.environ.get(RUN_FOLDER_VARIABLE) or REPOSITORY / ".run")


def up(folder: Path) -> Services:
    """Start MLflow, Spark and Airflow on free loopback ports, unless they run already; return where they are.

    Databases and logs live in `folder`. What was left of an earlier start is ended first. Where the environment names a
    Spark server (`SPARK_REMOTE`), none is started: stages use that one.

    Raises:
        RetryableError: a service did not become healthy; everything is stopped again, the message shows its log.
    """
    folder = folder.resolve()
    with _lock(folder):
        already = status(folder)
        if already is not None:
            return already
        stop_all(folder, GRACE_S)
        try:
            return _start_all(new_layout(folder))
        except BaseException:
            stop_all(folder, GRACE_S)
            raise


def down(folder: Path) -> int:
    """Stop everything that was started for the folder; return how many processes that were. Data and logs stay."""
    folder = folder.resolve()
    (folder / _STATE).unlink(missing_ok=True)
    return stop_all(folder, GRACE_S)


def status(folder: Path) -> Services | None:
    """Return the running services, or None when they are not all up."""
    state = folder.resolve() / _STATE
    if not state.is_file():
        return None
    record = json.loads(state.read_text(encoding="utf-8"))
    services = Services(
        **{**record, "processes": tuple(Process(**each) for each in record["processes"])}
    )
    return services if services.alive() else None


@contextmanager
def running(folder: Path, *, keep: bool) -> Iterator[Services]:
    """Have the services up in a block; those that it started are stopped behind it unless `keep`."""
    was_up = status(folder) is not None
    services = up(folder)
    try:
        yield services
    finally:
        if not keep and not was_up:
            down(folder)


def start_mlflow(layout: Layout) -> Process:
    """Start the MLflow server, its database and artifacts below the run folder; it is not waited for."""
    home = layout.folder / "mlflow"
    home.mkdir(parents=True, exist_ok=True)
    argv = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        LOOPBACK,
        "--port",
        str(layout.mlflow_port),
        "--workers",
        "1",
    ]
    argv += [
        "--backend-store-uri",
        f"sqlite:///{home / 'mlflow.db'}",
        "--artifacts-destination",
        str(home / "artifacts"),
    ]
    return start("mlflow", argv, mlflow_environment(), layout.folder, REPOSITORY)


def start_stage_server(layout: Layout) -> Process:
    """Start what stages are forked from; a stage that comes before it is ready waits for it."""
    argv = [sys.executable, "-m", "pipelines.services.stage_server", str(layout.stage_socket)]
    return start("stage-server", argv, stage_server_environment(layout), layout.folder, REPOSITORY)


def start_spark(server: SparkServer, folder: Path, session: SparkSettings | None = None) -> Process:
    """Start a Spark server, its settings and clients' variables below the run folder; it is not waited for."""
    home = folder / "spark"
    home.mkdir(parents=True, exist_ok=True)
    server.write_client_environment(home / CLIENT_ENVIRONMENT)
    return start("spark", server.command(home, session), spark_environment(server), folder, home)


def new_layout(folder: Path) -> Layout:
    """Return a layout with free ports, a fresh secret, and a Spark server unless the environment names one."""
    airflow_port, mlflow_port, spark_port = free_ports(3)
    spark = None if os.environ.get(REMOTE_VARIABLE) else SparkServer.new(spark_port)
    return Layout(folder, airflow_port, mlflow_port, secrets.token_hex(64), spark)


def record(services: Services) -> None:
    """Write `<folder>/services.json`, in one step."""
    state = Path(services.folder) / _STATE
    temporary = state.with_suffix(".tmp")
    temporary.write_text(json.dumps(asdict(services), indent=1), encoding="utf-8")
    temporary.replace(state)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One start at a time for a folder; a second one waits and then finds the services up."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _start_all(layout: Layout) -> Services:
    mlflow = start_mlflow(layout)
    spark = [start_spark(layout.spark, layout.folder)] if layout.spark else []
    _migrate(layout)
    airflow = _start_airflow(layout)
    stages = [start_stage_server(layout)] if can_listen(layout.stage_socket) else []
    processes = (mlflow, *spark, *airflow, *stages)
    spark_url = layout.spark.url if layout.spark else ""
    urls = (layout.airflow_url, layout.mlflow_url)
    services = Services(str(layout.folder), *urls, processes, spark_url)
    wait_until(lambda: _mlflow_answers(layout.mlflow_url), [mlflow], START_TIMEOUT_S, "MLflow")
    if layout.spark:
        wait_until(layout.spark.answers, spark, START_TIMEOUT_S, "Spark")
    wait_until(lambda: services.api().healthy(*_HEALTH), airflow, START_TIMEOUT_S, "Airflow")
    for name, description in POOLS.items():
        services.api().set_pool(name, 1, description)
    record(services)
    return services


def _migrate(layout: Layout) -> None:
    layout.airflow_home.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "airflow", "db", "migrate"]
    done = subprocess.run(
        argv,
        env=airflow_environment(layout),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RetryableError(
            f"airflow db migrate failed in {layout.airflow_home}:\n{(done.stdout + done.stderr)[-4000:]}"
        )


def _start_airflow(layout: Layout) -> list[Process]:
    environment = airflow_environment(layout)
    airflow = (sys.executable, "-m", "airflow")
    return [
        start(name, (*airflow, *argv), environment, layout.folder, REPOSITORY)
        for name, argv in _COMPONENTS.items()
    ]


def _mlflow_answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5.0, trust_env=False).is_success
    except httpx.HTTPError:
        return False
