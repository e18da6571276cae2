"""A resident Spark Connect server: one JVM on loopback that every stage, test and terminal of this machine may use.

Whoever starts it gives clients two variables, which are Spark's own: `SPARK_REMOTE` says where the server is, and
`SPARK_CONNECT_AUTHENTICATE_TOKEN` lets them in. The token travels in environments and in a file for the owner's eyes
only, so no process listing and no log shows it.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from features.errors import InputError
from spark_jobs.java import require_java
from spark_jobs.settings import SparkSettings

REMOTE_VARIABLE = "SPARK_REMOTE"
TOKEN_VARIABLE = "SPARK_CONNECT_AUTHENTICATE_TOKEN"  # noqa: S105 (the name of a variable)
MEMORY_VARIABLE = "SPARK_DRIVER_MEMORY"
"""Spark's own variable for the memory of a driver, which the server is."""

_MAIN_CLASS = "org.apache.spark.sql.connect.service.SparkConnectServer"
_JAVA_OPTIONS = " ".join(
    (
        # Each query brings code of its own, seen once: Java's optimising compiler took half of a small
        # day's CPU. It now waits until code has run ten times as often as it would by default.
        "-XX:Tier4InvocationThreshold=50000",
        "-XX:Tier4MinInvocationThreshold=6000",
        "-XX:Tier4CompileThreshold=150000",
        "-XX:Tier4BackEdgeThreshold=400000",
        "-XX:+UseSerialGC",
    )
)
_PROBE_TIMEOUT_S = 5.0
_DEFAULT_PORT = 15002


@dataclass(frozen=True)
class SparkServer:
    """A server on loopback: its port and the token without which it answers nobody."""

    port: int
    token: str

    @classmethod
    def new(cls, port: int) -> SparkServer:
        """Return a server for this port with a token of its own."""
        return cls(port, secrets.token_hex(32))

    @property
    def url(self) -> str:
        """What clients connect to. By this very name: to it alone a client sends its token without TLS."""
        return f"sc://localhost:{self.port}"

    def client_environment(self) -> dict[str, str]:
        """Return the variables by which clients find the server and are let in."""
        return {REMOTE_VARIABLE: self.url, TOKEN_VARIABLE: self.token}

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of the server's own process.

        Raises:
            InputError: there is no Java 17 or 21; the message says what to install.
        """
        own = {
            "JAVA_HOME": str(require_java().home),
            "SPARK_HOME": str(_spark_home()),
            # Workers of the server run in the environment that this package is installed in.
            "PYSPARK_PYTHON": sys.executable,
            "SPARK_LOCAL_IP": "127.0.0.1",
            TOKEN_VARIABLE: self.token,
        }
        return {
            **{name: value for name, value in inherited.items() if name != REMOTE_VARIABLE},
            **own,
        }

    def command(self, folder: Path, session: SparkSettings | None = None) -> list[str]:
        """Return the command that runs the server in the foreground; its settings are written into `folder`.

        Args:
            folder: an existing folder.
            session: master and memory; by default the settings' own, and `SPARK_DRIVER_MEMORY`.
        """
        settings = folder / "spark.properties"
        own = session or SparkSettings()
        memory = (
            own.driver_memory if session else os.environ.get(MEMORY_VARIABLE) or own.driver_memory
        )
        values = self._settings(own.master, memory)
        settings.write_text(
            "".join(f"{name} {value}\n" for name, value in values.items()), encoding="utf-8"
        )
        submit = _spark_home() / "bin" / "spark-submit"
        return [
            str(submit),
            "--properties-file",
            str(settings),
            "--class",
            _MAIN_CLASS,
            "spark-internal",
        ]

    def write_client_environment(self, path: Path) -> None:
        """Write `NAME=value` lines for a shell (`set -a; . FILE`); only the owner may read the file."""
        path.unlink(missing_ok=True)
        with os.fdopen(
            os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
        ) as stream:
            stream.writelines(
                f"{name}={value}\n" for name, value in self.client_environment().items()
            )

    def answers(self) -> bool:
        """Whether the server accepts connections."""
        return accepts_connections(self.url)

    def _settings(self, master: str, memory: str) -> dict[str, str]:
        return {
            **process_settings(memory),
            "spark.master": master,
            "spark.app.name": "elastic-ctr",
            "spark.connect.grpc.binding.address": "127.0.0.1",
            "spark.connect.grpc.binding.port": str(self.port),
            "spark.driver.extraJavaOptions": _JAVA_OPTIONS,
            # A stage that was killed does not cancel its query: the server does, soon after. Its session ends after the
            # default hour of idleness; less would end those of stages that compute for long between two queries.
            "spark.connect.execute.manager.detachedTimeout": "30s",
        }


def _spark_home() -> Path:
    """The folder of the installed pyspark, which holds Spark itself; found without importing it."""
    found = find_spec("pyspark")
    if found is None or found.origin is None:
        raise InputError("pyspark is not installed: `make env` makes the environment")
    return Path(found.origin).parent


def process_settings(memory: str) -> dict[str, str]:
    """Return the settings of a Spark process on this machine: memory, addresses, folders, noise."""
    scratch = Path(tempfile.gettempdir())
    return {
        "spark.driver.memory": memory,
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.log.level": "ERROR",
        "spark.local.dir": str(scratch),
        "spark.sql.warehouse.dir": str(scratch / "elastic-ctr-warehouse"),
    }


def accepts_connections(url: str) -> bool:
    """Whether something listens where a `sc://host:port` points to. Spark's own client would try for minutes."""
    address = urlsplit(url)
    try:
        with socket.create_connection(
            (address.hostname or "", address.port or _DEFAULT_PORT), _PROBE_TIMEOUT_S
        ):
            return True
    except OSError:
        return False
