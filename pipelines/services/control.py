"""Start, watch and stop the embedded services."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import httpx

from features.errors import InputError, RetryableError
from features.files import write_atomically
from pipelines.services.airflow_api import AirflowApi
from pipelines.services.environment import (
    IN_CHECKOUT,
    LOOPBACK,
    PASSWORDS,
    REPOSITORY,
    USER,
    ServiceLayout,
    airflow_environment,
    mlflow_environment,
    spark_environment,
    stage_server_environment,
)
from pipelines.services.processes import ServiceProcess, free_ports, start, stop_all, wait_until
from pipelines.services.stage_server import can_listen
from spark_jobs.server import REMOTE_VARIABLE, SparkServer, accepts_connections
from spark_jobs.settings import SparkSettings

RUN_FOLDER_VARIABLE = "ELASTIC_CTR_RUN_DIR"
START_TIMEOUT_S = 240.0
GRACE_S = 12.0
POOLS = {"gpu": "One training at a time.", "spark": "One Spark session at a time."}

CLIENT_ENVIRONMENT = "client.env"

_STATE = "services.json"
# `--skip-serve-logs`: no further process that serves log files to other machines.
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

    `spark_url` is empty where stages use a Spark server that was not started here. `login`:
    whether Airflow asks for a password.
    """

    folder: str
    airflow_url: str
    mlflow_url: str
    processes: tuple[ServiceProcess, ...]
    spark_url: str = ""
    login: bool = True

    def api(self) -> AirflowApi:
        """Return a client of this Airflow."""
        return AirflowApi(self.airflow_url, USER, self.password)

    @property
    def passwords(self) -> Path:
        """The file that holds the password of Airflow's user."""
        return Path(self.folder) / "airflow" / PASSWORDS

    @property
    def password(self) -> str:
        """The password of Airflow's user."""
        return str(json.loads(self.passwords.read_text(encoding="utf-8"))[USER])

    @property
    def spark_environment(self) -> Path:
        """A file of variables with which another terminal uses the Spark server."""
        return Path(self.folder) / "spark" / CLIENT_ENVIRONMENT

    def alive(self) -> bool:
        """Whether every process runs and every service answers."""
        if not all(process.alive() for process in self.processes):
            return False
        spark = not self.spark_url or accepts_connections(self.spark_url)
        return spark and self.api().healthy() and _mlflow_answers(self.mlflow_url)


def default_folder() -> Path:
    """Return the run folder: `ELASTIC_CTR_RUN_DIR`, by default `.run`.

    The default is in the checkout, or in the current folder if the packages were installed.
    """
    home = REPOSITORY if IN_CHECKOUT else Path.cwd()
    return Path(os.environ.get(RUN_FOLDER_VARIABLE) or home / ".run")


def up(folder: Path, *, login: bool = True) -> Services:
    """Start MLflow, Spark and Airflow on free loopback ports, unless they run already.

    Databases and logs are written to `folder`. Where the environment names a Spark server
    (`SPARK_REMOTE`), none is started: stages use that one. Without `login`, whoever reaches
    Airflow's port is its administrator.

    Raises:
        InputError: the services run already, with the other setting of `login`.
        RetryableError: a service did not become healthy; everything is stopped again, the message
            shows its log.
    """
    folder = folder.resolve()
    with _lock(folder):
        already = status(folder)
        if already is not None:
            if already.login != login:
                raise InputError(
                    f"the services in {folder} run {'with' if already.login else 'without'} a "
                    "login: stop them first (`elastic-ctr down`)"
                )
            return already
        # An earlier start that crashed may have left processes.
        stop_all(folder, GRACE_S)
        try:
            return _start_all(replace(new_layout(folder), login=login))
        # Ctrl-C too: no process may be left behind.
        except BaseException:
            stop_all(folder, GRACE_S)
            raise


def down(folder: Path) -> int:
    """Stop all processes of the folder; return their number. Data and logs are kept."""
    folder = folder.resolve()
    # First, so that `status` reports the services as down while they stop.
    (folder / _STATE).unlink(missing_ok=True)
    return stop_all(folder, GRACE_S)


def status(folder: Path) -> Services | None:
    """Return the running services, or None when they are not all up."""
    state = folder.resolve() / _STATE
    if not state.is_file():
        return None
    document = json.loads(state.read_text(encoding="utf-8"))
    document["processes"] = tuple(ServiceProcess(**each) for each in document["processes"])
    services = Services(**document)
    return services if services.alive() else None


@contextmanager
def running(folder: Path, *, keep: bool, login: bool = True) -> Iterator[Services]:
    """Start the services for a block; they are stopped at its end unless `keep` or up before."""
    was_up = status(folder) is not None
    services = up(folder, login=login)
    try:
        yield services
    finally:
        if not keep and not was_up:
            down(folder)


def start_mlflow(layout: ServiceLayout) -> ServiceProcess:
    """Start the MLflow server with database and artifacts below the run folder; do not wait."""
    home = layout.folder / "mlflow"
    home.mkdir(parents=True, exist_ok=True)
    options = {
        "host": LOOPBACK,
        "port": layout.mlflow_port,
        "workers": 1,
        "backend-store-uri": f"sqlite:///{home / 'mlflow.db'}",
        "artifacts-destination": home / "artifacts",
    }
    argv = [sys.executable, "-m", "mlflow", "server"]
    argv += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return start("mlflow", argv, mlflow_environment(), layout.folder, REPOSITORY)


def start_spark(
    server: SparkServer, folder: Path, session: SparkSettings | None = None
) -> ServiceProcess:
    """Start a Spark server with its files below the run folder; do not wait for it."""
    home = folder / "spark"
    home.mkdir(parents=True, exist_ok=True)
    server.write_client_environment(home / CLIENT_ENVIRONMENT)
    return start("spark", server.command(home, session), spark_environment(server), folder, home)


def new_layout(folder: Path) -> ServiceLayout:
    """Return a layout with free ports, a new secret, and a Spark server unless one is named."""
    airflow_port, mlflow_port, spark_port = free_ports(3)
    spark = None if os.environ.get(REMOTE_VARIABLE) else SparkServer.new(spark_port)
    return ServiceLayout(folder, airflow_port, mlflow_port, secrets.token_hex(64), spark)


def record(services: Services) -> None:
    """Write `<folder>/services.json`."""
    write_atomically(Path(services.folder) / _STATE, json.dumps(asdict(services), indent=1))


def _write_password(passwords: Path) -> None:
    """Make a password for this run folder, unless it has one."""
    if not passwords.exists():
        # Opened with its mode: a file that is made readable by its owner only afterwards can be
        # opened by others in between.
        with os.fdopen(os.open(passwords, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as to:
            json.dump({USER: secrets.token_urlsafe(18)}, to)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Let one process start services; a second one waits and then finds them up."""
    # For its owner only: it holds databases, logs, and the password.
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as stream:
        # The kernel releases the lock when the process ends, however it ends.
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _start_all(layout: ServiceLayout) -> Services:
    # 1. Start what needs no database of Airflow; it gets ready while the database is migrated.
    folder, airflow_variables = layout.folder, airflow_environment(layout)
    mlflow = start_mlflow(layout)
    spark = [start_spark(layout.spark, folder)] if layout.spark else []

    # 2. Migrate Airflow's database, then start its components.
    airflow_command = (sys.executable, "-m", "airflow")
    layout.airflow_home.mkdir(parents=True, exist_ok=True)
    _write_password(layout.passwords)
    migration = subprocess.run(
        [*airflow_command, "db", "migrate"],
        env=airflow_variables,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if migration.returncode != 0:
        output = (migration.stdout + migration.stderr)[-4000:]
        raise RetryableError(f"airflow db migrate failed in {layout.airflow_home}:\n{output}")
    airflow = [
        start(name, (*airflow_command, *argv), airflow_variables, folder, REPOSITORY)
        for name, argv in _COMPONENTS.items()
    ]

    # 3. Start the stage server. It is not waited for: a stage that comes too early waits itself.
    stages = []
    if can_listen(layout.stage_socket):
        command = (
            sys.executable,
            "-m",
            "pipelines.services.stage_server",
            str(layout.stage_socket),
        )
        variables = stage_server_environment(layout)
        stages = [start("stage-server", command, variables, folder, REPOSITORY)]

    # 4. Wait until everything answers, and only then record the services as up.
    services = Services(
        str(folder),
        layout.airflow_url,
        layout.mlflow_url,
        (mlflow, *spark, *airflow, *stages),
        layout.spark.url if layout.spark else "",
        layout.login,
    )
    wait_until(lambda: _mlflow_answers(layout.mlflow_url), [mlflow], START_TIMEOUT_S, "MLflow")
    if layout.spark:
        wait_until(layout.spark.answers, spark, START_TIMEOUT_S, "Spark")
    wait_until(lambda: services.api().healthy(*_HEALTH), airflow, START_TIMEOUT_S, "Airflow")
    # A task of an unknown pool is never started, so the pools exist before the state is recorded.
    for name, description in POOLS.items():
        services.api().set_pool(name, 1, description)
    record(services)
    return services


def _mlflow_answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5.0, trust_env=False).is_success
    except httpx.HTTPError:
        return False
