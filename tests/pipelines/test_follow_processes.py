"""Follow mode as processes: killed and restarted, stopped by SIGTERM, with a server."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
from landing_days import REPOSITORY, land, start, write_config

from compression.delta.content import content_digest
from compression.model import read_compact
from pipelines.config import load_config
from pipelines.follow.follow import FollowJob, FollowProcess
from pipelines.follow.ledger import Ledger
from pipelines.follow.publisher import folder_numbers, nth_folder
from pipelines.store.artifacts import Store

pytestmark = pytest.mark.process

FILES = 8


def until(there, process, seconds=300):
    """Wait until something is there while a process runs."""
    deadline = time.monotonic() + seconds
    while not there():
        assert process.poll() is None, "the process ended"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def follow_here(config, landing, out, *overrides):
    """Take what is there, in this process."""
    workspace = out.parent / "workspace"
    with FollowProcess(
        FollowJob(load_config(config, overrides, workspace), Store(workspace), landing, out), print
    ) as following:
        following.run(threading.Event(), once=True)


def batches(out):
    path = out / "batches.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def content(out):
    return content_digest(
        read_compact(nth_folder(out / "full", folder_numbers(out / "full")[-1]) / "compressed")
    )


def ledger(out):
    return Ledger.read(nth_folder(out / "state", folder_numbers(out / "state")[-1]))


@pytest.mark.covers("F13")
@pytest.mark.slow
def test_killed_and_started_again_nothing_is_lost_or_doubled(tmp_path, request):
    """Killed after 2 and 5 micro-batches, stopped after 6: the result is that of one process.

    The learner is saved every 3 micro-batches.
    """
    config, landing = write_config(tmp_path), tmp_path / "landing"
    for number in range(FILES):
        land(landing, number)
    # Fault F13: the ledger knows the content also after a kill.
    shutil.copy(landing / "part-004.csv", landing / "part-004-again.csv")
    undisturbed = tmp_path / "undisturbed"
    # In a process as well: the number of TensorFlow's threads decides the last bits of results.
    assert start(config, landing, undisturbed, "--once").wait(400) == 0
    out, server_out = tmp_path / "out", tmp_path / "applied.jsonl"
    server = subprocess.Popen(
        [sys.executable, "compression/delta/delta_server.py", out, server_out, "0.02"],
        cwd=REPOSITORY,
    )
    request.addfinalizer(server.kill)  # also when the test fails
    slowly = ("--every", "0.5")  # so that the process is met between two micro-batches
    for killed_after in (2, 5):
        process = start(config, landing, out, *slowly)
        until(lambda after=killed_after: len(batches(out)) >= after, process)
        process.kill()
        process.wait()
        assert ledger(out).batch == 3 if killed_after == 5 else not folder_numbers(out / "state")
    process = start(config, landing, out, *slowly)
    until(lambda: len(batches(out)) >= 6, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(200) == 0
    assert ledger(out).batch == len(batches(out)) >= 6
    assert start(config, landing, out, "--once").wait(400) == 0
    assert ledger(out) == ledger(undisturbed)
    assert ledger(out).rows_kept == 200 * FILES
    assert [line["batch"] for line in batches(out)] == list(range(1, FILES + 2))
    assert sorted(name for line in batches(out) for name in line["files"]) == sorted(
        path.name for path in landing.iterdir()
    )
    assert content(out) == content(undisturbed)
    until(
        lambda: json.loads(server_out.read_text().splitlines()[-1])["version"] == content(out),
        server,
    )
    server.terminate()
    assert server.wait(200) == 0
    applied = [json.loads(line) for line in server_out.read_text().splitlines()]
    assert [line["kind"] for line in applied] == ["full"] + ["delta"] * (
        len(applied) - 1
    )  # never loaded again
    assert len(applied) > FILES


@pytest.mark.slow
def test_a_server_leaves_a_damaged_delta_and_loads_the_next_full_export(tmp_path, request):
    config, landing, out = write_config(tmp_path), tmp_path / "landing", tmp_path / "out"
    published, applied = tmp_path / "published", tmp_path / "applied.jsonl"
    for number in range(4):
        land(landing, number)
    follow_here(config, landing, out, "follow.full_every=2")
    (published / "full").mkdir(parents=True)
    first, last = folder_numbers(out / "full")
    shutil.copytree(nth_folder(out / "full", first), nth_folder(published / "full", first))
    shutil.copytree(out / "deltas", published / "deltas")
    damaged = folder_numbers(out / "deltas")[0]
    assert damaged == first + 1
    (nth_folder(published / "deltas", damaged) / "arrays.npz").write_bytes(b"")
    server = subprocess.Popen(
        [sys.executable, "compression/delta/delta_server.py", published, applied, "0.02"],
        cwd=REPOSITORY,
    )
    request.addfinalizer(server.kill)  # also when the test fails
    until(lambda: applied.exists() and len(applied.read_text().splitlines()) == 2, server)
    time.sleep(0.5)
    lines = [json.loads(line) for line in applied.read_text().splitlines()]
    assert [(line["kind"], line["number"]) for line in lines] == [
        ("full", first),
        ("rejected", first),
    ]
    shutil.copytree(nth_folder(out / "full", last), published / "full" / ".copy")
    (published / "full" / ".copy").rename(nth_folder(published / "full", last))
    until(lambda: len(applied.read_text().splitlines()) == 3, server)
    assert json.loads(applied.read_text().splitlines()[-1])["version"] == content(out)
    server.terminate()
    assert server.wait(200) == 0


@pytest.mark.slow
def test_an_unsound_micro_batch_ends_it_with_exit_code_3(tmp_path):
    config, landing, out = write_config(tmp_path), tmp_path / "landing", tmp_path / "out"
    for number in range(3):
        land(landing, number)
    limits = ("--set", "follow.gate_clicks=1", "--set", "follow.calibration_within=1.0001")
    assert start(config, landing, out, "--once", *limits).wait(400) == 3
    assert ledger(out).batch < 3
    assert "servers keep the last good state" in (tmp_path / "out.log").read_text()
