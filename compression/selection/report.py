"""The result of a selection: importance and cost of every field, quality and size of the models."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from compression.selection.footprint import Budget, ModelSize, choose, needs, prior_keep
from compression.selection.ranking import (
    FieldRanking,
    HeldOutQuality,
    SelectionData,
    read_split,
    train_on_split,
)
from features.json_safe import json_safe
from training.fit.model_and_baseline import LearnerConfig


@dataclass(frozen=True)
class Trial:
    """A set of fields on the held-out slice: weights as inherited, and after fine-tuning."""

    inherited: HeldOutQuality
    tuned: HeldOutQuality


def run_trial(data: SelectionData, config: LearnerConfig) -> Trial:
    """Restore the checkpoint into a configuration; score it before and after one pass of training.

    Fields that are not configured are dropped, and with them the rows of the first layers that read
    them. All other weights and their optimizer state are kept
    (`training.models.weight_transfer.carry_over`).

    Raises:
        InputError: missing, damaged or unfit inputs.
        UnsoundError: the loss is not finite.
    """
    split, learner = read_split(data, config), data.learner(config)
    # Scored first: training changes the learner itself.
    inherited = HeldOutQuality.of(learner, split.heldout)
    train_on_split(learner, split, config.training, passes=1)
    return Trial(inherited, HeldOutQuality.of(learner, split.heldout))


@dataclass(frozen=True)
class RankedField:
    """One use of a field (an id field, a number or a relation).

    Attributes:
        name: of the field, or `left__right`.
        importance: δ, the trained probability that it is kept.
        prior: θ, the probability that FSCD gives it by its cost alone.
        kept: whether it is kept.
        score: `G(c)`, the weight of its cost in the penalty.
        online: values handled per impression.
        width: values given to the model.
        rows: rows of its vocabulary, or nodes of the relation.
        bytes: by which the full model is smaller without it.
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
class FieldSelection:
    """A ranking, the uses that are kept, and the trials of all fields and of the kept ones.

    Attributes:
        method: `fscd` or `droprank`.
        ranking: importance and cost.
        kept: uses that are kept.
        full: trial with all of them.
        pruned: trial with the kept ones.
    """

    method: str
    ranking: FieldRanking
    kept: frozenset[str]
    full: Trial
    pruned: Trial

    @staticmethod
    def kept_of(ranking: FieldRanking, config: LearnerConfig, budget: Budget) -> frozenset[str]:
        """Return the uses that fit a budget; see `choose` for what it raises."""
        parts = needs(config.schema, config.relations, config.model.groups)
        return choose(ranking.order(), parts, ranking.footprint.of, budget)

    def lines(self) -> Iterator[RankedField]:
        """Yield the uses, the most important first."""
        # What a field costs depends on the others: fields of one vocabulary share its rows.
        whole, footprint = frozenset(self.ranking.importance), self.ranking.footprint
        for name in self.ranking.order():
            cost, score = footprint.complexities[name], self.ranking.scores[name]
            yield RankedField(
                name=name,
                importance=self.ranking.importance[name],
                prior=prior_keep(score),
                kept=name in self.kept,
                score=score,
                online=cost.online,
                width=cost.width,
                rows=cost.rows,
                # What the full model would save: shared rows go only with their last field.
                bytes=footprint.of(whole).bytes - footprint.of(whole - {name}).bytes,
            )

    def sizes(self) -> tuple[ModelSize, ModelSize]:
        """Return the sizes of the full and of the pruned model."""
        size_of = self.ranking.footprint.of
        return size_of(frozenset(self.ranking.importance)), size_of(self.kept)

    def trials(self) -> Iterator[tuple[str, HeldOutQuality, ModelSize]]:
        """Yield the results: all fields, then the kept ones, before and after training."""
        # The names are those of `selection.json`.
        full, pruned = self.sizes()
        yield "all fields, as it was", self.full.inherited, full
        yield "all fields, learned on", self.full.tuned, full
        yield "pruned, as it was", self.pruned.inherited, pruned
        yield "pruned, fine-tuned", self.pruned.tuned, pruned

    def metrics(self) -> dict[str, float]:
        """Return the figures for a tracking server, without undefined ones."""
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
        """Return plain data for JSON; undefined figures are null."""
        trials = [
            {"model": name, **asdict(quality), **asdict(size)}
            for name, quality, size in self.trials()
        ]
        # Floats of NumPy and undefined figures are no JSON.
        document: dict[str, Any] = json_safe(
            {
                "method": self.method,
                "kept": sorted(self.kept),
                "fields": [asdict(line) for line in self.lines()],
                "trials": trials,
                **self.metrics(),
            }
        )
        return document
