"""From what a layer is called with to one flat array of keys, and from vectors back to the inputs' shapes. Stock ops only.

Fields lie one after the other, in the order of their names. A field's keys are made different from other fields' by a salt:
stored key = key XOR salt(vocabulary). For one vocabulary that is one-to-one; two vocabularies meet only where key₁ XOR key₂ is
exactly the XOR of their 64-bit salts: never for small ids in practice, and for hashed ids as rarely as two hashes collide.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import tensorflow as tf

from elastic_embeddings.errors import InputError
from elastic_embeddings.layers.combiners import Combiner, pooled

ONLY_FIELD = ""
"""The field's name where a layer is called with one tensor; its keys are taken as they are."""

_KEY_DTYPES = ("int64", "int32", "int16", "int8", "uint32", "uint16", "uint8")


@dataclass(frozen=True)
class FieldKeys:
    """The keys of one field of a batch, and where their vectors go.

    Attributes:
        keys: int64 [m], the present ones.
        lists: int32 [m], the list of each key where the field is pooled, else its place among all values; None: every place
            holds a key.
        count: int32 scalar, how many lists or places there are.
        shape: int32 [r], of the field's output without its last axis.
        static: the same as far as it is known beforehand.
        combiner: pools each list; None leaves each key its own vector.
    """

    keys: tf.Tensor
    lists: tf.Tensor | None
    count: tf.Tensor
    shape: tf.Tensor
    static: tf.TensorShape
    combiner: Combiner | None

    def restore(self, vectors: tf.Tensor) -> tf.Tensor:
        """Return the field's output, float32 [*shape, dim], of its keys' vectors float32 [m, dim]."""
        dim = vectors.shape[-1]
        if self.combiner is not None:
            vectors = pooled(vectors, self.lists, self.count, self.combiner)
        elif self.lists is not None:
            vectors = tf.scatter_nd(self.lists[:, tf.newaxis], vectors, tf.stack([self.count, dim]))
        restored = tf.reshape(vectors, tf.concat([self.shape, [dim]], axis=0))
        return tf.ensure_shape(restored, self.static.concatenate(dim))


@dataclass(frozen=True)
class InputPlan:
    """How a layer reads its inputs.

    Attributes:
        combiner: pools the last axis of a field (a ragged one's lists); None: every key keeps its vector.
        padding: the key that stands for "no value"; None: every key is a value.
        share: field → vocabulary, for fields whose equal keys mean the same; by default a field has its own.
    """

    combiner: Combiner | None
    padding: int | None
    share: Mapping[str, str]

    def read(self, inputs: Any) -> tuple[FieldKeys, ...]:
        """Return the keys of each field, in the order of `field_names(inputs)`.

        Args:
            inputs: an integer tensor, a ragged tensor, or a dictionary of them.

        Raises:
            InputError: not integers, or a ragged field without a combiner.
        """
        named = by_name(inputs)
        return tuple(self._field(name, _checked(name, named[name])) for name in sorted(named))

    def check(self, inputs: Any) -> dict[str, Any]:
        """Return symbolic inputs by field.

        Raises:
            InputError: as `read`.
        """
        named = {name: _checked(name, values) for name, values in sorted(by_name(inputs).items())}
        for name, values in named.items():
            if getattr(values, "ragged", False):
                self._refuse_loose_lists(name)
        return named

    def flat(self, fields: Sequence[FieldKeys]) -> tuple[tf.Tensor, tf.Tensor]:
        """Return all keys int64 [n], and how many are of each field, int32 [F]."""
        keys = (
            fields[0].keys
            if len(fields) == 1
            else tf.concat([field.keys for field in fields], axis=0)
        )
        return keys, tf.stack([tf.shape(field.keys)[0] for field in fields])

    def restore(
        self,
        fields: Sequence[FieldKeys],
        names: Sequence[str],
        vectors: tf.Tensor,
        sizes: tf.Tensor,
    ) -> Any:
        """Return the outputs of vectors float32 [n, dim] of `flat`'s keys: a tensor, or a dictionary if the inputs were one."""
        if tuple(names) == (ONLY_FIELD,):
            return fields[0].restore(vectors)
        parts = tf.split(vectors, sizes, num=len(fields), axis=0)
        return {
            name: field.restore(part)
            for name, field, part in zip(names, fields, parts, strict=True)
        }

    def output_shape(self, shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """Return the shape of a field's output without its last axis."""
        return tuple(shape) if self.combiner is None or len(shape) < 2 else tuple(shape[:-1])

    def _field(self, name: str, values: Any) -> FieldKeys:
        read = (
            self._ragged(name, values)
            if isinstance(values, tf.RaggedTensor)
            else self._dense(values)
        )
        if self.padding is not None:
            read = _without(self.padding, read)
        salted = tf.bitwise.bitwise_xor(
            read.keys, tf.constant(salt(self.share.get(name, name)), tf.int64)
        )
        return replace(read, keys=salted)

    def _dense(self, values: tf.Tensor) -> FieldKeys:
        flat, shape = tf.reshape(tf.cast(values, tf.int64), [-1]), tf.shape(values)
        if self.combiner is None or len(values.shape) < 2:
            return FieldKeys(flat, None, tf.size(flat), shape, values.shape, None)
        lists = tf.range(tf.size(flat)) // tf.maximum(shape[-1], 1)
        return FieldKeys(
            flat, lists, tf.reduce_prod(shape[:-1]), shape[:-1], values.shape[:-1], self.combiner
        )

    def _ragged(self, name: str, values: tf.RaggedTensor) -> FieldKeys:
        self._refuse_loose_lists(name)
        if values.ragged_rank != 1 or len(values.flat_values.shape) != 1:
            raise InputError(
                f"{_said(name)} is ragged of shape {values.shape}: give lists [batch, None]"
            )
        flat, lists = (
            tf.cast(values.flat_values, tf.int64),
            tf.cast(values.value_rowids(), tf.int32),
        )
        count = tf.cast(values.nrows(), tf.int32)
        return FieldKeys(flat, lists, count, count[tf.newaxis], values.shape[:1], self.combiner)

    def _refuse_loose_lists(self, name: str) -> None:
        if self.combiner is None:
            raise InputError(
                f"{_said(name)} is ragged and needs a combiner: 'sum', 'mean' or 'sqrtn'"
            )


def field_names(inputs: Any) -> tuple[str, ...]:
    """Return the names of the fields of a layer's inputs (or of their shapes or specs), in the order of their keys."""
    return tuple(sorted(by_name(inputs)))


def by_name(inputs: Any) -> dict[str, Any]:
    """Return the fields by name; one tensor is the field "".

    Raises:
        InputError: a list of tensors, or no field.
    """
    if not isinstance(inputs, Mapping):
        return {ONLY_FIELD: inputs}
    if not inputs or not all(isinstance(name, str) and name for name in inputs):
        raise InputError(
            f"fields {list(inputs)}: give a dictionary of at least one tensor, by field name"
        )
    return dict(inputs)


def salt(vocabulary: str) -> int:
    """Return what a vocabulary's keys are XORed with, a signed 64-bit integer; 0 for the only field."""
    if vocabulary == ONLY_FIELD:
        return 0
    return int.from_bytes(
        hashlib.blake2b(vocabulary.encode(), digest_size=8).digest(), "little", signed=True
    )


def _without(padding: int, field: FieldKeys) -> FieldKeys:
    """Leave out the keys that stand for no value."""
    present = tf.where(field.keys != padding)[:, 0]
    lists = tf.cast(present, tf.int32) if field.lists is None else tf.gather(field.lists, present)
    return replace(field, keys=tf.gather(field.keys, present), lists=lists)


def _checked(name: str, values: Any) -> Any:
    if isinstance(values, list | tuple):
        raise InputError(
            f"{_said(name)} is a list of tensors: give a dictionary of tensors by field name"
        )
    if not isinstance(values, tf.RaggedTensor | keras.KerasTensor):
        values = tf.convert_to_tensor(values)
    dtype = keras.backend.standardize_dtype(values.dtype)
    if dtype not in _KEY_DTYPES:
        cure = (
            "hash strings with features.keys.keys first"
            if dtype == "string"
            else "give keras.Input(..., dtype='int64')"
        )
        raise InputError(f"{_said(name)} is {dtype}, but keys are integers: {cure}")
    return values


def _said(name: str) -> str:
    return f"input {name!r}" if name else "the input"
