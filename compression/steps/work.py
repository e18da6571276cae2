"""What steps work on: a compact model, and what the trainer's tables know of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from compression.model import CompactModel
from elastic_embeddings.storage.checkpoint import HEADER, read_array, read_header
from features.errors import InputError
from training.fit.checkpoints import rows_folder
from training.packed.rows import PackedRows
from training.packed.slab import PackedSlab


@dataclass(frozen=True)
class Facts:
    """Of the N rows of a table, in the order of its keys.

    Attributes:
        counts: int64 [N], occurrences.
        idle: int64 [N], optimizer steps since the last one.
        fields: int16 [N], places in `names`.
        names: of the table's fields; a row of a shared vocabulary counts as its first field's.
    """

    counts: NDArray[np.int64]
    idle: NDArray[np.int64]
    fields: NDArray[np.int16]
    names: tuple[str, ...]

    def take(self, rows: NDArray[Any]) -> Self:
        """Return those of rows int [n], or where bool [N] is true."""
        return replace(
            self, counts=self.counts[rows], idle=self.idle[rows], fields=self.fields[rows]
        )

    def of_fields(self, names: tuple[str, ...]) -> NDArray[np.bool_]:
        """Return which rows, bool [N], are some fields'."""
        return np.isin(self.fields, [code for code, name in enumerate(self.names) if name in names])


@dataclass(frozen=True)
class Work:
    """A model between two steps.

    Attributes:
        model: as the steps so far left it.
        facts: of its rows, by table.
        impressions: the day's `impressions` artifact, for steps that learn; None: not given.
    """

    model: CompactModel
    facts: Mapping[str, Facts]
    impressions: Path | None = None

    def take(self, rows: Mapping[str, NDArray[Any]]) -> Self:
        """Return the work with the rows at int [n], in that order, or where bool [N] is true; tables not named stay whole."""
        tables = {
            n: _take(table, rows[n]) if n in rows else table
            for n, table in self.model.tables.items()
        }
        facts = {n: told.take(rows[n]) if n in rows else told for n, told in self.facts.items()}
        return replace(self, model=replace(self.model, tables=tables), facts=facts)

    def with_slabs(self, slabs: Mapping[str, Mapping[str, PackedSlab]]) -> Self:
        """Return the work with other slabs, by table and name; those not named stay."""
        tables = {
            n: PackedRows(t.keys, {**t.slabs, **slabs.get(n, {})})
            for n, t in self.model.tables.items()
        }
        return replace(self, model=replace(self.model, tables=tables))


def work_on(model: CompactModel, checkpoint: Path, impressions: Path | None = None) -> Work:
    """Read what a checkpoint's tables know of a model's rows.

    Raises:
        InputError: the folder is no checkpoint, damaged, or lacks a key of the model.
    """
    facts = {
        name: _facts(rows_folder(checkpoint, name), rows.keys)
        for name, rows in model.tables.items()
    }
    return Work(model, facts, impressions)


def _facts(folder: Path, keys: NDArray[np.int64]) -> Facts:
    if not (folder / HEADER).exists():
        raise InputError(
            f"{folder}: no {HEADER}; compression.steps need the counts of a trained checkpoint, not a compressed one"
        )
    header = read_header(folder)
    known, counts, seen, fields = (
        read_array(folder, header, name) for name in ("keys", "counts", "last_seen", "fields")
    )
    order = np.argsort(known)
    at = (
        order[np.minimum(np.searchsorted(known[order], keys), len(known) - 1)]
        if len(known)
        else np.zeros(0, np.int64)
    )
    if not np.array_equal(known[at], keys):
        raise InputError(
            f"{folder}: the model has keys that this table lacks; train this day again"
        )
    return Facts(
        counts[at].astype(np.int64),
        header.step - seen[at].astype(np.int64),
        fields[at],
        header.fields,
    )


def _take(table: PackedRows, rows: NDArray[Any]) -> PackedRows:
    """Rows of several bands lie band by band: a new order takes them out of their bands."""
    if rows.dtype == np.bool_:
        return table.take(rows)
    return PackedRows(
        table.keys[rows],
        {name: PackedSlab.of(slab.rows()[rows]) for name, slab in table.slabs.items()},
    )
