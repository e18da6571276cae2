"""How old the checkpoint is that a day starts from, and the device that it is trained on."""

import fcntl
import tempfile
from datetime import date

import pytest
import tensorflow as tf
from tiny_days import DAYS, make_context, publish

from features.errors import RetryableError
from features.partition import Hour
from pipelines.stages.train import days_missing, device, gap_days, warm_start
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
@pytest.mark.covers("H4", "F5")
def test_a_gap_is_counted_in_days(tmp_path, before, day, gap):
    store = Store(tmp_path)
    with store.staging("checkpoint", before, "v") as out:
        (out / "data.txt").write_text("learned")
        checkpoint = store.publish(
            out, "checkpoint", before, "v", {"stage": "train", "inputs": {}, "metrics": {}}
        )
    assert gap_days(make_context(tmp_path, day), checkpoint) == gap
    assert days_missing(make_context(tmp_path, day), checkpoint) == gap - 1
    assert days_missing(make_context(tmp_path, Hour(day, 6)), checkpoint) == gap - 1 + 0.25


def test_without_a_checkpoint_there_is_no_gap(tmp_path):
    assert gap_days(make_context(tmp_path), None) == 1
    assert days_missing(make_context(tmp_path), None) == 0


@pytest.mark.covers("F24")
def test_a_day_that_needs_a_gpu_is_not_trained_without_one():
    """Fault F24: without a GPU the CPU was used in silence."""
    refused = pytest.raises(RetryableError, match=r"training\.device is gpu, and TensorFlow finds")
    with refused, device("gpu", print):
        pass
    for wanted in ("auto", "cpu"):
        with device(wanted, print):
            assert tf.config.get_visible_devices("GPU") == []


@pytest.mark.covers("F24")
def test_trainings_take_turns_on_a_gpu(monkeypatch, tmp_path):
    """A machine with one GPU, as TensorFlow reports it; the lease is a real one."""
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda _kind: ["GPU:0"])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = tmp_path / "elastic-ctr-gpu" / ".lease"

    def free():
        with path.open("a") as other:
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    with device("gpu", print):
        assert not free()
    assert free()


@pytest.mark.covers("audit-P09")
def test_the_held_out_slice_is_that_of_the_impressions_which_the_checkpoint_trained_on(tmp_path):
    """Mutant P09: late rows make another version of the day, with another held-out slice."""
    overrides = ["training.unvalidated_parent=true"]
    context = make_context(tmp_path, DAYS[1], overrides)
    trained = publish(context.store, "impressions", DAYS[0], "trained")
    checkpoint = publish(context.store, "checkpoint", DAYS[0], inputs=[trained])
    publish(context.store, "impressions", DAYS[0], "late")
    found = warm_start(context)
    assert found["checkpoint"].hash == checkpoint.hash
    assert found["previous_impressions"].hash == "trained"
