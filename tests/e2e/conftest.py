"""A small world that was run once: three simulated days through the whole chain."""

from dataclasses import replace

import pytest
import warm_python
from worlds import FIRST, LAST, make_world

HEAVY = (
    "tensorflow",
    "mlflow",
    "great_expectations",
    "pandas",
    "pyspark.sql",
    "numba",
    "matplotlib.pyplot",
    "pipelines.cli.main",
)


@pytest.fixture(scope="session")
def warm_command(fresh_process, tmp_path_factory):
    """An interpreter that has imported what the command line imports."""
    environment = {
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_ENABLE_ONEDNN_OPTS": "0",
    }  # as the command sets before it imports
    with warm_python.started(tmp_path_factory.mktemp("warm"), HEAVY, environment) as executable:
        yield executable


@pytest.fixture(scope="session")
def world(warm_command, spark_server, tmp_path_factory):
    """Three days, run once for the tests that only read and those that continue with a copy."""
    made = make_world(tmp_path_factory.mktemp("world"))
    made.run("run", "--config", str(made.config), "--from", FIRST, "--to", LAST)
    return replace(made, python=warm_command)
