"""What the learning layer and its frozen twin have in common: keys in, vectors out, in the inputs' shapes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from elastic_embeddings.layers.arguments import LayerArguments
from elastic_embeddings.layers.inputs import ONLY_FIELD, by_name, field_names


class KeyedLayer(keras.layers.Layer):
    """A layer from integer keys to vectors; `ElasticEmbedding` says which inputs it takes and how outputs are shaped.

    Args:
        arguments: what it is made of.
        kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, arguments: LayerArguments, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.arguments = arguments
        self.supports_masking = arguments.padding is not None and arguments.combiner is None
        self._plan = arguments.plan()

    @abstractmethod
    def vectors(
        self, names: tuple[str, ...], keys: tf.Tensor, sizes: tf.Tensor, *, training: bool | None
    ) -> dict[str, tf.Tensor]:
        """Return vectors float32 [n, dim] by the names of `dim`.

        Args:
            names: of the fields, in the order of their keys.
            keys: int64 [n], field by field.
            sizes: int32 [F], how many keys are of each field.
            training: whether the layer was called to learn; None: the caller did not say.
        """

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the vectors of keys in the inputs' shapes."""
        names, fields = field_names(inputs), self._plan.read(inputs)
        keys, sizes = self._plan.flat(fields)
        found = self.vectors(names, keys, sizes, training=training)
        dtype = self._output_dtype
        return self._arranged(
            {
                slab: self._plan.restore(fields, names, tf.cast(vectors, dtype), sizes)
                for slab, vectors in found.items()
            }
        )

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the symbolic output of symbolic inputs."""
        fields = self._plan.check(inputs)
        return self._arranged(
            {slab: self._specs(fields, dim) for slab, dim in self.arguments.widths().items()}
        )

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """Return bool in the inputs' shapes: false where a key is the padding; None with a combiner or without padding."""
        if not self.supports_masking or isinstance(self.arguments.dim, Mapping):
            return None
        masks = {
            name: keras.ops.not_equal(values, self.arguments.padding)
            for name, values in by_name(inputs).items()
        }
        return masks if isinstance(inputs, Mapping) else masks[ONLY_FIELD]

    @property
    def _output_dtype(self) -> str:
        return "bfloat16" if self.dtype_policy.name == "mixed_bfloat16" else "float32"

    def _specs(self, fields: Mapping[str, Any], dim: int) -> Any:
        specs = {
            name: keras.KerasTensor(
                (*self._plan.output_shape(values.shape), dim), self._output_dtype
            )
            for name, values in fields.items()
        }
        return specs.get(ONLY_FIELD, specs)

    def _arranged(self, by_slab: dict[str, Any]) -> Any:
        """One output, or outputs by the names of `dim`."""
        return by_slab if isinstance(self.arguments.dim, Mapping) else next(iter(by_slab.values()))
