"""Step `drop_fields`: fields leave the model, which then says what it said with their vectors at zero.

What goes: the fields in the schema and the settings, the rows of the first layers' kernels that read them, their rows in the
tables unless another field of the same vocabulary reads these, their scalers, and frozen encodings of dropped relations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from compression.model import CompactModel
from compression.steps.chosen_fields import chosen_fields
from compression.steps.settings import DropFields
from compression.steps.step import Plan, Step
from compression.steps.work import Facts, Work
from features.errors import InputError
from features.schema import Schema, vocabulary_of
from training.data.arrays import Arrays
from training.data.field_groups import Group, groups_of
from training.data.layout import Layout
from training.fit.checkpoints import Description
from training.packed.dense import unpacked
from training.settings import ModelSettings


class DropPlan(Plan):
    """Names of the fields and relations that go, in order."""

    fields: tuple[str, ...]


class FieldRemoval(Step[DropFields, DropPlan]):
    """See `DropFields`. Equal to 1e-6: the sums that remain are taken in another order."""

    def fit(self, work: Work) -> DropPlan:
        """Return the names; raises InputError where one is unknown or the model cannot be without it alone."""
        told = work.model.description
        known = [*told.schema.names(), *(relation.name for relation in told.relations)]
        dropped = (
            chosen_fields(self.settings.chosen, told)
            if self.settings.chosen
            else frozenset(self.settings.fields)
        )
        unknown = sorted(dropped - set(known))
        if unknown:
            raise InputError(
                f"compression.steps: drop_fields names {unknown}, which the model has not; it has {known}"
            )
        _refuse_mean_pooled(told, dropped)
        without_fields(told, dropped)
        return DropPlan(fields=tuple(name for name in known if name in dropped))

    def apply(self, work: Work, plan: DropPlan) -> Work:
        """Return the model without them."""
        dropped = frozenset(plan.fields)
        before, told = work.model.description, without_fields(work.model.description, dropped)
        groups = {group.name: group for group in _groups(told)}
        lighter = work.take(
            {n: _still_read(before.schema, facts, groups.get(n)) for n, facts in work.facts.items()}
        )
        model = CompactModel(
            description=told,
            dense=_carried(unpacked(work.model.dense), before, told),
            tables={name: lighter.model.tables[name] for name in groups},
            encodings={
                name: encoding
                for name, encoding in work.model.encodings.items()
                if name not in dropped
            },
        )
        return replace(work, model=model, facts={name: lighter.facts[name] for name in groups})


def without_fields(told: Description, dropped: frozenset[str]) -> Description:
    """Return the description of the model without fields and relations.

    Raises:
        InputError: a cross or a relation that stays reads one of them, or no field would be left.
    """
    left = [field for field in told.schema.fields if field.name not in dropped]
    relations = tuple(relation for relation in told.relations if relation.name not in dropped)
    try:
        schema = Schema.model_validate(
            told.schema.model_dump() | {"fields": [field.model_dump() for field in left]}
        )
        layout = Layout.of(schema, relations)
    except (ValidationError, InputError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise InputError(
            f"compression.steps: drop_fields {sorted(dropped)}: {what}; drop what reads them too"
        ) from error
    scalers = {name: scaler for name, scaler in told.scalers.items() if name not in dropped}
    return replace(
        told,
        schema=schema,
        relations=relations,
        scalers=scalers,
        model=_settings(told.model, layout),
    )


def _settings(model: ModelSettings, layout: Layout) -> ModelSettings:
    """The settings without names that the layout lacks; relations of fewer than two fields are none."""
    fields = [
        (group, tuple(name for name in group.fields if name in layout.keyed))
        for group in model.groups
    ]
    groups = tuple(group.model_copy(update={"fields": names}) for group, names in fields if names)
    relations = model.relations
    if relations and relations.fields != "all":
        relations = relations.model_copy(
            update={"fields": tuple(n for n in relations.fields if n in layout.keyed)}
        )
    if relations and len(layout.keyed if relations.fields == "all" else relations.fields) < 2:
        relations = None
    return model.model_copy(update={"groups": groups, "relations": relations})


def _refuse_mean_pooled(told: Description, dropped: frozenset[str]) -> None:
    """A mean over fewer fields is another mean, also where the dropped ones were zero."""
    for group in _groups(told):
        gone = dropped & set(group.layout.keyed)
        if group.pooling == "mean" and gone and gone != set(group.layout.keyed):
            raise InputError(
                f"compression.steps: drop_fields takes {sorted(gone)} out of group {group.name!r}, whose pooling is mean, which "
                "would change the others' weight: drop the whole group, or train without them"
            )


def _groups(told: Description) -> tuple[Group, ...]:
    return groups_of(Layout.of(told.schema, told.relations), told.model)


def _still_read(schema: Schema, facts: Facts, group: Group | None) -> NDArray[np.bool_]:
    """Which rows, bool [N], a field of the group still reads; one of a field that the schema never had stays."""
    left = {vocabulary_of(schema.field(name)) for name in group.layout.keyed} if group else set()
    gone = tuple(
        n for n in facts.names if n in schema.names() and vocabulary_of(schema.field(n)) not in left
    )
    return ~facts.of_fields(gone)


def _carried(weights: Arrays, before: Description, after: Description) -> Arrays:
    """The dense weights of the smaller model.

    Raises:
        InputError: a weight that both models have is laid out in another way than by inputs.
    """
    from training.models.blocks import carry_over
    from training.models.build import build_model

    old, new = (build_model(told.schema, told.model, told.relations) for told in (before, after))
    fresh, blocks = new.weights(), new.blocks()
    _refuse_unfit(weights, fresh, {name: layout.axes for name, layout in blocks.items()})
    return dict(carry_over(weights, fresh, old.blocks(), blocks))


def _refuse_unfit(weights: Arrays, fresh: Arrays, axes: Mapping[str, int]) -> None:
    wrong = [
        n
        for n, w in fresh.items()
        if n not in weights or weights[n].shape[axes.get(n, 0) :] != w.shape[axes.get(n, 0) :]
    ]
    if wrong:
        raise InputError(
            f"compression.steps: drop_fields cannot fit {wrong} to the smaller model; train without these fields"
        )
