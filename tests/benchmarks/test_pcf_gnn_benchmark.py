"""The cross-feature benchmark: its graph against one counted by hand, and a quick run as a person
starts it.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from harness.cross_features import VARIANTS, graph_of
from pcf_gnn import drawn, movielens

from training.pretraining.graph import STATISTICS

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_graph_counts_pairs_of_three_impressions_or_more():
    world = drawn(2)
    graph = graph_of(world.slices, world.relations)
    edges, (left, right) = graph.edges["ad__region"], graph.sides("ad__region")
    pairs = np.concatenate([each.pairs[:, 0] for each in world.slices])
    label = np.concatenate([each.label for each in world.slices])
    counts, clicks = {}, {}
    for pair, clicked in zip(map(tuple, pairs.tolist()), label, strict=True):
        counts[pair], clicks[pair] = counts.get(pair, 0) + 1, clicks.get(pair, 0) + clicked
    found = list(zip(left[edges.left].tolist(), right[edges.right].tolist(), strict=True))
    assert {pair for pair, n in counts.items() if n >= 3} == set(found)
    rate = np.array(
        [
            (clicks[pair] + 20 * np.mean(label, dtype=np.float64)) / (counts[pair] + 20)
            for pair in found
        ]
    )
    np.testing.assert_allclose(edges.statistics["logit"], np.log(rate / (1 - rate)), rtol=1e-6)
    assert edges.impressions.tolist() == [counts[pair] for pair in found]
    assert set(edges.statistics) == set(STATISTICS)
    assert (np.diff(edges.left) >= 0).all()


def test_movielens_is_cut_by_time(tmp_path):
    folder = tmp_path / "ml-1m"
    folder.mkdir()
    (folder / "ml-1m.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        + "".join(f"{n % 3}\t{n % 2}\t{1 + n % 5}\t{1000 - n}\n" for n in range(30))
    )
    users = "".join(f"{n}\t25\tF\t3\t0\n" for n in range(3))
    (folder / "ml-1m.user").write_text(
        f"user_id:token\tage:float\tgender:token\toccupation:float\tzip_code:token\n{users}"
    )
    (folder / "ml-1m.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:float\tgenre:token_seq\n0\tA\t1990\tDrama\n1\tB\t\tDrama\n"
    )
    world = movielens(folder, tmp_path, 3, lambda _: None)
    assert [len(each) for each in world.slices] == [10, 10, 10]
    stamps = np.concatenate([each.timestamp_ms for each in world.slices])
    assert (np.diff(stamps) > 0).all()
    assert np.concatenate([each.label for each in world.slices]).tolist() == [
        float(1 + n % 5 >= 4) for n in range(29, -1, -1)
    ]


@pytest.mark.benchmark
def test_a_quick_run_prints_the_figures_of_every_input(tmp_path):
    command = [
        sys.executable,
        "benchmarks/pcf_gnn.py",
        "--quick",
        "--json",
        "--workspace",
        str(tmp_path),
    ]
    told = json.loads(
        subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    )
    assert set(told) == {"drawn"}
    assert list(told["drawn"]) == list(VARIANTS)
    for figures in told["drawn"].values():
        assert {"auc", "auc_seen", "auc_unseen", "bytes"} <= set(figures)
    assert told["drawn"]["alone"]["bytes"] == 0
    assert told["drawn"]["lookup"]["auc_seen"] > told["drawn"]["alone"]["auc_seen"] + 0.03
    assert told["drawn"]["pcf_gnn"]["auc_seen"] > told["drawn"]["alone"]["auc_seen"] + 0.03
