"""From what YAML says of the table to its policies: admission, eviction, optimizers."""

from __future__ import annotations

from collections.abc import Sequence
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
from training.settings import AdmissionSettings, EvictionSettings, OptimizerSettings


def admission(
    settings: AdmissionSettings, fields: Sequence[str], of: Sequence[str] | None = None
) -> Admission | ByField:
    """Return the policy of a table.

    Args:
        settings: as in the YAML.
        fields: the schema's id fields.
        of: those that the table is for; None: all.

    Raises:
        InputError: `min_counts` names a field that the schema has not.
    """
    otherwise = _policy(settings, settings.min_count)
    unknown = sorted(set(settings.min_counts) - set(fields))
    if unknown:
        raise InputError(
            f"training.admission.min_counts names {unknown}: the schema's id fields are {sorted(fields)}"
        )
    own = {name: count for name, count in settings.min_counts.items() if of is None or name in of}
    return (
        ByField({name: _policy(settings, count) for name, count in own.items()}, otherwise)
        if own
        else otherwise
    )


def eviction(settings: EvictionSettings) -> Eviction | None:
    """Return what goes at the end of a day; None where nothing is set."""
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
    """Return the row optimizer that the YAML describes."""
    rare = (
        DynamicL1(settings.rare_multiple, settings.rare_count) if settings.rare_multiple else None
    )
    common: dict[str, Any] = {
        "learning_rate": settings.learning_rate,
        "l1": settings.l1,
        "l2": settings.l2,
        "l21": settings.l21,
        "decay": settings.decay,
        "decay_steps": settings.decay_steps,
        "exact": settings.exact,
        "dynamic_l1": rare,
    }
    moments: dict[str, Any] = {
        "beta_1": settings.beta_1,
        "beta_2": settings.beta_2,
        "epsilon": settings.epsilon,
    }
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
    """Return the rule for dense weights, whose rows are no groups and whose entries are not to become zero."""
    return optimizer(
        settings.model_copy(update={"l1": 0.0, "l21": 0.0, "rare_multiple": 0.0, "decay_steps": 1})
    )


def _policy(settings: AdmissionSettings, min_count: int) -> Admission:
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
    return PoissonAdmission(
        min_count, settings.horizon, sketch=SketchSpec(**size, max_count=max(min_count, 255))
    )
