"""`serve-check` from a workspace to its report and plot: both models answer, bad input is named."""

import json
import shutil
from datetime import date

import pytest
import yaml
from awkward_day import MODEL, SCHEMA
from matplotlib.image import imread
from typer.testing import CliRunner

from features.errors import InputError
from features.files import folder_bytes
from pipelines.cli.commands import app
from pipelines.store.artifacts import Store
from validation.model.requests import read_requests
from validation.serving.measure import serving_costs

DAY = date(2026, 1, 1)


@pytest.fixture(scope="session")
def workspace(partition, judged_checkpoint, exported, tmp_path_factory):
    """A day's impressions, checkpoint and export and the configuration."""
    folder = tmp_path_factory.mktemp("serve_check")
    store = Store(folder / "workspace")
    for artifact, source in (
        ("impressions", partition),
        ("checkpoint", judged_checkpoint),
        ("export", exported[0]),
    ):
        with store.staging(artifact, DAY, "v") as out:
            shutil.copytree(source, out, dirs_exist_ok=True)
            facts = {"stage": artifact, "inputs": {}, "metrics": {}, "config": {}, "seconds": 1.0}
            store.publish(out, artifact, DAY, "v", facts)
    schema = SCHEMA.model_dump(mode="json")
    document = {
        "name": "tiny",
        "source": {"path": "logs/*.csv", "format": "csv"},
        "features": schema | {"forbidden": sorted(schema["forbidden"])},
        "model": MODEL.model_dump(mode="json"),
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(document))
    return folder


def run(workspace, *more):
    paths = [
        "--config",
        str(workspace / "tiny.yaml"),
        "--workspace",
        str(workspace / "workspace"),
        "--date",
        str(DAY),
    ]
    return CliRunner().invoke(app, ["serve-check", *paths, *more])


def test_it_serves_both_and_writes_report_and_picture(workspace, warm_serving, tmp_path):
    asked = (
        "--rounds",
        "1",
        "--max-calls",
        "20",
        "--batches",
        "1,64",
        "--json",
        "--out",
        str(tmp_path),
    )
    done = run(workspace, *asked)
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "serving.json").read_text())
    assert json.loads(done.stdout) == report
    whole, export = report["models"]["whole model"], report["models"]["export"]
    assert whole["bytes"] > export["bytes"] > 0
    assert report["export_over_whole"]["bytes"] == export["bytes"] / whole["bytes"]
    assert set(export["batches"]) == {"1", "64"}
    for costs in (whole, export):
        assert costs["load_s"] > 0
        assert all(
            0 < b["p50_ms"] <= b["p99_ms"] and b["per_second"] > 0
            for b in costs["batches"].values()
        )
    assert imread(tmp_path / "serving.png").shape[0] > 400


def test_an_export_named_by_hand_is_served_and_a_missing_one_refused(workspace, tmp_path):
    done = run(workspace, "--export", str(tmp_path / "nowhere"))
    assert isinstance(done.exception, InputError)
    assert "no SavedModel there" in str(done.exception)


@pytest.mark.parametrize("sizes", ["", "1,x", "0,3"])
def test_batch_sizes_that_are_none_are_refused(workspace, sizes):
    done = run(workspace, "--batches", sizes)
    assert isinstance(done.exception, InputError)
    assert "--batches" in str(done.exception)


def test_the_figures_are_medians_of_the_rounds(exported, partition, warm_serving):
    requests = read_requests(partition, SCHEMA)
    costs = serving_costs(
        {"export": exported[0] / "saved_model"}, requests, (530,), rounds=3, max_calls=5
    )["export"]
    assert costs.bytes == folder_bytes(exported[0] / "saved_model")
    answered = costs.batches[530]
    # One call a round answers all: the median of three times belongs to the median of three speeds.
    assert answered.per_second == pytest.approx(530 / (answered.p50_ms / 1000), rel=1e-6)
