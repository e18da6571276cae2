"""Changes to a served model while it is loaded, in the graph that is saved with it: the signature `apply_delta`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from compression.delta.changes import DENSE, SCALERS, no_changes, table_name
from compression.delta.digest import content_digest
from compression.export.model import ServingModel
from compression.export.rows import RowTable
from compression.export.stored import arrays_of
from compression.model import CompactModel

APPLY = "apply_delta"
VERSION = "model_version"
_BASE, _RESULT = "base", "result"


class Changing(tf.Module):
    """What `apply_delta` changes: tables, dense weights, scalers, and the version, which is the content's digest.

    Args:
        served: the model, its tables in the form `rows`.
        model: what it was made of (`compression.delta.changes.why_no_delta` says whether it can change).
    """

    def __init__(self, served: ServingModel, model: CompactModel) -> None:
        super().__init__()
        self.digest = content_digest(model)
        self._served = served
        self._slabs = {name: list(rows.slabs) for name, rows in model.tables.items()}
        self._version = tf.Variable(self.digest, trainable=False)
        self._changed = no_changes(model).arrays()

    def signatures(self) -> dict[str, Any]:
        """Return `apply_delta` and `model_version` as functions to be saved.

        The first takes the arrays of `compression.delta.changes` beside `base` and `result`, string []; it refuses a delta of another
        base before it changes anything. Both return `version` string [] and `rows` int64 [].
        """
        apply = tf.function(self._apply, input_signature=[self._specs()], autograph=False)
        return {APPLY: apply, VERSION: tf.function(self._told, input_signature=[], autograph=False)}

    def replace(self, model: CompactModel) -> None:
        """Make the module what it would be of another model with the same graph, without free rows."""
        for name, table in self._served.tables.items():
            if isinstance(table, RowTable):
                table.replace(model.tables[name])
        arrays = no_changes(model).arrays()
        self._served.weights.replace({name: tf.constant(array) for name, array in arrays.items()})
        self._served.scalers.assign(arrays[SCALERS])
        self.digest = content_digest(model)
        self._version.assign(self.digest)

    def _specs(self) -> dict[str, tf.TensorSpec]:
        whole = SCALERS, DENSE
        shapes = {
            name: a.shape if name.startswith(whole) else [None, *a.shape[1:]]
            for name, a in self._changed.items()
        }
        names = {
            name: tf.TensorSpec(shapes[name], array.dtype, name)
            for name, array in self._changed.items()
        }
        return names | {name: tf.TensorSpec([], tf.string, name) for name in (_BASE, _RESULT)}

    def _apply(self, given: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        wrong = "this delta is of another model than the one that is loaded: load a full export, or apply the deltas between"
        with tf.control_dependencies(
            [tf.debugging.assert_equal(given[_BASE], self._version.read_value(), wrong)]
        ):
            changes = [
                *self._tables(given),
                *self._served.weights.replace(given),
                self._served.scalers.assign(given[SCALERS]),
            ]
        with tf.control_dependencies(changes):
            self._version.assign(given[_RESULT])
        return self._told()

    def _tables(self, given: Mapping[str, tf.Tensor]) -> list[Any]:
        return [
            self._change(name, table, given)
            for name, table in self._served.tables.items()
            if isinstance(table, RowTable)
        ]

    def _change(self, group: str, table: RowTable, given: Mapping[str, tf.Tensor]) -> Any:
        stored = {slab: arrays_of(given, table_name(group, slab)) for slab in self._slabs[group]}
        return table.change(
            given[table_name(group, "keys")], given[table_name(group, "tombstones")], stored
        )

    def _told(self) -> dict[str, tf.Tensor]:
        sizes = [
            table.size() for table in self._served.tables.values() if isinstance(table, RowTable)
        ]
        return {"version": self._version.read_value(), "rows": tf.add_n(sizes)}
