"""Rows that training reads and never changes: zero where unknown; steps are counted."""

import numpy as np
from training_data import MODEL, SCHEMA, TRAINING

from training.data.layout import FieldLayout, groups_of
from training.fit.checkpoints import Description, TrainedModel, TrainedRows
from training.fit.frozen_rows import FrozenRows
from training.fit.grouped_table import Routing
from training.settings import GroupSettings


def frozen():
    """Keys 10 and 20 in the table of all fields but user_id, whose own table has key 10."""
    settings = MODEL.model_copy(
        update={"groups": (GroupSettings(name="users", fields=("user_id",), dim=2),)}
    )
    description = Description(SCHEMA, settings, TRAINING, {}, (), 0)
    rest = {
        "wide": np.array([[1], [2]], np.float32),
        "deep": np.arange(8, dtype=np.float32).reshape(2, 4),
    }
    users = TrainedRows(
        np.array([10]),
        {"wide": np.array([[5]], np.float32), "deep": np.array([[6, 7]], np.float32)},
    )
    layout = FieldLayout.of(SCHEMA)
    trained = TrainedModel(description, {}, np.array([10, 20]), rest, {}, {"users": users})
    return FrozenRows(trained, Routing.of(layout, groups_of(layout, settings))), layout.keyed


def test_rows_are_those_of_their_group_and_stay():
    rows, keyed = frozen()
    user, item = keyed.index("user_id"), keyed.index("item_id")
    keys, fields = np.array([10, 20, 10, 99]), np.array([user, item, item, item], np.int16)
    batch = rows.begin(rows.prepare(keys, fields, ahead=True))
    found = {name: vectors.tolist() for name, vectors in rows.gather_all(batch).items()}
    assert found["deep"] == [[4, 5, 6, 7], [0, 1, 2, 3], [0, 0, 0, 0]]
    assert found["wide"] == [[2], [1], [0]]
    assert (found["users/deep"], found["users/wide"]) == ([[6, 7]], [[5]])
    for step in (1, 2):
        rows.apply(batch, {name: np.ones_like(vectors) for name, vectors in batch.items()})
        assert rows.step == step
    assert {
        name: vectors.tolist() for name, vectors in rows.lookup_all(keys, fields).items()
    } == found
