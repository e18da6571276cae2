"""Codebooks for product quantization: k-means on each piece of the rows, weighted by how often the rows are read."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import pairwise_distances_argmin
from threadpoolctl import threadpool_limits

from compression.steps.settings import ProductCodes
from training.packed.product import Product

Floats = NDArray[np.float32]
Weights = NDArray[np.float64]

_PER_ENTRY = 256
"""Rows that k-means sees for each entry, at most; more change little (the same as `max_points_per_centroid` of Faiss)."""


def coded(rows: Floats, counts: NDArray[np.int64], settings: ProductCodes) -> Product:
    """Return rows float32 [n, d] as codes. The same rows, counts and settings give the same bits.

    Each piece's entries lessen Σ count · ‖piece - entry‖², the least of it that k-means finds from one start (k-means++). A piece
    of zeros has code 0, and pieces of at most `settings.codes - 1` other values are exact, but for rounding to half precision.

    Args:
        rows: finite and within ±65,504.
        counts: int64 [n], how often each row is read; 0 counts as 1.
        settings: values a piece, entries, iterations, seed.

    Raises:
        ValueError: a value is not finite or too large for half precision.
    """
    if not np.all(np.abs(rows) <= np.finfo(np.float16).max):
        raise ValueError(
            "rows hold values that are not finite or beyond ±65504, which half precision cannot hold"
        )
    pieces, columns = shape_of(rows.shape[1], settings)
    laid = np.pad(rows, ((0, 0), (0, pieces * columns - rows.shape[1]))).reshape(
        len(rows), pieces, columns
    )
    weights = np.maximum(counts, 1).astype(np.float64)
    with threadpool_limits(1):  # sums by several threads come in no fixed order
        fitted = [_piece(laid[:, number], weights, settings) for number in range(pieces)]
    entries = max(len(book) for _, book in fitted)
    books = [np.pad(book, ((0, entries - len(book)), (0, 0))) for _, book in fitted]
    return Product(rows.shape[1], np.stack([codes for codes, _ in fitted], axis=1), np.stack(books))


def shape_of(width: int, settings: ProductCodes) -> tuple[int, int]:
    """Return how many pieces a row of a width has, and of how many columns, the last one filled up."""
    columns = min(settings.columns, width)
    return -(-width // columns), columns


def _piece(
    points: Floats, weights: Weights, settings: ProductCodes
) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Codes [n] and entries [k, c] of one piece, float32 [n, c]."""
    distinct, where = np.unique(points, axis=0, return_inverse=True)
    entries = _entries(
        distinct, np.bincount(where, weights, len(distinct)).astype(np.float64), settings
    )
    codes = (
        pairwise_distances_argmin(distinct.astype(np.float64), entries.astype(np.float64))
        if len(distinct)
        else where
    )
    codes[~distinct.any(axis=1)] = 0
    return codes[where].astype(np.uint8), entries


def _entries(distinct: Floats, weights: Weights, settings: ProductCodes) -> NDArray[np.float16]:
    """Entries float16 [k, c], zero first; of distinct points as many as there are, if they are few enough."""
    nonzero = distinct.any(axis=1)
    points, weights = distinct[nonzero], weights[nonzero]
    if len(points) >= settings.codes:
        points = _centres(points, weights, settings)
    return np.concatenate([np.zeros((1, distinct.shape[1]), np.float16), points.astype(np.float16)])


def _centres(points: Floats, weights: Weights, settings: ProductCodes) -> Floats:
    """Centres of `codes - 1` clusters; of many points a sample is clustered, drawn by weight, so that it counts as they do."""
    most = _PER_ENTRY * settings.codes
    if len(points) > most:
        drawn = np.random.default_rng(settings.seed).choice(
            len(points), most, p=weights / weights.sum()
        )
        chosen, times = np.unique(drawn, return_counts=True)
        points, weights = points[chosen], times.astype(np.float64)
    if len(points) < settings.codes:
        return points
    means = KMeans(
        settings.codes - 1, n_init=1, max_iter=settings.iterations, random_state=settings.seed
    )
    centres: Floats = means.fit(points.astype(np.float64), sample_weight=weights).cluster_centers_
    return centres
