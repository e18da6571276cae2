"""The whole path's benchmark: slices and stages by hand, what is said to be reached, and a quick
run as a person starts it.
"""

import json
import math
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from harness.datasets import Dataset, drawn
from harness.training import Spent, timed
from matplotlib.image import imread
from whole_path import plot_path, verdict
from whole_path_stages import Walk, dropping, hashed, start, with_gnn, with_network

from features.schema import Cross
from training.fit.checkpoints import Description

REPOSITORY = Path(__file__).resolve().parents[2]
STEPS = ["start", "relation network", "PCF-GNN", "multi-hash", "FSCD", "widths", "INT8"]


def records(days) -> list[list[int]]:
    return [pq.read_table(day / "impressions")["record_id"].to_pylist() for day in days]


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    return drawn(tmp_path / "drawn", days=3, rows=102)


def test_a_day_is_cut_in_the_order_of_time_and_the_same_impressions_are_held_out(dataset, tmp_path):
    walk = Walk.of(replace(dataset, name="globo"), tmp_path / "pieces")
    found = records(walk.dataset.days)
    assert [len(piece) for piece in found] == [25, 26, 25, 26] * 3
    assert [record for piece in found for record in piece] == list(range(306))
    assert walk.dataset.training.holdout_fraction * len(found[-1]) == pytest.approx(
        0.3 * 102, abs=1
    )


def test_small_days_are_laid_together_but_for_the_last(dataset, tmp_path):
    days = [*dataset.days, *drawn(tmp_path / "more", days=2, rows=50).days]
    walk = Walk.of(replace(dataset, name="kuairand_pure", days=days), tmp_path / "pieces")
    found = records(walk.dataset.days)
    assert [len(each) for each in found] == [102, 102, 102 + 50, 50]
    assert walk.dataset.days[-1] == days[-1]
    assert walk.dataset.training == dataset.training


def test_each_stage_takes_one_thing_for_another(dataset, tmp_path):
    walk = Walk.of(dataset, tmp_path / "pieces")
    first = start(walk, 16, lasso=False)
    assert first.schema.names() == (
        "user_id",
        "item_id",
        "place",
        "user_id_x_place",
        "item_id_x_place",
    )
    assert (first.model.dim, first.model.deep.l21, first.model.wide.l21) == (16, 0.0, 0.0)
    assert (first.model.relations, first.statistics.kind) == (None, "lookup")
    network = with_network(first, walk)
    assert not any(isinstance(field, Cross) for field in network.schema.fields)
    assert network.model.relations.fields == ("user_id", "item_id", "place")
    gnn = with_gnn(network)
    assert (gnn.statistics.kind, gnn.statistics.dim, gnn.statistics.storage) == (
        "pcf_gnn",
        4,
        "float16",
    )
    assert (gnn.schema, gnn.model, gnn.relations) == (
        network.schema,
        network.model,
        first.relations,
    )
    last = hashed(gnn, {"user_id": 101, "item_id": 9}, 2, 0)
    shared = {field.name: field.multi_hash for field in last.schema.fields}
    assert (shared["user_id"].rows, shared["item_id"].rows, shared["place"]) == (50, 16, None)
    assert (last.model, last.statistics, last.training) == (
        gnn.model,
        gnn.statistics,
        walk.dataset.training,
    )


def test_frequent_ids_may_have_rows_of_their_own(dataset, tmp_path):
    first = start(Walk.of(dataset, tmp_path / "pieces"), 16, lasso=False)
    stage = hashed(first, {"user_id": 800}, 8, 5)
    user, item, *_ = stage.schema.fields
    assert (user.multi_hash.rows, user.multi_hash.own_rows, item.multi_hash) == (100, True, None)
    assert (
        stage.training.admission.threshold("user_id"),
        stage.training.admission.threshold("item_id"),
    ) == (5, 1)
    told = Description(stage.schema, stage.model, stage.training, {}, stage.relations, 1)
    left = dropping(stage, told, {"user_id", "user_id_x_place"})
    assert left.schema.names() == ("item_id", "place", "item_id_x_place")
    assert left.training.admission.min_counts == {}


def test_a_start_may_keep_the_group_lasso_of_its_log(dataset, tmp_path):
    rows = dataset.model.deep.model_copy(update={"l21": 0.25})
    walk = Walk.of(
        replace(dataset, model=dataset.model.model_copy(update={"deep": rows})), tmp_path / "pieces"
    )
    assert [start(walk, 8, lasso).model.deep.l21 for lasso in (True, False)] == [0.25, 0.0]


def test_work_is_counted_by_the_clock_and_by_the_processor():
    slept = timed(lambda: time.sleep(0.3))[1]
    assert slept.clock >= 0.3 > 0.2 > slept.cpu
    made, worked = timed(lambda: sum(range(10**6)))
    assert made == 499_999_500_000
    assert worked.cpu > 0
    assert sum([Spent(1, 2), Spent(3, 5)], Spent()) == Spent(4, 7)


@pytest.mark.parametrize(
    ("gain", "high", "share", "reached"),
    [
        (0.001, 0.004, 0.5, (True, False, True)),
        (-0.001, 0.002, 0.51, (False, True, False)),
        (-0.003, -0.001, 0.2, (False, False, True)),
    ],
)
def test_a_loss_in_doubt_is_not_called_no_loss(gain, high, share, reached):
    told = verdict(
        [
            {"gain": 0, "high": 0, "training_share": 1},
            {"gain": gain, "high": high, "training_share": share},
        ]
    )
    assert tuple(told.values()) == reached


def test_the_path_is_drawn(tmp_path):
    rows = [
        {"step": s, "bytes": 9**9 / 2**n, "gain": -n, "low": -n - 1, "high": 1 - n}
        for n, s in enumerate(STEPS)
    ]
    plot_path(rows, "drawn", tmp_path / "plots" / "path.png")
    assert imread(tmp_path / "plots" / "path.png").shape[1] > 800


@pytest.mark.benchmark
def test_a_quick_run_walks_every_step_and_learns_nothing_twice(tmp_path):
    options = [
        "--quick",
        "--json",
        "--rounds",
        "1",
        "--requests",
        "512",
        "--workspace",
        str(tmp_path),
        "--plots",
        str(tmp_path),
    ]
    first, again = (_run(*options) for _ in range(2))
    rows = first["rows"]
    assert [row["step"] for row in rows] == STEPS
    assert all(after["bytes"] < before["bytes"] for before, after in pairwise(rows))
    assert [row["rows"] for row in rows[4:]] == [rows[4]["rows"]] * 3
    assert rows[0]["statistics"] == ["item_id__place"]
    assert rows[0]["bytes_of_statistics"] > 0
    assert [row["gain"] for row in rows] == pytest.approx(
        [row["auc"] - rows[0]["auc"] for row in rows]
    )
    assert all(
        row["low"] <= row["high"] and row["qps_b32"] > 0 and row["qps_b512"] > 0 for row in rows
    )
    assert len({row["seconds"]["training"]["cpu"] for row in rows[4:]}) == 1
    assert all(math.isfinite(one["cpu"]) for row in rows for one in row["seconds"].values())
    kept = ("auc", "bytes", "low", "high", "training_share")
    assert [[row[name] for name in kept] for row in again["rows"]] == [
        [row[name] for name in kept] for row in rows
    ]
    assert again["rows"][0]["seconds"] == rows[0]["seconds"]
    assert (tmp_path / "whole-path-drawn.png").is_file()


def _run(*options: str) -> dict:
    command = [sys.executable, "benchmarks/whole_path.py", *options]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)["drawn"]


def test_an_unknown_log_is_refused_with_the_known_ones(refused):
    assert "kuairand_pure" in refused("whole_path.py", "--data", "criteo")
