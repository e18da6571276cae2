"""Rows that are codes of a codebook, in a graph."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from training.packed.product import Product


class StoredCodes(tf.Module):
    """A `Product` in a graph, behind a row 0 that reads as zero: entry 0 of every piece is that.

    Args:
        product: what is stored.
    """

    def __init__(self, product: Product) -> None:
        super().__init__()
        pieces, entries, columns = product.codebook.shape
        self._width, self._laid = product.width, pieces * columns
        self._first = (np.arange(pieces) * entries).astype(
            np.int32
        )  # of each piece, in one list of all entries
        self._codes = tf.Variable(np.pad(product.codes, ((1, 0), (0, 0))), trainable=False)
        self._entries = tf.Variable(product.codebook.reshape(-1, columns), trainable=False)

    def gather(self, rows: tf.Tensor) -> tf.Tensor:
        """Return float32 [n, width] of rows int [n]."""
        places = tf.cast(tf.gather(self._codes, rows), tf.int32) + self._first
        found = tf.reshape(tf.gather(self._entries, places), [-1, self._laid])
        return tf.cast(found[:, : self._width], tf.float32)
