"""The served model as one TensorFlow module: raw strings in, click probability out, stock ops only."""

from __future__ import annotations

import tensorflow as tf

from compression.delta.changes import scalers_of
from compression.export.crosses import cross_encoder
from compression.export.raw_values import ByField, Inputs, RawValues
from compression.export.requests import Request, RequestReader
from compression.export.rows import TableForm, table_of
from compression.export.stored import StoredWeights
from compression.model import CompactModel
from training.fit.inference import pool_slab
from training.models.blocks import refuse_other_weights
from training.models.build import build_model
from training.models.pooling import dense_inputs
from training.packed.dense import unpacked


class ServingModel(tf.Module):
    """A compact model with its tables: `probability` of raw requests.

    Values become tokens and keys by `features.keys`, the keys of all fields of a group are looked up at once, and the vectors
    go through the same model that was trained.

    Args:
        model: what to serve.
        form: of the tables.

    Raises:
        InputError: its weights do not fit its schema.
    """

    def __init__(self, model: CompactModel, form: TableForm = "rows") -> None:
        super().__init__(name="serving")
        told = model.description
        self._reader = RequestReader(told.schema, told.relations)
        self._relations = told.relations
        self.scalers = tf.Variable(scalers_of(model), trainable=False)
        built = build_model(told.schema, told.model, told.relations)
        refuse_other_weights(built.all_variables(), unpacked(model.dense))
        self.weights = StoredWeights(model.dense)
        self._groups, self._forward = (
            built.groups,
            built.forward,
        )  # a bound method: what it is bound to is not saved
        self.tables = {
            group.name: table_of(model.tables[group.name], form) for group in built.groups
        }
        self._encoders = {
            name: cross_encoder(encoding) for name, encoding in sorted(model.encodings.items())
        }

    def probability(self, inputs: Inputs) -> tf.Tensor:
        """Return the click probability of each request, float32 [batch]."""
        return self.probability_of(ByField(inputs))

    def probability_of(self, raw: RawValues) -> tf.Tensor:
        """Return the click probability of each request, float32 [batch]."""
        request = self._reader.read(raw)
        logits = self._forward(
            self._vectors(request),
            self._dense(request),
            self._cross(request),
            weights=self.weights(),
        )
        return tf.sigmoid(logits)

    def _vectors(self, request: Request) -> dict[str, tf.Tensor]:
        """Vectors by slab, float32 [batch, F, width], one a field, from one lookup a group of the keys of every field."""
        vectors: dict[str, tf.Tensor] = {}
        for group in self._groups:
            stacked, listed, segments = self._reader.group_keys(request, group.layout)
            flat = tf.reshape(stacked, [-1])
            found = self.tables[group.name](
                tf.concat([flat, listed], axis=0) if group.layout.lists else flat
            )
            named = {group.slab(own): rows for own, rows in found.items()}
            vectors |= {
                name: pool_slab(group, name, rows, segments, request.batch)
                for name, rows in named.items()
            }
        return vectors

    def _dense(self, request: Request) -> tf.Tensor:
        if not self.scalers.shape[1]:
            return tf.zeros([request.batch, 0], tf.float32)
        return dense_inputs(*self._reader.numbers(request), *tf.unstack(self.scalers))

    def _cross(self, request: Request) -> tf.Tensor:
        columns = [self._relation(request, r.name, r.left, r.right) for r in self._relations]
        return tf.stack(columns, axis=1) if columns else tf.zeros([request.batch, 0], tf.float32)

    def _relation(self, request: Request, name: str, left: str, right: str) -> tf.Tensor:
        if name not in self._encoders:
            return tf.zeros([request.batch], tf.float32)
        return self._encoders[name](
            self._reader.node_keys(request, left), self._reader.node_keys(request, right)
        )
