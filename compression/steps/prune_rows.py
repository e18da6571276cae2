"""Step `prune_rows`: the rows that matter least leave their table. Magnitude pruning, by one of four scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compression.steps.settings import PruneRows
from compression.steps.step import Plan, Step
from compression.steps.work import Facts, Work
from features.errors import InputError
from features.schema import Settings
from training.packed.rows import PackedRows

Scores = NDArray[np.float64]


class Cut(Settings):
    """Which rows of a table stay: those of a higher score than `score`, and of that score those of keys up to `key`.

    `idle` counts as a negative score. `rows` is how many of those that may go stay; None of both: all stay.
    """

    score: float | None
    key: int | None
    rows: int


class PrunePlan(Plan):
    """A cut for each table, by its name."""

    cuts: dict[str, Cut]


class RowPruning(Step[PruneRows, PrunePlan]):
    """See `PruneRows`. Of equal scores the lower key stays. A row with NaN stays: it must not vanish unseen."""

    def fit(self, work: Work) -> PrunePlan:
        """Return the cut of each table."""
        known = {name for facts in work.facts.values() for name in facts.names}
        unknown = sorted(set(self.settings.fields) - known)
        if unknown:
            raise InputError(
                f"compression.steps: prune_rows names {unknown}, which have no rows; fields with rows: {sorted(known)}"
            )
        return PrunePlan(
            cuts={
                name: self._cut(work.model.tables[name], work.facts[name])
                for name in work.model.tables
            }
        )

    def apply(self, work: Work, plan: PrunePlan) -> Work:
        """Drop the rows below the cuts."""
        return work.take(
            {
                name: self._kept(work.model.tables[name], work.facts[name], cut)
                for name, cut in plan.cuts.items()
            }
        )

    def _cut(self, table: PackedRows, facts: Facts) -> Cut:
        eligible = self._eligible(facts)
        scores, keys = self._scores(table, facts)[eligible], table.keys[eligible]
        order = np.lexsort((keys, -scores))
        rows = self._rows(scores)
        if not rows:
            return Cut(score=None, key=None, rows=0)
        last = order[rows - 1]
        return Cut(score=float(scores[last]), key=int(keys[last]), rows=rows)

    def _rows(self, scores: Scores) -> int:
        """How many rows stay."""
        told, rows = self.settings, len(scores)
        if told.keep is not None:
            return round(told.keep * rows)
        if told.max_rows is not None:
            return min(told.max_rows, rows)
        assert told.threshold is not None
        return int(
            np.count_nonzero(scores >= (-told.threshold if told.by == "idle" else told.threshold))
        )

    def _kept(self, table: PackedRows, facts: Facts, cut: Cut) -> NDArray[np.bool_]:
        eligible = self._eligible(facts)
        if cut.score is None or cut.key is None:
            return ~eligible
        scores = self._scores(table, facts)
        return ~eligible | (scores > cut.score) | ((scores == cut.score) & (table.keys <= cut.key))

    def _eligible(self, facts: Facts) -> NDArray[np.bool_]:
        return (
            facts.of_fields(self.settings.fields)
            if self.settings.fields
            else np.ones(len(facts.counts), bool)
        )

    def _scores(self, table: PackedRows, facts: Facts) -> Scores:
        """The score of each row, float64 [N]."""
        match self.settings.by:
            case "count":
                return facts.counts.astype(np.float64)
            case "idle":
                return -facts.idle.astype(np.float64)
            case "norm":
                return norms(table)
            case "weight":
                return norms(table) * np.sqrt(facts.counts.astype(np.float64))


def norms(table: PackedRows) -> Scores:
    """Return the length of each row over all slabs, float64 [N]; infinite where a value is NaN."""
    squares = np.zeros(len(table.keys))
    for vectors in table.vectors().values():
        squares += np.sum(np.square(vectors.astype(np.float64)), axis=1)
    return np.sqrt(np.where(np.isnan(squares), np.inf, squares))
