"""`benchmarks/frappe.py --quick` in a process, on small files; and again, when nothing is left to
run.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from frappe_files import ROWS, write_frappe

REPOSITORY = Path(__file__).resolve().parents[2]
FIGURES = {"auc_mean", "auc_std", "log_loss_mean", "examples_per_s"}


def bench(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/frappe.py", *options]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.mark.benchmark
def test_a_quick_run_prints_every_figure_and_is_not_run_twice(tmp_path: Path):
    write_frappe(tmp_path)
    folders = ["--data", str(tmp_path), "--results", str(tmp_path / "results")]
    options = ["--quick", "--json", "--seeds", "1", "--models", "ours_lr,ours_dcnv2", *folders]
    first = bench(*options)
    assert first.returncode == 0, first.stderr
    figures = json.loads(first.stdout)
    assert figures["missing"] == {}
    assert set(figures["models"]) == {"ours_lr", "ours_dcnv2"}
    assert all(set(model) >= FIGURES for model in figures["models"].values())
    assert all(
        0 < model["auc_mean"] < 1 and model["examples_per_s"] > 0
        for model in figures["models"].values()
    )
    assert (figures["rows"], figures["test_rows"]) == (ROWS["train"], ROWS["test"])
    assert "ours_lr, seed 1" in first.stderr
    again = bench(*options)
    assert json.loads(again.stdout) == figures
    assert "seed 1" not in again.stderr
    timed = bench(*options, "--speed-rounds", "2")
    assert [line for line in timed.stderr.splitlines() if line.startswith("speed of")] == [
        f"speed of {model}, round {number} of 2"
        for number in (1, 2)
        for model in ("ours_lr", "ours_dcnv2")
    ]
    by_model = json.loads(timed.stdout)["models"]
    assert all(
        by_model[name]["auc_mean"] == figures["models"][name]["auc_mean"] for name in by_model
    )
    assert all(
        by_model[name]["examples_per_s"] != figures["models"][name]["examples_per_s"]
        for name in by_model
    )


def test_an_unknown_model_is_refused_with_the_known_ones(refused):
    assert "ours_dcnv2" in refused("frappe.py", "--models", "oracle")
