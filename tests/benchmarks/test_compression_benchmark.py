"""The compression benchmark: how ids are hashed, what is the best at a ratio, and a quick run as a
person starts it.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from compress_curves import best_at, plot_curves
from harness.datasets import bucketed, codes, parts
from matplotlib.image import imread

REPOSITORY = Path(__file__).resolve().parents[2]
VALUES = np.array([f"v{n}" for n in range(5000)], object)


def test_buckets_are_few_even_and_the_same_for_a_value():
    found = bucketed(VALUES, 50)
    counts = np.unique(found, return_counts=True)[1]
    assert len(counts) == 50
    assert counts.min() > 50
    assert bucketed(VALUES[::-1], 50)[::-1].tolist() == found.tolist()
    assert codes(VALUES[:2]).tolist() == codes(np.array(["v0", "v1"], object)).tolist()


def test_quotient_and_remainder_tell_nearly_all_values_apart_in_few_rows():
    quotient, remainder = parts(VALUES, 1000)
    assert max(len(set(quotient)), len(set(remainder))) <= 1000
    pairs = set(zip(quotient, remainder, strict=True))
    assert len(pairs) > 0.99 * len(VALUES)  # of a million pairs, 5,000 values share 12 or so
    assert len(set(bucketed(VALUES, 2000))) < 0.4 * len(VALUES)


def row(curve, ratio, drop, choosing):
    figures = {"auc_drop": drop, "auc_drop_low": drop - 1e-3, "auc_drop_high": drop + 1e-3}
    return {"curve": curve, "ratio": ratio, "auc_drop_choosing": choosing, **figures}


ROWS = [
    row("composed", 12, 0.001, 0.0),
    row("composed", 40, 0.0, 0.002),
    row("composed", 11, -0.01, 0.001),
    row("hashing trick", 9, 0.0, 0.0),
]


def test_the_best_at_a_ratio_is_the_choosing_users_choice():
    best = best_at(ROWS, 10)
    assert set(best) == {"composed"}
    assert best["composed"]["ratio"] == 12
    assert best_at(ROWS, 30)["composed"]["ratio"] == 40


def test_the_curves_are_drawn(tmp_path):
    plot_curves(ROWS, "what a smaller model costs", tmp_path / "plots" / "curves.png")
    assert imread(tmp_path / "plots" / "curves.png").shape[1] > 800


@pytest.mark.benchmark
def test_a_quick_run_prints_every_curve(tmp_path):
    options = [
        "--json",
        "--quick",
        "--plans",
        "6",
        "--workspace",
        str(tmp_path / "work"),
        "--plots",
        str(tmp_path),
    ]
    done = subprocess.run(
        [sys.executable, "benchmarks/compress.py", *options],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)["drawn"]
    assert told["lossless_max_abs_diff"] == 0
    assert told["lossless_rows"] == 450
    assert told["bytes_with_slots"] > told["bytes_without_slots"] >= told["bytes_cut"]
    curves = {one["curve"] for one in told["pareto"]}
    assert curves == {
        "composed",
        "group lasso, composed",
        "composed, fine-tuned",
        "group lasso, composed, fine-tuned",
        "quantization",
        "group lasso",
        "magnitude pruning",
        "hashing trick",
        "quotient and remainder",
    }
    for one in told["pareto"]:
        assert one["ratio"] == told["bytes"] / one["bytes"]
        assert one["auc_drop_low"] <= one["auc_drop_high"]
    pruned = {one["rows"] for one in told["pareto"] if one["curve"] == "magnitude pruning"}
    assert pruned == {one["rows"] for one in told["pareto"] if one["curve"] == "group lasso"}
    assert (tmp_path / "compression-drawn.png").is_file()
