"""Step `prune_rows`: remove the rows with the lowest scores (magnitude pruning and variants)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compression.steps.settings import PruneRows
from compression.steps.step import CompressionState, Plan, RowStats, Step
from features.errors import InputError
from features.schema import Settings
from training.packed.rows import PackedRows

Scores = NDArray[np.float64]


class RowCut(Settings):
    """Which rows of a table to keep: scores above `score`, and at `score` keys up to `key`.

    `idle` counts as a negative score. `rows` is how many of the rows that may be removed are kept.
    Without `score` and `key` all of them are removed.
    """

    score: float | None
    key: int | None
    rows: int


class PrunePlan(Plan):
    """A cut for each table, by its name."""

    cuts: dict[str, RowCut]


class RowPruning(Step[PruneRows, PrunePlan]):
    """See `PruneRows`. Of equal scores the lower key is kept, and rows with NaN always are."""

    def fit(self, state: CompressionState) -> PrunePlan:
        """Return the cut of each table."""
        known = {name for stats in state.row_stats.values() for name in stats.names}
        unknown = sorted(set(self.settings.fields) - known)
        if unknown:
            raise InputError(
                f"compression.steps: prune_rows names {unknown}, which have no rows; fields with "
                f"rows: {sorted(known)}"
            )
        cuts = {}
        for name, table in state.model.tables.items():
            eligible = self._eligible(state.row_stats[name])
            scores = self._scores(table, state.row_stats[name])[eligible]
            keys, kept = table.keys[eligible], self._kept_count(scores)
            cuts[name] = RowCut(score=None, key=None, rows=0)
            if kept:
                # The last row that is kept, by descending score and ascending key.
                last = np.lexsort((keys, -scores))[kept - 1]
                cuts[name] = RowCut(score=float(scores[last]), key=int(keys[last]), rows=kept)
        return PrunePlan(cuts=cuts)

    def apply(self, state: CompressionState, plan: PrunePlan) -> CompressionState:
        """Remove the rows below the cuts."""
        kept = {}
        for name, cut in plan.cuts.items():
            table, stats = state.model.tables[name], state.row_stats[name]
            # Rows of other fields are kept, and of the eligible ones those above the cut.
            kept[name] = ~self._eligible(stats)
            if cut.score is not None and cut.key is not None:
                scores = self._scores(table, stats)
                kept[name] |= scores > cut.score
                kept[name] |= (scores == cut.score) & (table.keys <= cut.key)
        return state.take(kept)

    def _eligible(self, stats: RowStats) -> NDArray[np.bool_]:
        """Rows that may be removed, bool [N]."""
        fields = self.settings.fields
        return stats.of_fields(fields) if fields else np.ones(len(stats.counts), bool)

    def _kept_count(self, scores: Scores) -> int:
        settings = self.settings
        if settings.keep is not None:
            return round(settings.keep * len(scores))
        if settings.max_rows is not None:
            return min(settings.max_rows, len(scores))
        assert settings.threshold is not None
        # A long idle time is a low score, so its limit has the opposite sign.
        limit = -settings.threshold if settings.by == "idle" else settings.threshold
        return int(np.count_nonzero(scores >= limit))

    def _scores(self, table: PackedRows, stats: RowStats) -> Scores:
        """The score of each row, float64 [N]."""
        match self.settings.by:
            case "count":
                return stats.counts.astype(np.float64)
            case "idle":
                return -stats.idle.astype(np.float64)
            case "norm":
                return norms(table)
            case "weight":
                return norms(table) * np.sqrt(stats.counts.astype(np.float64))


def norms(table: PackedRows) -> Scores:
    """Return the length of each row over all slabs, float64 [N]; infinite if a value is NaN."""
    # In float64: the squares of a row of large values would overflow float32.
    squares = np.zeros(len(table.keys))
    for vectors in table.vectors().values():
        squares += np.sum(np.square(vectors.astype(np.float64)), axis=1)
    return np.sqrt(np.where(np.isnan(squares), np.inf, squares))
