"""`init` drafts a configuration that loads, and flags what looks like an outcome."""

import json

import pandas as pd
import pytest
import yaml

from features.errors import InputError
from features.schema import Schema
from pipelines.cli.draft import SampledColumn, draft


@pytest.fixture
def log(tmp_path):
    rows = 300
    frame = pd.DataFrame(
        {
            "user_id": [f"u{i % 40}" for i in range(rows)],
            "ad_id": [i % 90 for i in range(rows)],
            "ts": [1_700_000_000 + i for i in range(rows)],
            "price": [i * 0.37 for i in range(rows)],
            "tags": ["a|b" if i % 2 else "c" for i in range(rows)],
            "device": ["ios", "web", "android"] * (rows // 3),
            "constant": ["x"] * rows,
            "dwell_time": [i % 7 for i in range(rows)],
            "is_like": [i % 2 for i in range(rows)],
            "clicked": [int(i % 3 == 0) for i in range(rows)],
        }
    )
    path = tmp_path / "log.csv.gz"
    frame.to_csv(path, index=False)
    return path


def drafted(log):
    return yaml.safe_load(draft(str(log)))


def test_the_draft_is_a_valid_schema(log):
    schema = Schema.model_validate(drafted(log)["features"])
    assert (
        schema.label,
        schema.user,
        schema.item,
        schema.timestamp.column,
        schema.timestamp.unit,
    ) == ("clicked", "user_id", "ad_id", "ts", "s")


def test_the_unit_of_epochs_is_that_of_the_middle_value_as_a_number():
    """As text, a stray 5 lies between the nine and ten digits of September 2001."""
    values = ("1000000000", "1000000001", "5", "999999998", "999999999")
    assert SampledColumn("ts", values, len(values)).time_unit() == "s"


def test_kinds_are_told_apart(log):
    kinds = {f["name"]: f["kind"] for f in drafted(log)["features"]["fields"]}
    assert kinds == {
        "user_id": "categorical",
        "ad_id": "categorical",
        "price": "numeric",
        "tags": "multi_valued",
        "device": "categorical",
        "hour": "time",
    }


@pytest.mark.covers("data-4")
def test_outcomes_are_forbidden(log):
    assert set(drafted(log)["features"]["forbidden"]) == {"dwell_time", "is_like"}


def test_parquet_is_sampled_too(log, tmp_path):
    path = tmp_path / "log.parquet"
    pd.read_csv(log).to_parquet(path)
    assert drafted(path)["features"]["label"] == "clicked"
    assert drafted(path)["source"]["format"] == "parquet"


def test_a_pattern_without_files_is_refused(tmp_path):
    with pytest.raises(InputError, match="no file matches"):
        draft(str(tmp_path / "*.csv"))


@pytest.mark.parametrize(("drop", "words"), [("clicked", "label"), ("ts", "timestamp")])
def test_without_label_or_time_it_says_what_it_looked_for(log, tmp_path, drop, words):
    path = tmp_path / "less.csv"
    pd.read_csv(log).drop(columns=drop).to_csv(path, index=False)
    with pytest.raises(InputError, match=words):
        draft(str(path))


def test_an_unreadable_file_is_named(tmp_path):
    path = tmp_path / "broken.parquet"
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(InputError, match=json.dumps("broken")[1:-1]):
        draft(str(path))
