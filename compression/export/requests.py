"""From raw requests to keys and numbers: one chain of operations for all fields of a kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tensorflow as tf

from features import keys as feature_keys
from features.canonical import NULL
from features.schema import (
    Categorical,
    Cross,
    MultiValued,
    Relation,
    Schema,
    is_dense,
    vocabulary_of,
)
from training.data.layout import FieldLayout
from training.models.multi_hash.keys import field_keys_graph

RawTensors = Mapping[str, tf.Tensor]
"""Raw values by field: string [batch], multi-valued string [batch, n] padded with `""`."""


class NamedRequest:
    """Raw values as one tensor per field, of at least one field."""

    def __init__(self, tensors: RawTensors) -> None:
        self._tensors = tensors

    def batch(self) -> tf.Tensor:
        """Return the number of requests, int32 []."""
        # A list tensor may be padded to no columns, but its first axis is the batch as well.
        tensors = list(self._tensors.values())
        return tf.shape(next((t for t in tensors if t.shape.rank == 1), tensors[0]))[0]

    def of(self, name: str) -> tf.Tensor:
        """Return a field's values: string [batch], of a multi-valued one string [batch, n]."""
        return self._tensors[name]

    def stacked(self, names: Sequence[str]) -> tf.Tensor:
        """Return the values string [batch, k] of k single-valued fields."""
        return tf.stack([self._tensors[name] for name in names], axis=1)


class StackedRequest:
    """Raw values as one tensor for all single-valued fields, and one per multi-valued field.

    Args:
        values: string [batch, S].
        names: of the S fields, in the order of the columns.
        lists: string [batch, n] by multi-valued field.
    """

    def __init__(self, values: tf.Tensor, names: Sequence[str], lists: RawTensors) -> None:
        self._values, self._names, self._lists = values, list(names), lists

    def batch(self) -> tf.Tensor:
        """Return the number of requests, int32 []."""
        return tf.shape(self._values)[0]

    def of(self, name: str) -> tf.Tensor:
        """Return a field's values: string [batch], of a multi-valued one string [batch, n]."""
        return self._lists[name] if name in self._lists else self._values[:, self._column(name)]

    def stacked(self, names: Sequence[str]) -> tf.Tensor:
        """Return the values string [batch, k] of k single-valued fields."""
        # The usual case, all fields in the order of the signature, costs no operation.
        if list(names) == self._names:
            return self._values
        return tf.gather(self._values, [self._column(name) for name in names], axis=1)

    def _column(self, name: str) -> int:
        return self._names.index(name)


RawValues = NamedRequest | StackedRequest


def input_specs(schema: Schema) -> dict[str, tf.TensorSpec]:
    """Return the inputs of the served model: one string tensor per field that reads a column."""
    specs = {}
    for field in schema.column_fields():
        shape = [None, None] if isinstance(field, MultiValued) else [None]
        specs[field.name] = tf.TensorSpec(shape, tf.string, field.name)
    return specs


def stacked_specs(schema: Schema) -> tuple[tf.TensorSpec, dict[str, tf.TensorSpec]]:
    """Return the inputs with all single-valued fields in one, string [batch, S], and the lists'.

    The first input is named `values`; underscores are appended until the name is not a field's.
    """
    specs, singles = input_specs(schema), single_names(schema)
    lists = {name: spec for name, spec in specs.items() if name not in singles}
    name = "values"
    while name in lists:
        name += "_"
    return tf.TensorSpec([None, len(singles)], tf.string, name), lists


def single_names(schema: Schema) -> tuple[str, ...]:
    """Return the single-valued fields: the columns of `StackedRequest`, in the schema's order."""
    return tuple(f.name for f in schema.column_fields() if not isinstance(f, MultiValued))


@dataclass(frozen=True)
class KeyedRequest:
    """A batch of requests with the keys of its values.

    Attributes:
        raw: the raw values.
        batch: int32 [], number of requests.
        keys: int64 [batch, K], a column for each of the reader's columns.
    """

    raw: RawValues
    batch: tf.Tensor
    keys: tf.Tensor


class RequestReader:
    """Reads the raw requests of one schema.

    Args:
        schema: the fields of the requests.
        relations: of the cross graph, whose nodes have keys of their own vocabulary.
    """

    def __init__(self, schema: Schema, relations: tuple[Relation, ...]) -> None:
        self._schema = schema
        self._plain = [f.name for f in schema.fields if isinstance(f, Categorical)]
        # (vocabulary, field) of every token of a request. Categorical fields come first, which
        # makes their columns one block; a node of the graph has its field as vocabulary.
        singles = [f for f in schema.key_fields() if not isinstance(f, MultiValued)]
        singles.sort(key=lambda field: not isinstance(field, Categorical))
        columns = [(vocabulary_of(field), field.name) for field in singles]
        columns += [(name, name) for r in relations for name in (r.left, r.right)]
        self._columns = list(dict.fromkeys(columns))

    def read(self, raw: RawValues) -> KeyedRequest:
        """Return the keys of all fields that have one token per request."""
        batch = raw.batch()
        if not self._columns:
            return KeyedRequest(raw, batch, tf.zeros([batch, 0], tf.int64))
        # All categorical fields are canonicalised in one operation, and all tokens are hashed in
        # one: the cost of a call is that of its operations, not of its strings.
        blocks, tokens = [], {}
        if self._plain:
            blocks.append(feature_keys.canonical(raw.stacked(self._plain)))
            columns = tf.unstack(blocks[0], num=len(self._plain), axis=1)
            tokens = dict(zip(self._plain, columns, strict=True))
        rest = [name for _, name in self._columns[len(self._plain) :]]
        if rest:
            tokens |= self._other_tokens(raw, tokens)
            blocks.append(tf.stack([tokens[name] for name in rest], axis=1))
        stacked = blocks[0] if len(blocks) == 1 else tf.concat(blocks, axis=1)
        vocabularies = [vocabulary for vocabulary, _ in self._columns]
        return KeyedRequest(raw, batch, feature_keys.keys_by_vocabulary(vocabularies, stacked))

    def node_keys(self, request: KeyedRequest, field: str) -> tf.Tensor:
        """Return the keys int64 [batch] of a field's values as nodes of the cross graph."""
        return request.keys[:, self._columns.index((field, field))]

    def group_keys(
        self, request: KeyedRequest, layout: FieldLayout
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Return the keys of a group of fields.

        Returns:
            int64 [batch, S] of the single-valued fields, int64 [k] of all values of the lists, and
            the segment int32 [k] that each of these belongs to.
        """
        # 1. One key per request and field; no copy if the group has all columns.
        columns = [self._column(name) for name in layout.singles]
        singles = request.keys
        if columns != list(range(len(self._columns))):
            singles = tf.gather(request.keys, tf.constant(columns, tf.int32), axis=1)

        # 2. All values of all lists in one vector, so that they are looked up at once.
        if not layout.lists:
            return singles, tf.zeros([0], tf.int64), tf.zeros([0], tf.int32)
        keys, segments = [], []
        for position, name in enumerate(layout.lists):
            listed, owner = self._list_keys(request, name)
            keys.append(listed)
            segments.append(tf.cast(owner, tf.int32) * len(layout.lists) + position)
        return singles, tf.concat(keys, axis=0), tf.concat(segments, axis=0)

    def numbers(self, request: KeyedRequest) -> tuple[tf.Tensor, tf.Tensor]:
        """Return values float64 [batch, D] and present bool [batch, D] of the dense numbers."""
        fields = self._schema.dense_fields()
        values = request.raw.stacked([field.name for field in fields])
        return feature_keys.numbers_by_field(fields, values)

    def _column(self, name: str) -> int:
        return self._columns.index((vocabulary_of(self._schema.field(name)), name))

    def _other_tokens(self, raw: RawValues, known: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Tokens string [batch] of crosses and of fields that are not in `known`."""
        tokens: dict[str, tf.Tensor] = {}
        for field in self._schema.column_fields():
            has_token = not is_dense(field) and not isinstance(field, MultiValued)
            if has_token and field.name not in known:
                tokens[field.name] = feature_keys.tokens(self._schema, field, raw.of(field.name))
        for cross in (field for field in self._schema.fields if isinstance(field, Cross)):
            parts = [(known | tokens)[part] for part in cross.of]
            tokens[cross.name] = feature_keys.cross_tokens(parts)
        return tokens

    def _list_keys(self, request: KeyedRequest, name: str) -> tuple[tf.Tensor, tf.Tensor]:
        """Keys int64 [k] of a pooled field, and the request int [k] that each belongs to."""
        field = self._schema.field(name)
        if not isinstance(field, MultiValued):
            # A multi-hash field: each value has the keys of several rows.
            keys = request.keys[:, self._column(name)]
            hashed = field_keys_graph(keys, field)
            requests = tf.range(tf.shape(keys)[0], dtype=tf.int32)
            return tf.reshape(hashed, [-1]), tf.repeat(requests, hashed.shape[1])
        raw = request.raw.of(name)
        wrong = f"{name}: give lists of as many requests as the other fields have values of"
        # Without the check, requests behind the last list would be answered as if theirs were
        # empty. `tf.debugging` would add a branch to the graph; the raw op does not.
        enough = tf.raw_ops.Assert(condition=tf.shape(raw)[0] == request.batch, data=[wrong])
        with tf.control_dependencies([enough]):
            flat = feature_keys.tokens(self._schema, field, tf.reshape(raw, [-1]))
            tokens = tf.reshape(flat, tf.shape(raw))
        present = tf.where(tokens != NULL)
        values = tf.gather_nd(tokens, present)
        return feature_keys.keys(vocabulary_of(field), values), present[:, 0]
