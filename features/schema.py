"""The schema: which columns of the log are label, ids, time and features, and of what kind each field is."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from features.timezones import offset_seconds, parse_timezone

Identifier = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]

RESERVED = frozenset({"record_id", "label", "timestamp_ms", "user", "item"})
"""Columns that ingest writes itself; no field may take one of these names."""


class Settings(BaseModel):
    """Base of every configuration object: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class EvolvingSettings(Settings):
    """Base of objects that got options after models were saved with them.

    Fields named in `added_later` are omitted from the output while they have their default value.
    This keeps the hashes of existing artifacts stable when an option is added.
    """

    added_later: ClassVar[tuple[str, ...]] = ()

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
    """What a time-derived field keeps of the local time."""

    HOUR_OF_DAY = "hour_of_day"
    DAY_OF_WEEK = "day_of_week"
    HOUR_OF_WEEK = "hour_of_week"


class Transform(StrEnum):
    """How a numeric field enters the model: `buckets` as an embedded id, the others as a standardised number."""

    STANDARD = "standard"
    LOG = "log"
    BUCKETS = "buckets"


class Timestamp(Settings):
    """The column that says when an impression happened. ISO times without an offset are read at `assume_offset`."""

    column: str
    unit: TimeUnit = TimeUnit.MILLISECONDS
    assume_offset: str = "+00:00"

    @model_validator(mode="after")
    def _offset_is_readable(self) -> Self:
        offset_seconds(self.assume_offset)
        return self


class _Column(Settings):
    """A field read from one column of the log (by default the column of its own name)."""

    name: Identifier
    column: str = ""

    @property
    def source(self) -> str:
        """The column of the log that this field reads."""
        return self.column or self.name


class MultiHash(EvolvingSettings):
    """How the ids of a field share few rows: an id is `hashes` of them, of as many small tables with `rows` rows together.

    `shared`: all hashes fall into one table. `own_rows`: an id has its ordinary row too, once it is admitted by its field's
    threshold. `combine`: `sum` pools the rows by their mean, `concat` lays them side by side, each `dim / hashes` wide.
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
                "own_rows go with combine: sum; rows laid side by side have no place for one more: drop one of the two"
            )
        return self


class Categorical(_Column):
    """One id per impression. Fields with the same `vocabulary` share keys and rows.

    With `multi_hash` an id has no row of its own, unless it says `own_rows`: however many ids there are, the field never takes
    more than that many rows.
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
    """A number. `boundaries` (ascending) are for `transform: buckets`; `log` takes sign(x)·log(1+|x|) first."""

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
    """A part of the local time of a time column (by default the schema's timestamp), in the schema's zone."""

    kind: Literal["time"] = "time"
    part: TimePart = TimePart.HOUR_OF_DAY
    vocabulary: Identifier | None = None


class Cross(Settings):
    """The pair, triple, … of other fields' values as one id."""

    kind: Literal["cross"] = "cross"
    name: Identifier
    of: Annotated[tuple[Identifier, ...], Field(min_length=2)]
    vocabulary: Identifier | None = None


class Relation(Settings):
    """A pair of single-valued id fields whose co-occurrence is an edge, and whose encodings enter the model as one number."""

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

    `forbidden` names outcome columns: none may be a feature. `extras` are carried along unused by the model (for
    instance the logging policy and its propensities). `timezone` defines the day. The label is 0 or 1, or, with
    `label_at_least`, a number that counts as 1 from there on.
    """

    label: str
    label_at_least: float | None = None
    user: str
    item: str
    timestamp: Timestamp
    fields: Annotated[tuple[FieldSpec, ...], Field(min_length=1)]
    timezone: str = "UTC"
    forbidden: frozenset[str] = frozenset()
    extras: tuple[Identifier, ...] = ()

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        parse_timezone(self.timezone)
        _refuse_clashing_names(self)
        _refuse_outcomes(self)
        _refuse_impossible_crosses(self)
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
        """Return the field of this name; raises KeyError when there is none."""
        return {f.name: f for f in self.fields}[name]

    def names(self) -> tuple[str, ...]:
        """Names of all fields, in order."""
        return tuple(f.name for f in self.fields)

    def source_column(self, field: ColumnField) -> str:
        """The column of the log that a field reads; a time field without one reads the timestamp's."""
        if isinstance(field, Time) and not field.column:
            return self.timestamp.column
        return field.source


def is_dense(field: KeyField) -> bool:
    """Whether a field enters the model as a number instead of through an embedding."""
    return isinstance(field, Numeric) and field.transform is not Transform.BUCKETS


def is_pooled(field: KeyField) -> bool:
    """Whether an impression has several keys of the field, so that their rows are pooled: a list of ids, or a multi-hash one."""
    return isinstance(field, MultiValued) or (
        isinstance(field, Categorical) and field.multi_hash is not None
    )


def has_own_rows(field: KeyField) -> bool:
    """Whether an id of a multi-hash field has its ordinary row beside the hashed ones."""
    return (
        isinstance(field, Categorical)
        and field.multi_hash is not None
        and field.multi_hash.own_rows
    )


def vocabulary_of(field: KeyField) -> str:
    """The name that salts a field's keys: its share name, else its own."""
    return field.vocabulary or field.name


def _refuse_clashing_names(schema: Schema) -> None:
    names = [*schema.names(), *schema.extras]
    clashes = sorted({n for n in names if names.count(n) > 1} | (set(names) & RESERVED))
    if clashes:
        raise ValueError(
            f"field names {clashes} are used twice or reserved ({sorted(RESERVED)}): rename them"
        )


def _refuse_outcomes(schema: Schema) -> None:
    used = {schema.source_column(f): f.name for f in schema.column_fields()}
    leaks = sorted((schema.forbidden | {schema.label}) & set(used))
    if leaks:
        raise ValueError(
            f"columns {leaks} are outcomes (label or `forbidden`) and cannot be features"
        )


def _refuse_impossible_crosses(schema: Schema) -> None:
    single = {f.name for f in schema.key_fields() if not isinstance(f, MultiValued | Cross)}
    for cross in (f for f in schema.fields if isinstance(f, Cross)):
        unknown = sorted(set(cross.of) - single)
        if unknown:
            raise ValueError(
                f"cross {cross.name!r}: {unknown} are not single-valued id fields of the schema"
            )
