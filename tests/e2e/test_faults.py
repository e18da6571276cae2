"""Faulty days: a clear error or a quarantine with counts, and the last champion stays."""

import json

import pytest
from worlds import copy_world

pytestmark = pytest.mark.slow
FAULTS = [
    {"kind": "truncated_file", "days": ["2026-01-04"]},
    {"kind": "missing_column", "column": "device", "days": ["2026-01-05"]},
    {"kind": "empty_day", "days": ["2026-01-06"]},
    {"kind": "bad_label", "rate": 0.3, "days": ["2026-01-07"]},
    {"kind": "bad_timestamp", "rate": 0.01, "days": ["2026-01-08"]},
]


@pytest.fixture(scope="module")
def faulty(world, tmp_path_factory):
    """A copy of the small world, in which the next days are broken."""
    return copy_world(world, tmp_path_factory.mktemp("faulty"), {"simulator": {"faults": FAULTS}})


def champion_line(world):
    return next(line for line in world.run("status").stdout.splitlines() if "champion" in line)


@pytest.mark.covers("F8")
def test_a_truncated_file_is_named(faulty):
    done = faulty.run("ingest", "--config", str(faulty.config), "--date", "2026-01-04", code=2)
    assert "dt=2026-01-04/part-00000.parquet" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.covers("F9")
def test_a_missing_column_is_named_with_what_there_is(faulty):
    done = faulty.run("ingest", "--config", str(faulty.config), "--date", "2026-01-05", code=2)
    assert "'device'" in done.stderr
    assert "user_id" in done.stderr


@pytest.mark.covers("H4", "F10")
def test_an_empty_day_is_skipped_and_the_champion_stays(faulty):
    before = champion_line(faulty)
    done = faulty.run(
        "run", "--config", str(faulty.config), "--from", "2026-01-06", "--to", "2026-01-06", code=4
    )
    assert "skipped" in done.stdout
    assert "no day from 2026-01-06 to 2026-01-06 has data" in done.stderr
    assert champion_line(faulty) == before


@pytest.mark.covers("monitoring-2")
def test_too_many_bad_labels_stop_the_day_with_counts_and_the_champion_stays(faulty):
    before = champion_line(faulty)
    done = faulty.run(
        "run", "--config", str(faulty.config), "--from", "2026-01-07", "--to", "2026-01-07", code=3
    )
    assert "went to quarantine: 0.3" in done.stderr
    counts = next(
        v for v in faulty.store.before("impressions", max_day()) if str(v.day) == "2026-01-07"
    ).metrics
    assert counts["reasons"]["label"] == 1200
    assert counts["rows_in"] == counts["rows_kept"] + 1200
    assert champion_line(faulty) == before


def test_a_few_bad_rows_are_quarantined_with_their_reason(faulty):
    import pyarrow.parquet as pq

    faulty.run("ingest", "--config", str(faulty.config), "--date", "2026-01-08")
    version = next(
        v for v in faulty.store.before("impressions", max_day()) if str(v.day) == "2026-01-08"
    )
    quarantined = pq.read_table(version.path / "quarantine").to_pylist()
    assert len(quarantined) == version.metrics["rows_quarantined"] == 40
    assert {row["reason"] for row in quarantined} == {"timestamp"}
    assert json.loads(quarantined[0]["record"])["user_id"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.batchsize=3", "training.batchsize: unknown key"),
        ("model.dim=-1", "model.dim"),
        ("nonsense", "key.path=value"),
    ],
)
def test_a_wrong_key_or_value_is_named(faulty, override, words):
    done = faulty.run(
        "train", "--config", str(faulty.config), "--date", "2026-01-02", "--set", override, code=2
    )
    assert words in done.stderr


def test_a_stage_without_its_input_names_the_command_to_run(faulty):
    done = faulty.run("compress", "--config", str(faulty.config), "--date", "2026-02-01", code=2)
    assert "elastic-ctr train" in done.stderr


def max_day():
    from datetime import date

    return date.max
