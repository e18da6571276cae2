"""`benchmarks/elastic.py --quick` in a process, as a person runs it, with the systems that need no
other environment.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
KEYS = {
    "step_ratio": {"tfra", "torch_sparse", "keras_1m", "keras_4m", "mutable_hash_table"},
    "embedding_part_ratio": {"tfra", "torch_sparse"},
    "over_dense": {"mlp_400", "mlp_128"},
}
NUMBERS = (
    "index_keys_per_s_core",
    "bytes_per_row_ratio",
    "key_cost_50m_over_10m",
    "examples_per_s",
    "growth_stall_s",
    "save_s",
)


@pytest.mark.benchmark
def test_a_quick_run_prints_every_figure(tmp_path: Path):
    picture = tmp_path / "steps.png"
    options = ["--quick", "--json", "--systems", "dense,ours", "--plot", str(picture)]
    command = [sys.executable, "benchmarks/elastic.py", *options]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["missing"] == {}
    assert {name: set(figures[name]) for name in KEYS} == KEYS
    assert all(figures[name] > 0 for name in NUMBERS)
    assert figures["over_dense"]["mlp_400"] > 0
    assert figures["step_ratio"]["tfra"] is None
    assert picture.stat().st_size > 10_000


def test_an_unknown_system_is_refused_with_the_known_ones(refused):
    assert "mutable_hash_table" in refused("elastic.py", "--systems", "oracle")
