"""One day of learning: from the checkpoint before, through the day's impressions, to the day's checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.errors import UnsoundError
from features.schema import Relation, Schema
from training.checkpoints import ENCODINGS, Description, read_description, write_description
from training.columns import AbsentFields
from training.examples import Examples, batches, heldout_start, read_examples
from training.inputs import Featurizer, Inputs
from training.layout import Layout
from training.learner import ahead
from training.learners import Learners, Recipe
from training.models.cross_input import Encodings, read_encodings, write_encodings
from training.outcome import Outcome, Timing, write_outcome
from training.scalers import Scaler, scalers_from_numbers, scalers_from_statistics
from training.settings import ModelSettings, TrainingSettings


@dataclass(frozen=True)
class TrainRequest:
    """What a day is trained from.

    Attributes:
        schema: the fields.
        model: widths, layers, optimizers.
        training: batches, held-out share, seed.
        relations: pairs of fields whose p_uv enters the model.
        partition: the day's `impressions` artifact.
        previous_partition: that of the checkpoint's day, whose held-out slice is learned first.
        previous_checkpoint: the last checkpoint before the day; None on the first day.
        statistics: `feature_statistics` of a day before; None: scalers come from the day's own rows.
        encodings: an `encodings` artifact made of days before; None: p_uv is 0.
    """

    schema: Schema
    model: ModelSettings
    training: TrainingSettings
    relations: tuple[Relation, ...]
    partition: Path
    previous_partition: Path | None = None
    previous_checkpoint: Path | None = None
    statistics: Path | None = None
    encodings: Path | None = None


@dataclass(frozen=True)
class Progress:
    """How far learning is: examples done of all in this phase, examples per second so far, the last batch's loss."""

    phase: str
    done: int
    total: int
    examples_per_s: float
    loss: float


Listener = Callable[[Progress], None]


def train_day(request: TrainRequest, out: Path, progress: Listener | None = None) -> dict[str, float]:
    """Train one day and write its `checkpoint` folder (docs/architecture.md).

    The held-out slice of the day before is learned first; then the whole day is scored, then all of it but its last
    slice is learned, and that slice is scored by the model and by the baseline. The same request gives the same bytes,
    times aside.

    Args:
        request: inputs and settings.
        out: the folder to fill.
        progress: called every few seconds, and at the end of each phase.

    Returns:
        The figures of `metrics.json`; NaN where one is undefined (no model before, one class only).

    Raises:
        InputError: missing, damaged or unfit inputs.
        NoDataError: the partition has no impression.
        UnsoundError: the loss is not finite.
    """
    started = time.perf_counter()
    examples = read_examples(request.partition, request.schema, request.relations)
    featurizer = _featurizer(request, examples)
    reading_s = time.perf_counter() - started
    learners, progressive = _warm_start(request, examples, featurizer, progress)
    start = heldout_start(len(examples), request.training.holdout_fraction)
    learners.start_day()
    if progressive is None:
        learners.start_at_click_rate(examples.label[:start])
    timing = _learn(learners, featurizer.inputs(examples.slice(0, start)), request.training, "day", progress)
    learners.evict()
    outcome = Outcome(
        examples=examples,
        learned=start,
        progressive=progressive,
        heldout=_score(learners, featurizer.inputs(examples.slice(start, len(examples)))),
        timing=timing.after_reading(reading_s),
    )
    _save(request, featurizer, learners, out)
    return write_outcome(outcome, learners, out)


REPORT_EVERY_S = 5.0
"""Seconds between two calls of the progress listener."""


def _featurizer(request: TrainRequest, examples: Examples) -> Featurizer:
    dense = Layout.of(request.schema).dense
    known = scalers_from_statistics(request.statistics, dense) if request.statistics else {}
    scalers = _complete(known, dense, examples)
    encodings = read_encodings(request.encodings / ENCODINGS) if request.encodings else {}
    return _with_known_relations(request, scalers, encodings)


def _complete(known: dict[str, Scaler], dense: tuple[str, ...], examples: Examples) -> dict[str, Scaler]:
    """Add scalers from the day's own rows (no labels) for fields that nothing is known of yet."""
    return scalers_from_numbers(dense, examples.numbers, examples.present) | {
        name: known[name] for name in dense if name in known
    }


def _with_known_relations(request: TrainRequest, scalers: dict[str, Scaler], encodings: Encodings) -> Featurizer:
    wanted = {relation.name: encodings[relation.name] for relation in request.relations if relation.name in encodings}
    return Featurizer(request.schema, request.relations, scalers, wanted)


def _warm_start(
    request: TrainRequest, examples: Examples, featurizer: Featurizer, progress: Listener | None
) -> tuple[Learners, NDArray[np.float32] | None]:
    """Return the learners as of the day before, and their probabilities of the day's clicks (None: first day).

    Yesterday's model keeps yesterday's scalers and encodings: today's graph already knows the labels of the slice
    that it has to learn.
    """
    recipe = Recipe(request.schema, request.model, request.training, request.relations)
    if request.previous_checkpoint is None:
        return Learners.fresh(recipe), None
    saved = read_description(request.previous_checkpoint)
    learners = Learners.restored(recipe, request.previous_checkpoint, saved)
    scalers = dict(featurizer.scalers) | {n: s for n, s in saved.scalers.items() if n in featurizer.scalers}
    before = _with_known_relations(request, scalers, read_encodings(request.previous_checkpoint / ENCODINGS))
    _learn_yesterday(learners, request, before, saved, progress)
    return learners, learners.model.predict(before.inputs(examples))


def _learn_yesterday(
    learners: Learners, request: TrainRequest, before: Featurizer, saved: Description, progress: Listener | None
) -> None:
    if request.previous_partition is None:
        return
    examples = read_examples(request.previous_partition, request.schema, request.relations, AbsentFields.NULL)
    start = heldout_start(len(examples), saved.training.holdout_fraction)
    _learn(learners, before.inputs(examples.slice(start, len(examples))), request.training, "slice of the day before", progress)


def _learn(learners: Learners, inputs: Inputs, settings: TrainingSettings, phase: str, progress: Listener | None) -> Timing:
    meter = _Meter(phase, len(inputs) * settings.passes, progress)
    for number in range(settings.passes):
        seed = (settings.seed, learners.model.table.step, number)
        order = batches(len(inputs), settings.batch_size, settings.shuffle_block, seed)
        for prepared in ahead(lambda rows: learners.prepare(inputs.take(rows)), order):
            meter.arrived()
            loss = learners.learn(prepared)
            _refuse_unsound(loss, learners.model.table.step, phase)
            meter.learned(len(prepared.model.inputs), loss)
    return meter.timing()


def _refuse_unsound(loss: float, step: int, phase: str) -> None:
    if not np.isfinite(loss):
        raise UnsoundError(
            f"the loss is {loss} at step {step} ({phase}): nothing was saved; lower the learning rates or check the numbers"
        )


def _score(learners: Learners, inputs: Inputs) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return learners.model.predict(inputs), learners.baseline.predict(inputs)


def _save(request: TrainRequest, featurizer: Featurizer, learners: Learners, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    step = learners.model.table.step
    write_description(
        out, Description(request.schema, request.model, request.training, featurizer.scalers, request.relations, step)
    )
    write_encodings(out / ENCODINGS, featurizer.encodings)
    learners.save(out)


class _Meter:
    """Times a phase of learning, by waiting for batches and by stepping, and tells the listener now and then."""

    def __init__(self, phase: str, total: int, listener: Listener | None) -> None:
        self._phase, self._total, self._listener = phase, total, listener
        self._started = self._mark = self._told = time.perf_counter()
        self._done, self._waited_s, self._stepped_s = 0, 0.0, 0.0

    def arrived(self) -> None:
        """A batch is there."""
        self._waited_s += self._lap()

    def learned(self, examples: int, loss: float) -> None:
        """A batch is learned."""
        self._stepped_s += self._lap()
        self._done += examples
        if self._listener and (self._mark - self._told >= REPORT_EVERY_S or self._done == self._total):
            self._told = self._mark
            rate = self._done / max(self._mark - self._started, 1e-9)
            self._listener(Progress(self._phase, self._done, self._total, rate, loss))

    def timing(self) -> Timing:
        """The whole phase."""
        return Timing(self._done, self._stepped_s, self._waited_s)

    def _lap(self) -> float:
        before, self._mark = self._mark, time.perf_counter()
        return self._mark - before
