"""What a schema accepts and what it refuses, with the reason in the message."""

import pytest
from pydantic import ValidationError

from features.schema import Numeric, Schema, Time, is_dense, vocabulary_of

BASE = {
    "label": "click",
    "user": "user_id",
    "item": "ad",
    "timestamp": {"column": "time_ms"},
    "forbidden": ["play_time"],
    "fields": [
        {"name": "user_id", "kind": "categorical"},
        {"name": "ad", "kind": "categorical", "vocabulary": "item"},
        {"name": "last_ads", "kind": "multi_valued", "vocabulary": "item"},
        {"name": "price", "kind": "numeric", "transform": "log"},
        {"name": "age", "kind": "numeric", "transform": "buckets", "boundaries": [18, 30]},
        {"name": "hour", "kind": "time"},
        {"name": "user_ad", "kind": "cross", "of": ["user_id", "ad"]},
    ],
}


def with_field(field):
    return {**BASE, "fields": [*BASE["fields"], field]}


def test_a_full_schema_sorts_its_fields():
    schema = Schema.model_validate(BASE)
    assert [f.name for f in schema.dense_fields()] == ["price"]
    assert [f.name for f in schema.key_fields()] == [
        "user_id",
        "ad",
        "last_ads",
        "age",
        "hour",
        "user_ad",
    ]
    assert [f.name for f in schema.column_fields()] == [
        "user_id",
        "ad",
        "last_ads",
        "price",
        "age",
        "hour",
    ]


def test_a_time_field_reads_the_timestamp_by_default():
    schema = Schema.model_validate(BASE)
    assert schema.source_column(schema.field("hour")) == "time_ms"
    assert schema.source_column(Time(name="seen", column="seen_ms")) == "seen_ms"


def test_vocabularies_are_shared_by_name():
    schema = Schema.model_validate(BASE)
    assert vocabulary_of(schema.field("ad")) == vocabulary_of(schema.field("last_ads")) == "item"
    assert vocabulary_of(schema.field("user_id")) == "user_id"


def test_buckets_are_ids_not_numbers():
    assert not is_dense(Numeric(name="n", transform="buckets", boundaries=(1.0,)))
    assert is_dense(Numeric(name="n", transform="log"))


def test_an_unknown_field_name_is_a_key_error():
    with pytest.raises(KeyError):
        Schema.model_validate(BASE).field("nobody")


@pytest.mark.covers("data-1")
@pytest.mark.parametrize(
    ("document", "words"),
    [
        (with_field({"name": "play_time", "kind": "numeric"}), "outcomes"),
        (with_field({"name": "y", "column": "click", "kind": "categorical"}), "outcomes"),
        (with_field({"name": "ad", "kind": "categorical"}), "used twice"),
        (with_field({"name": "label", "kind": "categorical"}), "reserved"),
        (
            with_field({"name": "x", "kind": "cross", "of": ["user_id", "price"]}),
            "not single-valued id fields",
        ),
        (
            with_field({"name": "x", "kind": "cross", "of": ["user_id", "last_ads"]}),
            "not single-valued id fields",
        ),
        (with_field({"name": "x", "kind": "cross", "of": ["user_id"]}), "at least 2"),
        (with_field({"name": "n", "kind": "numeric", "transform": "buckets"}), "needs them"),
        (with_field({"name": "n", "kind": "numeric", "boundaries": [1]}), "go with"),
        (
            with_field(
                {"name": "n", "kind": "numeric", "transform": "buckets", "boundaries": [2, 1]}
            ),
            "ascend",
        ),
        (with_field({"name": "n", "kind": "picture"}), "does not match any"),
        (with_field({"name": "1st", "kind": "categorical"}), "pattern"),
        ({**BASE, "colour": "red"}, "Extra inputs"),
        ({**BASE, "fields": []}, "at least 1"),
    ],
)
def test_what_is_refused_says_why(document, words):
    with pytest.raises(ValidationError, match=words):
        Schema.model_validate(document)


def test_an_unknown_zone_is_refused_with_examples():
    with pytest.raises(ValidationError, match="Europe/Berlin"):
        Schema.model_validate({**BASE, "timezone": "Mars/Olympus"})


def test_a_schema_cannot_be_changed():
    schema = Schema.model_validate(BASE)
    with pytest.raises(ValidationError, match="frozen"):
        schema.label = "other"
