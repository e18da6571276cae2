"""The Spark benchmark as a person starts it, what it compares with, and that its name hides no
package.
"""

import json
import subprocess
import sys
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness.processes import ProcessFailed
from spark_data import HUB, SCHEMA, Unequal, require_equal, write_day
from spark_ours import answer

REPOSITORY = Path(__file__).resolve().parents[2]
DAY = date(2026, 1, 1)


def started(*arguments):
    command = [sys.executable, "benchmarks/spark_jobs.py", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.mark.benchmark
def test_a_tiny_run_agrees_with_duckdb_and_prints_its_keys(tmp_path):
    tiny = (
        "--sizes",
        "30k",
        "--window",
        "2",
        "--day-rows",
        "3000",
        "--repeats",
        "1",
        "--hub-rows",
        "3000",
    )
    done = started(*tiny, "--json", "--folder", str(tmp_path))
    if done.returncode == 75:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["detail"]["30k"]["records_compared"] > 10_000
    assert 0.3 < told["peak_gib"] < 6
    for key in ("seconds_per_million", "over_duckdb"):
        assert list(told[key]) == ["30k"]
        assert told[key]["30k"] > 0
    assert told["incremental_over_day_w"] > 0
    assert len(told["days_s"]) == 6
    assert told["hub_over_plain"] > 0
    assert not list(tmp_path.iterdir()), "scratch is gone"


def test_a_size_that_cannot_be_read_is_refused(refused):
    assert "10m" in refused("spark_jobs.py", "--sizes", "many")


@pytest.mark.process
def test_beside_the_benchmark_the_package_of_its_name_is_still_the_package():
    code = "import spark_jobs.settings, spark_jobs; print(spark_jobs.settings.__file__)"
    folder = REPOSITORY / "benchmarks"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()) == REPOSITORY / "spark_jobs" / "settings.py"


@pytest.mark.slow
def test_simulated_impressions_are_the_same_every_time_and_fit_their_schema(tmp_path):
    tables = [pq.read_table(write_day(tmp_path / name, DAY, 3000) / "impressions") for name in "ab"]
    assert tables[0].equals(tables[1])
    names = {
        "record_id",
        "label",
        "timestamp_ms",
        "user",
        "item",
        *(field.name for field in SCHEMA.column_fields()),
    }
    assert set(tables[0].column_names) == names
    assert tables[0]["timestamp_ms"].to_pylist() == sorted(tables[0]["timestamp_ms"].to_pylist())
    assert {len(tags) for tags in tables[0]["user_tags"].to_pylist()} == {0, 1, 2, 3}
    assert "" in tables[0]["price"].to_pylist()
    hub = pq.read_table(write_day(tmp_path / "hub", DAY, 3000, hub=True) / "impressions")
    assert set(hub["device"].to_pylist()) == {HUB}


def made(folder, **changes):
    """What both systems write, one record each."""
    columns = {"field": ["a"], "impressions": [3], "ctr": [0.5], **changes}
    folder.mkdir()
    for name in ("values", "histogram", "nodes"):
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    pq.write_table(
        pa.table({**columns, "impressions_of_values": columns["impressions"]}),
        folder / "fields.parquet",
    )
    return folder


def test_equal_to_nine_digits_is_equal_and_counts_must_be_exact(tmp_path):
    ours = made(tmp_path / "ours", ctr=[0.5 + 1e-11])
    assert require_equal(ours, ours, made(tmp_path / "same"), ()) == 4
    with pytest.raises(Unequal, match=r"values\.ctr: differs by up to 1e-06"):
        require_equal(ours, ours, made(tmp_path / "off", ctr=[0.500001]), ())
    with pytest.raises(Unequal, match=r"values\.impressions: not equal"):
        require_equal(ours, ours, made(tmp_path / "other", impressions=[4]), ())
    with pytest.raises(Unequal, match=r"1 records of ours, 2 of DuckDB's"):
        require_equal(
            ours,
            ours,
            made(tmp_path / "more", field=["a", "b"], impressions=[3, 1], ctr=[0.5, 1]),
            (),
        )


@pytest.mark.process
def test_a_process_that_fails_says_why():
    assert answer([sys.executable, "-c", "print('{\"a\": 1}')"])["a"] == 1
    with pytest.raises(ProcessFailed, match="no such thing"):
        answer([sys.executable, "-c", "raise SystemExit('no such thing')"])
