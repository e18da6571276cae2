"""Frappe in the form of the BARS benchmark (`frappe_x1`), as arrays that every library learns from.

The folder holds `train.csv.gz`, `valid.csv.gz` and `test.csv.gz`: `label` and ten fields of integer codes over one space.
Baltrunas et al.: Frappe, arXiv 1505.03014 (research use); split published by BARS (openbenchmark.github.io). Every field is
recoded to 1 … V by the distinct codes of the training rows, ascending; 0 stands for a code that they do not have.

NumPy alone at import: this file runs in every library's environment.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

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
