"""Embeddings that grow with the ids, on stock TensorFlow: a host index, slabs of rows, group-lasso optimizers.

    table = ElasticTable(SlabSpec(16, GroupAdam(1e-3, l21=1e-4)), CountAdmission(2), seed=17)
    batch = table.prepare(keys)             # counts, admits, gives rows
    vectors = table.lookup(keys)            # float32 [n, 16]; zeros where a key has no row
    table.apply_gradients(batch, gradients)

`ElasticEmbedding` is the same as a Keras layer. Loading this package is light; TensorFlow, Keras and numba are imported with
the first name that needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from elastic_embeddings.admission.arrivals import GammaPrior as GammaPrior
    from elastic_embeddings.admission.arrivals import PlugIn as PlugIn
    from elastic_embeddings.admission.policies import Admission as Admission
    from elastic_embeddings.admission.policies import AlwaysAdmit as AlwaysAdmit
    from elastic_embeddings.admission.policies import ByField as ByField
    from elastic_embeddings.admission.policies import CountAdmission as CountAdmission
    from elastic_embeddings.admission.policies import PoissonAdmission as PoissonAdmission
    from elastic_embeddings.admission.policies import SketchAdmission as SketchAdmission
    from elastic_embeddings.admission.sketch import SketchSpec as SketchSpec
    from elastic_embeddings.batch import Batch as Batch
    from elastic_embeddings.census.statistics import TableStatistics as TableStatistics
    from elastic_embeddings.eviction import Eviction as Eviction
    from elastic_embeddings.eviction import Idle as Idle
    from elastic_embeddings.eviction import LeastFrequent as LeastFrequent
    from elastic_embeddings.eviction import SmallNorm as SmallNorm
    from elastic_embeddings.eviction import ZeroRows as ZeroRows
    from elastic_embeddings.layers.ahead import prefetch_keys as prefetch_keys
    from elastic_embeddings.layers.frozen import frozen as frozen
    from elastic_embeddings.layers.layer import ElasticEmbedding as ElasticEmbedding
    from elastic_embeddings.optimizers.learning_rates import CosineDecay as CosineDecay
    from elastic_embeddings.optimizers.learning_rates import ExponentialDecay as ExponentialDecay
    from elastic_embeddings.optimizers.learning_rates import Warmup as Warmup
    from elastic_embeddings.optimizers.optimizer import Optimizer as Optimizer
    from elastic_embeddings.optimizers.proximal import DynamicL1 as DynamicL1
    from elastic_embeddings.optimizers.rules import GroupAdagrad as GroupAdagrad
    from elastic_embeddings.optimizers.rules import GroupAdam as GroupAdam
    from elastic_embeddings.optimizers.rules import GroupAMSGrad as GroupAMSGrad
    from elastic_embeddings.optimizers.rules import GroupFTRL as GroupFTRL
    from elastic_embeddings.optimizers.rules import RowwiseGroupAdagrad as RowwiseGroupAdagrad
    from elastic_embeddings.slabs.slab import Slab as Slab
    from elastic_embeddings.slabs.slab import SlabSpec as SlabSpec
    from elastic_embeddings.storage.checkpoint import SavedVectors as SavedVectors
    from elastic_embeddings.storage.checkpoint import read_vectors as read_vectors
    from elastic_embeddings.storage.delta import fold as fold
    from elastic_embeddings.storage.shards import reshard as reshard
    from elastic_embeddings.table import ElasticTable as ElasticTable

_HOMES = {
    "admission.policies": (
        "Admission",
        "AlwaysAdmit",
        "ByField",
        "CountAdmission",
        "PoissonAdmission",
        "SketchAdmission",
    ),
    "layers.ahead": ("prefetch_keys",),
    "admission.arrivals": ("GammaPrior", "PlugIn"),
    "batch": ("Batch",),
    "storage.checkpoint": ("SavedVectors", "read_vectors"),
    "storage.delta": ("fold",),
    "eviction": ("Eviction", "Idle", "LeastFrequent", "SmallNorm", "ZeroRows"),
    "layers.frozen": ("frozen",),
    "layers.layer": ("ElasticEmbedding",),
    "optimizers.learning_rates": ("CosineDecay", "ExponentialDecay", "Warmup"),
    "optimizers.optimizer": ("Optimizer",),
    "optimizers.rules": (
        "GroupAMSGrad",
        "GroupAdagrad",
        "GroupAdam",
        "GroupFTRL",
        "RowwiseGroupAdagrad",
    ),
    "optimizers.proximal": ("DynamicL1",),
    "storage.shards": ("reshard",),
    "admission.sketch": ("SketchSpec",),
    "slabs.slab": ("Slab", "SlabSpec"),
    "census.statistics": ("TableStatistics",),
    "table": ("ElasticTable",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
