"""Training of one day or hour: from the previous checkpoint to a new one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from features.errors import InputError
from features.schema import Relation, Schema
from training.data.columns import AbsentFields
from training.data.examples import Examples, heldout_start, read_examples
from training.data.inputs import Featurizer
from training.data.layout import FieldLayout
from training.data.scalers import Scaler, scalers_from_numbers, scalers_from_statistics
from training.evaluation.day_report import PLOTS, DayResult, write_day_report
from training.evaluation.progressive import (
    PROGRESSIVE,
    by_hour,
    plot_progressive,
    write_progressive,
)
from training.evaluation.slices import Slicing
from training.fit.checkpoints import ENCODINGS, Description, read_description, write_description
from training.fit.model_and_baseline import LearnerConfig, ModelAndBaseline
from training.fit.policies import WarmupRestart, is_stale, starts_fresh
from training.fit.resume import WARM_START, SavedStates
from training.fit.sampling import sampled
from training.fit.score_then_train import DayStream, local_hours, score_then_train
from training.fit.threads import use_threads_for
from training.fit.training_loop import ProgressListener, Timing, train_model_and_baseline
from training.models.encoding_inputs import Encodings, read_encodings, write_encodings
from training.models.multi_hash.size import IdCountSource, MultiHashSize, multi_hash_sizes
from training.settings import ModelSettings, TrainingSettings

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainRequest:
    """The inputs of a day's training. An hour is processed exactly like a day.

    Attributes:
        schema: the fields.
        model: widths, layers, optimizers.
        training: batches, held-out share, sampling, staleness, seed.
        relations: pairs of fields whose p_uv enters the model.
        partition: the day's `impressions` artifact.
        previous_partition: of the checkpoint's day; its held-out slice is trained on first.
        previous_checkpoint: the last checkpoint before the day; None on the first day.
        statistics: `feature_statistics` of an earlier day; None: the rows that are trained on
            give scalers.
        encodings: an `encodings` artifact of earlier days; None: p_uv is 0.
        gap_days: days from the checkpoint's day to this one: 1 for neighbouring days, 1/24 for
            neighbouring hours.
        begins_day: whether the table counts a new day (`Idle(days=...)`); false for a day's second
            hour.
        states: folder in which the state of a long training is saved every
            `training.save_every_s`; a state found there is continued. It must be of the same
            request. None: nothing is saved.
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
    gap_days: float = 1
    begins_day: bool = True
    states: Path | None = None


def train_day(
    request: TrainRequest,
    out: Path,
    progress: ProgressListener | None = None,
    log: Callable[[str], None] = _log.info,
) -> dict[str, float]:
    """Train one day and write its `checkpoint` folder (docs/architecture.md).

    First the held-out slice of the previous day is trained on. Then the day is scored and trained
    on, except for its last slice, at once or hour by hour (`training.learn_by`). Model and baseline
    score that slice. The same request gives the same bytes, except for times, also when it was
    interrupted and continues.

    Args:
        request: inputs and settings.
        out: the folder to fill.
        progress: called every few seconds, and at the end of each phase.
        log: receives one line per multi-hash field before training starts (rows, bytes,
            collisions), and one for each saved state.

    Returns:
        The figures of `metrics.json`; NaN if one is undefined (no earlier model, one class only).

    Raises:
        InputError: missing or damaged inputs, inputs that do not fit, or a checkpoint that is older
            than the settings allow.
        NoDataError: the partition has no impression.
        UnsoundError: the loss is not finite.
    """
    # 1. Read. Threads are set before: hashing the keys starts TensorFlow.
    use_threads_for(request.training.batch_size)
    request = _apply_staleness_policy(request)
    slicing = Slicing.of(request.partition, request.schema, request.training.slices)
    started, cpu = time.perf_counter(), time.process_time()
    examples = _read(request, request.partition)
    start = heldout_start(len(examples), request.training.holdout_fraction)
    featurizer = _featurizer(request, examples.slice(0, start))
    reading = time.perf_counter() - started, time.process_time() - cpu
    sizes = _log_multi_hash_sizes(request, log)

    # 2. Train.
    states = SavedStates(request.states, request.training.save_every_s, log)
    learners, before = _warm_start(request, featurizer, progress, states)
    # After the warm start, whose impressions belong to the day before.
    if request.begins_day and not states.is_over(WARM_START):
        learners.start_day()
    stream = DayStream(examples, start, before, featurizer, request.training)
    passed = score_then_train(learners, stream, progress, states)
    # Before the held-out slice is scored: the figures are those of the model that is saved.
    learners.evict()
    # The reported memory is then a function of the content, also after an interruption.
    learners.compact()

    # 3. Score the held-out slice and write everything.
    heldout = featurizer.inputs(examples.slice(start, len(examples)))
    result = DayResult(
        examples=examples,
        heldout_start=start,
        progressive=passed.progressive,
        heldout=(learners.model.predict(heldout), learners.baseline.predict(heldout)),
        timing=passed.timing.after_reading(*reading),
        slicing=slicing,
        sizes=sizes,
    )
    _save(request, featurizer, learners, out)
    timezone = request.schema.timezone
    hours = local_hours(examples.timestamp_ms, timezone)
    figures = by_hour(hours, examples.label, passed.progressive)
    write_progressive(figures, timezone, request.training.learn_by, out / PROGRESSIVE)
    plot_progressive(figures, timezone, out / PLOTS / "progressive.png")
    return write_day_report(result, learners, out)


def _apply_staleness_policy(request: TrainRequest) -> TrainRequest:
    if request.previous_checkpoint and starts_fresh(request.training.staleness, request.gap_days):
        # An untrained table has no day yet, so even a later hour of a day begins one.
        return replace(request, previous_checkpoint=None, previous_partition=None, begins_day=True)
    return request


def _read(
    request: TrainRequest, partition: Path, absent: AbsentFields = AbsentFields.REFUSE
) -> Examples:
    weight, extras = request.training.weight, request.schema.extras
    if weight and weight not in extras:
        raise InputError(
            f"training.weight is {weight!r}, but features.extras are {sorted(extras)}: "
            "add it there and ingest again"
        )
    return read_examples(partition, request.schema, request.relations, absent, weight)


def _featurizer(request: TrainRequest, trained: Examples) -> Featurizer:
    dense = FieldLayout.of(request.schema).dense
    # Scalers of the day's trained rows serve fields that have no statistics yet.
    scalers = scalers_from_numbers(dense, trained.numbers, trained.present)
    if request.statistics:
        known = scalers_from_statistics(request.statistics, dense)
        scalers |= {name: known[name] for name in dense if name in known}
    encodings = read_encodings(request.encodings / ENCODINGS) if request.encodings else {}
    return _with_relations(request, scalers, encodings)


def _with_relations(
    request: TrainRequest, scalers: Mapping[str, Scaler], encodings: Encodings
) -> Featurizer:
    """Return a featurizer with the encodings of the configured relations only."""
    names = [relation.name for relation in request.relations]
    wanted = {name: encodings[name] for name in names if name in encodings}
    return Featurizer(request.schema, request.relations, scalers, wanted)


def _log_multi_hash_sizes(
    request: TrainRequest, log: Callable[[str], None]
) -> dict[str, MultiHashSize]:
    seen = IdCountSource(request.partition, request.statistics)
    sizes = multi_hash_sizes(request.schema, request.model, request.training.admission, seen)
    for name, size in sizes.items():
        log(f"multi-hash field {name}: {size}")
    return sizes


def _warm_start(
    request: TrainRequest,
    featurizer: Featurizer,
    progress: ProgressListener | None,
    states: SavedStates,
) -> tuple[ModelAndBaseline, Featurizer | None]:
    """Return the learners after the previous day, and the featurizer of their model.

    The featurizer is None on the first day.
    """
    training = request.training
    config = LearnerConfig(request.schema, request.model, training, request.relations)
    if request.previous_checkpoint is None:
        return states.restored(config) or ModelAndBaseline.new(config), None

    # 1. Restore, with a warm-up of the learning rates after a gap, if configured.
    saved = read_description(request.previous_checkpoint)
    policy = training.staleness
    if policy.warmup_steps and is_stale(policy, request.gap_days):
        config = replace(config, wrap_optimizer=WarmupRestart(saved.step, policy.warmup_steps))
    learners = states.restored(config) or ModelAndBaseline.from_checkpoint(
        config, request.previous_checkpoint, saved
    )

    # 2. Keep the previous day's scalers and encodings for it: today's graph was computed with the
    #    labels of the slice that is scored next.
    known = {name: each for name, each in saved.scalers.items() if name in featurizer.scalers}
    encodings = read_encodings(request.previous_checkpoint / ENCODINGS)
    before = _with_relations(request, {**featurizer.scalers, **known}, encodings)

    # 3. Train on the previous day's held-out slice, which is no longer needed for evaluation.
    if request.previous_partition is not None and not states.is_over(WARM_START):
        # NULL: the earlier partition may lack fields that were added to the schema since.
        examples = _read(request, request.previous_partition, AbsentFields.NULL)
        # The share that the checkpoint's own training held out; today's may differ.
        start = heldout_start(len(examples), saved.training.holdout_fraction)
        heldout = examples.slice(start, len(examples))
        inputs = sampled(before.inputs(heldout), heldout, training)
        phase = "slice of the day before"
        save = states.saver(learners, WARM_START, Timing.total(()), np.zeros(0, np.float32))
        train_model_and_baseline(
            learners, inputs, training, phase, progress, states.place(WARM_START), save
        )
    return learners, before


def _save(
    request: TrainRequest, featurizer: Featurizer, learners: ModelAndBaseline, out: Path
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    description = Description(
        schema=request.schema,
        model=request.model,
        training=request.training,
        scalers=featurizer.scalers,
        relations=request.relations,
        step=learners.model.table.step,
    )
    write_description(out, description)
    write_encodings(out / ENCODINGS, featurizer.encodings)
    learners.save(out)
