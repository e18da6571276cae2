"""Test-then-train: a day is taken as a stream whose slices are scored first and learned after."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.errors import UnsoundError
from training.data.examples import Examples, batches
from training.data.inputs import Featurizer, Inputs
from training.evaluation.day_report import Timing
from training.fit.hours import local_hours, runs
from training.fit.learner import ahead
from training.fit.learners import Learners
from training.fit.meter import Listener, Meter, joined
from training.fit.sampling import sampled
from training.settings import TrainingSettings


@dataclass(frozen=True)
class Stream:
    """A day to be taken in the order of time.

    Attributes:
        examples: the whole day.
        learned: how many of them are to be learned; the rest is the held-out slice.
        before: what the model that the day starts from reads; None: there is none, it starts with nothing learned.
        today: what it reads from then on.
        settings: in which slices, what is left out, and the batches.
    """

    examples: Examples
    learned: int
    before: Featurizer | None
    today: Featurizer
    settings: TrainingSettings

    def slices(self) -> Iterator[tuple[str, int, int]]:
        """Yield name, start and stop of what is scored by one model: the day, or hour after hour."""
        if self.settings.learn_by == "day":
            yield "day", 0, len(self.examples)
            return
        hours = local_hours(self.examples.timestamp_ms, self.today.schema.timezone)
        for start, stop in runs(hours):
            yield f"hour {hours[start]}", start, stop


@dataclass(frozen=True)
class Taken:
    """A learned stream: probabilities before it was learned, float32 [n], NaN where there was no model; and the time it took."""

    progressive: NDArray[np.float32]
    timing: Timing


def test_then_train(learners: Learners, stream: Stream, progress: Listener | None) -> Taken:
    """Score each slice with the model as it is then, and learn it up to the held-out slice.

    Without a model before, the first slice gets no score, and the learners start at its click rate.

    Raises:
        UnsoundError: the loss is not finite.
    """
    progressive = np.full(len(stream.examples), np.nan, np.float32)
    timings, reads = [], stream.before
    for name, start, stop in stream.slices():
        part, learned = (
            stream.examples.slice(start, stop),
            stream.examples.slice(start, min(stop, stream.learned)),
        )
        scores = learners.model.predict(reads.inputs(part)) if reads else None
        if scores is None:
            learners.start_at_click_rate(learned.label)
        else:
            progressive[start:stop] = scores
        timings.append(_learn_slice(learners, stream, learned, scores, name, progress))
        reads = stream.today
    return Taken(progressive, joined(timings))


def learn(
    learners: Learners,
    inputs: Inputs,
    settings: TrainingSettings,
    phase: str,
    progress: Listener | None,
) -> Timing:
    """Learn impressions, shuffled within blocks by the seed and the step, in `passes` passes.

    Raises:
        UnsoundError: the loss is not finite.
    """
    meter = Meter(phase, len(inputs) * settings.passes, progress)
    for number in range(settings.passes):
        seed = (settings.seed, learners.model.table.step, number)
        order = batches(len(inputs), settings.batch_size, settings.shuffle_block, seed)
        for prepared in ahead(lambda rows: learners.prepare(inputs.take(rows)), order):
            meter.arrived()
            loss = learners.learn(prepared)
            _refuse_unsound(loss, learners.model.table.step, phase)
            meter.learned(prepared.size, loss)
    return meter.timing()


def _learn_slice(
    learners: Learners,
    stream: Stream,
    part: Examples,
    scores: NDArray[np.float32] | None,
    name: str,
    progress: Listener | None,
) -> Timing:
    """Learn a part; `scores` are of its slice, so they may be of more impressions."""
    started, cpu = time.perf_counter(), time.process_time()
    before = None if scores is None else scores[: len(part)]
    lesson = sampled(stream.today.inputs(part), part, stream.settings, before)
    preparing = time.perf_counter() - started, time.process_time() - cpu
    return learn(learners, lesson, stream.settings, name, progress).after_reading(*preparing)


def _refuse_unsound(loss: float, step: int, phase: str) -> None:
    if not np.isfinite(loss):
        raise UnsoundError(
            f"the loss is {loss} at step {step} ({phase}): nothing was saved; lower the learning rates or check the numbers"
        )
