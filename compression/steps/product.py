"""Step `product`: rows as codes of a codebook (see `training.packed.product`)."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from compression.steps.codebooks import coded, shape_of
from compression.steps.settings import ProductCodes
from compression.steps.step import Plan, Step
from compression.steps.work import Work
from features.errors import UnsoundError
from training.data.field_groups import slab_of
from training.packed.matrix import Form, Matrix
from training.packed.slab import Band, PackedSlab


class ProductPlan(Plan):
    """Codes a row of each slab's bands, by its name in the model; 0: the band becomes float16."""

    pieces: dict[str, tuple[int, ...]]


class ProductQuantization(Step[ProductCodes, ProductPlan]):
    """See `ProductCodes`. Each slab, and each of its bands, has codebooks of its own; projections stay float32."""

    def fit(self, work: Work) -> ProductPlan:
        """Return the smaller of codes with their codebook and float16 for each band."""
        slabs = work.model.slabs()
        return ProductPlan(
            pieces={name: tuple(map(self._pieces, slab.bands)) for name, slab in slabs.items()}
        )

    def apply(self, work: Work, plan: ProductPlan) -> Work:
        """Fit the codebooks and store the rows; raises UnsoundError where one holds what half precision cannot hold."""
        slabs: dict[str, dict[str, PackedSlab]] = {}
        for table, rows in work.model.tables.items():
            named, counts = (
                {own: slab_of(table, own) for own in rows.slabs},
                work.facts[table].counts,
            )
            slabs[table] = {
                own: self._stored(rows.slabs[own], counts, plan.pieces[name], name)
                for own, name in named.items()
            }
        return work.with_slabs(slabs)

    def _pieces(self, band: Band) -> int:
        rows, width = len(band.matrix), band.matrix.width
        pieces, columns = shape_of(width, self.settings)
        book = 2 * pieces * columns * min(self.settings.codes, rows + 1)
        return pieces if rows * pieces + book < 2 * rows * width else 0

    def _stored(
        self, slab: PackedSlab, counts: NDArray[np.int64], pieces: tuple[int, ...], name: str
    ) -> PackedSlab:
        ends = np.cumsum([0, *(len(band.matrix) for band in slab.bands)]).tolist()
        try:
            bands = [
                self._band(band, counts[slice(*span)], number)
                for band, span, number in zip(slab.bands, pairwise(ends), pieces, strict=True)
            ]
        except (ValueError, FloatingPointError) as error:
            raise UnsoundError(
                f"rows of {name}: {error}; no form of fewer bits can hold them"
            ) from error
        return PackedSlab(tuple(bands))

    def _band(self, band: Band, counts: NDArray[np.int64], pieces: int) -> Band:
        rows = band.matrix.rows()
        return Band(
            coded(rows, counts, self.settings) if pieces else Matrix.of(rows, Form.FLOAT16),
            band.projection,
        )
