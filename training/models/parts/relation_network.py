"""The relation network: interactions of every two fields by one shared symmetric matrix.

It replaces declared crosses of ids: d (d + 1) / 2 numbers per head in place of a row for every pair
of values seen. "From Massive to Compact" describes it only in words (the idea of self-attention,
one interaction matrix for all pairs, symmetric, inside the deep part). The closest published
formula, FiBiNET's Field-All (Huang et al., RecSys 2019), is not symmetric, so this is a choice:

    S = ½ (M + Mᵀ),  or of rank r:  S = U diag(s) Uᵀ
    vector relation   R_ij = ½ [(S v_i) ∘ v_j + (S v_j) ∘ v_i]        R_ij = R_ji to the bit
    scalar relation   r_ij = Σ R_ij / √d = v_iᵀ S v_j / √d
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import tensorflow as tf

from features.errors import InputError
from training.data.arrays import Arrays
from training.data.layout import FieldLayout
from training.settings import RelationNetworkSettings

_MATRIX, _BASIS, _SCALES = "relation/matrix", "relation/basis", "relation/scales"
_NOISE = 0.01

Gradient = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]

_ONE_THREAD = 128 * 128
"""Products of up to so many multiplications are done by one thread each (TensorFlow 2.21,
`kMaxCostOuterParallelism` of its batched product)."""


@dataclass(frozen=True)
class RelationNetwork:
    """Relations of all pairs of the named fields.

    Args:
        layout: the order of the fields.
        dim: width of their vectors, d.
        settings: fields, heads, rank, form.

    Raises:
        InputError: a field is not one of the schema's id fields, there are fewer than two, or the
            rank exceeds the width.
    """

    layout: FieldLayout
    dim: int
    settings: RelationNetworkSettings

    def __post_init__(self) -> None:
        unknown = sorted(set(self.names) - set(self.layout.keyed))
        if unknown:
            raise InputError(
                f"model.relations names {unknown}: the schema's id fields are "
                f"{list(self.layout.keyed)}"
            )
        if len(self.names) < 2:
            raise InputError(
                "model.relations needs two id fields or more: name them, or use `fields: all`"
            )
        if self.settings.rank and self.settings.rank > self.dim:
            raise InputError(
                f"model.relations.rank {self.settings.rank} exceeds the width {self.dim} of the "
                "vectors: lower it"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The fields: all in the order of the layout, or the named ones without repeats."""
        named = self.settings.fields
        return self.layout.keyed if named == "all" else tuple(dict.fromkeys(named))

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Every two of the fields, once."""
        return tuple(combinations(self.names, 2))

    @property
    def widths(self) -> list[tuple[str, int]]:
        """Names and widths of the outputs, pair by pair."""
        width = self.settings.heads * (1 if self.settings.form == "scalar" else self.dim)
        return [(f"relation:{left}×{right}", width) for left, right in self.pairs]

    def initial_weights(self, draw: np.random.Generator) -> Arrays:
        """Return a matrix near the identity per head: a relation starts as an inner product."""
        heads, rank, d = self.settings.heads, self.settings.rank, self.dim
        if rank is None:
            noise = draw.normal(0, _NOISE, (heads, d, d)).astype(np.float32)
            return {_MATRIX: np.eye(d, dtype=np.float32) + noise}
        noise = draw.normal(0, _NOISE, (heads, d, rank)).astype(np.float32)
        return {
            # Entries of variance 1 / d: U Uᵀ is a multiple of the identity in expectation.
            _BASIS: noise * np.float32(1 / _NOISE / d**0.5),
            _SCALES: np.ones((heads, rank), np.float32),
        }

    def outputs(self, weights: Mapping[str, tf.Tensor], vectors: tf.Tensor) -> tf.Tensor:
        """Return the relations of every pair.

        Args:
            weights: by name, as from `initial_weights`.
            vectors: float32 [b, F, d], of all id fields.

        Returns:
            float32 [b, pairs · heads] or, as vectors, [b, pairs · heads · d], pair by pair.
        """
        # 1. S v of every field and head, float32 [b, n, heads, d].
        positions = [self.layout.keyed.index(name) for name in self.names]
        chosen = tf.gather(vectors, positions, axis=1)
        if self.settings.rank is None:
            matrix = tf.convert_to_tensor(weights[_MATRIX])
            symmetric = 0.5 * (matrix + tf.transpose(matrix, [0, 2, 1]))
            u = _times(chosen, symmetric)
        else:
            basis = tf.convert_to_tensor(weights[_BASIS])
            inner = _times(chosen, basis) * weights[_SCALES]
            heads, rank = self.settings.heads, self.settings.rank
            # Each head has its own vectors here: heads take the place of fields, fields of rows.
            by_head = tf.reshape(tf.transpose(inner, [2, 0, 1, 3]), [heads, -1, 1, rank])
            u = tf.stack(
                [
                    _times(by_head[h], tf.transpose(basis[h : h + 1], [0, 2, 1]))
                    for h in range(heads)
                ]
            )
            u = tf.reshape(u, [heads, -1, len(positions), self.dim])
            u = tf.transpose(u, [1, 2, 0, 3])

        # 2. The relation of every pair. Both products are summed, so that R_ij and R_ji have the
        #    same bits.
        left, right = np.triu_indices(len(positions), 1)
        v = tf.expand_dims(chosen, 2)
        related = 0.5 * (
            tf.gather(u, left, axis=1) * tf.gather(v, right, axis=1)
            + tf.gather(u, right, axis=1) * tf.gather(v, left, axis=1)
        )
        if self.settings.form == "scalar":
            related = tf.reduce_sum(related, axis=3) / self.dim**0.5
        return tf.reshape(related, [tf.shape(vectors)[0], sum(width for _, width in self.widths)])


@tf.custom_gradient
def _times(vectors: tf.Tensor, matrices: tf.Tensor) -> tuple[tf.Tensor, Gradient]:
    """Return the product of every vector with every matrix.

    As einsum("bnd,hde->bnhe"), but the gradient of the matrices has the same bits for any number of
    threads. Einsum's is one product as deep as the batch, which TensorFlow 2.21 splits by thread;
    here it is a sum of products of so few rows that each is done by one thread.

    Args:
        vectors: float32 [b, n, d].
        matrices: float32 [h, d, e].

    Returns:
        float32 [b, n, h, e], and its gradient.
    """
    heads, d, e = matrices.shape
    flat = tf.reshape(tf.transpose(matrices, [1, 0, 2]), [d, heads * e])
    rows = tf.reshape(vectors, [-1, d])
    product = tf.matmul(rows, flat)

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        given = tf.reshape(upstream, [-1, heads * e])
        each = max(1, _ONE_THREAD // (d * heads * e))
        # Rows of zeros fill the last block.
        missing = -tf.shape(rows)[0] % each
        left, right = (
            tf.reshape(tf.pad(part, [[0, missing], [0, 0]]), [-1, each, part.shape[1]])
            for part in (rows, given)
        )
        of_flat = tf.reduce_sum(tf.matmul(left, right, transpose_a=True), axis=0)
        of_matrices = tf.transpose(tf.reshape(of_flat, [d, heads, e]), [1, 0, 2])
        of_rows = tf.matmul(given, flat, transpose_b=True)
        return tf.reshape(of_rows, tf.shape(vectors)), of_matrices

    shape = [tf.shape(vectors)[0], vectors.shape[1], heads, e]
    return tf.reshape(product, shape), gradient
