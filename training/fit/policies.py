"""From the configuration to policies: admission, eviction, optimizers, stale checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from elastic_embeddings.admission.policies import (
    Admission,
    AlwaysAdmit,
    ByField,
    CountAdmission,
    PoissonAdmission,
    SketchAdmission,
)
from elastic_embeddings.admission.sketch import SketchSpec
from elastic_embeddings.eviction import (
    Eviction,
    EvictionPolicy,
    Idle,
    LeastFrequent,
    SmallNorm,
    ZeroRows,
)
from elastic_embeddings.optimizers.learning_rates import Warmup
from elastic_embeddings.optimizers.optimizer import Optimizer
from elastic_embeddings.optimizers.proximal import DynamicL1
from elastic_embeddings.optimizers.rules import (
    GroupAdagrad,
    GroupAdam,
    GroupAMSGrad,
    GroupFTRL,
    RowwiseGroupAdagrad,
)
from features.errors import InputError
from training.settings import (
    AdmissionSettings,
    EvictionSettings,
    OptimizerSettings,
    StalenessSettings,
)

_log = logging.getLogger(__name__)


def admission(
    settings: AdmissionSettings, fields: Sequence[str], of: Sequence[str] | None = None
) -> Admission | ByField:
    """Return the admission policy of a table.

    Args:
        settings: as configured.
        fields: the schema's id fields.
        of: the table's fields; None: all.

    Raises:
        InputError: `min_counts` names a field that is not in the schema.
    """
    unknown = sorted(set(settings.min_counts) - set(fields))
    if unknown:
        raise InputError(
            f"training.admission.min_counts names {unknown}: "
            f"the schema's id fields are {sorted(fields)}"
        )

    def policy(min_count: int) -> Admission:
        # One occurrence is always reached: nothing has to be counted.
        if min_count == 1:
            return AlwaysAdmit()
        if settings.kind == "count":
            return CountAdmission(min_count)
        size: dict[str, Any] = {
            "capacity": settings.capacity,
            "false_positive_rate": settings.false_positive_rate,
        }
        if settings.kind == "sketch":
            return SketchAdmission(min_count, **size)
        # The sketch must be able to count up to the threshold.
        sketch = SketchSpec(**size, max_count=max(min_count, 255))
        return PoissonAdmission(min_count, settings.horizon, sketch=sketch)

    counts = settings.min_counts.items()
    own = {name: policy(count) for name, count in counts if of is None or name in of}
    otherwise = policy(settings.min_count)
    return ByField(own, otherwise) if own else otherwise


def eviction(settings: EvictionSettings) -> Eviction | None:
    """Return what is evicted at the end of a day; None if nothing is configured."""
    policies: list[EvictionPolicy] = []
    if settings.zero_rows:
        policies.append(ZeroRows())
    if settings.idle_days:
        policies.append(Idle(days=settings.idle_days))
    if settings.min_norm:
        policies.append(SmallNorm(settings.min_norm))
    if settings.max_rows:
        policies.append(LeastFrequent(settings.max_rows))
    return Eviction(tuple(policies), keep_rows=settings.keep_rows) if policies else None


def optimizer(settings: OptimizerSettings) -> Optimizer:
    """Return the configured row optimizer."""
    rare = None
    if settings.rare_multiple:
        rare = DynamicL1(settings.rare_multiple, settings.rare_count)
    names = ("learning_rate", "l1", "l2", "l21", "decay", "decay_steps", "exact")
    common: dict[str, Any] = {name: getattr(settings, name) for name in names}
    common["dynamic_l1"] = rare
    moments = {name: getattr(settings, name) for name in ("beta_1", "beta_2", "epsilon")}
    match settings.kind:
        case "adam":
            return GroupAdam(**common, **moments)
        case "amsgrad":
            return GroupAMSGrad(**common, **moments)
        case "adagrad":
            return GroupAdagrad(**common)
        case "ftrl":
            return GroupFTRL(**common)
        case "rowwise_adagrad":
            return RowwiseGroupAdagrad(**common)


def dense_optimizer(settings: OptimizerSettings) -> Optimizer:
    """Return the optimizer of the dense weights.

    Their rows are not groups and their entries must not become zero, so sparsity penalties are off.
    """
    plain = {"l1": 0.0, "l21": 0.0, "rare_multiple": 0.0, "decay_steps": 1}
    return optimizer(settings.model_copy(update=plain))


@dataclass(frozen=True)
class WarmupRestart:
    """Warms learning rates up again, linearly over the first `steps` steps after step `since`.

    After a gap the data has changed. Full steps on gradients that are larger
    than usual would do more harm than good. Weights and optimizer state do not change: a schedule
    scales gradients only.
    """

    since: int
    steps: int

    def __call__(self, optimizer: Optimizer) -> Optimizer:
        """Return the optimizer with the warm-up before its learning rate."""
        rate = Warmup(optimizer.learning_rate, self.steps, self.since)
        return replace(optimizer, learning_rate=rate)


def is_stale(settings: StalenessSettings, gap_days: float) -> bool:
    """Return whether a checkpoint from so many days before the day is older than allowed."""
    return settings.max_days is not None and gap_days > settings.max_days


def starts_fresh(settings: StalenessSettings, gap_days: float) -> bool:
    """Return whether a checkpoint is too old to start from, and warn if it is stale.

    Raises:
        InputError: it is too old and the policy is `refuse`.
    """
    if not is_stale(settings, gap_days):
        return False
    age = (
        f"the checkpoint is {gap_days:.3g} days older than the day, "
        f"training.staleness.max_days allows {settings.max_days}"
    )
    if settings.action == "refuse":
        raise InputError(
            f"{age}; train the days between first, "
            "or set training.staleness.action to warn or fresh"
        )
    fresh = settings.action == "fresh"
    _log.warning("%s; %s", age, "starting with an untrained model" if fresh else "going on from it")
    return fresh
