"""The serving benchmark: its shapes, its requests, and a quick run as a person starts it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from serving_models import COMPACT, SHAPES, WHOLE, model_of, requests_of, stored_bytes_per_row

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_compact_model_has_the_rows_widths_and_forms_that_it_says():
    whole, compact = model_of(SHAPES[WHOLE], 2600), model_of(SHAPES[COMPACT], 2600)
    assert (whole.rows, compact.rows) == (2600, 13 * 20)
    slab = compact.slabs()["deep"].bands[0].matrix
    assert (slab.form, slab.width) == ("int8", 8)
    assert compact.rows_nbytes == compact.rows * (8 + 12 + 2)
    assert whole.rows_nbytes == whole.rows * (8 + 64 + 4)
    assert stored_bytes_per_row(SHAPES[COMPACT]) == pytest.approx(1.3 * 22)


def test_requests_ask_for_rows_that_are_there_and_frequent_ones_most():
    requests = requests_of(2, 26 * 1000, 5000)
    ids = np.array(requests.table["f0"].to_pylist(), int)
    assert ids.min() == 0
    assert ids.max() < 1000
    assert (ids < 10).mean() > 0.25 > (ids >= 500).mean()


@pytest.mark.benchmark
def test_a_quick_run_prints_what_it_measured():
    arguments = ["--json", "--rows", "2600", "--requests", "64", "--rounds", "1"]
    done = subprocess.run(
        [sys.executable, "benchmarks/serving.py", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert told["bytes_ratio"] < 1
    assert set(told["costs"]) == set(told["bytes_per_row"]) == set(SHAPES)
    assert told["qps_ratio_b32"] == pytest.approx(
        told["costs"][COMPACT]["batches"]["32"]["per_second"]
        / told["costs"][WHOLE]["batches"]["32"]["per_second"]
    )
    assert told["other_tensorflow"] == {}
