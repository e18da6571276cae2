"""Break a log on purpose, by counts that are known beforehand, so that a pipeline's defences can be rehearsed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.errors import InputError
from simulator.hashing import salt
from simulator.impressions import LOG_SCHEMA, Chunk, Stream, impressions
from simulator.settings import FaultKind, FileFault, MissingColumn, RecordFault, SimulatorSettings
from simulator.world import World

_FAULT_STREAM = 102
_BAD_TIMES = pa.array(["yesterday", "2026-13-45", "12:61", "1e99", "#REF!"])
_BAD_LABELS = pa.array(["yes", "2", "-1", "0.5", "clicked"])
_LABEL, _TIME = "click", "timestamp_ms"

Rows = Mapping[FaultKind, npt.NDArray[np.int64]]


def broken_chunk(world: World, day: date, chunk: Chunk) -> pa.Table:
    """Return the chunk's log with the record faults and the missing columns that the settings ask for on that day."""
    table, faults = impressions(world, day, chunk), _record_faults(world.settings, day)
    rows = _draw_rows(world.settings, faults, day, chunk)
    if len(rows.get(FaultKind.LATE, ())):
        late = impressions(world, day - timedelta(days=1), chunk, Stream.LATE)
        table = _replaced(table, late, rows[FaultKind.LATE])
    table = _spoiled(table, rows, _types(faults))
    table = table.take(_with_repeats(chunk.rows, rows.get(FaultKind.DUPLICATE)))
    return table.select(log_schema(world.settings, day).names)


def log_schema(settings: SimulatorSettings, day: date) -> pa.Schema:
    """Return the columns and types of the day's files, which faults may change.

    Raises:
        InputError: a column that is to be missing is not in the log at all.
    """
    missing = {f.column for f in settings.faults if isinstance(f, MissingColumn) and day in f.days}
    unknown = sorted(missing - set(LOG_SCHEMA.names))
    if unknown:
        raise InputError(
            f"fault missing_column names {unknown}, the log has {LOG_SCHEMA.names}: correct `simulator.faults`"
        )
    types = _types(_record_faults(settings, day))
    return pa.schema(
        [pa.field(f.name, types.get(f.name, f.type)) for f in LOG_SCHEMA if f.name not in missing]
    )


def is_empty_day(settings: SimulatorSettings, day: date) -> bool:
    """Whether the day's log is to hold no record."""
    return _has_file_fault(settings, FaultKind.EMPTY_DAY, day)


def truncate_if_asked(settings: SimulatorSettings, day: date, file: Path) -> None:
    """Cut a finished file to half its bytes when the day's files are to be truncated."""
    if _has_file_fault(settings, FaultKind.TRUNCATED_FILE, day):
        with file.open("r+b") as stream:
            stream.truncate(file.stat().st_size // 2)


def _has_file_fault(settings: SimulatorSettings, kind: FaultKind, day: date) -> bool:
    return any(
        isinstance(f, FileFault) and f.kind is kind and day in f.days for f in settings.faults
    )


def _record_faults(settings: SimulatorSettings, day: date) -> list[RecordFault]:
    return [
        f for f in settings.faults if isinstance(f, RecordFault) and (not f.days or day in f.days)
    ]


def _types(faults: list[RecordFault]) -> dict[str, pa.DataType]:
    texts = {FaultKind.BAD_TIMESTAMP: _TIME, FaultKind.BAD_LABEL: _LABEL}
    return {texts[f.kind]: pa.string() for f in faults if f.kind in texts and f.rate}


def _draw_rows(
    settings: SimulatorSettings, faults: list[RecordFault], day: date, chunk: Chunk
) -> Rows:
    """Choose disjoint rows per fault; over the chunks of a day their numbers sum to floor(rate · impressions)."""
    counts = [int((chunk.start + chunk.rows) * f.rate) - int(chunk.start * f.rate) for f in faults]
    key = np.array([salt(settings.seed, _FAULT_STREAM, day.toordinal()), chunk.index], np.uint64)
    order = np.random.Generator(np.random.Philox(key=key)).permutation(chunk.rows)
    parts = np.split(order[: sum(counts)], np.cumsum(counts)[:-1]) if counts else []
    rows: dict[FaultKind, npt.NDArray[np.int64]] = {}
    for fault, part in zip(faults, parts, strict=True):
        rows[fault.kind] = np.sort(np.concatenate([rows.get(fault.kind, part[:0]), part]))
    return rows


def _replaced(table: pa.Table, by: pa.Table, rows: npt.NDArray[np.int64]) -> pa.Table:
    source = np.arange(len(table))
    source[rows] += len(table)
    return pa.concat_tables([table, by]).take(pa.array(source))


def _spoiled(table: pa.Table, rows: Rows, types: dict[str, pa.DataType]) -> pa.Table:
    for name, kind in types.items():
        table = table.set_column(table.column_names.index(name), name, table[name].cast(kind))
    table = _overwritten(table, _TIME, rows.get(FaultKind.BAD_TIMESTAMP), _BAD_TIMES)
    table = _overwritten(table, _LABEL, rows.get(FaultKind.BAD_LABEL), _BAD_LABELS)
    nulls = pa.nulls(1, table.schema.field(_LABEL).type)
    return _overwritten(table, _LABEL, rows.get(FaultKind.MISSING_LABEL), nulls)


def _overwritten(
    table: pa.Table, name: str, rows: npt.NDArray[np.int64] | None, values: pa.Array
) -> pa.Table:
    """Put the values, in turn, in these rows of one column."""
    if rows is None or not len(rows):
        return table
    mask = np.zeros(len(table), bool)
    mask[rows] = True
    turns = values.take(pa.array(np.arange(len(rows)) % len(values)))
    column = pc.replace_with_mask(table[name].combine_chunks(), pa.array(mask), turns)
    return table.set_column(table.column_names.index(name), name, column)


def _with_repeats(count: int, repeated: npt.NDArray[np.int64] | None) -> pa.Array:
    times = np.ones(count, np.int64)
    if repeated is not None:
        times[repeated] = 2
    return pa.array(np.repeat(np.arange(count), times))
