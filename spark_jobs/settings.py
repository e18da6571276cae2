"""What YAML says of sources, statistics and the cross graph. Free of Spark, so that anything may read it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from features.partition import Hour, Partition, day_of
from features.schema import EvolvingSettings, Relation, Settings


class Format(StrEnum):
    """File formats that sources and side tables come in."""

    CSV = "csv"
    PARQUET = "parquet"


class Partitioning(StrEnum):
    """How a record's day is known: from its timestamp, or from a `{date}` in the path (timestamps must then agree).

    An hour likewise: from the timestamp, or from an `{hour}` beside the `{date}`.
    """

    TIMESTAMP = "timestamp"
    PATH = "path"


class SideTable(Settings):
    """A table of users, items, … joined to the log by id (left join: an unknown id leaves nulls).

    `key` is the column of the log, `table_key` (default: the same) the one of the table. `columns` (default: all)
    are taken over; `prefix` is put before each.
    """

    path: str
    format: Format = Format.CSV
    separator: str = ","
    key: str
    table_key: str = ""
    columns: tuple[str, ...] = ()
    prefix: str = ""


class Negatives(Settings):
    """For logs of clicks only: how impressions without a click are drawn.

    For each click `per_click` items are drawn, seeded by the click, uniformly from the items clicked by anyone in
    the `window_minutes` before it, leaving out the items of the click's own session.
    """

    per_click: Annotated[int, Field(ge=1, le=100)] = 4
    window_minutes: Annotated[int, Field(ge=1)] = 60
    session: str
    seed: int = 0


class Source(Settings):
    """Where the log lies and how it is read.

    `path` is one or more file patterns (`*`, `?`, `[..]`, `{a,b}`); with `partition: path` it holds `{date}`, and
    `{hour}` (two digits, of the schema's zone) where each hour has files of its own.
    `rename` maps a column of the file to the name that the schema uses. `null_values` are read as null in CSV.
    """

    path: str | tuple[str, ...]
    format: Format = Format.PARQUET
    separator: str = ","
    partition: Partitioning = Partitioning.TIMESTAMP
    rename: dict[str, str] = {}
    null_values: tuple[str, ...] = ()
    side_tables: tuple[SideTable, ...] = ()
    negatives: Negatives | None = None
    deduplicate: bool = True

    @property
    def patterns(self) -> tuple[str, ...]:
        """The file patterns, one or more."""
        return (self.path,) if isinstance(self.path, str) else self.path

    @property
    def files_by_hour(self) -> bool:
        """Whether each hour has files of its own."""
        return all("{hour}" in pattern for pattern in self.patterns)

    @model_validator(mode="after")
    def _hours_are_told_one_way(self) -> Self:
        hourly = ["{hour}" in pattern for pattern in self.patterns]
        dated = self.partition is Partitioning.PATH and all(
            "{date}" in pattern for pattern in self.patterns
        )
        if any(hourly) and not (all(hourly) and dated):
            raise ValueError(
                "`{hour}` needs `partition: path`, and a `{date}` and an `{hour}` in every pattern of `path`"
            )
        return self


def fill_pattern(pattern: str, partition: Partition) -> str:
    """Return a file pattern of a day or an hour: `{date}` and `{hour}` filled in; a day has the files of all its hours."""
    hour = f"{partition.hour:02d}" if isinstance(partition, Hour) else "??"
    return pattern.replace("{date}", day_of(partition).isoformat()).replace("{hour}", hour)


LOCAL = "local"
"""As `spark.remote`: a local session, whatever the environment says."""


class SparkSettings(Settings):
    """The Spark session.

    `remote` is a Spark Connect server, `sc://host:port`; empty for that of `SPARK_REMOTE`, where that is set; `local` for
    none. With a server `master` and `driver_memory` are its own affair.
    """

    remote: Annotated[str, Field(pattern=r"^(sc://[^/\s]+.*|local)?$")] = ""
    master: str = "local[*]"
    driver_memory: str = "2g"
    shuffle_partitions: Annotated[int, Field(ge=1)] = 4


class StatisticsSettings(Settings):
    """Feature statistics: the window in days (the day itself included) and the prior weight of the smoothed CTR."""

    window_days: Annotated[int, Field(ge=1)] = 7
    smoothing: Annotated[float, Field(ge=0)] = 20.0


class GraphSettings(EvolvingSettings):
    """The co-occurrence graph: its pairs of fields, window (days strictly before the day) and least support.

    A node keeps at most `max_degree` edges of a relation, a sample that `seed` draws, each with the same chance.
    """

    added_later = ("max_degree", "seed")

    relations: tuple[Relation, ...] = ()
    window_days: Annotated[int, Field(ge=1)] = 7
    min_impressions: Annotated[int, Field(ge=1)] = 3
    smoothing: Annotated[float, Field(ge=0)] = 20.0
    max_degree: Annotated[int, Field(ge=1)] = 100_000
    seed: int = 0
