"""A search from a checkpoint and a day: plans measured, baselines beside them, the front of what cannot be bettered."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from compression.search.bench import Bench, Measured
from compression.search.descent import Goal, Trail, descend
from compression.search.space import PROBED, SCORES, Point, Score, Space, baselines
from compression.settings import CompressionSettings
from compression.steps.settings import Dense, DropFields, FineTune, PruneRows, StepSettings
from training.evaluation.metrics.bootstrap import Interval

SEARCHED = "searched"
"""Name of the plans that are no baseline's."""

TUNED = "fine-tuned"
"""Name of the chosen plan with `fine_tune` in it."""


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        goal: what was wanted.
        tolerance: below which a row counted as zero from the start.
        bytes: of the model that no step has touched.
        chosen: the best plan within the goal.
        plans: all that were measured, in the order of measuring.
        front: of the searched plans, those that no other beats in bytes and in AUC on the choosing half; the largest first.
        baselines: plans of one step alone.
        intervals: of the drop on the reported half, by plan, of front and baselines.
    """

    goal: Goal
    tolerance: float
    bytes: int
    chosen: Measured
    plans: tuple[Measured, ...]
    front: tuple[Measured, ...]
    baselines: tuple[Measured, ...]
    intervals: dict[tuple[StepSettings, ...], Interval]

    def section(self) -> dict[str, Any]:
        """Return the chosen plan as a configuration has it: the section `compression`."""
        steps = [plain(step) for step in self.chosen.steps]
        return {"compression": {"zero_tolerance": self.tolerance, "steps": steps}}

    def metrics(self) -> dict[str, float]:
        """Return the figures that a tracking server takes; what is undefined is left out."""
        drop = self.intervals[self.chosen.steps]
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
        """Return plain data for JSON; an undefined figure is null. `auc_drop` and its interval are of the reported half."""
        return {
            "goal": asdict(self.goal),
            **self.metrics(),
            "chosen": self._line(self.chosen),
            "pareto": [self._line(one) for one in self.front],
            "baselines": [self._line(one) for one in self.baselines],
            "plans": [self._line(one) for one in self.plans],
        }

    def _line(self, one: Measured) -> dict[str, Any]:
        drop = self.intervals.get(one.steps, Interval(math.nan, math.nan))
        figures = {
            "ratio": self.bytes / one.bytes,
            "bytes": one.bytes,
            "rows": one.rows,
            "auc": one.auc_reported,
            "log_loss": one.log_loss_reported,
            "auc_drop": one.drop_reported,
            "auc_drop_low": drop.low,
            "auc_drop_high": drop.high,
            "auc_drop_choosing_half": one.drop,
            "auc_drop_choosing_error": one.error,
        }
        finite = {name: value if math.isfinite(value) else None for name, value in figures.items()}
        return {"name": one.name, "steps": [plain(step) for step in one.steps], **finite}


def search(
    bench: Bench,
    settings: CompressionSettings,
    goal: Goal,
    most: int,
    tell: Callable[[int, Measured], None] | None = None,
    *,
    tune: bool = False,
) -> Found:
    """Find the plan.

    Args:
        bench: measures.
        settings: whose `drop_fields` every plan begins with; other steps are not used.
        goal: what is wanted.
        most: plans to measure; baselines, some dozens, come on top.
        tell: called with the number of each plan that is measured, and the plan.
        tune: measure the chosen plan with `fine_tune` too, and take that if it is better; it learns the day once more.

    Raises:
        InputError: no plan is within the goal's limits, or there are no impressions to tune by.
    """
    fixed = tuple(step for step in settings.steps if isinstance(step, DropFields))
    whole = Space.of(bench.after(fixed), fixed)
    space = replace(whole, by=_best_score(bench, whole))
    found: dict[Point, Measured] = {}

    def measure(point: Point) -> Measured:
        """Measure a point and tell."""
        one = bench.measure(SEARCHED, space.steps(point))
        if tell:
            tell(len(found) + 1, one)
        return one

    chosen = descend(
        Trail(space, lambda point: bench.weigh(space.steps(point)), measure, most, found), goal
    )
    tuned = (bench.measure(TUNED, with_tuning(chosen.steps)),) if tune else ()
    chosen = goal.best([chosen, *tuned])
    plans, beside = (*found.values(), *tuned), tuple(_baselines(bench, space))
    front = pareto(plans)
    intervals = {one.steps: bench.interval(one) for one in (*front, *beside, chosen)}
    return Found(
        goal, settings.zero_tolerance, bench.bytes, chosen, plans, front, beside, intervals
    )


def pareto(plans: Sequence[Measured]) -> tuple[Measured, ...]:
    """Return the plans that no other beats in bytes and cautious loss of AUC on the choosing half, the largest first."""
    front: list[Measured] = []
    for one in sorted(plans, key=lambda one: (one.bytes, one.cautious_drop)):
        if not front or one.cautious_drop < front[-1].cautious_drop:
            front.append(one)
    return tuple(reversed(front))


def with_tuning(steps: Sequence[StepSettings]) -> tuple[StepSettings, ...]:
    """Return a plan with `fine_tune` after all that changes rows, and before what stores dense weights in fewer bits."""
    dense = [step for step in steps if isinstance(step, Dense)]
    return (*(step for step in steps if not isinstance(step, Dense)), FineTune(), *dense)


def plain(step: StepSettings) -> dict[str, Any]:
    """Return a step as YAML has it: its kind, and what differs from the defaults."""
    return {"kind": step.kind} | step.model_dump(mode="json", exclude_defaults=True)


def _best_score(bench: Bench, space: Space) -> Score:
    """What rows are best pruned by here: the one that loses least at one share."""
    drops = {
        by: bench.measure(by, (*space.fixed, PruneRows(by=by, keep=PROBED))).cautious_drop
        for by in SCORES
    }
    return min(SCORES, key=lambda by: drops[by])


def _baselines(bench: Bench, space: Space) -> Iterator[Measured]:
    for name, plans in baselines(space).items():
        for steps in plans:
            yield bench.measure(name, steps)
