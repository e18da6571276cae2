"""Every kind of model, served from raw strings, gives what the scorer gives from keys."""

import numpy as np
import pytest
from awkward_day import RELATIONS, SCHEMA, draw_columns, write_partition
from test_serving_model import tensors

from compression.export.served_model import ServingModel
from compression.model import CompactModel
from training.data.examples import read_examples
from training.data.scalers import Scaler
from training.evaluation.scoring import Scorer
from training.fit.checkpoints import Description, TrainedModel
from training.models.ctr import CtrModel
from training.settings import ModelSettings, TrainingSettings

MODELS = [
    ModelSettings(kind="logistic_regression", dim=4),
    ModelSettings(kind="fm", dim=4),
    ModelSettings(kind="wide_deep", dim=4, hidden=(8,), norm="batch", dropout=0.3),
    ModelSettings(kind="deepfm", dim=4, hidden=(8, 6), norm="layer"),
    ModelSettings(kind="dcnv2", dim=4, hidden=(8,), cross_layers=2),
    ModelSettings(kind="wide_deep", dim=4, hidden=(8,), relations={"heads": 2, "form": "vector"}),
    ModelSettings(
        kind="dcnv2", dim=4, hidden=(8,), relations={"fields": ("user_id", "hour"), "rank": 2}
    ),
]


def a_trained_model(settings, examples, schema=SCHEMA):
    draw = np.random.default_rng(1)
    model = CtrModel(schema, settings, RELATIONS)
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
    scalers = {field.name: Scaler(0.5, 2.0) for field in schema.dense_fields()}
    return TrainedModel(
        Description(schema, settings, TrainingSettings(), scalers, RELATIONS, 1),
        dense,
        keys,
        vectors,
        {},
    )


@pytest.mark.parametrize(
    "settings", MODELS, ids=lambda s: f"{s.kind}-{s.norm}-{s.relations and s.relations.form}"
)
def test_served_and_scored_agree(settings, tmp_path):
    columns = draw_columns(60, seed=7)
    examples = read_examples(write_partition(tmp_path / "day", columns), SCHEMA, RELATIONS)
    trained = a_trained_model(settings, examples)
    scored, served = (
        Scorer(trained).score(examples),
        ServingModel(CompactModel.of(trained)).probability(tensors(SCHEMA, columns)).numpy(),
    )
    np.testing.assert_allclose(served, scored, rtol=0, atol=1e-6)
    assert np.ptp(scored) > 0.05
