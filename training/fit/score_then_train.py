"""Score, then train, over one finite day or hour.

Each slice of the day is scored by the current model, and then trained on (also
called test-then-train, or progressive validation). `training.fit.streaming` does the same for an
endless stream of small batches.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from features.schema import TimePart
from features.times import time_part
from training.data.examples import Examples
from training.data.inputs import Featurizer
from training.fit.model_and_baseline import ModelAndBaseline
from training.fit.resume import WARM_START, SavedStates
from training.fit.sampling import sampled
from training.fit.training_loop import ProgressListener, Timing, train_model_and_baseline
from training.settings import TrainingSettings


@dataclass(frozen=True)
class DayStream:
    """A day's impressions in the order of time.

    Attributes:
        examples: the whole day.
        heldout_start: the first impression of the held-out slice, which is not trained on.
        before: featurizer of the model that the day starts from; None: there is no such model.
        today: featurizer from the first slice's training on.
        settings: slices, sampling and batches.
    """

    examples: Examples
    heldout_start: int
    before: Featurizer | None
    today: Featurizer
    settings: TrainingSettings

    def slices(self) -> Iterator[tuple[str, int, int]]:
        """Yield name, start and stop of each slice that one model scores: the day, or each hour."""
        if self.settings.learn_by == "day":
            yield "day", 0, len(self.examples)
            return
        hours = local_hours(self.examples.timestamp_ms, self.today.schema.timezone)
        for start, stop in runs(hours):
            yield f"hour {hours[start]}", start, stop


@dataclass(frozen=True)
class PassResult:
    """The result of a pass over a day.

    Attributes:
        progressive: probabilities before training, float32 [n]; NaN without a model.
        timing: of the training.
    """

    progressive: NDArray[np.float32]
    timing: Timing


def score_then_train(
    learners: ModelAndBaseline,
    stream: DayStream,
    listener: ProgressListener | None,
    states: SavedStates | None = None,
) -> PassResult:
    """Score each slice of a day with the current model, then train on it up to the held-out slice.

    Without an earlier model the first slice is not scored, and the learners start at its click
    rate. An interrupted training goes on from its last saved state, which the learners are of.

    Raises:
        UnsoundError: the loss is not finite.
    """
    states = states or SavedStates()
    progressive = states.progressive(len(stream.examples))
    # Until its first training the model knows the previous day's scalers and encodings only.
    timings, featurizer = states.earlier(), stream.before
    for phase, (name, start, stop) in enumerate(stream.slices(), start=WARM_START + 1):
        if states.is_over(phase):
            featurizer = stream.today
            continue
        part = stream.examples.slice(start, stop)
        # The held-out part is scored like the rest, but not trained on.
        to_train = stream.examples.slice(start, min(stop, stream.heldout_start))

        # 1. Score the slice, or start at its click rate; an interrupted training has done so.
        if not states.interrupted(phase):
            if featurizer:
                progressive[start:stop] = learners.model.predict(featurizer.inputs(part))
            else:
                learners.start_at_click_rate(to_train.label)
        scores = progressive[start:stop] if featurizer else None

        # 2. Train on what is not held out. The sampling prefers examples with bad scores.
        started, cpu = time.perf_counter(), time.process_time()
        before = None if scores is None else scores[: len(to_train)]
        inputs = sampled(stream.today.inputs(to_train), to_train, stream.settings, before)
        preparing = time.perf_counter() - started, time.process_time() - cpu
        save = states.saver(learners, phase, Timing.total(timings), progressive)
        timing = train_model_and_baseline(
            learners, inputs, stream.settings, name, listener, states.place(phase), save
        )
        timings.append(timing.after_reading(*preparing))

        # 3. From now on the model has been trained on today's scalers and encodings.
        featurizer = stream.today
    return PassResult(progressive, Timing.total(timings))


def local_hours(timestamp_ms: NDArray[np.int64], timezone: str) -> NDArray[np.int64]:
    """Return the local hour of the day, int64 [n] from 0 to 23, of epoch milliseconds int64 [n]."""
    stamps = tf.constant(timestamp_ms, tf.int64)
    # By the features' own function, so that hours agree with the schema's time fields.
    hours: NDArray[np.int64] = time_part(stamps, TimePart.HOUR_OF_DAY, timezone).numpy()
    return hours


def runs(values: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return start (included) and stop (excluded) of each run of equal values in int64 [n].

    >>> runs(np.array([7, 7, 9]))
    [(0, 2), (2, 3)]
    """
    changes = np.flatnonzero(np.diff(values)) + 1
    return list(pairwise([0, *changes.tolist(), len(values)])) if len(values) else []
