"""Wide & Deep over vectors that were already looked up: the same module in training, in scoring and in the export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from features.schema import Relation, Schema
from training.arrays import Arrays
from training.layout import Layout
from training.models.blocks import Blocks, Weights, dense_blocks, first_layer_blocks, load_weights
from training.settings import ModelSettings

WIDE = "wide"
"""Slab of the width-1 rows."""

DEEP = "deep"
"""Slab of the rows of width `ModelSettings.dim`."""


class CtrModel(tf.Module):
    """Wide & Deep (Cheng et al., 2016) with the embedding tables left outside.

    `logit = bias + Σ wide rows + <w, dense> + MLP(deep rows ++ dense ++ cross)`, ReLU between the layers.
    The first layer's rows of `cross` start at zero, so that encodings that appear later change nothing until learned.
    Same schema, settings and seed: same weights.
    """

    def __init__(self, schema: Schema, settings: ModelSettings, relations: Sequence[Relation] = (), seed: int = 0) -> None:
        super().__init__(name="ctr")
        self.layout = Layout.of(schema, relations)
        self.settings = settings
        self._variables = {
            name: tf.Variable(value, trainable=False, name=name.replace("/", "_"))
            for name, value in _fresh(self.layout, settings, np.random.default_rng(seed)).items()
        }

    @property
    def slabs(self) -> dict[str, int]:
        """Names and widths of the slabs whose rows `forward` takes."""
        return {WIDE: 1, DEEP: self.settings.dim}

    def blocks(self) -> dict[str, Blocks]:
        """Which rows of which weight belong to which input (see `training.models.blocks`)."""
        return {
            _first(self.settings): first_layer_blocks(self.layout, self.settings.dim),
            "wide/dense": dense_blocks(self.layout),
        }

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

    def logits(
        self, wide: tf.Tensor, deep: tf.Tensor, dense: tf.Tensor, cross: tf.Tensor, dropout_seed: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Return the logit of each impression.

        Args:
            wide: float32 [b, F], width-1 rows of the id fields in the order of `layout.keyed`, lists pooled.
            deep: float32 [b, F, d], their rows of width d.
            dense: float32 [b, 2 * D], as `training.models.pooling.dense_inputs` gives them.
            cross: float32 [b, R], p_uv of each relation.
            dropout_seed: int64 [2]; given in learning only, where dropout applies.

        Returns:
            float32 [b].
        """
        flat = tf.reshape(deep, [tf.shape(deep)[0], deep.shape[1] * deep.shape[2]])
        hidden = tf.concat([flat, dense, cross], axis=1)
        for number in range(len(self.settings.hidden)):
            hidden = tf.nn.relu(self._affine(hidden, number))
            hidden = self._drop(hidden, number, dropout_seed)
        deep_logit = tf.linalg.matvec(hidden, self._variables["deep/out"])
        return (
            tf.reduce_sum(wide, axis=1)
            + tf.linalg.matvec(dense, self._variables["wide/dense"])
            + deep_logit
            + self._variables["bias"]
        )

    def forward(
        self, vectors: Mapping[str, tf.Tensor], dense: tf.Tensor, cross: tf.Tensor, dropout_seed: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Return `logits` of pooled vectors by slab, each float32 [b, F, width]."""
        return self.logits(tf.squeeze(vectors[WIDE], axis=2), vectors[DEEP], dense, cross, dropout_seed)

    def _affine(self, inputs: tf.Tensor, number: int) -> tf.Tensor:
        return tf.matmul(inputs, self._variables[f"deep/{number}/kernel"]) + self._variables[f"deep/{number}/bias"]

    def _drop(self, hidden: tf.Tensor, number: int, seed: tf.Tensor | None) -> tf.Tensor:
        if seed is None or self.settings.dropout == 0.0:
            return hidden
        return tf.nn.experimental.stateless_dropout(hidden, self.settings.dropout, seed + number)


def _fresh(layout: Layout, settings: ModelSettings, draw: np.random.Generator) -> Arrays:
    widths = [first_layer_blocks(layout, settings.dim).size, *settings.hidden]
    weights: Arrays = {"bias": np.zeros((), np.float32), "wide/dense": np.zeros(2 * len(layout.dense), np.float32)}
    for number, (rows, columns) in enumerate(pairwise(widths)):
        weights[f"deep/{number}/kernel"] = _glorot(draw, rows, columns)
        weights[f"deep/{number}/bias"] = np.zeros(columns, np.float32)
    weights["deep/out"] = _glorot(draw, widths[-1], 1)[:, 0]
    weights[_first(settings)][widths[0] - len(layout.relations) :] = 0.0
    return weights


def _glorot(draw: np.random.Generator, rows: int, columns: int) -> NDArray[np.float32]:
    limit = float(np.sqrt(6.0 / (rows + columns)))
    return draw.uniform(-limit, limit, (rows, columns)).astype(np.float32)


def _first(settings: ModelSettings) -> str:
    """The weight whose rows belong to the inputs."""
    return "deep/0/kernel" if settings.hidden else "deep/out"
