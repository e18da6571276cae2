"""The common base of the training layer and the frozen one: keys in, vectors out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import keras
import tensorflow as tf

from elastic_embeddings.admission.policies import Admission, ByField
from elastic_embeddings.errors import InputError
from elastic_embeddings.eviction import Eviction
from elastic_embeddings.layers.inputs import (
    ONLY_FIELD,
    InputPlan,
    by_name,
    field_names,
    validate_combiner,
)
from elastic_embeddings.optimizers.optimizer import Optimizer
from elastic_embeddings.optimizers.row_storage import Storage
from elastic_embeddings.optimizers.rules import GroupAdam
from elastic_embeddings.slabs.slab import Device, SlabSpec
from elastic_embeddings.storage.header import as_plain

ONLY_SLAB = "vectors"
"""The slab's name if a layer has one width."""

INIT_SCALE = 0.05
"""The default of `keras.layers.Embedding`."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class LayerArguments:
    """The arguments of `ElasticEmbedding`, which documents them."""

    dim: int | Mapping[str, int]
    optimizer: Optimizer | Mapping[str, Optimizer] | None = None
    admission: Admission | ByField | None = None
    eviction: Eviction | None = None
    combiner: str | None = None
    padding: int | None = None
    share: Mapping[str, str] | None = None
    init_scale: float | Mapping[str, float] = INIT_SCALE
    seed: int = 0
    device: Device | None = None
    fallback: float = 0.0

    def slabs(self, dtype: Storage) -> dict[str, SlabSpec]:
        """Return the table's slabs, their rows stored as `dtype`.

        Raises:
            InputError: a width or scale out of range, or names that are not those of `dim`.
        """
        widths = self.widths()
        optimizers = self._by_slab(self.optimizer or GroupAdam(), "optimizer")
        scales = self._by_slab(self.init_scale, "init_scale")
        return {
            name: SlabSpec(width, optimizers[name], scales[name], dtype, self.fallback)
            for name, width in widths.items()
        }

    def widths(self) -> dict[str, int]:
        """Return the widths by slab."""
        return dict(self.dim) if isinstance(self.dim, Mapping) else {ONLY_SLAB: self.dim}

    def plain(self) -> dict[str, Any]:
        """Return the arguments as JSON values, which `from_plain` reads."""
        return {field.name: as_plain(getattr(self, field.name)) for field in fields(self)}

    def _by_slab(self, value: Value | Mapping[str, Value], argument: str) -> dict[str, Value]:
        widths = self.widths()
        if not isinstance(value, Mapping):
            return dict.fromkeys(widths, value)
        if set(value) != set(widths):
            raise InputError(
                f"{argument} is given for {sorted(value)}: "
                f"give one, or one for each of {sorted(widths)}"
            )
        return dict(value)


class KeyedLayer(keras.layers.Layer):
    """A layer from integer keys to vectors, with the inputs and outputs of `ElasticEmbedding`.

    Args:
        arguments: of the layer.
        kwargs: of `keras.layers.Layer`.

    Raises:
        InputError: the combiner is unknown.
    """

    def __init__(self, arguments: LayerArguments, **kwargs: Any) -> None:
        # No autocast: it would cast the keys to float.
        super().__init__(autocast=False, **kwargs)
        self.arguments = arguments
        # With a combiner the padding is left out of the pooling: nothing is left to mask.
        self.supports_masking = arguments.padding is not None and arguments.combiner is None
        combiner = validate_combiner(arguments.combiner)
        self._plan = InputPlan(combiner, arguments.padding, dict(arguments.share or {}))

    @abstractmethod
    def vectors(
        self, names: tuple[str, ...], keys: tf.Tensor, sizes: tf.Tensor, *, training: bool | None
    ) -> dict[str, tf.Tensor]:
        """Return vectors float32 [n, dim] by the names of `dim`.

        Args:
            names: of the fields, in the order of their keys.
            keys: int64 [n], field by field.
            sizes: int32 [F], the number of keys of each field.
            training: the argument of `call`.
        """

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the vectors of keys in the inputs' shapes."""
        names, fields = field_names(inputs), self._plan.read(inputs)
        keys, sizes = self._plan.flat(fields)
        dtype = self._output_dtype
        by_slab = {
            slab: self._plan.restore(fields, names, tf.cast(vectors, dtype), sizes)
            for slab, vectors in self.vectors(names, keys, sizes, training=training).items()
        }
        return self._output(by_slab)

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the symbolic output of symbolic inputs."""
        inputs_by_field, by_slab = self._plan.check(inputs), {}
        for slab, dim in self.arguments.widths().items():
            specs = {
                name: keras.KerasTensor(
                    (*self._plan.output_shape(values.shape), dim), self._output_dtype
                )
                for name, values in inputs_by_field.items()
            }
            # A layer that is called with one tensor returns a tensor, not a dictionary.
            by_slab[slab] = specs.get(ONLY_FIELD, specs)
        return self._output(by_slab)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """Return bool in the inputs' shapes, false for padding; None with a combiner."""
        # Keras pairs masks with outputs in flattened order; outputs by width have another order.
        if not self.supports_masking or isinstance(self.arguments.dim, Mapping):
            return None
        masks = {
            name: keras.ops.not_equal(values, self.arguments.padding)
            for name, values in by_name(inputs).items()
        }
        return masks if isinstance(inputs, Mapping) else masks[ONLY_FIELD]

    @property
    def _output_dtype(self) -> str:
        # Only a mixed policy asks for 16-bit outputs; the policy `bfloat16` is the storage of rows.
        return "bfloat16" if self.dtype_policy.name == "mixed_bfloat16" else "float32"

    def _output(self, by_slab: dict[str, Any]) -> Any:
        """One output, or outputs by the names of `dim`."""
        return by_slab if isinstance(self.arguments.dim, Mapping) else next(iter(by_slab.values()))
