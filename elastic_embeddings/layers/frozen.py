"""A trained elastic layer as stock TensorFlow, for export: sorted keys, binary search, gather.

frozen(model).export("served")     # a SavedModel that needs TensorFlow only
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from elastic_embeddings.errors import InputError
from elastic_embeddings.foreign import all_layers
from elastic_embeddings.layers.base import KeyedLayer, LayerArguments
from elastic_embeddings.layers.layer import ElasticEmbedding


@keras.saving.register_keras_serializable(package="elastic_ctr")
class FrozenEmbedding(KeyedLayer):
    """A copy of an `ElasticEmbedding` for inference. Its weights are not trainable.

    Args:
        dim: as the layer's.
        rows: the number of keys that have a vector.
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
        arguments = LayerArguments(dim, combiner=combiner, padding=padding, share=share)
        super().__init__(arguments, **kwargs)
        self.rows = rows

    @classmethod
    def of(cls, layer: ElasticEmbedding) -> Self:
        """Return the frozen copy of a built layer."""
        # Sorted for the binary search in `vectors`: stock TensorFlow operations, no hash table.
        keys, given = np.sort(layer.table.keys()), layer.arguments
        frozen = cls(
            given.dim,
            len(keys),
            given.combiner,
            given.padding,
            given.share,
            name=layer.name,
            dtype=layer.dtype_policy,
        )
        # The weights' shapes follow from `rows` alone, so there is no input shape to give.
        frozen.build(None)
        # The smallest int64 comes first, so that the search below always finds a key that is not
        # greater. If that key has a row, it is there twice and the second one is found.
        frozen._keys.assign(np.concatenate([[np.iinfo(np.int64).min], keys]))
        rows = np.concatenate([np.zeros(1, np.int32), layer.table.find(keys)])
        for name, slab in layer.table.slabs.items():
            frozen._vectors[name].assign(slab.vectors(rows))
        return frozen

    def build(self, input_shape: Any) -> None:
        """Create the weights, all zero.

        Keys int64 [rows + 1] and vectors float32 [rows + 1, dim]; the first is for unknown keys.
        """
        rows, constant = self.rows + 1, {"initializer": "zeros", "trainable": False}
        self._keys = self.add_weight(shape=(rows,), dtype="int64", name="keys", **constant)
        self._vectors = {
            name: self.add_weight(shape=(rows, dim), dtype="float32", name=name, **constant)
            for name, dim in self.arguments.widths().items()
        }

    def vectors(
        self, names: tuple[str, ...], keys: tf.Tensor, sizes: tf.Tensor, *, training: bool | None
    ) -> dict[str, tf.Tensor]:
        """Return the vectors of keys; `training` has no effect."""
        # The last key that is not greater; row 0 if it is another key.
        last = tf.searchsorted(self._keys.value, keys, side="right") - 1
        rows = tf.where(tf.gather(self._keys.value, last) == keys, last, 0)
        return {name: tf.gather(vectors.value, rows) for name, vectors in self._vectors.items()}

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        plain = self.arguments.plain()
        own = {name: plain[name] for name in ("dim", "combiner", "padding", "share")}
        return {**super().get_config(), **own, "rows": self.rows}


def frozen(model: keras.Model) -> keras.Model:
    """Return a copy of a functional or sequential model for inference.

    Its elastic layers become `FrozenEmbedding` layers.

    Raises:
        InputError: an elastic layer is inside a nested model or layer.
    """
    # `clone_model` calls its function for the model's own layers, not for layers inside of them.
    nested = [
        layer.name
        for layer in all_layers(model)
        if isinstance(layer, ElasticEmbedding) and layer not in model.layers
    ]
    if nested:
        raise InputError(
            f"frozen: {nested} are inside layers of {model.name}: "
            "replace them by FrozenEmbedding.of(layer) yourself"
        )

    def copy_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, ElasticEmbedding):
            return FrozenEmbedding.of(layer)
        return type(layer).from_config(layer.get_config())

    copy = keras.models.clone_model(model, clone_function=copy_layer)
    # A layer made from a configuration has new weights; `FrozenEmbedding.of` has set its own.
    for layer, twin in zip(model.layers, copy.layers, strict=True):
        if not isinstance(layer, ElasticEmbedding):
            twin.set_weights(layer.get_weights())
    return copy
