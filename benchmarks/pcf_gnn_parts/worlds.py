"""The logs: impressions in slices of time, their id fields, and the relations whose statistics may help."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from harness.globo_files import files_of, moments, narrowed, within_share

from features.partition import days_between
from features.schema import Categorical, Cross, Relation, Schema, Time, Timestamp
from pipelines.config import Config, load_config
from pipelines.stages.chain import run_stage
from pipelines.stages.stage import Context
from pipelines.store.artifacts import Store
from training.data.examples import Examples, read_examples

_PARTS = 12
_CONF = Path(__file__).parents[2] / "conf"
Report = Callable[[str], None]


def _relations(left: str, *rights: str) -> tuple[Relation, ...]:
    return tuple(Relation(left=left, right=right) for right in rights)


RELATIONS: Mapping[str, tuple[Relation, ...]] = {
    "globo": _relations("click_article_id", "click_region", "click_referrer_type"),
    "kuairand_pure": (
        *_relations("author_id", "tab", "user_active_degree"),
        *_relations("video_id", "onehot_feat1"),
        *_relations("user_id", "tab"),
    ),
}
"""Pairs of fields whose statistics may help, by log."""


@dataclass(frozen=True)
class World:
    """A log.

    Attributes:
        name: of the data.
        schema: what the click model reads: no declared crosses of ids, which p_uv stands in for.
        relations: pairs of fields with a statistic.
        slices: impressions, oldest first.
        judged_from: the first slice whose scores count.
    """

    name: str
    schema: Schema
    relations: tuple[Relation, ...]
    slices: Sequence[Examples]
    judged_from: int


def globo(workspace: Path, count: int, share: float, report: Report) -> World:
    """Read days of Globo's clicks with drawn negatives from 2017-10-02 on, of a share of the users, each day in 12 slices.

    News is old after hours: what a graph of the day before says of an article is wrong today. The first day is not judged.
    """
    config, first = load_config(_CONF / "globo.yaml", [], workspace), date(2017, 10, 2)
    relations = RELATIONS["globo"]
    days = days_between(first, first + timedelta(days=count - 1))
    schema, times = without_crosses(config.features), moments(config, first)
    found = []
    for day in days:
        files = files_of(times, config.source, config.features, day)
        examples = _of_share(
            _day(narrowed(config, files), workspace, day, schema, relations), share
        )
        bounds = [len(examples) * part // _PARTS for part in range(_PARTS + 1)]
        found += [examples.slice(start, stop) for start, stop in pairwise(bounds)]
        report(f"globo {day}: {len(examples):,} impressions")
    return World("globo", schema, relations, found, _PARTS)


def kuairand(workspace: Path, count: int, share: float, report: Report) -> World:
    """Read days of KuaiRand-Pure up to 2022-05-08, the last three of which are judged; all users, whatever the share."""
    config, last = load_config(_CONF / "kuairand_pure.yaml", [], workspace), date(2022, 5, 8)
    relations, schema, found = RELATIONS["kuairand_pure"], without_crosses(config.features), []
    for day in days_between(last - timedelta(days=count - 1), last):
        found.append(_day(config, workspace, day, schema, relations))
        report(f"kuairand_pure {day}: {len(found[-1]):,} impressions")
    return World("kuairand_pure", schema, relations, found, count - 3)


def movielens(folder: Path, workspace: Path, count: int, report: Report) -> World:
    """Read MovieLens-1M in slices of equally many ratings by time; a rating of 4 or 5 is a click. The last third is judged.

    Args:
        folder: holds `ml-1m.inter`, `ml-1m.user` and `ml-1m.item`.
        workspace: where the slices go.
        count: of slices.
        report: told of what was read.
    """
    schema = _movielens_schema()
    relations = (
        *_relations("item_id", "age", "occupation"),
        Relation(left="user_id", right="release_year"),
    )
    ratings, found = _ratings(folder), []
    for number, part in enumerate(np.array_split(ratings, count)):
        path = workspace / "movielens" / f"{number}-of-{count}"
        (path / "impressions").mkdir(parents=True, exist_ok=True)
        part.to_parquet(path / "impressions" / "part-0.parquet", index=False)
        found.append(read_examples(path, schema, relations))
    report(f"movielens_1m: {len(ratings):,} ratings in {count} slices")
    return World("movielens_1m", schema, relations, found, 2 * count // 3)


def drawn(count: int) -> World:
    """Return a small world whose clicks depend on pairs, to try the benchmark without the data."""
    draw, relations = np.random.default_rng(0), _relations("ad", "region")
    fields = tuple(Categorical(name=name) for name in ("viewer", "ad", "region"))
    schema = Schema(
        label="click", user="viewer", item="ad", timestamp=Timestamp(column="time"), fields=fields
    )
    taste = draw.normal(size=(80, 2)) @ draw.normal(size=(2, 12)) * 1.5
    return World(
        "drawn",
        schema,
        relations,
        list(_drawn(count, taste, draw, schema, relations)),
        max(1, count - 2),
    )


def _drawn(
    count: int,
    taste: np.ndarray,
    draw: np.random.Generator,
    schema: Schema,
    relations: tuple[Relation, ...],
) -> Iterator[Examples]:
    for number in range(count):
        item, region = draw.integers(80, size=3000), draw.integers(12, size=3000)
        label = draw.random(3000) < 1 / (1 + np.exp(1 - taste[item, region]))
        columns: dict[str, Any] = {
            "viewer": draw.integers(500, size=3000),
            "ad": item,
            "region": region,
        }
        frame = pd.DataFrame(
            {name: [f"{name}{x}" for x in values] for name, values in columns.items()}
        )
        stamps = (np.arange(3000) + 3000 * number) * 1000
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "impressions").mkdir()
            told = frame.assign(
                user=frame["viewer"],
                label=label.astype(np.int8),
                timestamp_ms=stamps,
                record_id=[str(i) for i in range(3000)],
            )
            told.to_parquet(Path(folder) / "impressions" / "part-0.parquet", index=False)
            yield read_examples(Path(folder), schema, relations)


def _day(
    config: Config, workspace: Path, day: date, schema: Schema, relations: tuple[Relation, ...]
) -> Examples:
    """The day's impressions, ingested by the real stage where they are not there yet."""
    store = Store(workspace)
    version = (
        store.current("impressions", day)
        or run_stage("ingest", Context(config, day, store)).version
    )
    return read_examples(version.path, schema, relations)


def _of_share(examples: Examples, share: float) -> Examples:
    """The impressions of a share of the users, the same ones every day, by the hash of the first field (the user's)."""
    users = np.ascontiguousarray(examples.keys[:, 0])
    return examples if share == 1 else _take(examples, np.flatnonzero(within_share(users, share)))


def _take(examples: Examples, rows: np.ndarray) -> Examples:
    names = ("keys", "numbers", "present", "pairs", "label", "user", "record_id", "timestamp_ms")
    lists = tuple(values.take(rows) for values in examples.lists)
    return replace(examples, lists=lists, **{name: getattr(examples, name)[rows] for name in names})


def without_crosses(schema: Schema) -> Schema:
    """Return the schema without declared crosses of ids."""
    return schema.model_copy(
        update={"fields": tuple(field for field in schema.fields if not isinstance(field, Cross))}
    )


def _movielens_schema() -> Schema:
    names = ("user_id", "item_id", "age", "gender", "occupation", "release_year")
    fields = (*(Categorical(name=name) for name in names), Time(name="hour"))
    return Schema(
        label="label",
        user="user_id",
        item="item_id",
        timestamp=Timestamp(column="timestamp"),
        fields=fields,
    )


def _ratings(folder: Path) -> pd.DataFrame:
    told = pd.read_csv(folder / "ml-1m.inter", sep="\t", dtype=str)
    users, items = (
        pd.read_csv(folder / f"ml-1m.{name}", sep="\t", dtype=str) for name in ("user", "item")
    )
    whole = told.merge(users, on="user_id:token").merge(items, on="item_id:token")
    seconds = whole["timestamp:float"].astype(float).astype(np.int64)
    names = {
        "user_id": "user_id:token",
        "item_id": "item_id:token",
        "age": "age:float",
        "gender": "gender:token",
    }
    names |= {
        "occupation": "occupation:float",
        "release_year": "release_year:float",
        "user": "user_id:token",
    }
    frame = pd.DataFrame({name: whole[column].fillna("") for name, column in names.items()})
    label = (whole["rating:float"].astype(float) >= 4).astype(np.int8)
    records = [str(i) for i in range(len(frame))]
    frame = frame.assign(
        label=label, timestamp_ms=seconds * 1000, hour=seconds.astype(str), record_id=records
    )
    return frame.sort_values("timestamp_ms", kind="stable", ignore_index=True)
