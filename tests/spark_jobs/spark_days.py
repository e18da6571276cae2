"""Small `impressions` artifacts, and their tokens by plain Python, to compare Spark with."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from features.schema import Categorical, Cross, MultiValued, Numeric, Schema, Time, Timestamp

DAYS = [date(2022, 5, 1) + timedelta(days=i) for i in range(3)]
SCHEMA = Schema(
    label="y",
    user="user",
    item="item",
    timestamp=Timestamp(column="ts"),
    fields=(
        Categorical(name="site"),
        MultiValued(name="tags"),
        Numeric(name="price", transform="log"),
        Numeric(name="age", transform="buckets", boundaries=(18, 40)),
        Time(name="hour"),
        Cross(name="site_age", of=("site", "age")),
    ),
)


def write_day(folder: Path, day: date, rows: int = 200) -> pd.DataFrame:
    """A small `impressions` artifact of random records; returns them."""
    dice = np.random.default_rng(day.day)
    start = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)
    stamps = np.sort(dice.integers(0, 86_400_000, rows)) + start
    frame = pd.DataFrame(
        {
            "label": dice.integers(0, 2, rows).astype("int8"),
            "timestamp_ms": stamps,
            "site": [f"s{int(i)}" if i < 60 else "" for i in dice.zipf(1.4, rows)],
            "tags": [
                [f"t{t + day.day}" for t in dice.integers(0, 5, dice.integers(0, 4))]
                for _ in range(rows)
            ],
            "price": [dice.choice(["", "abc", "10", "2.5", "-3"]) for _ in range(rows)],
            "age": [dice.choice(["", "7", "18", "39.5", "80", "x"]) for _ in range(rows)],
            "hour": stamps.astype(str),
        }
    )
    write_records(folder, frame)
    return frame


def write_records(folder: Path, frame: pd.DataFrame, files: int = 1) -> None:
    """Write records (`label`, `timestamp_ms` and fields) as an `impressions` artifact."""
    (folder / "impressions").mkdir(parents=True)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    if "tags" in frame:
        lists = pa.array(frame["tags"].tolist(), pa.list_(pa.string()))
        table = table.set_column(table.schema.get_field_index("tags"), "tags", lists)
    for number, rows in enumerate(np.array_split(np.arange(len(frame)), files)):
        pq.write_table(
            table.take(pa.array(rows)), folder / "impressions" / f"part-{number:05d}.parquet"
        )


def long_form(records: pd.DataFrame) -> pd.DataFrame:
    """One record per impression, field and distinct token, by plain Python."""
    return pd.DataFrame(
        list(tokens(records)), columns=["field", "value", "label", "timestamp_ms", "record"]
    )


def tokens(records: pd.DataFrame) -> Iterator[tuple]:
    for i, r in enumerate(records.itertuples()):
        bucket = {"": "", "x": "", "7": "0", "18": "1", "39.5": "1", "80": "2"}[r.age]
        hour = str(datetime.fromtimestamp(r.timestamp_ms // 1000, UTC).hour)
        named = {
            "site": [r.site],
            "tags": sorted(set(r.tags)) or [""],
            "price": [r.price],
            "age": [bucket],
            "hour": [hour],
        }
        named["site_age"] = [f"{r.site}\x1f{bucket}"]
        for field, values in named.items():
            yield from ((field, value, r.label, r.timestamp_ms, i) for value in values)
