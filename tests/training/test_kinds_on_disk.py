"""Every kind of model goes on from disk as if it had never stopped, running averages included."""

import pytest
from test_learner import learn
from training_data import MODEL, SCHEMA, TRAINING

from training.fit.checkpoints import Description
from training.fit.model_and_baseline import LearnerConfig, ModelAndBaseline
from training.settings import RelationNetworkSettings

pytestmark = pytest.mark.slow

CHANGES = [
    {"kind": "logistic_regression"},
    {"kind": "fm"},
    {"kind": "deepfm", "norm": "batch"},
    {"kind": "dcnv2", "norm": "layer", "dropout": 0.2},
    {"kind": "wide_deep", "relations": RelationNetworkSettings(rank=2)},
]


@pytest.mark.parametrize("changes", CHANGES, ids=lambda c: c["kind"])
def test_a_kind_goes_on_from_disk_as_if_it_had_never_stopped(changes, tmp_path):
    recipe = LearnerConfig(SCHEMA, MODEL.model_copy(update=changes), TRAINING, ())
    straight = ModelAndBaseline.new(recipe)
    first = learn(straight, 1, 2)
    straight.save(tmp_path / "saved")
    saved = Description(SCHEMA, recipe.model, TRAINING, {}, (), 2)
    resumed = ModelAndBaseline.from_checkpoint(recipe, tmp_path / "saved", saved)
    assert learn(resumed, 3, 1) == (second := learn(straight, 3, 1))
    assert second[1] < first[0]  # it learns: the same batch costs less the second time
    straight.save(tmp_path / "straight")
    resumed.save(tmp_path / "resumed")
    files = [p for p in (tmp_path / "straight").rglob("*") if p.is_file()]
    assert len(files) > 8
    for path in files:
        assert (
            path.read_bytes()
            == (tmp_path / "resumed" / path.relative_to(tmp_path / "straight")).read_bytes()
        ), path
