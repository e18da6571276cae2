"""A resident Spark Connect server: one JVM on loopback for the stages and tests of a machine.

Clients get two variables of Spark: `SPARK_REMOTE` is the server's address, and
`SPARK_CONNECT_AUTHENTICATE_TOKEN` the token. The token is passed in environments and in a file that
only its owner may read, so that no process list and no log shows it.
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
"""Spark's variable for the memory of a driver, which the server is."""

_MAIN_CLASS = "org.apache.spark.sql.connect.service.SparkConnectServer"
_JAVA_OPTIONS = " ".join(
    (
        # Spark generates code for each query and runs it once. The JVM's optimising compiler (C2)
        # used half of a small day's CPU on it: it now starts at ten times its default counts.
        "-XX:Tier4InvocationThreshold=50000",
        "-XX:Tier4MinInvocationThreshold=6000",
        "-XX:Tier4CompileThreshold=150000",
        "-XX:Tier4BackEdgeThreshold=400000",
        # Fewer threads that compete with the tasks than with the default collector.
        "-XX:+UseSerialGC",
    )
)
_PROBE_TIMEOUT_S = 5.0
_DEFAULT_PORT = 15002


@dataclass(frozen=True)
class SparkServer:
    """A server on loopback: its port, and the token that clients need."""

    port: int
    token: str

    @classmethod
    def new(cls, port: int) -> SparkServer:
        """Return a server for this port with a new token."""
        return cls(port, secrets.token_hex(32))

    @property
    def url(self) -> str:
        """The address for clients."""
        # Not `127.0.0.1`: without TLS Spark's client sends its token to `localhost` only.
        return f"sc://localhost:{self.port}"

    def client_environment(self) -> dict[str, str]:
        """Return the variables that clients need."""
        return {REMOTE_VARIABLE: self.url, TOKEN_VARIABLE: self.token}

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of the server's process.

        Raises:
            InputError: there is no Java 17 or 21; the message says what to install.
        """
        return {
            # The server itself must not be a client of another one.
            **{name: value for name, value in inherited.items() if name != REMOTE_VARIABLE},
            "JAVA_HOME": str(require_java().home),
            "SPARK_HOME": str(_spark_home()),
            # Workers of the server run in the environment that this package is installed in.
            "PYSPARK_PYTHON": sys.executable,
            "SPARK_LOCAL_IP": "127.0.0.1",
            TOKEN_VARIABLE: self.token,
        }

    def command(self, folder: Path, session: SparkSettings | None = None) -> list[str]:
        """Return the command that runs the server in the foreground, with settings in a file.

        Args:
            folder: an existing folder, for the file of settings.
            session: master and memory; by default those of `SparkSettings`, with the memory of
                `SPARK_DRIVER_MEMORY` if set.
        """
        chosen = session or SparkSettings()
        memory = chosen.driver_memory
        if session is None:
            memory = os.environ.get(MEMORY_VARIABLE) or memory
        values = {
            **process_settings(memory),
            "spark.master": chosen.master,
            "spark.app.name": "elastic-ctr",
            "spark.connect.grpc.binding.address": "127.0.0.1",
            "spark.connect.grpc.binding.port": str(self.port),
            "spark.driver.extraJavaOptions": _JAVA_OPTIONS,
            # A stage that was killed does not cancel its query: the server does, after this time.
            # Its session ends after the default hour of idleness; less would end sessions of stages
            # that compute for long between two queries.
            "spark.connect.execute.manager.detachedTimeout": "30s",
        }
        path = folder / "spark.properties"
        lines = "".join(f"{name} {value}\n" for name, value in values.items())
        path.write_text(lines, encoding="utf-8")
        submit = str(_spark_home() / "bin" / "spark-submit")
        return [submit, "--properties-file", str(path), "--class", _MAIN_CLASS, "spark-internal"]

    def write_client_environment(self, path: Path) -> None:
        """Write `NAME=value` lines for a shell (`set -a; . FILE`); only the owner may read them."""
        # A new file with its final mode: a change of mode would come too late for one who has
        # opened the file before.
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            for name, value in self.client_environment().items():
                stream.write(f"{name}={value}\n")

    def answers(self) -> bool:
        """Whether the server accepts connections."""
        return accepts_connections(self.url)


def _spark_home() -> Path:
    """Return the folder of the installed pyspark, which holds Spark, without importing it."""
    found = find_spec("pyspark")
    if found is None or found.origin is None:
        raise InputError("pyspark is not installed: `make env` makes the environment")
    return Path(found.origin).parent


def process_settings(memory: str) -> dict[str, str]:
    """Return the settings of a Spark process on this machine: memory, addresses, folders, log."""
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
    """Whether something listens at the address `sc://host:port`."""
    # Asked before Spark's own client is used: that retries for minutes.
    address = urlsplit(url)
    target = (address.hostname or "", address.port or _DEFAULT_PORT)
    try:
        with socket.create_connection(target, _PROBE_TIMEOUT_S):
            return True
    except OSError:
        return False
