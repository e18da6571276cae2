"""Step `product`: rows as codes of a codebook (`training.packed.pq`).

The codebooks are found by k-means on each piece of the rows, weighted by how often they are read.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import pairwise_distances_argmin
from threadpoolctl import threadpool_limits

from compression.steps.quantize import stored_slabs
from compression.steps.settings import ProductCodes
from compression.steps.step import CompressionState, Plan, Step
from training.packed.matrix import Form, Matrix
from training.packed.pq import Product
from training.packed.rows import Band, PackedSlab

Floats = NDArray[np.float32]
Weights = NDArray[np.float64]

_POINTS_PER_ENTRY = 256
"""Most rows per entry given to k-means, as Faiss' `max_points_per_centroid`."""


class ProductPlan(Plan):
    """Codes per row of each slab's bands, by its name in the model; 0: the band becomes float16."""

    pieces: dict[str, tuple[int, ...]]


class ProductQuantization(Step[ProductCodes, ProductPlan]):
    """See `ProductCodes`. Every band has its own codebooks; projections stay float32."""

    def fit(self, state: CompressionState) -> ProductPlan:
        """Return for each band codes or float16, whichever is smaller."""
        slabs = state.model.slabs().items()
        return ProductPlan(
            pieces={name: tuple(self._pieces(band) for band in slab.bands) for name, slab in slabs}
        )

    def apply(self, state: CompressionState, plan: ProductPlan) -> CompressionState:
        """Fit the codebooks and store the rows; raises UnsoundError for values too large."""

        def stored(table: str, name: str, slab: PackedSlab) -> PackedSlab:
            bands, start = [], 0
            for band, pieces in zip(slab.bands, plan.pieces[name], strict=True):
                rows, end = band.matrix.rows(), start + len(band.matrix)
                matrix: Product | Matrix
                if pieces:
                    counts = state.row_stats[table].counts[start:end]
                    matrix = encode_rows(rows, counts, self.settings)
                else:
                    matrix = Matrix.of(rows, Form.FLOAT16)
                bands.append(Band(matrix, band.projection))
                start = end
            return PackedSlab(tuple(bands))

        return stored_slabs(state, stored)

    def _pieces(self, band: Band) -> int:
        rows, width = len(band.matrix), band.matrix.width
        pieces, columns = _pieces_and_columns(width, self.settings)
        # Zero and the rows themselves are entries enough for a small band.
        codebook_bytes = 2 * pieces * columns * min(self.settings.codes, rows + 1)
        return pieces if rows * pieces + codebook_bytes < 2 * rows * width else 0


def encode_rows(rows: Floats, counts: NDArray[np.int64], settings: ProductCodes) -> Product:
    """Return rows float32 [n, d] as codes. Equal rows, counts and settings give equal bits.

    The entries of each piece reduce Σ count · ‖piece - entry‖² as far as k-means does from one
    start (k-means++). A piece of zeros has code 0, and pieces of at most `settings.codes - 1` other
    values are exact up to rounding to half precision.

    Args:
        rows: finite and within ±65,504.
        counts: int64 [n], how often each row is read; 0 counts as 1.
        settings: values per piece, entries, iterations, seed.

    Raises:
        ValueError: a value is not finite or too large for half precision.
    """
    if not np.all(np.abs(rows) <= np.finfo(np.float16).max):
        raise ValueError(
            "rows hold values that are not finite or beyond ±65504, which half precision cannot "
            "hold"
        )
    width = rows.shape[1]
    pieces, columns = _pieces_and_columns(width, settings)
    padded = np.pad(rows, ((0, 0), (0, pieces * columns - width)))
    points = padded.reshape(len(rows), pieces, columns)
    # A row that was never counted still has to be stored somewhere.
    weights = np.maximum(counts, 1).astype(np.float64)
    # One thread: sums over several threads have no fixed order, and so no fixed bits.
    with threadpool_limits(1):
        fitted = [_encode_piece(points[:, number], weights, settings) for number in range(pieces)]
    entries = max(len(book) for _, book in fitted)
    books = [np.pad(book, ((0, entries - len(book)), (0, 0))) for _, book in fitted]
    return Product(width, np.stack([codes for codes, _ in fitted], axis=1), np.stack(books))


def _pieces_and_columns(width: int, settings: ProductCodes) -> tuple[int, int]:
    """How many pieces a row has, and of how many columns; the last one is padded."""
    columns = min(settings.columns, width)
    return -(-width // columns), columns


def _encode_piece(
    points: Floats, weights: Weights, settings: ProductCodes
) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Codes [n] and entries [k, c] of one piece, float32 [n, c]."""
    distinct, where = np.unique(points, axis=0, return_inverse=True)
    if not len(distinct):
        return where.astype(np.uint8), np.zeros((1, points.shape[1]), np.float16)

    # 1. The entries: zero first, then the other points or, if they are too many, their centres.
    nonzero = distinct.any(axis=1)
    centres = distinct[nonzero]
    if len(centres) >= settings.codes:
        summed = np.bincount(where, weights, len(distinct)).astype(np.float64)
        centres = _centres(centres, summed[nonzero], settings)
    zero = np.zeros((1, points.shape[1]), np.float16)
    entries = np.concatenate([zero, centres.astype(np.float16)])

    # 2. The nearest entry of each point. A zero point has entry 0 even if another rounds to zero.
    codes = pairwise_distances_argmin(distinct.astype(np.float64), entries.astype(np.float64))
    codes[~nonzero] = 0
    return codes[where].astype(np.uint8), entries


def _centres(points: Floats, weights: Weights, settings: ProductCodes) -> Floats:
    """Centres of `codes - 1` clusters."""
    most = _POINTS_PER_ENTRY * settings.codes
    if len(points) > most:
        # A sample drawn by weight; a point that is drawn k times has weight k in it.
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
