"""What is worth another try says so; what nobody foresaw ends with one sentence and a log file."""

import errno
import re
import shutil
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_days
from py4j.java_gateway import GatewayParameters, JavaGateway
from py4j.protocol import Py4JError, Py4JNetworkError
from tiny_days import make_context

from features.errors import InputError, RetryableError
from pipelines.failures import explain
from pipelines.stages.chain import run_stage


def caught(action):
    """The error that an action raises."""
    with pytest.raises((RuntimeError, MemoryError, sqlite3.Error, Py4JError)) as found:
        action()
    return found.value


def locked(folder):
    """A database that another connection holds."""
    path = folder / "a.db"
    holder = sqlite3.connect(path)
    holder.execute("BEGIN EXCLUSIVE")
    sqlite3.connect(path, timeout=0).execute("CREATE TABLE t (a)")


def wrapped(error):
    """Raise another error from this one, as libraries do."""
    raise RuntimeError("the reader failed") from error


RETRIED = {
    "F19 locked database": (locked, "locked"),
    "H13 full disk": (lambda _: wrapped(OSError(errno.ENOSPC, "No space left", "x.bin")), "x.bin"),
    "F16 quota": (lambda _: wrapped(OSError(errno.EDQUOT, "Quota exceeded", "y")), "clean --keep"),
    "H13 memory": (lambda _: np.empty(1 << 60, np.uint8), "batch_size"),
}


@pytest.mark.covers("H13", "F16", "F19")
@pytest.mark.parametrize("name", RETRIED)
def test_a_condition_that_may_pass_is_worth_another_try(name, tmp_path):
    """Faults H13, F16, F19: the text says what to do."""
    action, part = RETRIED[name]
    found = explain(caught(lambda: action(tmp_path)))
    assert isinstance(found, RetryableError)
    assert found.exit_code == 75
    assert part in str(found)


@pytest.mark.covers("H13")
@pytest.mark.slow
def test_tensorflow_out_of_memory_is_worth_another_try():
    """Fault H13."""
    tf = pytest.importorskip("tensorflow")
    error = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")
    assert "batch_size" in str(explain(error))


@pytest.mark.covers("F23")
def test_a_killed_jvm_is_worth_another_try():
    """Fault F23: what py4j raises after the JVM was killed."""
    gateway = JavaGateway(gateway_parameters=GatewayParameters(port=1))
    error = caught(lambda: gateway.jvm.java.lang.System.currentTimeMillis())
    assert isinstance(error, Py4JNetworkError)
    assert isinstance(explain(error), RetryableError)
    assert "spark.driver_memory" in str(explain(error))


@pytest.mark.covers("F17")
def test_a_read_only_workspace_is_named(tmp_path):
    """Fault F17."""
    found = explain(OSError(errno.EROFS, "Read-only file system", str(tmp_path)))
    assert isinstance(found, InputError)
    assert str(tmp_path) in str(found)
    assert explain(ValueError("else")) is None


@pytest.mark.covers("F16")
def test_the_second_failure_does_not_hide_the_first(tmp_path, tiny_chain, monkeypatch):
    """Fault F16: on a full disk the journal failed too, and its traceback was shown."""
    said = []
    context = make_context(tmp_path, report=said.append)
    (context.store.workspace / "tracking").parent.mkdir(exist_ok=True)
    (context.store.workspace / "tracking").write_text("no folder can be made here")
    first = RuntimeError("the first")
    monkeypatch.setattr(tiny_days.Step, "run", lambda *_: (_ for _ in ()).throw(first))
    with pytest.raises(RuntimeError, match="the first"):
        run_stage("ingest", context)
    assert any("not in the tracking journal" in line for line in said)


@pytest.mark.covers("F16")
def test_a_full_disk_is_seen_before_a_stage_begins(tmp_path, tiny_chain, mlflow_away, monkeypatch):
    """Fault F16."""
    context = make_context(tmp_path)
    usage = SimpleNamespace(free=3_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(RetryableError, match=r"3 MB of free disk space.*ingest may need 64 MB"):
        run_stage("ingest", context)
    usage.free = 10**12
    version = run_stage("ingest", context).version
    assert version.bytes < 10**6


@pytest.mark.covers("H13")
def test_an_unforeseen_error_ends_with_a_sentence_and_a_log_file(here, tmp_path, monkeypatch):
    """Fault H13: nobody but a developer reads a traceback."""
    monkeypatch.setattr(
        "pipelines.cli.commands.days_with_artifacts", lambda _: {}["a key that nobody expected"]
    )
    code, _, err = here("status", "--workspace", tmp_path / "workspace")
    assert code == 1
    assert err.count("\n") == 1
    assert "unforeseen KeyError" in err
    (path,) = re.findall(r"traceback is in (\S+)", err)
    assert path.startswith(str(tmp_path / "workspace" / "errors"))
    assert "Traceback (most recent call last)" in Path(path).read_text()
    monkeypatch.setenv("ELASTIC_CTR_TRACEBACK", "1")
    assert "Traceback (most" in here("status", "--workspace", tmp_path / "workspace")[2]
