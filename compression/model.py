"""A model in stored form: input and output of the compression steps, and source of the export."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.storage.checkpoint import HEADER
from training.data.layout import DEFAULT_GROUP, slab_of
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
from training.models.encoding_inputs import Encodings, read_encodings, write_encodings
from training.packed.dense import DenseWeights, dense_nbytes, read_dense, unpacked, write_dense
from training.packed.rows import PackedRows, PackedSlab, read_rows, write_rows


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
        """Store a trained model, every value in float32."""
        tables = {}
        for name, rows in trained.tables().items():
            slabs = {slab: PackedSlab.of(vectors) for slab, vectors in rows.vectors.items()}
            tables[name] = PackedRows(rows.keys, slabs)
        return cls(trained.description, trained.dense, tables, trained.encodings)

    def trained(self) -> TrainedModel:
        """Return the model in float32, with the values that it predicts by."""
        tables = {}
        for name, rows in self.tables.items():
            # The rows of a compressed table are in any order; a trained one has ascending keys.
            order = np.argsort(rows.keys)
            vectors = {slab: values[order] for slab, values in rows.vectors().items()}
            tables[name] = TrainedRows(rows.keys[order], vectors)
        rest = tables.pop(DEFAULT_GROUP, TrainedRows(np.zeros(0, np.int64), {}))
        return TrainedModel(
            self.description, unpacked(self.dense), rest.keys, rest.vectors, self.encodings, tables
        )

    def take(self, kept: Mapping[str, NDArray[np.bool_]]) -> Self:
        """Return the model with the rows where `kept`, bool [N] by group, is true."""
        tables = {name: rows.take(kept[name]) for name, rows in self.tables.items()}
        return replace(self, tables=tables)

    def slabs(self) -> dict[str, PackedSlab]:
        """Return every slab by its name in the model."""
        return {
            slab_of(name, own): slab
            for name, rows in self.tables.items()
            for own, slab in rows.slabs.items()
        }

    @property
    def rows(self) -> int:
        """Number of keys of all tables."""
        return sum(len(rows.keys) for rows in self.tables.values())

    @property
    def nbytes(self) -> int:
        """Bytes of keys, rows, dense weights and encodings in stored form."""
        encoded = sum(encoding.nbytes for encoding in self.encodings.values())
        return self.rows_nbytes + dense_nbytes(self.dense) + encoded

    @property
    def rows_nbytes(self) -> int:
        """Part of `nbytes` for keys and rows."""
        return sum(rows.nbytes for rows in self.tables.values())


def read_compact(folder: Path) -> CompactModel:
    """Read a `compressed` folder in its stored form; a `checkpoint` becomes float32 rows.

    Raises:
        InputError: a file is missing, damaged, or does not fit the others.
    """
    description = read_description(folder)
    groups = [group.name for group in description.spec.groups]
    # A checkpoint has a header in each table, a compressed model has none.
    if any((rows_folder(folder, name) / HEADER).exists() for name in groups):
        return CompactModel.of(read_checkpoint(folder))
    return CompactModel(
        description=description,
        dense=read_dense(folder / DENSE),
        tables={name: read_rows(rows_folder(folder, name)) for name in groups},
        encodings=read_encodings(folder / ENCODINGS),
    )


def write_compact(model: CompactModel, described: Path, out: Path) -> None:
    """Write a model into an existing folder; `described` is its `model.json`, which is copied."""
    # Copied byte for byte, so that the same model has the same file.
    shutil.copyfile(described, out / DESCRIPTION)
    write_dense(out / DENSE, model.dense)
    write_encodings(out / ENCODINGS, model.encodings)
    for group, rows in model.tables.items():
        write_rows(rows_folder(out, group), rows)


def positions_of(keys: NDArray[np.int64], among: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the position of each key in `among`, int64 [n]; -1 if it is not there."""
    if not len(among):
        return np.full(len(keys), -1)
    # A key above all others would be at the end, which is no position.
    order = np.argsort(among)
    at = order[np.minimum(np.searchsorted(among, keys, sorter=order), len(among) - 1)]
    return np.where(among[at] == keys, at, -1)
