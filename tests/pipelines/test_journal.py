"""The journal keeps what happened until MLflow has it, and MLflow gets it once."""

import json
import math
import multiprocessing
import os
import signal
import socket
import sqlite3
import threading
import time
from contextlib import closing, suppress
from datetime import UTC, date, datetime

import mlflow.artifacts
import pytest
from tiny_days import DAYS, make_context, publish

from features.errors import RetryableError
from pipelines.stages.chain import run_stage
from pipelines.store.artifacts import Store
from pipelines.store.source_digest import source_revision
from pipelines.tracking import sync
from pipelines.tracking.journal import Event, TrackingJournal
from pipelines.tracking.pages import VIEWS
from pipelines.tracking.sync import RUN_KEY, Tracker, run_tags


def event(stage="train", day="2024-01-02", **changes):
    base = {
        "pipeline": "p",
        "day": day,
        "stage": stage,
        "version": "aa",
        "status": "FINISHED",
        "started_ms": 1_700_000_000_000,
        "ended_ms": 1_700_000_005_000,
    }
    return Event(**{**base, **changes})


@pytest.fixture
def tracker(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Tracker(tmp_path, "tests")


def runs(tracker):
    client = tracker.client()
    return {r.data.tags[RUN_KEY]: r for r in client.search_runs([tracker.experiment_id(client)])}


def test_events_wait_in_order_until_marked(tmp_path):
    journal = TrackingJournal(tmp_path)
    journal.append(event("train", ended_ms=1_700_000_009_000))
    journal.append(event("ingest", ended_ms=1_700_000_001_000, artifacts=("a", "b")))
    paths = journal.pending()
    events = [journal.read(path) for path in paths]
    assert [e.stage for e in events] == ["ingest", "train"]
    assert events[0].artifacts == ("a", "b")
    journal.mark_sent(paths[0])
    assert [journal.read(path).stage for path in journal.pending()] == ["train"]


def test_the_run_id_of_a_day_is_remembered(tmp_path):
    journal = TrackingJournal(tmp_path)
    assert journal.run_id(date(2024, 1, 2)) is None
    journal.remember_run("2024-01-02", "abc")
    assert journal.run_id(date(2024, 1, 2)) == "abc"


def test_the_links_of_a_day_are_remembered_by_stage(tmp_path):
    journal, day = TrackingJournal(tmp_path), date(2024, 1, 2)
    assert journal.links(day, "train") == {}
    journal.remember_run("2024-01-02", "abc", {"train": {"MLflow run": "http://m/1"}})
    journal.remember_run("2024-01-02", "abc", {"export": {"MLflow run": "http://m/2"}})
    journal.remember_run("2024-01-02", "abc")
    assert journal.links(day, "train") == {"MLflow run": "http://m/1"}
    assert journal.links(day, "export") == {"MLflow run": "http://m/2"}
    assert journal.run_id(day) == "abc"


@pytest.mark.slow
def test_a_day_becomes_one_parent_with_a_child_per_stage(tracker, tmp_path):
    (tmp_path / "verdict.json").write_text("{}")
    journal = TrackingJournal(tmp_path)
    journal.append(event("train", metrics={"auc": 0.7}, params={"model.dim": "16"}))
    journal.append(
        event(
            "monitor",
            ended_ms=1_700_000_006_000,
            day_metrics={"auc": 0.7},
            artifacts=(str(tmp_path / "verdict.json"),),
        )
    )
    assert tracker.sync() == 2
    found = runs(tracker)
    assert set(found) == {"p", "p/2024-01-02", "p/2024-01-02/train/aa", "p/2024-01-02/monitor/aa"}
    parent = found["p/2024-01-02"]
    assert parent.data.metrics == {"auc": 0.7}
    assert parent.data.params == {"model.dim": "16"}
    assert found["p/2024-01-02/train/aa"].data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert journal.run_id(date(2024, 1, 2)) == parent.info.run_id
    own = found["p/2024-01-02/monitor/aa"].info.run_id
    assert [a.path for a in tracker.client().list_artifacts(own)] == ["verdict.json"]


def test_the_run_of_the_pipeline_has_a_point_per_day(mlflow_here):
    """Charts over days: the step is the day since 1970, the time the day's end."""
    tracker, journal = Tracker(mlflow_here, "tests"), TrackingJournal(mlflow_here)
    # 2024-01-02 twice, as after a kill between sending and marking.
    for n, day in enumerate(("2024-01-03", "2024-01-02", "2024-01-02", "2024-01-02T05")):
        journal.append(
            event(
                "monitor", day, day_metrics={"train/auc": 0.5}, version=f"v{n}", params={"a": "1"}
            )
        )
    assert tracker.sync() == 4
    whole = runs(tracker)["p"]
    points = tracker.client().get_metric_history(whole.info.run_id, "train/auc")
    end = datetime(2024, 1, 3, tzinfo=UTC).timestamp() * 1000
    assert sorted((p.step, p.timestamp) for p in points) == [
        (19724, end),
        (19725, end + 86_400_000),
        (19724 * 24 + 5, end - 18 * 3_600_000),
    ]
    assert (whole.info.run_name, whole.data.params) == ("p: all days", {})
    assert whole.info.status == "FINISHED"


def test_the_columns_of_mlflows_table_are_filled(mlflow_here):
    """Issue 19: Dataset and Source were empty, and the experiment opened as one of agents."""
    tracker, journal = Tracker(mlflow_here, "tests"), TrackingJournal(mlflow_here)
    client = tracker.client()
    # As an experiment of an earlier release that MLflow's page has looked at.
    id_ = client.create_experiment("tests", (mlflow_here / "files").as_uri())
    client.set_experiment_tag(id_, "mlflow.experimentKind", "no_inferred_type")
    read = {"name": "impressions/2024-01-02", "digest": "d1", "context": "training", "uri": "/a"}
    other = {"name": "impressions/2024-01-01", "digest": "d0", "context": "evaluation", "uri": "/b"}
    tags = run_tags({}, {})
    path = journal.append(event(datasets=(read, other), settings="name: p\n", tags=tags))
    tracker.sync()
    path.with_name(path.name.replace(".pending.", ".sent.")).rename(path)
    tracker.sync()  # sent again, which changes nothing
    kind = client.get_experiment(id_).tags["mlflow.experimentKind"]
    assert kind == "custom_model_development"
    found = runs(tracker)
    day, stage = found["p/2024-01-02"], found["p/2024-01-02/train/aa"]
    names = [[i.dataset.name for i in run.inputs.dataset_inputs] for run in (day, stage)]
    assert [names[0], sorted(names[1])] == [[read["name"]], [other["name"], read["name"]]]
    assert stage.data.tags["mlflow.source.name"] == "elastic-ctr train"
    assert day.data.tags["mlflow.source.name"] == "elastic-ctr run"
    assert day.data.tags["mlflow.user"]
    commit = source_revision().removesuffix("-dirty")
    assert day.data.tags.get("mlflow.source.git.commit", "") == commit
    assert mlflow.artifacts.load_text(f"{day.info.artifact_uri}/settings.yaml") == "name: p\n"


def test_the_saved_views_find_days_and_compression_plans(mlflow_here):
    """Issue 19: no metric was in the table, and two days or two plans had to be searched for."""
    tracker, journal = Tracker(mlflow_here, "tests"), TrackingJournal(mlflow_here)
    client = tracker.client()
    id_ = client.create_experiment("tests", (mlflow_here / "files").as_uri())  # by an older release
    stages = {
        "compress": {"compress/bytes_after": 9.0},
        "export": {"export/bytes_exported": 9.0},
        "search-compression": {"search-compression/auc_drop": 0.0},
    }
    for stage, metrics in stages.items():
        journal.append(event(stage, metrics=metrics))
        journal.append(event(stage, day="2024-01-02T03", metrics=metrics))
    tracker.sync()
    tags, found = client.get_experiment(id_).tags, {}
    for key in VIEWS:
        saved = json.loads(tags[f"mlflow.sharedViewState.{key}"])
        assert f"[{saved['name']}](/#/experiments/{id_}/runs?" in tags["mlflow.note.content"]
        state = json.loads(saved["state"])
        order = [f"{state['orderByKey']} DESC"]
        shown = client.search_runs([id_], state["searchFilter"], order_by=order)
        found[key] = sorted(run.info.run_name for run in shown)
    assert found == {
        "days": ["2024-01-02", "2024-01-02T03"],
        "plans": ["compress"] * 2 + ["search-compression"] * 2,
    }


def test_a_kind_of_experiment_that_a_person_chose_stays(mlflow_here):
    client = Tracker(mlflow_here, "tests").client()
    id_ = client.create_experiment("tests")
    client.set_experiment_tag(id_, "mlflow.experimentKind", "genai_development")
    Tracker(mlflow_here, "tests").experiment_id(client)
    assert client.get_experiment(id_).tags["mlflow.experimentKind"] == "genai_development"


@pytest.mark.slow
def test_sending_twice_makes_no_second_run_and_no_second_point(tracker, tmp_path):
    journal = TrackingJournal(tmp_path)
    path = journal.append(event(metrics={"auc": 0.7}))
    tracker.sync()
    sent = path.with_name(path.name.replace(".pending.", ".sent."))
    sent.rename(path)  # a kill between sending and marking
    tracker.sync()
    found = runs(tracker)
    assert len(found) == 2
    child = found["p/2024-01-02/train/aa"]
    assert len(tracker.client().get_metric_history(child.info.run_id, "auc")) == 1


def test_a_server_that_is_away_keeps_the_events_and_says_how_to_send_them(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    journal = TrackingJournal(tmp_path)
    journal.append(event())
    with pytest.raises(RetryableError, match="elastic-ctr sync"):
        Tracker(tmp_path, "tests").sync()
    assert len(list(journal.pending())) == 1


@pytest.mark.covers("H6")
def test_names_and_values_are_made_fit_for_mlflow(mlflow_here):
    """Fault H6: a documented setting with an ordinary CSV header stopped all tracking."""
    tracker = Tracker(mlflow_here, "tests")
    journal = TrackingJournal(tracker.workspace)
    names = {
        "source.rename.Click (0/1)": "click",
        "a//b": "1",
        "../up": "2",
        "": "3",
        "x" * 300: "4",
        "größe": "y" * 9000,
        "plain.name": "5",
    }
    path = journal.append(
        event(params=names, metrics={"auc %": 0.7, "loss": math.nan, "norm": math.inf})
    )
    kept = journal.read(path)
    assert kept.params["plain.name"] == "5"
    assert len(kept.params) == len(names)
    assert json.loads(kept.tags["elastic_ctr.not_finite"]) == ["loss", "norm"]
    renamed = json.loads(kept.tags["elastic_ctr.renamed"])
    assert set(renamed.values()) == {*names, "auc %"} - {"plain.name"}
    assert tracker.sync() == 1
    run = runs(tracker)["p/2024-01-02/train/aa"]
    assert set(run.data.params) == set(kept.params)
    assert list(run.data.metrics.values()) == [0.7]


@pytest.mark.covers("H6")
def test_an_event_that_can_never_be_sent_is_set_aside_and_the_others_go_on(mlflow_here, here):
    """Fault H6: zero bytes, a field of a newer release, a name that MLflow refuses."""
    tracker = Tracker(mlflow_here, "tests")
    journal = TrackingJournal(tracker.workspace)
    empty, newer, refused, sound = (
        journal.append(event(ended_ms=1_700_000_005_000 + n, version=f"v{n}")) for n in range(4)
    )
    empty.write_bytes(b"")
    newer.write_text(json.dumps({**json.loads(newer.read_text()), "mood": "good"}))
    refused.write_text(refused.read_text().replace('"metrics": {}', '"metrics": {"a?": 1.0}'))
    assert tracker.sync() == 1
    assert journal.pending() == []
    assert sound.with_name(sound.name.replace(".pending.", ".sent.")).is_file()
    reasons = {path.name: reason for path, reason in journal.refused().items()}
    assert list(reasons) == [empty.name, newer.name, refused.name]
    assert "mood" in reasons[newer.name]
    assert "a?" in reasons[refused.name]
    # `status` of a workspace in which nothing is committed is exit code 4.
    publish(Store(tracker.workspace), "impressions", DAYS[0])
    code, out, _ = here("status", "--workspace", tracker.workspace)
    assert code == 0
    assert all(f"set aside: tracking/refused/dt=2024-01-02/{name}" in out for name in reasons)


def sync_at(barrier, sent, workspace):
    """Send as soon as the other processes are ready too."""
    barrier.wait()
    sent.put(Tracker(workspace, "tests").sync())


@pytest.mark.covers("H16")
def test_six_syncs_at_once_send_each_event_once(mlflow_here):
    """Fault H16: five of six ended with a traceback."""
    journal = TrackingJournal(mlflow_here)
    for n in range(5):
        journal.append(event(version=f"v{n}", ended_ms=1_700_000_005_000 + n))
    # Forked: each has a connection of its own, and none imports MLflow for seconds.
    processes = multiprocessing.get_context("fork")
    barrier, sent = processes.Barrier(6), processes.Queue()
    several = [
        processes.Process(target=sync_at, args=(barrier, sent, mlflow_here)) for _ in range(6)
    ]
    for each in several:
        each.start()
    for each in several:
        each.join(timeout=200)
    assert [each.exitcode for each in several] == [0] * 6
    assert sum(sent.get(timeout=5) for _ in several) == 5
    assert len(runs(Tracker(mlflow_here, "tests"))) == 6


@pytest.mark.covers("F19")
def test_a_locked_database_is_worth_another_try(mlflow_here, monkeypatch):
    """Fault F19: another process writes to the database for longer than the limit."""
    tracker = Tracker(mlflow_here, "tests")
    TrackingJournal(mlflow_here).append(event())
    monkeypatch.setattr(sync, "SYNC_S", 1.0)
    monkeypatch.setattr(sync, "CONNECT_S", 1.0)
    with closing(sqlite3.connect(mlflow_here / "mlflow.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(RetryableError, match=r"locked|too slowly"):
            tracker.sync()
    assert len(TrackingJournal(mlflow_here).pending()) == 1


@pytest.mark.covers("F18")
def test_a_server_that_drips_bytes_is_left_in_time(tmp_path, monkeypatch):
    """Fault F18: each byte comes in time, the answer never."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip():
            with server.accept()[0] as client, suppress(OSError):
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
                while True:
                    client.sendall(b" ")
                    time.sleep(0.1)

        threading.Thread(target=drip, daemon=True).start()
        port = server.getsockname()[1]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:hunter22@127.0.0.1:{port}")
        monkeypatch.setattr(sync, "CONNECT_S", 1.5)
        TrackingJournal(tmp_path).append(event())
        began = time.monotonic()
        with pytest.raises(RetryableError, match="MLflow") as caught:
            Tracker(tmp_path, "tests").sync()
    assert time.monotonic() - began < 10
    assert "hunter22" not in str(caught.value)


def test_a_deleted_experiment_keeps_the_events(mlflow_here):
    """A setting of the server is not the fault of the events."""
    tracker = Tracker(mlflow_here, "tests")
    client = tracker.client()
    client.delete_experiment(tracker.experiment_id(client))
    TrackingJournal(mlflow_here).append(event())
    with pytest.raises(RetryableError, match="experiments restore"):
        tracker.sync()
    assert len(TrackingJournal(mlflow_here).pending()) == 1


@pytest.mark.covers("H16")
def test_a_run_killed_between_publication_and_journal_reaches_mlflow_later(
    tmp_path, tiny_chain, mlflow_away
):
    """Fault H16: the next run was "already committed" and wrote no event."""
    context = make_context(tmp_path)
    child = os.fork()
    if child == 0:
        TrackingJournal.append = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        run_stage("ingest", context)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    journal = TrackingJournal(context.store.workspace)
    version = context.store.current("impressions", context.day)
    assert version is not None
    assert journal.pending() == []
    for _ in range(2):
        assert run_stage("ingest", context).reused
        (found,) = map(journal.read, journal.pending())
        assert (found.stage, found.version, found.status) == ("ingest", version.hash, "FINISHED")
        assert found.ended_ms == version.commit["committed_at_s"] * 1000
