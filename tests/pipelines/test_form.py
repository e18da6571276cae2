"""The trigger form follows the configuration's own schema."""

from pipelines.config import Config
from pipelines.form import FORM, form_fields


def test_every_marked_leaf_becomes_one_input():
    assert [f.path for f in form_fields()] == list(FORM)


def test_types_limits_and_defaults_come_from_the_models():
    fields = {f.path: f for f in form_fields()}
    batch = fields["training.batch_size"]
    assert (batch.type, batch.limits, batch.default) == (
        "integer",
        {"minimum": 1},
        Config.model_fields["training"].default.batch_size,
    )
    assert fields["model.deep.l21"].limits == {"minimum": 0}


def test_a_default_set_by_the_parent_wins_over_the_leafs_own():
    from training.settings import ModelSettings

    wide = {f.path: f.default for f in form_fields()}["model.deep.learning_rate"]
    assert wide == ModelSettings().deep.learning_rate


def test_descriptions_say_what_the_section_is_and_what_empty_means():
    for field in form_fields():
        assert "Empty" in field.description
        assert len(field.description) > 40
