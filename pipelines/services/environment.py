"""The environment of the embedded services: what differs from Airflow's and MLflow's defaults."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pipelines.services.schedule import SCHEDULE_VARIABLE
from pipelines.services.stage_server import SOCKET_VARIABLE
from spark_jobs.server import SparkServer

REPOSITORY = Path(__file__).resolve().parents[2]
"""The folder of the packages, `dags` and `conf`: the checkout, or where a wheel was installed."""

IN_CHECKOUT = (REPOSITORY / "pyproject.toml").is_file()
LOOPBACK = "127.0.0.1"
USER = "admin"
PASSWORDS = "passwords.json"
DATA_VARIABLE = "ELASTIC_CTR_DATA"
RUN_URL_VARIABLE = "ELASTIC_CTR_AIRFLOW_URL"
"""The address of the Airflow task that runs a stage."""

FOLDERS_VARIABLE = "ELASTIC_CTR_FOLDERS"
"""The folders, separated by `:`, in which `config` and `workspace` of a trigger form may lie."""

# How long a writer waits for another one. On a busy machine Airflow's processes hold SQLite's lock
# for seconds.
SQLITE_BUSY_S = 60

QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "MPLBACKEND": "Agg",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "SCARF_ANALYTICS": "false",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Switches off telemetry and start-up messages, in the services and in what they start."""


@dataclass(frozen=True)
class ServiceLayout:
    """The run folder of the services, their ports, and the secret that signs Airflow's tokens.

    `spark` is the resident server; None where the caller's environment names another one.
    `login`: Airflow asks for the name `USER` and the password in `passwords`.
    """

    folder: Path
    airflow_port: int
    mlflow_port: int
    secret: str
    spark: SparkServer | None = None
    login: bool = True

    @property
    def airflow_url(self) -> str:
        """The address of Airflow's UI and API."""
        return f"http://{LOOPBACK}:{self.airflow_port}"

    @property
    def mlflow_url(self) -> str:
        """The address of MLflow's UI and API."""
        return f"http://{LOOPBACK}:{self.mlflow_port}"

    @property
    def stage_socket(self) -> Path:
        """The socket of the stage server."""
        return self.folder / "stages.sock"

    @property
    def airflow_home(self) -> Path:
        """Airflow's folder, inside the run folder."""
        return self.folder / "airflow"

    @property
    def passwords(self) -> Path:
        """The file of Airflow's users and passwords (JSON), which Airflow reads at each login."""
        return self.airflow_home / PASSWORDS


def airflow_environment(layout: ServiceLayout) -> dict[str, str]:
    """Return the environment of Airflow's processes, and so of the stages that they run."""
    # An installed wheel is on the path already. Named here, it would come before the standard
    # library.
    paths = (str(REPOSITORY) if IN_CHECKOUT else "", os.environ.get("PYTHONPATH", ""))
    return {
        **inherited(),
        **_airflow_settings(layout),
        "MLFLOW_TRACKING_URI": layout.mlflow_url,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        DATA_VARIABLE: str(data_folder()),
        FOLDERS_VARIABLE: os.pathsep.join(allowed_folders()),
        SOCKET_VARIABLE: str(layout.stage_socket),
        **(layout.spark.client_environment() if layout.spark else {}),
    }


def stage_server_environment(layout: ServiceLayout) -> dict[str, str]:
    """Return the environment of the stage server: a stage's, without what Airflow adds to it."""
    settings = airflow_environment(layout)
    return {name: value for name, value in settings.items() if not name.startswith("AIRFLOW")}


def spark_environment(server: SparkServer) -> dict[str, str]:
    """Return the environment of the Spark server."""
    return server.environment(inherited())


def mlflow_environment() -> dict[str, str]:
    """Return the environment of the MLflow server."""
    # Job execution would start eight more processes (MLflow 3.17).
    return {**inherited(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def data_folder() -> Path:
    """Return the folder of the real data: `ELASTIC_CTR_DATA`, by default `../shared/data`."""
    return Path(os.environ.get(DATA_VARIABLE) or REPOSITORY.parent / "shared" / "data").resolve()


def allowed_folders() -> list[str]:
    """Return the folders that a trigger form may name.

    By default the current folder, that of the packages, and the workspace.
    """
    named = os.environ.get(FOLDERS_VARIABLE)
    if named:
        return named.split(os.pathsep)
    workspace = os.environ.get("ELASTIC_CTR_WORKSPACE")
    return [str(Path.cwd()), str(REPOSITORY), *([workspace] if workspace else [])]


def inherited() -> dict[str, str]:
    """Return this process's environment for a child, without another Airflow's or MLflow's."""
    # Settings of another Airflow or MLflow must not reach this one.
    foreign = ("AIRFLOW", "_AIRFLOW", "MLFLOW_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    # Requests to the loopback interface must not go through a proxy. Libraries read either name.
    direct = f"{LOOPBACK},localhost"
    return {**kept, **QUIET, "NO_PROXY": direct, "no_proxy": direct}


def _airflow_settings(layout: ServiceLayout) -> dict[str, str]:
    home = layout.airflow_home
    database = f"sqlite:///{home / 'airflow.db'}?timeout={SQLITE_BUSY_S}"
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(layout.passwords),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": str(not layout.login),
        # Holds the check of the host that a request names.
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "dags" / "airflow_plugins"),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{layout.airflow_url}/execution/",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
        "AIRFLOW__API__HOST": LOOPBACK,
        "AIRFLOW__API__PORT": str(layout.airflow_port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API__BASE_URL": layout.airflow_url,
        # One secret for all processes, which verify each other's tokens.
        "AIRFLOW__API_AUTH__JWT_SECRET": layout.secret,
        "AIRFLOW__API__SECRET_KEY": layout.secret,
        # Without a schedule of the user there are no scheduled runs: unpausing a daily DAG would
        # start yesterday's at once.
        "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": str(bool(os.environ.get(SCHEDULE_VARIABLE))),
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "30",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "60",
        "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
        # Keeps /proc/<pid>/environ readable, by which `processes.tagged` finds the processes:
        # setproctitle would overwrite it.
        "SPT_NOENV": "1",
    }
