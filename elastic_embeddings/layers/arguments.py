"""What an `ElasticEmbedding` is made of, checked, as data: slabs, input plan, configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from elastic_embeddings.admission.policies import Admission, ByField
from elastic_embeddings.errors import InputError
from elastic_embeddings.eviction import Eviction
from elastic_embeddings.layers.combiners import checked_combiner
from elastic_embeddings.layers.inputs import InputPlan
from elastic_embeddings.optimizers.optimizer import Optimizer
from elastic_embeddings.optimizers.rules import GroupAdam
from elastic_embeddings.slabs.slab import Device, SlabSpec, Storage
from elastic_embeddings.storage.plain import as_plain

ONLY_SLAB = "vectors"
"""The slab's name where a layer has one width."""

INIT_SCALE = 0.05
"""That of `keras.layers.Embedding`."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class LayerArguments:
    """The arguments of `ElasticEmbedding`, which says what they mean."""

    dim: int | Mapping[str, int]
    optimizer: Optimizer | Mapping[str, Optimizer] | None = None
    admission: Admission | ByField | None = None
    eviction: Eviction | None = None
    combiner: str | None = None
    padding: int | None = None
    share: Mapping[str, str] | None = None
    init_scale: float | Mapping[str, float] = INIT_SCALE
    seed: int = 0
    device: Device | None = None
    fallback: float = 0.0

    def slabs(self, dtype: Storage) -> dict[str, SlabSpec]:
        """Return the table's slabs, their rows stored as `dtype`.

        Raises:
            InputError: a width or scale out of range, or names that are not those of `dim`.
        """
        widths = self.widths()
        optimizers = _each(self.optimizer or GroupAdam(), widths, "optimizer")
        scales = _each(self.init_scale, widths, "init_scale")
        return {
            name: SlabSpec(width, optimizers[name], scales[name], dtype, self.fallback)
            for name, width in widths.items()
        }

    def widths(self) -> dict[str, int]:
        """Return the widths by slab."""
        return dict(self.dim) if isinstance(self.dim, Mapping) else {ONLY_SLAB: self.dim}

    def plan(self) -> InputPlan:
        """Return how inputs are read.

        Raises:
            InputError: the combiner is not one.
        """
        return InputPlan(checked_combiner(self.combiner), self.padding, dict(self.share or {}))

    def plain(self) -> dict[str, Any]:
        """Return the arguments as JSON values, which `elastic_embeddings.storage.plain.from_plain` reads."""
        return {field.name: as_plain(getattr(self, field.name)) for field in fields(self)}


def _each(
    value: Value | Mapping[str, Value], widths: Mapping[str, int], argument: str
) -> dict[str, Value]:
    """One value for each slab."""
    if not isinstance(value, Mapping):
        return dict.fromkeys(widths, value)
    if set(value) != set(widths):
        raise InputError(
            f"{argument} is given for {sorted(value)}: give one, or one for each of {sorted(widths)}"
        )
    return dict(value)
