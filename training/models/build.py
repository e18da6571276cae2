"""From settings to the model that they describe."""

from __future__ import annotations

from collections.abc import Sequence

from features.schema import Relation, Schema
from training.models.ctr import CtrModel
from training.models.fusion import FusionModel
from training.settings import ModelSettings


def build_model(
    schema: Schema, settings: ModelSettings, relations: Sequence[Relation] = (), seed: int = 0
) -> CtrModel | FusionModel:
    """Return a model with nothing learned; same arguments, same weights.

    Raises:
        InputError: `relations` (of the graph), `model.relations` or `model.groups` name fields that are not fit, or a part
            needs vectors of one width and the groups' differ.
    """
    kind = FusionModel if settings.kind == "fusion" else CtrModel
    return kind(schema, settings, relations, seed)
