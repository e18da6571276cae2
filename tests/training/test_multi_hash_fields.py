"""Multi-hash fields of a schema: their keys, and tables that do not grow with their ids."""

import numpy as np
import pytest
from training_data import MODEL, SCHEMA, TRAINING, planted_day, write_impressions

from features.schema import Relation, Schema
from training.data.examples import read_examples
from training.data.layout import FieldLayout
from training.fit.trainer import TrainRequest, train_day
from training.models.multi_hash.keys import derived_keys
from training.models.multi_hash.settings import MultiHashSettings

HASHES, ROWS = 3, 30


def hashed_schema(name="user_id", hashes=HASHES, rows=ROWS):
    """The schema of the tests with one field multi-hashed."""
    changed = {"multi_hash": {"hashes": hashes, "rows": rows}}
    fields = [f.model_dump() | (changed if f.name == name else {}) for f in SCHEMA.fields]
    return Schema.model_validate(SCHEMA.model_dump() | {"fields": fields})


HASHED = hashed_schema()


def test_the_field_is_pooled_and_the_others_stay():
    before, after = FieldLayout.of(SCHEMA), FieldLayout.of(HASHED)
    assert after.singles == tuple(name for name in before.singles if name != "user_id")
    assert after.lists == ("user_id", *before.lists)
    assert (after.dense, set(after.keyed)) == (before.dense, set(before.keyed))


def test_its_keys_are_derived_from_the_ids_keys(tmp_path):
    day = planted_day(tmp_path / "day", 0, rows=300)
    raw, hashed = read_examples(day, SCHEMA), read_examples(day, HASHED)
    ids = raw.keys[:, FieldLayout.of(SCHEMA).singles.index("user_id")]
    expected = derived_keys(ids, MultiHashSettings(hashes=HASHES, rows=ROWS), "user_id")
    np.testing.assert_array_equal(hashed.lists[0].values.reshape(-1, HASHES), expected)
    np.testing.assert_array_equal(hashed.lists[0].lengths(), np.full(300, HASHES))
    assert len(np.unique(hashed.lists[0].values)) <= ROWS


def test_crosses_and_relations_of_the_field_go_on_with_its_own_values(tmp_path):
    day, relations = (
        planted_day(tmp_path / "day", 0, rows=300),
        (Relation(left="user_id", right="item_id"),),
    )
    raw, hashed = read_examples(day, SCHEMA, relations), read_examples(day, HASHED, relations)
    np.testing.assert_array_equal(hashed.pairs, raw.pairs)
    cross = [FieldLayout.of(s).singles.index("user_age") for s in (SCHEMA, HASHED)]
    np.testing.assert_array_equal(hashed.keys[:, cross[1]], raw.keys[:, cross[0]])


@pytest.mark.slow
def test_however_many_ids_there_are_the_field_takes_no_more_rows(tmp_path):
    draw = np.random.default_rng(0)
    rows = 2000
    columns = {
        name: [f"{i % 5}" for i in range(rows)] for name in ("item_id", "age", "hour", "price")
    }
    columns |= {
        "user_id": [f"user {i}" for i in range(rows)],
        "tags": [[]] * rows,
        "label": draw.integers(0, 2, rows).tolist(),
    }
    day = write_impressions(tmp_path / "day", columns)
    schema = hashed_schema(rows=64)
    figures = train_day(TrainRequest(schema, MODEL, TRAINING, (), day), tmp_path / "out")
    assert 0 < figures["field.user_id.rows"] <= 64
    assert np.isfinite(figures["auc"])


@pytest.mark.parametrize(
    "wrong",
    [{"hashes": 1, "rows": 100}, {"hashes": 9, "rows": 100}, {"rows": 4}, {"rows": 64, "rowz": 1}],
)
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match="multi_hash"):
        Schema.model_validate(
            SCHEMA.model_dump()
            | {
                "fields": [
                    f.model_dump() | ({"multi_hash": wrong} if f.name == "user_id" else {})
                    for f in SCHEMA.fields
                ]
            }
        )
