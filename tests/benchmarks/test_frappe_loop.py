"""Early stopping by validation AUC; the answers kept are those of the best epoch; evaluation is not
timed.
"""

import time

import numpy as np
import pytest
from harness.frappe_data import Fitted, Frappe, Split, fit, shuffled

LABEL = np.array([0, 0, 1, 1], np.float32)
RANKINGS = {
    0.5: [0.1, 0.9, 0.2, 0.8],
    0.75: [0.1, 0.5, 0.3, 0.9],
    1.0: [0.1, 0.2, 0.8, 0.9],
    0.25: [0.3, 0.9, 0.1, 0.5],
}


class Scripted:
    """A trainer whose validation AUC after each epoch is given, and whose test answers are the
    number of the epoch.
    """

    def __init__(self, aucs: list[float]) -> None:
        self.aucs, self.epochs, self.stalls = aucs, 0, []

    def learn_epoch(self, number: int) -> None:
        assert number == self.epochs
        self.epochs += 1

    def probabilities(self, split: Split) -> np.ndarray:
        if len(split) == 1:
            return np.array([self.epochs / 100])
        time.sleep(0.02)
        return np.array(RANKINGS[self.aucs[self.epochs - 1]])

    def stalled(self) -> None:
        self.stalls.append(self.epochs)


def data() -> Frappe:
    four, one = (
        Split(np.zeros((4, 10), np.int32), LABEL),
        Split(np.zeros((1, 10), np.int32), LABEL[:1]),
    )
    return Frappe(four, four, one, (1,) * 10)


def test_it_stops_after_the_patience_and_keeps_the_answers_of_the_best_epoch():
    trainer = Scripted([0.5, 1.0, 0.75, 0.75, 1.0])
    fitted = fit(trainer, data(), max_epochs=50, patience=2)
    assert fitted.valid_auc == [0.5, 1.0, 0.75, 0.75]
    assert fitted.test == pytest.approx([0.02])
    np.testing.assert_allclose(fitted.valid, RANKINGS[1.0], rtol=1e-6)
    assert trainer.stalls == [3, 4]


def test_an_improvement_after_a_stall_gives_new_patience():
    trainer = Scripted([0.5, 0.25, 0.75, 0.5, 1.0])
    fitted = fit(trainer, data(), max_epochs=5, patience=2)
    assert len(fitted.valid_auc) == 5
    assert fitted.test == pytest.approx([0.05])
    assert trainer.stalls == [2, 4]


def test_an_equal_auc_is_no_improvement():
    trainer = Scripted([0.75, 0.75, 0.75])
    assert fit(trainer, data(), max_epochs=50, patience=2).test == pytest.approx([0.01])


def test_the_most_epochs_end_it():
    assert Scripted([0.5, 0.75, 1.0]).epochs == 0
    assert fit(Scripted([0.5, 0.75, 1.0]), data(), max_epochs=2, patience=2).valid_auc == [
        0.5,
        0.75,
    ]


def test_speed_is_of_the_median_epoch_after_the_first_and_evaluation_is_left_out():
    fitted = Fitted([0.5] * 4, [60.0, 2.0, 4.0, 3.0], np.zeros(1), np.zeros(1))
    assert fitted.examples_per_s(600) == pytest.approx(200)
    assert Fitted([0.5], [2.0], np.zeros(1), np.zeros(1)).examples_per_s(600) == pytest.approx(300)
    assert max(fit(Scripted([0.5, 1.0]), data(), max_epochs=2, patience=2).seconds) < 0.02


def test_an_epoch_has_every_row_once_in_an_order_of_its_seed():
    first, second = (list(shuffled(10, 4, (3, epoch))) for epoch in (0, 1))
    assert [len(rows) for rows in first] == [4, 4, 2]
    assert sorted(np.concatenate(first)) == list(range(10))
    assert not np.array_equal(np.concatenate(first), np.concatenate(second))
    np.testing.assert_array_equal(
        np.concatenate(first), np.concatenate(list(shuffled(10, 4, (3, 0))))
    )
