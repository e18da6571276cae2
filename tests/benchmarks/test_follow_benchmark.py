"""The benchmark of following: seconds by hand, and a quick run of all its processes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from follow import latencies, report, served_at
from follow_producer import write

REPOSITORY = Path(__file__).resolve().parents[2]


def event_file(folder, name, moments_s):
    events = pa.table(
        {
            "timestamp_ms": np.zeros(len(moments_s), np.int64),
            "click": np.ones(len(moments_s), np.int32),
        }
    )
    write(folder, name, events, (np.array(moments_s) * 1000).astype(np.int64))


def batch(content, *files, **figures):
    told = {
        "rows_in": 2,
        "published_s": 0.0,
        "seconds": 0.5,
        "auc": 0.7,
        "delta_rows": 3,
        "delta_bytes": 50,
    }
    return {"content": content, "files": list(files), **told, **figures}


def test_seconds_are_from_the_event_to_the_first_content_that_has_learned_it(tmp_path):
    event_file(tmp_path, "0-warm.parquet", [1.0])
    event_file(tmp_path, "1-live-000000.parquet", [10.0, 10.5])
    event_file(tmp_path, "1-live-000001.parquet", [11.0, 11.5])
    batches = [
        batch(0, "0-warm.parquet"),
        batch(1, "1-live-000000.parquet"),
        batch(2, "1-live-000001.parquet", published_s=4.0),
    ]
    applied = [
        {"number": 0, "kind": "full", "applied_s": 9.0, "rows": 5, "seconds": 1.0},
        {"number": 2, "kind": "full", "applied_s": 14.0, "rows": 8, "seconds": 1.0},
        {"number": 3, "kind": "delta", "applied_s": 20.0, "rows": 9, "seconds": 0.1},
    ]
    assert latencies(tmp_path, batches, applied).tolist() == [4.0, 3.5, 3.0, 2.5]
    assert served_at(applied, 4) == np.inf
    figures = report(tmp_path, batches, applied)
    assert figures["events"] == 4
    assert figures["event_to_served_max_s"] == 4.0
    assert figures["event_to_served_p50_s"] == 3.25
    assert figures["events_per_s"] == 4 / (14.0 - 10.0)
    assert (
        figures["deltas"],
        figures["delta_bytes_sum"],
        figures["between_publications_s_median"],
    ) == (2, 100, 4.0)


@pytest.mark.benchmark
def test_a_quick_run():
    command = [sys.executable, "benchmarks/follow.py", "--quick", "--json"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout)
    assert figures["events"] == 200 * 6
    assert (
        0
        < figures["event_to_served_p50_s"]
        <= figures["event_to_served_p95_s"]
        <= figures["event_to_served_max_s"]
        < 60
    )
    assert figures["deltas"] >= 2
    assert figures["delta_bytes_median"] > 0
