"""Search from a checkpoint and a day: evaluated plans, baselines, and the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from compression.search.evaluator import EvaluatedPlan, PlanEvaluator
from compression.search.greedy_search import Goal, SearchState, greedy_search
from compression.search.space import PROBED, SCORES, Levels, SearchSpace, baselines
from compression.settings import CompressionSettings
from compression.steps.settings import Dense, DropFields, FineTune, PruneRows, StepSettings
from features.json_safe import json_safe
from training.evaluation.metrics import Interval

SEARCHED = "searched"
"""Name of the plans that are not a baseline."""

_PLANS_PER_LEVEL, _FEWEST_LEVELS = 10, 4
"""A baseline is measured at one level for so many plans, and at least at so many levels."""

TUNED = "fine-tuned"
"""Name of the chosen plan with `fine_tune` in it."""


@dataclass(frozen=True)
class SearchResult:
    """The result of a search.

    Attributes:
        goal: the limits.
        tolerance: below which a row counted as zero from the start.
        bytes: of the model before any step.
        chosen: the best plan within the limits.
        plans: all evaluated plans, in order.
        front: plans that no other beats in both bytes and AUC on the choosing half; largest first.
        baselines: plans of one step alone.
        intervals: of the drop on the reported half, by plan, for front and baselines.
    """

    goal: Goal
    tolerance: float
    bytes: int
    chosen: EvaluatedPlan
    plans: tuple[EvaluatedPlan, ...]
    front: tuple[EvaluatedPlan, ...]
    baselines: tuple[EvaluatedPlan, ...]
    intervals: dict[tuple[StepSettings, ...], Interval]

    def section(self) -> dict[str, Any]:
        """Return the chosen plan as the section `compression` of a configuration."""
        steps = [plain(step) for step in self.chosen.steps]
        return {"compression": {"zero_tolerance": self.tolerance, "steps": steps}}

    def metrics(self) -> dict[str, float]:
        """Return the figures for a tracking server, without undefined ones."""
        drop = self.intervals[self.chosen.steps]
        # The drop that is reported is that of users who had no part in the choice.
        figures: dict[str, float] = {
            "plans_measured": len(self.plans),
            "bytes_lossless": self.bytes,
            "bytes_chosen": self.chosen.bytes,
            "ratio_chosen": self.bytes / self.chosen.bytes,
            "auc_drop_choosing_half": self.chosen.drop,
            "auc_drop": self.chosen.drop_reported,
            "auc_drop_low": drop.low,
            "auc_drop_high": drop.high,
            "log_loss": self.chosen.log_loss_reported,
        }
        return {name: float(value) for name, value in figures.items() if math.isfinite(value)}

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; undefined figures are null.

        `auc_drop` and its interval are of the reported half.
        """
        document = {
            "goal": asdict(self.goal),
            **self.metrics(),
            "chosen": self._plan_figures(self.chosen),
            "pareto": [self._plan_figures(plan) for plan in self.front],
            "baselines": [self._plan_figures(plan) for plan in self.baselines],
            "plans": [self._plan_figures(plan) for plan in self.plans],
        }
        safe: dict[str, Any] = json_safe(document)
        return safe

    def _plan_figures(self, plan: EvaluatedPlan) -> dict[str, Any]:
        drop = self.intervals.get(plan.steps, Interval(math.nan, math.nan))
        return {
            "name": plan.name,
            "steps": [plain(step) for step in plan.steps],
            "ratio": self.bytes / plan.bytes,
            "bytes": plan.bytes,
            "rows": plan.rows,
            "auc": plan.auc_reported,
            "log_loss": plan.log_loss_reported,
            "auc_drop": plan.drop_reported,
            "auc_drop_low": drop.low,
            "auc_drop_high": drop.high,
            "auc_drop_choosing_half": plan.drop,
            "auc_drop_choosing_error": plan.error,
        }


def search(
    evaluator: PlanEvaluator,
    settings: CompressionSettings,
    goal: Goal,
    most: int,
    report: Callable[[int, EvaluatedPlan], None] | None = None,
    *,
    tune: bool = False,
) -> SearchResult:
    """Find the best plan within the goal's limits.

    Args:
        evaluator: evaluates the plans.
        settings: every plan begins with its `drop_fields`; its other steps are not used.
        goal: the limits.
        most: plans to evaluate; up to about forty baselines are evaluated in addition.
        report: called with the number of each evaluated plan, and the plan.
        tune: evaluate the chosen plan with `fine_tune` too, and choose that if it is better.

    Raises:
        InputError: no plan is within the limits, or there are no impressions to train on.
    """
    # 1. Choose the score to prune by: the one that loses least at one share of the rows.
    fixed = tuple(step for step in settings.steps if isinstance(step, DropFields))
    space = SearchSpace.of(evaluator.after(fixed), fixed)
    drops = {}
    # One score for all plans: a score by axis would multiply the plans to try.
    for by in SCORES:
        probe = evaluator.measure(by, (*fixed, PruneRows(by=by, keep=PROBED)))
        drops[by] = probe.cautious_drop
    space = replace(space, by=min(SCORES, key=lambda by: drops[by]))

    # 2. Search.
    evaluated: dict[Levels, EvaluatedPlan] = {}

    def bytes_of(levels: Levels) -> int:
        return evaluator.bytes_after(space.steps(levels))

    def evaluate(levels: Levels) -> EvaluatedPlan:
        plan = evaluator.measure(SEARCHED, space.steps(levels))
        if report:
            report(len(evaluated) + 1, plan)
        return plan

    chosen = greedy_search(SearchState(space, bytes_of, evaluate, most, evaluated), goal)
    plans = list(evaluated.values())

    # 3. Fine-tune the chosen plan.
    if tune:
        plans.append(evaluator.measure(TUNED, with_tuning(chosen.steps)))
        # Tuning does not always help: the tuned plan is measured like any other.
        chosen = goal.best([chosen, plans[-1]])

    # 4. Compare with one step alone, and with all that the search evaluated.
    # Their number grows with the search, which they shall not outlast.
    levels = max(_FEWEST_LEVELS, most // _PLANS_PER_LEVEL)
    alone = [
        evaluator.measure(name, steps)
        for name, each in baselines(space, levels).items()
        for steps in each
    ]
    front = pareto(plans)
    intervals = {plan.steps: evaluator.interval(plan) for plan in (*front, *alone, chosen)}
    tolerance = settings.zero_tolerance
    return SearchResult(
        goal, tolerance, evaluator.bytes, chosen, tuple(plans), front, tuple(alone), intervals
    )


def pareto(plans: Sequence[EvaluatedPlan]) -> tuple[EvaluatedPlan, ...]:
    """Return the plans that no other beats in both bytes and cautious drop, largest first."""
    front: list[EvaluatedPlan] = []
    # In the order of bytes a plan is on the front if it loses less than every smaller one.
    for plan in sorted(plans, key=lambda plan: (plan.bytes, plan.cautious_drop)):
        if not front or plan.cautious_drop < front[-1].cautious_drop:
            front.append(plan)
    return tuple(reversed(front))


def with_tuning(steps: Sequence[StepSettings]) -> tuple[StepSettings, ...]:
    """Return a plan with `fine_tune` after all steps that change rows, and before `dense`."""
    dense = [step for step in steps if isinstance(step, Dense)]
    return (*(step for step in steps if not isinstance(step, Dense)), FineTune(), *dense)


def plain(step: StepSettings) -> dict[str, Any]:
    """Return a step as YAML has it: its kind, and settings that differ from the defaults."""
    return {"kind": step.kind} | step.model_dump(mode="json", exclude_defaults=True)
