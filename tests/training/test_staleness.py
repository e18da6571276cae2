"""A checkpoint that is older than allowed, and learning rates that grow again after a gap."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from training_data import MODEL, SCHEMA, TRAINING, planted_day

from elastic_embeddings.optimizers.learning_rates import ExponentialDecay, Warmup
from elastic_embeddings.optimizers.rules import GroupAdam
from features.errors import InputError
from training.fit.checkpoints import read_checkpoint, read_description
from training.fit.policies import WarmupRestart, is_stale, starts_fresh
from training.fit.trainer import TrainRequest, train_day
from training.settings import StalenessSettings


@pytest.mark.parametrize(
    ("max_days", "gap_days", "stale"),
    [(None, 1000, False), (1, 1, False), (1, 2, True), (7, 7, False), (7, 8, True)],
)
def test_stale_is_older_than_allowed(max_days, gap_days, stale):
    assert is_stale(StalenessSettings(max_days=max_days), gap_days) is stale


@pytest.mark.parametrize("action", ["refuse", "warn", "fresh"])
def test_in_time_every_action_goes_on(action, caplog):
    assert not starts_fresh(StalenessSettings(max_days=3, action=action), 3)
    assert not caplog.records


def test_refusing_names_the_ages_and_the_cure():
    with pytest.raises(
        InputError, match=r"5 days .* allows 3; train the days between .*staleness\.action"
    ):
        starts_fresh(StalenessSettings(max_days=3, action="refuse"), 5)


@pytest.mark.parametrize(
    ("action", "fresh", "words"), [("warn", False, "going on"), ("fresh", True, "untrained model")]
)
def test_going_on_says_so(action, fresh, words, caplog):
    assert starts_fresh(StalenessSettings(max_days=3, action=action), 5) is fresh
    assert words in caplog.text


def test_a_rewarmed_rate_by_hand():
    rate = WarmupRestart(since=100, steps=4)(GroupAdam(learning_rate=0.2)).learning_rate
    assert [rate.at(step) for step in (101, 102, 104, 105, 1000)] == pytest.approx(
        [0.05, 0.1, 0.2, 0.2, 0.2]
    )
    assert float(rate.at(tf.constant(103, tf.int64))) == pytest.approx(0.15)
    assert rate.base == 0.2


def test_a_schedule_is_rewarmed_on_top_of_its_own_course():
    decay = ExponentialDecay(0.2, 0.5, 10)
    rate = WarmupRestart(since=10, steps=2)(GroupAdam(learning_rate=decay)).learning_rate
    assert rate.at(11) == pytest.approx(decay.at(11) / 2)
    assert rate.at(31) == pytest.approx(decay.at(31))


def test_a_warmup_cannot_begin_before_the_first_step():
    with pytest.raises(InputError, match="since"):
        Warmup(0.1, 4, since=-1)


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    folder = tmp_path_factory.mktemp("days")
    return [planted_day(folder / str(day), day, rows=600) for day in range(3)]


@pytest.fixture(scope="module")
def first(days, tmp_path_factory):
    out = tmp_path_factory.mktemp("first") / "checkpoint"
    train_day(TrainRequest(SCHEMA, MODEL, TRAINING, (), days[0]), out)
    return out


def after_a_gap(days, first, gap_days=5, **policy):
    training = TRAINING.model_copy(update={"staleness": StalenessSettings(**policy)})
    request = TrainRequest(SCHEMA, MODEL, training, (), days[1], previous_checkpoint=first)
    return replace(request, gap_days=gap_days)


def vectors(out):
    return read_checkpoint(out).vectors["deep"]


@pytest.mark.slow
def test_a_refused_checkpoint_leaves_nothing_behind(days, first, tmp_path):
    with pytest.raises(InputError, match="max_days"):
        train_day(after_a_gap(days, first, max_days=4, action="refuse"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_fresh_is_a_first_day(days, first, tmp_path):
    figures = train_day(after_a_gap(days, first, max_days=4, action="fresh"), tmp_path / "fresh")
    train_day(TrainRequest(SCHEMA, MODEL, TRAINING, (), days[1]), tmp_path / "first")
    np.testing.assert_array_equal(vectors(tmp_path / "fresh"), vectors(tmp_path / "first"))
    assert np.isnan(figures["auc_progressive"])


@pytest.fixture(scope="module")
def warming(days, first, tmp_path_factory):
    """A checkpoint after a gap, with a warm-up over a million steps: training hardly moves."""
    out = tmp_path_factory.mktemp("warming") / "checkpoint"
    train_day(after_a_gap(days, first, max_days=4, warmup_steps=1_000_000), out)
    return out


@pytest.mark.slow
def test_a_warm_up_shortens_the_steps_after_a_gap_alone(days, first, warming, tmp_path):
    """Without a gap there is none."""
    train_day(
        after_a_gap(days, first, gap_days=4, max_days=4, warmup_steps=1_000_000), tmp_path / "none"
    )
    train_day(after_a_gap(days, first), tmp_path / "plain")
    np.testing.assert_array_equal(vectors(tmp_path / "none"), vectors(tmp_path / "plain"))
    weights = {out.name: read_checkpoint(out).dense for out in (warming, tmp_path / "plain")}
    start = read_checkpoint(first).dense
    moved = {n: max(np.abs(w[k] - start[k]).max() for k in start) for n, w in weights.items()}
    assert moved[warming.name] < moved["plain"] / 20


@pytest.mark.slow
def test_the_day_after_a_warm_up_takes_full_steps_from_where_it_ended(days, warming, tmp_path):
    plain = TrainRequest(SCHEMA, MODEL, TRAINING, (), days[2], previous_checkpoint=warming)
    train_day(plain, tmp_path / "next")
    before, after = read_checkpoint(warming).dense, read_checkpoint(tmp_path / "next").dense
    assert read_description(tmp_path / "next").step > read_description(warming).step
    assert max(np.abs(after[k] - before[k]).max() for k in before) > MODEL.dense.learning_rate
