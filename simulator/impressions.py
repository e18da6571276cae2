"""One chunk of a day's log: a pure function of (settings, day, chunk), made apart from all other chunks and days."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from simulator.hashing import salt
from simulator.policy import Choice, choose
from simulator.popularity import draw_candidates, draw_users
from simulator.settings import SimulatorSettings
from simulator.world import COUNTRIES, DEVICES, SLOTS, TAGS, Context, World

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
        ("price", pa.float64()),
        ("policy", pa.string()),
        ("propensity", pa.float64()),
        ("click", pa.int32()),
    ]
)
"""Columns of the log. `policy` is "logged" or "random"; `user_tags` are joined by commas; `price` may be null."""

_LOG_STREAM = 101
_STREAM_IDS = 5_000_000_000
_DAY_IDS = 10_000_000_000
_SLOT_ODDS = np.array([0.15, 0.45, 0.15, 0.15, 0.10])
_DEVICE_ODDS = np.array([0.60, 0.08, 0.27, 0.05])
_POSITION_ODDS = np.array([0.30, 0.22, 0.17, 0.13, 0.10, 0.08])


class Stream(IntEnum):
    """The day's own log, or further impressions of that day that arrive a day late."""

    OWN = 0
    LATE = 1


@dataclass(frozen=True)
class Chunk:
    """Which impressions to make: the chunk's number in the day, its first record and its size in records."""

    index: int
    start: int
    rows: int


def chunks(settings: SimulatorSettings) -> list[Chunk]:
    """Return the chunks of a day, in order of time."""
    total, size = settings.impressions_per_day, settings.chunk_rows
    return [
        Chunk(i, start, min(size, total - start)) for i, start in enumerate(range(0, total, size))
    ]


def impressions(world: World, day: date, chunk: Chunk, stream: Stream = Stream.OWN) -> pa.Table:
    """Return the chunk's log as LOG_SCHEMA, in order of time, without faults."""
    settings = world.settings
    key = [salt(settings.seed, _LOG_STREAM, day.toordinal(), stream), chunk.index]
    rng = np.random.Generator(np.random.Philox(key=np.array(key, np.uint64)))
    day_index = (day - settings.first_day).days
    times = _times(rng, settings, chunk)
    users, context = draw_users(rng, settings, chunk.rows), _context(rng, times)
    candidates = draw_candidates(rng, settings, max(day_index, 0), chunk.rows)
    visit = world.visit(users, context, day_index)
    logits = np.stack([visit.logits(items) for items in candidates])
    choice = choose(rng, logits, settings.policy, settings.random_share)
    shown = choice.candidate, np.arange(chunk.rows)
    clicks = rng.random(chunk.rows) < sigmoid(logits[shown])
    columns = {
        "impression_id": _ids(day, chunk, stream),
        "timestamp_ms": day_start_ms(day) + times,
        "click": clicks.astype(np.int32),
    }
    columns |= (
        _of_visit(world, users, context)
        | _of_items(rng, world, candidates[shown])
        | _of_choice(choice)
    )
    return pa.table(columns).select(LOG_SCHEMA.names).cast(LOG_SCHEMA)


def sigmoid(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the probabilities of log-odds, elementwise."""
    return np.exp(-np.logaddexp(0, -logits))  # 1 / (1 + exp(-x)) without overflow


def day_start_ms(day: date) -> int:
    """Return the epoch milliseconds of the day's first moment, UTC."""
    return (day - date(1970, 1, 1)).days * DAY_MS


def _ids(day: date, chunk: Chunk, stream: Stream) -> npt.NDArray[np.int64]:
    """`YYYYMMDD` followed by ten digits; those of late impressions start at five billion."""
    number = day.year * 10_000 + day.month * 100 + day.day
    return (
        number * _DAY_IDS + stream * _STREAM_IDS + np.arange(chunk.start, chunk.start + chunk.rows)
    )


def _times(
    rng: np.random.Generator, settings: SimulatorSettings, chunk: Chunk
) -> npt.NDArray[np.int64]:
    """Ascending milliseconds of the day: record r falls in the r-th of as many equal parts of the day's traffic."""
    grid = np.linspace(0, 1, 1441)
    traffic = grid - 0.6 / (2 * np.pi) * np.sin(
        2 * np.pi * grid
    )  # fewest at midnight, most at noon UTC
    share = (
        np.arange(chunk.start, chunk.start + chunk.rows) + rng.random(chunk.rows)
    ) / settings.impressions_per_day
    return np.minimum((np.interp(share, traffic, grid) * DAY_MS).astype(np.int64), DAY_MS - 1)


def _context(rng: np.random.Generator, times: npt.NDArray[np.int64]) -> Context:
    slot, device, position = (
        _weighted(rng, odds, len(times)) for odds in (_SLOT_ODDS, _DEVICE_ODDS, _POSITION_ODDS)
    )
    return Context(slot, device, position, times // 3_600_000)


def _weighted(
    rng: np.random.Generator, odds: npt.NDArray[np.float64], count: int
) -> npt.NDArray[np.int64]:
    return np.minimum(
        np.searchsorted(np.cumsum(odds), rng.random(count), side="right"), len(odds) - 1
    )


def _of_visit(world: World, users: npt.NDArray[np.int64], context: Context) -> dict[str, object]:
    tag_sets = [",".join(TAGS[t] for t in tags) for tags in world.tag_sets]
    return {
        "user_id": users,
        "country": _named(COUNTRIES, world.country(users)),
        "user_tags": _named(tag_sets, world.tag_set(users)),
        "slot": _named(SLOTS, context.slot),
        "device": _named(DEVICES, context.device),
        "position": context.position + 1,
    }


def _of_items(
    rng: np.random.Generator, world: World, items: npt.NDArray[np.int64]
) -> dict[str, object]:
    price = np.round(np.exp(2.5 + 0.8 * world.log_price(items)), 2)
    unknown = rng.random(len(items)) < world.settings.null_price_share
    return {
        "item_id": items,
        "category_id": world.category(items),
        "advertiser_id": world.advertiser(items),
        "price": pa.array(price, mask=unknown),
    }


def _of_choice(choice: Choice) -> dict[str, object]:
    return {
        "policy": _named(("logged", "random"), choice.is_random.astype(np.int64)),
        "propensity": choice.propensity,
    }


def _named(names: tuple[str, ...] | list[str], numbers: npt.NDArray[np.integer]) -> pa.Array:
    return pa.array(names, pa.string()).take(pa.array(numbers))
