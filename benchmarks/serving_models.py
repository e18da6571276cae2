"""Models of drawn weights, in the shapes that serving costs depend on: a whole one, and what
compression leaves of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from compression.model import CompactModel
from features import keys as feature_keys
from features.schema import Schema
from training.fit.checkpoints import Description
from training.models.ctr import build_model
from training.packed.dense import pack_dense
from training.packed.matrix import Form
from training.packed.rows import PackedRows, PackedSlab
from training.settings import ModelSettings, TrainingSettings
from validation.model.requests import RawRequests

FIELDS = 26
ZIPF = 1.1


@dataclass(frozen=True)
class Shape:
    """What a served model is made of.

    Attributes:
        words: for the table.
        fields: id fields, the first ones of `FIELDS`.
        kept: share of the rows of each field that is there, the most frequent ones.
        dim: width of deep rows.
        hidden: layers.
        deep: form of deep rows.
        wide: form of wide rows.
        dense: form of kernels.
    """

    words: str
    fields: int = FIELDS
    kept: float = 1.0
    dim: int = 16
    hidden: tuple[int, ...] = (128, 64)
    deep: Form = Form.FLOAT32
    wide: Form = Form.FLOAT32
    dense: Form = Form.FLOAT32


WHOLE = "whole"
COMPACT = "compact"
SHAPES = {
    WHOLE: Shape("every row, float32"),
    "zero_rows_gone": Shape("half of the rows were zero", kept=0.5),
    "int8": Shape("every row, deep int8, wide float16", deep=Form.INT8, wide=Form.FLOAT16),
    COMPACT: Shape(
        "half of the fields, 20 % of their rows, width 8 in int8, half of the units",
        fields=13,
        kept=0.2,
        dim=8,
        hidden=(64, 32),
        deep=Form.INT8,
        wide=Form.FLOAT16,
        dense=Form.FLOAT16,
    ),
}


def schema_of(fields: int) -> Schema:
    """Return a schema of so many id fields."""
    return Schema.model_validate(
        {
            "label": "click",
            "user": "f0",
            "item": "f1",
            "timestamp": {"column": "time", "unit": "ms"},
            "fields": [{"kind": "categorical", "name": f"f{number}"} for number in range(fields)],
        }
    )


def model_of(shape: Shape, rows: int, seed: int = 17) -> CompactModel:
    """Return a model of a shape whose whole has so many rows, evenly among the fields."""
    schema, settings = schema_of(shape.fields), ModelSettings(dim=shape.dim, hidden=shape.hidden)
    draw = np.random.default_rng(seed)
    keys = np.concatenate(
        [_keys(f"f{n}", int(rows // FIELDS * shape.kept)) for n in range(shape.fields)]
    )
    slabs = {
        "deep": _drawn(draw, len(keys), shape.dim, shape.deep),
        "wide": _drawn(draw, len(keys), 1, shape.wide),
    }
    dense = pack_dense(build_model(schema, settings).weights(), shape.dense)
    return CompactModel(
        Description(schema, settings, TrainingSettings(), {}, (), 1),
        dense,
        {"": PackedRows(keys, slabs)},
        {},
    )


def requests_of(fields: int, rows: int, count: int, seed: int = 5) -> RawRequests:
    """Return requests whose ids are drawn by a bounded Zipf law from the whole model's, the first
    ids the most frequent.
    """
    draw = np.random.default_rng(seed)
    ids = {
        f"f{number}": _zipf(draw, rows // FIELDS, count).astype(str).tolist()
        for number in range(fields)
    }
    return RawRequests.of(schema_of(fields), ids)


def stored_bytes_per_row(shape: Shape) -> float:
    """Return what the issue allows a row: 1.3 · (values + 8 bytes of key + scales)."""
    sizes: dict[Form, Callable[[int], float]] = {
        Form.FLOAT32: lambda d: 4 * d,
        Form.FLOAT16: lambda d: 2 * d,
        Form.INT8: lambda d: d + 4,
        Form.INT4: lambda d: d / 2 + 4,
    }
    return 1.3 * (sizes[shape.deep](shape.dim) + sizes[shape.wide](1) + 8)


def _keys(field: str, count: int) -> NDArray[np.int64]:
    keys: NDArray[np.int64] = feature_keys.keys(
        field, tf.strings.as_string(tf.range(count))
    ).numpy()
    return keys


def _drawn(draw: np.random.Generator, rows: int, width: int, form: Form) -> PackedSlab:
    return PackedSlab.of(draw.normal(0, 0.1, (rows, width)).astype(np.float32), form)


def _zipf(draw: np.random.Generator, ids: int, count: int) -> NDArray[np.int64]:
    """Ids 0 … ids - 1 with probability ∝ (id + 1)^-a, by the inverse of the continuous law."""
    power = 1 - ZIPF
    return np.minimum(
        ((1 + draw.random(count) * (ids**power - 1)) ** (1 / power)).astype(np.int64) - 1, ids - 1
    ).clip(0)
