"""What YAML may say of training, and what it may not."""

import subprocess
import sys

import pytest
from pydantic import ValidationError
from training_data import SCHEMA

from features.errors import InputError
from features.schema import Categorical, Cross, MultiValued, Numeric, Relation, Schema, Timestamp
from training.data.layout import FieldLayout
from training.pretraining.settings import PretrainSettings
from training.settings import ModelSettings, OptimizerSettings, StalenessSettings, TrainingSettings


@pytest.mark.parametrize(
    ("settings", "values"),
    [
        (TrainingSettings, {"batch_size": 0}),
        (TrainingSettings, {"passes": 0}),
        (TrainingSettings, {"holdout_fraction": 0}),
        (TrainingSettings, {"holdout_fraction": 1}),
        (TrainingSettings, {"seed": -1}),
        (TrainingSettings, {"batchsize": 5}),
        (TrainingSettings, {"learn_by": "week"}),
        (TrainingSettings, {"negative_rate": 0}),
        (TrainingSettings, {"negative_rate": 1.1}),
        (TrainingSettings, {"informative_rate": 0}),
        (TrainingSettings, {"informative_rate": -0.5}),
        (TrainingSettings, {"weight": "no name"}),
        (StalenessSettings, {"max_days": 0}),
        (StalenessSettings, {"action": "ignore"}),
        (StalenessSettings, {"warmup_steps": -1, "max_days": 2}),
        (StalenessSettings, {"warmup_steps": 10}),
        (StalenessSettings, {"warmup_steps": 10, "max_days": 2, "action": "refuse"}),
        (StalenessSettings, {"warmup_steps": 10, "max_days": 2, "action": "fresh"}),
        (TrainingSettings, {"slices": ["no name"]}),
        (ModelSettings, {"dim": 0}),
        (ModelSettings, {"hidden": [0]}),
        (ModelSettings, {"dropout": 1}),
        (ModelSettings, {"kind": "magic"}),
        (OptimizerSettings, {"learning_rate": 0}),
        (OptimizerSettings, {"l21": -1}),
        (PretrainSettings, {"l2": -1}),
        (PretrainSettings, {"epochs": 0}),
    ],
)
def test_impossible_settings_are_refused(settings, values):
    with pytest.raises(ValidationError, match=next(iter(values))):
        settings.model_validate(values)


def test_settings_survive_json():
    settings = ModelSettings(hidden=(3, 2), deep=OptimizerSettings(l21=0.5))
    assert ModelSettings.model_validate_json(settings.model_dump_json()) == settings


def test_a_description_of_before_there_were_rates_still_reads():
    """Checkpoints of yesterday hold the settings of yesterday."""
    settings = TrainingSettings.model_validate_json('{"batch_size": 64, "seed": 5}')
    assert (
        settings.learn_by,
        settings.negative_rate,
        settings.informative_rate,
        settings.weight,
    ) == ("day", 1.0, 1.0, None)
    assert settings.staleness == StalenessSettings(max_days=None, action="warn", warmup_steps=0)


@pytest.mark.process
def test_settings_load_without_tensorflow():
    code = (
        "import sys, training.settings; "
        "sys.exit('tensorflow' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_layout_sorts_fields_by_how_they_enter():
    layout = FieldLayout.of(SCHEMA, (Relation(left="user_id", right="age"),))
    assert layout.singles == ("user_id", "item_id", "age", "hour", "user_age")
    assert layout.lists == ("tags",)
    assert layout.dense == ("price",)
    assert layout.relations == ("user_id__age",)
    assert layout.keyed == (*layout.singles, "tags")


def test_a_layout_follows_the_order_of_the_schema():
    fields = (
        Numeric(name="n"),
        MultiValued(name="l"),
        Categorical(name="b"),
        Categorical(name="a"),
        Cross(name="c", of=("a", "b")),
    )
    schema = Schema(label="y", user="u", item="i", timestamp=Timestamp(column="t"), fields=fields)
    assert FieldLayout.of(schema) == FieldLayout(
        singles=("b", "a", "c"), lists=("l",), dense=("n",), relations=()
    )


@pytest.mark.parametrize("right", ["tags", "price", "nobody"])
def test_relations_join_single_valued_id_fields_only(right):
    with pytest.raises(InputError, match=right):
        FieldLayout.of(SCHEMA, (Relation(left="user_id", right=right),))
