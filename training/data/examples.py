"""A day's impressions as NumPy arrays: keys, numbers and labels, in the order of time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Self

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
    Categorical,
    Cross,
    MultiValued,
    Numeric,
    Relation,
    Schema,
    Time,
    vocabulary_of,
)
from training.data.columns import (
    AbsentFields,
    Coded,
    coded,
    coded_list,
    distinct_pairs,
    read_impressions,
)
from training.data.layout import Layout
from training.models.multi_hash.field_keys import field_keys

Single = Categorical | Numeric | Time


@dataclass(frozen=True)
class Examples:
    """Impressions, one per row of every array, ascending by time.

    Attributes:
        keys: int64 [n, S], of the single-valued id fields in the order of `Layout.singles`.
        lists: the keys of each multi-valued field, in the order of `Layout.lists`.
        numbers: float64 [n, D], transformed but not standardised, in the order of `Layout.dense`.
        present: bool [n, D], whether a number could be read.
        pairs: int64 [n, R, 2], node keys of each relation's left and right field.
        label: float32 [n], 0 or 1.
        user: int64 [n], codes into `users`.
        users: the distinct users, as the log spells them.
        record_id: int64 [n].
        timestamp_ms: int64 [n].
        weight: float64 [n] ≥ 0, as the log has it, or None where none was asked for.
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

    Each distinct value is hashed once with `features.keys`; a cross once per distinct combination.

    Args:
        folder: the artifact (see docs/architecture.md).
        schema: the fields to read.
        relations: pairs of fields whose node keys are wanted.
        absent: what to do about a field that the partition has no column for.
        weight: one of the schema's `extras`, the weight of an impression in the loss; where absent may be null and it is
            absent, every impression weighs the same.

    Raises:
        InputError: missing or damaged files or columns, a label that is not 0 or 1, a weight that is no finite number or
            negative, rows that are not in time order.
        NoDataError: the artifact holds no impression.
    """
    return examples_of(
        read_impressions(folder, schema, absent, [weight] if weight else ()),
        folder,
        schema,
        relations,
        weight,
    )


def examples_of(
    table: pa.Table,
    where: Path,
    schema: Schema,
    relations: Sequence[Relation] = (),
    weight: str | None = None,
) -> Examples:
    """Return what `read_examples` returns, and raises, of the columns of an `impressions` artifact that are in memory.

    `where` is what an error names as their place.
    """
    layout = Layout.of(schema, relations)
    if not table.num_rows:
        raise NoDataError(f"{where}: no impressions to learn from; ingest a day that has some")
    tokens = {
        f.name: _field_tokens(schema, f, table)
        for f in schema.fields
        if isinstance(f, Single) and f.name in layout.keyed
    }
    tokens |= {
        f.name: _cross_tokens([tokens[part] for part in f.of])
        for f in schema.fields
        if isinstance(f, Cross)
    }
    numbers, present = _numbers(schema, table)
    user = coded(table, "user")
    return Examples(
        keys=_columns(
            [_keys(vocabulary_of(schema.field(name)), tokens[name]) for name in layout.singles],
            table.num_rows,
        ),
        lists=tuple(_pooled_keys(schema, name, table, tokens) for name in layout.lists),
        numbers=numbers,
        present=present,
        pairs=_pairs(relations, tokens, table.num_rows),
        label=_labels(table, where),
        user=user.codes,
        users=user.values,
        record_id=table["record_id"].to_numpy(),
        timestamp_ms=_timestamps(table, where),
        weight=_weights(table, weight, where) if weight and weight in table.column_names else None,
    )


def heldout_start(rows: int, fraction: float) -> int:
    """Return the first row of the held-out slice: the last `fraction` of the rows by time, at least one row."""
    return rows - max(1, min(rows, round(rows * fraction)))


def batches(
    rows: int, batch_size: int, shuffle_block: int, seed: Sequence[int]
) -> Iterator[NDArray[np.int64]]:
    """Yield the row numbers of each batch, int64 [batch_size], the last one shorter.

    Rows are shuffled inside blocks of `shuffle_block`; the blocks stay in the order of time.
    """
    draw = np.random.default_rng(seed)
    starts = range(0, rows, shuffle_block)
    order = [start + draw.permutation(min(shuffle_block, rows - start)) for start in starts]
    permutation = np.concatenate([np.zeros(0, np.int64), *order]).astype(np.int64)
    for start in range(0, rows, batch_size):
        yield permutation[start : start + batch_size]


def _field_tokens(schema: Schema, field: Single, table: pa.Table) -> Coded:
    column = coded(table, field.name)
    tokens = feature_keys.tokens(schema, field, _strings(column.values))
    return Coded(column.codes, tokens.numpy())


def _cross_tokens(parts: Sequence[Coded]) -> Coded:
    """Join tokens pair by pair; joining is associative, so the result is that of joining all at once."""
    return reduce(_join, parts)


def _join(left: Coded, right: Coded) -> Coded:
    codes, lefts, rights = distinct_pairs(left.codes, right.codes)
    joined = feature_keys.cross_tokens(
        [tf.constant(left.values[lefts], tf.string), tf.constant(right.values[rights], tf.string)]
    )
    return Coded(codes, joined.numpy())


def _keys(vocabulary: str, tokens: Coded) -> NDArray[np.int64]:
    distinct: NDArray[np.int64] = feature_keys.keys(vocabulary, _strings(tokens.values)).numpy()
    return distinct[tokens.codes]


def _pooled_keys(schema: Schema, name: str, table: pa.Table, tokens: Mapping[str, Coded]) -> Ragged:
    field = schema.field(name)
    if isinstance(field, MultiValued):
        return _list_keys(schema, field, table)
    distinct: NDArray[np.int64] = feature_keys.keys(
        vocabulary_of(field), _strings(tokens[name].values)
    ).numpy()
    derived = field_keys(distinct, field)[tokens[name].codes]
    return Ragged(
        derived.reshape(-1), np.arange(len(derived) + 1, dtype=np.int64) * derived.shape[1]
    )


def _list_keys(schema: Schema, field: MultiValued, table: pa.Table) -> Ragged:
    """Keys of the present values; a null or empty element is padding, as in the exported model."""
    column = coded_list(table, field.name)
    tokens = Coded(
        column.elements.codes,
        feature_keys.tokens(schema, field, _strings(column.elements.values)).numpy(),
    )
    kept = (tokens.values != NULL.encode())[tokens.codes]
    return Ragged(_keys(vocabulary_of(field), tokens), column.offsets).keep(kept)


def _numbers(schema: Schema, table: pa.Table) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    fields = schema.dense_fields()
    read = [_number(field, coded(table, field.name)) for field in fields]
    values = np.stack([v for v, _ in read], axis=1) if read else np.zeros((table.num_rows, 0))
    present = (
        np.stack([p for _, p in read], axis=1) if read else np.zeros((table.num_rows, 0), bool)
    )
    return values, present


def _number(field: Numeric, column: Coded) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    values, present = feature_keys.numbers(field, _strings(column.values))
    return values.numpy()[column.codes], present.numpy()[column.codes]


def _pairs(
    relations: Sequence[Relation], tokens: Mapping[str, Coded], rows: int
) -> NDArray[np.int64]:
    sides = [
        _columns([_keys(name, tokens[name]) for name in (r.left, r.right)], rows) for r in relations
    ]
    return np.stack(sides, axis=1) if sides else np.zeros((rows, 0, 2), np.int64)


def _columns(columns: Sequence[NDArray[np.int64]], rows: int) -> NDArray[np.int64]:
    return np.stack(columns, axis=1) if columns else np.zeros((rows, 0), np.int64)


def _labels(table: pa.Table, folder: Path) -> NDArray[np.float32]:
    label = table["label"].to_numpy().astype(np.float32)
    wrong = np.flatnonzero(~np.isin(label, (0.0, 1.0)))
    if len(wrong):
        raise InputError(
            f"{folder}: label of row {wrong[0]} is {label[wrong[0]]}, not 0 or 1 ({len(wrong)} such rows); run `ingest` again"
        )
    return label


def _weights(table: pa.Table, name: str, folder: Path) -> NDArray[np.float64]:
    """The column as numbers; the log may spell them as text."""
    weights = pd.to_numeric(table[name].to_pandas(), errors="coerce").to_numpy(np.float64)
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(wrong):
        value = table[name][int(wrong[0])].as_py()
        raise InputError(
            f"{folder}: {name} of row {wrong[0]} is {value!r}, no finite weight ≥ 0 ({len(wrong)} such rows); "
            f"mend the log, or take `weight` out of `training`"
        )
    return weights


def _timestamps(table: pa.Table, folder: Path) -> NDArray[np.int64]:
    stamps: NDArray[np.int64] = table["timestamp_ms"].to_numpy()
    backwards = np.flatnonzero(np.diff(stamps) < 0)
    if len(backwards):
        raise InputError(
            f"{folder}: row {backwards[0] + 1} is earlier than the row before it, so no last slice exists; run `ingest` again"
        )
    return stamps


def _strings(values: NDArray[np.object_]) -> tf.Tensor:
    return tf.constant(values, tf.string) if len(values) else tf.zeros([0], tf.string)
