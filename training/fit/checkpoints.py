"""What a trained model is, read from a checkpoint or from a compressed folder, without a training table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from elastic_embeddings.storage.checkpoint import HEADER, read_vectors
from features.errors import InputError
from features.schema import Relation, Schema
from training.data.arrays import Arrays
from training.data.field_groups import DEFAULT, groups_of
from training.data.layout import Layout
from training.data.scalers import Scaler
from training.models.cross_files import read_encodings
from training.models.cross_input import Encodings
from training.packed.dense import read_dense, unpacked
from training.packed.rows import read_rows
from training.settings import ModelSettings, TrainingSettings

DESCRIPTION = "model.json"
DENSE = "dense.npz"
ENCODINGS = "encodings.npz"
TABLE = "table"
GROUPS = "groups"
"""Folder of the tables of `model.groups`, a folder each; `TABLE` is that of the fields in no group."""


@dataclass(frozen=True)
class Description:
    """What `model.json` says: the schema and settings a model was trained with, and its scalers by dense field."""

    schema: Schema
    model: ModelSettings
    training: TrainingSettings
    scalers: Mapping[str, Scaler]
    relations: tuple[Relation, ...]
    step: int


@dataclass(frozen=True)
class TrainedRows:
    """The rows of one table.

    Attributes:
        keys: int64 [N] ascending, of the admitted rows.
        vectors: float32 [N, width] by slab, in the order of `keys`.
    """

    keys: NDArray[np.int64]
    vectors: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class TrainedModel:
    """A trained model as plain arrays.

    Attributes:
        description: schema, settings, scalers, relations, step.
        dense: dense weights by name, float32.
        keys: int64 [N] ascending, of the admitted rows.
        vectors: float32 [N, width] by slab (`wide`, `deep`), in the order of `keys`.
        encodings: frozen encodings by relation name; empty when it was trained without.
        groups: rows of the tables of `model.groups`, by name; `keys` and `vectors` are those of the fields in no group.
    """

    description: Description
    dense: Arrays
    keys: NDArray[np.int64]
    vectors: Mapping[str, NDArray[np.float32]]
    encodings: Encodings
    groups: Mapping[str, TrainedRows] = field(default_factory=dict)

    def tables(self) -> dict[str, TrainedRows]:
        """Return the rows of every table by its group's name, as the model that is described has them."""
        layout = Layout.of(self.description.schema, self.description.relations)
        known = {DEFAULT: TrainedRows(self.keys, self.vectors), **self.groups}
        return {
            group.name: known[group.name] for group in groups_of(layout, self.description.model)
        }

    def slabs(self) -> dict[str, NDArray[np.float32]]:
        """Return the rows of every slab, by the name that it has in the model."""
        tables = self.tables().items()
        return {
            f"{name}/{slab}" if name else slab: v
            for name, rows in tables
            for slab, v in rows.vectors.items()
        }


def read_checkpoint(folder: Path) -> TrainedModel:
    """Read a `checkpoint` or a `compressed` folder.

    Raises:
        InputError: a file is missing, damaged, or does not fit the others.
    """
    description = read_description(folder)
    layout = Layout.of(description.schema, description.relations)
    groups = {
        g.name: _read_rows(rows_folder(folder, g.name))
        for g in groups_of(layout, description.model)
    }
    rest = groups.pop(DEFAULT, TrainedRows(np.zeros(0, np.int64), {}))
    return TrainedModel(
        description=description,
        dense=unpacked(read_dense(folder / DENSE)),
        keys=rest.keys,
        vectors=rest.vectors,
        encodings=read_encodings(folder / ENCODINGS),
        groups=groups,
    )


def rows_folder(folder: Path, group: str) -> Path:
    """Return where a checkpoint or compressed folder keeps the table of a group, or of the fields in none (`DEFAULT`)."""
    return folder / GROUPS / group if group else folder / TABLE


def read_description(folder: Path) -> Description:
    """Read a folder's `model.json`.

    Raises:
        InputError: it is missing or not of the expected form.
    """
    path = folder / DESCRIPTION
    try:
        return _parse(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise InputError(
            f"{path}: no readable description of a model ({error}); train this day again"
        ) from error


def write_description(folder: Path, description: Description) -> None:
    """Write a folder's `model.json`."""
    schema = description.schema.model_dump(mode="json")
    document = {
        "schema": schema | {"forbidden": sorted(schema["forbidden"])},
        "model": description.model.model_dump(mode="json"),
        "training": description.training.model_dump(mode="json"),
        "scalers": {name: asdict(scaler) for name, scaler in sorted(description.scalers.items())},
        "relations": [relation.model_dump(mode="json") for relation in description.relations],
        "step": description.step,
    }
    (folder / DESCRIPTION).write_text(
        json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8"
    )


def _parse(document: dict[str, Any]) -> Description:
    return Description(
        schema=Schema.model_validate(document["schema"]),
        model=ModelSettings.model_validate(document["model"]),
        training=TrainingSettings.model_validate(document["training"]),
        scalers={name: Scaler(**figures) for name, figures in document["scalers"].items()},
        relations=tuple(Relation.model_validate(r) for r in document["relations"]),
        step=int(document["step"]),
    )


def _read_rows(folder: Path) -> TrainedRows:
    if (folder / HEADER).exists():
        saved = read_vectors(folder)
        keys, vectors = saved.keys, dict(saved.vectors)
    else:
        packed = read_rows(folder)
        keys, vectors = packed.keys, packed.vectors()
    wrong = {
        name: rows.shape
        for name, rows in vectors.items()
        if rows.ndim != 2 or len(rows) != len(keys)
    }
    if wrong:
        raise InputError(
            f"{folder}: {len(keys)} keys but rows of shape {wrong}; write the folder again"
        )
    order = np.argsort(keys)
    return TrainedRows(keys[order], {name: rows[order] for name, rows in vectors.items()})
