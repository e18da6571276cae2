"""Slices of a day's held-out impressions: new, rare and frequent ids, and values of fields.

How often an id was seen in training is the larger of two numbers: the count that the checkpoint's
table has for its key, and its occurrences in the day's rows before the held-out slice. An id is

    new        never seen, or forgotten: no count in the table, not in the day's rows before;
    rare       seen fewer than `FREQUENT` times; the table's count includes every pass;
    frequent   seen that often or more.

The held-out slice itself is not counted. An id that was evicted, or that waits in an admission
sketch, has no count in the table and is new again from the next day on, because the model knows
nothing about it. The counts are those of the baseline's table, which has one key per id, whatever
the model does with ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import tensorflow as tf
from numpy.typing import NDArray

from elastic_embeddings.storage.checkpoint import read_array, read_header
from features import keys as feature_keys
from features.errors import InputError
from features.schema import Categorical, Cross, Schema, is_pooled
from training.data.columns import dictionary_column, read_impressions
from training.data.examples import Examples
from training.data.layout import FieldLayout
from training.evaluation.metrics import Slice, everything

FREQUENT = 10
"""An id that was seen so often in training is no longer rare."""

MIN_ROWS = 100
"""Held-out impressions that a value needs for its own slice; other values of a field are joined."""

MAX_VALUES = 20
"""Most values of a field with their own slice: the most frequent ones."""


@dataclass(frozen=True)
class Slicing:
    """How a day is sliced.

    Attributes:
        partition: the day's `impressions` artifact, for the text of the values.
        schema: the fields. Those of the log's user and item are sliced by how often ids were seen.
        fields: single-valued id fields that are sliced by value.
        singles: all single-valued id fields, in the order of `Examples.keys`.
    """

    partition: Path
    schema: Schema
    fields: tuple[str, ...]
    singles: tuple[str, ...]

    @classmethod
    def of(cls, partition: Path, schema: Schema, fields: Sequence[str]) -> Self:
        """Check the fields.

        Raises:
            InputError: one is not a single-valued id field of the schema.
        """
        singles = FieldLayout.of(schema).singles
        unknown = sorted(set(fields) - set(singles))
        if unknown:
            raise InputError(
                f"training.slices names {unknown}: "
                f"give single-valued id fields of the schema, {list(singles)}"
            )
        return cls(partition, schema, tuple(fields), singles)


@dataclass(frozen=True)
class KeyCounts:
    """How often a table has seen ids: keys int64 [k], each once, and counts int64 [k]."""

    keys: NDArray[np.int64]
    counts: NDArray[np.int64]


def read_key_counts(table: Path) -> KeyCounts:
    """Return the counts of a saved table, including keys without a row.

    Raises:
        InputError: a file is missing or damaged.
    """
    header = read_header(table)
    counts = read_array(table, header, "counts").astype(np.int64)
    return KeyCounts(read_array(table, header, "keys"), counts)


def heldout_slices(
    slicing: Slicing, examples: Examples, heldout_start: int, known: KeyCounts
) -> tuple[Slice, ...]:
    """Slice the held-out impressions.

    Args:
        slicing: how.
        examples: the whole day, in the order of the partition.
        heldout_start: the first held-out impression.
        known: of the table after training on those before.
    """
    slices = [everything(len(examples) - heldout_start)]
    # 1. By count: fields of the log's item and user. An id of a multi-hash field has several keys,
    #    so those fields are left out.
    schema = slicing.schema
    fields = [f for f in schema.fields if isinstance(f, Categorical) and not is_pooled(f)]
    for source in (schema.item, schema.user):
        for name in (field.name for field in fields if field.source == source):
            keys = examples.keys[:, slicing.singles.index(name)]
            times = times_seen(keys[heldout_start:], keys[:heldout_start], known)
            slices.append(Slice(f"{name}: new", times == 0))
            slices.append(Slice(f"{name}: rare", (times > 0) & (times < FREQUENT)))
            slices.append(Slice(f"{name}: frequent", times >= FREQUENT))

    # 2. By value.
    for name in slicing.fields:
        slices += _by_value(slicing, name, examples, heldout_start)
    return tuple(slices)


def times_seen(
    heldout: NDArray[np.int64], before: NDArray[np.int64], known: KeyCounts
) -> NDArray[np.int64]:
    """Return how often each held-out key [h] was seen in training, int64 [h].

    Args:
        heldout: int64 [h], one field's keys in the held-out slice.
        before: int64 [l], its keys in the day's rows before the slice.
        known: of the table after training on those.
    """
    distinct, codes = np.unique(heldout, return_inverse=True)
    today = _sum_by_key(distinct, before, np.ones(len(before), np.int64))
    return np.maximum(today, _sum_by_key(distinct, known.keys, known.counts))[codes]


def _by_value(
    slicing: Slicing, name: str, examples: Examples, heldout_start: int
) -> Iterator[Slice]:
    keys = examples.keys[heldout_start:, slicing.singles.index(name)]
    _, first, codes, sizes = np.unique(
        keys, return_index=True, return_inverse=True, return_counts=True
    )
    # The most frequent values; of equally frequent ones those that came first.
    ranked = np.lexsort((first, -sizes))[:MAX_VALUES]
    chosen = ranked[sizes[ranked] >= MIN_ROWS]
    for code, value in zip(
        chosen, _values(slicing, name, first[chosen] + heldout_start), strict=True
    ):
        yield Slice(f"{name}: {value}", codes == code)
    if len(chosen) < len(sizes):
        yield Slice(f"{name}: other values", ~np.isin(codes, chosen))


def _sum_by_key(
    distinct: NDArray[np.int64], keys: NDArray[np.int64], counts: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the sum of counts [k] of keys [k] for each distinct key, ascending, int64 [d]."""
    # Counts of other keys are ignored: the table knows many ids that are not held out.
    # A key above all others is found behind the end, and is compared with the last one.
    at = np.minimum(np.searchsorted(distinct, keys), max(0, len(distinct) - 1))
    same = distinct[at] == keys if len(distinct) else np.zeros(len(keys), bool)
    sums = np.zeros(len(distinct), np.int64)
    # Keys repeat: `add.at` adds them all up, where `+=` would keep one of them.
    np.add.at(sums, at[same], counts[same])
    return sums


def _values(slicing: Slicing, name: str, rows: NDArray[np.int64]) -> list[str]:
    """Return the text of a field in these rows of the partition; a cross has several parts."""
    schema, field = slicing.schema, slicing.schema.field(name)
    parts = field.of if isinstance(field, Cross) else (name,)
    wanted = tuple(f for f in schema.column_fields() if f.name in parts)
    # Only the field's own columns are read: a day may be large.
    only = schema.model_copy(update={"fields": wanted})
    table = read_impressions(slicing.partition, only).take(pa.array(rows))
    texts = []
    for part in parts:
        column, part_field = dictionary_column(table, part), schema.field(part)
        assert not isinstance(part_field, Cross), "parts of a cross are columns"
        values = tf.constant(column.values[column.codes], tf.string)
        tokens = feature_keys.tokens(schema, part_field, values).numpy()
        texts.append([token.decode("utf-8", "replace") or "none" for token in tokens])
    return [" × ".join(each) for each in zip(*texts, strict=True)]
