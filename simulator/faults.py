"""Break a log on purpose, in known numbers, to test the checks of a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.errors import InputError
from simulator.hashing import salt
from simulator.impressions import Chunk, LogStream, impressions, log_columns
from simulator.settings import FaultKind, FileFault, MissingColumn, RecordFault, SimulatorSettings
from simulator.world import World

_FAULT_STREAM = 102
_BAD_TIMES = pa.array(["yesterday", "2026-13-45", "12:61", "1e99", "#REF!"])
_BAD_LABELS = pa.array(["yes", "2", "-1", "0.5", "clicked"])
_LABEL, _TIME = "click", "timestamp_ms"

RowNumbers = NDArray[np.int64]


def broken_chunk(world: World, day: date, chunk: Chunk) -> pa.Table:
    """Return the chunk's log with the faults that the settings ask for on that day."""
    settings = world.settings
    table, faults = impressions(world, day, chunk), _record_faults(settings, day)
    rows = _draw_rows(settings, faults, day, chunk)
    if len(rows.get(FaultKind.LATE, ())):
        late = impressions(world, day - timedelta(days=1), chunk, LogStream.LATE)
        source = np.arange(len(table))
        source[rows[FaultKind.LATE]] += len(table)
        table = pa.concat_tables([table, late]).take(pa.array(source))
    for name, kind in _types(faults).items():
        place = table.column_names.index(name)
        table = table.set_column(place, name, table[name].cast(kind))
    no_label = pa.nulls(1, table.schema.field(_LABEL).type)
    table = _overwrite(table, _TIME, rows.get(FaultKind.BAD_TIMESTAMP), _BAD_TIMES)
    table = _overwrite(table, _LABEL, rows.get(FaultKind.BAD_LABEL), _BAD_LABELS)
    table = _overwrite(table, _LABEL, rows.get(FaultKind.MISSING_LABEL), no_label)
    # Last, so that a copy is equal to its original.
    copies = np.ones(chunk.rows, np.int64)
    copies[rows.get(FaultKind.DUPLICATE, [])] = 2
    table = table.take(pa.array(np.repeat(np.arange(chunk.rows), copies)))
    return table.select(log_schema(settings, day).names)


def log_schema(settings: SimulatorSettings, day: date) -> pa.Schema:
    """Return the columns and types of the day's files, which depend on its faults.

    Raises:
        InputError: a `missing_column` fault names a column that the log does not have.
    """
    missing = {f.column for f in settings.faults if isinstance(f, MissingColumn) and day in f.days}
    columns = log_columns(settings)
    unknown = sorted(missing - set(columns.names))
    if unknown:
        raise InputError(
            f"fault missing_column names {unknown}, but the log has {columns.names}: correct "
            "`simulator.faults`"
        )
    types = _types(_record_faults(settings, day))
    kept = [field for field in columns if field.name not in missing]
    return pa.schema([pa.field(field.name, types.get(field.name, field.type)) for field in kept])


def has_file_fault(settings: SimulatorSettings, kind: FaultKind, day: date) -> bool:
    """Whether the settings ask for a fault of the day's files."""
    faults = [f for f in settings.faults if isinstance(f, FileFault) and f.kind is kind]
    return any(day in fault.days for fault in faults)


def truncate(file: Path) -> None:
    """Cut a file to half its bytes."""
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size // 2)


def _record_faults(settings: SimulatorSettings, day: date) -> list[RecordFault]:
    faults = [fault for fault in settings.faults if isinstance(fault, RecordFault)]
    return [fault for fault in faults if not fault.days or day in fault.days]


def _types(faults: list[RecordFault]) -> dict[str, pa.DataType]:
    """Return the columns that faults turn into text."""
    texts = {FaultKind.BAD_TIMESTAMP: _TIME, FaultKind.BAD_LABEL: _LABEL}
    return {texts[f.kind]: pa.string() for f in faults if f.kind in texts and f.rate}


def _draw_rows(
    settings: SimulatorSettings, faults: list[RecordFault], day: date, chunk: Chunk
) -> Mapping[FaultKind, RowNumbers]:
    """Draw disjoint rows per fault."""
    # Differences of rounded totals: over the chunks of a day they sum to floor(rate · impressions).
    counts = [int((chunk.start + chunk.rows) * f.rate) - int(chunk.start * f.rate) for f in faults]
    key = np.array([salt(settings.seed, _FAULT_STREAM, day.toordinal()), chunk.index], np.uint64)
    order = np.random.Generator(np.random.Philox(key=key)).permutation(chunk.rows)
    parts = np.split(order[: sum(counts)], np.cumsum(counts)[:-1]) if counts else []
    rows: dict[FaultKind, RowNumbers] = {}
    for fault, part in zip(faults, parts, strict=True):
        rows[fault.kind] = np.sort(np.concatenate([rows.get(fault.kind, part[:0]), part]))
    return rows


def _overwrite(table: pa.Table, name: str, rows: RowNumbers | None, values: pa.Array) -> pa.Table:
    """Write values, in turn, into some rows of a column."""
    if rows is None or not len(rows):
        return table
    mask = np.zeros(len(table), bool)
    mask[rows] = True
    turns = values.take(pa.array(np.arange(len(rows)) % len(values)))
    column = pc.replace_with_mask(table[name].combine_chunks(), pa.array(mask), turns)
    return table.set_column(table.column_names.index(name), name, column)
