"""The true click probability of any impression of the simulated world."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.errors import InputError
from simulator.impressions import DAY_MS, day_start_ms, sigmoid
from simulator.settings import SimulatorSettings
from simulator.world import DEVICES, POSITIONS, SLOTS, VisitContext, World

TRUTH_COLUMNS = ("timestamp_ms", "user_id", "item_id", "slot", "device", "position")
"""What the truth depends on. Other columns of the log are functions of these, or outcomes."""


def true_probability(settings: SimulatorSettings, table: pa.Table) -> NDArray[np.float64]:
    """Return the probability with which the simulator draws a click for each record, float64 [n].

    Bit-identical to the probabilities that `simulate_day` drew from. Impressions that were never
    shown have one, too. With delayed clicks it is that of a click at any time; times
    `simulator.impressions.logged_share` it is that of a click in the log.

    Args:
        settings: the settings that the log was made with.
        table: TRUTH_COLUMNS of the log; numbers may be text, as ingest writes them.

    Raises:
        InputError: a column is missing, or a value is null, unreadable or unknown to the simulator.
    """
    times = _numbers(table, "timestamp_ms")
    users, items = _numbers(table, "user_id"), _numbers(table, "item_id")
    slot, device = _codes(table, "slot", SLOTS), _codes(table, "device", DEVICES)
    position, hour = _numbers(table, "position"), times % DAY_MS // 3_600_000
    outside = pa.array((position < 1) | (position > POSITIONS))
    _check(outside, "position", f"is not from 1 to {POSITIONS}")
    # Drift makes the truth a function of the day.
    days = (times - day_start_ms(settings.first_day)) // DAY_MS
    world, logits = World(settings), np.empty(len(times))
    for day in np.unique(days):
        rows = np.flatnonzero(days == day)
        context = VisitContext(slot[rows], device[rows], position[rows] - 1, hour[rows])
        logits[rows] = world.visit(users[rows], context, int(day)).logits(items[rows])
    return sigmoid(logits)


def _column(table: pa.Table, name: str) -> pa.Array:
    if name not in table.column_names:
        raise InputError(
            f"column {name!r} is not in the table ({table.column_names}): the truth needs "
            f"{list(TRUTH_COLUMNS)}"
        )
    column = table[name].combine_chunks()
    _check(pc.is_null(column), name, "is null")
    return column


def _numbers(table: pa.Table, name: str) -> NDArray[np.int64]:
    try:
        return _column(table, name).cast(pa.int64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid as error:
        raise InputError(
            f"column {name!r} has a value that is not an integer: {error}; drop faulty records "
            "first"
        ) from error


def _codes(table: pa.Table, name: str, names: tuple[str, ...]) -> NDArray[np.int64]:
    codes = pc.index_in(_column(table, name), pa.array(names))
    _check(pc.is_null(codes), name, f"is none of {list(names)}")
    return codes.to_numpy(zero_copy_only=False).astype(np.int64)


def _check(wrong: pa.Array, name: str, why: str) -> None:
    """Raise InputError if a row is wrong."""
    rows = np.flatnonzero(wrong.to_numpy(zero_copy_only=False))
    if len(rows):
        raise InputError(
            f"column {name!r} {why} in row {rows[0]} ({len(rows)} such rows): the truth is not "
            "defined there"
        )
