"""A field that is multi-hashed in the schema is served from raw strings as it is scored from keys."""

import numpy as np
import pytest
from awkward_day import MODEL, RELATIONS, SCHEMA, draw_columns, write_partition
from test_serving_kinds import a_trained_model
from test_serving_model import tensors

from compression.serving_model import ServingModel
from features.schema import Schema
from training.examples import read_examples
from training.scoring import Scorer


def multi_hashed(hashes, rows):
    fields = [
        f.model_dump() | ({"multi_hash": {"hashes": hashes, "rows": rows}} if f.name == "user_id" else {}) for f in SCHEMA.fields
    ]
    return Schema.model_validate(SCHEMA.model_dump() | {"fields": fields})


@pytest.mark.parametrize(("hashes", "rows"), [(2, 16), (3, 1000)])
def test_served_and_scored_agree(hashes, rows, tmp_path):
    schema, columns = multi_hashed(hashes, rows), draw_columns(60, seed=7)
    examples = read_examples(write_partition(tmp_path / "day", columns), schema, RELATIONS)
    trained = a_trained_model(MODEL, examples, schema)
    scored, served = Scorer(trained).score(examples), ServingModel(trained).probability(tensors(schema, columns)).numpy()
    np.testing.assert_allclose(served, scored, rtol=0, atol=1e-6)
    assert np.ptp(scored) > 0.05
