"""The session's settings that results and privacy depend on, and the server behind it."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from pydantic import ValidationError

from features.errors import InputError, RetryableError
from spark_jobs.server import REMOTE_VARIABLE, TOKEN_VARIABLE, SparkServer
from spark_jobs.session import spark_session
from spark_jobs.settings import SparkSettings

pytestmark = pytest.mark.spark

SETTINGS = SparkSettings(master="local[2]", shuffle_partitions=2)


@pytest.fixture
def over_the_server(pytestconfig, spark):
    if pytestconfig.getoption("--spark") == "local":
        pytest.skip("a local session was asked for")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("spark.sql.session.timeZone", "UTC"),
        ("spark.sql.ansi.enabled", "true"),
        ("spark.sql.caseSensitive", "true"),
        ("spark.sql.csv.parser.columnPruning.enabled", "false"),
        ("spark.sql.shuffle.partitions", "2"),
        ("spark.ui.enabled", "false"),
        ("spark.driver.host", "127.0.0.1"),
        ("spark.driver.bindAddress", "127.0.0.1"),
    ],
)
def test_settings_hold(spark, name, value):
    assert spark.conf.get(name) == value


def test_the_server_shows_its_token_to_nobody_else_and_listens_on_loopback_only(over_the_server):
    token = os.environ[TOKEN_VARIABLE]
    folder = Path(os.environ["ELASTIC_CTR_TEST_SPARK"])
    port = int(os.environ[REMOTE_VARIABLE].rpartition(":")[2])
    [server] = {
        c.pid
        for c in psutil.net_connections("tcp")
        if c.laddr.port == port and c.status == "LISTEN"
    }
    process = psutil.Process(server)
    assert {
        c.laddr.ip.removeprefix("::ffff:")
        for c in process.net_connections("tcp")
        if c.status == "LISTEN"
    } == {"127.0.0.1"}
    assert token not in " ".join(process.cmdline())
    holding = {
        path for path in folder.rglob("*") if path.is_file() and token.encode() in path.read_bytes()
    }
    assert holding == {folder / "spark" / "client.env"}
    assert (folder / "spark" / "client.env").stat().st_mode & 0o777 == 0o600


def test_a_wrong_token_is_refused(over_the_server):
    code = (
        "from spark_jobs.session import spark_session\n"
        "from spark_jobs.settings import SparkSettings\n"
        "with spark_session(SparkSettings()) as spark: spark.range(1).count()"
    )
    environment = {**os.environ, TOKEN_VARIABLE: "guessed"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert "InputError: the Spark server at sc://localhost" in done.stderr
    assert "refuses a session (is the token right?)" in done.stderr


def test_sessions_of_other_settings_do_not_disturb_each_other(over_the_server, spark):
    code = (
        "from spark_jobs.session import spark_session\n"
        "from spark_jobs.settings import SparkSettings\n"
        "with spark_session(SparkSettings(shuffle_partitions=7)) as spark:\n"
        "    spark.range(5).createOrReplaceTempView('theirs')\n"
        "    print(spark.conf.get('spark.sql.shuffle.partitions'))\n"
        "    print(spark.catalog.tableExists('theirs'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["7", "True"]
    assert spark.conf.get("spark.sql.shuffle.partitions") == "2"
    assert not spark.catalog.tableExists("theirs")


def test_where_nothing_listens_the_message_says_so_at_once(monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        server = SparkServer(closed.getsockname()[1], "secret")
    remote = SparkSettings(remote=f"{server.url}/;token=secret")
    with pytest.raises(
        RetryableError, match=rf"no Spark server answers at {server.url}: start one"
    ) as caught:
        spark_session(remote).__enter__()
    assert "secret" not in str(caught.value)


def test_what_is_no_address_is_refused(monkeypatch):
    monkeypatch.setenv(REMOTE_VARIABLE, "local[*]")
    with pytest.raises(InputError, match=r"SPARK_REMOTE='local\[\*\]': expected sc://host:port"):
        spark_session(SparkSettings()).__enter__()
    with pytest.raises(ValidationError, match="remote"):
        SparkSettings(remote="localhost:15002")


def test_a_block_within_another_releases_its_own_session_only(spark):
    with spark_session(SETTINGS) as inner:
        assert inner.range(3).count() == 3
    assert spark.range(4).count() == 4
