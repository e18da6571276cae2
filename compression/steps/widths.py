"""Step `widths`: fewer columns per row, and a projection shared by the rows of a frequency band.

For the rows X [n, d] of a band and weights c [n] (how often each is read), the r columns and the
projection with the least error, min Σ c_i ‖x_i - y_i P‖², are Y = X V and P = Vᵀ, where V holds the
first r right singular vectors of diag(√c) X (Eckart and Young, 1936): the first eigenvectors of
Xᵀ diag(c) X.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from compression.steps.settings import Widths
from compression.steps.step import CompressionState, Plan, RowStats, Step
from compression.steps.width_masks import spectrum, trained_ranks
from features.schema import Settings
from training.packed.matrix import Form, Matrix
from training.packed.rows import Band, PackedRows, PackedSlab


class TableBands(Settings):
    """The frequency bands of a table, the rarest keys first.

    Attributes:
        cuts: the counts from which on a key belongs to the next band.
        rows: of each band.
        ranks: columns kept in each band, by slab.
        energy: share of the squared values, weighted by counts, in these columns, by slab.
    """

    cuts: tuple[int, ...]
    rows: tuple[int, ...]
    ranks: dict[str, tuple[int, ...]]
    energy: dict[str, tuple[float, ...]]


class WidthsPlan(Plan):
    """Bands by table."""

    tables: dict[str, TableBands]


class WidthReduction(Step[Widths, WidthsPlan]):
    """See `Widths`. Zero rows stay zero; a band that would not become smaller is not projected."""

    def fit(self, state: CompressionState) -> WidthsPlan:
        """Return cuts and ranks; raises InputError if masks need impressions and there are none."""
        cuts: dict[str, tuple[int, ...]] = dict.fromkeys(state.row_stats, ())
        for name, stats in state.row_stats.items():
            if len(stats.counts):
                # Rounded up: counts are integers, and a cut is the first count of a band.
                limits = np.quantile(stats.counts, self.settings.quantiles)
                cuts[name] = tuple(int(np.ceil(limit)) for limit in limits)
        trained = trained_ranks(state, cuts, self.settings) if self.settings.price else {}
        return WidthsPlan(
            tables={
                name: self._bands(table, state.row_stats[name], cuts[name], trained.get(name, {}))
                for name, table in state.model.tables.items()
            }
        )

    def apply(self, state: CompressionState, plan: WidthsPlan) -> CompressionState:
        """Sort the rows by band, and project each band."""
        # 1. Bands become ranges of rows. The sort is stable, so equal bands keep their order.
        orders = {
            name: np.argsort(state.row_stats[name].bands(bands.cuts), kind="stable")
            for name, bands in plan.tables.items()
        }
        ordered = state.take(orders)

        # 2. Project each band of each slab; bands without rows are left out.
        slabs: dict[str, dict[str, PackedSlab]] = {}
        for name, bands in plan.tables.items():
            table, counts = ordered.model.tables[name], ordered.row_stats[name].counts
            slabs[name] = {}
            for slab, ranks in bands.ranks.items():
                rows, start, stored = table.slabs[slab].rows(), 0, []
                for count, rank in zip(bands.rows, ranks, strict=True):
                    end = start + count
                    if count:
                        stored.append(_projected(rows[start:end], counts[start:end], rank))
                    start = end
                slabs[name][slab] = PackedSlab(tuple(stored)) if stored else table.slabs[slab]
        return ordered.with_slabs(slabs)

    def _bands(
        self,
        table: PackedRows,
        stats: RowStats,
        cuts: tuple[int, ...],
        trained: Mapping[str, tuple[int, ...]],
    ) -> TableBands:
        band_of_row = stats.bands(cuts)
        members = [band_of_row == number for number in range(len(self.settings.quantiles) + 1)]
        ranks, energies = {}, {}
        for name, slab in table.slabs.items():
            if slab.width > 1:
                given = trained.get(name) or self.settings.ranks or (None,) * len(members)
                vectors = slab.rows()
                chosen = [
                    self._rank(vectors[rows], stats.counts[rows], rank)
                    for rows, rank in zip(members, given, strict=True)
                ]
                ranks[name] = tuple(rank for rank, _ in chosen)
                energies[name] = tuple(energy for _, energy in chosen)
        sizes = tuple(int(rows.sum()) for rows in members)
        return TableBands(cuts=cuts, rows=sizes, ranks=ranks, energy=energies)

    def _rank(
        self, rows: NDArray[np.float32], counts: NDArray[np.int64], rank: int | None
    ) -> tuple[int, float]:
        """Columns of one band, the given ones or enough for `energy`, and the energy in them."""
        energies = spectrum(rows, counts)[0]
        held = np.ones(rows.shape[1])
        if energies.sum() > 0:
            held = np.cumsum(energies) / energies.sum()
        if rank is None:
            # Less 1e-12: the sum of all shares may round to just below 1.
            rank = int(np.searchsorted(held, (self.settings.energy or 1.0) - 1e-12)) + 1
        rank = min(rank, rows.shape[1])
        return rank, float(held[rank - 1])


def _projected(rows: NDArray[np.float32], counts: NDArray[np.int64], rank: int) -> Band:
    whole = Band(Matrix.of(rows, Form.FLOAT32))
    # float64 until the end: the products of the rounded factors are as close as float32 allows.
    basis = spectrum(rows, counts)[1][:, :rank]
    narrow = Matrix.of((rows.astype(np.float64) @ basis).astype(np.float32), Form.FLOAT32)
    band = Band(narrow, np.ascontiguousarray(basis.T.astype(np.float32)))
    return band if band.nbytes < whole.nbytes else whole
