"""An arm taken through the days: each slice is scored by the model as it is then and learned after, in one pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from features.schema import Schema
from globo_parts.arms import Arm, recipe, schema_of
from globo_parts.fixed import Size, hashed, row_bytes, rows_within
from globo_parts.stream import Day, columns
from training.data.examples import batches
from training.data.inputs import Inputs
from training.fit.learner import Learner, ahead
from training.fit.model_and_baseline import LearnerConfig, ModelAndBaseline
from training.fit.score_then_train import runs

Report = Callable[[str], None]


@dataclass
class Run:
    """What an arm gave.

    Attributes:
        probability: by day float32 [n], before it was learned; NaN where nothing was learned yet.
        size: of the table at its largest; of a fixed table what is set beforehand.
        touched: rows in use at the end of each day, before anything is let go.
        dense_bytes: of the dense weights and their optimizer state.
        seconds: scoring and learning.
        rows: impressions.
    """

    probability: list[NDArray[np.float32]] = field(default_factory=list)
    size: Size = field(default_factory=lambda: Size(0, 0))
    touched: list[int] = field(default_factory=list)
    dense_bytes: int = 0
    seconds: float = 0.0
    rows: int = 0


def run(
    arm: Arm,
    like: Size | None,
    days: Sequence[Day],
    schema: Schema,
    seed: int,
    batch: int,
    report: Report,
) -> Run:
    """Take an arm through the days.

    Args:
        arm: the system.
        like: the size that a fixed table goes by; None: the table is elastic.
        days: in order.
        schema: of the days' inputs.
        seed: of everything drawn.
        batch: impressions a step.
        report: told of every day.
    """
    made = recipe(arm, schema, seed, batch)
    learners = ModelAndBaseline.new(made)
    rows = _fixed_rows(arm, like, learners.model) if like else 0
    done = Run(dense_bytes=_dense_bytes(learners.model))
    for day in days:
        started = time.monotonic()
        inputs = columns(day.inputs, schema, schema_of(arm, schema))
        _take_day(
            learners, made, replace(day, inputs=hashed(inputs, rows) if rows else inputs), done
        )
        done.seconds += time.monotonic() - started
        report(f"{day.date}: {len(day):,} impressions in {time.monotonic() - started:.0f} s")
    if rows:
        done.size = Size(rows, rows * row_bytes(learners.model.table))
    return done


def slices(day: Day, learn_by: str) -> Iterator[tuple[int, int]]:
    """Yield start and stop of what one model scores: the day, or hour after hour."""
    yield from [(0, len(day))] if learn_by == "day" else runs(day.hour)


def _take_day(learners: ModelAndBaseline, made: LearnerConfig, day: Day, done: Run) -> None:
    learner, probability = learners.model, np.full(len(day), np.nan, np.float32)
    learner.table.start_day()
    for start, stop in slices(day, made.training.learn_by):
        part = day.inputs.take(np.arange(start, stop))
        if learner.table.step:
            probability[start:stop] = learner.predict(part)
        else:
            learners.start_at_click_rate(part.label)
        _learn(learner, part, made)
    done.probability.append(probability)
    done.rows += len(day)
    done.touched.append(len(learner.table))
    done.size = done.size.grown(Size.of(learner.table))
    if learner.table.eviction:
        learner.table.evict()


def _learn(learner: Learner, inputs: Inputs, made: LearnerConfig) -> None:
    settings = made.training
    order = batches(
        len(inputs),
        settings.batch_size,
        settings.shuffle_block,
        (settings.seed, learner.table.step),
    )
    for prepared in ahead(lambda rows: learner.prepare(inputs.take(rows)), order):
        learner.train_step(prepared)


def _fixed_rows(arm: Arm, like: Size, learner: Learner) -> int:
    return like.rows if arm.same == "rows" else rows_within(like.bytes, learner.table)


def _dense_bytes(learner: Learner) -> int:
    weights = sum(array.nbytes for array in learner.model.weights().values())
    return weights + sum(
        state.numpy().nbytes for slots in learner.slots.values() for state in slots.values()
    )
