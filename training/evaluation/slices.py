"""Which slices of a day's held-out impressions are looked at: ids new to training, rare ones, and values of fields.

How often an id was seen in training is the larger of two numbers: the count that the checkpoint's table keeps for its key, and
its occurrences in the day's rows before the held-out slice. An id is

    new        never seen, or forgotten since: no count in the table, not in the day's rows before;
    rare       seen fewer than `FREQUENT` times; in the table's count every pass counts;
    frequent   seen that often or more.

The held-out slice itself counts nowhere. An id that was evicted, or that waits in an admission sketch, has no count in the
table and is new again from the next day on: the model has nothing of it. The table asked is the baseline's, which keeps ids
as they are, whatever the model makes of them.
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
from training.data.columns import coded, read_impressions
from training.data.examples import Examples
from training.data.layout import Layout
from training.evaluation.metrics import Slice, everything

FREQUENT = 10
"""An id that was seen so often in training is no longer rare."""

MIN_ROWS = 100
"""Held-out impressions that a value needs for a slice of its own; the others of its field are joined."""

MAX_VALUES = 20
"""Slices of their own a field may have: its most frequent values."""


@dataclass(frozen=True)
class Slicing:
    """How a day is sliced.

    Attributes:
        partition: the day's `impressions` artifact, which spells the values.
        schema: the fields; those that read the log's user and item are sliced by how well their ids are known.
        fields: single-valued id fields that are sliced by value.
    """

    partition: Path
    schema: Schema
    fields: tuple[str, ...] = ()

    @classmethod
    def of(cls, partition: Path, schema: Schema, fields: Sequence[str]) -> Self:
        """Check the fields.

        Raises:
            InputError: one is not a single-valued id field of the schema.
        """
        known = Layout.of(schema).singles
        unknown = sorted(set(fields) - set(known))
        if unknown:
            raise InputError(
                f"training.slices names {unknown}: give single-valued id fields of the schema, {list(known)}"
            )
        return cls(partition, schema, tuple(fields))


@dataclass(frozen=True)
class Counts:
    """How often a table met ids: keys int64 [k], each once, and counts int64 [k]."""

    keys: NDArray[np.int64]
    counts: NDArray[np.int64]


def read_counts(table: Path) -> Counts:
    """Return what a saved table counted, keys without a row included.

    Raises:
        InputError: a file is missing or damaged.
    """
    header = read_header(table)
    return Counts(
        read_array(table, header, "keys"), read_array(table, header, "counts").astype(np.int64)
    )


def heldout_slices(
    slicing: Slicing, examples: Examples, learned: int, known: Counts
) -> tuple[Slice, ...]:
    """Slice the impressions from `learned` on.

    Args:
        slicing: how.
        examples: the whole day, in the order of the partition.
        learned: how many of them were learned.
        known: of the table after learning them.
    """
    by_count = [
        part
        for name in _identities(slicing.schema)
        for part in _by_count(slicing, name, examples, learned, known)
    ]
    by_value = [
        part for name in slicing.fields for part in _by_value(slicing, name, examples, learned)
    ]
    return (everything(len(examples) - learned), *by_count, *by_value)


def times_seen(
    heldout: NDArray[np.int64], before: NDArray[np.int64], known: Counts
) -> NDArray[np.int64]:
    """Return how often each held-out key [h] was seen in training, int64 [h].

    Args:
        heldout: int64 [h], one field's keys in the held-out slice.
        before: int64 [l], its keys in the day's rows before the slice.
        known: of the table after learning those.
    """
    distinct, codes = np.unique(heldout, return_inverse=True)
    today = _sums(distinct, before, np.ones(len(before), np.int64))
    return np.maximum(today, _sums(distinct, known.keys, known.counts))[codes]


def _identities(schema: Schema) -> tuple[str, ...]:
    """Fields of the log's item and user; multi-hash ones are left out, as their ids have several keys."""
    fields = [f for f in schema.fields if isinstance(f, Categorical) and not is_pooled(f)]
    return tuple(
        f.name for column in (schema.item, schema.user) for f in fields if f.source == column
    )


def _by_count(
    slicing: Slicing, name: str, examples: Examples, learned: int, known: Counts
) -> Iterator[Slice]:
    keys = _keys(slicing, name, examples)
    times = times_seen(keys[learned:], keys[:learned], known)
    yield Slice(f"{name}: new", times == 0)
    yield Slice(f"{name}: rare", (times > 0) & (times < FREQUENT))
    yield Slice(f"{name}: frequent", times >= FREQUENT)


def _by_value(slicing: Slicing, name: str, examples: Examples, learned: int) -> Iterator[Slice]:
    keys = _keys(slicing, name, examples)[learned:]
    _, first, codes, sizes = np.unique(
        keys, return_index=True, return_inverse=True, return_counts=True
    )
    ranked = np.lexsort((first, -sizes))[:MAX_VALUES]
    chosen = ranked[sizes[ranked] >= MIN_ROWS]
    for code, word in zip(chosen, _words(slicing, name, first[chosen] + learned), strict=True):
        yield Slice(f"{name}: {word}", codes == code)
    if len(chosen) < len(sizes):
        yield Slice(f"{name}: other values", ~np.isin(codes, chosen))


def _keys(slicing: Slicing, name: str, examples: Examples) -> NDArray[np.int64]:
    return examples.keys[:, Layout.of(slicing.schema).singles.index(name)]


def _sums(
    distinct: NDArray[np.int64], keys: NDArray[np.int64], counts: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the sum of the counts [k] of the keys [k] by distinct key, ascending, int64 [d]."""
    at = np.minimum(np.searchsorted(distinct, keys), max(0, len(distinct) - 1))
    same = distinct[at] == keys if len(distinct) else np.zeros(len(keys), bool)
    sums = np.zeros(len(distinct), np.int64)
    np.add.at(sums, at[same], counts[same])
    return sums


def _words(slicing: Slicing, name: str, rows: NDArray[np.int64]) -> list[str]:
    """Spell a field's token in these rows of the partition, of a cross part by part."""
    field = slicing.schema.field(name)
    parts = field.of if isinstance(field, Cross) else (name,)
    wanted = tuple(f for f in slicing.schema.column_fields() if f.name in parts)
    table = read_impressions(
        slicing.partition, slicing.schema.model_copy(update={"fields": wanted})
    ).take(pa.array(rows))
    spelled = [_tokens(slicing.schema, part, table) for part in parts]
    return [" × ".join(words) for words in zip(*spelled, strict=True)]


def _tokens(schema: Schema, name: str, table: pa.Table) -> list[str]:
    column, field = coded(table, name), schema.field(name)
    assert not isinstance(field, Cross), "parts of a cross are columns"
    tokens = feature_keys.tokens(
        schema, field, tf.constant(column.values[column.codes], tf.string)
    ).numpy()
    return [token.decode("utf-8", "replace") or "none" for token in tokens]
