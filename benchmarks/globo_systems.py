"""Globo: the days, the systems that are compared, their runs, figures and picture."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from harness.cache import description_digest
from harness.globo_files import within_share
from harness.training import train_once
from matplotlib.axes import Axes
from matplotlib.dates import DateFormatter, DayLocator
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from elastic_embeddings.core.hashing import mix64
from elastic_embeddings.table import ElasticTable
from features.plotting import BLUE, GRID, INK, ORANGE, PALE, figure_file
from features.schema import Categorical, Cross, Schema, Time, TimePart, Timestamp
from training.data.examples import read_examples
from training.data.inputs import Featurizer, Inputs
from training.data.layout import FieldLayout
from training.evaluation.metrics import auc, auc_within, log_loss
from training.evaluation.slices import FREQUENT
from training.fit.learner import Learner
from training.fit.model_and_baseline import LearnerConfig, ModelAndBaseline
from training.fit.score_then_train import local_hours, runs
from training.settings import (
    AdmissionSettings,
    EvictionSettings,
    ModelSettings,
    OptimizerSettings,
    RelationNetworkSettings,
    TrainingSettings,
)


@dataclass(frozen=True)
class Day:
    """A day's impressions in the order of time.

    Attributes:
        date: the day.
        inputs: of all id fields of the schema.
        item: int64 [n], the article's key.
        hour: int64 [n], local hour of the day.
        times_before: int64 [n], in how many impressions of the days before its article was; 0:
            first seen this day.
    """

    date: date
    inputs: Inputs
    item: NDArray[np.int64]
    hour: NDArray[np.int64]
    times_before: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.hour)

    @property
    def new(self) -> NDArray[np.bool_]:
        """Where the article is first seen this day."""
        return self.times_before == 0

    @property
    def rare(self) -> NDArray[np.bool_]:
        """Where the article was seen before, but fewer than `FREQUENT` times."""
        return (self.times_before > 0) & (self.times_before < FREQUENT)


class Known:
    """How often each item was in an impression so far."""

    def __init__(self) -> None:
        self._items = np.zeros(0, np.int64)
        self._times = np.zeros(0, np.int64)

    def times(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how often each of the items int64 [n] was there, int64 [n]."""
        if not len(self._items):
            return np.zeros(len(items), np.int64)
        at = np.minimum(np.searchsorted(self._items, items), len(self._items) - 1)
        return np.where(self._items[at] == items, self._times[at], 0)

    def add(self, items: NDArray[np.int64]) -> None:
        """Count the items of impressions, int64 [n]."""
        new, inverse = np.unique(np.concatenate([self._items, items]), return_inverse=True)
        counts = np.concatenate([self._times, np.ones(len(items), np.int64)])
        self._items, self._times = (
            new,
            np.bincount(inverse, weights=counts, minlength=len(new)).astype(np.int64),
        )


def read_day(folder: Path, schema: Schema, day: date, known: Known, share: float = 1.0) -> Day:
    """Read an `impressions` artifact.

    Args:
        folder: the artifact.
        schema: the fields.
        day: its day.
        known: asked for the days before, and given this one.
        share: of the users whose impressions are kept, the same ones every day.

    Raises:
        InputError: the artifact is damaged.
    """
    examples = read_examples(folder, schema)
    inputs = Featurizer(schema, (), {}, {}).inputs(examples)
    chosen = np.flatnonzero(within_share(_of_field(inputs, schema, schema.user), share))
    hours = local_hours(examples.timestamp_ms, schema.timezone)
    return _day(day, inputs.take(chosen), schema, hours[chosen], known)


def drawn(count: int, schema: Schema, rows: int = 2400, seed: int = 0) -> Iterator[Day]:
    """Yield small drawn days, to try the benchmark without the data: articles come and go, and some
    are clicked more.
    """
    rng, known, names = np.random.default_rng(seed), Known(), FieldLayout.of(schema).singles
    for number in range(count):
        codes = rng.integers(0, 40, (rows, len(names)))
        codes[:, names.index(schema.item)] += 20 * number
        liked = mix64(codes[:, names.index(schema.item)].astype(np.uint64)) % np.uint64(3) == 0
        label = (rng.random(rows) < np.where(liked, 0.6, 0.1)).astype(np.float32)
        keys = mix64((codes + 1000 * np.arange(len(names))).astype(np.uint64)).view(np.int64)
        nothing = np.zeros((rows, 0), np.float32)
        inputs = Inputs(keys=keys, lists=(), dense=nothing, cross=nothing, label=label)
        yield _day(
            date(2017, 10, 2) + timedelta(days=number),
            inputs,
            schema,
            np.arange(rows) * 24 // rows,
            known,
        )


def drawn_schema() -> Schema:
    """Return the schema of `drawn` days: some of Globo's fields and one of its crosses."""
    names = (
        "user_id",
        "click_article_id",
        "click_region",
        "click_referrer_type",
        "click_deviceGroup",
    )
    fields = (
        *(Categorical(name=name) for name in names),
        Time(name="hour", part=TimePart.HOUR_OF_DAY),
    )
    cross = Cross(name="article_region", of=("click_article_id", "click_region"))
    stamp = Timestamp(column="click_timestamp")
    return Schema(
        label="clicked", user=names[0], item=names[1], timestamp=stamp, fields=(*fields, cross)
    )


def columns(inputs: Inputs, whole: Schema, part: Schema) -> Inputs:
    """Return the inputs of a schema that has some of the single-valued id fields."""
    places = [FieldLayout.of(whole).singles.index(name) for name in FieldLayout.of(part).singles]
    return replace(inputs, keys=np.ascontiguousarray(inputs.keys[:, places]))


def _day(day: date, inputs: Inputs, schema: Schema, hour: NDArray[np.int64], known: Known) -> Day:
    item = _of_field(inputs, schema, schema.item)
    times_before = known.times(item)
    known.add(item)
    return Day(day, inputs, item, hour, times_before)


def _of_field(inputs: Inputs, schema: Schema, column: str) -> NDArray[np.int64]:
    """The keys int64 [n] of the field that reads a column of the log."""
    name = next(
        field.name for field in schema.column_fields() if schema.source_column(field) == column
    )
    return np.ascontiguousarray(inputs.keys[:, FieldLayout.of(schema).singles.index(name)])


RELATED = (
    "user_id",
    "click_article_id",
    "click_region",
    "click_referrer_type",
    "click_deviceGroup",
    "hour",
)
"""The fields of the relation network, those of the declared crosses among them."""

_FOLLOWING = {"beta_1": 0.0, "beta_2": 0.99}
"""Adam's rates for rows: with the usual .9 and .999 a row that is in few batches moves too little
in one pass.
"""

_SMALL = {"admission": AdmissionSettings(min_count=2), "eviction": EvictionSettings(idle_days=2)}


@dataclass(frozen=True)
class Variant:
    """One system.

    Attributes:
        learn_by: what is scored by one model before it is learned.
        like: an elastic variant whose size sets the number of rows of a fixed hashed table; empty:
            the table is elastic.
        same: whether that table has that variant's bytes at their highest, or as many rows as it
            had at most.
        crosses: whether the declared crosses of ids are among the fields.
        relations: whether the deep part has a relation network.
        small: ids get a row at their second occurrence and lose it when idle for two days.
        usual_betas: rows learn with Adam's usual betas.
    """

    learn_by: Literal["hour", "day"] = "hour"
    like: str = ""
    same: Literal["bytes", "rows"] = "bytes"
    crosses: bool = True
    relations: bool = False
    small: bool = False
    usual_betas: bool = False


VARIANTS: dict[str, Variant] = {
    "elastic": Variant(),
    "hashed": Variant(like="elastic"),
    "hashed_rows": Variant(like="elastic", same="rows"),
    "small": Variant(small=True),
    "small_hashed": Variant(like="small"),
    "daily": Variant(learn_by="day"),
    "daily_hashed": Variant(learn_by="day", like="elastic"),
    "relations": Variant(crosses=False, relations=True),
    "no_crosses": Variant(crosses=False),
    "usual_betas": Variant(usual_betas=True),
}
"""By name; a variant comes after the one that it is `like`."""


def schema_of(variant: Variant, schema: Schema) -> Schema:
    """Return the fields that a variant reads."""
    fields = tuple(
        field for field in schema.fields if variant.crosses or not isinstance(field, Cross)
    )
    return schema.model_copy(update={"fields": fields})


def recipe(variant: Variant, schema: Schema, seed: int, batch: int) -> LearnerConfig:
    """Return what a variant's learner is built from.

    Args:
        variant: the system.
        schema: all fields.
        seed: of everything drawn.
        batch: impressions a step.
    """
    training = TrainingSettings(
        batch_size=batch, seed=seed, learn_by=variant.learn_by, **(_SMALL if variant.small else {})
    )
    return LearnerConfig(schema_of(variant, schema), _model(variant), training, ())


def _model(variant: Variant) -> ModelSettings:
    rows = OptimizerSettings(**({} if variant.usual_betas else _FOLLOWING))
    network = RelationNetworkSettings(fields=RELATED) if variant.relations else None
    return ModelSettings(hidden=(64,), relations=network, deep=rows, wide=rows)


@dataclass(frozen=True)
class Size:
    """How large a table is.

    Attributes:
        rows: with a vector of their own.
        bytes: of rows with their optimizer state, and of the index where there is one.
    """

    rows: int
    bytes: int

    @classmethod
    def of(cls, table: ElasticTable) -> Self:
        """Measure a table as it is, spare rows that evictions left included."""
        return cls(len(table), table.memory_bytes())

    def grown(self, other: Size) -> Size:
        """Return the larger of both, in rows and in bytes."""
        return Size(max(self.rows, other.rows), max(self.bytes, other.bytes))


def row_bytes(table: ElasticTable) -> int:
    """Return the bytes of one row: weights and optimizer state of all slabs."""
    return sum(sum(slab.nbytes(1)) - sum(slab.nbytes(0)) for slab in table.slabs.values())


def rows_within(budget_bytes: int, table: ElasticTable) -> int:
    """Return how many rows like the table's fit into a number of bytes when there is no index."""
    return max(1, budget_bytes // row_bytes(table))


def hashed(inputs: Inputs, rows: int) -> Inputs:
    """Return the inputs with their single-valued ids sent to one of so many rows."""
    return replace(inputs, keys=hashed_keys(inputs.keys, rows))


def hashed_keys(keys: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """Return the row of each key int64 [n, S], 0 … rows - 1, in the same shape."""
    return (mix64(keys.view(np.uint64)) % np.uint64(rows)).astype(np.int64)


Report = Callable[[str], None]


@dataclass
class Run:
    """What a variant gave.

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
    variant: Variant,
    like: Size | None,
    days: Sequence[Day],
    schema: Schema,
    seed: int,
    batch: int,
    report: Report,
) -> Run:
    """Take a variant through the days.

    Args:
        variant: the system.
        like: the size that a fixed table goes by; None: the table is elastic.
        days: in order.
        schema: of the days' inputs.
        seed: of everything drawn.
        batch: impressions a step.
        report: receives a line for each day.
    """
    made = recipe(variant, schema, seed, batch)
    learners = ModelAndBaseline.new(made)
    rows = _fixed_rows(variant, like, learners.model) if like else 0
    done = Run(dense_bytes=_dense_bytes(learners.model))
    for day in days:
        started = time.monotonic()
        inputs = columns(day.inputs, schema, schema_of(variant, schema))
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
        train_once(learner, part, made.training)
    done.probability.append(probability)
    done.rows += len(day)
    done.touched.append(len(learner.table))
    done.size = done.size.grown(Size.of(learner.table))
    if learner.table.eviction:
        learner.table.evict()


def _fixed_rows(variant: Variant, like: Size, learner: Learner) -> int:
    return like.rows if variant.same == "rows" else rows_within(like.bytes, learner.table)


def _dense_bytes(learner: Learner) -> int:
    weights = sum(array.nbytes for array in learner.model.weights().values())
    return weights + sum(
        state.numpy().nbytes for slots in learner.slots.values() for state in slots.values()
    )


def kept(folder: Path, name: str, description: object, make: Callable[[], Run]) -> Run:
    """Return a variant's run, read from a file where it was made before.

    Args:
        folder: of the files, made if missing.
        name: of the variant.
        description: everything that the run depends on, as JSON.
        make: makes it.
    """
    digest = description_digest(description)
    path = folder / f"{name}-{digest}.npz"
    if path.exists():
        return _read(path)
    run = make()
    folder.mkdir(parents=True, exist_ok=True)
    _write(run, path)
    return run


def _write(run: Run, path: Path) -> None:
    facts: dict[str, Any] = asdict(run)
    days = {f"day_{number}": values for number, values in enumerate(facts.pop("probability"))}
    unfinished = path.with_suffix(".part.npz")
    np.savez(unfinished, facts=np.array(json.dumps(facts)), **days)
    unfinished.replace(path)


def _read(path: Path) -> Run:
    with np.load(path, allow_pickle=False) as file:
        facts = json.loads(str(file["facts"]))
        days = [file[f"day_{number}"] for number in range(len(file.files) - 1)]
    return Run(**(facts | {"probability": days, "size": Size(**facts["size"])}))


Mask = Callable[[Day], NDArray[np.bool_]]

JUDGED_FROM = 1
"""Number of the first day that is judged."""


def figures(run: Run, days: Sequence[Day]) -> dict[str, Any]:
    """Return a variant's figures.

    Args:
        run: what it gave.
        days: what it was taken through, two or more.

    Returns:
        `auc`, `auc_new` (article first seen that day), `auc_rare` (seen before, seldom),
        `log_loss`: means over the judged days; `auc_by_day`, `auc_new_by_day`; `rows_in_use` at the
        end of each day; `rows`, `bytes` of the table at its largest; `dense_bytes`;
        `examples_per_s` of scoring and learning together.
    """
    judged = list(zip(days, run.probability, strict=True))[JUDGED_FROM:]
    whole = [auc(day.inputs.label, p) for day, p in judged]
    new, rare = (_within(judged, mask) for mask in (lambda day: day.new, lambda day: day.rare))
    return {
        "auc": _mean(whole),
        "auc_new": _mean(new),
        "auc_rare": _mean(rare),
        "log_loss": _mean([log_loss(day.inputs.label, p) for day, p in judged]),
        "auc_by_day": _by_day(days, whole),
        "auc_new_by_day": _by_day(days, new),
        "rows_in_use": run.touched,
        "rows": run.size.rows,
        "bytes": run.size.bytes,
        "dense_bytes": run.dense_bytes,
        "examples_per_s": round(run.rows / run.seconds) if run.seconds else None,
    }


def stream_figures(days: Sequence[Day]) -> dict[str, Any]:
    """Return what the days are: impressions and clicks of each, and the share of the judged that is
    of new and rare articles.
    """
    new, rare = (
        np.concatenate([mask(day) for day in days[JUDGED_FROM:]])
        for mask in (lambda d: d.new, lambda d: d.rare)
    )
    return {
        "impressions": {str(day.date): len(day) for day in days},
        "clicks": {str(day.date): int(day.inputs.label.sum()) for day in days},
        "judged_impressions": len(new),
        "share_new": round(float(new.mean()), 4),
        "share_rare": round(float(rare.mean()), 4),
    }


def lines(variants: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return a line a variant, as `COLUMNS` says."""
    return [
        (name, *(_shown(values[column]) for column in COLUMNS)) for name, values in variants.items()
    ]


COLUMNS = ("auc", "auc_new", "auc_rare", "log_loss", "rows", "bytes", "examples_per_s")
"""What of the figures is printed as a table."""


def _within(judged: Sequence[tuple[Day, NDArray[np.float32]]], mask: Mask) -> list[float]:
    return [auc_within(day.inputs.label, p, mask(day)) for day, p in judged]


def _by_day(days: Sequence[Day], values: Sequence[float]) -> dict[str, float | None]:
    return {
        str(day.date): _mean([value]) for day, value in zip(days[JUDGED_FROM:], values, strict=True)
    }


def _mean(values: Sequence[float]) -> float | None:
    """None where a day's figure is undefined: JSON has no NaN."""
    mean = float(np.mean(values))
    return round(mean, 5) if math.isfinite(mean) else None


def _shown(value: float | int | None) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


_LEAST_ROWS = 500
"""Impressions that an hour needs for a point."""


def plot_hours(
    days: Sequence[Day], probability: Mapping[str, Sequence[NDArray[np.float32]]], path: Path
) -> Path:
    """Draw the AUC of each hour and of each day into a PNG and return its path.

    Args:
        days: in order; the first is not judged.
        probability: what to call a way of learning → its probabilities by day, float32 [n]; two at
            most.
        path: whose folder is made if missing.
    """
    with figure_file(path, (10, 5.4)) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        for (name, values), colour in zip(probability.items(), (BLUE, ORANGE), strict=False):
            _draw_auc(upper, days, values, name, colour)
        _draw_rows(lower, days)
        upper.set_ylabel("AUC before it was trained on")
        place = {"loc": "lower left", "bbox_to_anchor": (-0.01, 1.0), "ncols": 4}
        upper.legend(frameon=False, fontsize="small", **place)
        heading = _message(days, probability)
        figure.suptitle(heading, x=0.01, ha="left", fontweight="bold", color=INK)
    return path


def hourly_auc(day: Day, probability: NDArray[np.float32]) -> list[tuple[int, float]]:
    """Return hour and AUC of each hour of a day that has impressions enough."""
    spans = [(start, stop) for start, stop in runs(day.hour) if stop - start >= _LEAST_ROWS]
    return [(int(day.hour[a]), auc(day.inputs.label[a:b], probability[a:b])) for a, b in spans]


def with_gaps(points: Sequence[tuple[datetime, float]]) -> Iterator[tuple[datetime, float]]:
    """Yield the points of hours, with a NaN behind each that the next hour does not follow: no line
    bridges a gap.
    """
    hour = timedelta(hours=1)
    for number, (moment, value) in enumerate(points):
        if number and moment - points[number - 1][0] > hour:
            yield points[number - 1][0] + hour, np.nan
        yield moment, value


def _draw_auc(
    axes: Axes,
    days: Sequence[Day],
    probability: Sequence[NDArray[np.float32]],
    name: str,
    colour: str,
) -> None:
    judged = list(zip(days, probability, strict=True))[JUDGED_FROM:]
    points = [
        (_moment(day, hour + 0.5), value) for day, p in judged for hour, value in hourly_auc(day, p)
    ]
    axes.plot(
        *zip(*with_gaps(points), strict=True), color=colour, linewidth=1.6, label=f"{name}: an hour"
    )
    for number, (day, p) in enumerate(judged):
        label = f"{name}: the day" if number == 0 else None
        span = _moment(day, 0), _moment(day, 24)
        axes.hlines(
            auc(day.inputs.label, p), *span, color=colour, linewidth=4, alpha=0.35, label=label
        )
    axes.grid(axis="y", color=GRID)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_rows(axes: Axes, days: Sequence[Day]) -> None:
    spans = [(day, start, stop) for day in days[JUDGED_FROM:] for start, stop in runs(day.hour)]
    moments = [_moment(day, int(day.hour[start]) + 0.5) for day, start, _ in spans]
    axes.bar(
        moments, [stop - start for _, start, stop in spans], width=timedelta(minutes=50), color=PALE
    )
    axes.set(ylabel="impressions\nan hour", xlabel="time, UTC")
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(DayLocator())
    axes.xaxis.set_major_formatter(DateFormatter("%b %d"))
    axes.spines[["top", "right"]].set_visible(False)


def _moment(day: Day, hour: float) -> datetime:
    return datetime.combine(day.date, datetime.min.time()) + timedelta(hours=hour)


def _message(days: Sequence[Day], probability: Mapping[str, Sequence[NDArray[np.float32]]]) -> str:
    labels = [day.inputs.label for day in days[JUDGED_FROM:]]
    means = {
        name: float(np.mean([auc(y, p) for y, p in zip(labels, values[JUDGED_FROM:], strict=True)]))
        for name, values in probability.items()
    }
    description = ", ".join(f"{value:.3f} {name}" for name, value in means.items())
    return f"Mean AUC of a day {description}\n(Globo clicks against drawn negatives)"
