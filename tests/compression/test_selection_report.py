"""From checkpoint and partitions to a selection: dropped noise costs nothing, signal does."""

import json

import numpy as np
import pytest
from planted_fields import (
    MODEL,
    NOISE_USES,
    RECIPE,
    RELATIONS,
    SCHEMA,
    SIGNAL_USES,
    TRAINING,
    write_planted_checkpoint,
    write_planted_day,
)

from compression.selection.footprint import Budget
from compression.selection.ranking import SelectionData, rank_fields, read_split
from compression.selection.report import FieldSelection, run_trial
from compression.settings import SelectionSettings
from features.errors import InputError
from features.schema import Schema
from training.fit.model_and_baseline import LearnerConfig

pytestmark = pytest.mark.slow

SETTINGS = SelectionSettings(learning_rate=0.03)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A checkpoint of one day and the two days after it."""
    folder = tmp_path_factory.mktemp("planted")
    days = [write_planted_day(folder / f"day{n}", 5000, seed=n) for n in (1, 2, 3)]
    return SelectionData(
        write_planted_checkpoint(folder / "checkpoint", days[0]), (days[1], days[2])
    )


def pruned(kept):
    fields = [f.model_dump() for f in SCHEMA.fields if f.name in kept]
    return LearnerConfig(
        Schema.model_validate(SCHEMA.model_dump() | {"fields": fields}), MODEL, TRAINING, ()
    )


@pytest.fixture(scope="module")
def full(source):
    return run_trial(source, RECIPE)


def test_the_last_slice_of_the_last_day_is_held_out(source):
    split = read_split(source, RECIPE)
    assert [len(part) for part in split.train] == [5000, 4000]
    assert (len(split), len(split.heldout)) == (9000, 1000)


def test_dropping_noise_costs_nothing(source, full):
    trial = run_trial(source, pruned(SIGNAL_USES))
    assert full.inherited.auc > 0.75
    assert trial.inherited.auc > full.inherited.auc - 0.01
    assert trial.tuned.auc > full.tuned.auc - 0.005
    assert trial.tuned.log_loss < full.tuned.log_loss + 0.005


def test_dropping_signal_costs_and_fine_tuning_wins_some_of_it_back(source, full):
    trial = run_trial(source, pruned((*SIGNAL_USES[1:], *NOISE_USES)))
    assert trial.tuned.auc < full.tuned.auc - 0.02
    assert trial.tuned.log_loss < trial.inherited.log_loss


def test_nothing_dropped_is_the_checkpoint_itself(source, full):
    again = run_trial(source, pruned((*SIGNAL_USES, *NOISE_USES)))
    assert again == full


@pytest.mark.covers("data-2")
def test_half_of_the_fields_are_noise_and_go(source, full):
    ranking = rank_fields(source, RECIPE, SETTINGS)
    kept = FieldSelection.kept_of(ranking, RECIPE, Budget(keep=len(SIGNAL_USES)))
    assert kept == set(SIGNAL_USES)
    found = FieldSelection("fscd", ranking, kept, full, run_trial(source, pruned(kept)))
    lines = list(found.lines())
    assert [line.name for line in lines] == list(ranking.order())
    assert [line.kept for line in lines] == [True] * 4 + [False] * 6
    assert all(
        line.score == pytest.approx(0.05 * line.online + 0.005 * line.width + 1e-7 * line.rows)
        for line in lines
    )
    assert all(line.prior == pytest.approx(1 / (1 + np.exp(line.score))) for line in lines)
    whole, left = found.sizes()
    assert (whole.count, left.count) == (10, 4)
    assert left.bytes < 0.5 * whole.bytes
    document = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert document["kept"] == sorted(SIGNAL_USES)
    assert [t["bytes"] for t in document["trials"]] == [
        whole.bytes,
        whole.bytes,
        left.bytes,
        left.bytes,
    ]
    assert document["auc_difference"] == pytest.approx(found.pruned.tuned.auc - full.tuned.auc)
    assert {
        "auc_full",
        "auc_pruned_fine_tuned",
        "bytes_pruned",
        "cost_full",
    } <= found.metrics().keys()


def test_a_held_out_slice_of_one_class_has_no_auc(source, full):
    undefined = type(full)(type(full.tuned)(float("nan"), 0.1), full.tuned)
    found = FieldSelection(
        "fscd", rank_fields(source, RECIPE, SETTINGS), frozenset(SIGNAL_USES), undefined, full
    )
    assert "auc_full" not in found.metrics()
    assert found.as_dict()["trials"][0]["auc"] is None


def test_a_relation_is_ranked_as_a_field_is(tmp_path):
    recipe = LearnerConfig(SCHEMA, MODEL, TRAINING, RELATIONS)
    days = [write_planted_day(tmp_path / f"day{n}", 600, seed=n) for n in (1, 2)]
    source = SelectionData(
        write_planted_checkpoint(tmp_path / "checkpoint", days[0], recipe), (days[1],)
    )
    found = rank_fields(source, recipe, SETTINGS)
    assert "signal_0__noise_0" in found.importance
    assert np.isfinite(list(found.importance.values())).all()


def test_a_missing_checkpoint_is_refused(tmp_path, source):
    with pytest.raises(InputError, match=r"model\.json"):
        rank_fields(SelectionData(tmp_path, source.partitions), RECIPE, SETTINGS)
