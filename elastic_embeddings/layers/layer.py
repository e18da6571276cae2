"""The Keras layer over an elastic table: in place of `keras.layers.Embedding`, and nothing else changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import keras
import tensorflow as tf
from tensorflow.python.eager import record  # no public name tells whether a tape watches a tensor

from elastic_embeddings.admission.policies import Admission, ByField
from elastic_embeddings.errors import InputError
from elastic_embeddings.eviction import Eviction
from elastic_embeddings.layers.arguments import INIT_SCALE, LayerArguments
from elastic_embeddings.layers.inputs import field_names
from elastic_embeddings.layers.keyed_layer import KeyedLayer
from elastic_embeddings.layers.row_steps import RowSteps, Vectors
from elastic_embeddings.layers.table_store import load_table, store_table
from elastic_embeddings.optimizers.optimizer import Optimizer
from elastic_embeddings.slabs.slab import Device, Storage
from elastic_embeddings.storage.plain import from_plain
from elastic_embeddings.table import ElasticTable

_STORED: Mapping[str, Storage] = {
    "float32": "float32",
    "mixed_bfloat16": "float32",
    "bfloat16": "bfloat16",
    "float16": "float16",
}
_ALL = "all"  # the table's name for the only field


@keras.saving.register_keras_serializable(package="elastic_ctr")
class ElasticEmbedding(KeyedLayer):
    """Turns integer keys of any value into vectors, in a table that grows with the keys.

        model = keras.Sequential([keras.Input((26,), dtype="int64"), ElasticEmbedding(16), keras.layers.Flatten(), ...])
        model.fit(prefetch_keys(dataset, model))

    Inputs are keys, any int64 (narrower integers are widened; `features.keys.keys` makes them of strings):

    * a tensor [b, ...] → [b, ..., dim], as `keras.layers.Embedding`; with a combiner [b, k] → [b, dim] over the last axis;
    * a ragged tensor [b, None], with a combiner → [b, dim]; an empty list gives zeros;
    * a dictionary of them, by field → a dictionary of outputs, by field. All fields share the table and one index pass.

    Called with `training=True`, or under a gradient tape that watches its weights if nobody says, it learns: keys are counted,
    admitted and given rows, and the **backward pass is one step of the table**. Its optimizer, not the model's, updates the
    rows, at once, whichever gradients were asked of the tape. So the model's clipping, weight decay, gradient accumulation
    and loss scaling do not reach them (loss scaling is refused where it can be seen). Call the layer once per step. A training
    pass without a backward pass leaves no trace. Otherwise, or with `trainable = False`, it looks up: nothing is inserted,
    and a key without a row gives the fallback. Works in graphs and eagerly, without XLA.

    The rows are no Keras weights (`get_weights` has only a scalar that stays 0, so `EarlyStopping(restore_best_weights=True)`
    does not restore rows), but `model.save` and `model.save_weights` keep the table. To export, `frozen(model).export(path)`.

    Args:
        dim: the width of a vector; or widths by name, such as {"deep": 16, "wide": 1}, for vectors of several widths from one
            index pass: the output is then a dictionary by that name (of dictionaries by field).
        optimizer: how rows learn; one, or by the names of `dim`.
        admission: which keys get a row; None admits all. By field with `ByField`.
        eviction: which keys are let go, and how often.
        combiner: None, "sum", "mean" or "sqrtn". Mean and sqrtn count every present value, admitted or not.
        padding: a key that means "no value": it has no row, and gives zeros or is left out of the pooling. Without a
            combiner the Keras mask is passed on, as `Embedding(mask_zero=True)` does for `padding=0`.
        share: field → vocabulary, for fields in which equal keys mean the same. By default each field has its own keys.
        init_scale: new vectors are uniform on ± this; one number, or by the names of `dim`.
        seed: initial vectors and admission draws are functions of (key, seed).
        device: where rows live, "host" or "device"; None takes a GPU where there is one.
        fallback: what keys without a row read in every column; it does not learn.
        kwargs: of `keras.layers.Layer`. `dtype` says how rows are stored: float32, bfloat16 or float16 (16 bits round
            stochastically; no float16 with Adam); the output is float32, with the policy "mixed_bfloat16" bfloat16.

    Raises:
        InputError: an argument out of range, inputs that are not integers, or training in several replicas.
    """

    def __init__(
        self,
        dim: int | Mapping[str, int],
        *,
        optimizer: Optimizer | Mapping[str, Optimizer] | None = None,
        admission: Admission | ByField | None = None,
        eviction: Eviction | None = None,
        combiner: str | None = None,
        padding: int | None = None,
        share: Mapping[str, str] | None = None,
        init_scale: float | Mapping[str, float] = INIT_SCALE,
        seed: int = 0,
        device: Device | None = None,
        fallback: float = 0.0,
        **kwargs: Any,
    ) -> None:
        policies = (optimizer, admission, eviction)
        given = LayerArguments(
            dim, *policies, combiner, padding, share, init_scale, seed, device, fallback
        )
        super().__init__(given, **kwargs)
        self.slabs = self.arguments.slabs(_storage(self.dtype_policy.name))
        self.supports_jit = False
        self._fields: tuple[str, ...] = ()
        self._table: ElasticTable | None = None
        self._steps: RowSteps | None = None

    @property
    def table(self) -> ElasticTable:
        """The layer's table.

        Raises:
            InputError: the layer was not built yet.
        """
        if self._table is None:
            raise InputError(
                f"{self.name} has no table before it is built: call it once, or build(shapes)"
            )
        return self._table

    def build(self, input_shape: Any) -> None:
        """Make the table; Keras calls it with the inputs' shapes."""
        self._opened(field_names(input_shape))
        self._handle = self.add_weight(
            shape=(), initializer="zeros", dtype="float32", autocast=False, name="handle"
        )

    def vectors(
        self, names: tuple[str, ...], keys: tf.Tensor, sizes: tf.Tensor, *, training: bool | None
    ) -> Vectors:
        """Return the vectors of keys; where the layer learns, their gradient is one step of the table."""
        steps = self._opened(names)
        handle = tf.convert_to_tensor(self._handle.value)
        watched = record.should_record_backprop([handle]) if training is None else training
        if not (watched and self.trainable):
            return steps.look_up(keys)
        self._refuse_strangers()
        return steps.learn(keys, sizes, handle)

    def prepare_ahead(self, iteration: tf.Tensor, inputs: Any) -> tf.Tensor:
        """Run the index pass of `inputs` ahead of their `call`; `prefetch_keys` puts it into a dataset.

        Args:
            iteration: int64 scalar, 0 at the first batch of a pass over the dataset, else what this returned for the last.
            inputs: what the layer will be called with.
        """
        steps = self._opened(field_names(inputs))
        return steps.prepare(iteration, *self._plan.flat(self._plan.read(inputs)))

    def get_config(self) -> dict[str, Any]:
        """Return the layer's arguments as JSON values."""
        return {**super().get_config(), **self.arguments.plain()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Return a layer with the arguments that `get_config` returned, and an empty table."""
        return cls(**{name: from_plain(value) for name, value in config.items()})

    def save_own_variables(self, store: Any) -> None:
        """Keep the whole table in a Keras file, as it was learned. For tables of many GB `table.save` needs less memory."""
        store_table(self.table, store)

    def load_own_variables(self, store: Any) -> None:
        """Replace the table by a Keras file's."""
        load_table(self.table, store)

    def _trackable_children(self, save_type: str = "checkpoint", **kwargs: Any) -> Any:
        """Refuse to become part of a SavedModel, which would look keys up in a Python process that is not there."""
        if save_type == "savedmodel":
            raise InputError(
                f"{self.name} cannot be exported as it is: export elastic_embeddings.frozen(model)"
            )
        return super()._trackable_children(save_type, **kwargs)

    def _opened(self, names: tuple[str, ...]) -> RowSteps:
        """The steps over the table, made at the first call."""
        if self._steps is None:
            self._fields = names
            with tf.init_scope():
                self._table = self._new_table(tuple(name or _ALL for name in names))
                self._steps = RowSteps(self._table)
        if names != self._fields:
            raise InputError(
                f"{self.name} was built for the fields {list(self._fields)}, called with {list(names)}"
            )
        return self._steps

    def _new_table(self, fields: tuple[str, ...]) -> ElasticTable:
        given = self.arguments
        return ElasticTable(
            self.slabs,
            given.admission,
            given.seed,
            fields=fields,
            eviction=given.eviction,
            device=given.device,
        )

    def _refuse_strangers(self) -> None:
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            raise InputError(
                f"{self.name} trains in one replica only: its table is one, in this process"
            )
        _storage(
            keras.config.dtype_policy().name
        )  # a model of the global policy mixed_float16 scales its loss


def _storage(policy: str) -> Storage:
    """How rows are stored under a Keras dtype policy."""
    if policy not in _STORED:
        raise InputError(
            f"the dtype policy {policy} is not for an ElasticEmbedding (mixed_float16 scales losses, which its backward pass "
            f"cannot undo): use one of {sorted(_STORED)}"
        )
    return _STORED[policy]
