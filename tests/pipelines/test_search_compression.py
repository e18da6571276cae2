"""`search-compression` on a small workspace: plan, report, plot, event and errors."""

import json
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from matplotlib.image import imread

from pipelines.config import load_config
from pipelines.stages.compress import Compress
from pipelines.stages.stage import Context, execute
from pipelines.stages.train import Train
from pipelines.store.artifacts import Store
from pipelines.tracking.journal import TrackingJournal
from training.models.encoding_inputs import write_encodings

pytestmark = pytest.mark.slow

DAY = date(2026, 1, 1)
ROWS = 4000
DOCUMENT = {
    "name": "searched",
    "source": {"path": "logs/*.csv", "format": "csv"},
    "features": {
        "label": "click",
        "user": "viewer",
        "item": "ad",
        "timestamp": {"column": "time", "unit": "s"},
        "fields": [
            {"name": "ad", "kind": "categorical"},
            {"name": "viewer", "kind": "categorical"},
            {"name": "noise", "kind": "categorical"},
            {"name": "price", "kind": "numeric"},
        ],
    },
    "model": {
        "dim": 8,
        "hidden": [16],
        **{part: {"learning_rate": 0.02} for part in ("deep", "wide", "dense")},
    },
    "training": {"batch_size": 64},
}


def write_day(out):
    """Clicks depend on `ad` and `price`."""
    draw, appeal = np.random.default_rng(1), np.random.default_rng(0).normal(size=40) * 2
    ad, viewer, price = (
        draw.integers(40, size=ROWS),
        draw.integers(400, size=ROWS),
        draw.normal(size=ROWS),
    )
    label = draw.random(ROWS) < 1 / (1 + np.exp(-appeal[ad] - price))
    columns = {
        "record_id": np.arange(ROWS),
        "label": label.astype(np.int8),
        "timestamp_ms": np.arange(ROWS) * 1000,
    }
    viewers, noise = [f"v{x}" for x in viewer], [f"n{x}" for x in draw.integers(900, size=ROWS)]
    strings = {
        "user": viewers,
        "viewer": viewers,
        "ad": [f"a{x}" for x in ad],
        "noise": noise,
        "price": [f"{x:.3f}" for x in price],
    }
    (out / "impressions").mkdir()
    pq.write_table(pa.table({**columns, **strings}), out / "impressions" / "part-0.parquet")


def publish(store, artifact, fill, **metrics):
    with store.staging(artifact, DAY, "v") as out:
        fill(out)
        facts = {"stage": artifact, "inputs": {}, "metrics": metrics, "config": {}, "seconds": 1.0}
        store.publish(out, artifact, DAY, "v", facts)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A workspace with one trained day, and its configuration."""
    folder = tmp_path_factory.mktemp("searched")
    config, store = folder / "searched.yaml", Store(folder / "workspace")
    config.write_text(yaml.safe_dump(DOCUMENT), encoding="utf-8")
    publish(store, "impressions", write_day)
    publish(store, "encodings", lambda out: write_encodings(out / "encodings.npz", {}))
    publish(store, "data_verdict", lambda out: (out / "verdict.json").write_text("{}"), passed=True)
    execute(Train(), Context(load_config(config, (), store.workspace), DAY, store))
    return config, store


@pytest.fixture
def search(here, trained, mlflow_away, tmp_path):
    """Run the command on the workspace; returns exit code, standard output and standard error."""

    def run(*arguments, day="2026-01-01"):
        where = (
            "--config",
            trained[0],
            "--workspace",
            trained[1].workspace,
            "--out",
            tmp_path / "out",
            "--date",
            day,
        )
        return here("search-compression", *where, *arguments)

    return run


def test_the_plan_can_be_merged_and_the_stage_makes_what_was_measured(search, trained, tmp_path):
    code, out, err = search("--max-auc-drop", "0.01", "--plans", "40", "--json")
    assert code == 0, err
    report = json.loads(out, parse_constant=pytest.fail)
    assert json.loads((tmp_path / "out" / "search.json").read_text()) == report
    assert report["chosen"]["ratio"] > 3
    assert (
        report["chosen"]["auc_drop_choosing_half"] + report["chosen"]["auc_drop_choosing_error"]
        <= 0.01
    )
    plan = yaml.safe_load((tmp_path / "out" / "plan.yaml").read_text())
    assert list(plan) == ["compression"]
    merged = tmp_path / "merged.yaml"
    merged.write_text(yaml.safe_dump({**DOCUMENT, **plan}), encoding="utf-8")
    made = execute(
        Compress(), Context(load_config(merged, (), trained[1].workspace), DAY, trained[1])
    ).version
    steps = json.loads((made.path / "report.json").read_text())["steps"]
    assert steps[-1]["bytes_after"] == report["chosen"]["bytes"]
    assert min(imread(tmp_path / "out" / "pareto.png").shape[:2]) > 300


def test_it_is_told_as_it_goes_and_journalled_for_mlflow(search, trained, tmp_path):
    code, out, _ = search("--budget-bytes", "60000", "--fine-tune")
    assert code == 0
    assert "×  AUC" in out
    assert "rows" in out
    journal = TrackingJournal(trained[1].workspace)
    events = [
        event
        for event in map(journal.read, journal.pending())
        if event.stage == "search-compression"
    ]
    newest = events[-1]
    assert (newest.pipeline, newest.day, newest.status) == ("searched", "2026-01-01", "FINISHED")
    assert newest.metrics["search-compression/bytes_chosen"] <= 60_000
    assert newest.params["max_bytes"] == "60000"
    assert {
        str(tmp_path / "out" / name) for name in ("plan.yaml", "search.json", "pareto.png")
    } == {*newest.artifacts}


REFUSED = {
    "nothing wanted": ((), {}, "give --budget-bytes, --max-auc-drop, or both"),
    "too small": (
        ("--budget-bytes", "10", "--plans", "3"),
        {},
        "none of 3 plans is within the limits",
    ),
    "no such day": (
        ("--budget-bytes", "9999"),
        {"day": "2026-02-01"},
        "no checkpoint of 2026-02-01",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_said(search, tmp_path, case):
    arguments, day, message = REFUSED[case]
    code, _, err = search(*arguments, **day)
    assert code == 2
    assert message in err.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_another_selection_makes_another_version(trained, tmp_path):
    chosen = tmp_path / "selection.json"
    steps = f"compression.steps=[{{kind: drop_fields, chosen: {chosen}}}]"
    versions = []
    for kept in (True, False):
        chosen.write_text(
            json.dumps(
                {"fields": [{"name": "noise", "kept": False}, {"name": "viewer", "kept": kept}]}
            )
        )
        context = Context(load_config(trained[0], [steps], trained[1].workspace), DAY, trained[1])
        versions.append(execute(Compress(), context).version)
    assert versions[0].hash != versions[1].hash
    assert versions[0].metrics["rows_after"] > versions[1].metrics["rows_after"]
