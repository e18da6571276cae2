"""From raw requests to keys and numbers: one chain of operations for all fields of a kind, whatever their number."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from compression.export.raw_values import RawValues
from features import keys as feature_keys
from features.canonical import NULL
from features.schema import (
    Categorical,
    ColumnField,
    Cross,
    KeyField,
    MultiValued,
    Relation,
    Schema,
    is_dense,
    vocabulary_of,
)
from training.data.layout import Layout
from training.models.multi_hash.field_keys import field_keys_graph


@dataclass(frozen=True)
class Request:
    """A batch of raw requests, read.

    Attributes:
        raw: as they came.
        batch: int32 [], requests.
        keys: int64 [batch, K], a column for each of the reader's columns.
    """

    raw: RawValues
    batch: tf.Tensor
    keys: tf.Tensor


class RequestReader:
    """Reads the raw requests of one schema.

    Args:
        schema: whose fields the requests have.
        relations: of the cross graph, whose nodes have keys of their own.
    """

    def __init__(self, schema: Schema, relations: tuple[Relation, ...]) -> None:
        self._schema = schema
        self._plain = [f.name for f in schema.fields if isinstance(f, Categorical)]
        self._columns = _columns(schema, relations)

    def read(self, raw: RawValues) -> Request:
        """Return the keys of all fields with one token a request."""
        batch = raw.batch()
        return Request(
            raw, batch, self._keys(raw) if self._columns else tf.zeros([batch, 0], tf.int64)
        )

    def node_keys(self, request: Request, field: str) -> tf.Tensor:
        """Return the keys int64 [batch] that a field's values have in the cross graph."""
        return request.keys[:, self._columns.index((field, field))]

    def group_keys(
        self, request: Request, layout: Layout
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Return keys int64 [batch, S] of a group's single-valued fields, [k] of its lists, and these' segments int32 [k]."""
        places = [self._place(name) for name in layout.singles]
        every = places == list(range(len(self._columns)))
        singles = (
            request.keys
            if every
            else tf.gather(request.keys, tf.constant(places, tf.int32), axis=1)
        )
        return singles, *self._listed(request, layout.lists)

    def numbers(self, request: Request) -> tuple[tf.Tensor, tf.Tensor]:
        """Return values float64 [batch, D] and present bool [batch, D] of the dense numbers, of which there are some."""
        fields = self._schema.dense_fields()
        return feature_keys.numbers_by_field(
            fields, request.raw.stacked([field.name for field in fields])
        )

    def _keys(self, raw: RawValues) -> tf.Tensor:
        """Keys int64 [batch, K] of the tokens in each column's vocabulary, spelled and hashed at once."""
        spelled = feature_keys.canonical(raw.stacked(self._plain)) if self._plain else None
        rest = [name for _, name in self._columns[len(self._plain) :]]
        blocks = [] if spelled is None else [spelled]
        if rest:
            tokens = self._tokens(raw, spelled)
            blocks.append(tf.stack([tokens[name] for name in rest], axis=1))
        stacked = blocks[0] if len(blocks) == 1 else tf.concat(blocks, axis=1)
        return feature_keys.keys_by_vocabulary(
            [vocabulary for vocabulary, _ in self._columns], stacked
        )

    def _tokens(self, raw: RawValues, spelled: tf.Tensor | None) -> dict[str, tf.Tensor]:
        """Tokens string [batch] by field with one a request, crosses among them, of categorical ones' spelling [batch, P]."""
        tokens = (
            {}
            if spelled is None
            else dict(
                zip(self._plain, tf.unstack(spelled, num=len(self._plain), axis=1), strict=True)
            )
        )
        for field in (f for f in _single_fields(self._schema) if f.name not in tokens):
            tokens[field.name] = feature_keys.tokens(self._schema, field, raw.of(field.name))
        for cross in (f for f in self._schema.fields if isinstance(f, Cross)):
            tokens[cross.name] = feature_keys.cross_tokens([tokens[part] for part in cross.of])
        return tokens

    def _place(self, name: str) -> int:
        return self._columns.index((vocabulary_of(self._schema.field(name)), name))

    def _listed(self, request: Request, lists: tuple[str, ...]) -> tuple[tf.Tensor, tf.Tensor]:
        """Keys int64 [k] of all values present in pooled fields, and the segment int32 [k] that each belongs to."""
        if not lists:
            return tf.zeros([0], tf.int64), tf.zeros([0], tf.int32)
        keys, segments = [], []
        for position, name in enumerate(lists):
            field = self._schema.field(name)
            if isinstance(field, MultiValued):
                listed = self._values(field, request.raw.of(name), request.batch)
            else:
                listed = _hashed(field, request.keys[:, self._place(name)])
            keys.append(listed[0])
            segments.append(tf.cast(listed[1], tf.int32) * len(lists) + position)
        return tf.concat(keys, axis=0), tf.concat(segments, axis=0)

    def _values(
        self, field: MultiValued, raw: tf.Tensor, batch: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Keys int64 [k] of a list field's values [batch, n] that are present, and whose they are, int64 [k]."""
        wrong = f"{field.name}: a list for as many requests as the other fields have values for is needed"
        # Without, the last requests would be answered as if their lists were empty. No `tf.debugging`, which branches.
        with tf.control_dependencies(
            [tf.raw_ops.Assert(condition=tf.shape(raw)[0] == batch, data=[wrong])]
        ):
            tokens = tf.reshape(
                feature_keys.tokens(self._schema, field, tf.reshape(raw, [-1])), tf.shape(raw)
            )
        present = tf.where(tokens != NULL)
        return feature_keys.keys(vocabulary_of(field), tf.gather_nd(tokens, present)), present[:, 0]


def _columns(schema: Schema, relations: tuple[Relation, ...]) -> list[tuple[str, str]]:
    """(vocabulary, field) of every token, categorical fields first, then of the graph's nodes, whose vocabulary is the field."""
    singles = [f for f in schema.key_fields() if not isinstance(f, MultiValued)]
    singles.sort(key=lambda field: not isinstance(field, Categorical))
    nodes = [(name, name) for r in relations for name in (r.left, r.right)]
    return list(dict.fromkeys([*((vocabulary_of(field), field.name) for field in singles), *nodes]))


def _single_fields(schema: Schema) -> tuple[ColumnField, ...]:
    """Fields with one token per request; dense numbers have none."""
    return tuple(
        f for f in schema.column_fields() if not is_dense(f) and not isinstance(f, MultiValued)
    )


def _hashed(field: KeyField, keys: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Keys int64 [batch · k] of the rows of a multi-hash field's values, of keys int64 [batch], and whose they are."""
    hashed = field_keys_graph(keys, field)
    return tf.reshape(hashed, [-1]), tf.repeat(
        tf.range(tf.shape(keys)[0], dtype=tf.int32), hashed.shape[1]
    )
