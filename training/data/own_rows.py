"""Multi-hash fields whose frequent ids have rows of their own: which they are, and whether anything decides who is frequent."""

from __future__ import annotations

from features.errors import InputError
from features.schema import Schema, has_own_rows
from training.settings import AdmissionSettings


def own_row_fields(schema: Schema) -> tuple[str, ...]:
    """Return the names of the fields with `multi_hash.own_rows`."""
    return tuple(f.name for f in schema.fields if has_own_rows(f))


def refuse_own_rows_for_all(schema: Schema, admission: AdmissionSettings) -> None:
    """Check that `own_rows` are for frequent ids only.

    Raises:
        InputError: a field with `own_rows` admits every id at once, so that hashing saves nothing.
    """
    for name in own_row_fields(schema):
        if admission.threshold(name) == 1:
            raise InputError(
                f"field {name!r} has multi_hash.own_rows, but training.admission gives every id a row at first sight, so that "
                f"nothing is saved: set training.admission.min_counts.{name} to 2 or more, or take own_rows out"
            )
