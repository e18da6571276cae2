"""Which impressions are kept, and that what is left out is accounted for."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_data import MODEL, TRAINING

from features.schema import Categorical, Schema, Timestamp
from training.data.examples import Examples, batches
from training.data.inputs import Inputs
from training.fit.model_and_baseline import LearnerConfig, ModelAndBaseline
from training.fit.sampling import FLOOR_OF_RATE, draw, keep_probabilities, log_odds_shift, sampled
from training.settings import OptimizerSettings

ITEMS = Schema(
    label="y",
    user="u",
    item="i",
    timestamp=Timestamp(column="t"),
    fields=(Categorical(name="item_id"),),
)  # one field: an item's logit is free to be whatever its clicks say


def impressions(label, keys=None, record_id=None):
    rows = len(label)
    return Examples(
        keys=np.zeros((rows, 1), np.int64) if keys is None else keys[:, None],
        lists=(),
        numbers=np.zeros((rows, 0)),
        present=np.zeros((rows, 0), bool),
        pairs=np.zeros((rows, 0, 2), np.int64),
        label=np.asarray(label, np.float32),
        user=np.zeros(rows, np.int64),
        users=np.array(["u"], object),
        record_id=np.arange(rows) if record_id is None else record_id,
        timestamp_ms=np.arange(rows),
    )


def as_inputs(examples):
    empty = np.zeros((len(examples), 0), np.float32)
    return Inputs(examples.keys, (), empty, empty, examples.label)


def rates(**changes):
    return TRAINING.model_copy(update=changes)


def labels(rows, share=0.2, seed=0):
    return (np.random.default_rng(seed).random(rows) < share).astype(np.float32)


def test_without_rates_nothing_is_touched():
    examples = impressions(labels(20))
    inputs = as_inputs(examples)
    assert sampled(inputs, examples, rates(), np.full(20, 0.5, np.float32)) is inputs


def test_every_click_is_kept_and_the_asked_share_of_the_rest():
    label = labels(50_000)
    kept = draw(impressions(label), rates(negative_rate=0.3)).rows
    assert label[kept].sum() == label.sum()
    share = (label[kept] == 0).sum() / (label == 0).sum()
    assert share == pytest.approx(0.3, abs=4 * math.sqrt(0.3 * 0.7 / 40_000))
    assert (np.diff(kept) > 0).all()


@settings(deadline=None)  # the first call compiles the hash
@given(order=st.permutations(range(60)), rate=st.sampled_from([0.05, 0.5, 0.9]))
def test_the_draw_follows_the_record_whatever_the_order(order, rate):
    label, order = labels(60), np.array(order)
    before = np.linspace(0.01, 0.99, 60, dtype=np.float32)
    both = rates(negative_rate=0.5, informative_rate=rate)
    straight = draw(impressions(label), both, before)
    shuffled = draw(impressions(label[order], record_id=order), both, before[order])
    assert sorted(order[shuffled.rows]) == straight.rows.tolist()


def test_the_draw_follows_the_seed():
    examples = impressions(np.zeros(200))
    first, same, other = (
        draw(examples, rates(negative_rate=0.5, seed=seed)).rows for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, same)
    assert first.tolist() != other.tolist()


def test_the_two_draws_are_independent():
    """Of the negatives that were kept, the informative draw keeps its share again."""
    before = np.full(40_000, 0.5, np.float32)
    kept = draw(
        impressions(np.zeros(40_000)), rates(negative_rate=0.5, informative_rate=0.5), before
    ).rows
    assert len(kept) / 40_000 == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("rate", [1.0, 0.5, 0.01])
def test_the_shift_is_the_change_of_the_odds(rate):
    """1 click and 4 others are odds of 1 : 4; with a share of the others left, 1 : 4 · rate."""
    assert math.exp(log_odds_shift(rate)) * (1 / 4) == pytest.approx(1 / (4 * rate))


def test_what_is_left_says_how_its_odds_were_changed():
    examples = impressions(labels(100))
    lesson = sampled(as_inputs(examples), examples, rates(negative_rate=0.25))
    assert lesson.log_odds_shift == pytest.approx(math.log(4))
    assert lesson.importance is None
    assert lesson.take(np.arange(3)).log_odds_shift == lesson.log_odds_shift


probabilities = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=80)


@given(probability=probabilities, rate=st.floats(0.01, 1))
def test_chances_stay_in_range_and_grow_with_the_surprise(probability, rate):
    p = np.array(probability, np.float32)
    label = (np.arange(len(p)) % 3 == 0).astype(np.float32)
    kept = keep_probabilities(p, label, rate)
    assert (kept >= rate * FLOOR_OF_RATE - 1e-12).all()
    assert (kept <= 1).all()
    assert kept.mean() <= rate + 1e-6
    order = np.argsort(np.abs(p.astype(np.float64) - label))
    assert (np.diff(kept[order]) >= -1e-12).all()


@given(
    probability=st.lists(st.floats(1 / 64, 63 / 64, width=32), min_size=1, max_size=80),
    rate=st.floats(0.01, 1),
)
def test_the_expected_share_is_the_rate(probability, rate):
    p = np.array(probability, np.float32)
    assert keep_probabilities(p, np.zeros(len(p), np.float32), rate).mean() == pytest.approx(
        rate, rel=1e-6
    )


def test_chances_by_hand():
    """|p - y| of 0.1, 0.2, 0.3 and 0.4 has the mean 0.25: a rate of 0.5 gives c = 2."""
    kept = keep_probabilities(
        np.array([0.1, 0.2, 0.7, 0.6], np.float32), np.array([0, 0, 1, 1], np.float32), 0.5
    )
    np.testing.assert_allclose(kept, [0.2, 0.4, 0.6, 0.8], rtol=1e-6)


def test_with_nothing_left_to_learn_the_floor_is_kept():
    label = np.array([0, 1, 1, 0], np.float32)
    np.testing.assert_allclose(keep_probabilities(label.copy(), label, 0.5), [0.05] * 4)


def test_of_nothing_nothing_is_kept():
    both = rates(negative_rate=0.5, informative_rate=0.5)
    assert (
        len(sampled(as_inputs(impressions([])), impressions([]), both, np.zeros(0, np.float32)))
        == 0
    )


def test_no_negatives_left_is_no_trouble():
    sample = draw(
        impressions(np.zeros(3)),
        rates(negative_rate=1e-9, informative_rate=0.5),
        np.full(3, 0.5, np.float32),
    )
    assert len(sample.rows) == 0


def test_importance_makes_the_gradient_unbiased():
    """Over many seeds, the sample's mean gradient is that of all impressions; unweighted not."""
    rows, rate, seeds = 300, 0.2, 3000
    draw_ = np.random.default_rng(3)
    label, before = labels(rows), draw_.uniform(0.02, 0.9, rows).astype(np.float32)
    gradients = (before - label)[:, None] * draw_.normal(
        1.0, 1.0, (rows, 4)
    )  # of a logit that is linear in four features
    examples = impressions(label)
    weighted, plain = [], []
    for seed in range(seeds):
        sample = draw(examples, rates(informative_rate=rate, seed=seed), before)
        kept = gradients[sample.rows]
        weighted.append((sample.importance[:, None] * kept).sum(axis=0) / (rate * rows))
        plain.append(kept.sum(axis=0) / (rate * rows))
    error = np.std(weighted, axis=0) / math.sqrt(seeds)
    off = np.abs(np.mean(weighted, axis=0) - gradients.mean(axis=0)) / error
    assert (off < 4).all()
    assert (np.abs(np.mean(plain, axis=0) - gradients.mean(axis=0)) / error > 20).any()


def test_importance_is_bounded_and_one_on_average():
    before = np.random.default_rng(0).beta(1, 20, 50_000).astype(np.float32)
    examples = impressions(labels(50_000, 0.05))
    importance = draw(examples, rates(informative_rate=0.3), before).importance
    assert importance.mean() == pytest.approx(1, abs=0.05)
    assert importance.max() <= 1 / FLOOR_OF_RATE + 1e-4


CLICK_RATES = np.array([0.06, 0.08, 0.1, 0.14, 0.2])


def stream(rows, seed):
    """Impressions of five items that are clicked at `CLICK_RATES`."""
    random = np.random.default_rng(seed)
    item = random.integers(len(CLICK_RATES), size=rows)
    label = (random.random(rows) < CLICK_RATES[item]).astype(np.float32)
    return impressions(label, item.astype(np.int64), random.integers(2**62, size=rows))


def learned_probabilities(shifted=True, **changes):
    """Probabilities by item, of both models, after a stream with left-out impressions."""
    slow, settings = (
        OptimizerSettings(learning_rate=0.003),
        rates(baseline_learning_rate=0.01, **changes),
    )
    model = MODEL.model_copy(update={"wide": slow, "deep": slow, "dense": slow})
    learners = ModelAndBaseline.new(LearnerConfig(ITEMS, model, settings, ()))
    examples = stream(30_000, seed=1)
    lesson = sampled(as_inputs(examples), examples, settings)
    learners.start_at_click_rate(examples.label)
    for rows in (rows for turn in range(4) for rows in batches(len(lesson), 256, 1 << 16, (turn,))):
        part = lesson.take(rows)
        learners.train_step(
            learners.prepare(part if shifted else replace(part, log_odds_shift=0.0))
        )
    asked = as_inputs(impressions(np.zeros(len(CLICK_RATES)), np.arange(len(CLICK_RATES))))
    return np.stack([learners.model.predict(asked), learners.baseline.predict(asked)]).astype(
        np.float64
    )


def odds(p):
    return p / (1 - p)


@pytest.mark.slow
def test_a_fifth_of_the_negatives_leaves_both_learners_as_calibrated_as_all():
    """Expected over observed clicks, within three standard errors and what Adam leaves."""
    for probability in (learned_probabilities(), learned_probabilities(negative_rate=0.2)):
        np.testing.assert_allclose(probability.mean(axis=1) / CLICK_RATES.mean(), 1, atol=0.08)


@pytest.mark.slow
def test_without_the_correction_the_odds_are_off_by_the_rate():
    corrected, plain = (
        learned_probabilities(negative_rate=0.2),
        learned_probabilities(shifted=False, negative_rate=0.2),
    )
    np.testing.assert_allclose((odds(plain) / odds(corrected)).mean(axis=1), 5, rtol=0.15)
