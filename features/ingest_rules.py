"""The rules by which records of the log are quarantined, as plain data.

Two modules interpret them: `spark_jobs.records` as Spark columns for a day or an hour, and
`pipelines.follow.records` as NumPy masks for a file that has just arrived.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class IngestMode(StrEnum):
    """Which code reads the log."""

    SPARK = "spark"
    FOLLOW = "follow"


class RecordCheck(StrEnum):
    """What a record must satisfy."""

    PARSED = "its line has as many values as the header"
    DECODED = "its bytes are text in `source.encoding`"
    CELL_SIZE = "no value is longer than `source.max_cell_bytes`"
    READABLE_TIME = "its time can be read in the unit of `timestamp`"
    NOT_FUTURE = "its time is at most `follow.max_ahead_hours` after now"
    IN_PARTITION = "its time is in the day or hour that is ingested"
    KNOWN_LABEL = "its label is in `LABELS`, or a number if `label_at_least` is configured"
    NOT_NULL = "its canonical value is not null"
    NOT_NEGATIVE = "its value is a number of at least 0"
    FINITE = "no numeric field holds a number beyond the range of a 64-bit float"
    FIRST_COPY = "no earlier record is equal; checked if `source.deduplicate` is configured"


@dataclass(frozen=True)
class IngestRule:
    """One reason for quarantine.

    Attributes:
        reason: what reports and quarantine files call it.
        check: what a record must satisfy.
        role: the column that is checked: `timestamp`, `label`, `user` or `item` of the schema, or
            `weight` of the training; None for a check of the whole record.
        modes: where the rule applies.
    """

    reason: str
    check: RecordCheck
    role: str | None = None
    modes: tuple[IngestMode, ...] = (IngestMode.SPARK, IngestMode.FOLLOW)


INGEST_RULES = (
    IngestRule("malformed", RecordCheck.PARSED),
    IngestRule("encoding", RecordCheck.DECODED),
    IngestRule("cell_size", RecordCheck.CELL_SIZE),
    IngestRule("timestamp", RecordCheck.READABLE_TIME, "timestamp"),
    # Follow mode has no partitions. A day has one, so a time of the future is of another day.
    IngestRule("future", RecordCheck.NOT_FUTURE, "timestamp", (IngestMode.FOLLOW,)),
    IngestRule("wrong_day", RecordCheck.IN_PARTITION, "timestamp", (IngestMode.SPARK,)),
    IngestRule("label", RecordCheck.KNOWN_LABEL, "label"),
    IngestRule("user", RecordCheck.NOT_NULL, "user"),
    IngestRule("item", RecordCheck.NOT_NULL, "item"),
    # Of a day, `training.data` rejects the whole partition if a weight is invalid.
    IngestRule("weight", RecordCheck.NOT_NEGATIVE, "weight", (IngestMode.FOLLOW,)),
    IngestRule("number", RecordCheck.FINITE),
    IngestRule("duplicate", RecordCheck.FIRST_COPY),
)
"""In order: a record that fails several checks gets the reason of the first."""

LABELS = {"1": 1, "true": 1, "0": 0, "false": 0}
"""Label of each canonical value that is one."""


def ingest_rules(mode: IngestMode) -> tuple[IngestRule, ...]:
    """Return the rules that apply in a mode, in order.

    >>> [rule.reason for rule in ingest_rules(IngestMode.SPARK)][:5]
    ['malformed', 'encoding', 'cell_size', 'timestamp', 'wrong_day']
    """
    return tuple(rule for rule in INGEST_RULES if mode in rule.modes)
