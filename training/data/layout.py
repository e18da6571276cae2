"""Where each field of a schema lies in the model's inputs. Plain data, free of TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from features.errors import InputError
from features.schema import (
    Categorical,
    KeyField,
    MultiValued,
    Relation,
    Schema,
    is_dense,
    is_pooled,
)


@dataclass(frozen=True)
class Layout:
    """Names of the fields by the way they enter the model, each in the schema's order.

    Attributes:
        singles: id fields with one key per impression, crosses among them.
        lists: id fields with several, pooled: multi-valued ones, and multi-hash ones.
        dense: numeric fields that enter as a standardised number and a flag.
        relations: names of the relations whose p_uv enters as a number.
        chunks: of the lists, fields whose deep vector is laid together from rows, and how many each impression has of them.
    """

    singles: tuple[str, ...]
    lists: tuple[str, ...]
    dense: tuple[str, ...]
    relations: tuple[str, ...]
    chunks: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, schema: Schema, relations: Sequence[Relation] = ()) -> Self:
        """Lay a schema out.

        Raises:
            InputError: a relation names a field that is not a single-valued id field of the schema.
        """
        keyed = schema.key_fields()
        singles = tuple(f.name for f in keyed if not is_pooled(f))
        _refuse_unknown(relations, tuple(f.name for f in keyed if not isinstance(f, MultiValued)))
        return cls(
            singles=singles,
            lists=tuple(f.name for f in keyed if is_pooled(f)),
            dense=tuple(f.name for f in schema.fields if is_dense(f)),
            relations=tuple(r.name for r in relations),
            chunks=tuple((f.name, hashes) for f in keyed if (hashes := _chunks(f))),
        )

    @property
    def keyed(self) -> tuple[str, ...]:
        """Id fields in the order of the model's [b, F] and [b, F, d] inputs: single-valued ones, then lists."""
        return self.singles + self.lists


def _chunks(field: KeyField) -> int:
    """Rows that a field's deep vector is laid together from; 0: it is one row, or the mean of several."""
    told = field.multi_hash if isinstance(field, Categorical) else None
    return told.hashes if told and told.combine == "concat" else 0


def _refuse_unknown(relations: Sequence[Relation], singles: tuple[str, ...]) -> None:
    unknown = sorted({name for r in relations for name in (r.left, r.right)} - set(singles))
    if unknown:
        raise InputError(
            f"relations name {unknown}, which are no single-valued id fields of the schema ({list(singles)}): correct them"
        )
