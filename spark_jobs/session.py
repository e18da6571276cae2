"""The Spark session: one place for every setting that results depend on."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from pyspark.sql import SparkSession

from spark_jobs.java import require_java
from spark_jobs.settings import SparkSettings


def spark_session(settings: SparkSettings, app_name: str = "elastic-ctr") -> SparkSession:
    """Return the running session, or start one with these settings (the JVM takes some seconds).

    Raises:
        InputError: there is no Java 17 or 21; the message says what to install.
    """
    os.environ["JAVA_HOME"] = str(require_java().home)
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    builder = SparkSession.builder.master(settings.master).appName(app_name)
    for name, value in {**_results(settings), **_surroundings(settings)}.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


def _results(settings: SparkSettings) -> dict[str, str]:
    """Settings that change what comes out, or how errors show."""
    return {
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.ansi.enabled": "true",
        "spark.sql.caseSensitive": "true",
        # With pruning a row of wrong arity passes for sound when the columns that it lacks are not asked for.
        "spark.sql.csv.parser.columnPruning.enabled": "false",
        "spark.sql.shuffle.partitions": str(settings.shuffle_partitions),
    }


def _surroundings(settings: SparkSettings) -> dict[str, str]:
    """Settings of the process: memory, addresses, folders, noise."""
    scratch = Path(tempfile.gettempdir())
    return {
        "spark.driver.memory": settings.driver_memory,
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": str(sys.stderr.isatty()).lower(),
        "spark.log.level": "ERROR",
        "spark.local.dir": str(scratch),
        "spark.sql.warehouse.dir": str(scratch / "elastic-ctr-warehouse"),
    }
