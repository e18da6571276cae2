"""A day's impressions as NumPy arrays: keys, numbers and labels, ascending by time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import tensorflow as tf
from numpy.typing import NDArray

from elastic_embeddings.core.ragged import Ragged
from features import keys as feature_keys
from features.canonical import NULL
from features.errors import InputError, NoDataError
from features.schema import (
    ColumnField,
    Cross,
    KeyField,
    MultiValued,
    Relation,
    Schema,
    vocabulary_of,
)
from training.data.columns import (
    AbsentFields,
    DictionaryColumn,
    dictionary_column,
    dictionary_list_column,
    distinct_pairs,
    read_impressions,
)
from training.data.layout import FieldLayout
from training.models.multi_hash.keys import field_keys


@dataclass(frozen=True)
class Examples:
    """Impressions, one per row of every array, ascending by time.

    Attributes:
        keys: int64 [n, S], keys of the single-valued id fields in the order of
            `FieldLayout.singles`.
        lists: the keys of each pooled field, in the order of `FieldLayout.lists`.
        numbers: float64 [n, D], transformed but not standardised, in the order of
            `FieldLayout.dense`.
        present: bool [n, D], whether a number could be read.
        pairs: int64 [n, R, 2], node keys of each relation's left and right field.
        label: float32 [n], 0 or 1.
        user: int64 [n], codes into `users`.
        users: the distinct users, as in the log.
        record_id: int64 [n].
        timestamp_ms: int64 [n].
        weight: float64 [n] ≥ 0, the log's sample weights; None if none were requested.
    """

    keys: NDArray[np.int64]
    lists: tuple[Ragged, ...]
    numbers: NDArray[np.float64]
    present: NDArray[np.bool_]
    pairs: NDArray[np.int64]
    label: NDArray[np.float32]
    user: NDArray[np.int64]
    users: NDArray[np.object_]
    record_id: NDArray[np.int64]
    timestamp_ms: NDArray[np.int64]
    weight: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.label)

    def slice(self, start: int, stop: int) -> Self:
        """Return the impressions from `start` (included) to `stop` (excluded), as views."""
        return type(self)(
            keys=self.keys[start:stop],
            lists=tuple(values.slice(start, stop) for values in self.lists),
            numbers=self.numbers[start:stop],
            present=self.present[start:stop],
            pairs=self.pairs[start:stop],
            label=self.label[start:stop],
            user=self.user[start:stop],
            users=self.users,
            record_id=self.record_id[start:stop],
            timestamp_ms=self.timestamp_ms[start:stop],
            weight=None if self.weight is None else self.weight[start:stop],
        )


def read_examples(
    folder: Path,
    schema: Schema,
    relations: Sequence[Relation] = (),
    absent: AbsentFields = AbsentFields.REFUSE,
    weight: str | None = None,
) -> Examples:
    """Read an `impressions` artifact.

    Args:
        folder: the artifact (see docs/architecture.md).
        schema: the fields to read.
        relations: pairs of fields whose node keys are wanted.
        absent: what to do about a field that the partition has no column for.
        weight: name of the extra column with the sample weights. If `absent` is `NULL` and the
            column is missing, there are no weights.

    Raises:
        InputError: a file or column is missing or damaged, a label is not 0 or 1, a weight is
            negative or no finite number, or the rows are not in the order of time.
        NoDataError: the artifact holds no impression.
    """
    extras = [weight] if weight else ()
    table = read_impressions(folder, schema, absent, extras)
    return examples_of(table, folder, schema, relations, weight)


def examples_of(
    table: pa.Table,
    where: Path,
    schema: Schema,
    relations: Sequence[Relation] = (),
    weight: str | None = None,
) -> Examples:
    """Return the examples of a table in memory that has the columns of an `impressions` artifact.

    Arguments and errors are those of `read_examples`; `where` names the table in errors.
    """
    layout, rows = FieldLayout.of(schema, relations), table.num_rows
    if not rows:
        raise NoDataError(f"{where}: no impressions to train on; ingest a day that has some")

    # 1. Tokens of all single-valued id fields. A distinct value is converted once, a cross once
    #    per distinct combination of its fields' values.
    tokens = {
        field.name: _tokens(schema, field, dictionary_column(table, field.name))
        for field in schema.column_fields()
        if field.name in layout.keyed and not isinstance(field, MultiValued)
    }
    for cross in (field for field in schema.fields if isinstance(field, Cross)):
        # Joining is associative, so pair by pair gives the same text as all parts at once.
        tokens[cross.name] = reduce(_join, [tokens[part] for part in cross.of])

    # 2. Keys of the fields. Node keys of relations are salted by the field, not by its
    #    vocabulary: the two sides of a relation are different nodes.
    keys = [_keys(vocabulary_of(schema.field(name)), tokens[name]) for name in layout.singles]
    lists = [_list_keys(schema, schema.field(name), table, tokens) for name in layout.lists]
    pairs = [
        np.stack([_keys(name, tokens[name]) for name in (r.left, r.right)], axis=1)
        for r in relations
    ]

    # 3. Numbers, also read once per distinct value.
    numbers, present = [], []
    for dense in schema.dense_fields():
        column = dictionary_column(table, dense.name)
        values, readable = feature_keys.numbers(dense, _strings(column.values))
        numbers.append(values.numpy()[column.codes])
        present.append(readable.numpy()[column.codes])

    user = dictionary_column(table, "user")
    return Examples(
        keys=_stacked(keys, (rows, 0), np.int64),
        lists=tuple(lists),
        numbers=_stacked(numbers, (rows, 0), np.float64),
        present=_stacked(present, (rows, 0), np.bool_),
        pairs=_stacked(pairs, (rows, 0, 2), np.int64),
        label=_labels(table, where),
        user=user.codes,
        users=user.values,
        record_id=table["record_id"].to_numpy(),
        timestamp_ms=_timestamps(table, where),
        weight=_weights(table, weight, where) if weight and weight in table.column_names else None,
    )


def heldout_start(rows: int, fraction: float) -> int:
    """Return the first row of the held-out slice: the last `fraction` by time, at least one row."""
    return rows - max(1, min(rows, round(rows * fraction)))


def batches(
    rows: int, batch_size: int, shuffle_block: int, seed: Sequence[int]
) -> Iterator[NDArray[np.int64]]:
    """Yield the row numbers of each batch, int64 [batch_size]; the last one may be shorter.

    Rows are shuffled inside blocks of `shuffle_block`; the blocks stay in the order of time.
    """
    # Shuffling breaks up runs of similar impressions. Blocks bound how far a row moves in time.
    draw = np.random.default_rng(seed)
    starts = range(0, rows, shuffle_block)
    order = [start + draw.permutation(min(shuffle_block, rows - start)) for start in starts]
    permutation = np.concatenate([np.zeros(0, np.int64), *order]).astype(np.int64)
    for start in range(0, rows, batch_size):
        yield permutation[start : start + batch_size]


def _tokens(schema: Schema, field: ColumnField, column: DictionaryColumn) -> DictionaryColumn:
    tokens = feature_keys.tokens(schema, field, _strings(column.values))
    return DictionaryColumn(column.codes, tokens.numpy())


def _join(left: DictionaryColumn, right: DictionaryColumn) -> DictionaryColumn:
    """Return the tokens of the cross of two columns of tokens."""
    codes, lefts, rights = distinct_pairs(left.codes, right.codes)
    joined = feature_keys.cross_tokens(
        [tf.constant(left.values[lefts], tf.string), tf.constant(right.values[rights], tf.string)]
    )
    return DictionaryColumn(codes, joined.numpy())


def _keys(vocabulary: str, tokens: DictionaryColumn) -> NDArray[np.int64]:
    distinct: NDArray[np.int64] = feature_keys.keys(vocabulary, _strings(tokens.values)).numpy()
    return distinct[tokens.codes]


def _list_keys(
    schema: Schema, field: KeyField, table: pa.Table, tokens: dict[str, DictionaryColumn]
) -> Ragged:
    """Return the keys of a pooled field's rows: of a list's elements, or of a multi-hash id."""
    if isinstance(field, MultiValued):
        column = dictionary_list_column(table, field.name)
        elements = _tokens(schema, field, column.elements)
        # A null or empty element is padding, as in the exported model.
        kept = (elements.values != NULL.encode())[elements.codes]
        return Ragged(_keys(vocabulary_of(field), elements), column.offsets).keep(kept)
    ids = tokens[field.name]
    distinct = feature_keys.keys(vocabulary_of(field), _strings(ids.values)).numpy()
    derived = field_keys(distinct, field)[ids.codes]
    offsets = np.arange(len(derived) + 1, dtype=np.int64) * derived.shape[1]
    return Ragged(derived.reshape(-1), offsets)


def _stacked(columns: Sequence[NDArray[Any]], empty: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Stack columns [n, ...] on axis 1; no columns give an array of the shape `empty`."""
    return np.stack(columns, axis=1) if columns else np.zeros(empty, dtype)


def _labels(table: pa.Table, where: Path) -> NDArray[np.float32]:
    label = table["label"].to_numpy().astype(np.float32)
    wrong = np.flatnonzero(~np.isin(label, (0.0, 1.0)))
    if len(wrong):
        raise InputError(
            f"{where}: label of row {wrong[0]} is {label[wrong[0]]}, not 0 or 1 ({len(wrong)} such "
            "rows); run `ingest` again"
        )
    return label


def _weights(table: pa.Table, name: str, where: Path) -> NDArray[np.float64]:
    # The log may store numbers as text.
    weights = pd.to_numeric(table[name].to_pandas(), errors="coerce").to_numpy(np.float64)
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(wrong):
        value = table[name][int(wrong[0])].as_py()
        raise InputError(
            f"{where}: {name} of row {wrong[0]} is {value!r}, no finite weight ≥ 0 ({len(wrong)} "
            "such rows); correct the log, or remove `weight` from `training`"
        )
    return weights


def _timestamps(table: pa.Table, where: Path) -> NDArray[np.int64]:
    stamps: NDArray[np.int64] = table["timestamp_ms"].to_numpy()
    backwards = np.flatnonzero(np.diff(stamps) < 0)
    if len(backwards):
        # The held-out slice is the last rows, which must be the latest ones.
        raise InputError(
            f"{where}: row {backwards[0] + 1} is earlier than the row before it, so the held-out "
            "slice is not the last by time; run `ingest` again"
        )
    return stamps


def _strings(values: NDArray[np.object_]) -> tf.Tensor:
    # tf.constant cannot convert an empty object array to strings.
    return tf.constant(values, tf.string) if len(values) else tf.zeros([0], tf.string)
