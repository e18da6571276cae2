"""What several publishers, a power cut, or damage do to a committed version: nothing."""

import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import pytest
from tiny_days import DAYS, Step, make_context, publish

import pipelines.store.artifacts as artifacts
import pipelines.store.lease as leases
from features.errors import InputError, RetryableError
from features.files import write_atomically
from pipelines.stages.stage import execute
from pipelines.store.artifacts import COMMIT, POINTER, DamagedError, Store
from pipelines.store.cleaning import clean
from pipelines.store.lease import lease

DAY = DAYS[0]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "workspace")


def publish_in_turns(workspace, number, start):
    """Publish the same version with content of this publisher, as a stage would."""
    store = Store(workspace)
    start.wait()
    with store.staging("things", DAY, "aa") as out:
        if store.find("things", DAY, "aa") is None:
            for part in range(3):
                (out / f"part-{part}.txt").write_text(f"{number} " * 2000)
            facts = {"stage": "s", "inputs": {}, "metrics": {}}
            store.publish(out, "things", DAY, "aa", facts)


def look(workspace, start, ended, seen):
    """Read the current version until all publishers ended; report every content and any loss."""
    store, found = Store(workspace), []
    start.wait()
    while not ended.is_set():
        version = store.current("things", DAY)
        if version is None:
            if found:
                found.append("vanished")
                break
            continue
        content = "".join((version.path / name).read_text() for name in version.commit["files"])
        if not found or found[-1] != content:
            found.append(content)
    seen.put(found)


def race(workspace):
    """Return what a reader saw while three processes published one version."""
    processes = multiprocessing.get_context("fork")
    start, ended, seen = processes.Barrier(4), processes.Event(), processes.SimpleQueue()
    writers = [
        processes.Process(target=publish_in_turns, args=(workspace, number, start))
        for number in range(3)
    ]
    reader = processes.Process(target=look, args=(workspace, start, ended, seen))
    for process in (*writers, reader):
        process.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    ended.set()
    reader.join(60)
    return seen.get()


TRIALS = [pytest.param(12, id="12"), pytest.param(200, id="200", marks=pytest.mark.sweep)]


@pytest.mark.covers("F4", "F6", "H7", "audit-M6")
@pytest.mark.slow
@pytest.mark.parametrize("trials", TRIALS)
def test_a_committed_version_never_vanishes_or_changes(tmp_path, trials):
    """Faults H7 and M6: three publishers of one version and a reader."""
    for trial in range(trials):
        seen = race(tmp_path / str(trial))
        assert len(seen) <= 1, [text[:20] for text in seen]
        Store(tmp_path / str(trial)).current("things", DAY).verify()


@pytest.mark.covers("F6", "H7")
def test_without_a_lease_the_first_to_publish_wins(store, monkeypatch):
    """Fault H7: the loser keeps the winner's folder also where no lock held them apart."""
    folder = store.workspace / "things" / f"dt={DAY}"
    staged = [folder / ".staging-1", folder / ".staging-2"]
    for number, path in enumerate(staged):
        path.mkdir(parents=True)
        (path / "data.txt").write_text(str(number))
    facts = {"stage": "s", "inputs": {}, "metrics": {}}
    first = store.publish(staged[0], "things", DAY, "aa", facts)
    inode = first.path.stat().st_ino
    second = store.publish(staged[1], "things", DAY, "aa", facts)
    assert (second.path / "data.txt").read_text() == "0"
    assert second.path.stat().st_ino == inode


@pytest.mark.covers("F4")
def test_a_second_process_waits_and_says_so(store, tmp_path):
    folder, lines = tmp_path / "folder", []
    refused = pytest.raises(RetryableError, match=f"another process writes to {folder}")
    with lease(folder), refused, lease(folder, wait_s=0.3, report=lines.append):
        pass
    assert lines == [f"waiting for the process that writes to {folder}"]
    with lease(folder, wait_s=0):
        pass


@pytest.mark.covers("H8")
@pytest.mark.process
def test_work_of_a_live_process_is_not_swept_whatever_its_process_id(store):
    """Fault H8: in another container the owner's process id is unknown, or that of another one."""
    staging = store.staging("things", DAY, "aa")
    with staging as out:
        assert str(os.getpid()) not in out.name.split("-")
        assert socket.gethostname() in out.name
        code = (
            "import sys; from datetime import date; from pathlib import Path;"
            "from pipelines.store import artifacts as a, lease as l;"
            "l.WAIT_S = 0\n"
            "def quick(folder, report=None): return l.lease(folder, 0)\n"
            "a.lease = quick\n"
            "with a.Store(Path(sys.argv[1])).staging('things', date(2026, 1, 1), 'bb'): pass"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(store.workspace)],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
        )
        assert "another process writes to" in done.stderr
        assert out.is_dir()


def test_what_a_dead_process_staged_is_swept(store):
    left = store.workspace / "things" / f"dt={DAY}" / ".staging-aa-elsewhere-123"
    left.mkdir(parents=True)
    with store.staging("things", DAY, "bb"):
        assert not left.exists()


def refuse_flock(*_):
    raise OSError(leases.errno.ENOTSUP, "not supported")


def test_where_flock_is_missing_a_heartbeat_stands_in(tmp_path, monkeypatch):
    monkeypatch.setattr(leases.fcntl, "flock", refuse_flock)
    alive = tmp_path / ".lease.alive"
    with lease(tmp_path):
        assert alive.read_text().startswith(socket.gethostname())
        with pytest.raises(RetryableError), lease(tmp_path, wait_s=0.3):
            pass
    assert not alive.exists()
    # The file of a process that died is taken over when its heartbeat is old.
    alive.write_text("somebody who died")
    with pytest.raises(RetryableError), lease(tmp_path, wait_s=0.3):
        pass
    os.utime(alive, (time.time() - leases.STALE_S - 1,) * 2)
    with lease(tmp_path, wait_s=0.3):
        assert alive.read_text().startswith(socket.gethostname())


class Disk:
    """Records in which order a publication syncs, and what a power cut would leave of it.

    A file's content is on the disk once it was synced; a name is there once its folder was. What
    was written after the last sync may be lost. A rename that was not synced may be there or not.
    """

    def __init__(self, workspace):
        self.workspace, self.saved = workspace, []

    def sync(self, path):
        """Take the state of the disk after this sync."""
        real_sync(path)
        self.synced.add(self._key(path))
        self.saved.append(self._durable())

    def begin(self):
        self.synced = set()
        self.saved = [self._durable()]

    def _key(self, path):
        found = path.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _durable(self):
        """Names and contents below the workspace; a content that was not synced is lost."""
        files = {}
        for path in sorted(self.workspace.rglob("*")):
            if path.is_file():
                durable = self._key(path) in self.synced or path in self.before
                files[path] = path.read_bytes() if durable else b""
        return files

    def after_each_sync(self, folder):
        """Yield a workspace as a power cut after each sync would leave it."""
        for number, files in enumerate(self.saved):
            cut = folder / str(number)
            for path, content in files.items():
                copy = cut / path.relative_to(self.workspace)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(content)
            yield Store(cut)


real_sync = artifacts.sync_path


@pytest.mark.covers("F1", "H9")
def test_after_a_power_cut_a_reader_finds_the_old_or_the_new_version_whole(
    store, tmp_path, monkeypatch
):
    """Fault H9: replays what is on the disk after every sync; what was not synced is empty."""
    publish(store, "things", DAY, "old", files={"a.txt": "old a", "b/c.txt": "old c"})
    disk = Disk(store.workspace)
    disk.before = set(store.workspace.rglob("*"))
    disk.begin()
    monkeypatch.setattr(artifacts, "sync_path", disk.sync)
    monkeypatch.setattr("features.files.sync_path", disk.sync)
    publish(store, "things", DAY, "new", files={"a.txt": "new a", "b/c.txt": "new c"})
    monkeypatch.undo()
    assert len(disk.saved) >= 6
    found = []
    for cut in disk.after_each_sync(tmp_path / "cuts"):
        version = cut.current("things", DAY)
        for name, entry in version.commit["files"].items():
            content = (version.path / name).read_text()
            assert content == f"{version.hash} {name[-5]}", (version.hash, entry)
        found.append(version.hash)
    assert found[0] == "old"
    assert found[-1] == "new"
    assert found == sorted(found, reverse=True)


class Reader(Step):
    """Reads the link before it."""

    name, artifact, reads = "validate-data", "data_verdict", ("impressions",)


@pytest.mark.covers("F35", "H5")
def test_a_damaged_input_of_the_day_is_named_and_set_aside(tmp_path):
    """Fault H5: bytes turned over in a committed version."""
    lines = []
    context = make_context(tmp_path, report=lines.append)
    version = publish(context.store, "impressions", DAY, files={"data.txt": "sound"})
    execute(Reader(), context)
    (version.path / "data.txt").write_text("SOUND")
    with pytest.raises(InputError) as caught:
        execute(Reader(), context)
    assert str(version.path / "data.txt") in str(caught.value)
    assert "run `elastic-ctr ingest` again" in str(caught.value)
    (aside,) = context.store.damaged()
    assert aside.name in str(caught.value)
    assert (aside / "data.txt").read_text() == "SOUND"
    assert context.store.current("impressions", DAY) is None
    with pytest.raises(InputError, match="run `elastic-ctr ingest`"):
        execute(Reader(), context)


@pytest.mark.covers("F38")
def test_in_place_of_a_damaged_version_of_an_earlier_day_the_one_before_is_offered(tmp_path):
    class Later(Step):
        name, artifact = "validate-data", "data_verdict"
        reads = (lambda c: {"impressions": c.store.latest_before("impressions", c.day)},)

    lines = []
    context = make_context(tmp_path, day=DAYS[3], report=lines.append)
    publish(context.store, "impressions", DAYS[0])
    damaged = publish(context.store, "impressions", DAYS[2])
    (damaged.path / "data.txt").unlink()
    result = execute(Later(), context)
    assert result.version.commit["inputs"]["impressions"]["day"] == DAYS[0].isoformat()
    assert len(lines) == 1
    assert "data.txt: damaged or missing" in lines[0]
    assert ".damaged-" in lines[0]


def test_a_damaged_result_is_made_again(tmp_path):
    lines = []
    context = make_context(tmp_path, report=lines.append)
    first = execute(Step(), context).version
    (first.path / "read.txt").write_text("x" * 99)
    again = execute(Step(), context)
    assert not again.reused
    assert again.version.digest == first.digest
    again.version.verify()
    assert "is made again" in lines[0]


def test_checksums_are_read_once_for_each_state_of_the_files(store, monkeypatch):
    version = publish(store, "things", DAY)
    read = []
    real = artifacts.file_sha256
    monkeypatch.setattr(artifacts, "file_sha256", lambda path: read.append(path) or real(path))
    version.verify()
    assert read == []  # the publisher computed them
    os.utime(version.path / "data.txt", (1, 1))
    version.verify()
    version.verify()
    assert len(read) == 1
    shutil.copytree(version.path, version.path.parent / "copy")
    shutil.rmtree(version.path)
    (version.path.parent / "copy").rename(version.path)
    version.verify()
    assert len(read) == 2


@pytest.mark.covers("F38")
@pytest.mark.parametrize("content", [b"\xff\xfe", b"x" * 300, b"", b"../../etc"])
def test_a_pointer_that_names_nothing_is_named(store, content):
    version = publish(store, "things", DAY)
    (version.path.parent / POINTER).write_bytes(content)
    with pytest.raises(InputError, match=f"{POINTER}: does not name a version; delete it"):
        store.current("things", DAY)
    assert store.latest_before("things", date.max) is None


@pytest.mark.covers("F38")
@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"files": {}}', "\x00\x00"])
def test_a_bad_commit_file_is_named_and_does_not_stop_later_days(store, content):
    sound, bad = publish(store, "things", DAYS[0]), publish(store, "things", DAYS[1])
    bad.manifest.write_text(content)
    with pytest.raises(InputError, match=f"{COMMIT}: .*delete .* and run the stage again"):
        store.current("things", DAYS[1])
    assert store.latest_before("things", DAYS[2]) == sound


def test_a_version_committed_before_checksums_of_state_is_still_verified(store):
    version = publish(store, "things", DAY)
    for path in version.path.parent.glob(".verified-*"):
        path.unlink()
    (version.path / "data.txt").write_text("other")
    with pytest.raises(DamagedError):
        version.verify()


def chain(store, days):
    """Publish a warm-started chain: each checkpoint is made from the one before."""
    parent = []
    for day in days:
        impressions = publish(store, "impressions", day)
        checkpoint = publish(store, "checkpoint", day, inputs=[impressions, *parent])
        parent = [checkpoint]
    return parent[0]


@pytest.mark.covers("F39", "H2")
def test_clean_between_ingest_and_train_keeps_the_last_checkpoints(store):
    """Fault H2: a day that is merely ingested pushed out the checkpoint of the day before."""
    chain(store, DAYS[:3])
    publish(store, "impressions", DAYS[3])
    clean(store, 1)
    assert store.days("checkpoint") == DAYS[1:3]  # the last one and its parent
    assert store.days("impressions") == DAYS[2:4]


@pytest.mark.covers("F39")
def test_clean_leaves_alone_what_a_running_stage_reads_or_writes(store):
    chain(store, DAYS[:4])
    folder = store.current("impressions", DAYS[0]).path.parent
    with leases.in_use([folder]), store.staging("impressions", DAYS[1], "new"):
        clean(store, 1)
    assert store.days("impressions") == [DAYS[0], DAYS[1], DAYS[3]]
    clean(store, 1)
    assert store.days("impressions") == [DAYS[3]]
    assert not folder.exists()


@pytest.mark.covers("F2", "F39")
def test_clean_removes_what_killed_runs_left_of_days_that_are_not_kept(store):
    chain(store, DAYS[:3])
    old, new = (store.states("checkpoint", DAYS[day], "killed") for day in (0, 2))
    for states in (old, new):
        states.mkdir()
        (states / "state").write_text("12345")
    freed = clean(store, 1)
    assert not old.parent.exists()
    assert new.exists()
    assert freed.bytes > 5
    # Another version of the day begins from the start, and the state of its own is gone once it is there.
    with store.staging("checkpoint", DAYS[2], "other"):
        assert not new.exists()


@pytest.mark.covers("F29", "F39")
def test_clean_keeps_the_champion_and_the_one_before_with_what_they_were_made_from(store):
    for day in DAYS[:4]:
        checkpoint = publish(store, "checkpoint", day)
        compressed = publish(store, "compressed", day, inputs=[checkpoint])
        export = publish(store, "export", day, inputs=[compressed])
        publish(store, "promotion", day, inputs=[export], promoted=day in DAYS[:3])
    clean(store, 1)
    assert store.days("export") == DAYS[1:4]
    assert store.days("checkpoint") == DAYS[1:4]


@pytest.mark.covers("F37")
def test_the_source_revision_of_each_stage_is_kept(tmp_path):
    """Fault F37: a day whose stages ran with different code can be told."""
    context = make_context(tmp_path)
    version = execute(Step(), context).version
    document = json.loads(version.manifest.read_text())
    assert isinstance(document["revision"], str)
    write_atomically(version.manifest, json.dumps({**document, "revision": "other"}))
    execute(Reader(), context)
    from pipelines.stages.report import day_report

    revisions = day_report(context.store, DAY)["revisions"]
    assert len(revisions) == 2
    assert "other" in revisions
