"""The schema: the columns of the log that are label, ids, time and features, and their kinds."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from features.timezones import offset_seconds, parse_timezone

# A name is also a Parquet column, a file name and part of metric names.
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]

RESERVED = frozenset({"record_id", "label", "timestamp_ms", "user", "item"})
"""Columns that ingest writes; no field may have one of these names."""


class Settings(BaseModel):
    """Base of every configuration object: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class EvolvingSettings(Settings):
    """Base of objects that got options after models were saved with them.

    Fields named in `added_later` are omitted from the output while they have their default value.
    This keeps the hashes of existing artifacts stable when an option is added.
    """

    added_later: ClassVar[tuple[str, ...]] = ()

    # `wrap` keeps the usual serialisation (modes, nested objects) and filters its result.
    @model_serializer(mode="wrap")
    def _without_unused(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        unused = {name for name in self.added_later if getattr(self, name) == fields[name].default}
        return {name: value for name, value in serialise(self).items() if name not in unused}


class TimeUnit(StrEnum):
    """How the log writes a time."""

    SECONDS = "s"
    MILLISECONDS = "ms"
    MICROSECONDS = "us"
    ISO = "iso"


class TimePart(StrEnum):
    """The part of the local time that a time field keeps."""

    HOUR_OF_DAY = "hour_of_day"
    DAY_OF_WEEK = "day_of_week"
    HOUR_OF_WEEK = "hour_of_week"


class Transform(StrEnum):
    """How a numeric field enters the model: `buckets` as an id, the others as a number."""

    STANDARD = "standard"
    LOG = "log"
    BUCKETS = "buckets"


class Timestamp(Settings):
    """The column with the time of an impression.

    ISO times without an offset are read as times at `assume_offset`.
    """

    column: str
    unit: TimeUnit = TimeUnit.MILLISECONDS
    assume_offset: str = "+00:00"

    @model_validator(mode="after")
    def _offset_is_readable(self) -> Self:
        offset_seconds(self.assume_offset)
        return self


class _Column(Settings):
    """A field read from one column of the log, by default the column with the field's name."""

    name: Identifier
    column: str = ""

    @property
    def source(self) -> str:
        """The column of the log that this field reads."""
        return self.column or self.name


class MultiHash(EvolvingSettings):
    """Multi-hashing: an id has one row in each of `hashes` small tables, `rows` rows in total.

    With `shared`, all hashes share one table. With `own_rows`, an id also gets its ordinary
    (dedicated) row when its field's admission threshold admits it. `combine: sum` takes the mean
    of the rows; `concat` concatenates them, each `dim / hashes` wide.
    """

    added_later = ("shared", "own_rows", "combine")

    hashes: Annotated[int, Field(ge=2, le=8)] = 2
    rows: Annotated[int, Field(ge=16)]
    shared: bool = False
    own_rows: bool = False
    combine: Literal["sum", "concat"] = "sum"

    @model_validator(mode="after")
    def _own_rows_are_pooled(self) -> Self:
        if self.own_rows and self.combine == "concat":
            raise ValueError(
                "own_rows go with combine: sum; concatenated rows are narrower than an id's own "
                "row: drop one of the two"
            )
        return self


class Categorical(_Column):
    """One id per impression. Fields with the same `vocabulary` share keys and rows.

    With `multi_hash`, the ids share a fixed number of rows, however many ids there are.
    """

    kind: Literal["categorical"] = "categorical"
    vocabulary: Identifier | None = None
    multi_hash: MultiHash | None = None


class MultiValued(_Column):
    """A list of ids per impression, pooled. A text column is split at `separator`."""

    kind: Literal["multi_valued"] = "multi_valued"
    vocabulary: Identifier | None = None
    separator: str = ","


class Numeric(_Column):
    """A number. `log` is sign(x)·log(1+|x|); `buckets` needs `boundaries` in ascending order."""

    kind: Literal["numeric"] = "numeric"
    transform: Transform = Transform.STANDARD
    boundaries: tuple[float, ...] = ()
    vocabulary: Identifier | None = None

    @model_validator(mode="after")
    def _boundaries_fit(self) -> Self:
        if (self.transform is Transform.BUCKETS) != bool(self.boundaries):
            raise ValueError(
                f"field {self.name!r}: `boundaries` go with `transform: buckets`, and it needs them"
            )
        if list(self.boundaries) != sorted(set(self.boundaries)):
            raise ValueError(f"field {self.name!r}: `boundaries` must ascend without repeats")
        return self


class Time(_Column):
    """A part of the local time, in the schema's zone, of a column (default: the timestamp's)."""

    kind: Literal["time"] = "time"
    part: TimePart = TimePart.HOUR_OF_DAY
    vocabulary: Identifier | None = None


class Cross(Settings):
    """The combination of two or more other fields' values as one id."""

    kind: Literal["cross"] = "cross"
    name: Identifier
    of: Annotated[tuple[Identifier, ...], Field(min_length=2)]
    vocabulary: Identifier | None = None


class Relation(Settings):
    """Two single-valued id fields whose co-occurrence is an edge of the cross graph.

    The pretrained encodings of a relation enter the model as one number per impression.
    """

    left: Identifier
    right: Identifier

    @property
    def name(self) -> str:
        """`left__right`, the relation's name in every artifact."""
        return f"{self.left}__{self.right}"


FieldSpec = Annotated[
    Categorical | MultiValued | Numeric | Time | Cross, Field(discriminator="kind")
]
ColumnField = Categorical | MultiValued | Numeric | Time
KeyField = Categorical | MultiValued | Numeric | Time | Cross


class Schema(Settings):
    """The contract between the log and the model.

    `forbidden` names outcome columns, which cannot be features. `extras` are kept but not used by
    the model (for instance propensities of the logging policy). `timezone` defines the day. The
    label is 0 or 1 or, with `label_at_least`, a number that counts as 1 from that value on.
    """

    label: str
    label_at_least: float | None = None
    user: str
    item: str
    timestamp: Timestamp
    fields: Annotated[tuple[FieldSpec, ...], Field(min_length=1)]
    timezone: str = "UTC"
    # Sorted in JSON: the order of a set differs between processes, and JSON is hashed.
    forbidden: Annotated[frozenset[str], PlainSerializer(sorted, when_used="json")] = frozenset()
    extras: tuple[Identifier, ...] = ()

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        parse_timezone(self.timezone)
        names = [*self.names(), *self.extras]
        clashes = sorted({n for n in names if names.count(n) > 1} | (set(names) & RESERVED))
        if clashes:
            raise ValueError(
                f"field names {clashes} are used twice or reserved ({sorted(RESERVED)}): "
                "rename them"
            )
        return self

    @model_validator(mode="after")
    def _no_field_is_an_outcome(self) -> Self:
        # An outcome is only known after the impression: a model that reads it leaks the label.
        used = {self.source_column(f) for f in self.column_fields()}
        leaks = sorted((self.forbidden | {self.label}) & used)
        if leaks:
            raise ValueError(
                f"columns {leaks} are outcomes (label or `forbidden`) and cannot be features"
            )
        return self

    @model_validator(mode="after")
    def _crosses_are_of_single_ids(self) -> Self:
        # A cross of lists would have a value for every combination of their elements.
        single = {f.name for f in self.key_fields() if not isinstance(f, MultiValued | Cross)}
        for cross in (f for f in self.fields if isinstance(f, Cross)):
            unknown = sorted(set(cross.of) - single)
            if unknown:
                raise ValueError(
                    f"cross {cross.name!r}: {unknown} are not single-valued id fields of the schema"
                )
        return self

    def column_fields(self) -> tuple[ColumnField, ...]:
        """Fields that read a column of the log, in order: the inputs of the exported model."""
        return tuple(f for f in self.fields if not isinstance(f, Cross))

    def key_fields(self) -> tuple[KeyField, ...]:
        """Fields whose values are embedded, in order."""
        return tuple(f for f in self.fields if not is_dense(f))

    def dense_fields(self) -> tuple[Numeric, ...]:
        """Numeric fields that enter the model as a number, in order."""
        return tuple(f for f in self.fields if isinstance(f, Numeric) and is_dense(f))

    def field(self, name: str) -> KeyField:
        """Return the field with this name; raises KeyError if there is none."""
        return {f.name: f for f in self.fields}[name]

    def names(self) -> tuple[str, ...]:
        """Names of all fields, in order."""
        return tuple(f.name for f in self.fields)

    def source_column(self, field: ColumnField) -> str:
        """Return the column that a field reads; for a time field by default the timestamp's."""
        if isinstance(field, Time) and not field.column:
            return self.timestamp.column
        return field.source


def is_dense(field: KeyField) -> bool:
    """Whether a field enters the model as a number instead of through an embedding."""
    return isinstance(field, Numeric) and field.transform is not Transform.BUCKETS


def is_pooled(field: KeyField) -> bool:
    """Whether an impression has several keys of the field: a list of ids, or multi-hashing."""
    return isinstance(field, MultiValued) or (
        isinstance(field, Categorical) and field.multi_hash is not None
    )


def vocabulary_of(field: KeyField) -> str:
    """Return the name that salts a field's keys: its vocabulary, by default its own name."""
    return field.vocabulary or field.name
