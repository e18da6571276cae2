"""A fusion is the mean of its members' logits, and each member learns as if it were alone."""

import numpy as np
import pytest
from test_learner import learn, some_inputs
from training_data import MODEL, SCHEMA, TRAINING

from training.fit.model_and_baseline import LearnerConfig, ModelAndBaseline
from training.models.ctr import CtrModel, FusionModel, build_model
from training.settings import ModelSettings

pytestmark = pytest.mark.slow

MEMBERS = ("wide_deep", "dcnv2", "fm")


def settings(**changes):
    return ModelSettings(**(MODEL.model_dump() | {"kind": "fusion", "members": MEMBERS} | changes))


def fresh(model):
    return ModelAndBaseline.new(LearnerConfig(SCHEMA, model, TRAINING, ())).model


def logit(probability):
    return np.log(probability / (1 - probability))


def alone_as_in(learner, kind):
    """One member alone, from its weights and rows in the fusion (rows depend on slab names)."""
    alone = fresh(settings().model_copy(update={"members": (kind,)}))
    alone.model.members[kind].load(learner.model.members[kind].weights())
    return alone


def test_scores_are_the_mean_of_the_members_logits_each_learned_alone():
    fusion = fresh(settings())
    members = [alone_as_in(fusion, kind) for kind in MEMBERS]
    for seed in (1, 2, 3):
        for learner in (fusion, *members):
            learner.train_step(learner.prepare(some_inputs(seed=seed)))
    inputs = some_inputs(seed=9)
    alone = np.mean(
        [logit(member.predict(inputs).astype(np.float64)) for member in members], axis=0
    )
    np.testing.assert_allclose(
        logit(fusion.predict(inputs).astype(np.float64)), alone, rtol=1e-4, atol=1e-5
    )


def test_its_loss_is_the_mean_of_the_members_losses():
    fusion = fresh(settings())
    members = [alone_as_in(fusion, kind) for kind in MEMBERS]
    losses = [member.train_step(member.prepare(some_inputs(seed=1))) for member in members]
    assert fusion.train_step(fusion.prepare(some_inputs(seed=1))) == pytest.approx(
        np.mean(losses), rel=1e-6
    )


def test_members_have_rows_and_weights_of_their_own():
    model = build_model(SCHEMA, settings())
    assert isinstance(model, FusionModel)
    assert model.slabs == {
        "wide_deep_wide": 1,
        "wide_deep_deep": MODEL.dim,
        "dcnv2_deep": MODEL.dim,
        "fm_wide": 1,
        "fm_deep": MODEL.dim,
    }
    assert {name.split("/")[0] for name in model.weights()} == set(MEMBERS)
    assert set(model.blocks()) <= set(model.weights())


def test_one_kind_is_one_model():
    assert isinstance(build_model(SCHEMA, MODEL), CtrModel)


def test_the_click_rate_sets_every_members_bias():
    learners = ModelAndBaseline.new(LearnerConfig(SCHEMA, settings(), TRAINING, ()))
    learners.start_at_click_rate(np.array([1, 0, 0, 0], np.float32))
    assert [
        float(w)
        for n, w in learners.model.model.weights().items()
        if n.endswith("/bias") and w.ndim == 0
    ] == [pytest.approx(np.log(1 / 3), rel=1e-6)] * 3


def test_a_fusion_learns():
    learners = ModelAndBaseline.new(LearnerConfig(SCHEMA, settings(norm="batch"), TRAINING, ()))
    losses = learn(learners, *[1] * 8)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"members": ()},
        {"members": ("fm",)},
        {"members": ("fm", "fm")},
        {"kind": "wide_deep"},
        {"members": ("fm", "fusion")},
    ],
)
def test_members_and_fusion_go_together(wrong):
    with pytest.raises(ValueError, match=r"fusion|members"):
        settings(**wrong)
