"""The relation network: how every two fields of an impression go together, by one shared symmetric matrix.

It takes the place of declared crosses of ids: d (d + 1) / 2 numbers a head in place of a row for every pair of values seen.
"From Massive to Compact" describes it in words only (self-attention's idea, one interaction matrix for all pairs,
symmetric, inside the deep part); the closest published formula is FiBiNET's Field-All (Huang et al., RecSys 2019), which is
not symmetric. So this is a choice:

    S = ½ (M + Mᵀ),  or of rank r:  S = U diag(s) Uᵀ
    vector relation   R_ij = ½ [(S v_i) ∘ v_j + (S v_j) ∘ v_i]        R_ij = R_ji to the bit
    scalar relation   r_ij = Σ R_ij / √d = v_iᵀ S v_j / √d
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from features.errors import InputError
from training.data.arrays import Arrays
from training.data.layout import Layout
from training.settings import RelationNetworkSettings

_MATRIX, _BASIS, _SCALES = "relation/matrix", "relation/basis", "relation/scales"


@dataclass(frozen=True)
class RelationNetwork:
    """Relations of all pairs of the named fields.

    Args:
        layout: where the fields lie.
        dim: width of their vectors, d.
        settings: fields, heads, rank, form.

    Raises:
        InputError: a field is not one of the schema's id fields, there are fewer than two, or the rank exceeds the width.
    """

    layout: Layout
    dim: int
    settings: RelationNetworkSettings

    def __post_init__(self) -> None:
        unknown = sorted(set(self.names) - set(self.layout.keyed))
        if unknown:
            raise InputError(
                f"model.relations names {unknown}: the schema's id fields are {list(self.layout.keyed)}"
            )
        if len(self.names) < 2:
            raise InputError(
                "model.relations needs two id fields or more: name them, or say `fields: all`"
            )
        if self.settings.rank and self.settings.rank > self.dim:
            raise InputError(
                f"model.relations.rank {self.settings.rank} exceeds the width {self.dim} of the vectors: lower it"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The fields, in the order of the layout."""
        named = self.settings.fields
        return self.layout.keyed if named == "all" else tuple(dict.fromkeys(named))

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Every two of the fields, once."""
        return tuple(combinations(self.names, 2))

    @property
    def widths(self) -> list[tuple[str, int]]:
        """Names and widths of what it gives, pair by pair."""
        width = self.settings.heads * (1 if self.settings.form == "scalar" else self.dim)
        return [(f"relation:{left}×{right}", width) for left, right in self.pairs]

    def fresh(self, draw: np.random.Generator) -> Arrays:
        """Return a matrix near the identity for each head: at first a relation is an inner product."""
        heads, rank, d = self.settings.heads, self.settings.rank, self.dim
        if rank is None:
            return {_MATRIX: np.eye(d, dtype=np.float32) + _noise(draw, (heads, d, d))}
        return {
            _BASIS: _noise(draw, (heads, d, rank)) * np.float32(1 / _NOISE / d**0.5),
            _SCALES: np.ones((heads, rank), np.float32),
        }

    def outputs(self, weights: Mapping[str, tf.Tensor], vectors: tf.Tensor) -> tf.Tensor:
        """Return the relations of every pair.

        Args:
            weights: by name, as `fresh` gave them.
            vectors: float32 [b, F, d], of all id fields.

        Returns:
            float32 [b, pairs · heads] or, as vectors, [b, pairs · heads · d], pair by pair.
        """
        at = [self.layout.keyed.index(name) for name in self.names]
        chosen = tf.gather(vectors, at, axis=1)
        turned = self._turned(weights, chosen)
        left, right = np.triu_indices(len(at), 1)
        v, u = tf.expand_dims(chosen, 2), turned
        related = 0.5 * (
            tf.gather(u, left, axis=1) * tf.gather(v, right, axis=1)
            + tf.gather(u, right, axis=1) * tf.gather(v, left, axis=1)
        )
        if self.settings.form == "scalar":
            related = tf.reduce_sum(related, axis=3) / self.dim**0.5
        return tf.reshape(related, [tf.shape(vectors)[0], sum(width for _, width in self.widths)])

    def _turned(self, weights: Mapping[str, tf.Tensor], vectors: tf.Tensor) -> tf.Tensor:
        """S v of every field and head, float32 [b, n, heads, d]."""
        if self.settings.rank is None:
            matrix = tf.convert_to_tensor(weights[_MATRIX])
            return tf.einsum(
                "bnd,hde->bnhe", vectors, 0.5 * (matrix + tf.transpose(matrix, [0, 2, 1]))
            )
        basis = tf.convert_to_tensor(weights[_BASIS])
        inner = tf.einsum("bnd,hdr->bnhr", vectors, basis) * weights[_SCALES]
        return tf.einsum("bnhr,hdr->bnhd", inner, basis)


_NOISE = 0.01


def _noise(draw: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return draw.normal(0, _NOISE, shape).astype(np.float32)
