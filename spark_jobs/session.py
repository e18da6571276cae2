"""The Spark session, with every setting that results depend on."""

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
    """Give a block a session: of the server in settings or `SPARK_REMOTE`, else a local one.

    Raises:
        InputError: a local session without Java 17 or 21 (the message says what to install); or the
            server does not accept the token; or `SPARK_REMOTE` is no address of a server.
        RetryableError: the server does not answer.
    """
    url = remote_of(settings)
    session = (
        _remote_session(url, settings, app_name) if url else _local_session(settings, app_name)
    )
    try:
        yield session
    finally:
        # A server would keep the session's temporary views and settings for an hour. A local
        # session stays for the next block of this process: its JVM takes seconds to start.
        if url:
            session.stop()


def remote_of(settings: SparkSettings) -> str:
    """Return the address of the server in settings, else in `SPARK_REMOTE`; empty for none."""
    url = settings.remote or os.environ.get(REMOTE_VARIABLE, "")
    if url in ("", LOCAL):
        return ""
    if not url.startswith("sc://"):
        raise InputError(f"{REMOTE_VARIABLE}={url!r}: expected sc://host:port, {LOCAL} or nothing")
    return url


def _remote_session(url: str, settings: SparkSettings, app_name: str) -> SparkSession:
    # Without parameters: a token may be one of them.
    shown = f"sc://{urlsplit(url).netloc}"
    if not accepts_connections(url):
        raise RetryableError(
            f"no Spark server answers at {shown}: start one (`elastic-ctr up` does), correct"
            f" `spark.remote` or {REMOTE_VARIABLE}, or set `spark.remote: {LOCAL}`"
        )
    builder = SparkSession.builder.remote(url).appName(app_name).config(map=_settings(settings))
    from pyspark.sql.connect.client.retries import DefaultPolicy

    class WhileItListens(DefaultPolicy):
        """Spark's retries, for ten minutes a request, unless the server was killed."""

        def can_retry(self, e: BaseException) -> bool:
            return super().can_retry(e) and accepts_connections(url)

    try:
        # `create`, not `getOrCreate`: releasing this session must not end another block's.
        session = builder.create()
        session.client.set_retry_policies([WhileItListens()])
        return session
    except PySparkException as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"the Spark server at {shown} refuses a session (is the token right?): {reason}"
        ) from error


def _local_session(settings: SparkSettings, app_name: str) -> SparkSession:
    os.environ["JAVA_HOME"] = str(require_java().home)
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    options = {
        **_settings(settings),
        **process_settings(settings.driver_memory),
        "spark.ui.showConsoleProgress": str(sys.stderr.isatty()).lower(),
    }
    # Spark's builder obeys these variables rather than its own settings (pyspark 4.3). A session of
    # a server sets the second one, and child processes inherit it.
    inherited = os.environ.pop(REMOTE_VARIABLE, None)
    os.environ.pop("SPARK_CONNECT_MODE_ENABLED", None)
    try:
        builder = SparkSession.builder.master(settings.master).appName(app_name)
        return builder.config(map=options).getOrCreate()
    finally:
        if inherited is not None:
            os.environ[REMOTE_VARIABLE] = inherited


def _settings(settings: SparkSettings) -> dict[str, str]:
    """Return the settings that results and errors depend on."""
    return {
        # Casts and formats of times would otherwise depend on the machine's zone.
        "spark.sql.session.timeZone": "UTC",
        # An overflow or a failed cast is an error, not a null.
        "spark.sql.ansi.enabled": "true",
        # Columns that differ in case only are different columns, as in the schema.
        "spark.sql.caseSensitive": "true",
        # With pruning a line with too few values counts as valid if the query does not read the
        # missing columns.
        "spark.sql.csv.parser.columnPruning.enabled": "false",
        # `source.encoding` may be any encoding that Java knows, such as cp1252.
        "spark.sql.legacy.javaCharsets": "true",
        "spark.sql.shuffle.partitions": str(settings.shuffle_partitions),
    }
