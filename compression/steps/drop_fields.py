"""Step `drop_fields`: remove fields from the model.

The smaller model predicts what the larger one does with the vectors of the removed fields at zero.
Removed are the fields in the schema and the settings, the rows of the first layers' kernels that
read them, their rows in the tables unless another field of the same vocabulary reads these, their
scalers, and the frozen encodings of removed relations.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import ValidationError

from compression.model import CompactModel
from compression.steps.settings import DropFields
from compression.steps.step import CompressionState, Plan, RowStats, Step
from features.errors import InputError
from features.schema import Relation, Schema, vocabulary_of
from training.data.arrays import Arrays
from training.data.layout import FieldLayout, Group
from training.fit.checkpoints import Description
from training.packed.dense import unpacked
from training.settings import ModelSettings


class DropPlan(Plan):
    """Names of the fields and relations to remove, in the model's order."""

    fields: tuple[str, ...]


class FieldRemoval(Step[DropFields, DropPlan]):
    """See `DropFields`. Predictions agree to 1e-6: what remains is summed in another order."""

    def fit(self, state: CompressionState) -> DropPlan:
        """Return the names.

        Raises:
            InputError: one is unknown, or the model needs it for a part that stays.
        """
        description = state.model.description
        known = [*description.schema.names(), *(r.name for r in description.relations)]
        dropped = frozenset(self.settings.fields)
        if self.settings.chosen:
            dropped = _dropped_by_file(self.settings.chosen, known)
        unknown = sorted(dropped - set(known))
        if unknown:
            raise InputError(
                f"compression.steps: drop_fields names unknown fields {unknown}; the model has "
                f"{known}"
            )
        for group in description.spec.groups:
            # A mean over fewer fields is another mean, even if the dropped vectors were zero.
            # Without all of its fields a group has no mean.
            removed = dropped & set(group.layout.keyed)
            if group.pooling == "mean" and removed and removed != set(group.layout.keyed):
                raise InputError(
                    f"compression.steps: drop_fields takes {sorted(removed)} out of group "
                    f"{group.name!r}, whose pooling is mean, which would change the others' weight:"
                    " drop the whole group, or train without them"
                )
        # Raises if the rest is no valid model.
        without_fields(description, dropped)
        return DropPlan(fields=tuple(name for name in known if name in dropped))

    def apply(self, state: CompressionState, plan: DropPlan) -> CompressionState:
        """Return the model without the fields."""
        dropped, before = frozenset(plan.fields), state.model.description
        after = without_fields(before, dropped)
        # 1. The rows that no field reads any more. A group that lost all its fields has no table.
        groups = {group.name: group for group in after.spec.groups}
        reduced = state.take(
            {
                name: _rows_still_read(before.schema, stats, groups.get(name))
                for name, stats in state.row_stats.items()
            }
        )

        # 2. What describes and surrounds them.
        encodings = state.model.encodings.items()
        model = CompactModel(
            description=after,
            dense=_transfer_weights(unpacked(state.model.dense), before, after),
            tables={name: reduced.model.tables[name] for name in groups},
            encodings={name: encoding for name, encoding in encodings if name not in dropped},
        )
        row_stats = {name: reduced.row_stats[name] for name in groups}
        return replace(state, model=model, row_stats=row_stats)


def without_fields(description: Description, dropped: frozenset[str]) -> Description:
    """Return the description of the model without fields and relations.

    Raises:
        InputError: a cross or a relation that stays reads one of them, or no field would be left.
    """
    # Validated again: the schema's own rules say what may be without what.
    document = description.schema.model_dump() | {
        "fields": [f.model_dump() for f in description.schema.fields if f.name not in dropped]
    }
    relations = tuple(r for r in description.relations if r.name not in dropped)
    try:
        schema = Schema.model_validate(document)
        layout = FieldLayout.of(schema, relations)
    except (ValidationError, InputError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise InputError(
            f"compression.steps: drop_fields {sorted(dropped)}: {what}; drop what reads them too"
        ) from error
    scalers = {name: s for name, s in description.scalers.items() if name not in dropped}
    return replace(
        description,
        schema=schema,
        relations=relations,
        scalers=scalers,
        model=_model_settings(description.model, layout),
    )


def _dropped_by_file(path: Path, known: list[str]) -> frozenset[str]:
    """Names that a `selection.json` drops, or that the fields and relations of a YAML lack."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            fields = json.loads(text)["fields"]
            return frozenset(field["name"] for field in fields if not field["kept"])
        document = yaml.safe_load(text)
        kept = {field["name"] for field in document["features"]["fields"]}
        relations = document.get("graph", {}).get("relations", [])
        kept |= {Relation.model_validate(relation).name for relation in relations}
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise InputError(
            f"{path}: no selection.json and no YAML with features.fields ({error}); run "
            "select-features"
        ) from error
    return frozenset(known) - kept


def _model_settings(model: ModelSettings, layout: FieldLayout) -> ModelSettings:
    """The settings without names that the layout does not have."""
    groups = []
    for group in model.groups:
        names = tuple(name for name in group.fields if name in layout.keyed)
        if names:
            groups.append(group.model_copy(update={"fields": names}))
    relations = model.relations
    if relations and relations.fields != "all":
        names = tuple(name for name in relations.fields if name in layout.keyed)
        relations = relations.model_copy(update={"fields": names})
    # Relations between fields need two of them.
    if relations and len(layout.keyed if relations.fields == "all" else relations.fields) < 2:
        relations = None
    return model.model_copy(update={"groups": tuple(groups), "relations": relations})


def _rows_still_read(schema: Schema, stats: RowStats, group: Group | None) -> NDArray[np.bool_]:
    """Which rows, bool [N], a field of the group still reads; those of unknown fields are kept."""
    read = {vocabulary_of(schema.field(name)) for name in group.layout.keyed} if group else set()
    names = [name for name in stats.names if name in schema.names()]
    unread = tuple(name for name in names if vocabulary_of(schema.field(name)) not in read)
    return ~stats.of_fields(unread)


def _transfer_weights(weights: Arrays, before: Description, after: Description) -> Arrays:
    """The dense weights of the smaller model.

    Raises:
        InputError: a weight differs between the models in more than its input rows.
    """
    # Imported here: models load TensorFlow, and `without_fields` is used without it.
    from training.models.ctr import build_model
    from training.models.weight_transfer import carry_over

    old, new = (build_model(d.schema, d.model, d.relations) for d in (before, after))
    fresh, blocks = new.weights(), new.blocks()
    wrong = []
    for name, weight in fresh.items():
        # The axes of the inputs may differ, all others must not.
        inputs = blocks[name].axes if name in blocks else 0
        if name not in weights or weights[name].shape[inputs:] != weight.shape[inputs:]:
            wrong.append(name)
    if wrong:
        raise InputError(
            f"compression.steps: drop_fields cannot fit {wrong} to the smaller model; train "
            "without these fields"
        )
    return dict(carry_over(weights, fresh, old.blocks(), blocks))
