"""The Globo benchmark as a person starts it: a quick run, an unknown variant, absent data."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def started(*arguments):
    command = [sys.executable, "benchmarks/globo.py", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.mark.benchmark
def test_a_quick_run_prints_its_variants_and_draws_the_hours(tmp_path):
    variants = ("elastic", "hashed", "daily", "relations")
    plot = tmp_path / "hours.png"
    quick = ("--quick", "--json", "--days", "2", "--workspace", str(tmp_path))
    done = started(*quick, "--arms", ",".join(variants), "--plot", str(plot))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert tuple(told["arms"]) == variants
    assert all(0.6 < values["auc"] < 1 for values in told["arms"].values())
    assert told["arms"]["hashed"]["bytes"] <= told["arms"]["elastic"]["bytes"]
    assert told["arms"]["relations"]["rows"] < told["arms"]["elastic"]["rows"]
    assert told["arms"]["elastic"]["auc_new"] > told["arms"]["daily"]["auc_new"]
    assert plot.read_bytes().startswith(b"\x89PNG")
    again = started(*quick, "--arms", "elastic")
    assert json.loads(again.stdout)["arms"]["elastic"] == told["arms"]["elastic"]
    assert "elastic: 2017" not in again.stderr  # it was kept


def test_an_unknown_variant_is_refused_with_the_known_ones(refused):
    assert "no_crosses" in refused("globo.py", "--quick", "--arms", "oracle")


def test_absent_data_is_said_before_anything_is_learned(refused, tmp_path, monkeypatch):
    monkeypatch.setenv("ELASTIC_CTR_DATA", str(tmp_path))
    assert "ELASTIC_CTR_DATA" in refused("globo.py", "--workspace", tmp_path)
