"""The systems that are compared. Each differs from `elastic` in what its name says; seed, batches and dense part are the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from features.schema import Cross, Schema
from training.fit.model_and_baseline import LearnerConfig
from training.settings import (
    AdmissionSettings,
    EvictionSettings,
    ModelSettings,
    OptimizerSettings,
    RelationNetworkSettings,
    TrainingSettings,
)

RELATED = (
    "user_id",
    "click_article_id",
    "click_region",
    "click_referrer_type",
    "click_deviceGroup",
    "hour",
)
"""The fields of the relation network, those of the declared crosses among them."""

_FOLLOWING = {"beta_1": 0.0, "beta_2": 0.99}
"""Adam's rates for rows: with the usual .9 and .999 a row that is in few batches moves too little in one pass."""

_SMALL = {"admission": AdmissionSettings(min_count=2), "eviction": EvictionSettings(idle_days=2)}


@dataclass(frozen=True)
class Arm:
    """One system.

    Attributes:
        learn_by: what is scored by one model before it is learned.
        like: an elastic arm whose size sets the number of rows of a fixed hashed table; empty: the table is elastic.
        same: whether that table has that arm's bytes at their highest, or as many rows as it had at most.
        crosses: whether the declared crosses of ids are among the fields.
        relations: whether the deep part has a relation network.
        small: ids get a row at their second occurrence and lose it when idle for two days.
        usual_betas: rows learn with Adam's usual betas.
    """

    learn_by: Literal["hour", "day"] = "hour"
    like: str = ""
    same: Literal["bytes", "rows"] = "bytes"
    crosses: bool = True
    relations: bool = False
    small: bool = False
    usual_betas: bool = False


ARMS: dict[str, Arm] = {
    "elastic": Arm(),
    "hashed": Arm(like="elastic"),
    "hashed_rows": Arm(like="elastic", same="rows"),
    "small": Arm(small=True),
    "small_hashed": Arm(like="small"),
    "daily": Arm(learn_by="day"),
    "daily_hashed": Arm(learn_by="day", like="elastic"),
    "relations": Arm(crosses=False, relations=True),
    "no_crosses": Arm(crosses=False),
    "usual_betas": Arm(usual_betas=True),
}
"""By name; an arm comes after the one that it is `like`."""


def schema_of(arm: Arm, schema: Schema) -> Schema:
    """Return the fields that an arm reads."""
    fields = tuple(field for field in schema.fields if arm.crosses or not isinstance(field, Cross))
    return schema.model_copy(update={"fields": fields})


def recipe(arm: Arm, schema: Schema, seed: int, batch: int) -> LearnerConfig:
    """Return what an arm's learner is built from.

    Args:
        arm: the system.
        schema: all fields.
        seed: of everything drawn.
        batch: impressions a step.
    """
    training = TrainingSettings(
        batch_size=batch, seed=seed, learn_by=arm.learn_by, **(_SMALL if arm.small else {})
    )
    return LearnerConfig(schema_of(arm, schema), _model(arm), training, ())


def _model(arm: Arm) -> ModelSettings:
    rows = OptimizerSettings(**({} if arm.usual_betas else _FOLLOWING))
    network = RelationNetworkSettings(fields=RELATED) if arm.relations else None
    return ModelSettings(hidden=(64,), relations=network, deep=rows, wide=rows)
