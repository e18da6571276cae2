"""Ask the simulator what it knows: the true click probability of any impression."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.errors import InputError
from simulator.impressions import DAY_MS, day_start_ms, sigmoid
from simulator.settings import SimulatorSettings
from simulator.world import DEVICES, POSITIONS, SLOTS, Context, World

TRUTH_COLUMNS = ("timestamp_ms", "user_id", "item_id", "slot", "device", "position")
"""What the truth depends on; everything else in the log is a property of these, or says what happened."""


def true_probability(settings: SimulatorSettings, table: pa.Table) -> npt.NDArray[np.float64]:
    """Return float64 [n]: the probability with which the simulator would draw a click for each record.

    Equal, to the last bit, to what `simulate_day` drew from. Works for impressions that never were shown too.

    Args:
        settings: those that the log was made with.
        table: TRUTH_COLUMNS of the log; numbers may be text (as ingest writes them).

    Raises:
        InputError: a column is missing, or a value is null, unreadable or unknown to the simulator.
    """
    columns = {name: _column(table, name) for name in TRUTH_COLUMNS}
    times = _numbers(columns, "timestamp_ms")
    users, items = _numbers(columns, "user_id"), _numbers(columns, "item_id")
    context = Context(
        _coded(columns, "slot", SLOTS),
        _coded(columns, "device", DEVICES),
        _positions(columns),
        times % DAY_MS // 3_600_000,
    )
    days = (times - day_start_ms(settings.first_day)) // DAY_MS
    world, logits = World(settings), np.empty(len(times))
    for day in np.unique(days):
        rows = np.flatnonzero(days == day)
        at = Context(
            context.slot[rows], context.device[rows], context.position[rows], context.hour[rows]
        )
        logits[rows] = world.visit(users[rows], at, int(day)).logits(items[rows])
    return sigmoid(logits)


def _column(table: pa.Table, name: str) -> pa.Array:
    if name not in table.column_names:
        raise InputError(
            f"column {name!r} is not in the table ({table.column_names}): the truth needs {list(TRUTH_COLUMNS)}"
        )
    column = table[name].combine_chunks()
    _refuse(pc.is_null(column), name, "is null")
    return column


def _numbers(columns: dict[str, pa.Array], name: str) -> npt.NDArray[np.int64]:
    try:
        return columns[name].cast(pa.int64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid as error:
        raise InputError(
            f"column {name!r} holds a value that is not an integer: {error}; drop faulty records first"
        ) from error


def _coded(
    columns: dict[str, pa.Array], name: str, names: tuple[str, ...]
) -> npt.NDArray[np.int64]:
    codes = pc.index_in(columns[name], pa.array(names))
    _refuse(pc.is_null(codes), name, f"is none of {list(names)}")
    return codes.to_numpy(zero_copy_only=False).astype(np.int64)


def _positions(columns: dict[str, pa.Array]) -> npt.NDArray[np.int64]:
    positions = _numbers(columns, "position")
    _refuse(
        pa.array((positions < 1) | (positions > POSITIONS)),
        "position",
        f"is not from 1 to {POSITIONS}",
    )
    return positions - 1


def _refuse(wrong: pa.Array, name: str, why: str) -> None:
    rows = np.flatnonzero(wrong.to_numpy(zero_copy_only=False))
    if len(rows):
        raise InputError(
            f"column {name!r} {why} in row {rows[0]} ({len(rows)} such rows): the truth is not defined there"
        )
