"""The trigger form follows the configuration's own schema."""

import pytest

from dags.form import FORM, compression_form, trigger_form
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


@pytest.mark.parametrize("form", [trigger_form, compression_form])
def test_every_input_has_a_title_in_words_and_a_section(form):
    for name, param in form().items():
        assert param.schema["title"] != name
        assert param.schema["title"][0].isupper()
        assert " to " in param.schema["section"] or "How " in param.schema["section"]


def test_choices_are_shown_in_words_and_empty_is_one_of_them():
    device = trigger_form()["training.device"]
    assert device.schema["enum"] == [None, "auto", "cpu", "gpu"]
    assert device.schema["values_display"]["gpu"] == "gpu: a GPU; fails without one"
    for param in trigger_form().values():
        shown = param.schema.get("values_display", {})
        assert all(str(value) in shown for value in param.schema.get("enum", []) if value)


def test_the_configuration_files_of_the_project_are_offered():
    assert "conf/simulated.yaml" in trigger_form()["config"].schema["examples"]
