"""A multi-hashed field is served from raw strings with the answers that keys give."""

import numpy as np
import pytest
from awkward_day import MODEL, RELATIONS, SCHEMA, draw_columns, write_partition
from test_serving_kinds import a_trained_model
from test_serving_model import tensors

from compression.export.served_model import ServingModel
from compression.model import CompactModel
from features.schema import Schema
from training.data.examples import read_examples
from training.data.scalers import Scaler
from training.evaluation.scoring import Scorer
from training.fit.checkpoints import Description, TrainedModel, TrainedRows
from training.models.ctr import build_model
from training.settings import GroupSettings, ModelSettings, TrainingSettings


def multi_hashed(multi_hash, fields=("user_id",)):
    changed = [
        f.model_dump() | ({"multi_hash": multi_hash} if f.name in fields else {})
        for f in SCHEMA.fields
    ]
    return Schema.model_validate(SCHEMA.model_dump() | {"fields": changed})


POOLED = [
    {"hashes": 2, "rows": 16},
    {"hashes": 3, "rows": 1000},
    {"hashes": 3, "rows": 50, "shared": True},
    {"hashes": 2, "rows": 50, "own_rows": True},
    {"hashes": 2, "rows": 50, "own_rows": True, "shared": True},
]


@pytest.mark.parametrize("multi_hash", POOLED, ids=str)
def test_served_and_scored_agree(multi_hash, tmp_path):
    schema, columns = multi_hashed(multi_hash), draw_columns(60, seed=7)
    examples = read_examples(write_partition(tmp_path / "day", columns), schema, RELATIONS)
    assert_agree(a_trained_model(MODEL, examples, schema), examples, columns)


@pytest.mark.parametrize(
    "changes", [{}, {"kind": "fusion", "members": ("fm", "dcnv2")}], ids=["wide_deep", "fusion"]
)
@pytest.mark.parametrize("shared", [False, True])
def test_rows_laid_together_are_served_as_scored(changes, shared, tmp_path):
    fields = ("user_id", "first_tag")  # the latter's vocabulary is that of another field
    schema = multi_hashed({"hashes": 3, "rows": 50, "combine": "concat", "shared": shared}, fields)
    ids = GroupSettings(name="ids", fields=fields, dim=6)
    settings = ModelSettings.model_validate(
        {"dim": 6, "hidden": (12, 7), "groups": (ids,), **changes}
    )
    columns = draw_columns(60, seed=7)
    examples = read_examples(write_partition(tmp_path / "day", columns), schema, RELATIONS)
    trained = a_grouped_model(settings, examples, schema)
    assert {
        rows.shape[1]
        for name, rows in trained.groups["ids"].vectors.items()
        if name.endswith("deep")
    } == {2}
    assert_agree(trained, examples, columns)


def a_grouped_model(settings, examples, schema):
    """Rows in both tables for every second key; a table is never asked for keys of other fields."""
    draw = np.random.default_rng(1)
    model = build_model(schema, settings, RELATIONS)
    dense = {
        n: np.abs(w + draw.normal(0, 0.3, w.shape)).astype(np.float32)
        for n, w in model.weights().items()
    }
    keys = np.unique(
        np.concatenate([examples.keys.ravel(), *(values.values for values in examples.lists)])
    )[::2]
    vectors = {
        name: draw.normal(0, 0.5, (len(keys), width)).astype(np.float32)
        for name, width in model.slabs.items()
    }
    own = {name: rows for name, rows in vectors.items() if "/" not in name}
    of_ids = {name.removeprefix("ids/"): rows for name, rows in vectors.items() if "/" in name}
    scalers = {field.name: Scaler(0.5, 2.0) for field in schema.dense_fields()}
    about = Description(schema, settings, TrainingSettings(), scalers, RELATIONS, 1)
    return TrainedModel(about, dense, keys, own, {}, {"ids": TrainedRows(keys, of_ids)})


def assert_agree(trained, examples, columns):
    scored = Scorer(trained).score(examples)
    served = (
        ServingModel(CompactModel.of(trained))
        .probability(tensors(trained.description.schema, columns))
        .numpy()
    )
    np.testing.assert_allclose(served, scored, rtol=0, atol=1e-6)
    assert np.ptp(scored) > 0.05
