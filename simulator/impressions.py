"""One chunk of a day's log: a pure function of (settings, day, chunk), independent of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from enum import IntEnum

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from simulator.hashing import Ints, salt
from simulator.policy import choose
from simulator.popularity import draw_candidates, draw_users
from simulator.settings import SimulatorSettings
from simulator.world import COUNTRIES, DEVICES, SLOTS, TAGS, VisitContext, World

DAY_MS = 86_400_000
LOG_SCHEMA = pa.schema(
    [
        ("impression_id", pa.int64()),
        ("timestamp_ms", pa.int64()),
        ("user_id", pa.int64()),
        ("country", pa.string()),
        ("user_tags", pa.string()),
        ("slot", pa.string()),
        ("device", pa.string()),
        ("position", pa.int32()),
        ("item_id", pa.int64()),
        ("category_id", pa.int64()),
        ("advertiser_id", pa.int64()),
        ("segment_id", pa.int64()),
        ("topic_id", pa.int64()),
        ("price", pa.float64()),
        ("policy", pa.string()),
        ("propensity", pa.float64()),
        ("click", pa.int32()),
    ]
)
"""Columns of the log; those of `SimulatorSettings.noise` come last.

`policy` is "logged" or "random"; `user_tags` are joined by commas; `price` may be null.
"""

_LOG_STREAM, _EXPERIMENT_STREAM = 101, 102
_STREAM_IDS = 5_000_000_000
_DAY_IDS = 10_000_000_000
_SLOT_ODDS = (0.15, 0.45, 0.15, 0.15, 0.10)
_DEVICE_ODDS = (0.60, 0.08, 0.27, 0.05)
_POSITION_ODDS = (0.30, 0.22, 0.17, 0.13, 0.10, 0.08)


class LogStream(IntEnum):
    """The day's own log, or further impressions of that day that arrive a day late."""

    OWN = 0
    LATE = 1


@dataclass(frozen=True)
class Chunk:
    """A part of a day's log: its number in the day, its first record and its number of records."""

    index: int
    start: int
    rows: int


def chunks(settings: SimulatorSettings) -> list[Chunk]:
    """Return the chunks of a day in the order of time."""
    total, size = settings.impressions_per_day, settings.chunk_rows
    starts = range(0, total, size)
    return [Chunk(i, start, min(size, total - start)) for i, start in enumerate(starts)]


def impressions(
    world: World, day: date, chunk: Chunk, stream: LogStream = LogStream.OWN
) -> pa.Table:
    """Return the chunk's log without faults, with the columns LOG_SCHEMA, in the order of time."""
    settings, count = world.settings, chunk.rows
    key = [salt(settings.seed, _LOG_STREAM, day.toordinal(), stream), chunk.index]
    # The generator's key holds the chunk. The order of the draws below is part of the result.
    rng = np.random.Generator(np.random.Philox(key=np.array(key, np.uint64)))

    # 1. Draw who visits, when and where, and what could be shown.
    requests = _draw_requests(rng, world, day, chunk)

    # 2. Let the policy choose one candidate, and draw the click from its true probability.
    choice = choose(rng, requests.logits, settings.policy, settings.random_share)
    shown = choice.candidate, np.arange(count)
    clicks = rng.random(count) < sigmoid(requests.logits[shown])

    # 3. Write the columns.
    # Ids are YYYYMMDD followed by ten digits, which start at five billion for late impressions.
    number = day.year * 10_000 + day.month * 100 + day.day
    columns = {
        "impression_id": number * _DAY_IDS + stream * _STREAM_IDS + requests.records,
        **_described(rng, world, day, requests, requests.candidates[shown]),
        "policy": _named(("logged", "random"), choice.is_random.astype(np.int64)),
        "propensity": choice.propensity,
        "click": clicks.astype(np.int32),
    }
    # Drawn last: the columns before are the same with and without them.
    columns |= _noise(rng, settings, count)
    if settings.click_delay_s:
        seen = rng.random(count) < logged_share(settings, columns["timestamp_ms"])
        columns["click"] = (clicks & seen).astype(np.int32)
    return pa.table(columns).cast(log_columns(settings))


@dataclass(frozen=True)
class CandidateRows:
    """What could be shown to n visits of a day, for policies that choose among it.

    Attributes:
        table: a row per candidate, all of visit 0 first: the log's columns without
            `impression_id`, `policy`, `propensity` and `click`. [n * candidates] rows.
        probability: of a click when it is shown, float64 [n, candidates].
    """

    table: pa.Table
    probability: NDArray[np.float64]


def candidate_rows(world: World, day: date, visits: int) -> CandidateRows:
    """Draw visits of a day, other ones than those of its log, with all their candidates.

    Args:
        world: the simulated world.
        day: the day.
        visits: their number; they are spread over the day as the log's impressions are.
    """
    settings, chunk = world.settings, Chunk(0, 0, visits)
    key = [salt(settings.seed, _EXPERIMENT_STREAM, day.toordinal()), 0]
    rng = np.random.Generator(np.random.Philox(key=np.array(key, np.uint64)))
    drawn = _draw_requests(rng, world, day, chunk, per_day=visits)
    lanes = len(drawn.candidates)
    records, times, users = (
        np.repeat(column, lanes) for column in (drawn.records, drawn.times, drawn.users)
    )
    context = VisitContext(*(np.repeat(each, lanes) for each in vars(drawn.context).values()))
    every = _Requests(records, times, users, context, drawn.candidates, drawn.logits)
    columns = _described(rng, world, day, every, drawn.candidates.T.ravel())
    columns |= _noise(rng, settings, visits * lanes)
    kinds = log_columns(settings)
    schema = pa.schema([kinds.field(name) for name in columns])
    return CandidateRows(pa.table(columns).cast(schema), sigmoid(drawn.logits.T))


@dataclass(frozen=True)
class _Requests:
    """Visits, int64 [n] each, with their candidates [candidates, n] and the true logits of each."""

    records: Ints
    times: Ints
    users: Ints
    context: VisitContext
    candidates: Ints
    logits: NDArray[np.float64]


def _draw_requests(
    rng: np.random.Generator, world: World, day: date, chunk: Chunk, per_day: int | None = None
) -> _Requests:
    settings, count = world.settings, chunk.rows
    records = np.arange(chunk.start, chunk.start + count)
    times = _times(rng, records, per_day or settings.impressions_per_day)
    users = draw_users(rng, settings, count)
    odds = (_SLOT_ODDS, _DEVICE_ODDS, _POSITION_ODDS)
    slot, device, position = (_weighted(rng, each, count) for each in odds)
    context = VisitContext(slot, device, position, times // 3_600_000)
    day_index = (day - settings.first_day).days
    candidates = draw_candidates(rng, settings, max(day_index, 0), count)
    visit = world.visit(users, context, day_index)
    logits = np.stack([visit.logits(items) for items in candidates])
    return _Requests(records, times, users, context, candidates, logits)


def _described(
    rng: np.random.Generator, world: World, day: date, requests: _Requests, items: Ints
) -> dict[str, Ints | pa.Array]:
    """Return the columns that describe visits and the items shown in them."""
    users, context = requests.users, requests.context
    price = np.round(np.exp(2.5 + 0.8 * world.log_price(items)), 2)
    tag_sets = [",".join(TAGS[t] for t in tags) for tags in world.tag_sets]
    return {
        "timestamp_ms": day_start_ms(day) + requests.times,
        "user_id": users,
        "country": _named(COUNTRIES, world.country(users)),
        "user_tags": _named(tag_sets, world.tag_set(users)),
        "slot": _named(SLOTS, context.slot),
        "device": _named(DEVICES, context.device),
        "position": context.position + 1,
        "item_id": items,
        "category_id": world.category(items),
        "advertiser_id": world.advertiser(items),
        "segment_id": world.segment(users),
        "topic_id": world.topic(items),
        "price": pa.array(price, mask=rng.random(len(items)) < world.settings.null_price_share),
    }


def _noise(rng: np.random.Generator, settings: SimulatorSettings, count: int) -> dict[str, Ints]:
    names = noise_columns(settings)
    return {
        name: rng.integers(size, size=count)
        for name, size in zip(names, settings.noise, strict=True)
    }


def logged_share(settings: SimulatorSettings, timestamp_ms: Ints) -> NDArray[np.float64]:
    """Return the chance, float64 [n], that a click is in the log of its impression's day.

    The others come after the log is written (`SimulatorSettings.click_delay_s`).
    """
    if not settings.click_delay_s:
        return np.ones(len(timestamp_ms))
    left_s = (DAY_MS - timestamp_ms % DAY_MS) / 1000 + settings.log_delay_s
    return left_s / (left_s + settings.click_delay_s)


def noise_columns(settings: SimulatorSettings) -> list[str]:
    """Return the names of the columns that have no effect."""
    return [f"noise_{number}" for number in range(len(settings.noise))]


def log_columns(settings: SimulatorSettings) -> pa.Schema:
    """Return the columns of the log."""
    fields = [pa.field(name, pa.int64()) for name in noise_columns(settings)]
    return pa.schema([*LOG_SCHEMA, *fields])


def sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probabilities of log-odds, elementwise."""
    # 1 / (1 + exp(-x)) without overflow.
    return np.exp(-np.logaddexp(0, -logits))


def day_start_ms(day: date) -> int:
    """Return the start of a UTC day in epoch milliseconds."""
    return (day - date(1970, 1, 1)).days * DAY_MS


def _times(rng: np.random.Generator, records: Ints, per_day: int) -> NDArray[np.int64]:
    """Return ascending milliseconds of the day for records, by their numbers in the day.

    Record r falls in the r-th of `per_day` equal parts of the day's traffic, so that chunks can be
    drawn independently.
    """
    grid = np.linspace(0, 1, 1441)
    # Cumulated traffic: least at midnight, most at noon UTC.
    traffic = grid - 0.6 / (2 * np.pi) * np.sin(2 * np.pi * grid)
    share = (records + rng.random(len(records))) / per_day
    return np.minimum((np.interp(share, traffic, grid) * DAY_MS).astype(np.int64), DAY_MS - 1)


def _weighted(rng: np.random.Generator, odds: Sequence[float], count: int) -> NDArray[np.int64]:
    # The cumulated odds may stay below 1 by rounding, hence the minimum.
    drawn = np.searchsorted(np.cumsum(odds), rng.random(count), side="right")
    return np.minimum(drawn, len(odds) - 1)


def _named(names: Sequence[str], numbers: Ints) -> pa.Array:
    return pa.array(names, pa.string()).take(pa.array(numbers))
