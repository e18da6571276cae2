"""The logs of `benchmarks/compress.py` as this path walks them, and what is crossed in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from compression_parts.flat import flatten
from compression_parts.worlds import World
from pcf_gnn_parts.worlds import RELATIONS

from features.schema import Cross, Relation

_CROSSES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "kuairand_pure": (
        ("user_id", "author_id"),
        ("user_id", "tab"),
        ("user_active_degree", "video_id"),
        ("onehot_feat1", "video_id"),
        ("tab", "video_id"),
        ("tab", "author_id"),
    ),
    "globo": (
        ("click_article_id", "click_region"),
        ("click_article_id", "click_referrer_type"),
        ("click_article_id", "click_country"),
        ("click_article_id", "click_deviceGroup"),
        ("click_article_id", "click_os"),
    ),
    "drawn": (("user_id", "place"), ("item_id", "place")),
}
"""User style × item style. On Globo the user is left out: next to no user meets an article twice."""

_STATISTICS = {**RELATIONS, "drawn": (Relation(left="item_id", right="place"),)}
_SPELLED = ("article_region", "article_referrer")
"""Crosses of `conf/globo.yaml` that are columns of the flat days; here they are declared, or gone."""

_PIECES, _SLICES = {"globo": 4}, {"kuairand_pure": 3}
"""What a day is cut into, as the statistics of the day before say little of news; and how many slices all days but the last make,
as a day of 14,000 impressions takes less time to learn than its model to build."""


@dataclass(frozen=True)
class Walk:
    """A log, and what is crossed in it.

    Attributes:
        world: the log, without crosses.
        crosses: declared at the start.
        relations: pairs whose statistics the model reads.
    """

    world: World
    crosses: tuple[Cross, ...]
    relations: tuple[Relation, ...]

    @classmethod
    def of(cls, world: World, folder: Path) -> Walk:
        """Return the walk through a log, its days cut or laid together in `folder` as is said above."""
        name, pieces = world.name, _PIECES.get(world.name, 1)
        fields = tuple(field for field in world.schema.fields if field.name not in _SPELLED)
        fraction = world.training.holdout_fraction * pieces
        plain = replace(
            world,
            schema=world.schema.model_copy(update={"fields": fields}),
            training=world.training.model_copy(update={"holdout_fraction": fraction}),
            days=[piece for day in _merged(world, folder) for piece in _cut(day, pieces, folder)],
            hashed=tuple(field for field in world.hashed if field not in _SPELLED),
        )
        crosses = tuple(Cross(name=f"{a}_x_{b}", of=(a, b)) for a, b in _CROSSES[name])
        return cls(plain, crosses, _STATISTICS[name])


def _merged(world: World, folder: Path) -> list[Path]:
    """The days; where they are small, those before the last one laid together."""
    days, count = list(world.days), _SLICES.get(world.name, 0)
    if not count:
        return days
    bounds = [(len(days) - 1) * number // count for number in range(count + 1)]
    slices = [
        flatten(days[start:stop], world.schema, folder / f"{start}-to-{stop}", None)
        for start, stop in pairwise(bounds)
    ]
    return [*slices, days[-1]]


def _cut(day: Path, pieces: int, folder: Path) -> list[Path]:
    """Write a flat day as so many of equally many impressions, in the order of time. Done once."""
    if pieces == 1:
        return [day]
    outs = [folder / f"{day.name}-{number}-of-{pieces}" for number in range(pieces)]
    if not all((out / "impressions").is_dir() for out in outs):
        table = pq.read_table(day / "impressions").sort_by(
            [("timestamp_ms", "ascending"), ("record_id", "ascending")]
        )
        bounds = [len(table) * number // pieces for number in range(pieces + 1)]
        for out, (start, stop) in zip(outs, pairwise(bounds), strict=True):
            _write(table.slice(start, stop - start), out / "impressions")
    return outs


def _write(table: pa.Table, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / "part-00000.parquet")
