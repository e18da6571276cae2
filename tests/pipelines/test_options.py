"""`--date champion` is the day of the serving model; `--plan` replaces `compression`."""

import pytest
import yaml
from tiny_days import DAYS, make_context, promote_candidate

from features.errors import InputError
from pipelines.cli.options import day_or_champion, with_plan


@pytest.fixture
def context(tmp_path):
    return make_context(tmp_path)


def test_a_date_is_itself_and_champion_is_the_day_of_the_serving_model(mlflow_here, context):
    store = context.store
    promote_candidate(context, DAYS[0])
    promote_candidate(context, DAYS[1])
    promote_candidate(context, DAYS[2], "refused")
    assert day_or_champion("champion", store) == DAYS[1]
    assert day_or_champion("2026-01-01", store) == DAYS[0]


def test_without_a_champion_the_hint_is_named(context):
    with pytest.raises(InputError, match=r"no model was promoted in .*run the chain"):
        day_or_champion("champion", context.store)


def test_a_plan_replaces_the_whole_section_after_other_overrides(tmp_path):
    plan = {
        "compression": {
            "zero_tolerance": 0.0,
            "steps": [{"kind": "prune_rows", "keep": 0.25}, {"kind": "quantize"}],
        }
    }
    (tmp_path / "plan.yaml").write_text("# a remark\n" + yaml.safe_dump(plan))
    overrides = with_plan(
        ["compression.zero_tolerance=0.5", "training.seed=3"], tmp_path / "plan.yaml"
    )
    config = make_context(tmp_path, overrides=overrides).config
    assert config.training.seed == 3
    assert config.compression.zero_tolerance == 0
    assert [step.kind for step in config.compression.steps] == ["prune_rows", "quantize"]
    assert with_plan(["a=1"], None) == ["a=1"]


@pytest.mark.parametrize("text", ["", "steps: []", "compression: {}\nmodel: {}", "{"])
def test_what_is_no_plan_is_refused(text, tmp_path):
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(InputError, match=r"plan\.yaml"):
        with_plan([], tmp_path / "plan.yaml")


def test_a_missing_plan_is_refused(tmp_path):
    with pytest.raises(InputError, match="search-compression"):
        with_plan([], tmp_path / "nowhere.yaml")
