"""Settings and fixtures that every test shares: quiet libraries, no telemetry, one Spark server; the tiers of tests."""

import fcntl
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
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
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
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


E2E = Path(__file__).parent / "e2e"

MARKS = {
    "spark": "spark",
    "spark_server": "spark",
    "airflow_database": "airflow",
    "fresh_process": "process",
}
"""Fixtures that cost a process, and the mark that each gives to the tests that use it, if by way of other fixtures."""

PROGRAMS = ("python", "warm_python", "spark-submit", "elastic-ctr", "airflow", "mlflow")
UNIT = pytest.StashKey[bool]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their fixtures; the longest files, which one worker runs, go first."""
    for item in items:
        for name in MARKS.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(MARKS[name])
        item.stash[UNIT] = not {"process", "spark", "airflow", "slow", "benchmark"} & {
            m.name for m in item.iter_markers()
        }
    items.sort(key=lambda item: not item.path.is_relative_to(E2E))


running_unit_test = False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Tell `watch_processes` what kind of test runs."""
    global running_unit_test
    running_unit_test = item.stash[UNIT]
    try:
        return (yield)
    finally:
        running_unit_test = False


def watch_processes(event: str, arguments: tuple[object, ...]) -> None:
    """Fail a unit test that starts a heavy process: `make test-fast` promises that there are none."""
    if event == "subprocess.Popen" and running_unit_test:
        program = Path(os.fsdecode(arguments[0])).name  # type: ignore[arg-type]
        if program.startswith(PROGRAMS):
            raise RuntimeError(
                f"a unit test starts {program}: mark the test with `process`, or do without"
            )


sys.addaudithook(watch_processes)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Give each worker whole files, and the tests from end to end that share a simulated world to one worker."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return (
                "tests/e2e"
                if file.startswith("tests/e2e/") and not file.endswith("test_own_log.py")
                else file
            )

    return Scheduling(config, log)


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


@pytest.fixture(scope="module")
def spark(spark_server: None) -> Iterator[object]:
    """One session for the Spark tests of a file: the server ends sessions that were idle for an hour."""
    from spark_jobs.session import spark_session
    from spark_jobs.settings import SparkSettings

    with spark_session(SparkSettings(master="local[2]", shuffle_partitions=2)) as session:
        yield session
        session.stop()


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The real data (`ELASTIC_CTR_DATA`, default `../shared/data`); the test is skipped where it is absent."""
    folder = Path(
        os.environ.get("ELASTIC_CTR_DATA", REPOSITORY.parent / "shared" / "data")
    ).resolve()
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}: set ELASTIC_CTR_DATA")
    return folder


@pytest.fixture(scope="session")
def fresh_process() -> None:
    """Used by fixtures that start a process of Python or Java, so that the tests that use them are marked `process`."""


@pytest.fixture(scope="session")
def warm_python(fresh_process: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An interpreter for processes that know TensorFlow and nothing of this project: see `warm_python.py`."""
    import warm_python

    quiet = {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}
    with warm_python.started(
        tmp_path_factory.mktemp("warm"), ["numpy", "tensorflow"], quiet
    ) as executable:
        yield executable


@pytest.fixture(scope="session")
def compare_served(warm_python: Path) -> Callable[..., object]:
    """`check_parity` with a fork of the warm interpreter in place of a cold process for each export."""
    from validation.model.check import compare
    from validation.serving.measure import serve

    def compared(saved_model, requests, expected, batch_sizes):
        assert expected.shape == (len(requests),)
        return compare(serve(saved_model, requests, batch_sizes, python=warm_python), expected)

    return compared
