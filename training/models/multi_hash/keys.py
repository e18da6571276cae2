"""From an id's key to the keys of its rows, and from the rows to its vector.

Row r of table t of a vocabulary has the key `mix64(r ^ salt(vocabulary, t))`, an ordinary key of
the elastic table. Mixing is a bijection, so the rows of one table never collide; rows of two tables
or fields collide as rarely as any two 64-bit hashes. Keys are derived in NumPy for training and in
TensorFlow for the export, with the same bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from elastic_embeddings.core.hashing import GOLDEN, MULTIPLIERS, mix64
from features.errors import InputError
from features.schema import KeyField, vocabulary_of
from training.models.multi_hash.settings import (
    MultiHashSettings,
    distinct_weights,
    has_dedicated_rows,
    multi_hash_of,
    table_rows,
    weight_rows,
)

Keys = TypeVar("Keys", NDArray[np.int64], tf.Tensor)
Mixer = Callable[[Keys, int], Keys]
"""`mix64(keys ^ salt)` of int64 keys and a salt of 64 bits, as int64."""

# The low 63 bits. A non-negative number, so that `%` is the same in NumPy and TensorFlow.
_POSITIVE = 2**63 - 1


def field_keys(keys: NDArray[np.int64], field: KeyField) -> NDArray[np.int64]:
    """Return the keys of the rows of each value of a multi-hash field of the schema.

    Args:
        keys: int64 [n], of the values, as from `features.keys`.
        field: a categorical field with `multi_hash`.

    Returns:
        int64 [n, k] of the hashed rows; with `own_rows` [n, k + 1], the value's own key last.
    """
    hashed = derived_keys(keys, multi_hash_of(field), vocabulary_of(field))
    return np.concatenate([hashed, keys[:, None]], axis=1) if has_dedicated_rows(field) else hashed


def field_keys_graph(keys: tf.Tensor, field: KeyField) -> tf.Tensor:
    """Return the same as `field_keys`, in stock operations on int64 tensors."""
    hashed = derived_keys_graph(keys, multi_hash_of(field), vocabulary_of(field))
    return tf.concat([hashed, keys[:, None]], axis=1) if has_dedicated_rows(field) else hashed


def derived_keys(
    keys: NDArray[np.int64],
    settings: MultiHashSettings,
    vocabulary: str,
    dedicated: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Return the keys of the rows of each id's vector, int64 [n, k].

    Args:
        keys: int64 [n], any key; for `remainders` the dense index of the id, modulo `ids`, so that
            an unknown index never fails.
        settings: of the field.
        vocabulary: name of the field's vocabulary; two vocabularies share no row.
        dedicated: bool [n], ids with dedicated rows instead of shared ones: k times the id's own
            key, or with `concat`, where each chunk is a row, k keys that no other id has.

    Raises:
        InputError: see `settings.table_rows`.
    """
    hashed = np.stack(_hashed(keys, settings, vocabulary, mixed), axis=1)
    if dedicated is None:
        return hashed
    chunks = [mixed(keys, _salt(vocabulary, "own", place)) for place in range(settings.hashes)]
    own = np.stack(chunks, axis=1) if settings.combine == "concat" else keys[:, None]
    return np.where(dedicated[:, None], own, hashed)


def derived_keys_graph(keys: tf.Tensor, settings: MultiHashSettings, vocabulary: str) -> tf.Tensor:
    """Return the same as `derived_keys`, in stock operations on int64 tensors."""
    return tf.stack(_hashed(keys, settings, vocabulary, mixed_graph), axis=1)


def weight_keys(
    keys: NDArray[np.int64], settings: MultiHashSettings, vocabulary: str
) -> NDArray[np.int64]:
    """Return the key of each id's row of k importance weights, int64 [n]."""
    # A separate row for each dense index if the table has enough, else a hashed one.
    row = keys % settings.ids if settings.ids else keys
    if not distinct_weights(settings):
        row = _bucket(row, _salt(vocabulary, "weight hash", 0), weight_rows(settings), mixed)
    return mixed(row, _salt(vocabulary, "weights", 0))


def mixed(keys: NDArray[np.int64], salt: int) -> NDArray[np.int64]:
    """Return `mix64(keys ^ salt)` as int64, in the shape of `keys`."""
    bits = np.ascontiguousarray(keys, np.int64).view(np.uint64)
    return mix64(bits ^ np.uint64(salt)).view(np.int64)


def mixed_graph(keys: tf.Tensor, salt: int) -> tf.Tensor:
    """Return the same as `mixed`, on int64 tensors."""

    def signed(bits: int) -> tf.Tensor:
        return tf.constant(bits - (1 << 64) if bits >> 63 else bits, tf.int64)

    # int64 arithmetic wraps around as uint64 does. Only the right shift differs: it copies the
    # sign bit, which is cleared here.
    def shifted(bits: tf.Tensor, by: int) -> tf.Tensor:
        arithmetic = tf.bitwise.right_shift(bits, tf.constant(by, tf.int64))
        return tf.bitwise.bitwise_and(arithmetic, (1 << (64 - by)) - 1)

    bits = tf.bitwise.bitwise_xor(keys, signed(salt)) + signed(int(GOLDEN))
    for multiplier, by in zip(MULTIPLIERS, (30, 27), strict=True):
        bits = tf.bitwise.bitwise_xor(bits, shifted(bits, by)) * signed(int(multiplier))
    return tf.bitwise.bitwise_xor(bits, shifted(bits, 31))


def combine(
    vectors: tf.Tensor,
    settings: MultiHashSettings,
    weights: tf.Tensor | None = None,
    dedicated: tf.Tensor | None = None,
) -> tf.Tensor:
    """Return the vector of each id.

    `sum`: Σ_j v_j; `concat`: v_1 ++ ... ++ v_k; `weighted`: Σ_j w_j v_j (Svenstrup et al., NeurIPS
    2017). The vector of an id with dedicated rows is its own row, without a weight, or the
    concatenation of its chunks.

    Args:
        vectors: float32 [..., k, w], rows of `derived_keys`.
        settings: of the field.
        weights: float32 [..., k], rows of `weight_keys`; for `weighted` only.
        dedicated: bool [...], as given to `derived_keys`.

    Returns:
        float32 [..., w]; [..., k * w] for `concat`.

    Raises:
        InputError: weights are missing, or given but not used, or there are not k rows.
    """
    if vectors.shape[-2] != settings.hashes:
        raise InputError(
            f"multi-hash: an id is made of {settings.hashes} rows, got vectors of shape "
            f"{vectors.shape}: look up derived keys"
        )
    if (weights is None) == (settings.combine == "weighted"):
        state = "need the weights of the ids" if weights is None else "take no weights"
        raise InputError(
            f"multi-hash: vectors that are combined by `{settings.combine}` {state}; see "
            "`weight_keys`"
        )
    if settings.combine == "concat":
        width = vectors.shape[-2] * vectors.shape[-1]
        return tf.reshape(vectors, tf.concat([tf.shape(vectors)[:-2], [width]], axis=0))
    weighted = vectors if weights is None else vectors * weights[..., None]
    total = tf.reduce_sum(weighted, axis=-2)
    return total if dedicated is None else tf.where(dedicated[..., None], vectors[..., 0, :], total)


def _hashed(keys: Keys, settings: MultiHashSettings, vocabulary: str, mixer: Mixer) -> list[Keys]:
    """Return the keys int64 [n] of each id's row in one table after the other."""
    columns = []
    for place, rows in enumerate(table_rows(settings)):
        if settings.kind == "remainders":
            row = keys % (settings.ids or 1) % rows
        else:
            row = _bucket(keys, _salt(vocabulary, "hash", place), rows, mixer)
        columns.append(mixer(row, _salt(vocabulary, "table", 0 if settings.shared else place)))
    return columns


def _bucket(keys: Keys, salt: int, rows: int, mixer: Mixer) -> Keys:
    return (mixer(keys, salt) & _POSITIVE) % rows


def _salt(vocabulary: str, role: str, place: int) -> int:
    """Return 64 bits that are different for each vocabulary, role and place."""
    # A cryptographic hash, so that the salts of similar names are unrelated.
    text = f"{vocabulary}\x1f{role}\x1f{place}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
