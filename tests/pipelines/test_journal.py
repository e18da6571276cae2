"""The journal keeps what happened until MLflow has it, and MLflow gets it once."""

from datetime import date

import pytest

from features.errors import RetryableError
from pipelines.tracking.journal import Event, TrackingJournal
from pipelines.tracking.sync import RUN_KEY, Tracker


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
    paths, events = zip(*journal.pending(), strict=True)
    assert [e.stage for e in events] == ["ingest", "train"]
    assert events[0].artifacts == ("a", "b")
    journal.mark_sent(paths[0])
    assert [e.stage for _, e in journal.pending()] == ["train"]


def test_the_run_id_of_a_day_is_remembered(tmp_path):
    journal = TrackingJournal(tmp_path)
    assert journal.run_id(date(2024, 1, 2)) is None
    journal.remember_run("2024-01-02", "abc")
    assert journal.run_id(date(2024, 1, 2)) == "abc"


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
    assert set(found) == {"p/2024-01-02", "p/2024-01-02/train/aa", "p/2024-01-02/monitor/aa"}
    parent = found["p/2024-01-02"]
    assert parent.data.metrics == {"auc": 0.7}
    assert parent.data.params == {"model.dim": "16"}
    assert found["p/2024-01-02/train/aa"].data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert journal.run_id(date(2024, 1, 2)) == parent.info.run_id
    assert [a.path for a in tracker.client().list_artifacts(parent.info.run_id, "monitor")] == [
        "monitor/verdict.json"
    ]


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
