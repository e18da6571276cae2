"""Planted noise ranks last; at equal signal expensive fields do; scale has no influence."""

import numpy as np
import pytest
from planted_fields import MODEL, NOISE_USES, RECIPE, SIGNAL_USES, TRAINING, planted_inputs

from compression.selection.footprint import measure
from compression.selection.ranking import (
    FieldRanking,
    HeldOutQuality,
    TrainingSplit,
    costs,
    gate_rule,
    rank,
    train_on_split,
)
from compression.settings import SelectionSettings
from elastic_embeddings.core.ragged import Ragged
from features.errors import UnsoundError
from features.schema import Categorical, MultiValued, Schema, Timestamp
from training.data.inputs import Inputs
from training.evaluation.metrics import auc
from training.fit.model_and_baseline import LearnerConfig, ModelAndBaseline
from training.models.gates import Draw

pytestmark = pytest.mark.slow

SELECTION = SelectionSettings(learning_rate=0.03)
LEARNED = TrainingSplit(
    (planted_inputs(6000, seed=10), planted_inputs(2000, seed=11)), planted_inputs(2000, seed=12)
)


BEFORE = (planted_inputs(8000, seed=9),)


def trained(recipe=RECIPE, days=BEFORE):
    """A learner that knows the log already."""
    learner = ModelAndBaseline.new(recipe).model
    train_on_split(learner, TrainingSplit(days, days[0]), recipe.training, passes=2)
    return learner


def ranked(settings, learner=None, recipe=RECIPE, split=LEARNED):
    learner = learner or trained(recipe)
    return rank(
        learner, split, recipe, settings, measure(recipe.schema, learner, split.heldout, {})
    )


def separation(importance):
    """AUC of the ranking: how often a field with a signal ranks above one of noise."""
    names = (*SIGNAL_USES, *NOISE_USES)
    return auc(
        np.isin(names, SIGNAL_USES).astype(float), np.array([importance[name] for name in names])
    )


def by(method):
    return SELECTION.model_copy(update={"method": method})


@pytest.fixture(scope="module", params=["fscd", "droprank"])
def method(request):
    return request.param


@pytest.fixture(scope="module")
def ranking(method):
    return ranked(by(method))


def test_planted_noise_ranks_last(ranking):
    assert set(ranking.importance) == {*SIGNAL_USES, *NOISE_USES}
    assert separation(ranking.importance) == 1
    assert set(ranking.order()[: len(SIGNAL_USES)]) == set(SIGNAL_USES)


def test_same_seed_same_importance_to_the_bit(ranking, method):
    assert ranked(by(method)).importance == ranking.importance


@pytest.mark.sweep
def test_another_seed_ranks_noise_last_too():
    recipe = LearnerConfig(RECIPE.schema, MODEL, TRAINING.model_copy(update={"seed": 4}), ())
    assert separation(ranked(SELECTION, recipe=recipe).importance) == 1


def test_without_a_signal_and_a_price_nothing_is_important_for_long():
    draw = np.random.default_rng(0)
    parts = [planted_inputs(4000, seed) for seed in (1, 2)]
    noise = [
        Inputs(p.keys, p.lists, p.dense, p.cross, draw.integers(0, 2, len(p)).astype(np.float32))
        for p in parts
    ]
    settings = SELECTION.model_copy(update={"online": 0.5})
    found = ranked(settings, trained(days=(noise[0],)), split=TrainingSplit((noise[1],), noise[1]))
    assert max(found.importance.values()) < SELECTION.initial_keep


PLAIN_AND_DEAR = Schema(
    label="c",
    user="u",
    item="i",
    timestamp=Timestamp(column="t"),
    fields=(Categorical(name="plain"), MultiValued(name="dear")),
)
"""`dear` holds one value eight times: its mean vector is that value's, at eight look-ups."""
EIGHT = 8


def equal_signals(rows, seed):
    """Both fields say equally much: half the impressions swap their parts."""
    draw, effect = np.random.default_rng(seed), np.random.default_rng(3).normal(size=20)
    plain, dear = draw.integers(20, size=(2, rows // 2))
    plain, dear = np.concatenate([plain, dear]), np.concatenate([dear, plain])
    label = draw.random(rows) < 1 / (1 + np.exp(-effect[plain] - effect[dear]))
    listed = Ragged(np.repeat(dear + 1000, EIGHT), np.arange(rows + 1) * EIGHT)
    empty = np.zeros((rows, 0), np.float32)
    return Inputs(
        plain[:, None].astype(np.int64), (listed,), empty, empty, label.astype(np.float32)
    )


@pytest.mark.covers("data-3")
def test_at_equal_signal_the_costlier_field_goes_first_as_gamma_grows():
    recipe = LearnerConfig(PLAIN_AND_DEAR, MODEL, TRAINING, ())
    split = TrainingSplit((equal_signals(6000, 5),), equal_signals(500, 6))
    gaps = []
    for gamma in (0.0, 0.2, 1.0):
        settings = SelectionSettings(learning_rate=0.03, online=gamma, width=0.0, rows=0.0)
        found = ranked(settings, trained(recipe, (equal_signals(6000, 4),)), recipe, split)
        assert found.scores == {"plain": gamma, "dear": pytest.approx(EIGHT * gamma)}
        gaps.append(found.importance["plain"] - found.importance["dear"])
    assert abs(gaps[0]) < 0.05
    assert gaps[0] < gaps[1] < gaps[2]
    assert gaps[2] > 0.1


def test_embeddings_that_start_ten_times_as_large_leave_the_ranking(ranking, method):
    larger = LearnerConfig(
        RECIPE.schema, MODEL.model_copy(update={"init_scale": 10 * MODEL.init_scale}), TRAINING, ()
    )
    found = ranked(by(method), recipe=larger).importance
    assert separation(found) == 1
    assert found == pytest.approx(ranking.importance, abs=0.1)


def test_equals_go_by_price_then_by_name():
    ranking = FieldRanking(
        {"b": 0.5, "a": 0.5, "dear": 0.5, "best": 0.9},
        None,
        {"b": 1.0, "a": 1.0, "dear": 2.0, "best": 9.0},
    )
    assert ranking.order() == ("best", "a", "b", "dear")


def test_rules_and_prices_of_the_two_methods():
    fscd, droprank = (
        SelectionSettings(learning_rate=0.02),
        SelectionSettings(method="droprank", drop_weight=0.3),
    )
    assert (gate_rule(RECIPE, fscd).draw, gate_rule(RECIPE, fscd).ramp) == (Draw.BATCH, 0.0)
    assert (gate_rule(RECIPE, droprank).draw, gate_rule(RECIPE, droprank).ramp) == (
        Draw.EXAMPLE,
        0.5,
    )
    assert gate_rule(RECIPE, fscd).speed == pytest.approx(0.02 / MODEL.dense.learning_rate)
    np.testing.assert_allclose(
        costs({"a": 6.4, "b": 0.64}, RECIPE, fscd), [0.1, 0.01]
    )  # batches of 64
    np.testing.assert_array_equal(costs({"a": 6.4, "b": 0.64}, RECIPE, droprank), [0.3, 0.3])


def test_the_model_learns_along_and_is_scored_without_gates():
    learner = trained()
    before = HeldOutQuality.of(learner, LEARNED.heldout)
    step = learner.table.step
    ranked(SELECTION, learner)
    after = HeldOutQuality.of(learner, LEARNED.heldout)
    assert learner.table.step == step + -(-6000 // 64) + -(-2000 // 64)
    assert abs(after.auc - before.auc) < 0.03


def test_progress_is_told_from_nothing_to_almost_all():
    shares = []
    train_on_split(trained(), LEARNED, TRAINING, passes=2, report=shares.append)
    assert shares[0] == 0
    assert shares == sorted(shares)
    assert len(shares) == 2 * (-(-6000 // 64) + -(-2000 // 64))
    assert 0.98 < shares[-1] < 1


def test_a_loss_that_is_not_finite_stops():
    learner = trained()
    slab = learner.table.slabs["wide"]
    rows = learner.table.find(learner.table.keys())
    slab.write(
        rows, np.full((len(rows), 1), np.nan, np.float32), slab.read_state(rows, slice(None))
    )
    with pytest.raises(UnsoundError, match="selection"):
        train_on_split(learner, LEARNED, TRAINING, passes=1)
