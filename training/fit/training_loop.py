"""The training loop: passes over shuffled batches, with timing and progress reports.

There are two loops: one over both learners of a day, and one over a single learner, by which fields
are selected and dense weights fine-tuned.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import Any

import numpy as np

from features.errors import UnsoundError
from training.data.examples import batches
from training.data.inputs import Inputs
from training.fit.learner import Learner, ahead
from training.fit.model_and_baseline import ModelAndBaseline
from training.settings import TrainingSettings

REPORT_EVERY_S = 5.0
"""Seconds between two calls of a progress listener."""


@dataclass(frozen=True)
class Timing:
    """The time that training took.

    Attributes:
        examples: trained on.
        step_s: seconds in steps.
        input_s: seconds in which the steps waited for input.
        cpu_s: CPU seconds of all threads of this process.
    """

    examples: int
    step_s: float
    input_s: float
    cpu_s: float

    @classmethod
    def total(cls, parts: Iterable[Timing]) -> Timing:
        """Return the sum of several phases."""
        timings = list(parts)
        return cls(*(sum(getattr(each, f.name) for each in timings) for f in fields(cls)))

    def after_reading(self, reading_s: float, cpu_s: float) -> Timing:
        """Add the seconds, and the CPU seconds, that reading and hashing the partition took."""
        return replace(self, input_s=self.input_s + reading_s, cpu_s=self.cpu_s + cpu_s)

    @property
    def examples_per_s(self) -> float:
        """Examples per second of steps and input together; NaN if there were none."""
        seconds = self.step_s + self.input_s
        return self.examples / seconds if self.examples and seconds else math.nan

    @property
    def examples_per_cpu_s(self) -> float:
        """Examples per CPU second of steps and input together; NaN if there were none."""
        return self.examples / self.cpu_s if self.examples and self.cpu_s else math.nan

    @property
    def input_share(self) -> float:
        """Share of the time in which steps waited for input; NaN if no time passed."""
        seconds = self.step_s + self.input_s
        return self.input_s / seconds if seconds else math.nan


@dataclass(frozen=True)
class Progress:
    """The progress of a training phase.

    Attributes:
        phase: its name.
        done: examples so far, of `total` in this phase.
        examples_per_s: so far.
        loss: of the last batch.
        examples_per_cpu_s: so far, per CPU second of all threads of this process.
    """

    phase: str
    done: int
    total: int
    examples_per_s: float
    loss: float
    examples_per_cpu_s: float


ProgressListener = Callable[[Progress], None]


class Meter:
    """Times a phase of so many examples, and reports every few seconds and at the end."""

    def __init__(
        self, phase: str, total: int, listener: ProgressListener | None, before: int = 0
    ) -> None:
        self._phase, self._total, self._listener = phase, total, listener
        # Of an interrupted training: they count for the progress, and not for the speed.
        self._before = before
        self._started = self._lap_started = self._last_report = time.perf_counter()
        self._started_cpu = time.process_time()
        self._done, self._waited_s, self._stepped_s = 0, 0.0, 0.0

    def batch_arrived(self) -> None:
        """End the time that was spent waiting for a batch."""
        self._waited_s += self._lap()

    def step_done(self, examples: int, loss: float) -> None:
        """End the time of a step, and report if a report is due."""
        self._stepped_s += self._lap()
        self._done += examples
        now = self._lap_started
        done = self._before + self._done
        is_due = now - self._last_report >= REPORT_EVERY_S or done == self._total
        if self._listener and is_due:
            self._last_report = now
            # Two readings of a clock may be equal: never divide by 0.
            rate, cpu_rate = (
                self._done / max(spent, 1e-9) for spent in (now - self._started, self._cpu_s())
            )
            self._listener(Progress(self._phase, done, self._total, rate, loss, cpu_rate))

    def timing(self) -> Timing:
        """Return the timing of the whole phase."""
        return Timing(self._done, self._stepped_s, self._waited_s, self._cpu_s())

    def _cpu_s(self) -> float:
        return time.process_time() - self._started_cpu

    def _lap(self) -> float:
        before, self._lap_started = self._lap_started, time.perf_counter()
        return self._lap_started - before


@dataclass(frozen=True)
class Place:
    """A place in a phase of the training, between two batches.

    Attributes:
        number: of the pass.
        began_at: the step at which the pass began, which is part of the seed of its order; None:
            it has not begun.
        batches: of the pass that were trained on.
    """

    number: int
    began_at: int | None
    batches: int


BEGINNING = Place(0, None, 0)
"""The place before the first batch of a phase."""


def train_model_and_baseline(
    learners: ModelAndBaseline,
    inputs: Inputs,
    settings: TrainingSettings,
    phase: str,
    listener: ProgressListener | None,
    start: Place = BEGINNING,
    after_step: Callable[[Place, Timing], None] | None = None,
) -> Timing:
    """Train both learners on impressions in `settings.passes` passes.

    Impressions are shuffled within blocks by the seed, the step and the pass.

    Args:
        learners: to train.
        inputs: the impressions.
        settings: passes, batches, shuffling, seed.
        phase: its name, for progress and errors.
        listener: receives the progress.
        start: where an interrupted training goes on.
        after_step: receives the place after each step, and the time of the phase so far.

    Raises:
        UnsoundError: the loss or, at the end, a dense weight is not finite.
    """
    before = start.number * len(inputs) + min(start.batches * settings.batch_size, len(inputs))
    meter = Meter(phase, len(inputs) * settings.passes, listener, before)
    hint = "the learning rates or check the numbers"
    for number in range(start.number, settings.passes):
        # 1. The order of the pass. The step is part of the seed: every phase of a day has its own.
        step, done = learners.model.table.step, 0
        if number == start.number and start.began_at is not None:
            step, done = start.began_at, start.batches
        seed = (settings.seed, step, number)

        # 2. The batches of the pass that are left.
        for prepared in _prepared(learners, inputs, settings, seed, done):
            meter.batch_arrived()
            loss = learners.train_step(prepared)
            _check_loss(loss, f"{learners.model.table.step} ({phase})", hint)
            # The batches of both learners are of the same impressions: count them once.
            meter.step_done(prepared[0].size, loss)
            done += 1
            if after_step:
                after_step(Place(number, step, done), meter.timing())
    # The losses are those before each step: the last one does not show what its step did.
    for learner in learners:
        weights = learner.model.weights()
        wrong = [name for name, weight in weights.items() if not np.isfinite(weight).all()]
        if wrong:
            raise UnsoundError(
                f"the dense weights {wrong} are not finite after {phase}: nothing was saved; "
                f"lower {hint}"
            )
    return meter.timing()


def train_learner(
    learner: Learner[Any],
    parts: Sequence[Inputs],
    training: TrainingSettings,
    passes: int,
    hint: str,
    report: Callable[[float], None] | None = None,
) -> None:
    """Train one learner on parts in order, `passes` times.

    Args:
        learner: to train.
        parts: impressions, shuffled within blocks by the seed, the pass and the part.
        training: batch size, shuffling, seed.
        passes: number of passes.
        hint: the rate to lower if the loss is not finite.
        report: receives the share of the impressions that is done, before each step.

    Raises:
        UnsoundError: the loss is not finite.
    """
    done, total = 0, passes * max(1, sum(len(part) for part in parts))
    for number in range(passes):
        for place, part in enumerate(parts):
            for prepared in _prepared(learner, part, training, (training.seed, number, place)):
                if report:
                    report(done / total)
                _check_loss(learner.train_step(prepared), str(learner.table.step), hint)
                done += prepared.size


def _prepared(
    learner: Learner[Any] | ModelAndBaseline,
    inputs: Inputs,
    settings: TrainingSettings,
    seed: tuple[int, ...],
    skipped: int = 0,
) -> Iterator[Any]:
    """Yield prepared batches of shuffled impressions, computed ahead in another thread.

    The first `skipped` batches are left out.
    """
    # Taking rows and finding their table rows overlaps with the steps; one thread keeps the order.
    order = batches(len(inputs), settings.batch_size, settings.shuffle_block, seed)
    return ahead(lambda rows: learner.prepare(inputs.take(rows)), islice(order, skipped, None))


def _check_loss(loss: float, step: str, hint: str) -> None:
    # After a loss of NaN the weights are NaN too, and every later step keeps them so.
    if not np.isfinite(loss):
        raise UnsoundError(f"the loss is {loss} at step {step}: nothing was saved; lower {hint}")
