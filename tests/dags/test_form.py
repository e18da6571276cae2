"""The trigger form follows the configuration's own schema."""

from dags.form import FORM, trigger_form
from pipelines.config import Config
from training.settings import ModelSettings


def test_types_limits_and_defaults_come_from_the_models():
    form = trigger_form()
    batch = form["training.batch_size"]
    assert batch.schema["type"] == ["null", "integer"]
    assert batch.schema["minimum"] == 1
    default = Config.model_fields["training"].default.batch_size
    assert f"built-in default {default}" in batch.description
    assert form["model.deep.l21"].schema["minimum"] == 0


def test_a_default_set_by_the_parent_wins_over_the_leafs_own():
    default = ModelSettings().deep.learning_rate
    assert f"built-in default {default}" in trigger_form()["model.deep.learning_rate"].description


def test_descriptions_say_what_the_section_is_and_what_empty_means():
    form = trigger_form()
    for path in FORM:
        assert "Empty" in form[path].description
        assert len(form[path].description) > 40
