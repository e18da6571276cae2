"""A new data set needs one YAML and no code: a CSV of ten columns, drafted by `init`, run, scored."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from worlds import World

pytestmark = pytest.mark.slow
ROWS = 3000


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """Two local days (+02:00) of impressions with a planted signal, in ten columns."""
    rng = np.random.default_rng(5)
    user, ad = rng.zipf(1.3, ROWS) % 300, rng.integers(0, 60, ROWS)
    time = pd.Timestamp("2024-06-01T00:00:00+02:00") + pd.to_timedelta(
        np.sort(rng.uniform(0, 47.9, ROWS)), unit="h"
    )
    clicked = rng.random(ROWS) < 1 / (1 + np.exp(-(ad % 5 - 2.5) + (user % 2)))
    frame = pd.DataFrame(
        {
            "event_time": time.map(lambda t: t.isoformat()),
            "user_id": [f"u{u:05d}" for u in user],
            "sku": [f"s{a}" for a in ad],
            "campaign": [f"c{a % 5}" for a in ad],
            "device": rng.choice(["ios", "android", "wéb"], ROWS),
            "interests": [
                "|".join(f"i{i}" for i in rng.integers(0, 30, n)) for n in rng.integers(1, 5, ROWS)
            ],
            "bid": np.round(rng.lognormal(0, 1, ROWS), 3),
            "coupon": np.where(rng.random(ROWS) < 0.73, "", rng.choice(["a", "b"], ROWS)),
            "dwell_time": rng.integers(0, 90, ROWS) * clicked,
            "clicked": clicked.astype(int),
        }
    )
    path = tmp_path_factory.mktemp("own") / "log.csv.gz"
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def mine(log):
    """The drafted configuration, with only what a person must decide changed."""
    world = World(log.parent / "workspace", log.parent / "mine.yaml")
    from pipelines.cli.draft import draft

    document = yaml.safe_load(draft(str(log)))
    document["model_gate"] = {
        "max_auc_drop_to_baseline": 0.5,
        "max_auc_drop_to_champion": 0.5,
        "max_p99_ms": 10_000,
    }
    document.setdefault("training", {})["batch_size"] = 64
    document["spark"] = {"remote": "local"}  # the other tests from end to end share a server
    world.config.write_text(yaml.safe_dump(document))
    world.run("run", "--config", str(world.config), "--from", "2024-06-01", "--to", "2024-06-02")
    return world


def test_the_draft_tells_item_list_and_often_empty_column(mine):
    """The data gate of the first day is that of the draft."""
    document = yaml.safe_load(mine.config.read_text())
    fields = {f["name"]: f for f in document["features"]["fields"]}
    assert document["features"]["item"] == "sku"
    assert document["features"]["timezone"] == "+02:00"
    assert fields["interests"]["separator"] == "|"
    assert document["data_gate"]["null_share_by_field"]["coupon"] > 0.73


def test_the_days_are_local_and_complete(mine):
    counts = [
        json.loads(mine.run("report", "--date", f"2024-06-0{d}", "--json").stdout) for d in (1, 2)
    ]
    assert counts[0]["rows"] + counts[1]["rows"] == ROWS
    assert all(c["rows_quarantined"] == 0 for c in counts)


@pytest.mark.covers("data-4")
def test_the_outcome_is_forbidden_and_the_signal_is_found(mine):
    report = json.loads(mine.run("report", "--date", "2024-06-02", "--json").stdout)
    assert "dwell_time" in yaml.safe_load(mine.config.read_text())["features"]["forbidden"]
    assert report["auc_lr_baseline"] > 0.6
    assert report["verdict"] == "blessed"


def test_the_export_scores_the_raw_csv(mine, log, tmp_path):
    out = tmp_path / "scored.csv"
    mine.run("predict", "--config", str(mine.config), "--input", str(log), "--output", str(out))
    scored = pd.read_csv(out)
    assert len(scored) == ROWS
    assert scored["probability"].between(0, 1).all()
