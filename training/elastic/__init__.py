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
    from training.elastic.admission.arrivals import GammaPrior as GammaPrior
    from training.elastic.admission.arrivals import PlugIn as PlugIn
    from training.elastic.admission.policies import Admission as Admission
    from training.elastic.admission.policies import AlwaysAdmit as AlwaysAdmit
    from training.elastic.admission.policies import ByField as ByField
    from training.elastic.admission.policies import CountAdmission as CountAdmission
    from training.elastic.admission.policies import PoissonAdmission as PoissonAdmission
    from training.elastic.admission.policies import SketchAdmission as SketchAdmission
    from training.elastic.admission.sketch import SketchSpec as SketchSpec
    from training.elastic.batch import Batch as Batch
    from training.elastic.census.statistics import TableStatistics as TableStatistics
    from training.elastic.eviction import Eviction as Eviction
    from training.elastic.eviction import Idle as Idle
    from training.elastic.eviction import LeastFrequent as LeastFrequent
    from training.elastic.eviction import SmallNorm as SmallNorm
    from training.elastic.eviction import ZeroRows as ZeroRows
    from training.elastic.layers.ahead import prepared_ahead as prepared_ahead
    from training.elastic.layers.frozen import frozen as frozen
    from training.elastic.layers.layer import ElasticEmbedding as ElasticEmbedding
    from training.elastic.optimizers.learning_rates import CosineDecay as CosineDecay
    from training.elastic.optimizers.learning_rates import ExponentialDecay as ExponentialDecay
    from training.elastic.optimizers.learning_rates import Warmup as Warmup
    from training.elastic.optimizers.optimizer import Optimizer as Optimizer
    from training.elastic.optimizers.proximal import DynamicL1 as DynamicL1
    from training.elastic.optimizers.rules import GroupAdagrad as GroupAdagrad
    from training.elastic.optimizers.rules import GroupAdam as GroupAdam
    from training.elastic.optimizers.rules import GroupAMSGrad as GroupAMSGrad
    from training.elastic.optimizers.rules import GroupFTRL as GroupFTRL
    from training.elastic.optimizers.rules import RowwiseGroupAdagrad as RowwiseGroupAdagrad
    from training.elastic.slabs.slab import Slab as Slab
    from training.elastic.slabs.slab import SlabSpec as SlabSpec
    from training.elastic.storage.checkpoint import SavedVectors as SavedVectors
    from training.elastic.storage.checkpoint import read_vectors as read_vectors
    from training.elastic.storage.delta import fold as fold
    from training.elastic.storage.shards import reshard as reshard
    from training.elastic.table import ElasticTable as ElasticTable

_HOMES = {
    "admission.policies": ("Admission", "AlwaysAdmit", "ByField", "CountAdmission", "PoissonAdmission", "SketchAdmission"),
    "layers.ahead": ("prepared_ahead",),
    "admission.arrivals": ("GammaPrior", "PlugIn"),
    "batch": ("Batch",),
    "storage.checkpoint": ("SavedVectors", "read_vectors"),
    "storage.delta": ("fold",),
    "eviction": ("Eviction", "Idle", "LeastFrequent", "SmallNorm", "ZeroRows"),
    "layers.frozen": ("frozen",),
    "layers.layer": ("ElasticEmbedding",),
    "optimizers.learning_rates": ("CosineDecay", "ExponentialDecay", "Warmup"),
    "optimizers.optimizer": ("Optimizer",),
    "optimizers.rules": ("GroupAMSGrad", "GroupAdagrad", "GroupAdam", "GroupFTRL", "RowwiseGroupAdagrad"),
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
