"""A candidate with other settings is compared with the champion's, trained on the same day."""

import json
from datetime import date

import pytest
from worlds import LAST, SMALL, copy_world

pytestmark = [pytest.mark.slow, pytest.mark.covers("audit-M7")]
DAY = date.fromisoformat(LAST)


def validated(world):
    """Validate the last day with the configuration of a copy; return the verdict."""
    for stage in ("train", "compress", "export", "validate-model"):
        world.run(stage, "--config", str(world.config), "--date", LAST)
    return json.loads((version(world).path / "verdict.json").read_text())


def version(world):
    return world.store.current("validation_report", DAY)


def test_other_settings_must_not_be_worse_than_the_champions_on_the_same_day(world, tmp_path):
    """Audit M7: a day of freshness alone was worth 0.004 to 0.36 AUC, so worse settings passed."""
    # Settings that hardly learn; the gate otherwise lets everything pass.
    model = {**SMALL["model"], "dense": {"learning_rate": 1e-5}}
    gate = {**SMALL["model_gate"], "max_auc_drop_to_champion": 0.0001, "max_standard_errors": 0.001}
    copy = copy_world(world, tmp_path, {"model": model, "model_gate": gate})
    copy.run("rollback", "--to", "2", "--config", str(copy.config))
    verdict = validated(copy)

    # The champion's settings on that day are what the world has trained: a known answer.
    expected = world.store.current("checkpoint", DAY).metrics["auc"]
    assert verdict["metrics"]["auc_champion_recipe"] == expected
    check = next(c for c in verdict["checks"] if c["name"] == "auc_minus_champion_recipe")
    assert check["value"] == verdict["metrics"]["auc"] - expected
    names = set(version(copy).commit["inputs"])
    assert {"champion_checkpoint", "champion_heldout", f"recipe_day_{LAST}"} <= names


def test_settings_that_change_nothing_learned_are_no_other_recipe(world, tmp_path):
    copy = copy_world(world, tmp_path, {"training": {**SMALL["training"], "device": "cpu"}})
    copy.run("rollback", "--to", "2", "--config", str(copy.config))
    verdict = validated(copy)
    assert version(copy).commit["inputs"]["champion"]["day"] == "2026-01-02"
    assert "champion_checkpoint" not in version(copy).commit["inputs"]
    assert verdict["metrics"]["auc_champion_recipe"] is None
