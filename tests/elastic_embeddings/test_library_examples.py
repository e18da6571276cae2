"""The example scripts, each in its own process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import elastic_embeddings

ROOT = Path(elastic_embeddings.__file__).parent


def run(script):
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / f"{script}.py"],
        env=os.environ | {"PYTHONPATH": str(ROOT.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.process
def test_a_functional_model_trains_and_reports_its_fields():
    auc, keys, *fields = run("functional_model")
    assert float(auc.removeprefix("AUC over the epoch: ")) > 0.6
    assert keys.startswith("keys seen: ")
    assert [line.split(":")[0].strip() for line in fields] == ["ad", "user"]


@pytest.mark.slow
@pytest.mark.process
def test_the_custom_loop_learns_and_evicts():
    losses, table = run("custom_loop")
    first, last = (float(part.split()[0]) for part in losses.removeprefix("loss: ").split(", "))
    assert last < first
    assert table.startswith("steps: 200, rows: ")
    assert int(table.rsplit(" ", 1)[1]) > 0


@pytest.mark.slow
@pytest.mark.process
def test_a_migrated_model_predicts_the_same_and_then_grows():
    difference, rows = run("migrate_from_embedding")
    assert float(difference.rsplit(" ", 1)[1]) < 1e-5
    assert rows == "rows: 100 before, 200 with the new ids"


@pytest.mark.slow
@pytest.mark.process
def test_an_export_is_served_with_the_model_s_predictions():
    model, served = (line.split()[1:] for line in run("export_for_serving"))
    assert [float(value) for value in served] == pytest.approx([float(v) for v in model], abs=2e-4)
