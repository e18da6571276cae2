"""What is being learned, as serving needs it: from a learner's memory, without a checkpoint between."""

from __future__ import annotations

from dataclasses import replace

from compression.model import CompactModel
from compression.pruning import without_zero_rows
from training.fit.checkpoints import Description
from training.fit.grouped_table import tables_of
from training.fit.learner import Learner
from training.models.cross_input import Encodings
from training.packed.dense import pack_dense, unpacked
from training.packed.matrix import Form
from training.packed.rows import PackedRows
from training.packed.slab import PackedSlab


def live_model(learner: Learner, description: Description, encodings: Encodings) -> CompactModel:
    """Return the model as it is now, float32, without zero rows: what `compress` makes of a checkpoint saved now."""
    tables = {}
    for name, table in tables_of(learner.table).items():
        keys = table.keys()
        tables[name] = PackedRows(
            keys, {slab: PackedSlab.of(rows) for slab, rows in table.lookup_all(keys).items()}
        )
    return without_zero_rows(CompactModel(description, learner.model.weights(), tables, encodings))


def stored_as(model: CompactModel, form: Form) -> CompactModel:
    """Return a float32 model with rows and kernels in a form, each slab in one band."""
    if form is Form.FLOAT32:
        return model
    tables = {
        name: PackedRows(
            rows.keys,
            {slab: PackedSlab.of(vectors, form) for slab, vectors in rows.vectors().items()},
        )
        for name, rows in model.tables.items()
    }
    return replace(model, tables=tables, dense=pack_dense(unpacked(model.dense), form))
