"""The champion's recipe, trained on the candidate's own days.

A candidate that was trained on newer days beats an older champion by freshness alone, also when its
settings are worse. When the settings changed since the champion, the champion's are trained on the
same days too, from the champion's checkpoint, and the candidate must not be worse than that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from features.errors import InputError
from features.partition import is_before, same_kind
from pipelines.stages.stage import Context, Inputs
from pipelines.stages.train import begins_day, device, gap_days
from pipelines.store.artifacts import Version
from pipelines.store.lineage import input_of
from pipelines.tracking.champion import Champion

CHECKPOINT = "champion_checkpoint"
_HELDOUT = "champion_heldout"
_DAY, _STATISTICS, _ENCODINGS = "recipe_day_", "recipe_statistics_", "recipe_encodings"

_NO_RECIPE = ("device", "save_every_s", "slices", "unvalidated_parent", "holdout_fraction")
"""Settings of `training` that do not change what is learned from an impression."""


def recipe_inputs(context: Context, champion: Champion) -> Inputs:
    """Return what the champion's recipe is trained on; nothing if the candidate has the same one.

    These are the champion's checkpoint, the impressions that it held out, and those of the last
    days up to the candidate's (`model_gate.champion_recipe_days`). What is missing is reported.
    """
    store, limit = context.store, context.config.model_gate.champion_recipe_days
    candidate, checkpoint = store.current("checkpoint", context.day), champion.checkpoint(store)
    if not limit or candidate is None:
        return {}
    if checkpoint is None:
        context.report(f"the checkpoint of {champion} is missing: its recipe is not trained again")
        return {}
    today = input_of(store, candidate, "impressions")
    comparable = today is not None and is_before(checkpoint.day, context.day)
    if today is None or not comparable or _recipe(candidate) == _recipe(checkpoint):
        return {}

    found: dict[str, Version | None] = {CHECKPOINT: checkpoint}
    found[_HELDOUT] = input_of(store, checkpoint, "impressions")
    if _config(candidate, "graph") == _config(checkpoint, "graph"):
        found[_ENCODINGS] = input_of(store, candidate, "encodings")
    for version in [*_days_between(context, checkpoint, limit - 1), today]:
        name = version.day.isoformat()
        found[f"{_DAY}{name}"] = version
        found[f"{_STATISTICS}{name}"] = store.latest_before("feature_statistics", version.day)
    return {name: version for name, version in found.items() if version}


def _days_between(context: Context, checkpoint: Version, limit: int) -> list[Version]:
    """Return the impressions of the last days between a checkpoint and the day, in order."""
    days = [
        version
        for version in context.store.before("impressions", context.day)
        if same_kind(version.day, context.day) and is_before(checkpoint.day, version.day)
    ]
    if len(days) > limit:
        context.report(
            f"the champion's recipe is trained on the last {limit + 1} days, not on all since "
            f"{checkpoint.day} (model_gate.champion_recipe_days)"
        )
    # `before` yields the latest first.
    return days[:limit][::-1]


def train_champion_recipe(context: Context, inputs: Inputs, scratch: Path) -> Path | None:
    """Train the champion's recipe on the days of `recipe_inputs`; return the last checkpoint.

    Args:
        context: of the candidate.
        inputs: with those of `recipe_inputs` and the candidate's `checkpoint`.
        scratch: an empty folder for the checkpoints.

    Returns:
        None if the candidate has the champion's recipe, or if the recipe cannot be trained on these
        days, for instance since they lack a field of it, which is reported.
    """
    from training.fit.checkpoints import read_description
    from training.fit.trainer import TrainRequest, train_day

    if CHECKPOINT not in inputs:
        return None
    parent = inputs[CHECKPOINT]
    saved = read_description(parent.path)
    share = read_description(inputs["checkpoint"].path).training.holdout_fraction
    # Both are judged on the same impressions, which neither was trained on.
    training = saved.training.model_copy(update={"holdout_fraction": share})
    folder, heldout, before = parent.path, inputs.get(_HELDOUT), parent
    days = [version for name, version in inputs.items() if name.startswith(_DAY)]
    for version in days:
        at = replace(context, day=version.day)
        statistics = inputs.get(f"{_STATISTICS}{version.day.isoformat()}")
        # The candidate's encodings know the clicks of the days before its own: until then, and if
        # its graph is another one, the recipe keeps the champion's.
        encodings = inputs.get(_ENCODINGS, parent) if version == days[-1] else parent
        request = TrainRequest(
            schema=saved.schema,
            model=saved.model,
            training=training,
            relations=saved.relations,
            partition=version.path,
            previous_partition=heldout.path if heldout else None,
            previous_checkpoint=folder,
            statistics=statistics.path if statistics else None,
            encodings=encodings.path,
            gap_days=gap_days(at, before),
            begins_day=begins_day(at, before),
        )
        context.report(f"training the champion's recipe on {version.day}")
        try:
            with device(context.config.training.device, context.report):
                train_day(request, scratch / version.day.isoformat(), log=context.report)
        except InputError as error:
            context.report(f"the champion's recipe cannot be trained on {version.day}: {error}")
            return None
        folder, heldout, before = scratch / version.day.isoformat(), version, version
    return folder


def _recipe(checkpoint: Version) -> Mapping[str, Any]:
    """Return the settings that a checkpoint was trained with."""
    training = _config(checkpoint, "training") or {}
    config = checkpoint.commit.get("config") or {}
    return {**config, "training": {k: v for k, v in training.items() if k not in _NO_RECIPE}}


def _config(checkpoint: Version, section: str) -> Any:
    return (checkpoint.commit.get("config") or {}).get(section)
