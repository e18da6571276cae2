"""The Keras layer over an elastic table, a replacement of `keras.layers.Embedding`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from elastic_embeddings.admission.policies import Admission, ByField
from elastic_embeddings.errors import InputError
from elastic_embeddings.eviction import Eviction
from elastic_embeddings.foreign import is_watched
from elastic_embeddings.layers.base import INIT_SCALE, KeyedLayer, LayerArguments
from elastic_embeddings.layers.inputs import field_names
from elastic_embeddings.layers.row_steps import RowSteps, Vectors
from elastic_embeddings.optimizers.optimizer import Optimizer
from elastic_embeddings.optimizers.row_storage import Storage
from elastic_embeddings.slabs.slab import Device
from elastic_embeddings.storage.checkpoint import HEADER
from elastic_embeddings.storage.header import from_plain
from elastic_embeddings.table import ElasticTable

_STORED: Mapping[str, Storage] = {
    "float32": "float32",
    "mixed_bfloat16": "float32",
    "bfloat16": "bfloat16",
    "float16": "float16",
}
"""Keras dtype policy → how rows are stored."""

_ONLY_FIELD = "all"  # the table's name of the only field


# Keras files contain this package name, the class name and the path of this module.
@keras.saving.register_keras_serializable(package="elastic_ctr")
class ElasticEmbedding(KeyedLayer):
    """Maps integer keys of any value to vectors, in a table that grows with the keys.

    >>> layer = ElasticEmbedding(16)
    >>> model = keras.Sequential(
    ...     [keras.Input((2,), dtype="int64"), layer, keras.layers.Flatten(), keras.layers.Dense(1)]
    ... )
    >>> model.compile("adam", "mse")
    >>> keys, targets = np.array([[1, 10**12], [1, -5]]), np.array([0.0, 1.0])
    >>> history = model.fit(keys, targets, verbose=0)
    >>> model.predict(keys, verbose=0).shape, len(layer.table)
    ((2, 1), 3)

    Inputs are keys, any int64 (narrower integers are converted; hash strings to int64 first):

    * a tensor [b, ...] → [b, ..., dim], as `keras.layers.Embedding`; with a combiner
      [b, k] → [b, dim] over the last axis;
    * a ragged tensor [b, None], with a combiner → [b, dim]; an empty list gives zeros;
    * a dictionary of them, by field → a dictionary of outputs, by field. All fields share the table
      and one pass over the index.

    The layer trains if it is called with `training=True`, or without `training` under a gradient
    tape that watches its weights: keys are counted, admitted and given rows, and the **backward
    pass is one step of the table**. The layer's optimizer, not the model's, updates the rows,
    immediately, whichever gradients are requested of the tape. So the model's clipping, weight
    decay, gradient accumulation and loss scaling do not affect them (loss scaling is an error where
    it can be detected). Call the layer once per step. A training pass without a backward pass
    leaves no trace. Otherwise, or with `trainable = False`, nothing is inserted, and a key without
    a row gives the fallback. Works in graphs and eagerly, without XLA.

    The rows are not Keras weights: `get_weights` has only a scalar that is always 0, so
    `EarlyStopping(restore_best_weights=True)` does not restore rows. `model.save` and
    `model.save_weights` do keep the table. To export a model: `frozen(model).export(path)`.

    Args:
        dim: the width of a vector; or widths by name, such as {"deep": 16, "wide": 1}, for vectors
            of several widths from one pass over the index: the output is then a dictionary by that
            name (of dictionaries by field).
        optimizer: of the rows; one, or by the names of `dim`.
        admission: which keys get a row; None admits all. By field with `ByField`.
        eviction: which keys are deleted, and how often.
        combiner: None, "sum", "mean" or "sqrtn". Mean and sqrtn count every value, admitted or not.
        padding: a key that means "no value": it has no row, and gives zeros or is left out of the
            pooling. Without a combiner the Keras mask is passed on, as
            `Embedding(mask_zero=True)` does for `padding=0`.
        share: field → vocabulary, for fields in which equal keys mean the same. By default each
            field has its own keys.
        init_scale: new vectors are uniform on ± this; one number, or by the names of `dim`.
        seed: initial vectors and admission draws are functions of (key, seed).
        device: memory of the rows, "host" or "device"; None uses a GPU if there is one.
        fallback: every column of the vector of a key without a row; it is not trained.
        kwargs: of `keras.layers.Layer`. `dtype` is the storage of rows: float32, bfloat16 or
            float16 (16 bits round stochastically; no float16 with Adam); the output is float32,
            with the policy "mixed_bfloat16" bfloat16.

    Raises:
        InputError: an argument out of range, inputs that are not integers, or training in several
            replicas.
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
        arguments = LayerArguments(
            dim=dim,
            optimizer=optimizer,
            admission=admission,
            eviction=eviction,
            combiner=combiner,
            padding=padding,
            share=share,
            init_scale=init_scale,
            seed=seed,
            device=device,
            fallback=fallback,
        )
        super().__init__(arguments, **kwargs)
        # The table is created later. The slabs are made here, so that wrong arguments fail at once.
        self.slabs = arguments.slabs(_storage_of(self.dtype_policy.name))
        self.supports_jit = False  # XLA cannot call the index, which is Python
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
        """Create the table; Keras calls it with the inputs' shapes."""
        self._table_steps(field_names(input_shape))
        # The handle's gradient is what makes a tape run the backward pass, see `RowSteps`.
        self._handle = self.add_weight(
            shape=(), initializer="zeros", dtype="float32", autocast=False, name="handle"
        )

    def vectors(
        self, names: tuple[str, ...], keys: tf.Tensor, sizes: tf.Tensor, *, training: bool | None
    ) -> Vectors:
        """Return the vectors of keys; in training, their gradient is one step of the table."""
        steps = self._table_steps(names)
        handle = tf.convert_to_tensor(self._handle.value)
        trains = is_watched(handle) if training is None else training
        if not (trains and self.trainable):
            return steps.lookup(keys)
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            raise InputError(
                f"{self.name} trains in one replica only: its table is one, in this process"
            )
        # A model of the global policy mixed_float16 scales its loss.
        _storage_of(keras.config.dtype_policy().name)
        return steps.train(keys, sizes, handle)

    def prepare_ahead(self, iteration: tf.Tensor, inputs: Any) -> tf.Tensor:
        """Prepare `inputs` before their `call`; `prefetch_keys` puts this into a dataset.

        Args:
            iteration: int64 scalar, 0 at the first batch of a pass over the dataset, else the
                result of the call before.
            inputs: of the later `call`.
        """
        steps = self._table_steps(field_names(inputs))
        return steps.prepare(iteration, *self._plan.flat(self._plan.read(inputs)))

    def get_config(self) -> dict[str, Any]:
        """Return the layer's arguments as JSON values."""
        return {**super().get_config(), **self.arguments.plain()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Return a layer with the arguments that `get_config` returned, and an empty table."""
        return cls(**{name: from_plain(value) for name, value in config.items()})

    def save_own_variables(self, store: Any) -> None:
        """Save the table into a Keras file: one uint8 array for each file of `ElasticTable.save`.

        For tables of many GB `table.save` needs less memory.
        """
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "table"
            self.table.save(folder)
            for file in sorted(folder.iterdir()):
                # The files as bytes: loading verifies the same checksums as a restore of a folder.
                store[file.name] = np.fromfile(file, np.uint8)

    def load_own_variables(self, store: Any) -> None:
        """Replace the table by that of a Keras file; its checksums are verified.

        Raises:
            InputError: there is no table in it, or it is damaged or of other slabs.
        """
        names = list(store.keys())
        if HEADER not in names:
            raise InputError(
                "this Keras file holds no elastic table where the model has one: "
                "it was saved by another model"
            )
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "table"
            folder.mkdir()
            for name in names:
                # Only the last part of the name: a file may not lead out of the folder.
                np.asarray(store[name], np.uint8).tofile(folder / Path(name).name)
            self.table.restore(folder)

    def _trackable_children(self, save_type: str = "checkpoint", **kwargs: Any) -> Any:
        # Private in Keras 3.15: an export to a SavedModel asks each layer for its variables here.
        # It must fail, as a SavedModel has no Python process that could look keys up.
        if save_type == "savedmodel":
            raise InputError(
                f"{self.name} cannot be exported: export elastic_embeddings.frozen(model)"
            )
        return super()._trackable_children(save_type, **kwargs)

    def _table_steps(self, names: tuple[str, ...]) -> RowSteps:
        """The steps of the table, which is created at the first call."""
        if self._steps is None:
            self._fields = names
            # Outside of any graph that is being traced, or its variables would be part of it.
            with tf.init_scope():
                given = self.arguments
                self._table = ElasticTable(
                    self.slabs,
                    given.admission,
                    given.seed,
                    fields=tuple(name or _ONLY_FIELD for name in names),
                    eviction=given.eviction,
                    device=given.device,
                )
                self._steps = RowSteps(self._table)
        if names != self._fields:
            raise InputError(
                f"{self.name} was built for the fields {list(self._fields)}, "
                f"called with {list(names)}"
            )
        return self._steps


def _storage_of(policy: str) -> Storage:
    """How rows are stored under a Keras dtype policy."""
    if policy not in _STORED:
        raise InputError(
            f"the dtype policy {policy} is not for an ElasticEmbedding (mixed_float16 scales "
            "losses, which its backward pass cannot undo): "
            f"use one of {sorted(_STORED)}"
        )
    return _STORED[policy]
