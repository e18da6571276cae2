"""Starting, finding and ending processes by their run folder."""

import os
import socket
import sys
import time
from pathlib import Path

import pytest

from features.errors import RetryableError
from pipelines.services.processes import (
    ServiceProcess,
    free_ports,
    start,
    stop_all,
    tagged,
    wait_until,
)

SPREADING = """
import subprocess, sys, time
child = "import time; print('grandchild', flush=True); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
time.sleep(60)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('ready', flush=True)
time.sleep(60)
"""


def start_python(name: str, script: str, folder: Path) -> ServiceProcess:
    return start(name, [sys.executable, "-c", script], os.environ, folder, folder)


@pytest.fixture
def folder(tmp_path):
    yield tmp_path
    stop_all(tmp_path, 0.1)


def says(process: ServiceProcess, word: str) -> bool:
    return word in process.log_tail()


@pytest.mark.process
def test_output_of_both_streams_is_in_the_log(folder):
    process = start_python("one", "import sys; print('out'); print('err', file=sys.stderr)", folder)
    wait_until(lambda: says(process, "err") and says(process, "out"), [], 60, "output")
    assert Path(process.log) == folder / "logs" / "one.log"


@pytest.mark.process
def test_the_log_tail_is_the_end_of_the_log(folder):
    process = start_python("one", "for i in range(100): print(i)", folder)
    wait_until(lambda: says(process, "99"), [], 60, "output")
    assert process.log_tail().splitlines()[0] == "70"


@pytest.mark.process
def test_stopping_ends_children_in_other_sessions_too(folder):
    process = start_python("one", SPREADING, folder)
    wait_until(lambda: says(process, "grandchild"), [process], 60, "grandchild")
    assert len(tagged(folder)) == 2
    assert stop_all(folder, 5.0) == 2
    assert tagged(folder) == []
    assert not process.alive()


@pytest.mark.process
def test_stopping_kills_what_ignores_sigterm(folder):
    process = start_python("one", STUBBORN, folder)
    wait_until(lambda: says(process, "ready"), [process], 60, "start")
    began = time.monotonic()
    assert stop_all(folder, 0.3) == 1
    assert not process.alive()
    assert time.monotonic() - began < 10


@pytest.mark.process
def test_stopping_leaves_other_folders_alone(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    neighbour = start_python("one", "import time; time.sleep(60)", other)
    assert stop_all(folder, 0.1) == 0
    assert neighbour.alive()
    assert stop_all(other, 5.0) == 1


def test_a_reused_process_id_is_not_taken_for_the_process():
    assert not ServiceProcess("one", os.getpid(), 1.0, "").alive()


def test_a_process_that_never_was_is_not_alive():
    assert not ServiceProcess("one", 2**22 - 1, 1.0, "").alive()


@pytest.mark.process
def test_waiting_for_a_process_that_ends_shows_its_log(folder):
    process = start_python("broken", "print('no such table'); raise SystemExit(1)", folder)
    with pytest.raises(RetryableError, match=r"(?s)Airflow: broken ended at start.*no such table"):
        wait_until(lambda: False, [process], 20, "Airflow")


@pytest.mark.process
def test_waiting_ends_with_the_time_and_shows_the_log(folder):
    process = start_python("slow", STUBBORN, folder)
    wait_until(lambda: says(process, "ready"), [process], 60, "start")
    with pytest.raises(RetryableError, match=r"(?s)Airflow: not ready after 1 s.*ready"):
        wait_until(lambda: False, [process], 1, "Airflow")


def test_free_ports_are_distinct_and_free():
    ports = free_ports(5)
    assert len(set(ports)) == 5
    for port in ports:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
