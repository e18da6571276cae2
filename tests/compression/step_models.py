"""Models for the compression steps: rows made by hand, and trained checkpoints of every kind."""

import numpy as np
from awkward_day import MODEL, RELATIONS, SCHEMA

from compression.model import CompactModel
from compression.steps.step import CompressionState, RowStats, read_state
from training.data.inputs import Featurizer
from training.data.scalers import Scaler
from training.fit.checkpoints import Description, read_checkpoint, write_description
from training.fit.model_and_baseline import LearnerConfig, ModelAndBaseline
from training.models.encoding_inputs import write_encodings
from training.packed.rows import PackedRows, PackedSlab
from training.settings import GroupSettings, RelationNetworkSettings, TrainingSettings

SCALERS = {"price": Scaler(2.5, 4.0), "age": Scaler(-0.5, 0.3)}
GROUPS = (
    GroupSettings(name="pooled", fields=("user_id", "tags"), dim=2, pooling="sum"),
    GroupSettings(name="last", fields=("user_x_hour",), dim=5),
)
KINDS = {
    "related": MODEL.model_copy(
        update={"relations": RelationNetworkSettings(heads=2), "norm": "batch"}
    ),
    "dcnv2": MODEL.model_copy(update={"kind": "dcnv2", "cross_layers": 2}),
    "deepfm": MODEL.model_copy(update={"kind": "deepfm", "norm": "layer"}),
    "fusion": MODEL.model_copy(update={"kind": "fusion", "members": ("wide_deep", "dcnv2", "fm")}),
    "grouped": MODEL.model_copy(update={"groups": GROUPS}),
}


def learn_checkpoint(examples, model, folder):
    """A checkpoint of a model that learned the examples fifteen times, without encodings."""
    training = TrainingSettings()
    rates = {
        part: getattr(model, part).model_copy(update={"learning_rate": 0.05})
        for part in ("deep", "wide", "dense")
    }
    learners = ModelAndBaseline.new(
        LearnerConfig(SCHEMA, model.model_copy(update=rates), training, RELATIONS)
    )
    inputs = Featurizer(SCHEMA, RELATIONS, SCALERS, {}).inputs(examples)
    for _ in range(15):
        learners.train_step(learners.prepare(inputs))
    learners.save(folder)
    write_encodings(folder / "encodings.npz", {})
    write_description(folder, Description(SCHEMA, model, training, SCALERS, RELATIONS, 15))
    return folder


def state_of(checkpoint):
    """A checkpoint as the first step finds it."""
    return read_state(CompactModel.of(read_checkpoint(checkpoint)), checkpoint)


def made_state(rows=60, width=6, seed=1, names=("a", "b"), counts=None):
    """A table of drawn rows with two slabs, every tenth of them zero, and drawn statistics."""
    draw = np.random.default_rng(seed)
    keys = np.sort(draw.choice(10_000, rows, replace=False) - 5_000).astype(np.int64)
    deep = (draw.normal(size=(rows, width)) * draw.gamma(1.0, size=(rows, 1))).astype(np.float32)
    wide = draw.normal(size=(rows, 1)).astype(np.float32)
    deep[::10], wide[::10] = 0, 0
    seen = draw.zipf(1.6, rows).clip(max=500) if counts is None else counts
    stats = RowStats(
        np.asarray(seen, np.int64),
        draw.integers(0, 9, rows),
        draw.integers(0, len(names), rows).astype(np.int16),
        names,
    )
    description = Description(SCHEMA, MODEL, TrainingSettings(), SCALERS, RELATIONS, 1)
    table = PackedRows(keys, {"deep": PackedSlab.of(deep), "wide": PackedSlab.of(wide)})
    return CompressionState(CompactModel(description, {}, {"": table}, {}), {"": stats})


def by_key(state, slab, table=""):
    """A table's rows by key."""
    rows = state.model.tables[table]
    return dict(zip(rows.keys.tolist(), rows.slabs[slab].rows(), strict=True))
