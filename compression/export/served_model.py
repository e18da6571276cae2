"""The served model as one TensorFlow module: raw strings in, click probability out, stock ops only.

Three modules: p_uv of the cross graph, the model, and the signatures that change a loaded model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from compression.delta import content
from compression.export import rows
from compression.export.requests import NamedRequest, RawTensors, RawValues, RequestReader
from compression.model import CompactModel
from training.fit.inference import pool_slab
from training.models.ctr import build_model
from training.models.encoding_inputs import Encoding, Nodes, PairTable, pair_keys
from training.models.pooling import dense_inputs
from training.models.weight_transfer import check_weights
from training.packed.dense import unpacked


class NodeEncoder(tf.Module):
    """One side of a relation's frozen encodings."""

    def __init__(self, nodes: Nodes) -> None:
        super().__init__()
        self._index = rows.RowIndex(nodes.keys)
        self._rows = tf.Variable(nodes.table(), trainable=False)

    def __call__(self, keys: tf.Tensor) -> tf.Tensor:
        """Return vectors and biases, float [batch, d + 1], of node keys; 0 if unknown."""
        return tf.gather(self._rows, self._index(keys))


class PairLookup(tf.Module):
    """A number per pair of nodes: the statistic, or a correction to what the encodings predict."""

    def __init__(self, table: PairTable) -> None:
        super().__init__()
        self._index = rows.RowIndex(table.keys)
        self._values = tf.Variable(table.with_mean(), trainable=False)

    def __call__(self, left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
        """Return the values float32 [batch] of pairs of node keys; the mean if unknown."""
        return tf.cast(tf.gather(self._values, self._index(pair_keys(left, right))), tf.float32)


class RelationEncoder(tf.Module):
    """The frozen encodings of one relation."""

    def __init__(self, encoding: Encoding) -> None:
        super().__init__()
        self._left, self._right = NodeEncoder(encoding.left), NodeEncoder(encoding.right)
        self._mean = tf.Variable(encoding.mean, trainable=False, dtype=tf.float32)
        self._corrections = PairLookup(encoding.corrections) if encoding.corrections else None
        self._network = [
            tuple(tf.Variable(w, trainable=False, dtype=tf.float32) for w in layer)
            for layer in encoding.network
        ]

    def __call__(self, left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
        """Return p_uv float32 [batch] of node keys int64 [batch] each."""
        predicted = cross_value(self._left(left), self._right(right), self._mean, self._network)
        return predicted + self._corrections(left, right) if self._corrections else predicted


def cross_value(
    left: tf.Tensor, right: tf.Tensor, mean: tf.Tensor | float, network: Sequence[Any] = ()
) -> tf.Tensor:
    """Return p_uv = mean + b_u + b_v + CrossNet(h_u, h_v) of pairs of nodes.

    Args:
        left: float [b, d + 1], rows of `Nodes.table()` of the left nodes (zero: unknown).
        right: float [b, d + 1], the same of the right nodes.
        mean: the relation's mean statistic.
        network: kernels and biases of the CrossNet; empty: the dot product.

    Returns:
        float32 [b]. A pair with an unknown node gets the mean and the other node's bias.
    """
    # In float32, also if the encodings are stored in half precision.
    left, right = tf.cast(left, tf.float32), tf.cast(right, tf.float32)
    left_vectors, right_vectors = left[:, :-1], right[:, :-1]
    product = left_vectors * right_vectors
    if network:
        x = tf.concat([left_vectors, right_vectors, product], axis=1)
        for kernel, bias in network[:-1]:
            x = tf.nn.relu(tf.matmul(x, kernel) + bias)
        kernel, bias = network[-1]
        # The network's output for a zero vector means nothing: it was never trained on one.
        known = tf.reduce_any(left_vectors != 0, axis=1) & tf.reduce_any(right_vectors != 0, axis=1)
        crossed = tf.where(known, (tf.matmul(x, kernel) + bias)[:, 0], 0.0)
    else:
        crossed = tf.reduce_sum(product, axis=1)
    return crossed + left[:, -1] + right[:, -1] + tf.cast(mean, tf.float32)


class ServingModel(tf.Module):
    """A compact model with its tables: the click probability of raw requests.

    Values become tokens and keys by `features.keys`, the keys of all fields of a group are looked
    up at once, and the vectors go through the model that was trained.

    Raises:
        InputError: its weights do not fit its schema.
    """

    def __init__(self, model: CompactModel, form: rows.TableForm = "rows") -> None:
        super().__init__(name="serving")
        description = model.description
        self._reader = RequestReader(description.schema, description.relations)
        self._relations = description.relations
        self.scalers = tf.Variable(content.scalers_of(model), trainable=False)
        built = build_model(description.schema, description.model, description.relations)
        check_weights(built.all_variables(), unpacked(model.dense))
        self.weights = rows.StoredWeights(model.dense)
        # Only the bound method is kept, so the untrained variables of `built` are not saved.
        self._groups, self._forward = built.groups, built.forward
        self.tables = {g.name: rows.table_of(model.tables[g.name], form) for g in built.groups}
        # Sorted, so that equal models give equal graphs.
        self._encoders = {
            name: PairLookup(e) if isinstance(e, PairTable) else RelationEncoder(e)
            for name, e in sorted(model.encodings.items())
        }

    def probability(self, inputs: RawTensors) -> tf.Tensor:
        """Return the click probability of each request, float32 [batch]."""
        return self.probability_of(NamedRequest(inputs))

    def probability_of(self, raw: RawValues) -> tf.Tensor:
        """Return the click probability of each request, float32 [batch]."""
        request = self._reader.read(raw)

        # 1. Vectors by slab, float32 [batch, F, width]: one lookup per group of fields.
        vectors: dict[str, tf.Tensor] = {}
        for group in self._groups:
            singles, listed, segments = self._reader.group_keys(request, group.layout)
            keys = tf.reshape(singles, [-1])
            if group.layout.lists:
                keys = tf.concat([keys, listed], axis=0)
            for own_name, found in self.tables[group.name](keys).items():
                slab = group.slab(own_name)
                vectors[slab] = pool_slab(group, slab, found, segments, request.batch)

        # 2. Standardised numbers with their flags.
        dense = tf.zeros([request.batch, 0], tf.float32)
        if self.scalers.shape[1]:
            dense = dense_inputs(*self._reader.numbers(request), *tf.unstack(self.scalers))

        # 3. p_uv of each relation; 0 for a relation that the model has no encodings of.
        columns = []
        for relation in self._relations:
            column = tf.zeros([request.batch], tf.float32)
            if relation.name in self._encoders:
                left = self._reader.node_keys(request, relation.left)
                right = self._reader.node_keys(request, relation.right)
                column = self._encoders[relation.name](left, right)
            columns.append(column)
        cross = tf.stack(columns, axis=1) if columns else tf.zeros([request.batch, 0], tf.float32)

        return tf.sigmoid(self._forward(vectors, dense, cross, weights=self.weights()))


APPLY = "apply_delta"
VERSION = "model_version"
_BASE, _RESULT = "base", "result"


class DeltaSignatures(tf.Module):
    """The signatures that change a loaded model: tables, dense weights, scalers and version.

    The version is the digest of the content (`compression.delta.content`).

    Args:
        served: the model, its tables in the form `rows`.
        model: what it was made of; `content.why_no_delta` of it is empty.
    """

    def __init__(self, served: ServingModel, model: CompactModel) -> None:
        super().__init__()
        self.digest = content.content_digest(model)
        self._served = served
        # Names and shapes of the inputs, which stay the same for every model of this graph.
        self._slabs = {name: list(table.slabs) for name, table in model.tables.items()}
        self._version = tf.Variable(self.digest, trainable=False)
        self._inputs = content.unchanged_inputs(model)

    def signatures(self) -> dict[str, Any]:
        """Return the functions `apply_delta` and `model_version`.

        The first takes the arrays of `compression.delta.content`, and `base` and `result`, string
        []; it fails before it changes anything if `base` is not the loaded version. Both return
        `version` string [] and `rows` int64 [].
        """
        specs = {name: tf.TensorSpec([], tf.string, name) for name in (_BASE, _RESULT)}
        for name, array in self._inputs.items():
            # Scalers and dense weights are given whole; of tables any number of rows.
            whole = name.startswith((content.SCALERS, content.DENSE))
            shape = array.shape if whole else [None, *array.shape[1:]]
            specs[name] = tf.TensorSpec(shape, array.dtype, name)
        return {
            APPLY: tf.function(self._apply, input_signature=[specs], autograph=False),
            VERSION: tf.function(self._state, input_signature=[], autograph=False),
        }

    def replace(self, model: CompactModel) -> None:
        """Load another model with the same graph; the tables have no free rows afterwards."""
        for name, table in self._row_tables():
            table.replace(model.tables[name])
        arrays = content.unchanged_inputs(model)
        self._served.weights.replace({name: tf.constant(array) for name, array in arrays.items()})
        self._served.scalers.assign(arrays[content.SCALERS])
        self.digest = content.content_digest(model)
        self._version.assign(self.digest)

    def _row_tables(self) -> list[tuple[str, rows.RowTable]]:
        tables = self._served.tables.items()
        return [(name, table) for name, table in tables if isinstance(table, rows.RowTable)]

    def _apply(self, given: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        wrong = (
            "this delta is of another model than the one that is loaded: load a full export, or "
            "apply the deltas between"
        )
        loaded = self._version.read_value()
        # The check is a dependency of every change, so a delta of another base changes nothing.
        with tf.control_dependencies([tf.debugging.assert_equal(given[_BASE], loaded, wrong)]):
            changes = []
            for group, table in self._row_tables():
                stored = {
                    slab: rows.arrays_of(given, content.table_name(group, slab))
                    for slab in self._slabs[group]
                }
                keys = given[content.table_name(group, "keys")]
                changes.append(
                    table.change(keys, given[content.table_name(group, "tombstones")], stored)
                )
            changes += self._served.weights.replace(given)
            changes.append(self._served.scalers.assign(given[content.SCALERS]))
        # The version changes last: a reader that sees it is answered by the new content.
        with tf.control_dependencies(changes):
            self._version.assign(given[_RESULT])
        return self._state()

    def _state(self) -> dict[str, tf.Tensor]:
        sizes = [table.size() for _, table in self._row_tables()]
        return {"version": self._version.read_value(), "rows": tf.add_n(sizes)}
