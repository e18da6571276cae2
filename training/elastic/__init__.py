"""Embeddings that grow with the ids, on stock TensorFlow: a host index, slabs of rows, a group-lasso optimizer.

    table = ElasticTable({"deep": SlabSpec(16, GroupAdam(1e-3), 0.01)}, CountAdmission(2), seed=17)
    batch = table.prepare(keys)             # host only: may run ahead of the step
    table.materialise(batch)                # grows the slabs, writes the new rows' initial vectors
    vectors = table.lookup(keys)            # float32 [n, 16]; zeros where a key has no row
    table.apply_gradients(batch, gradients)

Loading this package is light; TensorFlow and numba are imported with the first name that needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.elastic.admission import Admission as Admission
    from training.elastic.admission import AlwaysAdmit as AlwaysAdmit
    from training.elastic.admission import CountAdmission as CountAdmission
    from training.elastic.batch import Batch as Batch
    from training.elastic.batch import Statistics as Statistics
    from training.elastic.checkpoint import SavedVectors as SavedVectors
    from training.elastic.checkpoint import read_vectors as read_vectors
    from training.elastic.key_index import Assigned as Assigned
    from training.elastic.key_index import KeyIndex as KeyIndex
    from training.elastic.optimizers import GroupAdam as GroupAdam
    from training.elastic.slab import Slab as Slab
    from training.elastic.slab import SlabSpec as SlabSpec
    from training.elastic.table import ElasticTable as ElasticTable

_HOMES = {
    "Admission": "admission",
    "AlwaysAdmit": "admission",
    "CountAdmission": "admission",
    "Batch": "batch",
    "Statistics": "batch",
    "SavedVectors": "checkpoint",
    "read_vectors": "checkpoint",
    "Assigned": "key_index",
    "KeyIndex": "key_index",
    "GroupAdam": "optimizers",
    "Slab": "slab",
    "SlabSpec": "slab",
    "ElasticTable": "table",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
