"""The course of a run, the same for every library: epochs until validation AUC stalls, and the answers of the best one.

NumPy and scikit-learn alone: this file runs in every library's environment.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from harness.frappe_data import Frappe, Split
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score


class Trainer(Protocol):
    """A model of some library."""

    def learn_epoch(self, number: int) -> None:
        """Learn the training rows once, in an order of its own for every number."""

    def probabilities(self, split: Split) -> NDArray[np.floating]:
        """Return the click probabilities [n] of rows, without learning."""

    def stalled(self) -> None:
        """Hear that the last epoch was no improvement."""


@dataclass(frozen=True)
class Fitted:
    """A finished run.

    Attributes:
        valid_auc: after each epoch.
        seconds: of learning in each epoch; evaluation is no part of it.
        valid: probabilities float32 of the validation rows after the best epoch.
        test: of the test rows, likewise.
    """

    valid_auc: list[float]
    seconds: list[float]
    valid: NDArray[np.float32]
    test: NDArray[np.float32]

    def examples_per_s(self, rows: int) -> float:
        """Return rows learned per second in the median epoch, the first left out where there are others: it compiles."""
        return rows / float(np.median(self.seconds[1:] or self.seconds))


def fit(trainer: Trainer, data: Frappe, max_epochs: int, patience: int) -> Fitted:
    """Learn until `patience` epochs in a row bring no better validation AUC.

    The test rows are scored after each epoch that is the best so far, which is the same as reloading the best at the end.
    """
    aucs: list[float] = []
    seconds: list[float] = []
    kept = (np.zeros(0, np.float32), np.zeros(0, np.float32))
    while len(aucs) < max_epochs and len(aucs) - _best(aucs) <= patience:
        started = time.perf_counter()
        trainer.learn_epoch(len(aucs))
        seconds.append(time.perf_counter() - started)
        valid = trainer.probabilities(data.valid)
        aucs.append(float(roc_auc_score(data.valid.label, valid)))
        if _best(aucs) == len(aucs) - 1:
            kept = (valid.astype(np.float32), trainer.probabilities(data.test).astype(np.float32))
        else:
            trainer.stalled()
    return Fitted(aucs, seconds, *kept)


def shuffled(rows: int, batch: int, seed: tuple[int, ...]) -> Iterator[NDArray[np.int64]]:
    """Yield the row numbers of an epoch's batches, int64 [batch], the last one shorter."""
    order = np.random.default_rng(seed).permutation(rows)
    for start in range(0, rows, batch):
        yield order[start : start + batch]


def _best(aucs: list[float]) -> int:
    """Return the epoch of the highest AUC, the first of equals; 0 before any."""
    return int(np.argmax(aucs)) if aucs else 0
