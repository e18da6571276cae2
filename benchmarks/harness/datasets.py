"""Logs as flat days: crosses are columns of text, and the last day has a slice that is not trained
on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.partition import days_between
from features.schema import Categorical, Cross, Schema
from harness.frappe_data import FIELDS as FRAPPE_FIELDS
from harness.frappe_data import Frappe
from harness.globo_files import files_of, moments, narrowed, within_share
from pipelines.config import Config, load_config
from pipelines.stages.chain import run_stage
from pipelines.stages.stage import Context
from pipelines.store.artifacts import Store
from training.settings import ModelSettings, OptimizerSettings, TrainingSettings

_OWN = ("record_id", "label", "timestamp_ms", "user", "item")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)

Column = NDArray[np.object_]
Rewrite = Callable[[str, Column], Mapping[str, Column]]
"""From a field's name and values to the columns that take its place."""


def flat_schema(schema: Schema) -> Schema:
    """Return the schema with crosses as categorical fields."""
    fields = tuple(Categorical(name=f.name) if isinstance(f, Cross) else f for f in schema.fields)
    return schema.model_copy(update={"fields": fields})


def flatten(
    partitions: Sequence[Path],
    schema: Schema,
    out: Path,
    share: Callable[[pa.Table], NDArray[np.bool_]] | None,
) -> Path:
    """Write several `impressions` artifacts as one, crosses spelled out; `share` tells which rows
    are kept. Done once.
    """
    target = out / "impressions"
    if not target.is_dir():
        tables = [
            _spelled(pq.read_table(partition / "impressions"), schema) for partition in partitions
        ]
        whole = pa.concat_tables([table.select(tables[0].column_names) for table in tables])
        _write(whole if share is None else whole.filter(pa.array(share(whole))), target)
    return out


def rewritten(partition: Path, names: Sequence[str], rewrite: Rewrite, out: Path) -> Path:
    """Write a partition with some fields' columns replaced. Done once."""
    target = out / "impressions"
    if not target.is_dir():
        table = pq.read_table(partition / "impressions")
        for name in names:
            columns = rewrite(name, table[name].to_numpy(zero_copy_only=False))
            table = table.drop_columns(name)
            for column, values in columns.items():
                table = table.append_column(column, pa.array(values, pa.string()))
        _write(table, target)
    return out


def distinct(partitions: Sequence[Path], names: Sequence[str]) -> dict[str, int]:
    """Return how many values each field has in all partitions together."""
    tables = pa.concat_tables(
        [pq.read_table(partition / "impressions", columns=list(names)) for partition in partitions]
    )
    return {name: pc.count_distinct(tables[name]).as_py() for name in names}


def codes(values: Column) -> NDArray[np.uint64]:
    """Return a hash of each value, uint64 [n], the same in every process."""
    import pandas as pd

    return pd.util.hash_array(values, categorize=True).astype(np.uint64)


def bucketed(values: Column, buckets: int) -> Column:
    """Return the bucket of each value, as text: the hashing trick."""
    return (codes(values) % np.uint64(buckets)).astype(str).astype(object)


def parts(values: Column, buckets: int) -> tuple[Column, Column]:
    """Return two hashes of each value, `buckets` each, that together tell most values apart:
    quotient and remainder of one hash.

    Shi et al. (KDD 2020) divide a dense index; ids of a stream have none, so a hash below buckets²
    is divided.
    """
    code = (codes(values) * _FACTOR) % np.uint64(buckets * buckets)
    remainder, quotient = code % np.uint64(buckets), code // np.uint64(buckets)
    return quotient.astype(str).astype(object), remainder.astype(str).astype(object)


def _spelled(table: pa.Table, schema: Schema) -> pa.Table:
    names = [*_OWN, *(field.name for field in schema.column_fields())]
    flat = table.select([name for name in names if name in table.column_names])
    for cross in (f for f in schema.fields if isinstance(f, Cross)):
        flat = flat.append_column(
            cross.name, pc.binary_join_element_wise(*(table[part] for part in cross.of), "|")
        )
    return flat


def _write(table: pa.Table, target: Path) -> None:
    unfinished = target.with_name("impressions.part")
    unfinished.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, unfinished / "part-00000.parquet")
    unfinished.rename(target)


_FRAPPE_PASSES = 12
_CONF = Path(__file__).parents[2] / "conf"
Report = Callable[[str], None]


@dataclass(frozen=True)
class Dataset:
    """A log.

    Attributes:
        name: of the data.
        schema: of the flat partitions.
        model: what is learned, but for width and group lasso.
        training: how; its held-out share is that of the last day.
        days: flat partitions, oldest first.
        hashed: the fields with many values, whose rows are compressed.
    """

    name: str
    schema: Schema
    model: ModelSettings
    training: TrainingSettings
    days: Sequence[Path]
    hashed: tuple[str, ...]


def globo(workspace: Path, count: int, share: float, report: Report) -> Dataset:
    """Days of Globo's clicks with DRAWN negatives, learned by the hour; the last fifth of the last
    day is held out.
    """
    config, first = load_config(_CONF / "globo.yaml", [], workspace), date(2017, 10, 2)
    times, days = moments(config, first), []
    for day in days_between(first, first + timedelta(days=count - 1)):
        found = _ingested(
            narrowed(config, files_of(times, config.source, config.features, day)),
            workspace,
            day,
            report,
        )
        out = workspace / "flat" / f"{day}-{share}"
        days.append(flatten([found], config.features, out, lambda table: _of_share(table, share)))
    return _dataset(
        config, days, 0.2, ("user_id", "click_article_id", "article_region", "article_referrer")
    )


def kuairand(workspace: Path, report: Report) -> Dataset:
    """KuaiRand-Pure by day from 2022-04-25; 05-06 to 05-08 are held out, learned nothing of."""
    config = load_config(_CONF / "kuairand_pure.yaml", [], workspace)
    made = {
        d: _ingested(config, workspace, d, report)
        for d in days_between(date(2022, 4, 25), date(2022, 5, 8))
    }
    learned = [day for day in made if day < date(2022, 5, 5)]
    days = [
        flatten([made[day]], config.features, workspace / "flat" / str(day), None)
        for day in learned
    ]
    last = [day for day in made if day >= date(2022, 5, 5)]
    days.append(
        flatten([made[day] for day in last], config.features, workspace / "flat" / "last", None)
    )
    rows = [_rows(made[day]) for day in last]
    return _dataset(
        config, days, sum(rows[1:]) / sum(rows), ("user_id", "video_id", "author_id", "music_id")
    )


def frappe(workspace: Path, data: Path) -> Dataset:
    """Frappe's training rows, many times over, as one day; its test rows are the held-out slice."""
    read = Frappe.read(data)
    names = [f"frappe_{name}" for name in FRAPPE_FIELDS]
    schema = _plain_schema("label", names, user=names[0], item=names[1])
    folder = _frappe_day(workspace / "flat", read, names)
    rows = OptimizerSettings(learning_rate=1e-3, decay=0.05, decay_steps=50)
    model = ModelSettings(
        hidden=(128, 64),
        norm="batch",
        dropout=0.2,
        deep=rows,
        wide=OptimizerSettings(learning_rate=1e-3),
    )
    share = len(read.test) / (len(read.train) + len(read.test))
    training = TrainingSettings(
        batch_size=1024, passes=_FRAPPE_PASSES, holdout_fraction=share, shuffle_block=262_144
    )
    return Dataset("frappe_x1", schema, model, training, [folder], (names[0], names[1]))


def drawn(workspace: Path, days: int = 1, rows: int = 1500) -> Dataset:
    """Small drawn days, to try the benchmark without the data: some items are clicked more, most
    users come once.
    """
    schema = _plain_schema("click", ("user_id", "item_id", "place"), user="user_id", item="item_id")
    folders = [_drawn_day(workspace / str(day), day, rows) for day in range(days)]
    model = ModelSettings(
        hidden=(8,),
        deep=OptimizerSettings(learning_rate=0.01),
        wide=OptimizerSettings(learning_rate=0.01),
    )
    return Dataset(
        "drawn",
        schema,
        model,
        TrainingSettings(batch_size=64, holdout_fraction=0.3),
        folders,
        ("user_id", "item_id"),
    )


def _frappe_day(folder: Path, read: Frappe, names: Sequence[str]) -> Path:
    """Write training rows and, later in time, test rows, both in the order of the file."""
    target = folder / "impressions" / "part-00000.parquet"
    if not target.is_file():
        splits = (read.train, read.test)
        codes_of, label = (
            np.concatenate([s.codes for s in splits]),
            np.concatenate([s.label for s in splits]),
        )
        texts = {name: codes_of[:, i].astype(str) for i, name in enumerate(names)}
        own = {"user": texts[names[0]], "item": texts[names[1]]}
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(_numbered(label.astype(np.int8)) | own | texts), target)
    return folder


def _numbered(label: np.ndarray) -> dict[str, np.ndarray]:
    """A number and a second for each row."""
    number = np.arange(len(label))
    return {"record_id": number, "label": label, "timestamp_ms": number * 1000}


def _plain_schema(label: str, names: Sequence[str], user: str, item: str) -> Schema:
    fields = [{"kind": "categorical", "name": name} for name in names]
    description = {
        "label": label,
        "user": user,
        "item": item,
        "timestamp": {"column": "time", "unit": "ms"},
        "fields": fields,
    }
    return Schema.model_validate(description)


def _drawn_day(folder: Path, day: int, rows: int) -> Path:
    draw = np.random.default_rng(day)
    user, item, place = (
        draw.integers(0, 400, rows),
        draw.zipf(1.6, rows) % 200,
        draw.integers(0, 5, rows),
    )
    chance = 1 / (1 + np.exp(1.0 - 2.0 * (item % 3 == 0) - 0.8 * (user % 4 == 0)))
    columns: dict[str, np.ndarray] = {
        "record_id": np.arange(rows) + day * rows,
        "label": (draw.random(rows) < chance).astype(np.int8),
        "timestamp_ms": np.arange(rows) * 1000 + day * 86_400_000,
    }
    texts = {"user": user, "item": item, "user_id": user, "item_id": item, "place": place}
    table = pa.table(columns | {name: values.astype(str) for name, values in texts.items()})
    (folder / "impressions").mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / "impressions" / "part-00000.parquet")
    return folder


def _dataset(
    config: Config, days: Sequence[Path], heldout: float, hashed: tuple[str, ...]
) -> Dataset:
    training = config.training.model_copy(update={"holdout_fraction": heldout})
    return Dataset(config.name, flat_schema(config.features), config.model, training, days, hashed)


def _ingested(config: Config, workspace: Path, day: date, report: Report) -> Path:
    version = run_stage("ingest", Context(config, day, Store(workspace))).version
    report(f"{config.name} {day}: {version.metrics['rows_kept']:,} impressions")
    return version.path


def _rows(partition: Path) -> int:
    return int(
        json.loads((partition / "_COMMIT.json").read_text(encoding="utf-8"))["metrics"]["rows_kept"]
    )


def _of_share(table: pa.Table, share: float) -> np.ndarray:
    users = codes(table["user"].to_numpy(zero_copy_only=False))
    return within_share(users.view(np.int64), share)
