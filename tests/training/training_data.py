"""Hand-made `impressions` artifacts for the tests of training."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.schema import (
    Categorical,
    Cross,
    MultiValued,
    Numeric,
    Schema,
    Time,
    Timestamp,
    Transform,
)
from training.settings import ModelSettings, OptimizerSettings, TrainingSettings

DAY_MS = 86_400_000

SCHEMA = Schema(
    label="click",
    user="uid",
    item="iid",
    timestamp=Timestamp(column="time"),
    fields=(
        Categorical(name="user_id"),
        Categorical(name="item_id"),
        MultiValued(name="tags"),
        Numeric(name="price", transform=Transform.LOG),
        Numeric(name="age", transform=Transform.BUCKETS, boundaries=(20, 40)),
        Time(name="hour"),
        Cross(name="user_age", of=("user_id", "age")),
    ),
)

MODEL = ModelSettings(
    dim=4,
    hidden=(16, 8),
    deep=OptimizerSettings(learning_rate=0.01),
    dense=OptimizerSettings(learning_rate=0.01),
)
TRAINING = TrainingSettings(batch_size=64, shuffle_block=256)


def write_impressions(folder: Path, columns: dict, files: int = 1) -> Path:
    """Write columns (lists by name) as an `impressions` artifact; missing ones are made up."""
    rows = len(next(iter(columns.values())))
    made_up = {
        "record_id": range(rows),
        "label": [0] * rows,
        "timestamp_ms": range(rows),
        "user": ["u"] * rows,
        "item": ["i"] * rows,
    }
    full = made_up | columns
    types = {
        "record_id": pa.int64(),
        "label": pa.int8(),
        "timestamp_ms": pa.int64(),
        "tags": pa.list_(pa.string()),
    }
    table = pa.table(
        {
            name: pa.array(list(values), types.get(name, pa.string()))
            for name, values in full.items()
        }
    )
    (folder / "impressions").mkdir(parents=True)
    cuts = np.linspace(0, rows, files + 1).astype(int)
    for number, (start, stop) in enumerate(pairwise(cuts)):
        pq.write_table(
            table.slice(start, stop - start), folder / "impressions" / f"part-{number:05d}.parquet"
        )
    return folder


def planted_day(
    folder: Path, day: int = 0, rows: int = 1200, seed: int = 0, users: int = 30, items: int = 40
) -> Path:
    """Write a day whose clicks depend on user, item, tags and price, every day in the same way."""
    draw = np.random.default_rng((seed, day))
    taste, appeal = (
        np.random.default_rng(1).normal(size=users) * 2,
        np.random.default_rng(2).normal(size=items) * 2,
    )
    user, item = draw.integers(users, size=rows), draw.integers(items, size=rows)
    price = draw.lognormal(size=rows)
    logit = taste[user] + appeal[item] - 0.5 * np.log1p(price)
    stamps = np.sort(draw.integers(day * DAY_MS, (day + 1) * DAY_MS, size=rows))
    columns = {
        "record_id": draw.integers(2**62, size=rows),
        "label": (draw.random(rows) < 1 / (1 + np.exp(-logit))).astype(int),
        "timestamp_ms": stamps,
        "user": [f"u{u}" for u in user],
        "user_id": [f"u{u}" for u in user],
        "item_id": [f"i{i}" for i in item],
        "tags": [[f"t{i % 5}", f"t{i % 3}"][: i % 3] for i in item],
        "price": ["" if u == 0 else f"{p:.3f}" for u, p in zip(user, price, strict=True)],
        "age": [str(15 + u) for u in user],
        "hour": [str(s) for s in stamps],
    }
    return write_impressions(folder, columns)


def array_bytes(folder: Path) -> dict:
    """The bytes of every file of a checkpoint that no clock enters."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != "metrics.json"
    }


def read_json(path: Path) -> dict:
    """A JSON file's content."""
    return json.loads(path.read_text())
