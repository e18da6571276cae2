"""A JVM that the system kills in the middle of a stage, as it does when memory runs out."""

import os
import signal
import subprocess
import time
from datetime import date

import psutil
import pytest
from conftest import COMMAND
from landing_days import rows_of, write_config
from tiny_days import AWAY

from pipelines.config import load_config
from pipelines.services.control import START_TIMEOUT_S, start_spark
from pipelines.services.processes import free_ports, stop_all, wait_until
from pipelines.stages.ingest import Ingest
from pipelines.stages.stage import Context, execute
from pipelines.store.artifacts import Store
from spark_jobs.server import REMOTE_VARIABLE, SparkServer
from spark_jobs.settings import LOCAL

pytestmark = [pytest.mark.spark, pytest.mark.process]
EXIT_RETRY = 75
DAY = date(2026, 1, 1)


@pytest.fixture
def config(spark_server, tmp_path):
    rows_of(0).to_csv(tmp_path / f"{DAY}.csv", index=False)
    source = {"path": str(tmp_path / "{date}.csv"), "format": "csv"}
    return write_config(tmp_path, source=source, spark={"master": "local[2]"})


@pytest.fixture
def own_server(tmp_path):
    """A Spark server that a test may kill."""
    folder = tmp_path / "server"
    server = SparkServer.new(free_ports(1)[0])
    wait_until(server.answers, [start_spark(server, folder)], START_TIMEOUT_S, "Spark")
    yield server
    stop_all(folder, grace_s=10)


def ingest(config, workspace, **environment):
    """Start the stage in a process of its own."""
    command = [COMMAND, "ingest", "--config", config, "--date", DAY, "--workspace", workspace]
    return subprocess.Popen(
        [str(part) for part in command],
        env={**os.environ, **AWAY, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def the_java(stage, server):
    """The JVM that a stage uses: a server's, or the child of a stage with a session of its own."""
    if server is None:
        found = psutil.Process(stage.pid).children(recursive=True)
    else:
        sockets = psutil.net_connections("tcp")
        listening = [c for c in sockets if c.laddr.port == server.port and c.status == "LISTEN"]
        found = [psutil.Process(each.pid) for each in listening]
    [java] = [process for process in found if process.name() == "java"]
    return java


def kill_its_java(stage, workspace, server):
    """Kill the JVM that a stage uses when it has begun to write; check what the stage says."""
    while not list(workspace.glob("impressions/*/.staging-*/.validated")):
        assert stage.poll() is None, stage.communicate()
        time.sleep(0.002)
    the_java(stage, server).send_signal(signal.SIGKILL)
    _, said = stage.communicate(timeout=60)
    assert stage.returncode == EXIT_RETRY, said
    assert "error: Spark's JVM, or a server, ended while it was used" in said
    assert "try again, or set another `spark.driver_memory`" in said
    assert "Traceback" not in said
    assert Store(workspace).current("impressions", DAY) is None


@pytest.mark.covers("F23")
def test_a_jvm_that_is_killed_within_a_stage_costs_nothing_but_another_try(
    config, own_server, tmp_path
):
    """Fault F23: Spark's client tried for ten minutes a request to reach a server that was gone."""
    workspace, undisturbed = tmp_path / "workspace", tmp_path / "undisturbed"
    own = own_server.client_environment()
    kill_its_java(ingest(config, workspace, **own), workspace, own_server)
    kill_its_java(ingest(config, workspace, **{REMOTE_VARIABLE: LOCAL}), workspace, None)
    # Again, by a server that lives: the content of a stage that was not disturbed.
    again = ingest(config, workspace)
    context = Context(load_config(config, workspace=undisturbed), DAY, Store(undisturbed))
    expected = execute(Ingest(), context).version
    _, said = again.communicate(timeout=200)
    assert again.returncode == 0, said
    assert Store(workspace).current("impressions", DAY).digest == expected.digest
    assert not list(workspace.rglob(".staging-*"))
