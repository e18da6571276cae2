"""The session's settings that results and privacy depend on."""

import sys

import pytest

from spark_jobs.session import spark_session
from spark_jobs.settings import SparkSettings

pytestmark = pytest.mark.spark


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("spark.sql.session.timeZone", "UTC"),
        ("spark.sql.ansi.enabled", "true"),
        ("spark.sql.caseSensitive", "true"),
        ("spark.sql.csv.parser.columnPruning.enabled", "false"),
        ("spark.ui.enabled", "false"),
        ("spark.driver.host", "127.0.0.1"),
        ("spark.driver.bindAddress", "127.0.0.1"),
    ],
)
def test_settings_hold(spark, name, value):
    assert spark.conf.get(name) == value


def test_a_second_call_gives_the_running_session(spark):
    again = spark_session(SparkSettings(master="local[2]", shuffle_partitions=2))
    assert again.sparkContext is spark.sparkContext
    assert spark.conf.get("spark.sql.shuffle.partitions") == "2"


def test_python_workers_run_this_python(spark):
    assert spark.sparkContext.pythonExec == sys.executable
    assert spark.sparkContext.uiWebUrl is None
