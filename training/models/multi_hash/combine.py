"""From the k rows of an id to its vector, in ops that the trained and the exported graph share."""

from __future__ import annotations

import tensorflow as tf

from features.errors import InputError
from training.models.multi_hash.settings import MultiHashSettings


def combine(
    vectors: tf.Tensor,
    settings: MultiHashSettings,
    weights: tf.Tensor | None = None,
    own: tf.Tensor | None = None,
) -> tf.Tensor:
    """Return the vector of each id.

    `sum`: Σ_j v_j; `multiply`: Π_j v_j, elementwise; `concat`: v_1 ++ … ++ v_k; `weighted`: Σ_j w_j v_j (Svenstrup et al.,
    NeurIPS 2017). An id with rows of its own is its own row alone, with no weight, or the concatenation of its own chunks.

    Args:
        vectors: float32 [..., k, w], rows of `derived_keys`.
        settings: of the field.
        weights: float32 [..., k], rows of `weight_keys`; for `weighted` only.
        own: bool [...], the same as `derived_keys` was given.

    Returns:
        float32 [..., w]; [..., k * w] for `concat`.

    Raises:
        InputError: weights are missing, or given where nothing is weighted, or the rows are not k.
    """
    _check(vectors, settings, weights)
    if settings.combine == "concat":
        return tf.reshape(
            vectors,
            tf.concat([tf.shape(vectors)[:-2], [vectors.shape[-2] * vectors.shape[-1]]], axis=0),
        )
    hashed = _hashed(vectors, settings, weights)
    return hashed if own is None else tf.where(own[..., None], vectors[..., 0, :], hashed)


def _hashed(
    vectors: tf.Tensor, settings: MultiHashSettings, weights: tf.Tensor | None
) -> tf.Tensor:
    if settings.combine == "multiply":
        return tf.reduce_prod(vectors, axis=-2)
    return tf.reduce_sum(vectors if weights is None else vectors * weights[..., None], axis=-2)


def _check(vectors: tf.Tensor, settings: MultiHashSettings, weights: tf.Tensor | None) -> None:
    if vectors.shape[-2] != settings.hashes:
        raise InputError(
            f"multi-hash: an id is made of {settings.hashes} rows, got vectors of shape {vectors.shape}: look up derived keys"
        )
    if (weights is None) == (settings.combine == "weighted"):
        state = "need the weights of the ids" if weights is None else "take no weights"
        raise InputError(
            f"multi-hash: vectors that are combined by `{settings.combine}` {state}; see `weight_keys`"
        )
