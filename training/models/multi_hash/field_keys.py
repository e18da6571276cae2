"""From the values of a multi-hash field of the schema to the keys of their rows, in NumPy for training and in TensorFlow."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from features.schema import KeyField, has_own_rows, vocabulary_of
from training.models.multi_hash.keys import derived_keys, derived_keys_graph
from training.models.multi_hash.settings import multi_hash_of


def field_keys(keys: NDArray[np.int64], field: KeyField) -> NDArray[np.int64]:
    """Return the keys of the rows that each value of a field has.

    Args:
        keys: int64 [n], of the values, as `features.keys` gives them.
        field: a categorical one with `multi_hash`.

    Returns:
        int64 [n, k], those of the hashed rows; with `own_rows` [n, k + 1], the value's own key last.
    """
    hashed = derived_keys(keys, multi_hash_of(field), vocabulary_of(field))
    return np.concatenate([hashed, keys[:, None]], axis=1) if has_own_rows(field) else hashed


def field_keys_graph(keys: tf.Tensor, field: KeyField) -> tf.Tensor:
    """Return what `field_keys` returns, to the bit, in stock operations on int64 tensors."""
    hashed = derived_keys_graph(keys, multi_hash_of(field), vocabulary_of(field))
    return tf.concat([hashed, keys[:, None]], axis=1) if has_own_rows(field) else hashed
