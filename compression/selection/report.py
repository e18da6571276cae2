"""What a selection came to: importance beside cost for every field, and quality beside size for the model before and after."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from compression.selection.choice import Budget, choose, needs
from compression.selection.complexity import Size, prior_keep
from compression.selection.learning import Quality
from compression.selection.ranking import Ranking
from compression.selection.trial import Trial
from training.fit.learners import Recipe


@dataclass(frozen=True)
class Line:
    """One use of a field (an id field, a number or a relation).

    Attributes:
        name: of the field, or `left__right`.
        importance: δ, the learned chance to be kept.
        prior: θ, the chance that FSCD gives it by its cost alone.
        kept: whether it stays.
        score: `G(c)`, the weight of its cost in the penalty.
        online: values handled per impression.
        width: values given to the model.
        rows: rows of its vocabulary, or nodes of the relation.
        bytes: by which the full model is smaller without it alone.
    """

    name: str
    importance: float
    prior: float
    kept: bool
    score: float
    online: float
    width: int
    rows: int
    bytes: int


@dataclass(frozen=True)
class Selection:
    """A ranking, what was kept of it, and the trials of all fields and of the kept ones.

    Attributes:
        method: `fscd` or `droprank`.
        ranking: importance and cost.
        kept: uses that stay.
        full: trial with all of them.
        pruned: trial with the kept ones.
    """

    method: str
    ranking: Ranking
    kept: frozenset[str]
    full: Trial
    pruned: Trial

    @staticmethod
    def kept_of(ranking: Ranking, recipe: Recipe, budget: Budget) -> frozenset[str]:
        """Return what a budget has room for; see `choose` for what it raises."""
        parts = needs(recipe.schema, recipe.relations, recipe.model.groups)
        return choose(ranking.order(), parts, ranking.footprint.of, budget)

    def lines(self) -> Iterator[Line]:
        """Yield the uses, the most important first."""
        whole = frozenset(self.ranking.importance)
        size = self.ranking.footprint.of
        for name in self.ranking.order():
            cost, score = self.ranking.footprint.complexities[name], self.ranking.scores[name]
            yield Line(
                name=name,
                importance=self.ranking.importance[name],
                prior=prior_keep(score),
                kept=name in self.kept,
                score=score,
                online=cost.online,
                width=cost.width,
                rows=cost.rows,
                bytes=size(whole).bytes - size(whole - {name}).bytes,
            )

    def sizes(self) -> tuple[Size, Size]:
        """Return the sizes of the full and of the pruned model."""
        return self.ranking.footprint.of(
            frozenset(self.ranking.importance)
        ), self.ranking.footprint.of(self.kept)

    def trials(self) -> Iterator[tuple[str, Quality, Size]]:
        """Yield what was measured: all fields, then the kept ones, before and after learning on."""
        full, pruned = self.sizes()
        yield "all fields, as it was", self.full.inherited, full
        yield "all fields, learned on", self.full.tuned, full
        yield "pruned, as it was", self.pruned.inherited, pruned
        yield "pruned, fine-tuned", self.pruned.tuned, pruned

    def metrics(self) -> dict[str, float]:
        """Return the figures that a tracking server takes; what is undefined is left out."""
        full, pruned = self.sizes()
        figures: dict[str, float] = {
            "inputs_full": full.count,
            "inputs_pruned": pruned.count,
            "bytes_full": full.bytes,
            "bytes_pruned": pruned.bytes,
            "cost_full": full.cost,
            "cost_pruned": pruned.cost,
            "auc_full": self.full.inherited.auc,
            "auc_full_learned_on": self.full.tuned.auc,
            "auc_pruned": self.pruned.inherited.auc,
            "auc_pruned_fine_tuned": self.pruned.tuned.auc,
            "auc_difference": self.pruned.tuned.auc - self.full.tuned.auc,
        }
        return {name: float(value) for name, value in figures.items() if math.isfinite(value)}

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; an undefined figure is null."""
        trials = [
            {"model": name, **_finite(asdict(quality)), **asdict(size)}
            for name, quality, size in self.trials()
        ]
        return {
            "method": self.method,
            "kept": sorted(self.kept),
            "fields": [asdict(line) for line in self.lines()],
            "trials": trials,
            **self.metrics(),
        }


def _finite(figures: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}
