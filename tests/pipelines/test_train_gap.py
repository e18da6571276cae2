"""How old the checkpoint is that a day starts from."""

from datetime import date

import pytest
from tiny_days import make_context

from pipelines.stages.train import gap_days
from pipelines.store.artifacts import Store


@pytest.mark.parametrize(
    ("before", "day", "gap"),
    [
        (date(2026, 1, 1), date(2026, 1, 2), 1),
        (date(2026, 1, 1), date(2026, 1, 5), 4),
        (date(2025, 12, 28), date(2026, 1, 5), 8),
        (date(2024, 2, 28), date(2024, 3, 1), 2),
    ],
)
def test_a_gap_is_counted_in_days(tmp_path, before, day, gap):
    store = Store(tmp_path)
    with store.staging("checkpoint", before, "v") as out:
        (out / "data.txt").write_text("learned")
        checkpoint = store.publish(
            out, "checkpoint", before, "v", {"stage": "train", "inputs": {}, "metrics": {}}
        )
    assert gap_days(make_context(tmp_path, day), checkpoint) == gap


def test_without_a_checkpoint_there_is_no_gap(tmp_path):
    assert gap_days(make_context(tmp_path), None) == 1
