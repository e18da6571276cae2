"""A trained elastic layer as stock TensorFlow, for export: sorted keys, a binary search, a gather.

frozen(model).export("served")     # a SavedModel that any TensorFlow loads, without this package
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from elastic_embeddings.errors import InputError
from elastic_embeddings.layers.arguments import LayerArguments
from elastic_embeddings.layers.keyed_layer import KeyedLayer
from elastic_embeddings.layers.layer import ElasticEmbedding

_BEFORE_ALL = np.iinfo(np.int64).min


@keras.saving.register_keras_serializable(package="elastic_ctr")
class FrozenEmbedding(KeyedLayer):
    """What an `ElasticEmbedding` gives without training, as it was when this was made. Its weights do not learn.

    Args:
        dim: as the layer's.
        rows: how many keys have a vector.
        combiner: as the layer's.
        padding: as the layer's.
        share: as the layer's.
        kwargs: of `keras.layers.Layer`.
    """

    def __init__(
        self,
        dim: int | Mapping[str, int],
        rows: int,
        combiner: str | None = None,
        padding: int | None = None,
        share: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            LayerArguments(dim, combiner=combiner, padding=padding, share=share), **kwargs
        )
        self.rows = rows

    @classmethod
    def of(cls, layer: ElasticEmbedding) -> Self:
        """Return the frozen twin of a built layer."""
        keys = np.sort(layer.table.keys())
        given = layer.arguments
        frozen = cls(
            given.dim,
            len(keys),
            given.combiner,
            given.padding,
            given.share,
            name=layer.name,
            dtype=layer.dtype_policy,
        )
        frozen.build(None)
        frozen._keys.assign(np.concatenate([[_BEFORE_ALL], keys]))
        for name, slab in layer.table.slabs.items():
            rows = np.concatenate([np.zeros(1, np.int32), layer.table.find(keys)])
            frozen._vectors[name].assign(slab.vectors(rows))
        return frozen

    def build(self, input_shape: Any) -> None:
        """Make the weights, all zero: keys int64 [rows + 1] and vectors float32 [rows + 1, dim], the first for unknown keys."""
        self._keys = self.add_weight(
            shape=(self.rows + 1,), initializer="zeros", dtype="int64", trainable=False, name="keys"
        )
        self._vectors = {
            name: self.add_weight(
                shape=(self.rows + 1, dim),
                initializer="zeros",
                dtype="float32",
                trainable=False,
                name=name,
            )
            for name, dim in self.arguments.widths().items()
        }

    def vectors(
        self, names: tuple[str, ...], keys: tf.Tensor, sizes: tf.Tensor, *, training: bool | None
    ) -> dict[str, tf.Tensor]:
        """Return the vectors of keys, training or not."""
        rows = self._find(keys)
        return {name: tf.gather(vectors.value, rows) for name, vectors in self._vectors.items()}

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        plain = self.arguments.plain()
        mine = {name: plain[name] for name in ("dim", "combiner", "padding", "share")}
        return {**super().get_config(), **mine, "rows": self.rows}

    def _find(self, keys: tf.Tensor) -> tf.Tensor:
        """Rows int32 [n] of keys int64 [n]; 0 where unknown."""
        last = (
            tf.searchsorted(self._keys.value, keys, side="right") - 1
        )  # the last key that is not above; never below 0
        return tf.where(tf.gather(self._keys.value, last) == keys, last, 0)


def frozen(model: keras.Model) -> keras.Model:
    """Return a copy of a functional or sequential model for inference, its elastic layers as `FrozenEmbedding`.

    Raises:
        InputError: an elastic layer lies inside a nested model or layer.
    """
    inside = [
        layer.name
        for layer in model._flatten_layers()
        if isinstance(layer, ElasticEmbedding) and layer not in model.layers
    ]
    if inside:
        raise InputError(
            f"frozen: {inside} lie inside layers of {model.name}: replace them by FrozenEmbedding.of(layer) yourself"
        )
    copy = keras.models.clone_model(model, clone_function=_stand_in)
    for layer, twin in zip(model.layers, copy.layers, strict=True):
        if not isinstance(layer, ElasticEmbedding):
            twin.set_weights(layer.get_weights())
    return copy


def _stand_in(layer: keras.layers.Layer) -> keras.layers.Layer:
    return (
        FrozenEmbedding.of(layer)
        if isinstance(layer, ElasticEmbedding)
        else type(layer).from_config(layer.get_config())
    )
