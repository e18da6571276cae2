"""Metrics with known answers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.metrics import auc, auc_within, calibration, expected_calibration_error, grouped_auc, log_loss

LABEL = np.array([0, 1, 0, 1], np.float32)
P = np.array([0.1, 0.9, 0.6, 0.4], np.float32)
NONE = np.zeros(0, np.float32)


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
    assert log_loss(np.ones(1, np.float32), np.zeros(1, np.float32)) == pytest.approx(-math.log(1e-7), rel=1e-6)


def test_calibration_is_expected_over_observed_clicks():
    assert calibration(LABEL, P) == pytest.approx(1.0)
    assert calibration(LABEL, P / 2) == pytest.approx(0.5)


def test_expected_calibration_error_by_hand():
    # bins of two rows by probability: (.1, .4) observed .5 against .25, (.6, .9) observed .5 against .75
    assert expected_calibration_error(LABEL, P, bins=2) == pytest.approx(0.25)


def test_gauc_leaves_out_groups_of_one_class_and_weighs_by_rows():
    label = np.array([0, 1, 1, 0, 1, 1, 1], np.float32)
    p = np.array([0.2, 0.3, 0.4, 0.9, 0.1, 0.95, 0.5], np.float32)
    group = np.array([7, 7, 7, 3, 3, 9, 9])
    assert grouped_auc(label, p, group) == pytest.approx((3 * 1.0 + 2 * 0.0) / 5)


def test_auc_within_a_slice():
    assert auc_within(LABEL, P, np.array([True, True, False, False])) == 1.0


@pytest.mark.parametrize("metric", [auc, calibration, log_loss, expected_calibration_error])
def test_no_rows_give_nan(metric):
    assert math.isnan(metric(NONE, NONE))


def test_one_class_gives_nan():
    ones = np.ones(3, np.float32)
    assert math.isnan(auc(ones, ones))
    assert math.isnan(calibration(ones * 0, ones))
    assert math.isnan(grouped_auc(ones, ones, np.array([1, 2, 3])))
