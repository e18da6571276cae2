"""What the model has to beat: logistic regression on the same ids and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from features.schema import Relation, Schema
from training.arrays import Arrays
from training.layout import Layout
from training.models.blocks import Blocks, Weights, dense_blocks, load_weights
from training.models.ctr import WIDE


class LogisticRegression(tf.Module):
    """`logit = bias + Σ width-1 rows + <w, dense>`, with the interface of `CtrModel` as far as the learner uses it."""

    def __init__(self, schema: Schema, relations: Sequence[Relation] = ()) -> None:
        super().__init__(name="baseline")
        self.layout = Layout.of(schema, relations)
        self._variables = {
            "bias": tf.Variable(0.0, trainable=False, name="bias"),
            "wide/dense": tf.Variable(np.zeros(2 * len(self.layout.dense), np.float32), trainable=False, name="wide_dense"),
        }

    @property
    def slabs(self) -> dict[str, int]:
        """Names and widths of the slabs whose rows `forward` takes."""
        return {WIDE: 1}

    def blocks(self) -> dict[str, Blocks]:
        """Which rows of which weight belong to which input (see `training.models.blocks`)."""
        return {"wide/dense": dense_blocks(self.layout)}

    def variables_by_name(self) -> dict[str, tf.Variable]:
        """The dense weights, for the optimizer."""
        return dict(self._variables)

    def weights(self) -> Arrays:
        """Return the dense weights by name, as float32 arrays."""
        return {name: variable.numpy() for name, variable in self._variables.items()}

    def load(self, weights: Weights) -> None:
        """Set the dense weights.

        Raises:
            InputError: a weight is missing, unknown, or of another shape.
        """
        load_weights(self._variables, weights)

    def forward(
        self, vectors: Mapping[str, tf.Tensor], dense: tf.Tensor, cross: tf.Tensor, dropout_seed: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Return the logits float32 [b] of pooled width-1 rows [b, F, 1] and numbers [b, 2 * D]; `cross` is not used."""
        linear = tf.linalg.matvec(dense, self._variables["wide/dense"])
        return tf.reduce_sum(vectors[WIDE], axis=[1, 2]) + linear + self._variables["bias"]
