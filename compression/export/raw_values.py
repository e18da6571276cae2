"""Raw values of a batch of requests, however they came: a tensor a field, or one for all fields that have one value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import tensorflow as tf

from features.schema import ColumnField, MultiValued, Schema

Inputs = Mapping[str, tf.Tensor]
"""Raw values by field: string [batch], multi-valued string [batch, n] padded with `""`."""


class RawValues(Protocol):
    """A batch of requests."""

    def batch(self) -> tf.Tensor:
        """Return how many requests there are, int32 []."""

    def of(self, name: str) -> tf.Tensor:
        """Return a field's values: string [batch], of a multi-valued one string [batch, n]."""

    def stacked(self, names: Sequence[str]) -> tf.Tensor:
        """Return the values string [batch, k] of k fields that have one."""


class ByField:
    """A tensor a field.

    Args:
        inputs: of every field that reads a column, at least one.
    """

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs

    def batch(self) -> tf.Tensor:
        """Return how many requests there are, int32 []."""
        tensors = list(self._inputs.values())
        return tf.shape(next((tensor for tensor in tensors if tensor.shape.rank == 1), tensors[0]))[
            0
        ]

    def of(self, name: str) -> tf.Tensor:
        """Return a field's values: string [batch], of a multi-valued one string [batch, n]."""
        return self._inputs[name]

    def stacked(self, names: Sequence[str]) -> tf.Tensor:
        """Return the values string [batch, k] of k fields that have one."""
        return tf.stack([self._inputs[name] for name in names], axis=1)


class Together:
    """One tensor for the fields that have one value, and one for each other field.

    Args:
        values: string [batch, S].
        names: of the S fields, in the order of the columns.
        lists: string [batch, n] by multi-valued field.
    """

    def __init__(self, values: tf.Tensor, names: Sequence[str], lists: Inputs) -> None:
        self._values, self._names, self._lists = values, list(names), lists

    def batch(self) -> tf.Tensor:
        """Return how many requests there are, int32 []."""
        return tf.shape(self._values)[0]

    def of(self, name: str) -> tf.Tensor:
        """Return a field's values: string [batch], of a multi-valued one string [batch, n]."""
        return (
            self._lists[name] if name in self._lists else self._values[:, self._names.index(name)]
        )

    def stacked(self, names: Sequence[str]) -> tf.Tensor:
        """Return the values string [batch, k] of k fields that have one."""
        if list(names) == self._names:
            return self._values
        return tf.gather(self._values, [self._names.index(name) for name in names], axis=1)


def input_specs(schema: Schema) -> dict[str, tf.TensorSpec]:
    """The inputs of the served model: one string tensor per field that reads a column, named by the field."""
    return {f.name: _spec(f) for f in schema.column_fields()}


def stacked_specs(schema: Schema) -> tuple[tf.TensorSpec, dict[str, tf.TensorSpec]]:
    """The inputs of the served model with all fields that have one value in one, string [batch, S], and those of the lists.

    It is called `values`, with as many `_` behind as no field is called.
    """
    lists = {f.name: _spec(f) for f in schema.column_fields() if isinstance(f, MultiValued)}
    name = "values"
    while name in lists:
        name += "_"
    return tf.TensorSpec([None, len(single_names(schema))], tf.string, name), lists


def single_names(schema: Schema) -> tuple[str, ...]:
    """Names of the fields that have one value a request, in the schema's order, which is that of `Together`'s columns."""
    return tuple(f.name for f in schema.column_fields() if not isinstance(f, MultiValued))


def _spec(field: ColumnField) -> tf.TensorSpec:
    return tf.TensorSpec(
        [None, None] if isinstance(field, MultiValued) else [None], tf.string, field.name
    )
