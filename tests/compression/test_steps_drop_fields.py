"""Fields away: equal to 1e-6 to the model where their vectors are zero, for every kind of model; what goes with them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml
from awkward_day import RELATIONS, SCHEMA
from pydantic import ValidationError
from step_models import GROUPS, KINDS, made_work, work_of

from compression.steps.drop_fields import FieldRemoval
from compression.steps.settings import DropFields
from elastic_embeddings.core.ragged import Ragged
from features.errors import InputError
from training.data.examples import read_examples
from training.data.layout import Layout
from training.evaluation.scoring import Scorer
from training.settings import RelationNetworkSettings

pytestmark = pytest.mark.slow

DROPPED = ("tags", "price", "week_hour", "user_x_hour", "user_id__hour")
"""A list that shares its vocabulary, a number, an id, a cross, and a relation."""


def silenced(examples, names):
    """The examples with keys that no table has in place of some fields' values, and numbers that are not there."""
    layout = Layout.of(SCHEMA, RELATIONS)
    keys, present = examples.keys.copy(), examples.present.copy()
    keys[:, [i for i, name in enumerate(layout.singles) if name in names]] = -1
    present[:, [i for i, name in enumerate(layout.dense) if name in names]] = False
    lists = tuple(
        Ragged(np.full_like(v.values, -1), v.offsets) if name in names else v
        for name, v in zip(layout.lists, examples.lists, strict=True)
    )
    return replace(examples, keys=keys, present=present, lists=lists)


def dropped(work, **told):
    step = FieldRemoval(DropFields(**told))
    return step.apply(work, step.fit(work))


def assert_equal_to_zero_vectors(work, partition, examples):
    after = dropped(work, fields=DROPPED)
    told = after.model.description
    encodings = {name: e for name, e in work.model.encodings.items() if name not in DROPPED}
    expected = Scorer(replace(work.model, encodings=encodings).trained()).score(
        silenced(examples, DROPPED)
    )
    found = Scorer(after.model.trained()).score(
        read_examples(partition, told.schema, told.relations)
    )
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found - Scorer(work.model.trained()).score(examples)).max() > 1e-3
    return after


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_it_predicts_as_with_their_vectors_at_zero(kind, learned, trained_on, partition):
    work = work_of(learned(kind))
    after = assert_equal_to_zero_vectors(work, partition, trained_on)
    assert after.model.rows < work.model.rows
    assert after.model.nbytes < work.model.nbytes


def test_frozen_encodings_of_other_relations_stay(checkpoint, trained_on, partition):
    after = assert_equal_to_zero_vectors(work_of(checkpoint), partition, trained_on)
    assert list(after.model.encodings) == [RELATIONS[0].name]
    assert sorted(after.model.description.scalers) == ["age"]


def test_rows_that_another_field_reads_stay(learned):
    work = work_of(learned("deepfm"))
    after = dropped(work, fields=("tags", "brands"))
    facts = work.facts[""]
    gone = np.setdiff1d(work.model.tables[""].keys, after.model.tables[""].keys)
    assert set(gone) == set(work.model.tables[""].keys[facts.fields == facts.names.index("brands")])
    assert (facts.fields == facts.names.index("tags")).any() or (
        facts.fields == facts.names.index("first_tag")
    ).any()


def test_a_group_without_fields_goes_with_its_table(learned):
    work = work_of(learned("grouped"))
    after = dropped(work, fields=("user_x_hour", "tags"))
    assert [group.name for group in after.model.description.model.groups] == ["pooled"]
    assert set(after.model.tables) == set(after.facts) == {"", "pooled"}


def test_fields_come_from_what_select_features_wrote(tmp_path):
    work, names = made_work(), (*SCHEMA.names(), *(relation.name for relation in RELATIONS))
    lines = [{"name": name, "kept": name not in DROPPED} for name in names]
    (tmp_path / "selection.json").write_text(json.dumps({"fields": lines}))
    left = [{"name": name} for name in SCHEMA.names() if name not in DROPPED]
    pruned = {
        "features": {"fields": left},
        "graph": {"relations": [{"left": "user_id", "right": "first_tag"}]},
    }
    (tmp_path / "pruned.yaml").write_text(yaml.safe_dump(pruned))
    wanted = FieldRemoval(DropFields(fields=DROPPED)).fit(work)
    for name in ("selection.json", "pruned.yaml"):
        assert FieldRemoval(DropFields(chosen=tmp_path / name)).fit(work) == wanted
    assert set(wanted.fields) == set(DROPPED)


def test_what_cannot_be_dropped_is_named(tmp_path):
    work = made_work()
    with pytest.raises(InputError, match=r"\['colour'\], which the model has not"):
        dropped(work, fields=("colour",))
    with pytest.raises(InputError, match=r"user_x_hour.*drop what reads them too"):
        dropped(work, fields=("hour", "user_id__hour"))
    with pytest.raises(InputError, match=r"relations name .*first_tag.*drop what reads them too"):
        dropped(work, fields=("first_tag",))
    with pytest.raises(InputError, match=r"nowhere.json.*run select-features"):
        dropped(work, chosen=tmp_path / "nowhere.json")
    with pytest.raises(ValidationError, match="one of the two"):
        DropFields()


def test_a_mean_of_fewer_fields_is_refused():
    work = made_work()
    told = work.model.description
    group = GROUPS[0].model_copy(update={"pooling": "mean"})
    other = replace(told, model=told.model.model_copy(update={"groups": (group,)}))
    with pytest.raises(InputError, match="group 'pooled', whose pooling is mean"):
        dropped(replace(work, model=replace(work.model, description=other)), fields=("tags",))


def test_relations_of_one_field_are_none():
    work = made_work()
    told = work.model.description
    network = RelationNetworkSettings(fields=("tags", "brands", "week_hour"))
    from compression.steps.drop_fields import without_fields

    related = replace(told, model=told.model.model_copy(update={"relations": network}))
    assert without_fields(related, frozenset({"tags"})).model.relations.fields == (
        "brands",
        "week_hour",
    )
    assert without_fields(related, frozenset({"tags", "brands"})).model.relations is None
