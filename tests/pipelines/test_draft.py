"""`init` drafts a configuration that loads, and flags what looks like an outcome."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from features.errors import InputError
from features.schema import Schema
from pipelines.cli.draft import draft
from pipelines.cli.draft_columns import SampledColumn
from pipelines.config import Config


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
    assert SampledColumn("ts", values).time_unit() == "s"


def test_kinds_are_told_apart(log):
    kinds = {f["name"]: f["kind"] for f in drafted(log)["features"]["fields"]}
    assert kinds == {
        "user_id": "categorical",
        "ad_id": "categorical",
        "price": "numeric",
        "price_bucket": "numeric",
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


ROWS = 1200


@pytest.fixture
def impressions():
    """Columns of a made log; a test writes them under its own names and in its own format."""
    rng = np.random.default_rng(3)
    click = rng.integers(0, 2, ROWS)
    return {
        "click": click,
        "who": rng.integers(0, 90, ROWS),
        "what": rng.integers(0, 40, ROWS),
        "second": 1_717_200_000 + np.arange(ROWS),
        "price": rng.lognormal(1, 1, ROWS).round(2),
        "sparse": np.where(rng.random(ROWS) < 0.73, "", rng.choice(["a", "b"], ROWS)),
        "after": np.where(click == 1, rng.random(ROWS), 0),
        "tags": ["|".join(f"t{k}" for k in rng.integers(0, 9, n)) for n in click + 1],
    }


def drafted_from(frame, path, **how):
    frame = pd.DataFrame(frame)
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_csv(path, index=False, **how)
    document = drafted(path)
    Config.model_validate(document)
    return document


def fields_of(document):
    return {f.get("column", f["name"]): f for f in document["features"]["fields"]}


def test_what_a_sample_tells_is_in_the_draft_with_the_reason(impressions, tmp_path):
    impressions["tags"] = ["a|b", "c"] * (ROWS // 2)
    # Its name ends like an id's.
    impressions["bid"] = impressions["price"]
    member, request = impressions.pop("who"), [f"r{i}" for i in range(ROWS)]
    times = {"event_time": impressions.pop("second")}
    frame = {**impressions, **times, "member": member, "request": request, "one": "x"}
    path = tmp_path / "log.csv"
    document = drafted_from(frame, path)
    features, fields = document["features"], fields_of(document)
    assert (features["user"], features["item"]) == ("member", "what")
    assert features["forbidden"] == ["after"]
    assert fields["tags"]["separator"] == "|"
    assert not {"request", "one"} & set(fields)
    assert len(fields["price"]["boundaries"]) == len(fields["bid"]["boundaries"]) == 9
    assert 0.75 < document["data_gate"]["null_share_by_field"]["sparse"] < 1
    assert document["data_gate"]["min_rows"] == ROWS // 4
    text = draft(str(path))
    for reason in (
        "40 values that is not the user",
        "only with a click",
        "request: unique per row",
        "one: constant",
        f"{(impressions['sparse'] == '').mean():.0%} are empty",
    ):
        assert reason in text


def test_german_names_decimal_commas_and_another_encoding(impressions, tmp_path):
    frame = {
        "Zeitstempel": pd.to_datetime(impressions["second"], unit="s").strftime("%F %T"),
        "Kunde": impressions["who"],
        "Artikel Nr": impressions["what"],
        "Größe": ["groß", "klein"] * (ROWS // 2),
        "Preis": [f"{p:.2f}".replace(".", ",") for p in impressions["price"]],
        "geklickt": impressions["click"] == 1,
    }
    document = drafted_from(frame, tmp_path / "log.csv", sep=";", encoding="cp1252")
    assert (document["source"]["separator"], document["source"]["encoding"]) == (";", "cp1252")
    features = document["features"]
    assert [features[k] for k in ("label", "user", "item")] == ["geklickt", "Kunde", "Artikel Nr"]
    assert set(fields_of(document)) == {"Kunde", "Artikel Nr", "Größe", "hour"}


def test_names_without_latin_letters_and_lists_of_parquet(impressions, tmp_path):
    frame = {
        "用户编号": impressions["who"],
        "商品": impressions["what"],
        "时间": impressions["second"] * 1000,
        "标签": [["a", "b"], ["c"]] * (ROWS // 2),
        "点击": impressions["click"] == 1,
    }
    document = drafted_from(frame, tmp_path / "log.parquet")
    assert document["features"]["timestamp"] == {"column": "时间", "unit": "ms"}
    assert fields_of(document)["标签"]["kind"] == "multi_valued"


def test_reserved_names_a_label_called_y_and_null_as_text(impressions, tmp_path):
    frame = {
        "y": impressions["click"],
        "user": impressions["who"],
        "item": [f"{w:08x}" for w in impressions["what"]],
        "timestamp": impressions["second"] * 1_000_000,
        "I1": np.where(impressions["sparse"] == "", "NULL", impressions["price"].astype(str)),
    }
    document = drafted_from(frame, tmp_path / "log.tsv", sep="\t")
    assert document["source"]["separator"] == "\t"
    assert document["source"]["null_values"] == ["NULL"]
    assert document["features"]["timestamp"]["unit"] == "us"
    assert fields_of(document)["I1"]["kind"] == "numeric"


def test_the_offset_of_the_times_is_the_zone_and_other_labels_are_forbidden(impressions, tmp_path):
    genres = ["Action", "Comedy", "Action Comedy", "Drama War", "War", "Drama Action", "Drama"]
    genres += ["Comedy Drama", "War Action", "War Comedy", "Drama Comedy", "Action War"]
    frame = {
        "at_time": pd.to_datetime(impressions["second"], unit="s").strftime("%FT%T+08:00"),
        "reader": impressions["who"],
        "thing": impressions["what"],
        "genre": genres * (ROWS // len(genres)),
        "label": impressions["click"],
        "is_click": impressions["click"],
        "leak": impressions["click"] * 2 + impressions["price"] / 1000,
    }
    (tmp_path / "dt=2024-06-01").mkdir()
    drafted_from(frame, tmp_path / "dt=2024-06-01" / "log.csv")
    document = drafted(tmp_path / "dt={date}" / "*.csv")
    assert document["source"]["partition"] == "path"
    features = document["features"]
    assert (features["label"], features["timezone"]) == ("is_click", "+08:00")
    assert set(features["forbidden"]) == {"label", "leak"}
    assert fields_of(document)["genre"]["separator"] == " "


def test_rare_ids_get_thresholds_and_pairs_with_a_rate_of_their_own_a_relation(tmp_path):
    rng = np.random.default_rng(2)
    user, item = rng.integers(0, 300, 6000), rng.integers(0, 100, 6000)
    even = (user % 6 + item % 8) % 2 == 0
    frame = {
        "user_id": user,
        "item_id": item,
        "age": user % 6,
        "slot": rng.integers(0, 4, 6000),
        "query": [f"q{n}" for n in rng.zipf(1.2, 6000)],
        "ts": 1_717_200_000 + np.arange(6000),
        "click": (rng.random(6000) < np.where(even, 0.6, 0.15)).astype(int),
    }
    document = drafted_from(frame, tmp_path / "log.csv")
    assert document["training"]["admission"]["min_counts"] == {"query": 3}
    assert {"left": "age", "right": "item_id"} in document["graph"]["relations"]
    frame["click"] = rng.integers(0, 2, 6000)
    assert "graph" not in drafted_from(frame, tmp_path / "noise.csv")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"click": 1}\n', "to_parquet"),
        ("1717200000\tu1\ti1\t0\n1717200001\tu2\ti1\t1\n", "header"),
        ("day,user_id,click\n2024-06-01,1,0\n2024-06-01,2,1\n", "days without a time"),
    ],
)
def test_a_log_that_cannot_be_read_is_refused_with_the_remedy(tmp_path, text, words):
    path = tmp_path / "log.tsv"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        draft(str(path))
