"""Write one day's click log as Parquet, at constant memory, all or nothing."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.errors import InputError
from simulator.faults import broken_chunk, is_empty_day, log_schema, truncate_if_asked
from simulator.impressions import Chunk, chunks
from simulator.settings import SimulatorSettings
from simulator.world import World

_SETTINGS_FILE = "_settings.json"


@dataclass(frozen=True)
class SimulatedDay:
    """What was written: records (faulty ones and copies included), records whose label reads 1, files, wall-clock seconds."""

    rows: int
    clicks: int
    files: tuple[Path, ...]
    seconds: float


def simulate_day(settings: SimulatorSettings, day: date, out_dir: Path) -> SimulatedDay:
    """Write the log of one UTC day to `out_dir/dt=YYYY-MM-DD/part-00000.parquet` and further parts, in order of time.

    The bytes are a function of (settings, day) alone. The folder appears by a rename when it is complete, in place
    of an earlier one. Beside the parts lies `_settings.json`.
    Columns: `simulator.impressions.LOG_SCHEMA`, one row group per chunk.

    Raises:
        InputError: the day is before the settings' first day, or a fault names an unknown column.
    """
    if day < settings.first_day:
        raise InputError(
            f"day {day} is before the simulated world's first day {settings.first_day}: set `simulator.first_day`"
        )
    started, world, target = time.monotonic(), World(settings), out_dir / f"dt={day.isoformat()}"
    with _published(target) as staging:
        (staging / _SETTINGS_FILE).write_text(settings.model_dump_json(), encoding="utf-8")
        parts = [
            _write_part(world, day, staging, number, part) for number, part in _parts(settings, day)
        ]
    files = tuple(target / name for name, _, _ in parts)
    return SimulatedDay(
        sum(p[1] for p in parts), sum(p[2] for p in parts), files, time.monotonic() - started
    )


def is_simulated(settings: SimulatorSettings, day: date, out_dir: Path) -> bool:
    """Whether `simulate_day` has written this day already, with these very settings."""
    written = out_dir / f"dt={day.isoformat()}" / _SETTINGS_FILE
    return written.is_file() and written.read_text(encoding="utf-8") == settings.model_dump_json()


def _parts(settings: SimulatorSettings, day: date) -> Iterator[tuple[int, list[Chunk]]]:
    if is_empty_day(settings, day):
        yield 0, []
        return
    per_file = max(1, settings.file_rows // settings.chunk_rows)
    for number, part in groupby(chunks(settings), key=lambda c: c.index // per_file):
        yield number, list(part)


def _write_part(
    world: World, day: date, folder: Path, number: int, part: list[Chunk]
) -> tuple[str, int, int]:
    """Write one file; returns its name, records and clicks."""
    file, schema = folder / f"part-{number:05d}.parquet", log_schema(world.settings, day)
    rows = clicks = 0
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for chunk in part:
            table = broken_chunk(world, day, chunk)
            writer.write_table(table, row_group_size=max(1, len(table)))
            rows, clicks = rows + len(table), clicks + _clicks(table)
    truncate_if_asked(world.settings, day, file)
    return file.name, rows, clicks


def _clicks(table: pa.Table) -> int:
    if "click" not in table.column_names:
        return 0
    return pc.sum(pc.equal(table["click"].cast(pa.string()), "1")).as_py() or 0


@contextmanager
def _published(target: Path) -> Iterator[Path]:
    """Give a staging folder beside the target, hidden from readers' patterns; put it in place if all went well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target)
    staging = target.with_name(f".{target.name}.{os.getpid()}")
    staging.mkdir()
    try:
        yield staging
        shutil.rmtree(target, ignore_errors=True)
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _sweep(target: Path) -> None:
    """Remove staging folders of processes of this machine that were killed."""
    for left in target.parent.glob(f".{target.name}.*"):
        owner = left.suffix[1:]
        if owner.isdigit() and (int(owner) == os.getpid() or not _is_running(int(owner))):
            shutil.rmtree(left)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
