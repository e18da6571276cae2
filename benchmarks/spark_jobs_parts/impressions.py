"""Simulated `impressions` artifacts, written as fast as NumPy and Arrow can: what is timed starts behind them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.schema import (
    Categorical,
    Cross,
    MultiValued,
    Numeric,
    Relation,
    Schema,
    Time,
    Timestamp,
)

SCHEMA = Schema(
    label="click",
    user="user_id",
    item="item_id",
    timestamp=Timestamp(column="timestamp_ms"),
    fields=(
        *(
            Categorical(name=name)
            for name in (
                "user_id",
                "item_id",
                "category_id",
                "advertiser_id",
                "country",
                "slot",
                "device",
            )
        ),
        MultiValued(name="user_tags"),
        Time(name="hour"),
        Numeric(name="price", transform="log"),
        Cross(name="slot_category", of=("slot", "category_id")),
    ),
)
RELATIONS = "item_id__country,user_tags__category_id,slot_category__advertiser_id"
"""What users declare: groups of users or places against items and their groups. `user_id__category_id` is harder: nearly as many
edges as impressions."""

HUB = "hub"
"""A value of `device` that every row of `hub_day` has."""

_VALUES = {
    "user_id": 2_000_000,
    "item_id": 100_000,
    "category_id": 60,
    "advertiser_id": 2_000,
    "country": 50,
    "slot": 6,
    "device": 5,
}
_TAGS, _MOST_TAGS, _PRICES = 200, 3, 900
_ROWS_PER_FILE = 1_000_000
_DAY_MS = 86_400_000
_SKEW = 2.5


def write_day(folder: Path, day: date, rows: int, *, hub: bool = False) -> Path:
    """Write `impressions/part-*.parquet` of `rows` simulated impressions into a new folder, and return the folder.

    A value's frequency falls with its rank to the power 1 / 2.5 - 1. With `hub` every row has the same `device`.
    """
    target = folder / "impressions"
    target.mkdir(parents=True)
    words = {
        name: pa.array([f"{name[0]}{i}" for i in range(size)]) for name, size in _VALUES.items()
    }
    for number, start in enumerate(range(0, rows, _ROWS_PER_FILE)):
        part = _Part(day, start, min(_ROWS_PER_FILE, rows - start), rows)
        columns = dict(part.columns(words))
        if hub:
            columns["device"] = pa.repeat(HUB, part.count).cast(pa.string())
        pq.write_table(pa.table(columns), target / f"part-{number:05d}.parquet")
    return folder


def relations(names: str) -> tuple[Relation, ...]:
    """Return the relations of comma-separated `left__right`."""
    return tuple(
        Relation(left=left, right=right)
        for left, right in (name.split("__") for name in names.split(","))
    )


class _Part:
    """One file: rows `start` to `start + count` of a day of `rows`."""

    def __init__(self, day: date, start: int, count: int, rows: int) -> None:
        self._dice = np.random.default_rng([day.toordinal(), start])
        midnight = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)
        self._stamps = midnight + (np.arange(start, start + count) * (_DAY_MS / rows)).astype(
            np.int64
        )
        self.count = count

    def columns(self, words: dict[str, pa.Array]) -> Iterator[tuple[str, pa.Array]]:
        """Yield the columns of an `impressions` artifact by name."""
        codes = {name: self._skewed(size) for name, size in _VALUES.items()}
        codes["category_id"] = (codes["item_id"] * 7 % _VALUES["category_id"]).astype(np.int32)
        codes["advertiser_id"] = (codes["item_id"] * 13 % _VALUES["advertiser_id"]).astype(np.int32)
        ids = {
            name: pa.DictionaryArray.from_arrays(pa.array(codes[name]), words[name]).cast(
                pa.string()
            )
            for name in _VALUES
        }
        chance = (
            0.02
            + 0.1 * ((codes["user_id"] + codes["category_id"]) % 11 == 0)
            + 0.05 * (codes["item_id"] % 5 == 0)
        )
        yield "record_id", pa.array(self._dice.integers(-(2**63), 2**63 - 1, self.count))
        yield "label", pa.array((self._dice.random(self.count) < chance).astype(np.int8))
        yield "timestamp_ms", pa.array(self._stamps)
        yield "user", ids["user_id"]
        yield "item", ids["item_id"]
        yield from ids.items()
        yield "user_tags", self._tags(codes["user_id"])
        yield "hour", pa.array(self._stamps).cast(pa.string())
        yield "price", self._prices(codes["item_id"])

    def _skewed(self, size: int) -> NDArray[np.int32]:
        return (size * self._dice.random(self.count) ** _SKEW).astype(np.int32)

    def _tags(self, users: NDArray[np.int32]) -> pa.Array:
        """Up to three tags that a user always has; a fifth of the users have none."""
        sizes = np.where(users % 5 == 0, 0, 1 + users % _MOST_TAGS)
        ends = np.cumsum(sizes)
        within = np.arange(ends[-1]) - np.repeat(ends - sizes, sizes)
        tags = (np.repeat(users.astype(np.int64), sizes) * 31 + within * 17) % _TAGS
        words = pa.DictionaryArray.from_arrays(
            pa.array(tags.astype(np.int32)), pa.array([f"t{i}" for i in range(_TAGS)])
        )
        return pa.ListArray.from_arrays(
            pa.array(np.append(0, ends).astype(np.int32)), words.cast(pa.string())
        )

    def _prices(self, items: NDArray[np.int32]) -> pa.Array:
        """A price of the item's; one in thirty is null."""
        words = pa.array(["", *(f"{0.5 + i / 4:g}" for i in range(_PRICES))])
        codes = np.where(self._dice.random(self.count) < 1 / 30, 0, 1 + items % _PRICES).astype(
            np.int32
        )
        return pa.DictionaryArray.from_arrays(pa.array(codes), words).cast(pa.string())
