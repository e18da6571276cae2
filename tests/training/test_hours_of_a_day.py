"""Training by the hour: idle days stay days, and the previous hour's checkpoint is not stale."""

from dataclasses import replace

import pytest
from training_data import MODEL, SCHEMA, TRAINING, planted_day

from features.errors import InputError
from training.fit.trainer import TrainRequest, train_day
from training.settings import EvictionSettings, StalenessSettings

pytestmark = pytest.mark.slow


def test_idle_days_count_days_however_many_hours_are_learned(tmp_path):
    """Yesterday's items beyond the first eight are not in today's hours: evicted tomorrow only."""
    training = TRAINING.model_copy(update={"eviction": EvictionSettings(idle_days=1)})
    request = TrainRequest(SCHEMA, MODEL, training, (), planted_day(tmp_path / "yesterday", 0))
    train_day(request, tmp_path / "0")
    evicted = []
    for number, begins_day in enumerate((True, False, False, True), start=1):
        hour = planted_day(tmp_path / f"hour{number}", number, rows=200, items=8)
        before = tmp_path / f"{number - 1}"
        learned = replace(
            request,
            partition=hour,
            previous_checkpoint=before,
            gap_days=1 / 24,
            begins_day=begins_day,
        )
        evicted.append(train_day(learned, tmp_path / f"{number}")["table.evicted"])
    assert evicted[:3] == [0, 0, 0]
    assert evicted[3] > 30


def test_a_part_of_a_day_is_no_gap_and_a_day_and_an_hour_is_one(tmp_path):
    training = TRAINING.model_copy(
        update={"staleness": StalenessSettings(max_days=1, action="refuse")}
    )
    request = TrainRequest(SCHEMA, MODEL, training, (), planted_day(tmp_path / "0", 0, rows=200))
    train_day(request, tmp_path / "first")
    later = replace(request, previous_checkpoint=tmp_path / "first", gap_days=23 / 24)
    train_day(later, tmp_path / "second")
    with pytest.raises(InputError, match=r"the checkpoint is 1\.04 days older than the day"):
        train_day(replace(later, gap_days=25 / 24), tmp_path / "third")
