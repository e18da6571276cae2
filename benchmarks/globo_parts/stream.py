"""The days that every arm takes in turn: what its models read of each impression, its hour, and how well its article is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.core.hashing import mix64
from features.schema import Categorical, Cross, Schema, Time, TimePart, Timestamp
from training.data.examples import read_examples
from training.data.inputs import Featurizer, Inputs
from training.data.layout import FieldLayout
from training.evaluation.slices import FREQUENT
from training.fit.score_then_train import local_hours


@dataclass(frozen=True)
class Day:
    """A day's impressions in the order of time.

    Attributes:
        date: the day.
        inputs: of all id fields of the schema.
        item: int64 [n], the article's key.
        hour: int64 [n], local hour of the day.
        times_before: int64 [n], in how many impressions of the days before its article was; 0: first seen this day.
    """

    date: date
    inputs: Inputs
    item: NDArray[np.int64]
    hour: NDArray[np.int64]
    times_before: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.hour)

    @property
    def new(self) -> NDArray[np.bool_]:
        """Where the article is first seen this day."""
        return self.times_before == 0

    @property
    def rare(self) -> NDArray[np.bool_]:
        """Where the article was seen before, but fewer than `FREQUENT` times."""
        return (self.times_before > 0) & (self.times_before < FREQUENT)


class Known:
    """How often each item was in an impression so far."""

    def __init__(self) -> None:
        self._items = np.zeros(0, np.int64)
        self._times = np.zeros(0, np.int64)

    def times(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how often each of the items int64 [n] was there, int64 [n]."""
        if not len(self._items):
            return np.zeros(len(items), np.int64)
        at = np.minimum(np.searchsorted(self._items, items), len(self._items) - 1)
        return np.where(self._items[at] == items, self._times[at], 0)

    def add(self, items: NDArray[np.int64]) -> None:
        """Count the items of impressions, int64 [n]."""
        new, inverse = np.unique(np.concatenate([self._items, items]), return_inverse=True)
        counts = np.concatenate([self._times, np.ones(len(items), np.int64)])
        self._items, self._times = (
            new,
            np.bincount(inverse, weights=counts, minlength=len(new)).astype(np.int64),
        )


def read_day(folder: Path, schema: Schema, day: date, known: Known, share: float = 1.0) -> Day:
    """Read an `impressions` artifact.

    Args:
        folder: the artifact.
        schema: the fields.
        day: its day.
        known: asked for the days before, and told of this one.
        share: of the users whose impressions are kept, the same ones every day.

    Raises:
        InputError: the artifact is damaged.
    """
    examples = read_examples(folder, schema)
    inputs = Featurizer(schema, (), {}, {}).inputs(examples)
    chosen = np.flatnonzero(within_share(_of_field(inputs, schema, schema.user), share))
    hours = local_hours(examples.timestamp_ms, schema.timezone)
    return _day(day, inputs.take(chosen), schema, hours[chosen], known)


def within_share(keys: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """Return bool [n]: whether a key int64 [n] is of the share of all keys, drawn by its hash, that is kept."""
    return (mix64(keys.view(np.uint64)) >> np.uint64(11)) < np.uint64(share * 2**53)


def drawn(count: int, schema: Schema, rows: int = 2400, seed: int = 0) -> Iterator[Day]:
    """Yield small drawn days, to try the benchmark without the data: articles come and go, and some are clicked more."""
    rng, known, names = np.random.default_rng(seed), Known(), FieldLayout.of(schema).singles
    for number in range(count):
        codes = rng.integers(0, 40, (rows, len(names)))
        codes[:, names.index(schema.item)] += 20 * number
        liked = mix64(codes[:, names.index(schema.item)].astype(np.uint64)) % np.uint64(3) == 0
        label = (rng.random(rows) < np.where(liked, 0.6, 0.1)).astype(np.float32)
        keys = mix64((codes + 1000 * np.arange(len(names))).astype(np.uint64)).view(np.int64)
        nothing = np.zeros((rows, 0), np.float32)
        inputs = Inputs(keys=keys, lists=(), dense=nothing, cross=nothing, label=label)
        yield _day(
            date(2017, 10, 2) + timedelta(days=number),
            inputs,
            schema,
            np.arange(rows) * 24 // rows,
            known,
        )


def drawn_schema() -> Schema:
    """Return the schema of `drawn` days: some of Globo's fields and one of its crosses."""
    names = (
        "user_id",
        "click_article_id",
        "click_region",
        "click_referrer_type",
        "click_deviceGroup",
    )
    fields = (
        *(Categorical(name=name) for name in names),
        Time(name="hour", part=TimePart.HOUR_OF_DAY),
    )
    cross = Cross(name="article_region", of=("click_article_id", "click_region"))
    stamp = Timestamp(column="click_timestamp")
    return Schema(
        label="clicked", user=names[0], item=names[1], timestamp=stamp, fields=(*fields, cross)
    )


def columns(inputs: Inputs, whole: Schema, part: Schema) -> Inputs:
    """Return the inputs of a schema that has only some of the whole one's single-valued id fields."""
    places = [FieldLayout.of(whole).singles.index(name) for name in FieldLayout.of(part).singles]
    return replace(inputs, keys=np.ascontiguousarray(inputs.keys[:, places]))


def _day(day: date, inputs: Inputs, schema: Schema, hour: NDArray[np.int64], known: Known) -> Day:
    item = _of_field(inputs, schema, schema.item)
    times_before = known.times(item)
    known.add(item)
    return Day(day, inputs, item, hour, times_before)


def _of_field(inputs: Inputs, schema: Schema, column: str) -> NDArray[np.int64]:
    """The keys int64 [n] of the field that reads a column of the log."""
    name = next(
        field.name for field in schema.column_fields() if schema.source_column(field) == column
    )
    return np.ascontiguousarray(inputs.keys[:, FieldLayout.of(schema).singles.index(name)])
