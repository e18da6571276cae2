"""A model as serving needs it, in stored form: what compression steps change and the export is made of."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.storage.checkpoint import HEADER
from training.data.field_groups import DEFAULT, groups_of, slab_of
from training.data.layout import Layout
from training.fit.checkpoints import (
    DENSE,
    DESCRIPTION,
    ENCODINGS,
    Description,
    TrainedModel,
    TrainedRows,
    read_checkpoint,
    read_description,
    rows_folder,
)
from training.models.cross_files import read_encodings, write_encodings
from training.models.cross_input import Encodings
from training.packed.dense import DenseWeights, dense_nbytes, read_dense, unpacked, write_dense
from training.packed.rows import PackedRows, read_rows, write_rows
from training.packed.slab import PackedSlab


@dataclass(frozen=True)
class CompactModel:
    """A trained model without optimizer state.

    Attributes:
        description: schema, settings, scalers, relations, step.
        dense: dense weights by name.
        tables: keys and rows by the name of their group.
        encodings: frozen encodings by relation name.
    """

    description: Description
    dense: DenseWeights
    tables: Mapping[str, PackedRows]
    encodings: Encodings

    @classmethod
    def of(cls, trained: TrainedModel) -> Self:
        """Return a trained model as it is, every value float32."""
        slabs = {
            name: {n: PackedSlab.of(v) for n, v in rows.vectors.items()}
            for name, rows in trained.tables().items()
        }
        tables = {
            name: PackedRows(rows.keys, slabs[name]) for name, rows in trained.tables().items()
        }
        return cls(trained.description, trained.dense, tables, trained.encodings)

    def trained(self) -> TrainedModel:
        """Return what the stored values stand for, in float32: what this model predicts by."""
        tables = {name: _ascending(rows) for name, rows in self.tables.items()}
        rest = tables.pop(DEFAULT, TrainedRows(np.zeros(0, np.int64), {}))
        return TrainedModel(
            self.description, unpacked(self.dense), rest.keys, rest.vectors, self.encodings, tables
        )

    def take(self, kept: Mapping[str, NDArray[np.bool_]]) -> Self:
        """Return the model with the rows where `kept`, bool [N] by group, is true."""
        return replace(
            self, tables={name: rows.take(kept[name]) for name, rows in self.tables.items()}
        )

    def slabs(self) -> dict[str, PackedSlab]:
        """Return every slab by the name that it has in the model."""
        return {
            slab_of(name, own): slab
            for name, rows in self.tables.items()
            for own, slab in rows.slabs.items()
        }

    @property
    def rows(self) -> int:
        """Keys of all tables."""
        return sum(len(rows.keys) for rows in self.tables.values())

    @property
    def nbytes(self) -> int:
        """Bytes of keys, rows, dense weights and encodings, as they are stored."""
        encoded = sum(encoding.nbytes for encoding in self.encodings.values())
        return self.rows_nbytes + dense_nbytes(self.dense) + encoded

    @property
    def rows_nbytes(self) -> int:
        """Of these, bytes of keys and rows."""
        return sum(rows.nbytes for rows in self.tables.values())


def read_compact(folder: Path) -> CompactModel:
    """Read a `compressed` folder in its stored form; a `checkpoint` becomes float32 rows.

    Raises:
        InputError: a file is missing, damaged, or does not fit the others.
    """
    told = read_description(folder)
    groups = [group.name for group in groups_of(Layout.of(told.schema, told.relations), told.model)]
    if any((rows_folder(folder, name) / HEADER).exists() for name in groups):
        return CompactModel.of(read_checkpoint(folder))
    return CompactModel(
        description=told,
        dense=read_dense(folder / DENSE),
        tables={name: read_rows(rows_folder(folder, name)) for name in groups},
        encodings=read_encodings(folder / ENCODINGS),
    )


def write_compact(model: CompactModel, described: Path, out: Path) -> None:
    """Write a model into an existing folder.

    Args:
        model: what to write.
        described: the `model.json` that describes it, copied as it is.
        out: receives `model.json`, `dense.npz`, `encodings.npz`, `table/` and `groups/`.
    """
    shutil.copyfile(described, out / DESCRIPTION)
    write_dense(out / DENSE, model.dense)
    write_encodings(out / ENCODINGS, model.encodings)
    for group, rows in model.tables.items():
        write_rows(rows_folder(out, group), rows)


def _ascending(rows: PackedRows) -> TrainedRows:
    order = np.argsort(rows.keys)
    return TrainedRows(
        rows.keys[order], {name: vectors[order] for name, vectors in rows.vectors().items()}
    )
