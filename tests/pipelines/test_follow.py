"""Follow mode in this process: training, publication, quarantine, and continued starts."""

import errno
import json
import os
import shutil
import threading
import time
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from landing_days import START_MS, land, rows_of, write_config
from tiny_days import publish

from compression.delta import delta_client
from compression.delta.content import content_digest
from compression.delta.write import read_delta
from compression.model import read_compact
from compression.pruning import live_model
from features.errors import InputError, RetryableError, UnsoundError
from features.files import atomic_folder
from pipelines.config import load_config
from pipelines.follow.follow import FollowJob, FollowProcess
from pipelines.follow.ledger import Ledger
from pipelines.follow.publisher import Publisher, folder_numbers, keep_latest_folders, nth_folder
from pipelines.follow.records import RecordValidator, in_order_of_time
from pipelines.store.artifacts import Store
from training.fit.checkpoints import read_description
from training.fit.trainer import TrainRequest, train_day

pytestmark = pytest.mark.slow


@pytest.fixture
def job(tmp_path):
    """A job in an empty folder, with the configuration changed."""

    def make(*overrides):
        config = load_config(write_config(tmp_path), overrides, tmp_path / "workspace")
        return FollowJob(
            config, Store(tmp_path / "workspace"), tmp_path / "landing", tmp_path / "out"
        )

    (tmp_path / "landing").mkdir()
    return make


def followed(job, reports=None):
    """Take what is there and end; return the ledger."""
    with FollowProcess(job, [].append if reports is None else reports.append) as following:
        following.run(threading.Event(), once=True)
        return following.ledger


def lines(job):
    return [json.loads(line) for line in (job.out / "batches.jsonl").read_text().splitlines()]


def served_by_all_deltas(out):
    """A model loaded from the first full export that is kept, with every delta after it."""
    first = folder_numbers(out / "full")[0]
    model = tf.saved_model.load(str(nth_folder(out / "full", first) / "saved_model"))
    for number in folder_numbers(out / "deltas"):
        delta_client.apply_delta(model, nth_folder(out / "deltas", number))
    return model


def test_files_are_scored_then_learned_then_published(job):
    for number in range(5):
        land(job().watch, number)
    ledger = followed(job())
    assert (ledger.batch, ledger.rows_in, ledger.rows_kept, ledger.rows_quarantined) == (
        5,
        1000,
        1000,
        0,
    )
    logged = lines(job())
    assert [line["batch"] for line in logged] == [1, 2, 3, 4, 5]
    assert logged[0]["auc"] is None
    assert all(0.4 < line["auc"] < 1 for line in logged[1:])
    assert all(line["delta_rows"] > 0 for line in logged[1:])
    assert [line["content"] for line in logged] == [0, 1, 2, 3, 4]
    newest = folder_numbers(job().out / "full")[-1]
    manifest = json.loads((nth_folder(job().out / "full", newest) / "manifest.json").read_text())
    assert delta_client.version(served_by_all_deltas(job().out)) == manifest["version"]
    assert folder_numbers(job().out / "full") == [2, 4]  # after three micro-batches, and at the end


def test_a_start_goes_on_as_if_there_had_been_no_end(job, tmp_path):
    """One process for six files and three for two each give bit-identical content."""
    contents = []
    for turns in (1, 3):
        work = FollowJob(
            job().config, job().store, tmp_path / f"landing{turns}", tmp_path / f"out{turns}"
        )
        for turn in range(turns):
            for number in range(6 * turn // turns, 6 * (turn + 1) // turns):
                land(work.watch, number)
            ledger = followed(work)
        assert (ledger.batch, ledger.rows_in, len(ledger.files)) == (6, 1200, 6)
        contents.append(
            content_digest(
                read_compact(
                    nth_folder(work.out / "full", folder_numbers(work.out / "full")[-1])
                    / "compressed"
                )
            )
        )
    assert contents[0] == contents[1]


def test_unusable_rows_are_quarantined_and_the_counts_add_up(job):
    land(job().watch, 0, rows_of(0, click=["1", "0", "?", ""] * 50))
    (job().watch / "part-001.parquet").write_bytes(b"half")
    ledger = followed(job())
    assert (ledger.rows_in, ledger.rows_kept, ledger.rows_quarantined) == (201, 100, 101)
    quarantined = [
        json.loads(line)
        for line in (job().out / "quarantine" / "part-000.csv.jsonl").read_text().splitlines()
    ]
    assert {row["reason"] for row in quarantined} == {"label"}
    assert len(quarantined) == 100
    assert (
        json.loads((job().out / "quarantine" / "part-001.parquet.jsonl").read_text())["reason"]
        == "unreadable"
    )


def test_folders_of_minutes_are_followed_too_and_what_is_removed_is_forgotten(job):
    for minute in ("hm=1300", "hm=1301"):
        rows = rows_of(int(minute[-1]), click=["1", "0", "0", "?"] * 50)
        land(job().watch / "dt=2026-01-01" / minute, 0, rows)
    ledger = followed(job())
    names = [f"dt=2026-01-01/hm=130{minute}/part-000.csv" for minute in (0, 1)]
    assert (ledger.files, ledger.rows_kept) == (dict.fromkeys(names, 200), 300)
    assert (job().out / "quarantine" / f"{names[1]}.jsonl").exists()
    (job().watch / names[0]).unlink()
    land(job().watch, 1)
    ledger = followed(job())
    assert set(ledger.files) == {names[1], "part-001.parquet"}
    assert (ledger.rows_in, ledger.batch) == (600, 3)


def test_files_of_unusable_rows_alone_before_anything_is_learned(job):
    land(job().watch, 0, rows_of(0, click="?"))
    assert followed(job()).rows_quarantined == 200
    land(job().watch, 1)
    assert followed(job()).rows_kept == 200


def test_clicks_far_from_what_the_model_expects_are_neither_learned_nor_published(job):
    for number in range(4):
        land(job().watch, number)
    before = followed(job())
    land(job().watch, 4)
    land(job().watch, 5, rows_of(5, click=1))
    land(job().watch, 6)
    with pytest.raises(UnsoundError, match=r"part-005.parquet.*calibration_within") as refused:
        followed(job("follow.gate_clicks=50", "follow.calibration_within=1.8"))
    assert refused.value.exit_code == 3
    saved = Ledger.read(nth_folder(job().out / "state", 5))
    assert set(saved.files) - set(before.files) == {"part-004.csv"}
    (job().watch / "part-005.parquet").unlink()
    assert set(followed(job()).files) == {
        f"part-{n:03d}.{'parquet' if n % 2 else 'csv'}" for n in (0, 1, 2, 3, 4, 6)
    }


def test_a_loss_that_is_not_finite_is_not_published(job):
    for number in range(3):
        land(job().watch, number)
    followed(job())
    version = delta_client.version(served_by_all_deltas(job().out))
    published = folder_numbers(job().out / "deltas")
    for number in (3, 4, 5):
        land(job().watch, number)
    with pytest.raises(
        UnsoundError, match=r"not published.*continues from the checkpoint of micro-batch 3"
    ):
        followed(
            job(
                "model.dense.learning_rate=1e30",
                "model.deep.learning_rate=1e30",
                "follow.calibration_within=1e9",
            )
        )
    assert folder_numbers(job().out / "state")[-1] == 3
    if folder_numbers(job().out / "deltas") == published:
        assert delta_client.version(served_by_all_deltas(job().out)) == version
    for number in folder_numbers(job().out / "deltas"):
        arrays = read_delta(nth_folder(job().out / "deltas", number)).arrays.values()
        assert all(np.isfinite(array).all() for array in arrays)
    assert followed(job()).batch == 6


@pytest.fixture
def begun(job, tmp_path):
    """The workspace has a sound checkpoint of 2026-01-01; return it."""
    config, store = job().config, job().store
    table = in_order_of_time(
        [RecordValidator(config.source, config.features).validate(land(tmp_path / "day", 0)).kept]
    )
    impressions = publish(store, "impressions", date(2026, 1, 1))
    (impressions.path / "impressions").mkdir()
    pq.write_table(table, impressions.path / "impressions" / "part-0.parquet")
    request = TrainRequest(config.features, config.model, config.training, (), impressions.path)
    train_day(request, tmp_path / "checkpoint")
    checkpoint = publish(store, "checkpoint", date(2026, 1, 1), inputs=[impressions])
    publish(store, "validation_report", date(2026, 1, 1), inputs=[checkpoint], verdict="blessed")
    for path in (tmp_path / "checkpoint").iterdir():
        path.rename(checkpoint.path / path.name)
    return checkpoint


def test_it_begins_from_the_last_sound_checkpoint_and_its_held_out_slice(job, begun):
    """The process trains on the held-out last fifth of the checkpoint's day first."""
    reports = []
    land(job().watch, 1)
    with FollowProcess(job(), reports.append) as following:
        assert (
            following.follower.description().step == read_description(begun.path).step + 1
        )  # 40 rows, one batch
        following.run(threading.Event(), once=True)
    assert "2026-01-01, with the 40 impressions" in reports[0]
    first = lines(job())[0]
    assert first["auc"] is not None
    assert first["content"] == 1


# Fault H1 of the audit.
@pytest.mark.covers("audit-H1")
@pytest.mark.parametrize("release", ["this", "older"])
def test_a_start_from_a_checkpoint_is_not_forgotten_before_a_row_was_kept(job, begun, release):
    """A restart continues from the saved model, and publishes no delta from nothing."""
    (job().watch / "part-000.csv").write_bytes(b"")
    assert followed(job()).rows_kept == 0
    if release == "older":
        path = nth_folder(job().out / "state", 1) / "ledger.json"
        document = json.loads(path.read_text())
        del document["has_begun"]
        path.write_text(json.dumps(document))
        (path.parent / "manifest.json").unlink()
    with FollowProcess(job(), print) as following:
        assert following.follower.has_begun
        assert following.follower.description().step == read_description(begun.path).step + 1
        land(job().watch, 1)
        following.run(threading.Event(), once=True)
    last = lines(job())[-1]
    assert last["auc"] is not None
    assert last["delta_tombstones"] == 0
    assert last["delta_rows"] <= 200


# Fault H1 of the audit.
@pytest.mark.covers("audit-H1")
def test_an_empty_model_is_never_a_delta(job):
    land(job().watch, 0)
    followed(job())
    publisher = Publisher(job().out)
    model = read_compact(nth_folder(job().out / "full", publisher.number) / "compressed")
    none = model.take({name: np.zeros(len(rows.keys), bool) for name, rows in model.tables.items()})
    with pytest.raises(UnsoundError, match="no rows"):
        publisher.publish_delta(none, {})
    assert folder_numbers(job().out / "deltas")[-1:] in ([], [publisher.number])


def test_a_damaged_publication_is_left_behind_by_a_full_export_that_servers_see(job):
    for number in range(2):
        land(job().watch, number)
    followed(job("follow.full_every=100"))
    last = folder_numbers(job().out / "full")[-1]
    (nth_folder(job().out / "full", last) / "compressed" / "dense.npz").write_bytes(b"")
    land(job().watch, 2)
    reports = []
    followed(job("follow.full_every=100"), reports)
    assert any("cannot be read" in line for line in reports)
    assert folder_numbers(job().out / "full")[0] > last
    assert lines(job())[-1]["delta_rows"] > 0


def test_only_one_process_follows_into_a_folder(job):
    with FollowProcess(job(), print), pytest.raises(RetryableError, match="another process"):
        FollowProcess(job(), print)
    with FollowProcess(job(), print):
        pass


def test_a_folder_that_is_not_there_is_said(job):
    job().watch.rmdir()
    with pytest.raises(InputError, match="no folder"):
        followed(job())


@pytest.mark.parametrize("form", ["int8", "float16"])
def test_what_is_published_may_be_quantized(form, job):
    for number in range(2):
        land(job().watch, number)
    with FollowProcess(job(f"follow.form={form}"), print) as following:
        following.run(threading.Event(), once=True)
        live = live_model(following.follower.learners.model, following.follower.description(), {})
    content = read_compact(
        nth_folder(job().out / "full", folder_numbers(job().out / "full")[-1]) / "compressed"
    )
    assert {str(slab.bands[0].matrix.form) for slab in content.slabs().values()} == {form}
    np.testing.assert_allclose(
        content.trained().vectors["deep"], live.trained().vectors["deep"], atol=2e-2
    )


def test_a_publication_that_changes_nothing_is_none(job, tmp_path):
    land(job().watch, 0)
    followed(job())
    published = Publisher(job().out)
    content = read_compact(nth_folder(job().out / "full", published.number) / "compressed")
    assert published.publish_delta(content, {}) == {
        "delta_rows": 0,
        "delta_tombstones": 0,
        "delta_bytes": 0,
    }
    assert published.publish_full(content) > 0
    assert folder_numbers(job().out / "full") == [published.number]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    def broken():
        with atomic_folder(nth_folder(tmp_path, 7)) as out:
            (out / "a").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert folder_numbers(tmp_path) == []
    for number in (7, 10, 9):
        with atomic_folder(nth_folder(tmp_path, number)) as out:
            (out / "a").write_text("whole")
    assert folder_numbers(tmp_path) == [7, 9, 10]
    keep_latest_folders(tmp_path, 2)
    assert folder_numbers(tmp_path) == [9, 10]
    assert folder_numbers(tmp_path / "away") == []


# Fault H10: a file that was delivered again was trained on twice.
@pytest.mark.covers("H10")
@pytest.mark.parametrize("removed", [False, True])
def test_a_file_delivered_twice_is_known_by_its_content(job, removed):
    first = land(job().watch, 0)
    followed(job())
    again = first.rename(job().watch / "again.csv") if removed else job().watch / "again.csv"
    if not removed:
        shutil.copy(first, again)
    land(job().watch, 1)
    ledger = followed(job())
    if removed:
        (job().watch / "again.csv").rename(job().watch / "third.csv")
        ledger = followed(job())
    assert ledger.rows_kept == 400
    quarantined = json.loads((job().out / "quarantine" / "again.csv.jsonl").read_text())
    assert quarantined["reason"] == "delivered_twice"
    assert "part-000.csv" in quarantined["record"]
    assert ledger.rows_in == ledger.rows_kept + ledger.rows_quarantined


# Fault H10: one file of a micro-batch, whatever it is, costs itself only.
@pytest.mark.covers("H10")
def test_strange_files_and_names_cost_themselves_only(job):
    work = job("follow.max_files=64")
    land(work.watch, 0)
    for name in (b"\xff\xfe.csv", b"n" * 250 + b".csv", b"a\nb.csv"):
        shutil.copy(
            land(work.watch / ".next", 2 + 2 * len(name)), os.fsencode(work.watch) + b"/" + name
        )
    (work.watch / "link.csv").symlink_to("/etc/passwd")
    os.mkfifo(work.watch / "pipe.csv")
    (work.watch / "folder.csv").mkdir()
    land(work.watch / "folder.csv", 4)
    land(work.watch, 6, rows_of(6).assign(extra="x" * 200_000)[:3])
    (work.watch / "twice.csv").write_text("time,time\n1,2\n")
    ledger = followed(work)
    assert ledger.rows_kept == 200 * 5
    lost = {
        path.name: [json.loads(line)["reason"] for line in path.read_text().splitlines()]
        for path in (work.out / "quarantine").iterdir()
    }
    assert lost == {
        "link.csv.jsonl": ["unreadable"],
        "part-006.csv.jsonl": ["cell_size"] * 3,
        "pipe.csv.jsonl": ["unreadable"],
        "twice.csv.jsonl": ["unreadable"],
    }


# Fault L11: what could not be read once was entered as one bad row and never read again.
@pytest.mark.covers("audit-L11")
def test_a_file_that_cannot_be_read_is_tried_again(job):
    work, reports = job("follow.every_s=0.01"), []
    path = land(work.watch, 0)
    hidden = path.rename(work.watch / ".part")
    with FollowProcess(work, reports.append) as following:
        following.process({path.name: path})
        assert (following.ledger.batch, following.ledger.files) == (0, {})
        hidden.rename(path)
        following.run(threading.Event(), once=True)
        assert (following.ledger.rows_kept, following.ledger.rows_quarantined) == (200, 0)
    assert "tries again" in reports[1]


# Fault L11.
@pytest.mark.covers("audit-L11")
@pytest.mark.parametrize("error", ["removed", "input/output"])
def test_a_file_that_can_never_be_read_is_given_up_with_a_reason(job, error, monkeypatch):
    work = job("follow.every_s=0.01", "follow.read_tries=3")
    path = land(work.watch, 0)
    tries, read = [], Path.read_bytes

    def fails(self):
        if self.name != path.name:
            return read(self)
        tries.append(time.monotonic())
        raise OSError(errno.EIO, "Input/output error")

    with FollowProcess(work, print) as following:
        if error == "removed":
            path.unlink()
            following.process({path.name: path})
        else:
            monkeypatch.setattr(Path, "read_bytes", fails)
        following.run(threading.Event(), once=True)
        assert (following.ledger.batch, following.ledger.rows_quarantined) == (1, 1)
        # What was removed may come back; what is there is not read for ever.
        assert set(following.ledger.files) == (set() if error == "removed" else {path.name})
    record = json.loads((work.out / "quarantine" / f"{path.name}.jsonl").read_text())
    assert record["reason"] == "unreadable"
    assert "given up after 3 attempts" in record["record"]
    if error == "removed":
        land(work.watch, 0)
        assert followed(work).rows_kept == 200
    else:
        assert len(tries) == 3
        assert tries[2] - tries[1] > tries[1] - tries[0] > 0.01


# Fault H10: a row of the year 9999 ended the count of days, and so idle eviction, for ever.
@pytest.mark.covers("H10")
@pytest.mark.parametrize("unit", ["row", "saved day"])
def test_a_row_of_the_far_future_ends_no_day(job, unit):
    rows = rows_of(0).astype(object)
    rows.loc[7, "time"] = 253_402_300_799_000
    land(job().watch, 0, rows)
    ledger = followed(job())
    day = START_MS // 86_400_000
    assert (ledger.day, ledger.rows_kept, ledger.rows_quarantined) == (day, 199, 1)
    assert "future" in (job().out / "quarantine" / "part-000.csv.jsonl").read_text()
    if unit == "saved day":  # as an earlier release left it
        state = nth_folder(job().out / "state", 1)
        document = json.loads((state / "ledger.json").read_text())
        (state / "ledger.json").write_text(json.dumps(document | {"day": 11_574_074_074}))
        (state / "manifest.json").unlink()
    land(job().watch, 12)
    assert followed(job()).day == day + 1


# Fault F38: a flipped bit in the saved state.
@pytest.mark.covers("F38")
@pytest.mark.parametrize("name", ["ledger.json", "checkpoint"])
def test_a_damaged_state_is_set_aside_and_the_one_before_it_continues(job, name):
    for number in range(6):
        land(job().watch, number)
    undisturbed = followed(job())
    content = content_digest(published_content(job().out))
    newest = nth_folder(job().out / "state", 6)
    damaged = newest / name
    if name == "checkpoint":
        damaged = max(damaged.rglob("*.npy"), key=lambda path: path.stat().st_size)
    data = bytearray(damaged.read_bytes())
    data[-2] ^= 1
    damaged.write_bytes(data)
    reports = []
    assert followed(job(), reports).files == undisturbed.files
    assert "missing or damaged: continues from the state before it" in reports[0]
    assert content_digest(published_content(job().out)) == content
    assert [line["batch"] for line in lines(job())] == [1, 2, 3, 4, 5, 6]


def published_content(out):
    newest = folder_numbers(out / "full")[-1]
    return read_compact(nth_folder(out / "full", newest) / "compressed")


def test_health_says_how_far_it_is(job):
    started = time.time()
    for number in range(2):
        land(job().watch, number)
    ledger = followed(job())
    health = json.loads((job().out / "health.json").read_text())
    content = published_content(job().out)
    assert health["version"] == content_digest(content)
    assert (health["rows"], health["batch"]) == (content.rows, 2)
    assert (health["rows_in"], health["rows_kept"]) == (ledger.rows_in, 400)
    assert (health["files_waiting"], health["files_postponed"], health["lag_s"]) == (0, 0, 0)
    assert started < health["last_file_s"] <= health["last_published_s"] <= health["written_s"]
    followed(job())
    again = json.loads((job().out / "health.json").read_text())
    assert again["last_file_s"] == health["last_file_s"]
    assert again["last_published_s"] == pytest.approx(health["last_published_s"], abs=1)
    with FollowProcess(job(), print) as following:
        path = land(job().watch, 2)
        os.utime(path, (started - 600, started - 600))
        stop = threading.Event()
        stop.set()
        following.run(stop)
    health = json.loads((job().out / "health.json").read_text())
    assert health["files_waiting"] == 1
    assert health["lag_s"] > 600
