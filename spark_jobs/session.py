"""The Spark session: one place for every setting that results depend on."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from features.errors import InputError, RetryableError
from spark_jobs.java import require_java
from spark_jobs.server import REMOTE_VARIABLE, accepts_connections, process_settings
from spark_jobs.settings import LOCAL, SparkSettings


@contextmanager
def spark_session(settings: SparkSettings, app_name: str = "elastic-ctr") -> Iterator[SparkSession]:
    """Give a block a session: of the server that settings or `SPARK_REMOTE` name, else a local one.

    At the end of the block a server's session is released, so that nothing of it stays there.
    A local one stays for the next block of this process: its JVM takes some seconds to start.

    Raises:
        InputError: a local session, and there is no Java 17 or 21 (the message says what to install);
            or the server does not accept the token; or `SPARK_REMOTE` is no address of a server.
        RetryableError: the server does not answer.
    """
    url = remote_of(settings)
    session = (
        _remote_session(url, settings, app_name) if url else _local_session(settings, app_name)
    )
    try:
        yield session
    finally:
        if url:
            session.stop()


def remote_of(settings: SparkSettings) -> str:
    """Return the server that settings name, else that of `SPARK_REMOTE`; empty for a local session."""
    url = settings.remote or os.environ.get(REMOTE_VARIABLE, "")
    if url in ("", LOCAL):
        return ""
    if not url.startswith("sc://"):
        raise InputError(f"{REMOTE_VARIABLE}={url!r}: expected sc://host:port, {LOCAL} or nothing")
    return url


def _remote_session(url: str, settings: SparkSettings, app_name: str) -> SparkSession:
    shown = _without_parameters(url)
    if not accepts_connections(url):
        raise RetryableError(
            f"no Spark server answers at {shown}: start one (`elastic-ctr up` does), correct"
            f" `spark.remote` or {REMOTE_VARIABLE}, or set `spark.remote: {LOCAL}`"
        )
    builder = SparkSession.builder.remote(url).appName(app_name).config(map=_results(settings))
    try:
        # One of its own, so that to release it disturbs no other block of this process.
        return builder.create()
    except PySparkException as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"the Spark server at {shown} refuses a session (is the token right?): {reason}"
        ) from error


def _local_session(settings: SparkSettings, app_name: str) -> SparkSession:
    os.environ["JAVA_HOME"] = str(require_java().home)
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    surroundings = {
        **process_settings(settings.driver_memory),
        "spark.ui.showConsoleProgress": str(sys.stderr.isatty()).lower(),
    }
    options = {**_results(settings), **surroundings}
    # Spark's builder takes these variables for a wish, whatever its own settings say. The second one is
    # set by a session of a server, and inherited by what its process starts.
    named = os.environ.pop(REMOTE_VARIABLE, None)
    os.environ.pop("SPARK_CONNECT_MODE_ENABLED", None)
    try:
        return (
            SparkSession.builder.master(settings.master)
            .appName(app_name)
            .config(map=options)
            .getOrCreate()
        )
    finally:
        if named is not None:
            os.environ[REMOTE_VARIABLE] = named


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


def _without_parameters(url: str) -> str:
    """An address as a message may show it: a token may stand behind it."""
    return f"sc://{urlsplit(url).netloc}"
