"""The models that are learned on the way, each made of the one before by one step of the article."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace

from pcf_gnn_parts.arms import ARMS
from pcf_gnn_parts.worlds import without_crosses

from compression.steps.drop_fields import without_fields
from features.schema import Categorical, MultiHash, Relation, Schema
from training.fit.checkpoints import Description
from training.pretraining.settings import PretrainSettings
from training.settings import ModelSettings, RelationNetworkSettings, TrainingSettings
from whole_path_parts.walk import Walk

_LEAST_ROWS = 16


@dataclass(frozen=True)
class Stage:
    """A model to learn.

    Attributes:
        schema: its fields.
        model: its settings.
        relations: pairs whose p_uv it reads.
        statistics: what makes p_uv.
        training: how it is learned.
    """

    schema: Schema
    model: ModelSettings
    relations: tuple[Relation, ...]
    statistics: PretrainSettings
    training: TrainingSettings


def start(walk: Walk, dim: int, lasso: bool) -> Stage:
    """Return the massive model: every cross of ids has rows of its own, every statistic a table; without lasso all rows stay."""
    settings = walk.world.model
    rows = {
        name: one if lasso else one.model_copy(update={"l21": 0.0})
        for name, one in (("deep", settings.deep), ("wide", settings.wide))
    }
    schema = walk.world.schema.model_copy(
        update={"fields": (*walk.world.schema.fields, *walk.crosses)}
    )
    return Stage(
        schema,
        settings.model_copy(update={"dim": dim, **rows}),
        walk.relations,
        _made_by("lookup"),
        walk.world.training,
    )


def with_network(stage: Stage, walk: Walk) -> Stage:
    """Put a relation network of the crossed fields in the place of the crosses."""
    parts = {name for cross in walk.crosses for name in cross.of}
    network = RelationNetworkSettings(
        fields=tuple(name for name in stage.schema.names() if name in parts)
    )
    model = stage.model.model_copy(update={"relations": network})
    return replace(stage, schema=without_crosses(stage.schema), model=model)


def with_gnn(stage: Stage) -> Stage:
    """Put encodings of nodes, 4 numbers of 2 bytes, in the place of the tables of pairs."""
    return replace(stage, statistics=_made_by("pcf_gnn_half"))


def hashed(stage: Stage, values: Mapping[str, int], a_row: int, frequent: int) -> Stage:
    """Let the values of fields, so many each, be two rows of two tables that have a row for every `a_row` of them together.

    With `frequent`, a value seen so often has a row of its own besides.
    """
    rows = {name: max(_LEAST_ROWS, count // a_row) for name, count in values.items()}
    own, training = frequent > 0, stage.training
    if own:
        admission = training.admission.model_copy(
            update={"min_counts": dict.fromkeys(rows, frequent)}
        )
        training = training.model_copy(update={"admission": admission})
    fields = tuple(
        field.model_copy(update={"multi_hash": MultiHash(rows=rows[field.name], own_rows=own)})
        if isinstance(field, Categorical) and field.name in rows
        else field
        for field in stage.schema.fields
    )
    return replace(
        stage, schema=stage.schema.model_copy(update={"fields": fields}), training=training
    )


def dropping(stage: Stage, told: Description, dropped: Set[str]) -> Stage:
    """Leave out what the selection dropped; `told` is of the stage's model."""
    left, admission = without_fields(told, frozenset(dropped)), stage.training.admission
    counts = {name: count for name, count in admission.min_counts.items() if name not in dropped}
    training = stage.training.model_copy(
        update={"admission": admission.model_copy(update={"min_counts": counts})}
    )
    return replace(
        stage, schema=left.schema, model=left.model, relations=left.relations, training=training
    )


def _made_by(arm: str) -> PretrainSettings:
    settings = ARMS[arm]
    assert settings is not None, "an arm without cross features makes none"
    return settings
