"""Write events of the simulator as they happen: a small Parquet file every so many seconds, renamed
when it is complete.

Usage: producer.py CONFIG LANDING_FOLDER EVENTS_PER_SECOND SECONDS SECONDS_PER_FILE WARM_UP_EVENTS
First the warm-up's events, of now, at once; then, when a line comes in on standard input, the
others, each stamped with the moment at which it happens: evenly over the seconds of its file.
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.config import load_config
from simulator.impressions import Chunk, impressions
from simulator.world import World

WARM, LIVE = "0-warm", "1-live"


def write(folder: Path, name: str, events: pa.Table, moments_ms: np.ndarray) -> None:
    """Write events with these moments, int64 [n]; the file appears by a rename."""
    place = events.schema.get_field_index("timestamp_ms")
    partial = folder / f".{name}"
    pq.write_table(
        events.set_column(place, "timestamp_ms", pa.array(moments_ms, pa.int64())), partial
    )
    partial.rename(folder / name)


def main(config: str, folder: str, rate: str, seconds: str, file_s: str, warm: str) -> None:
    """Write all files."""
    landing, rows, files = (
        Path(folder),
        round(float(rate) * float(file_s)),
        round(float(seconds) / float(file_s)),
    )
    settings = load_config(Path(config)).simulator
    assert settings
    world = World(settings.model_copy(update={"impressions_per_day": int(warm) + rows * files}))
    day = settings.first_day
    if int(warm):
        now_ms = int(time.time() * 1000)
        write(
            landing,
            f"{WARM}.parquet",
            impressions(world, day, Chunk(0, 0, int(warm))),
            np.full(int(warm), now_ms, np.int64),
        )
    print(datetime.now(UTC).isoformat(), flush=True)
    sys.stdin.readline()
    started = time.time()
    for number in range(files):
        events = impressions(world, day, Chunk(number + 1, int(warm) + number * rows, rows))
        offsets_s = (number + (np.arange(rows) + 0.5) / rows) * float(file_s)
        time.sleep(max(0.0, started + (number + 1) * float(file_s) - time.time()))
        write(
            landing,
            f"{LIVE}-{number:06d}.parquet",
            events,
            ((started + offsets_s) * 1000).astype(np.int64),
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
