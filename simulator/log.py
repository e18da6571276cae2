"""Write one day's click log as Parquet, at constant memory; the folder appears when complete."""

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
from simulator.faults import broken_chunk, has_file_fault, log_schema, truncate
from simulator.impressions import Chunk, chunks
from simulator.settings import SETTINGS_FILE, FaultKind, SimulatorSettings
from simulator.world import World


@dataclass(frozen=True)
class SimulatedDay:
    """What `simulate_day` wrote.

    Attributes:
        rows: records, including faulty ones and copies.
        clicks: records whose label reads 1.
        files: paths of the parts.
        seconds: wall-clock time.
    """

    rows: int
    clicks: int
    files: tuple[Path, ...]
    seconds: float


def simulate_day(settings: SimulatorSettings, day: date, out_dir: Path) -> SimulatedDay:
    """Write the log of a UTC day as `out_dir/dt=YYYY-MM-DD/part-00000.parquet` and further parts.

    The bytes depend on (settings, day) only. Parts and their records are in the order of time, with
    one row group per chunk and `simulator.impressions.log_columns`. The folder appears by a rename
    when it is complete, and replaces an earlier one. It also has the settings.

    Raises:
        InputError: the day is before the settings' first day, or a fault names an unknown column.
    """
    if day < settings.first_day:
        raise InputError(
            f"day {day} is before the first day {settings.first_day} of the simulation: set "
            "`simulator.first_day`"
        )
    started, world, target = time.monotonic(), World(settings), out_dir / f"dt={day.isoformat()}"
    parts: list[list[Chunk]] = [[]]
    if not has_file_fault(settings, FaultKind.EMPTY_DAY, day):
        per_file = max(1, settings.file_rows // settings.chunk_rows)
        groups = groupby(chunks(settings), key=lambda chunk: chunk.index // per_file)
        parts = [list(group) for _, group in groups]
    rows = clicks = 0
    names: list[str] = []
    with _staging_folder(target) as staging:
        (staging / SETTINGS_FILE).write_text(settings.model_dump_json(), encoding="utf-8")
        for number, part in enumerate(parts):
            names.append(f"part-{number:05d}.parquet")
            part_rows, part_clicks = _write_part(world, day, part, staging / names[-1])
            rows, clicks = rows + part_rows, clicks + part_clicks
    files = tuple(target / name for name in names)
    return SimulatedDay(rows, clicks, files, time.monotonic() - started)


def is_simulated(settings: SimulatorSettings, day: date, out_dir: Path) -> bool:
    """Whether `simulate_day` has already written this day with equal settings."""
    written = out_dir / f"dt={day.isoformat()}" / SETTINGS_FILE
    return written.is_file() and written.read_text(encoding="utf-8") == settings.model_dump_json()


def _write_part(world: World, day: date, part: list[Chunk], file: Path) -> tuple[int, int]:
    """Write one file and return its numbers of records and clicks."""
    rows = clicks = 0
    with pq.ParquetWriter(file, log_schema(world.settings, day), compression="zstd") as writer:
        # One chunk after the other: memory does not grow with the day.
        for chunk in part:
            table = broken_chunk(world, day, chunk)
            writer.write_table(table, row_group_size=max(1, len(table)))
            rows += len(table)
            if "click" in table.column_names:
                is_click = pc.equal(table["click"].cast(pa.string()), "1")
                clicks += pc.sum(is_click).as_py() or 0
    if has_file_fault(world.settings, FaultKind.TRUNCATED_FILE, day):
        truncate(file)
    return rows, clicks


@contextmanager
def _staging_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder that replaces `target` when the block ends without an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # Processes may write the same day at the same time, so each has a folder with its number.
    # Folders of processes that were killed are deleted here.
    for left in target.parent.glob(f".{target.name}.*"):
        owner = left.suffix[1:]
        if owner.isdigit() and (int(owner) == os.getpid() or not _is_running(int(owner))):
            shutil.rmtree(left)
    # The dot hides it from the patterns by which readers find files.
    staging = target.with_name(f".{target.name}.{os.getpid()}")
    staging.mkdir()
    try:
        yield staging
        shutil.rmtree(target, ignore_errors=True)
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        # Signal 0 checks for the process without a signal to it.
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
