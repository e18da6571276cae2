"""Frappe in the form of the BARS benchmark (`frappe_x1`), and epochs of training on it.

The folder holds `train.csv.gz`, `valid.csv.gz` and `test.csv.gz`: `label` and ten fields of
integer codes over one space. Baltrunas et al.: Frappe, arXiv 1505.03014 (research use); split
published by BARS (openbenchmark.github.io). Every field is recoded to 1 … V by the distinct codes
of the training rows, ascending; 0 stands for a code that they do not have.

Imports NumPy and scikit-learn only: this file runs in every library's environment.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

FIELDS = (
    "user",
    "item",
    "daytime",
    "weekday",
    "isweekend",
    "homework",
    "cost",
    "weather",
    "country",
    "city",
)
SPLITS = ("train", "valid", "test")
UNKNOWN = 0
FOLDER = (
    Path(
        os.environ.get("ELASTIC_CTR_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")
    )
    / "frappe_x1"
)


@dataclass(frozen=True)
class Split:
    """Rows: codes int32 [n, 10], recoded by field, and labels float32 [n]."""

    codes: NDArray[np.int32]
    label: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True)
class Frappe:
    """The three splits and, by field, how many codes the training rows have."""

    train: Split
    valid: Split
    test: Split
    sizes: tuple[int, ...]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the published layout.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file has other columns.
        """
        raw = {name: _read(folder / f"{name}.csv.gz") for name in SPLITS}
        known = [np.unique(column) for column in raw["train"][:, 1:].T]
        splits = {
            name: Split(_recoded(rows[:, 1:], known), rows[:, 0].astype(np.float32))
            for name, rows in raw.items()
        }
        return cls(**splits, sizes=tuple(len(codes) for codes in known))

    def write(self, path: Path) -> None:
        """Write an `.npz` for the other libraries' processes."""
        arrays = {
            f"{name}_{part}": getattr(getattr(self, name), part)
            for name in SPLITS
            for part in ("codes", "label")
        }
        np.savez(path, sizes=np.array(self.sizes), **arrays)

    def digest(self) -> str:
        """Return a digest of all rows."""
        content = hashlib.sha256()
        for name in SPLITS:
            split: Split = getattr(self, name)
            content.update(split.codes.tobytes() + split.label.tobytes())
        return content.hexdigest()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `write` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            splits = {
                name: Split(arrays[f"{name}_codes"], arrays[f"{name}_label"]) for name in SPLITS
            }
            return cls(**splits, sizes=tuple(arrays["sizes"].tolist()))


def _read(path: Path) -> NDArray[np.int32]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        header = tuple(lines.readline().strip().split(","))
        if header != ("label", *FIELDS):
            raise ValueError(
                f"{path}: the columns are {header}, not label and {FIELDS}; give a folder of frappe_x1"
            )
        return np.loadtxt(lines, np.int32, delimiter=",", ndmin=2)


def _recoded(columns: NDArray[np.int32], known: list[NDArray[np.int32]]) -> NDArray[np.int32]:
    recoded = np.zeros(columns.shape, np.int32)
    for field, codes in enumerate(known):
        found = np.minimum(np.searchsorted(codes, columns[:, field]), len(codes) - 1)
        recoded[:, field] = np.where(codes[found] == columns[:, field], found + 1, UNKNOWN)
    return recoded


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
        """Return rows learned per second in the median epoch, the first left out where there are
        others: it compiles.
        """
        return rows / float(np.median(self.seconds[1:] or self.seconds))


def fit(trainer: Trainer, data: Frappe, max_epochs: int, patience: int) -> Fitted:
    """Learn until `patience` epochs in a row bring no better validation AUC.

    The test rows are scored after each epoch that is the best so far, which is the same as
    reloading the best at the end.
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
