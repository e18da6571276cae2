"""Following in this process: what is learned, published, refused; what a start finds of the one before."""

import json
import threading
from datetime import date

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from landing_days import land, rows_of, write_config
from tiny_days import publish

from compression.delta import delta_client
from compression.delta.digest import content_digest
from compression.delta.from_learner import live_model
from compression.delta.write import read_delta
from compression.model import read_compact
from features.errors import InputError, RetryableError, UnsoundError
from pipelines.config import load_config
from pipelines.follow.folders import appearing, keep_latest, numbered, numbers
from pipelines.follow.follow import Follow, Job
from pipelines.follow.ledger import Ledger
from pipelines.follow.published import Published
from pipelines.follow.records import Judge, in_order_of_time
from pipelines.store.artifacts import Store
from training.fit.checkpoints import read_description
from training.fit.trainer import TrainRequest, train_day

pytestmark = pytest.mark.slow


@pytest.fixture
def job(tmp_path):
    """A job in an empty folder, with the configuration changed."""

    def make(*overrides):
        config = load_config(write_config(tmp_path), overrides, tmp_path / "workspace")
        return Job(config, Store(tmp_path / "workspace"), tmp_path / "landing", tmp_path / "out")

    (tmp_path / "landing").mkdir()
    return make


def followed(job, told=None):
    """Take what is there and end; return the ledger."""
    with Follow(job, [].append if told is None else told.append) as following:
        following.run(threading.Event(), once=True)
        return following.ledger


def lines(job):
    return [json.loads(line) for line in (job.out / "batches.jsonl").read_text().splitlines()]


def served_by_all_deltas(out):
    """A model loaded from the first full export that is kept, with every delta after it."""
    first = numbers(out / "full")[0]
    model = tf.saved_model.load(str(numbered(out / "full", first) / "saved_model"))
    for number in numbers(out / "deltas"):
        delta_client.apply_delta(model, numbered(out / "deltas", number))
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
    told = lines(job())
    assert [line["batch"] for line in told] == [1, 2, 3, 4, 5]
    assert told[0]["auc"] is None
    assert all(0.4 < line["auc"] < 1 for line in told[1:])
    assert all(line["delta_rows"] > 0 for line in told[1:])
    assert [line["content"] for line in told] == [0, 1, 2, 3, 4]
    newest = numbers(job().out / "full")[-1]
    manifest = json.loads((numbered(job().out / "full", newest) / "manifest.json").read_text())
    assert delta_client.version(served_by_all_deltas(job().out)) == manifest["version"]
    assert numbers(job().out / "full") == [2, 4]  # after three micro-batches, and at the end


def test_a_start_goes_on_as_if_there_had_been_no_end(job, tmp_path):
    """One process over six files, and three processes over two each: the same content to the bit."""
    contents = []
    for turns in (1, 3):
        work = Job(
            job().config, job().store, tmp_path / f"landing{turns}", tmp_path / f"out{turns}"
        )
        for turn in range(turns):
            for number in range(6 * turn // turns, 6 * (turn + 1) // turns):
                land(work.watch, number)
            ledger = followed(work)
        assert (ledger.batch, ledger.rows_in, len(ledger.taken)) == (6, 1200, 6)
        contents.append(
            content_digest(
                read_compact(
                    numbered(work.out / "full", numbers(work.out / "full")[-1]) / "compressed"
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
        land(job().watch / "dt=2026-01-01" / minute, 0, rows_of(0, click=["1", "0", "0", "?"] * 50))
    ledger = followed(job())
    names = [f"dt=2026-01-01/hm=130{minute}/part-000.csv" for minute in (0, 1)]
    assert (ledger.taken, ledger.rows_kept) == (dict.fromkeys(names, 200), 300)
    assert (job().out / "quarantine" / f"{names[1]}.jsonl").exists()
    (job().watch / names[0]).unlink()
    land(job().watch, 1)
    ledger = followed(job())
    assert set(ledger.taken) == {names[1], "part-001.parquet"}
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
    saved = Ledger.read(numbered(job().out / "state", 5))
    assert set(saved.taken) - set(before.taken) == {"part-004.csv"}
    (job().watch / "part-005.parquet").unlink()
    assert set(followed(job()).taken) == {
        f"part-{n:03d}.{'parquet' if n % 2 else 'csv'}" for n in (0, 1, 2, 3, 4, 6)
    }


def test_a_loss_that_is_not_finite_is_not_published(job):
    for number in range(3):
        land(job().watch, number)
    followed(job())
    version = delta_client.version(served_by_all_deltas(job().out))
    published = numbers(job().out / "deltas")
    for number in (3, 4, 5):
        land(job().watch, number)
    with pytest.raises(
        UnsoundError, match=r"not published.*goes on from the checkpoint of micro-batch 3"
    ):
        followed(
            job(
                "model.dense.learning_rate=1e30",
                "model.deep.learning_rate=1e30",
                "follow.calibration_within=1e9",
            )
        )
    assert numbers(job().out / "state")[-1] == 3
    if numbers(job().out / "deltas") == published:
        assert delta_client.version(served_by_all_deltas(job().out)) == version
    for number in numbers(job().out / "deltas"):
        arrays = read_delta(numbered(job().out / "deltas", number)).arrays.values()
        assert all(np.isfinite(array).all() for array in arrays)
    assert followed(job()).batch == 6


def test_it_begins_from_the_last_sound_checkpoint_and_its_held_out_slice(job, tmp_path):
    """The checkpoint of the workspace, learned by the trainer; its last fifth is learned before the first file."""
    config, store = job().config, job().store
    table = in_order_of_time(
        [Judge(config.source, config.features).judge(land(tmp_path / "day", 0)).kept]
    )
    impressions = publish(store, "impressions", date(2026, 1, 1))
    (impressions.path / "impressions").mkdir()
    pq.write_table(table, impressions.path / "impressions" / "part-0.parquet")
    request = TrainRequest(config.features, config.model, config.training, (), impressions.path)
    train_day(request, tmp_path / "checkpoint")
    checkpoint = publish(store, "checkpoint", date(2026, 1, 1), inputs=[impressions])
    for path in (tmp_path / "checkpoint").iterdir():
        path.rename(checkpoint.path / path.name)
    told = []
    land(job().watch, 1)
    with Follow(job(), told.append) as following:
        assert (
            following.follower.description().step == read_description(checkpoint.path).step + 1
        )  # 40 rows, one batch
        following.run(threading.Event(), once=True)
    assert "2026-01-01, with the 40 impressions" in told[0]
    first = lines(job())[0]
    assert first["auc"] is not None
    assert first["content"] == 1


def test_a_damaged_publication_is_left_behind_by_a_full_export_that_servers_see(job):
    for number in range(2):
        land(job().watch, number)
    followed(job("follow.full_every=100"))
    last = numbers(job().out / "full")[-1]
    (numbered(job().out / "full", last) / "compressed" / "dense.npz").write_bytes(b"")
    land(job().watch, 2)
    told = []
    followed(job("follow.full_every=100"), told)
    assert any("cannot be read" in line for line in told)
    assert numbers(job().out / "full")[0] > last
    assert lines(job())[-1]["delta_rows"] > 0


def test_only_one_process_follows_into_a_folder(job):
    with Follow(job(), print), pytest.raises(RetryableError, match="another process"):
        Follow(job(), print)
    with Follow(job(), print):
        pass


def test_a_folder_that_is_not_there_is_said(job):
    job().watch.rmdir()
    with pytest.raises(InputError, match="no folder"):
        followed(job())


@pytest.mark.parametrize("form", ["int8", "float16"])
def test_what_is_published_may_be_quantized(form, job):
    for number in range(2):
        land(job().watch, number)
    with Follow(job(f"follow.form={form}"), print) as following:
        following.run(threading.Event(), once=True)
        live = live_model(following.follower.learners.model, following.follower.description(), {})
    content = read_compact(
        numbered(job().out / "full", numbers(job().out / "full")[-1]) / "compressed"
    )
    assert {str(slab.bands[0].matrix.form) for slab in content.slabs().values()} == {form}
    np.testing.assert_allclose(
        content.trained().vectors["deep"], live.trained().vectors["deep"], atol=2e-2
    )


def test_a_publication_that_changes_nothing_is_none(job, tmp_path):
    land(job().watch, 0)
    followed(job())
    published = Published(job().out)
    content = read_compact(numbered(job().out / "full", published.number) / "compressed")
    assert published.delta(content, {}) == {
        "delta_rows": 0,
        "delta_tombstones": 0,
        "delta_bytes": 0,
    }
    assert published.full(content) > 0
    assert numbers(job().out / "full") == [published.number]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    def broken():
        with appearing(numbered(tmp_path, 7)) as out:
            (out / "a").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert numbers(tmp_path) == []
    for number in (7, 10, 9):
        with appearing(numbered(tmp_path, number)) as out:
            (out / "a").write_text("whole")
    assert numbers(tmp_path) == [7, 9, 10]
    keep_latest(tmp_path, 2)
    assert numbers(tmp_path) == [9, 10]
    assert numbers(tmp_path / "away") == []
