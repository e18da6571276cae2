"""One day, or one hour, of learning: from the checkpoint before, through its impressions, to its checkpoint."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.errors import InputError
from features.schema import Relation, Schema
from training.data.columns import AbsentFields
from training.data.examples import Examples, heldout_start, read_examples
from training.data.inputs import Featurizer, Inputs
from training.data.layout import Layout
from training.data.scalers import Scaler, scalers_from_numbers, scalers_from_statistics
from training.evaluation.day_report import PLOTS, Outcome, write_outcome
from training.evaluation.slices import Slicing
from training.fit.checkpoints import ENCODINGS, Description, read_description, write_description
from training.fit.hours import local_hours
from training.fit.learners import Learners, Recipe
from training.fit.meter import Listener
from training.fit.progressive import PROGRESSIVE, by_hour, write_progressive
from training.fit.progressive_plot import plot_progressive
from training.fit.sampling import sampled
from training.fit.staleness import Rewarmed, is_stale, starts_fresh
from training.fit.stream import Stream, learn, test_then_train
from training.fit.threads import use_threads_for
from training.models.cross_files import read_encodings, write_encodings
from training.models.cross_input import Encodings
from training.models.multi_hash.size import Size
from training.models.multi_hash.size_report import Seen, multi_hash_sizes
from training.settings import ModelSettings, TrainingSettings

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainRequest:
    """What a day is trained from. An hour is trained as a day is: wherever "the day" stands here, it is the hour.

    Attributes:
        schema: the fields.
        model: widths, layers, optimizers.
        training: batches, held-out share, sampling, staleness, seed.
        relations: pairs of fields whose p_uv enters the model.
        partition: the day's `impressions` artifact.
        previous_partition: that of the checkpoint's day, whose held-out slice is learned first.
        previous_checkpoint: the last checkpoint before the day; None on the first day.
        statistics: `feature_statistics` of a day before; None: scalers come from the day's own rows.
        encodings: an `encodings` artifact made of days before; None: p_uv is 0.
        gap_days: days from the checkpoint's day to this one; 1: it is of the day before; 1/24: of the hour before.
        begins_day: whether the table's days go on by one (`Idle(days=…)` counts them); not so for a day's second hour.
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


def train_day(
    request: TrainRequest,
    out: Path,
    progress: Listener | None = None,
    tell: Callable[[str], None] = _log.info,
) -> dict[str, float]:
    """Train one day and write its `checkpoint` folder (docs/architecture.md).

    The held-out slice of the day before is learned first. Then the day is scored and all of it but its last slice is
    learned, as a whole or hour by hour (`training.learn_by`), and that slice is scored by the model and by the baseline. The
    same request gives the same bytes, times aside.

    Args:
        request: inputs and settings.
        out: the folder to fill.
        progress: called every few seconds, and at the end of each phase.
        tell: called with a line for a person for each multi-hash field, before anything is learned: rows, bytes, collisions.

    Returns:
        The figures of `metrics.json`; NaN where one is undefined (no model before, one class only).

    Raises:
        InputError: missing, damaged or unfit inputs, or a checkpoint that is older than the settings allow.
        NoDataError: the partition has no impression.
        UnsoundError: the loss is not finite.
    """
    use_threads_for(request.training.batch_size)  # before reading, whose hashing starts TensorFlow
    request = _as_fresh_as_asked(request)
    slicing = Slicing.of(request.partition, request.schema, request.training.slices)
    started, cpu = time.perf_counter(), time.process_time()
    examples = _read(request, request.partition)
    featurizer = _featurizer(request, examples)
    reading = time.perf_counter() - started, time.process_time() - cpu
    sizes = _foretold(request, tell)
    learners, before = _warm_start(request, featurizer, progress)
    start = heldout_start(len(examples), request.training.holdout_fraction)
    if request.begins_day:
        learners.start_day()
    taken = test_then_train(
        learners, Stream(examples, start, before, featurizer, request.training), progress
    )
    learners.evict()
    outcome = Outcome(
        examples=examples,
        learned=start,
        progressive=taken.progressive,
        heldout=_score(learners, featurizer.inputs(examples.slice(start, len(examples)))),
        timing=taken.timing.after_reading(*reading),
        slicing=slicing,
        sizes=sizes,
    )
    _save(request, featurizer, learners, out)
    _report_hours(request, outcome, out)
    return write_outcome(outcome, learners, out)


def _foretold(request: TrainRequest, tell: Callable[[str], None]) -> dict[str, Size]:
    """The sizes of the multi-hash fields, told one by one."""
    seen = Seen(request.partition, request.statistics)
    sizes = multi_hash_sizes(request.schema, request.model, request.training.admission, seen)
    for name, size in sizes.items():
        tell(f"multi-hash field {name}: {size}")
    return sizes


def _as_fresh_as_asked(request: TrainRequest) -> TrainRequest:
    if request.previous_checkpoint and starts_fresh(request.training.staleness, request.gap_days):
        return replace(request, previous_checkpoint=None, previous_partition=None, begins_day=True)
    return request


def _read(
    request: TrainRequest, partition: Path, absent: AbsentFields = AbsentFields.REFUSE
) -> Examples:
    weight, extras = request.training.weight, request.schema.extras
    if weight and weight not in extras:
        raise InputError(
            f"training.weight is {weight!r}, but features.extras are {sorted(extras)}: add it there and ingest again"
        )
    return read_examples(partition, request.schema, request.relations, absent, weight)


def _featurizer(request: TrainRequest, examples: Examples) -> Featurizer:
    dense = Layout.of(request.schema).dense
    known = scalers_from_statistics(request.statistics, dense) if request.statistics else {}
    scalers = _complete(known, dense, examples)
    encodings = read_encodings(request.encodings / ENCODINGS) if request.encodings else {}
    return _with_known_relations(request, scalers, encodings)


def _complete(
    known: dict[str, Scaler], dense: tuple[str, ...], examples: Examples
) -> dict[str, Scaler]:
    """Add scalers from the day's own rows (no labels) for fields that nothing is known of yet."""
    return scalers_from_numbers(dense, examples.numbers, examples.present) | {
        name: known[name] for name in dense if name in known
    }


def _with_known_relations(
    request: TrainRequest, scalers: dict[str, Scaler], encodings: Encodings
) -> Featurizer:
    wanted = {
        relation.name: encodings[relation.name]
        for relation in request.relations
        if relation.name in encodings
    }
    return Featurizer(request.schema, request.relations, scalers, wanted)


def _warm_start(
    request: TrainRequest, featurizer: Featurizer, progress: Listener | None
) -> tuple[Learners, Featurizer | None]:
    """Return the learners as of the day before, and what their model reads (None: first day).

    Yesterday's model keeps yesterday's scalers and encodings: today's graph already knows the labels of the slice
    that it has to learn.
    """
    recipe = Recipe(request.schema, request.model, request.training, request.relations)
    if request.previous_checkpoint is None:
        return Learners.fresh(recipe), None
    saved = read_description(request.previous_checkpoint)
    recipe = replace(recipe, rewarmed=_rewarmed(request, saved))
    learners = Learners.restored(recipe, request.previous_checkpoint, saved)
    scalers = dict(featurizer.scalers) | {
        n: s for n, s in saved.scalers.items() if n in featurizer.scalers
    }
    before = _with_known_relations(
        request, scalers, read_encodings(request.previous_checkpoint / ENCODINGS)
    )
    _learn_yesterday(learners, request, before, saved, progress)
    return learners, before


def _rewarmed(request: TrainRequest, saved: Description) -> Rewarmed | None:
    policy = request.training.staleness
    wanted = policy.warmup_steps and is_stale(policy, request.gap_days)
    return Rewarmed(saved.step, policy.warmup_steps) if wanted else None


def _learn_yesterday(
    learners: Learners,
    request: TrainRequest,
    before: Featurizer,
    saved: Description,
    progress: Listener | None,
) -> None:
    if request.previous_partition is None:
        return
    examples = _read(request, request.previous_partition, AbsentFields.NULL)
    heldout = examples.slice(
        heldout_start(len(examples), saved.training.holdout_fraction), len(examples)
    )
    lesson = sampled(before.inputs(heldout), heldout, request.training)
    learn(learners, lesson, request.training, "slice of the day before", progress)


def _score(learners: Learners, inputs: Inputs) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return learners.model.predict(inputs), learners.baseline.predict(inputs)


def _save(request: TrainRequest, featurizer: Featurizer, learners: Learners, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    step = learners.model.table.step
    write_description(
        out,
        Description(
            request.schema,
            request.model,
            request.training,
            featurizer.scalers,
            request.relations,
            step,
        ),
    )
    write_encodings(out / ENCODINGS, featurizer.encodings)
    learners.save(out)


def _report_hours(request: TrainRequest, outcome: Outcome, out: Path) -> None:
    timezone, examples = request.schema.timezone, outcome.examples
    hours = by_hour(
        local_hours(examples.timestamp_ms, timezone), examples.label, outcome.progressive
    )
    write_progressive(hours, timezone, request.training.learn_by, out / PROGRESSIVE)
    plot_progressive(hours, timezone, out / PLOTS / "progressive.png")
