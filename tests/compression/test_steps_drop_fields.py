"""Dropped fields: predictions equal those with zero vectors to 1e-6, for every kind of model."""

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml
from awkward_day import RELATIONS, SCHEMA
from pydantic import ValidationError
from step_models import GROUPS, KINDS, made_state, state_of

from compression.steps.drop_fields import FieldRemoval
from compression.steps.settings import DropFields
from elastic_embeddings.core.ragged import Ragged
from features.errors import InputError
from training.data.examples import read_examples
from training.data.layout import FieldLayout
from training.evaluation.scoring import Scorer
from training.settings import RelationNetworkSettings

pytestmark = pytest.mark.slow

DROPPED = ("tags", "price", "week_hour", "user_x_hour", "user_id__hour")
"""A list that shares its vocabulary, a number, an id, a cross, and a relation."""


def silenced(examples, names):
    """The examples with unknown keys as some fields' values, and without some numbers."""
    layout = FieldLayout.of(SCHEMA, RELATIONS)
    keys, present = examples.keys.copy(), examples.present.copy()
    keys[:, [i for i, name in enumerate(layout.singles) if name in names]] = -1
    present[:, [i for i, name in enumerate(layout.dense) if name in names]] = False
    lists = tuple(
        Ragged(np.full_like(v.values, -1), v.offsets) if name in names else v
        for name, v in zip(layout.lists, examples.lists, strict=True)
    )
    return replace(examples, keys=keys, present=present, lists=lists)


def dropped(state, **given):
    step = FieldRemoval(DropFields(**given))
    return step.apply(state, step.fit(state))


def assert_equal_to_zero_vectors(state, partition, examples):
    after = dropped(state, fields=DROPPED)
    description = after.model.description
    encodings = {name: e for name, e in state.model.encodings.items() if name not in DROPPED}
    expected = Scorer(replace(state.model, encodings=encodings).trained()).score(
        silenced(examples, DROPPED)
    )
    found = Scorer(after.model.trained()).score(
        read_examples(partition, description.schema, description.relations)
    )
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found - Scorer(state.model.trained()).score(examples)).max() > 1e-3
    return after


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_it_predicts_as_with_their_vectors_at_zero(kind, learned, trained_on, partition):
    state = state_of(learned(kind))
    after = assert_equal_to_zero_vectors(state, partition, trained_on)
    assert after.model.rows < state.model.rows
    assert after.model.nbytes < state.model.nbytes


def test_frozen_encodings_of_other_relations_stay(checkpoint, trained_on, partition):
    after = assert_equal_to_zero_vectors(state_of(checkpoint), partition, trained_on)
    assert list(after.model.encodings) == [RELATIONS[0].name]
    assert sorted(after.model.description.scalers) == ["age"]


def test_rows_that_another_field_reads_stay(learned):
    state = state_of(learned("deepfm"))
    after = dropped(state, fields=("tags", "brands"))
    stats = state.row_stats[""]
    removed = np.setdiff1d(state.model.tables[""].keys, after.model.tables[""].keys)
    assert set(removed) == set(
        state.model.tables[""].keys[stats.fields == stats.names.index("brands")]
    )
    assert (stats.fields == stats.names.index("tags")).any() or (
        stats.fields == stats.names.index("first_tag")
    ).any()


def test_a_group_without_fields_goes_with_its_table(learned):
    state = state_of(learned("grouped"))
    after = dropped(state, fields=("user_x_hour", "tags"))
    assert [group.name for group in after.model.description.model.groups] == ["pooled"]
    assert set(after.model.tables) == set(after.row_stats) == {"", "pooled"}


def test_fields_come_from_what_select_features_wrote(tmp_path):
    state, names = made_state(), (*SCHEMA.names(), *(relation.name for relation in RELATIONS))
    lines = [{"name": name, "kept": name not in DROPPED} for name in names]
    (tmp_path / "selection.json").write_text(json.dumps({"fields": lines}))
    left = [{"name": name} for name in SCHEMA.names() if name not in DROPPED]
    pruned = {
        "features": {"fields": left},
        "graph": {"relations": [{"left": "user_id", "right": "first_tag"}]},
    }
    (tmp_path / "pruned.yaml").write_text(yaml.safe_dump(pruned))
    wanted = FieldRemoval(DropFields(fields=DROPPED)).fit(state)
    for name in ("selection.json", "pruned.yaml"):
        assert FieldRemoval(DropFields(chosen=tmp_path / name)).fit(state) == wanted
    assert set(wanted.fields) == set(DROPPED)


def test_what_cannot_be_dropped_is_named(tmp_path):
    state = made_state()
    with pytest.raises(InputError, match=r"unknown fields \['colour'\]"):
        dropped(state, fields=("colour",))
    with pytest.raises(InputError, match=r"user_x_hour.*drop what reads them too"):
        dropped(state, fields=("hour", "user_id__hour"))
    with pytest.raises(InputError, match=r"relations name .*first_tag.*drop what reads them too"):
        dropped(state, fields=("first_tag",))
    with pytest.raises(InputError, match=r"nowhere.json.*run select-features"):
        dropped(state, chosen=tmp_path / "nowhere.json")
    with pytest.raises(ValidationError, match="one of the two"):
        DropFields()


def test_a_mean_of_fewer_fields_is_refused():
    state = made_state()
    description = state.model.description
    group = GROUPS[0].model_copy(update={"pooling": "mean"})
    other = replace(description, model=description.model.model_copy(update={"groups": (group,)}))
    with pytest.raises(InputError, match="group 'pooled', whose pooling is mean"):
        dropped(replace(state, model=replace(state.model, description=other)), fields=("tags",))


def test_relations_of_one_field_are_none():
    state = made_state()
    description = state.model.description
    network = RelationNetworkSettings(fields=("tags", "brands", "week_hour"))
    from compression.steps.drop_fields import without_fields

    related = replace(
        description, model=description.model.model_copy(update={"relations": network})
    )
    assert without_fields(related, frozenset({"tags"})).model.relations.fields == (
        "brands",
        "week_hour",
    )
    assert without_fields(related, frozenset({"tags", "brands"})).model.relations is None
