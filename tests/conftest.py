"""Settings and fixtures that every test shares: quiet libraries, no telemetry, one Spark session."""

import logging
import os
import sys
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


@pytest.fixture(scope="session")
def spark() -> Iterator[object]:
    """One local session for all Spark tests: a JVM costs about ten seconds."""
    from spark_jobs.session import spark_session
    from spark_jobs.settings import SparkSettings

    session = spark_session(SparkSettings(master="local[2]", shuffle_partitions=2))
    yield session
    session.stop()


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The real data (`ELASTIC_CTR_DATA`, default `../shared/data`); the test is skipped where it is absent."""
    folder = Path(os.environ.get("ELASTIC_CTR_DATA", REPOSITORY.parent / "shared" / "data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}: set ELASTIC_CTR_DATA")
    return folder
