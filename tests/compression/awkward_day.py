"""A schema with every kind of field, and days of values that are easy to get wrong."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.schema import MultiValued, Relation, Schema
from training.settings import ModelSettings

SCHEMA = Schema.model_validate(
    {
        "label": "click",
        "user": "uid",
        "item": "iid",
        "timestamp": {"column": "seen_at", "unit": "iso"},
        "timezone": "Europe/Berlin",
        "fields": [
            {"kind": "categorical", "name": "user_id"},
            {"kind": "multi_valued", "name": "tags", "vocabulary": "tag"},
            {"kind": "categorical", "name": "first_tag", "vocabulary": "tag"},
            {"kind": "numeric", "name": "price"},
            {"kind": "numeric", "name": "age", "transform": "log"},
            {
                "kind": "numeric",
                "name": "rank",
                "transform": "buckets",
                "boundaries": [1.0, 10.0, 100.0],
            },
            {"kind": "time", "name": "hour"},
            {"kind": "multi_valued", "name": "brands"},
            {"kind": "time", "name": "week_hour", "part": "hour_of_week"},
            {"kind": "cross", "name": "user_x_hour", "of": ["user_id", "hour"]},
        ],
    }
)
RELATIONS = (Relation(left="user_id", right="first_tag"), Relation(left="user_id", right="hour"))
MODEL = ModelSettings(dim=5, hidden=(12, 7))
ROWS = 530
HELDOUT = 200

_TIMES = (
    *(
        "",
        "2022-03-27T00:59:59Z",
        "2022-03-27T01:00:00Z",
        "2022-10-30 00:30:00+00:00",
        "2022-10-30T01:30:00Z",
    ),
    *("2022-05-05T23:59:59.999+05:30", "yesterday", "1651734000000"),
)
_USERS = (
    "007",
    "7",
    "1",
    "",
    " 7",
    "Müller",
    "名前",
    "a\x1fb",
    "a\x00",
    "x" * 300,
    "🦊",
    "nan?",
    "true",
    "null",
)

VALUES = {
    "user_id": [*_USERS, *(f"u{i}" for i in range(150))],
    "first_tag": ["", "red", "rot", "červená", "-0.5", "0", "a,b"],
    "price": [
        "",
        "3.5",
        "-7",
        "1e3",
        "abc",
        "1,5",
        "٣",
        "1e999",
        "inf",
        "0x1F",
        ".5",
        "5.",
        "+4",
        "--4",
        "1e-320",
    ],
    "age": ["", "0", "-30", "41", "1e300", "forty"],
    "rank": ["", "0.999", "1", "10", "99.99", "100", "1e9", "-5", "first"],
    "hour": list(_TIMES),
    "week_hour": list(_TIMES[::-1]),
}
LISTS = {
    "tags": ["red", "rot", "červená", "0", "a,b", "never seen", "🦊"],
    "brands": ["acme", "acme", "Ünal", "unknown brand", *(f"b{i}" for i in range(40))],
}


def draw_columns(rows, seed):
    """Raw values by field, as ingest keeps them: canonical; lists of any length."""
    draw = np.random.default_rng(seed)
    columns = {
        name: draw.choice(np.array(values, object), rows).tolist()
        for name, values in VALUES.items()
    }
    for name, values in LISTS.items():
        lengths = [0, 1, *draw.integers(0, 6, rows - 2)] if rows > 2 else [0] * rows
        columns[name] = [draw.choice(np.array(values, object), n).tolist() for n in lengths]
    return columns


def write_partition(folder, columns):
    """An `impressions` artifact of these values."""
    rows = len(columns["user_id"])
    fields = {
        f.name: pa.array(
            columns[f.name], pa.list_(pa.string()) if isinstance(f, MultiValued) else pa.string()
        )
        for f in SCHEMA.column_fields()
    }
    table = {
        "record_id": pa.array(np.random.default_rng(5).permutation(rows) * 7919 - 2000, pa.int64()),
        "label": pa.array(np.arange(rows) % 3 == 0, pa.int8()),
        "timestamp_ms": pa.array(1_651_700_000_000 + np.arange(rows), pa.int64()),
        "user": fields["user_id"],
        "item": pa.array(["i"] * rows),
        **fields,
    }
    (folder / "impressions").mkdir(parents=True)
    day = pa.table(table)
    pq.write_table(day.slice(0, rows // 2), folder / "impressions" / "part-00000.parquet")
    pq.write_table(day.slice(rows // 2), folder / "impressions" / "part-00001.parquet")
    return folder
