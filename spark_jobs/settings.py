"""Settings of sources, Spark, statistics and the cross graph. This module does not load Spark."""

from __future__ import annotations

import codecs
from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from features.partition import Hour, Partition, day_of
from features.schema import EvolvingSettings, Relation, Settings


class Format(StrEnum):
    """File formats of sources and side tables."""

    CSV = "csv"
    PARQUET = "parquet"


class Partitioning(StrEnum):
    """How a record's day is known: from its timestamp, or from a `{date}` in the path.

    With `path` the timestamps must agree. An hour likewise: from the timestamp, or from an `{hour}`
    in the path in addition to the `{date}`.
    """

    TIMESTAMP = "timestamp"
    PATH = "path"


class SideTable(EvolvingSettings):
    """A table of users, items, … joined to the log by id (left join: an unknown id gets nulls).

    `key` is the column of the log, `table_key` (default: the same) the one of the table. `columns`
    (default: all) are added; `prefix` is put before each. A table without `{date}` in its path is
    read with its present content for every day. `version` names its content: days are read again
    when the name changes, and not when the file does.
    """

    added_later = ("version",)

    path: str
    version: str = ""
    format: Format = Format.CSV
    separator: str = ","
    key: str
    table_key: str = ""
    columns: tuple[str, ...] = ()
    prefix: str = ""

    @property
    def of_a_day(self) -> bool:
        """Whether each day has its own table."""
        return "{date}" in self.path


class Negatives(Settings):
    """For logs of clicks only: how impressions without a click are drawn.

    For each click `per_click` items are drawn, seeded by the click, uniformly from the items
    clicked by anyone in the `window_minutes` before it, without the items of the click's session.
    """

    per_click: Annotated[int, Field(ge=1, le=100)] = 4
    window_minutes: Annotated[int, Field(ge=1)] = 60
    session: str
    seed: int = 0


class Source(EvolvingSettings):
    """The location of the log and its format.

    `path` is one or more file patterns (`*`, `?`, `[..]`, `{a,b}`); with `partition: path` it holds
    `{date}`, and `{hour}` (two digits, of the schema's zone) if each hour has its own files.
    `rename` maps a column of the file to the name in the schema. `null_values` are read as null in
    CSV, whose text is of `encoding`. A record with a longer cell than `max_cell_bytes` is
    quarantined; a list counts a byte for each value and those of its texts. With `follow_links` a
    file may be a symbolic link that leads out of the folder.
    """

    added_later = ("encoding", "max_cell_bytes", "follow_links")

    path: str | tuple[str, ...]
    format: Format = Format.PARQUET
    separator: str = ","
    partition: Partitioning = Partitioning.TIMESTAMP
    rename: dict[str, str] = {}
    null_values: tuple[str, ...] = ()
    side_tables: tuple[SideTable, ...] = ()
    negatives: Negatives | None = None
    deduplicate: bool = True
    encoding: str = "utf-8"
    max_cell_bytes: Annotated[int, Field(ge=1)] = 65_536
    follow_links: bool = False

    @property
    def patterns(self) -> tuple[str, ...]:
        """The file patterns, one or more."""
        return (self.path,) if isinstance(self.path, str) else self.path

    @property
    def files_by_hour(self) -> bool:
        """Whether each hour has its own files."""
        return all("{hour}" in pattern for pattern in self.patterns)

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, name: str) -> str:
        # Lines are split before they are decoded, so a line break must be the byte 10.
        try:
            splits = "a\n".encode(name) == b"a\n"
        except LookupError:
            splits = False
        if not splits:
            raise ValueError(
                f"encoding {name!r} is unknown or not a superset of ASCII: use utf-8, latin-1,"
                " cp1252 or another one with the same line break"
            )
        return codecs.lookup(name).name

    @model_validator(mode="after")
    def _hour_needs_date(self) -> Self:
        dated = all("{date}" in pattern for pattern in self.patterns)
        complete = self.partition is Partitioning.PATH and dated and self.files_by_hour
        if any("{hour}" in pattern for pattern in self.patterns) and not complete:
            raise ValueError(
                "`{hour}` needs `partition: path`, and a `{date}` and an `{hour}` in every pattern"
                " of `path`"
            )
        return self


def fill_pattern(pattern: str, partition: Partition) -> str:
    """Return a file pattern with `{date}` and `{hour}` filled in; of a day it matches all hours."""
    hour = f"{partition.hour:02d}" if isinstance(partition, Hour) else "??"
    return pattern.replace("{date}", day_of(partition).isoformat()).replace("{hour}", hour)


LOCAL = "local"
"""As `spark.remote`: a local session, even if `SPARK_REMOTE` is set."""


class SparkSettings(Settings):
    """The Spark session.

    `remote` is a Spark Connect server, `sc://host:port`. If it is empty, `SPARK_REMOTE` is used, if
    set; `local` is a local session. A server has its own master and driver memory: `master` and
    `driver_memory` then have no effect.
    """

    remote: Annotated[str, Field(pattern=r"^(sc://[^/\s]+.*|local)?$")] = ""
    master: str = "local[*]"
    driver_memory: str = "2g"
    shuffle_partitions: Annotated[int, Field(ge=1)] = 4


class StatisticsSettings(Settings):
    """Feature statistics: window in days (the day itself included), prior weight of the CTR."""

    window_days: Annotated[int, Field(ge=1)] = 7
    smoothing: Annotated[float, Field(ge=0)] = 20.0


class GraphSettings(EvolvingSettings):
    """The co-occurrence graph: pairs of fields, window (days strictly before the day), support.

    A node keeps at most `max_degree` edges of a relation: a uniform sample, drawn by `seed`.
    """

    added_later = ("max_degree", "seed")

    relations: tuple[Relation, ...] = ()
    window_days: Annotated[int, Field(ge=1)] = 7
    min_impressions: Annotated[int, Field(ge=1)] = 3
    smoothing: Annotated[float, Field(ge=0)] = 20.0
    max_degree: Annotated[int, Field(ge=1)] = 100_000
    seed: int = 0
