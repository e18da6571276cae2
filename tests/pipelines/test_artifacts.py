"""The commit protocol: whole or not at all, whatever dies when."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from datetime import date
from pathlib import Path

import pytest

from features.errors import InputError
from pipelines.store.artifacts import COMMIT, Store

DAY = date(2024, 2, 29)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def publish(store, text="hello", version="aa", day=DAY, artifact="things", **facts):
    with store.staging(artifact, day, version) as out:
        (out / "data.txt").write_text(text)
        return store.publish(
            out, artifact, day, version, {"stage": "s", "inputs": {}, "metrics": {}, **facts}
        )


def test_what_is_published_is_found_again(store):
    publish(store, metrics={"rows": 3})
    found = store.current("things", DAY)
    assert (found.hash, found.metrics["rows"], (found.path / "data.txt").read_text()) == (
        "aa",
        3,
        "hello",
    )
    assert found.bytes == 5


def test_nothing_is_current_before(store):
    assert store.current("things", DAY) is None
    assert store.days("things") == []


def fill_and_fail(store):
    with store.staging("things", DAY, "aa") as out:
        (out / "data.txt").write_text(f"half {1 // 0}")


def test_a_failed_stage_leaves_nothing(store):
    with pytest.raises(ZeroDivisionError):
        fill_and_fail(store)
    assert list(store.workspace.rglob("*.txt")) == []
    assert store.current("things", DAY) is None


def test_a_new_version_replaces_the_pointer_and_keeps_the_old_one(store):
    publish(store, "old", "aa")
    publish(store, "new", "bb")
    assert store.current("things", DAY).hash == "bb"
    assert store.find("things", DAY, "aa") is not None


def test_the_loser_of_a_race_keeps_the_winners_version(store):
    first = publish(store, "winner")
    second = publish(store, "loser")
    assert second.path == first.path
    assert (second.path / "data.txt").read_text() == "winner"


def test_a_folder_without_a_seal_is_not_a_version(store):
    version = publish(store)
    version.manifest.unlink()
    assert store.current("things", DAY) is None
    assert publish(store, "again").digest


def test_an_unreadable_seal_says_what_to_delete(store):
    publish(store).manifest.write_text("{")
    with pytest.raises(InputError, match="delete"):
        store.current("things", DAY)


def test_damage_is_noticed(store):
    version = publish(store)
    version.verify()
    (version.path / "data.txt").write_text("hellO")
    with pytest.raises(InputError, match=r"data\.txt: damaged"):
        version.verify()


def test_equal_content_has_an_equal_digest_and_other_content_another(store):
    one = publish(store, "same", "aa")
    two = publish(store, "same", "bb")
    three = publish(store, "other", "cc")
    assert one.digest == two.digest != three.digest


def test_days_before_are_strictly_before_and_latest_first(store):
    days = [date(2024, 1, 1), date(2024, 1, 3), DAY, date(2024, 3, 1)]
    for day in days:
        publish(store, day=day)
    assert [v.day for v in store.before("things", DAY)] == [date(2024, 1, 3), date(2024, 1, 1)]
    assert store.latest_before("things", DAY, lambda v: v.day.day == 1).day == date(2024, 1, 1)
    assert store.latest_before("things", date(2024, 1, 1)) is None


@pytest.mark.process
def test_staging_of_a_dead_process_is_swept(store):
    folder = store.workspace / "things" / f"dt={DAY}"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (folder / f".staging-aa-{dead.pid}").mkdir(parents=True)
    publish(store, version="bb")
    assert list(folder.glob(".staging-*")) == []


CRASHING = """
    import os, signal, sys
    from datetime import date
    from pathlib import Path
    from pipelines.store import artifacts
    step, workspace = sys.argv[1], Path(sys.argv[2])
    def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
    store, day = artifacts.Store(workspace), date(2024, 2, 29)
    with store.staging("things", day, "bb") as out:
        (out / "data.txt").write_text("new")
        if step == "filled": die()
        if step == "sealing": artifacts.write_atomically = die
        if step == "renaming": Path.rename = die
        if step == "pointing": artifacts.Store.point = die
        store.publish(out, "things", day, "bb", {"stage": "s", "inputs": {}, "metrics": {}})
"""


@pytest.mark.process
@pytest.mark.parametrize("step", ["filled", "sealing", "renaming", "pointing"])
def test_sigkill_at_any_step_shows_the_old_or_the_new_version_never_a_mix(store, step):
    publish(store, "old", "aa")
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CRASHING), step, str(store.workspace)],
        env=environment,
    )
    assert done.returncode == -signal.SIGKILL
    assert (store.current("things", DAY).path / "data.txt").read_text() == "old"
    again = publish(store, "new", "bb")
    assert (store.current("things", DAY).path / "data.txt").read_text() == "new"
    again.verify()
    assert list(store.workspace.rglob(".staging-*")) == []


def test_the_commit_file_names_every_file_with_its_checksum(store):
    version = publish(store)
    commit = json.loads((version.path / COMMIT).read_text())
    assert set(commit["files"]) == {"data.txt"}
    assert commit["files"]["data.txt"]["sha256"].startswith("2cf24dba5fb0a30e")
