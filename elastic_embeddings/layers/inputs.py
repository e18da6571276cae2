"""Reads a layer's inputs as one flat array of keys, and shapes vectors like the inputs.

Fields are concatenated in the order of their names. The keys of different fields are made distinct
by a salt: stored key = key XOR salt(vocabulary). Within a vocabulary that is one-to-one. Keys of
two vocabularies collide only if key₁ XOR key₂ is exactly the XOR of their 64-bit salts: never for
small ids in practice, and for hashed ids as rarely as two hashes collide.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

import keras
import tensorflow as tf

from elastic_embeddings.errors import InputError

Combiner = Literal["sum", "mean", "sqrtn"]

ONLY_FIELD = ""
"""The field's name if a layer is called with one tensor; its keys have no salt."""

# No uint64: its upper half does not fit an int64 key.
_KEY_DTYPES = ("int64", "int32", "int16", "int8", "uint32", "uint16", "uint8")


@dataclass(frozen=True)
class FieldKeys:
    """The keys of one field of a batch, and the shape of its output.

    Attributes:
        keys: int64 [m], without padding.
        lists: int32 [m], the list of each key if the field is pooled, else its position among all
            values; None: every position has a key.
        count: int32 scalar, the number of lists or positions.
        shape: int32 [r], of the field's output without its last axis.
        static: the same, where it is known statically.
        combiner: pools each list; None leaves each key its own vector.
    """

    keys: tf.Tensor
    lists: tf.Tensor | None
    count: tf.Tensor
    shape: tf.Tensor
    static: tf.TensorShape
    combiner: Combiner | None

    def restore(self, vectors: tf.Tensor) -> tf.Tensor:
        """Return the field's output, float32 [*shape, dim], of its keys' vectors [m, dim]."""
        dim = vectors.shape[-1]
        if self.combiner is not None:
            vectors = pool(vectors, self.lists, self.count, self.combiner)
        elif self.lists is not None:
            # Padding has no key: its positions stay zero.
            vectors = tf.scatter_nd(self.lists[:, tf.newaxis], vectors, tf.stack([self.count, dim]))
        restored = tf.reshape(vectors, tf.concat([self.shape, [dim]], axis=0))
        # A reshape to a tensor's values loses the static shape, by which later layers are built.
        return tf.ensure_shape(restored, self.static.concatenate(dim))


@dataclass(frozen=True)
class InputPlan:
    """How a layer reads its inputs.

    Attributes:
        combiner: pools the last axis of a field (a ragged one's lists); None: every key keeps its
            vector.
        padding: the key that means "no value"; None: every key is a value.
        share: field → vocabulary, for fields whose equal keys mean the same; by default each field
            has its own.
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
        fields = []
        # In the order of `field_names`: a field's code is its position in that order.
        for name, values in sorted(by_name(inputs).items()):
            values = _integers(name, values)
            ragged = isinstance(values, tf.RaggedTensor)
            field = self._read_ragged(name, values) if ragged else self._read_dense(values)
            if self.padding is not None:
                present = tf.where(field.keys != self.padding)[:, 0]
                lists = field.lists
                lists = tf.cast(present, tf.int32) if lists is None else tf.gather(lists, present)
                field = replace(field, keys=tf.gather(field.keys, present), lists=lists)
            # After the padding was removed, which is compared with keys as given.
            vocabulary = tf.constant(salt(self.share.get(name, name)), tf.int64)
            fields.append(replace(field, keys=tf.bitwise.bitwise_xor(field.keys, vocabulary)))
        return tuple(fields)

    def check(self, inputs: Any) -> dict[str, Any]:
        """Return symbolic inputs by field.

        Raises:
            InputError: as `read`.
        """
        named = {name: _integers(name, values) for name, values in sorted(by_name(inputs).items())}
        for name, values in named.items():
            if getattr(values, "ragged", False):
                self._check_combiner(name)
        return named

    def flat(self, fields: Sequence[FieldKeys]) -> tuple[tf.Tensor, tf.Tensor]:
        """Return all keys int64 [n], and the number of keys of each field, int32 [F]."""
        keys = [field.keys for field in fields]
        sizes = tf.stack([tf.shape(part)[0] for part in keys])
        return keys[0] if len(keys) == 1 else tf.concat(keys, axis=0), sizes

    def restore(
        self,
        fields: Sequence[FieldKeys],
        names: Sequence[str],
        vectors: tf.Tensor,
        sizes: tf.Tensor,
    ) -> Any:
        """Return the outputs of the vectors float32 [n, dim] of `flat`'s keys.

        A tensor, or a dictionary if the inputs were one.
        """
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

    def _read_dense(self, values: tf.Tensor) -> FieldKeys:
        flat, shape = tf.reshape(tf.cast(values, tf.int64), [-1]), tf.shape(values)
        if self.combiner is None or len(values.shape) < 2:
            return FieldKeys(flat, None, tf.size(flat), shape, values.shape, None)
        # At least 1: the last axis may have no elements.
        lists = tf.range(tf.size(flat)) // tf.maximum(shape[-1], 1)
        count = tf.reduce_prod(shape[:-1])
        return FieldKeys(flat, lists, count, shape[:-1], values.shape[:-1], self.combiner)

    def _read_ragged(self, name: str, values: tf.RaggedTensor) -> FieldKeys:
        self._check_combiner(name)
        if values.ragged_rank != 1 or len(values.flat_values.shape) != 1:
            raise InputError(
                f"{_label(name)} is ragged of shape {values.shape}: give lists [batch, None]"
            )
        flat = tf.cast(values.flat_values, tf.int64)
        lists = tf.cast(values.value_rowids(), tf.int32)
        count = tf.cast(values.nrows(), tf.int32)
        return FieldKeys(flat, lists, count, count[tf.newaxis], values.shape[:1], self.combiner)

    def _check_combiner(self, name: str) -> None:
        if self.combiner is None:
            raise InputError(
                f"{_label(name)} is ragged and needs a combiner: 'sum', 'mean' or 'sqrtn'"
            )


def validate_combiner(combiner: str | None) -> Combiner | None:
    """Return the argument.

    Raises:
        InputError: it is not None, "sum", "mean" or "sqrtn".
    """
    if combiner is None or combiner in get_args(Combiner):
        return cast(Combiner | None, combiner)
    raise InputError(f"combiner is {combiner!r}: give None, 'sum', 'mean' or 'sqrtn'")


def pool(vectors: tf.Tensor, lists: tf.Tensor, count: tf.Tensor, combiner: Combiner) -> tf.Tensor:
    """Return one vector per list, float32 [count, dim]; an empty list gives zeros.

    For a list of k values, with or without a row: the sum, the sum / k (`mean`) or the sum / √k
    (`sqrtn`), as in `tf.nn.embedding_lookup_sparse` with weights of 1.

    Args:
        vectors: float32 [m, dim], of all lists.
        lists: int32 [m], the list of each vector, ascending.
        count: int32 scalar, the number of lists.
        combiner: the pooling.
    """
    # `segment_sum` does not know the number of lists: empty ones at the end would be missing.
    summed = tf.math.unsorted_segment_sum(vectors, lists, count)
    if combiner == "sum":
        return summed
    ones = tf.ones_like(lists, summed.dtype)  # 16-bit in mixed precision
    sizes = tf.math.unsorted_segment_sum(ones, lists, count)[:, tf.newaxis]
    # An empty list has size 0: `divide_no_nan` gives zeros, where a division would give NaN.
    return tf.math.divide_no_nan(summed, sizes if combiner == "mean" else tf.sqrt(sizes))


def field_names(inputs: Any) -> tuple[str, ...]:
    """Return the fields' names of inputs, or of their shapes or specs, in the order of the keys."""
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
    """Return the salt of a vocabulary's keys, a signed 64-bit integer; 0 for the only field."""
    if vocabulary == ONLY_FIELD:
        return 0
    # Not Python's `hash`, which differs from process to process: saved keys contain the salt.
    digest = hashlib.blake2b(vocabulary.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _integers(name: str, values: Any) -> Any:
    if isinstance(values, list | tuple):
        raise InputError(
            f"{_label(name)} is a list of tensors: give a dictionary of tensors by field name"
        )
    if not isinstance(values, tf.RaggedTensor | keras.KerasTensor):
        values = tf.convert_to_tensor(values)
    dtype = keras.backend.standardize_dtype(values.dtype)
    if dtype not in _KEY_DTYPES:
        hint = "give keras.Input(..., dtype='int64')"
        if dtype == "string":
            hint = "hash strings to int64 first, such as with tf.strings.to_hash_bucket_fast"
        raise InputError(f"{_label(name)} is {dtype}, but keys are integers: {hint}")
    return values


def _label(name: str) -> str:
    return f"input {name!r}" if name else "the input"
