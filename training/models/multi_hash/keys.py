"""From an id's key to the keys of the rows that its vector is made of, in NumPy for training and in TensorFlow for the export.

Row r of table t of a vocabulary has the key `mix64(r ^ salt(vocabulary, t))`: an ordinary key of the elastic table. Mixing is a
bijection, so the rows of one table never clash; those of two tables or fields do as rarely as any two 64-bit hashes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from elastic_embeddings.core.hashing import mix64
from training.models.multi_hash.settings import MultiHashSettings
from training.models.multi_hash.tables import distinct_weights, table_rows, weight_rows

Keys = TypeVar("Keys", NDArray[np.int64], tf.Tensor)
Mixer = Callable[[Keys, int], Keys]
"""`mix64(keys ^ salt)` of int64 keys and a salt of 64 bits, as int64."""


def derived_keys(
    keys: NDArray[np.int64],
    settings: MultiHashSettings,
    vocabulary: str,
    own: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Return the keys of the rows that each id's vector is made of.

    Args:
        keys: int64 [n], any key; where `settings.ids` is given, the dense index of the id (what lies outside of
            0 … ids - 1 is wrapped around, so that an unknown index never fails).
        settings: of the field.
        vocabulary: name of the field's vocabulary; two vocabularies share no row.
        own: bool [n], ids that keep rows of their own. Such an id's own key stands in every place; with `concat`, where
            every chunk is a row, k keys of its own.

    Returns:
        int64 [n, k].

    Raises:
        InputError: see `tables.table_rows`.
    """
    hashed = np.stack(list(_hashed(keys, settings, vocabulary, mixed)), axis=1)
    if own is None:
        return hashed
    return np.where(
        own[:, None], np.stack(list(_own(keys, settings, vocabulary, mixed)), axis=1), hashed
    )


def derived_keys_graph(
    keys: tf.Tensor, settings: MultiHashSettings, vocabulary: str, own: tf.Tensor | None = None
) -> tf.Tensor:
    """Return what `derived_keys` returns, to the bit, in stock operations on int64 tensors."""
    hashed = tf.stack(list(_hashed(keys, settings, vocabulary, mixed_graph)), axis=1)
    if own is None:
        return hashed
    return tf.where(
        own[:, None], tf.stack(list(_own(keys, settings, vocabulary, mixed_graph)), axis=1), hashed
    )


def weight_keys(
    keys: NDArray[np.int64], settings: MultiHashSettings, vocabulary: str
) -> NDArray[np.int64]:
    """Return the key of each id's row of k importance weights, int64 [n]; dense indices are wrapped around.

    Raises:
        InputError: see `tables.table_rows`.
    """
    return _weight(keys, settings, vocabulary, mixed)


def weight_keys_graph(keys: tf.Tensor, settings: MultiHashSettings, vocabulary: str) -> tf.Tensor:
    """Return what `weight_keys` returns, to the bit, in stock operations on int64 tensors."""
    return _weight(keys, settings, vocabulary, mixed_graph)


def frequent(
    keys: NDArray[np.int64], counts: NDArray[np.int64], settings: MultiHashSettings
) -> NDArray[np.int64]:
    """Return the keys that keep rows of their own, int64, ascending and distinct.

    Args:
        keys: int64 [n], distinct.
        counts: int64 [n], how often each was seen.
        settings: `own_rows_from_count` decides; without it no key is frequent.
    """
    least = settings.own_rows_from_count
    return np.unique(keys[counts >= least]) if least is not None else np.zeros(0, np.int64)


def mixed(keys: NDArray[np.int64], salt: int) -> NDArray[np.int64]:
    """Return `mix64(keys ^ salt)` as int64, in the shape of `keys`."""
    bits = np.ascontiguousarray(keys, np.int64).view(np.uint64)
    return mix64(bits ^ np.uint64(salt)).view(np.int64)


def mixed_graph(keys: tf.Tensor, salt: int) -> tf.Tensor:
    """Return what `mixed` returns: int64 arithmetic wraps around as uint64 does, only the shift has to be made unsigned."""
    bits = tf.bitwise.bitwise_xor(keys, _signed(salt)) + _signed(_GOLDEN)
    bits = tf.bitwise.bitwise_xor(bits, _shifted(bits, 30)) * _signed(_FIRST)
    bits = tf.bitwise.bitwise_xor(bits, _shifted(bits, 27)) * _signed(_SECOND)
    return tf.bitwise.bitwise_xor(bits, _shifted(bits, 31))


_GOLDEN, _FIRST, _SECOND = (
    0x9E3779B97F4A7C15,
    0xBF58476D1CE4E5B9,
    0x94D049BB133111EB,
)  # of `elastic_embeddings.core.hashing`
_POSITIVE = 2**63 - 1  # the low 63 bits, as a number that `%` takes the same way everywhere


def _hashed(
    keys: Keys, settings: MultiHashSettings, vocabulary: str, mixer: Mixer
) -> Iterator[Keys]:
    """One column of row keys after the other, int64 [n]."""
    for place, row in enumerate(_rows(keys, settings, vocabulary, mixer)):
        table = 0 if settings.shared else place
        yield mixer(row, _salt(vocabulary, "table", table))


def _rows(keys: Keys, settings: MultiHashSettings, vocabulary: str, mixer: Mixer) -> Iterator[Keys]:
    """The row of each id in one table after the other: digits of the index, or salted hashes."""
    dense = settings.ids if settings.kind != "hash" else None
    rest = keys % dense if dense else keys
    for place, rows in enumerate(table_rows(settings)):
        yield rest % rows if dense else _bucket(keys, _salt(vocabulary, "hash", place), rows, mixer)
        rest = rest // rows if settings.kind == "quotient_remainder" else rest


def _own(keys: Keys, settings: MultiHashSettings, vocabulary: str, mixer: Mixer) -> Iterator[Keys]:
    for place in range(settings.hashes):
        yield mixer(keys, _salt(vocabulary, "own", place)) if settings.combine == "concat" else keys


def _weight(keys: Keys, settings: MultiHashSettings, vocabulary: str, mixer: Mixer) -> Keys:
    index = keys % settings.ids if settings.ids else keys
    rows = weight_rows(settings)
    row = (
        index
        if distinct_weights(settings)
        else _bucket(index, _salt(vocabulary, "weight hash", 0), rows, mixer)
    )
    return mixer(row, _salt(vocabulary, "weights", 0))


def _bucket(keys: Keys, salt: int, rows: int, mixer: Mixer) -> Keys:
    return (mixer(keys, salt) & _POSITIVE) % rows


def _salt(vocabulary: str, role: str, place: int) -> int:
    """64 bits that no other vocabulary, role or place has."""
    text = f"{vocabulary}\x1f{role}\x1f{place}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _shifted(bits: tf.Tensor, places: int) -> tf.Tensor:
    return tf.bitwise.bitwise_and(
        tf.bitwise.right_shift(bits, tf.constant(places, tf.int64)), (1 << (64 - places)) - 1
    )


def _signed(bits: int) -> tf.Tensor:
    return tf.constant(bits - (1 << 64) if bits >> 63 else bits, tf.int64)
