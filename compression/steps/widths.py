"""Step `widths`: fewer columns a row, and a projection shared by the rows of a band of frequency.

For the rows X [n, d] of a band and weights c [n] (how often each is read) the r columns and the projection that lose least,
min Σ c_i ‖x_i - y_i P‖², are Y = X V and P = Vᵀ, V the first r right singular vectors of diag(√c) X (Eckart, Young 1936): the
first eigenvectors of Xᵀ diag(c) X.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from compression.steps.bands import band_of, spectrum
from compression.steps.learned_widths import learned_ranks
from compression.steps.settings import Widths
from compression.steps.step import Plan, Step
from compression.steps.work import Facts, Work
from features.schema import Settings
from training.packed.matrix import Form, Matrix
from training.packed.rows import PackedRows
from training.packed.slab import Band, PackedSlab


class Bands(Settings):
    """The bands of a table, from the rarest keys on.

    Attributes:
        cuts: counts; a band's keys were seen at least as often as the cut before it says, and less often than the one after.
        rows: of each band.
        ranks: columns kept in each band, by slab.
        energy: share of the squared values, weighted by counts, that they hold, by slab.
    """

    cuts: tuple[int, ...]
    rows: tuple[int, ...]
    ranks: dict[str, tuple[int, ...]]
    energy: dict[str, tuple[float, ...]]


class WidthsPlan(Plan):
    """Bands by table."""

    tables: dict[str, Bands]


class WidthReduction(Step[Widths, WidthsPlan]):
    """See `Widths`. A zero row stays exactly zero; a band whose projection would not make it smaller stays as it is."""

    def fit(self, work: Work) -> WidthsPlan:
        """Return cuts and ranks of each table; raises InputError where masks are to learn and there is no day to learn."""
        cuts = {name: self._cuts(facts) for name, facts in work.facts.items()}
        found = learned_ranks(work, cuts, self.settings) if self.settings.price else {}
        return WidthsPlan(
            tables={
                n: self._bands(t, work.facts[n], cuts[n], found.get(n, {}))
                for n, t in work.model.tables.items()
            }
        )

    def apply(self, work: Work, plan: WidthsPlan) -> Work:
        """Put the rows in the order of their bands, and give each band its columns."""
        orders = {
            name: np.argsort(band_of(work.facts[name], told.cuts), kind="stable")
            for name, told in plan.tables.items()
        }
        ordered = work.take(orders)
        slabs = {
            name: _reduced(ordered.model.tables[name], ordered.facts[name], told)
            for name, told in plan.tables.items()
        }
        return ordered.with_slabs(slabs)

    def _cuts(self, facts: Facts) -> tuple[int, ...]:
        return (
            tuple(int(np.ceil(q)) for q in np.quantile(facts.counts, self.settings.quantiles))
            if len(facts.counts)
            else ()
        )

    def _bands(
        self,
        table: PackedRows,
        facts: Facts,
        cuts: tuple[int, ...],
        learned: Mapping[str, tuple[int, ...]],
    ) -> Bands:
        band = band_of(facts, cuts)
        bands = [band == number for number in range(len(self.settings.quantiles) + 1)]
        fitted = {
            name: [
                self._rank(
                    slab.rows()[rows],
                    facts.counts[rows],
                    (learned.get(name) or self.settings.ranks or None),
                    number,
                )
                for number, rows in enumerate(bands)
            ]
            for name, slab in table.slabs.items()
            if slab.width > 1
        }
        return Bands(
            cuts=cuts,
            rows=tuple(int(rows.sum()) for rows in bands),
            ranks={name: tuple(rank for rank, _ in pairs) for name, pairs in fitted.items()},
            energy={name: tuple(energy for _, energy in pairs) for name, pairs in fitted.items()},
        )

    def _rank(
        self,
        rows: NDArray[np.float32],
        counts: NDArray[np.int64],
        ranks: tuple[int, ...] | None,
        number: int,
    ) -> tuple[int, float]:
        """Columns of one band, of the ranks given or enough for `energy`, and the energy in them."""
        energies = spectrum(rows, counts)[0]
        held = (
            np.cumsum(energies) / energies.sum() if energies.sum() > 0 else np.ones(rows.shape[1])
        )
        rank = (
            ranks[number]
            if ranks
            else int(np.searchsorted(held, (self.settings.energy or 1.0) - 1e-12)) + 1
        )
        rank = min(rank, rows.shape[1])
        return rank, float(held[rank - 1])


def _reduced(table: PackedRows, facts: Facts, told: Bands) -> dict[str, PackedSlab]:
    """The slabs wider than 1 of rows that lie in the order of their bands; bands without rows are left out."""
    ends = np.cumsum([0, *told.rows]).tolist()
    parts = [
        (number, slice(*span)) for number, span in enumerate(pairwise(ends)) if span[0] < span[1]
    ]
    slabs = {}
    for name, ranks in told.ranks.items():
        rows = table.slabs[name].rows()
        bands = [
            _projected(rows[part], facts.counts[part], ranks[number]) for number, part in parts
        ]
        slabs[name] = PackedSlab(tuple(bands)) if bands else table.slabs[name]
    return slabs


def _projected(rows: NDArray[np.float32], counts: NDArray[np.int64], rank: int) -> Band:
    whole = Band(Matrix.of(rows, Form.FLOAT32))
    basis = spectrum(rows, counts)[1][:, :rank]
    narrow = Matrix.of((rows.astype(np.float64) @ basis).astype(np.float32), Form.FLOAT32)
    band = Band(narrow, np.ascontiguousarray(basis.T.astype(np.float32)))
    return band if band.nbytes < whole.nbytes else whole
