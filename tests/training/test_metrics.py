"""Metrics with known answers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from training.evaluation.metrics import (
    RankedLabels,
    auc,
    auc_by_group,
    auc_within,
    calibration,
    calibration_curve,
    expected_calibration_error,
    grouped_auc,
    log_loss,
    relative_information_gain,
    wilson_interval,
)

LABEL = np.array([0, 1, 0, 1], np.float32)
P = np.array([0.1, 0.9, 0.6, 0.4], np.float32)
NONE = np.zeros(0, np.float32)
GROUPED = st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.integers(-2, 3)), max_size=60)
WEIGHTS = st.just(0.0) | st.floats(1e-6, 1e3)
WEIGHTED = st.lists(st.tuples(st.booleans(), st.integers(0, 4), WEIGHTS), max_size=60)


def columns(rows):
    """Rows of (clicked, fifths of probability, group or weight) as arrays."""
    label, fifths, last = (
        (np.array(column) for column in zip(*rows, strict=True)) if rows else (NONE, NONE, NONE)
    )
    return label.astype(np.float32), (fifths / 5).astype(np.float32), last


def slow_grouped_auc(label, probability, group):
    """The definition, user by user."""
    inside = [group == g for g in np.unique(group)]
    scored = [part for part in inside if 0 < label[part].sum() < part.sum()]
    parts = [(part.sum(), roc_auc_score(label[part], probability[part])) for part in scored]
    return sum(n * value for n, value in parts) / sum(n for n, _ in parts) if parts else math.nan


def test_auc_counts_the_ordered_pairs():
    assert auc(LABEL, P) == 0.75  # of four pairs only (.6, .4) is the wrong way round


def test_ties_count_half():
    assert auc(LABEL, np.full(4, 0.3, np.float32)) == 0.5


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=40))
def test_auc_equals_counting_pairs(rows):
    label = np.array([y for y, _ in rows], np.float32)
    p = np.array([x / 5 for _, x in rows], np.float32)
    pairs = [(a > b) + 0.5 * (a == b) for a in p[label == 1] for b in p[label == 0]]
    assert auc(label, p) == pytest.approx(np.mean(pairs)) if pairs else math.isnan(auc(label, p))


def test_log_loss_by_hand():
    expected = -(math.log(0.9) + math.log(0.9) + math.log(0.4) + math.log(0.4)) / 4
    assert log_loss(LABEL, P) == pytest.approx(expected, rel=1e-6)


def test_log_loss_of_a_certain_mistake_is_large_but_finite():
    assert log_loss(np.ones(1, np.float32), np.zeros(1, np.float32)) == pytest.approx(
        -math.log(1e-7), rel=1e-6
    )


def test_calibration_is_expected_over_observed_clicks():
    assert calibration(LABEL, P) == pytest.approx(1.0)
    assert calibration(LABEL, P / 2) == pytest.approx(0.5)


def test_expected_calibration_error_by_hand():
    # bins of two rows by probability: (.1, .4) observed .5 against .25, (.6, .9) .5 against .75
    assert expected_calibration_error(LABEL, P, bins=2) == pytest.approx(0.25)


def test_information_gain_by_hand():
    expected = 1 - log_loss(LABEL, P) / math.log(2)
    assert relative_information_gain(LABEL, P) == pytest.approx(expected, rel=1e-12)


def test_saying_the_click_rate_gains_nothing_and_knowing_gains_all():
    label = np.array([1, 0, 0, 0, 0], np.float32)
    assert relative_information_gain(label, np.full(5, 0.2)) == pytest.approx(0, abs=1e-9)
    assert relative_information_gain(label, label) == pytest.approx(1, abs=1e-5)
    assert relative_information_gain(label, np.full(5, 0.6)) < 0


def test_a_calibration_curve_by_hand():
    curve = calibration_curve(LABEL, P, bins=2)
    np.testing.assert_allclose(curve.predicted, [0.25, 0.75], rtol=1e-7)
    np.testing.assert_array_equal(curve.observed, [0.5, 0.5])
    np.testing.assert_array_equal(curve.rows, [2, 2])
    low, high = binomtest(1, 2).proportion_ci(method="wilson")
    np.testing.assert_allclose([curve.low, curve.high], [[low, low], [high, high]], rtol=1e-12)


@given(st.integers(1, 300), st.floats(0, 1), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_wilson_intervals_are_those_of_scipy(rows, share, level):
    clicks = round(share * rows)
    reference = binomtest(clicks, rows).proportion_ci(level, method="wilson")
    found = np.concatenate(wilson_interval(np.array([clicks]), np.array([rows]), level))
    np.testing.assert_allclose(found, [reference.low, reference.high], atol=1e-12)


@given(GROUPED, st.integers(1, 9))
def test_a_curve_and_its_error_do_not_depend_on_the_order_of_the_rows(rows, bins):
    label, p, _ = columns(rows)
    back, forth = calibration_curve(label, p, bins), calibration_curve(label[::-1], p[::-1], bins)
    for name, column in vars(back).items():
        np.testing.assert_allclose(column, getattr(forth, name), rtol=1e-12)
    assert back.rows.sum() == len(label)
    assert (np.diff(back.predicted) > 0).all()
    error, turned = (
        expected_calibration_error(y, x, bins) for y, x in ((label, p), (label[::-1], p[::-1]))
    )
    assert error == pytest.approx(turned, rel=1e-9, abs=1e-12, nan_ok=True)


@given(st.integers(1, 100), st.integers(1, 30))
def test_bins_hold_equally_many_rows_where_no_rows_tie(rows, bins):
    p = np.random.default_rng(rows).permutation(rows) / rows
    sizes = calibration_curve(np.zeros(rows), p, bins).rows
    assert len(sizes) == min(rows, bins)
    assert sizes.max() - sizes.min() <= 1


def test_equal_probabilities_lie_in_the_bin_of_the_first_of_them():
    curve = calibration_curve(
        np.array([0, 1, 1, 0], np.float32), np.array([0.1, 0.2, 0.1, 0.1]), bins=2
    )
    assert (curve.rows.tolist(), curve.observed.tolist()) == ([3, 1], [pytest.approx(1 / 3), 1.0])


def test_one_probability_for_all_is_one_bin():
    curve = calibration_curve(LABEL, np.full(4, 0.4))
    assert (curve.rows.tolist(), curve.observed.tolist()) == ([4], [0.5])


def test_a_curve_of_nothing_is_empty():
    assert [len(column) for column in vars(calibration_curve(NONE, NONE)).values()] == [0] * 5


def test_gauc_leaves_out_groups_of_one_class_and_weighs_by_rows():
    label = np.array([0, 1, 1, 0, 1, 1, 1], np.float32)
    p = np.array([0.2, 0.3, 0.4, 0.9, 0.1, 0.95, 0.5], np.float32)
    group = np.array([7, 7, 7, 3, 3, 9, 9])
    assert grouped_auc(label, p, group) == pytest.approx((3 * 1.0 + 2 * 0.0) / 5)


@given(GROUPED)
def test_gauc_equals_its_definition(rows):
    label, p, group = columns(rows)
    assert grouped_auc(label, p, group) == pytest.approx(
        slow_grouped_auc(label, p, group), rel=1e-12, nan_ok=True
    )


def test_auc_by_group_goes_by_ascending_group():
    label = np.array([0, 1, 1, 0, 1, 1], np.float32)
    p = np.array([0.2, 0.3, 0.3, 0.3, 0.1, 0.9], np.float32)
    within, rows = auc_by_group(label, p, np.array([7, 7, 7, 3, 3, -9]))
    np.testing.assert_array_equal(within, [np.nan, 0.0, 1.0])
    np.testing.assert_array_equal(rows, [1, 2, 3])


def test_a_tie_within_a_group_counts_half():
    assert grouped_auc(LABEL, np.full(4, 0.3, np.float32), np.array([1, 1, 2, 2])) == 0.5


def weighted_auc(label, probability, weight):
    """The AUC under weights in the order of the rows."""
    ranked = RankedLabels.of(label, probability)
    return ranked.weighted_auc(weight[ranked.order].astype(np.float64))


def test_weighted_auc_by_hand():
    # pairs (click, other): (.9, .1) right 2 · 1, (.9, .6) right 2 · 3, (.4, .1) right 5 · 1,
    # (.4, .6) wrong 5 · 3
    assert weighted_auc(LABEL, P, np.array([1.0, 2.0, 3.0, 5.0])) == pytest.approx((2 + 6 + 5) / 28)


@given(WEIGHTED)
def test_weighted_auc_equals_that_of_sklearn(rows):
    label, p, weight = columns(rows)
    kept = weight > 0
    if len(np.unique(label[kept])) < 2:
        assert math.isnan(weighted_auc(label, p, weight))
    else:
        assert weighted_auc(label, p, weight) == pytest.approx(
            roc_auc_score(label, p, sample_weight=weight), abs=1e-12
        )


@given(GROUPED, st.integers(0, 3))
def test_weights_that_are_counts_are_repeated_rows(rows, seed):
    label, p, _ = columns(rows)
    counts = np.random.default_rng(seed).integers(0, 4, len(label))
    repeated = auc(np.repeat(label, counts), np.repeat(p, counts))
    assert weighted_auc(label, p, counts) == pytest.approx(repeated, abs=1e-12, nan_ok=True)


def test_auc_within_a_slice():
    assert auc_within(LABEL, P, np.array([True, True, False, False])) == 1.0


@pytest.mark.parametrize(
    "metric", [auc, calibration, log_loss, expected_calibration_error, relative_information_gain]
)
def test_no_rows_give_nan(metric):
    assert math.isnan(metric(NONE, NONE))


@pytest.mark.covers("audit-L1")
def test_a_probability_that_is_nan_has_no_rank():
    """Fault L1: scikit-learn raised, and the other figures ranked a NaN highest."""
    p = np.where(np.arange(4) == 1, np.nan, P)
    assert math.isnan(auc(LABEL, p))
    assert math.isnan(weighted_auc(LABEL, p, np.ones(4)))
    assert math.isnan(grouped_auc(LABEL, p, np.zeros(4, int)))
    # A group without it, and weights without it, are as before.
    others = LABEL[[0, 2, 3]], P[[0, 2, 3]]
    assert weighted_auc(LABEL, p, np.array([1.0, 0, 1, 1])) == auc(*others)
    assert grouped_auc(LABEL, p, np.array([0, 1, 0, 0])) == auc(*others)


def test_one_class_gives_nan():
    ones = np.ones(3, np.float32)
    assert math.isnan(auc(ones, ones))
    assert math.isnan(calibration(ones * 0, ones))
    assert math.isnan(grouped_auc(ones, ones, np.array([1, 2, 3])))
    assert math.isnan(weighted_auc(ones, ones, ones))
    assert math.isnan(relative_information_gain(ones, ones))


def test_no_groups_and_no_weights_give_nan():
    assert math.isnan(grouped_auc(NONE, NONE, NONE.astype(int)))
    assert math.isnan(weighted_auc(LABEL, P, np.zeros(4)))
    assert math.isnan(weighted_auc(NONE, NONE, NONE))


def test_a_certain_mistake_costs_what_the_least_probability_costs():
    wrong = np.array([0, 1], np.float32), np.array([1, 0], np.float32)
    assert log_loss(*wrong) == pytest.approx(-np.log(1e-7), rel=1e-6)
