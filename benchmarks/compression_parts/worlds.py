"""The logs: days to learn one after the other, the last of them with a slice that no model learns."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from harness.frappe_data import FIELDS as FRAPPE_FIELDS
from harness.frappe_data import Frappe
from harness.globo_files import files_of, moments, narrowed, within_share

from compression_parts.flat import codes, flat_schema, flatten
from features.partition import days_between
from features.schema import Schema
from pipelines.config import Config, load_config
from pipelines.stages.chain import run_stage
from pipelines.stages.stage import Context
from pipelines.store.artifacts import Store
from training.settings import ModelSettings, OptimizerSettings, TrainingSettings

_FRAPPE_PASSES = 12
_CONF = Path(__file__).parents[2] / "conf"
Report = Callable[[str], None]


@dataclass(frozen=True)
class World:
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


def globo(workspace: Path, count: int, share: float, report: Report) -> World:
    """Days of Globo's clicks with DRAWN negatives, learned by the hour; the last fifth of the last day is held out."""
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
    return _world(
        config, days, 0.2, ("user_id", "click_article_id", "article_region", "article_referrer")
    )


def kuairand(workspace: Path, report: Report) -> World:
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
    return _world(
        config, days, sum(rows[1:]) / sum(rows), ("user_id", "video_id", "author_id", "music_id")
    )


def frappe(workspace: Path, data: Path) -> World:
    """Frappe's training rows, many times over, as one day, whose held-out slice are its test rows."""
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
    return World("frappe_x1", schema, model, training, [folder], (names[0], names[1]))


def drawn(workspace: Path, days: int = 1, rows: int = 1500) -> World:
    """Small drawn days, to try the benchmark without the data: some items are clicked more, most users come once."""
    schema = _plain_schema("click", ("user_id", "item_id", "place"), user="user_id", item="item_id")
    folders = [_drawn_day(workspace / str(day), day, rows) for day in range(days)]
    model = ModelSettings(
        hidden=(8,),
        deep=OptimizerSettings(learning_rate=0.01),
        wide=OptimizerSettings(learning_rate=0.01),
    )
    return World(
        "drawn",
        schema,
        model,
        TrainingSettings(batch_size=64, holdout_fraction=0.3),
        folders,
        ("user_id", "item_id"),
    )


def _frappe_day(folder: Path, read: Frappe, names: Sequence[str]) -> Path:
    """Write training rows and, after them in time, test rows: the order within each is the file's."""
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
    told = {
        "label": label,
        "user": user,
        "item": item,
        "timestamp": {"column": "time", "unit": "ms"},
        "fields": fields,
    }
    return Schema.model_validate(told)


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


def _world(config: Config, days: Sequence[Path], heldout: float, hashed: tuple[str, ...]) -> World:
    training = config.training.model_copy(update={"holdout_fraction": heldout})
    return World(config.name, flat_schema(config.features), config.model, training, days, hashed)


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
