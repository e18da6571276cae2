"""A step of compression: fitted to a model it gives a plan; the plan gives a smaller model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from compression.model import CompactModel, positions_of
from compression.steps.settings import StepSettings
from elastic_embeddings.storage.checkpoint import HEADER, read_array, read_header
from features.errors import InputError
from features.schema import Settings
from training.fit.checkpoints import rows_folder
from training.packed.rows import PackedRows, PackedSlab


@dataclass(frozen=True)
class RowStats:
    """What training counted for the N rows of a table, in the order of its keys.

    Attributes:
        counts: int64 [N], occurrences.
        idle: int64 [N], optimizer steps since the last occurrence.
        fields: int16 [N], indices into `names`.
        names: of the table's fields; a row of a shared vocabulary has the field that saw it first.
    """

    counts: NDArray[np.int64]
    idle: NDArray[np.int64]
    fields: NDArray[np.int16]
    names: tuple[str, ...]

    def take(self, rows: NDArray[Any]) -> Self:
        """Return the statistics of rows int [n], or of those where bool [N] is true."""
        return replace(
            self, counts=self.counts[rows], idle=self.idle[rows], fields=self.fields[rows]
        )

    def of_fields(self, names: tuple[str, ...]) -> NDArray[np.bool_]:
        """Return which rows, bool [N], belong to some fields."""
        return np.isin(self.fields, [code for code, name in enumerate(self.names) if name in names])

    def bands(self, cuts: tuple[int, ...]) -> NDArray[np.int64]:
        """Return the band of each row, int64 [N]: how many ascending cuts its count reaches."""
        # side="right": a count that equals a cut belongs to the upper band.
        return np.searchsorted(np.array(cuts, np.int64), self.counts, side="right").astype(np.int64)


@dataclass(frozen=True)
class CompressionState:
    """A model between two steps.

    Attributes:
        model: the result of the steps so far.
        row_stats: of its rows, by table.
        impressions: the day's `impressions` artifact, for steps that train; None: not given.
    """

    model: CompactModel
    row_stats: Mapping[str, RowStats]
    impressions: Path | None = None

    def take(self, rows: Mapping[str, NDArray[Any]]) -> Self:
        """Return the state with rows int [n], in that order, or bool [N], of some tables."""
        tables, stats = dict(self.model.tables), dict(self.row_stats)
        for name, chosen in rows.items():
            table = tables[name]
            stats[name] = stats[name].take(chosen)
            if chosen.dtype == np.bool_:
                tables[name] = table.take(chosen)
            else:
                # A band is a range of rows, so a new order dissolves the bands.
                slabs = {n: PackedSlab.of(s.rows()[chosen]) for n, s in table.slabs.items()}
                tables[name] = PackedRows(table.keys[chosen], slabs)
        return replace(self, model=replace(self.model, tables=tables), row_stats=stats)

    def with_slabs(self, slabs: Mapping[str, Mapping[str, PackedSlab]]) -> Self:
        """Return the state with other slabs, by table and name; those that are not named stay."""
        tables = {
            name: PackedRows(table.keys, {**table.slabs, **slabs.get(name, {})})
            for name, table in self.model.tables.items()
        }
        return replace(self, model=replace(self.model, tables=tables))


def read_state(
    model: CompactModel, checkpoint: Path, impressions: Path | None = None
) -> CompressionState:
    """Read the statistics of a model's rows from the checkpoint that it was made of.

    Raises:
        InputError: the folder is no checkpoint, damaged, or lacks a key of the model.
    """
    stats = {
        name: _read_row_stats(rows_folder(checkpoint, name), rows.keys)
        for name, rows in model.tables.items()
    }
    return CompressionState(model, stats, impressions)


def _read_row_stats(folder: Path, keys: NDArray[np.int64]) -> RowStats:
    if not (folder / HEADER).exists():
        raise InputError(
            f"{folder}: no {HEADER}; compression.steps need the counts of a trained checkpoint, "
            "not a compressed one"
        )
    header = read_header(folder)
    known, counts, seen, fields = (
        read_array(folder, header, name) for name in ("keys", "counts", "last_seen", "fields")
    )
    at = positions_of(keys, known)
    if (at < 0).any():
        raise InputError(
            f"{folder}: the model has keys that this table lacks; train this day again"
        )
    idle = header.step - seen[at].astype(np.int64)
    return RowStats(counts[at].astype(np.int64), idle, fields[at], header.fields)


class Plan(Settings):
    """What a fitted step will do, as plain values that can be written, read and compared."""


SettingsT = TypeVar("SettingsT", bound=StepSettings)
PlanT = TypeVar("PlanT", bound=Plan)


class Step(ABC, Generic[SettingsT, PlanT]):
    """One step. Equal settings and models give equal plans and results, bit for bit."""

    def __init__(self, settings: SettingsT) -> None:
        self.settings = settings

    @abstractmethod
    def fit(self, state: CompressionState) -> PlanT:
        """Return what to do with a model; raises InputError if the settings do not fit it."""

    @abstractmethod
    def apply(self, state: CompressionState, plan: PlanT) -> CompressionState:
        """Return the changed model; raises InputError if the plan is not one for this model."""
