"""The served model as one TensorFlow module: raw strings in, click probability out, stock ops only."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from features import keys as feature_keys
from features.canonical import NULL
from features.schema import ColumnField, Cross, KeyField, MultiValued, Schema, is_dense, vocabulary_of
from training.checkpoints import TrainedModel
from training.forward import pool_slab
from training.groups import Group, own_slab
from training.layout import Layout
from training.models.build import build_model
from training.models.cross_input import Encoding, Nodes, PairTable, cross_value, pair_keys
from training.models.multi_hash.field_keys import field_keys_graph
from training.models.pooling import dense_inputs
from training.scalers import as_arrays

Inputs = Mapping[str, tf.Tensor]
"""Raw values by field: string [batch], multi-valued string [batch, n] padded with `""`."""


class RowIndex(tf.Module):
    """int64 keys to rows of arrays whose row 0 is for unknown keys; TensorFlow's own hash table, saved with the model."""

    def __init__(self, keys: NDArray[np.int64]) -> None:
        super().__init__()
        self._table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.int64, default_value=0)
        self._table.insert(tf.constant(keys, tf.int64), tf.range(1, len(keys) + 1, dtype=tf.int64))

    def __call__(self, keys: tf.Tensor) -> tf.Tensor:
        """Return the rows of keys, int64 in their shape."""
        return self._table.lookup(keys)


class NodeEncoder(tf.Module):
    """One side of a relation's frozen encodings."""

    def __init__(self, nodes: Nodes) -> None:
        super().__init__()
        self._index = RowIndex(nodes.keys)
        self._rows = tf.Variable(nodes.table(), trainable=False)

    def __call__(self, keys: tf.Tensor) -> tf.Tensor:
        """Return float [batch, d + 1], as it is stored, for int64 [batch]: vectors and biases, zero for unknown nodes."""
        return tf.gather(self._rows, self._index(keys))


class RelationEncoder(tf.Module):
    """The frozen encodings of one relation."""

    def __init__(self, encoding: Encoding) -> None:
        super().__init__()
        self._left, self._right = NodeEncoder(encoding.left), NodeEncoder(encoding.right)
        self._mean = tf.Variable(encoding.mean, trainable=False, dtype=tf.float32)
        self._network = [tuple(tf.Variable(w, trainable=False, dtype=tf.float32) for w in layer) for layer in encoding.network]

    def __call__(self, left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
        """Return p_uv float32 [batch] for node keys int64 [batch] each."""
        return cross_value(self._left(left), self._right(right), self._mean, self._network)


class PairLookup(tf.Module):
    """The statistic of one relation's pairs as a table."""

    def __init__(self, table: PairTable) -> None:
        super().__init__()
        self._index = RowIndex(table.keys)
        self._values = tf.Variable(table.with_mean(), trainable=False)

    def __call__(self, left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
        """Return the value float32 [batch] of pairs of node keys int64 [batch] each; the mean for unknown pairs."""
        return tf.gather(self._values, self._index(pair_keys(left, right)))


class ServingModel(tf.Module):
    """A trained model with its table: `probability` of raw requests.

    Values become tokens and keys by `features.keys`, the keys of all fields of a group are looked up at once, and the vectors
    go through the same model that was trained.
    """

    def __init__(self, trained: TrainedModel) -> None:
        super().__init__(name="serving")
        told = trained.description
        self._schema, self._relations = told.schema, told.relations
        self._layout = Layout.of(told.schema, told.relations)
        self._scalers = as_arrays(told.scalers, self._layout.dense)
        self._model = build_model(told.schema, told.model, told.relations)
        self._model.load(trained.dense)
        first, *others = [RowIndex(trained.tables()[group.name].keys) for group in self._model.groups]
        self._index, self._others = first, others  # a model without groups is saved under the names that it always had
        self._slabs = {
            name: tf.Variable(_with_zero_row(rows), trainable=False, name=name.replace("/", "_"))
            for name, rows in trained.slabs().items()
        }
        self._encoders = {name: _encoder(encoding) for name, encoding in sorted(trained.encodings.items())}

    def probability(self, inputs: Inputs) -> tf.Tensor:
        """Return the click probability of each request, float32 [batch]."""
        tokens = {f.name: feature_keys.tokens(self._schema, f, inputs[f.name]) for f in _single_fields(self._schema)}
        for cross in (f for f in self._schema.fields if isinstance(f, Cross)):
            tokens[cross.name] = feature_keys.cross_tokens([tokens[part] for part in cross.of])
        batch = tf.shape(inputs[self._schema.column_fields()[0].name])[0]
        logits = self._model.forward(self._vectors(inputs, tokens, batch), self._dense(inputs, batch), self._cross(tokens, batch))
        return tf.sigmoid(logits)

    def _vectors(self, inputs: Inputs, tokens: Inputs, batch: tf.Tensor) -> dict[str, tf.Tensor]:
        """Vectors by slab, float32 [batch, F, width], one a field, from one lookup a group of the keys of every field."""
        vectors: dict[str, tf.Tensor] = {}
        for group, index in zip(self._model.groups, [self._index, *self._others], strict=True):
            slabs = {name: slab for name, slab in self._slabs.items() if own_slab(name)[0] == group.name}
            vectors |= self._of_group(group, index, slabs, self._keys(group.layout, inputs, tokens, batch))
        return vectors

    def _of_group(
        self, group: Group, index: RowIndex, slabs: Mapping[str, tf.Variable], keys: tuple[tf.Tensor, tf.Tensor, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        stacked, listed, segments = keys
        rows = index(tf.concat([tf.reshape(stacked, [-1]), listed], axis=0))
        rows.set_shape([None])  # which a lookup forgets, and with it the vectors their width
        batch = tf.shape(stacked)[0]
        return {name: pool_slab(group, name, tf.gather(slab, rows), segments, batch) for name, slab in slabs.items()}

    def _keys(self, layout: Layout, inputs: Inputs, tokens: Inputs, batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Keys int64 [batch, S] of a group's single-valued fields, [k] of its lists, and the latter's segments int32 [k]."""
        singles = [feature_keys.keys(vocabulary_of(self._schema.field(n)), tokens[n]) for n in layout.singles]
        stacked = tf.stack(singles, axis=1) if singles else tf.zeros([batch, 0], tf.int64)
        return stacked, *self._listed(layout.lists, inputs, tokens)

    def _listed(self, lists: tuple[str, ...], inputs: Inputs, tokens: Inputs) -> tuple[tf.Tensor, tf.Tensor]:
        """Keys int64 [k] of all values present in pooled fields, and the segment int32 [k] that each belongs to."""
        keys, segments = [tf.zeros([0], tf.int64)], [tf.zeros([0], tf.int32)]
        for position, name in enumerate(lists):
            field = self._schema.field(name)
            listed = self._values(field, inputs[name]) if isinstance(field, MultiValued) else _hashed(field, tokens[name])
            keys.append(listed[0])
            segments.append(tf.cast(listed[1], tf.int32) * len(lists) + position)
        return tf.concat(keys, axis=0), tf.concat(segments, axis=0)

    def _values(self, field: MultiValued, raw: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Keys int64 [k] of a list field's values [batch, n] that are present, and whose they are, int64 [k]."""
        tokens = tf.reshape(feature_keys.tokens(self._schema, field, tf.reshape(raw, [-1])), tf.shape(raw))
        present = tf.where(tokens != NULL)
        return feature_keys.keys(vocabulary_of(field), tf.gather_nd(tokens, present)), present[:, 0]

    def _dense(self, inputs: Inputs, batch: tf.Tensor) -> tf.Tensor:
        read = [feature_keys.numbers(field, inputs[field.name]) for field in self._schema.dense_fields()]
        values = tf.stack([v for v, _ in read], axis=1) if read else tf.zeros([batch, 0], tf.float64)
        present = tf.stack([p for _, p in read], axis=1) if read else tf.zeros([batch, 0], tf.bool)
        means, stds = self._scalers
        return dense_inputs(values, present, tf.constant(means), tf.constant(stds))

    def _cross(self, tokens: Inputs, batch: tf.Tensor) -> tf.Tensor:
        columns = [self._relation(r.name, tokens[r.left], tokens[r.right], (r.left, r.right)) for r in self._relations]
        return tf.stack(columns, axis=1) if columns else tf.zeros([batch, 0], tf.float32)

    def _relation(self, name: str, left: tf.Tensor, right: tf.Tensor, fields: tuple[str, str]) -> tf.Tensor:
        if name not in self._encoders:
            return tf.zeros(tf.shape(left), tf.float32)
        return self._encoders[name](feature_keys.keys(fields[0], left), feature_keys.keys(fields[1], right))


def input_specs(schema: Schema) -> dict[str, tf.TensorSpec]:
    """The inputs of the served model: one string tensor per field that reads a column, named by the field."""
    return {
        f.name: tf.TensorSpec([None, None] if isinstance(f, MultiValued) else [None], tf.string, f.name)
        for f in schema.column_fields()
    }


def _single_fields(schema: Schema) -> tuple[ColumnField, ...]:
    """Fields with one token per request; dense numbers have none."""
    return tuple(f for f in schema.column_fields() if not is_dense(f) and not isinstance(f, MultiValued))


def _hashed(field: KeyField, tokens: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Keys int64 [batch · k] of a multi-hash field's tokens [batch], and whose they are."""
    keys = field_keys_graph(feature_keys.keys(vocabulary_of(field), tokens), field)
    return tf.reshape(keys, [-1]), tf.repeat(tf.range(tf.shape(tokens)[0], dtype=tf.int32), keys.shape[1])


def _encoder(encoding: Encoding | PairTable) -> RelationEncoder | PairLookup:
    return PairLookup(encoding) if isinstance(encoding, PairTable) else RelationEncoder(encoding)


def _with_zero_row(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([np.zeros((1, rows.shape[1]), np.float32), rows])
