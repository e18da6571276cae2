"""Figures of slices."""

import math

import numpy as np
import pytest

from features.errors import InputError
from training.evaluation.metrics import (
    Slice,
    auc,
    calibration,
    everything,
    log_loss,
    resample_users,
    slice_table,
)

LABEL = np.array([0, 1, 0, 1, 0, 0], np.float32)
P = np.array([0.1, 0.9, 0.6, 0.4, 0.3, 0.2], np.float32)
USER = np.array([5, 5, 6, 6, 7, 7])


def inside(*rows):
    chosen = np.zeros(6, bool)
    chosen[list(rows)] = True
    return chosen


def test_figures_by_hand():
    (row,) = slice_table(LABEL, P, USER, [Slice("some", inside(0, 1, 2, 3))])
    assert (row.name, row.rows, row.clicks, row.users) == ("some", 4, 2, 2)
    assert row.auc == 0.75
    assert row.log_loss == pytest.approx(-(2 * math.log(0.9) + 2 * math.log(0.4)) / 4, rel=1e-6)
    assert row.calibration == pytest.approx(1.0)
    drawn = resample_users(LABEL[:4], {"m": P[:4]}, USER[:4])["m"].intervals()["auc"]
    assert (row.auc_low, row.auc_high) == (drawn.low, drawn.high)


def test_everything_is_a_slice_and_order_is_kept():
    table = slice_table(
        LABEL, P, USER, [Slice("none", inside()), everything(6), Slice("one", inside(1))]
    )
    assert [row.name for row in table] == ["none", "all", "one"]
    assert (table[1].auc, table[1].log_loss, table[1].calibration) == (
        auc(LABEL, P),
        log_loss(LABEL, P),
        calibration(LABEL, P),
    )


def test_an_empty_slice_is_all_nan():
    (row,) = slice_table(LABEL, P, USER, [Slice("none", inside())])
    assert (row.rows, row.clicks, row.users) == (0, 0, 0)
    assert all(
        math.isnan(value)
        for value in (row.auc, row.auc_low, row.auc_high, row.log_loss, row.calibration)
    )


def test_a_slice_of_one_class_has_a_log_loss_and_no_auc():
    (row,) = slice_table(LABEL, P, USER, [Slice("quiet", inside(4, 5))])
    assert math.isnan(row.auc)
    assert math.isnan(row.calibration)
    assert row.log_loss == pytest.approx(-(math.log(0.7) + math.log(0.8)) / 2, rel=1e-6)


def test_without_draws_there_is_no_interval():
    (row,) = slice_table(LABEL, P, USER, [everything(6)], resamples=0)
    assert (math.isnan(row.auc_low), math.isnan(row.auc)) == (True, False)


def test_slices_of_other_impressions_are_refused():
    with pytest.raises(InputError, match=r"late.*6 impressions"):
        slice_table(LABEL, P, USER, [everything(6), Slice("late", np.ones(5, bool))])
