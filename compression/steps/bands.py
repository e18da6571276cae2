"""Bands of frequency, and the basis in which a band's columns are in the order of what they hold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compression.steps.work import Facts

Basis = NDArray[np.float64]


def spectrum(
    rows: NDArray[np.float32], counts: NDArray[np.int64]
) -> tuple[NDArray[np.float64], Basis]:
    """Return the eigenvalues [d] of Xᵀ diag(c) X, the greatest first, and its eigenvectors as columns [d, d].

    The entry of a column that is largest in absolute value is positive, so that one matrix gives one basis.
    """
    wide = rows.astype(np.float64)
    values, vectors = np.linalg.eigh(wide.T @ (wide * np.maximum(counts, 1)[:, None]))
    basis = vectors[:, ::-1]
    signs = np.sign(np.take_along_axis(basis, np.abs(basis).argmax(axis=0)[None], axis=0))
    return np.maximum(values[::-1], 0.0), basis * signs


def band_of(facts: Facts, cuts: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the band of each row, int64 [N]: how many of the ascending cuts its count reaches."""
    return np.searchsorted(np.array(cuts, np.int64), facts.counts, side="right").astype(np.int64)
