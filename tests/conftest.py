"""Settings and fixtures that every test shares: quiet libraries, no telemetry, one Spark server."""

import fcntl
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.update(
    TF_CPP_MIN_LOG_LEVEL="2",
    CUDA_VISIBLE_DEVICES="-1",
    GX_ANALYTICS_ENABLED="false",
    MLFLOW_DISABLE_TELEMETRY="true",
    DO_NOT_TRACK="true",
    MPLBACKEND="Agg",
    NO_PROXY="*",
)

REPOSITORY = Path(__file__).resolve().parent.parent

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# It says goodbye when a worker of pytest-xdist has closed its streams already.
logging.getLogger("py4j").setLevel(logging.WARNING)

if not hasattr(sys.modules["__main__"], "__file__"):
    # A worker of pytest-xdist: pyspark takes a main module without a file for its own doctests, and exits.
    sys.modules["__main__"].__file__ = __file__


SPARK_FOLDER = "ELASTIC_CTR_TEST_SPARK"
"""Where the Spark server of this test run lives. Workers of pytest-xdist inherit the variable."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--spark",
        choices=("server", "local"),
        default="server",
        help="Spark tests over one Connect server for the whole run, or in local sessions, a JVM for each process.",
    )


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        os.environ[SPARK_FOLDER] = tempfile.mkdtemp(prefix="elastic-ctr-spark-")


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        from pipelines.services.processes import stop_all

        folder = Path(os.environ.pop(SPARK_FOLDER))
        stop_all(folder, grace_s=10)
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def spark_server(pytestconfig: pytest.Config) -> None:
    """The run's Spark server, for this process and those that it starts (`SPARK_REMOTE` is set).

    The first test that asks for it starts it; all workers share it; it stops with the run.
    """
    if pytestconfig.getoption("--spark") == "local":
        return
    from pipelines.services.control import CLIENT_ENVIRONMENT, START_TIMEOUT_S, start_spark
    from pipelines.services.processes import free_ports, wait_until
    from spark_jobs.server import SparkServer

    folder = Path(os.environ[SPARK_FOLDER])
    variables = folder / "spark" / CLIENT_ENVIRONMENT
    with (folder / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        if not variables.exists():
            server = SparkServer.new(free_ports(1)[0])
            wait_until(server.answers, [start_spark(server, folder)], START_TIMEOUT_S, "Spark")
    os.environ.update(line.split("=", 1) for line in variables.read_text().splitlines())


@pytest.fixture(scope="session")
def spark(spark_server: None) -> Iterator[object]:
    """One session for all Spark tests of this process."""
    from spark_jobs.session import spark_session
    from spark_jobs.settings import SparkSettings

    with spark_session(SparkSettings(master="local[2]", shuffle_partitions=2)) as session:
        yield session
        session.stop()


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The real data (`ELASTIC_CTR_DATA`, default `../shared/data`); the test is skipped where it is absent."""
    folder = Path(os.environ.get("ELASTIC_CTR_DATA", REPOSITORY.parent / "shared" / "data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}: set ELASTIC_CTR_DATA")
    return folder
