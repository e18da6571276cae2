"""The whole chain with lossy steps: the compressed model passes the gate and serves."""

import json
from datetime import date

import pandas as pd
import pytest
from worlds import FIRST, SMALL, copy_world

pytestmark = pytest.mark.slow
LAST = "2026-01-02"
STEPS = [
    {"kind": "drop_fields", "fields": ["price", "device"]},
    {"kind": "prune_rows", "by": "weight", "keep": 0.8},
    {"kind": "widths", "quantiles": [0.7], "ranks": [4, 8]},
    {"kind": "quantize", "form": "int8"},
    {"kind": "encodings"},
    {"kind": "fine_tune", "learning_rate": 1e-4},
    {"kind": "dense", "form": "float16", "relu": 0.1},
]


WITHOUT = (
    "compressed",
    "export",
    "validation_report",
    "promotion",
    "monitor",
    "tracking",
    "mlflow*",
    "dt=2026-01-03",
)


@pytest.fixture(scope="module")
def lossy(world, tmp_path_factory):
    """A copy of the small world up to its checkpoints, continued with lossy steps."""
    gate = {**SMALL["model_gate"], "max_auc_drop_by_compression": 0.2}
    changes = {"compression": {"steps": STEPS}, "model_gate": gate}
    made = copy_world(world, tmp_path_factory.mktemp("lossy"), changes, WITHOUT)
    made.run("run", "--config", str(made.config), "--from", FIRST, "--to", LAST)
    return made


def test_every_day_is_blessed_on_what_the_compressed_model_predicts(lossy):
    for day in (date(2026, 1, 1), date(2026, 1, 2)):
        figures = lossy.store.current("validation_report", day).metrics
        assert (figures["verdict"], figures["parity_max_abs_diff"] <= 1e-6) == ("blessed", True)
        assert figures["auc_compressed"] == pytest.approx(figures["auc_exported"], abs=1e-6)
        assert figures["auc_compressed"] != figures["auc"]
        assert lossy.store.current("promotion", day).metrics["promoted"]


def test_the_second_day_learned_on_from_the_whole_checkpoint(lossy):
    compressed = lossy.store.current("compressed", date(2026, 1, 2))
    report = json.loads((compressed.path / "report.json").read_text())
    assert [step["kind"] for step in report["steps"]] == [step["kind"] for step in STEPS]
    assert set(compressed.commit["inputs"]) == {
        "checkpoint",
        "impressions",
    }  # the latter for fine_tune alone
    assert report["bytes_after"] < 0.6 * report["bytes_before_weights"]
    checkpoint = lossy.store.current("checkpoint", date(2026, 1, 2))
    assert checkpoint.commit["inputs"]["checkpoint"]["day"] == FIRST
    assert "price" in (checkpoint.path / "model.json").read_text()
    assert '"price"' not in (compressed.path / "model.json").read_text()


def test_the_champion_scores_raw_rows_without_the_dropped_fields_inputs(lossy, tmp_path):
    log = lossy.workspace / "logs" / f"dt={LAST}" / "part-00000.parquet"
    pd.read_parquet(log).head(50).to_parquet(tmp_path / "rows.parquet")
    out = tmp_path / "scored.csv"
    lossy.run(
        "predict",
        "--config",
        str(lossy.config),
        "--input",
        str(tmp_path / "rows.parquet"),
        "--output",
        str(out),
    )
    assert pd.read_csv(out)["probability"].between(0, 1).all()
