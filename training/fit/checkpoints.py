"""A trained model as plain arrays, read from a checkpoint or from a compressed folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from elastic_embeddings.storage.checkpoint import HEADER, read_vectors
from features.errors import InputError
from features.schema import Relation, Schema
from training.data.arrays import Arrays
from training.data.layout import DEFAULT_GROUP, ModelSpec, slab_of
from training.data.scalers import Scaler
from training.models.encoding_inputs import Encodings, read_encodings
from training.packed.dense import read_dense, unpacked
from training.packed.rows import read_rows
from training.settings import ModelSettings, TrainingSettings

DESCRIPTION = "model.json"
DENSE = "dense.npz"
ENCODINGS = "encodings.npz"
TABLE = "table"
GROUPS = "groups"
"""Folder with a table per group of `model.groups`; `TABLE` is that of the fields in no group."""


@dataclass(frozen=True)
class Description:
    """The content of `model.json`: schema and settings of the training, scalers by dense field."""

    schema: Schema
    model: ModelSettings
    training: TrainingSettings
    scalers: Mapping[str, Scaler]
    relations: tuple[Relation, ...]
    step: int

    @cached_property
    def spec(self) -> ModelSpec:
        """What the model reads and how it is built."""
        return ModelSpec(self.schema, self.model, tuple(self.relations))


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
        keys: int64 [N] ascending, of the admitted rows of fields in no group.
        vectors: float32 [N, width] by slab (`wide`, `deep`), in the order of `keys`.
        encodings: frozen encodings by relation name; empty if it was trained without.
        groups: rows of the tables of `model.groups`, by name.
    """

    description: Description
    dense: Arrays
    keys: NDArray[np.int64]
    vectors: Mapping[str, NDArray[np.float32]]
    encodings: Encodings
    groups: Mapping[str, TrainedRows] = field(default_factory=dict)

    def tables(self) -> dict[str, TrainedRows]:
        """Return the rows of every table by its group's name."""
        known = {DEFAULT_GROUP: TrainedRows(self.keys, self.vectors), **self.groups}
        return {group.name: known[group.name] for group in self.description.spec.groups}

    def slabs(self) -> dict[str, NDArray[np.float32]]:
        """Return the rows of every slab, by its name in the model."""
        return {
            slab_of(name, slab): vectors
            for name, rows in self.tables().items()
            for slab, vectors in rows.vectors.items()
        }


def read_checkpoint(folder: Path) -> TrainedModel:
    """Read a `checkpoint` or a `compressed` folder.

    Raises:
        InputError: a file is missing, damaged, or does not fit the others.
    """
    description = read_description(folder)
    groups = {g.name: _read_rows(rows_folder(folder, g.name)) for g in description.spec.groups}
    # A model whose fields are all in groups has no such table.
    rest = groups.pop(DEFAULT_GROUP, TrainedRows(np.zeros(0, np.int64), {}))
    return TrainedModel(
        description=description,
        dense=unpacked(read_dense(folder / DENSE)),
        keys=rest.keys,
        vectors=rest.vectors,
        encodings=read_encodings(folder / ENCODINGS),
        groups=groups,
    )


def rows_folder(folder: Path, group: str) -> Path:
    """Return the folder of a group's table; `DEFAULT_GROUP` is the group of the other fields."""
    return folder / GROUPS / group if group else folder / TABLE


def read_description(folder: Path) -> Description:
    """Read a folder's `model.json`.

    Raises:
        InputError: it is missing or not of the expected form.
    """
    path = folder / DESCRIPTION
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return Description(
            schema=Schema.model_validate(document["schema"]),
            model=ModelSettings.model_validate(document["model"]),
            training=TrainingSettings.model_validate(document["training"]),
            scalers={name: Scaler(**figures) for name, figures in document["scalers"].items()},
            relations=tuple(Relation.model_validate(each) for each in document["relations"]),
            step=int(document["step"]),
        )
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise InputError(
            f"{path}: no readable description of a model ({error}); train this day again"
        ) from error


def write_description(folder: Path, description: Description) -> None:
    """Write a folder's `model.json`."""
    schema = description.schema.model_dump(mode="json")
    document = {
        # A set has no order: sorted, so that equal schemas give equal bytes.
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


def _read_rows(folder: Path) -> TrainedRows:
    # A checkpoint's table has a header; a compressed folder's rows are packed.
    if (folder / HEADER).exists():
        saved = read_vectors(folder)
        keys, vectors = saved.keys, dict(saved.vectors)
    else:
        packed = read_rows(folder)
        keys, vectors = packed.keys, packed.vectors()
    shapes = {name: rows.shape for name, rows in vectors.items()}
    wrong = {name: s for name, s in shapes.items() if len(s) != 2 or s[0] != len(keys)}
    if wrong:
        raise InputError(
            f"{folder}: {len(keys)} keys but rows of shape {wrong}; write the folder again"
        )
    # Lookups search the keys, so they must be ascending.
    order = np.argsort(keys)
    return TrainedRows(keys[order], {name: rows[order] for name, rows in vectors.items()})
