"""Schedules by hand, and the same in Python and in a graph."""

import json

import pytest
import tensorflow as tf

from elastic_embeddings.optimizers.learning_rates import (
    CosineDecay,
    ExponentialDecay,
    Warmup,
    rate_at,
)
from elastic_embeddings.optimizers.proximal import DynamicL1
from elastic_embeddings.optimizers.rules import GroupAdam
from elastic_embeddings.storage.header import as_plain, from_plain
from features.errors import InputError

SCHEDULES = [
    ExponentialDecay(0.1, 0.5, 10),
    CosineDecay(0.1, 20, 0.1),
    Warmup(0.1, 5),
    Warmup(CosineDecay(0.1, 20, 0.1), 5),
]


def test_exponential_decay_by_hand():
    rate = ExponentialDecay(0.8, 0.5, 10)
    assert [rate.at(step) for step in (1, 11, 21)] == pytest.approx([0.8, 0.4, 0.2])
    assert rate.at(6) == pytest.approx(0.8 * 0.5**0.5)


def test_cosine_decay_by_hand():
    rate = CosineDecay(1.0, 4, 0.2)
    assert [rate.at(step) for step in (1, 3, 5, 100)] == pytest.approx([1.0, 0.6, 0.2, 0.2])


def test_warmup_by_hand():
    rate = Warmup(0.8, 4)
    assert [rate.at(step) for step in (1, 2, 4, 9)] == pytest.approx([0.2, 0.4, 0.8, 0.8])
    assert Warmup(ExponentialDecay(0.8, 0.5, 10), 4).at(2) == pytest.approx(0.4 * 0.5**0.1)


@pytest.mark.parametrize("rate", SCHEDULES, ids=str)
def test_a_graph_computes_the_same(rate):
    in_graph = tf.function(rate.at)
    for step in (1, 2, 7, 21, 500):
        assert float(in_graph(tf.constant(step, tf.int64))) == pytest.approx(
            rate.at(step), rel=1e-12
        )


@pytest.mark.parametrize("rate", SCHEDULES, ids=str)
def test_a_schedule_and_its_optimizer_come_back_from_plain_data(rate):
    optimizer = GroupAdam(rate, l1=0.1, exact=True, dynamic_l1=DynamicL1(2.0, 5))
    assert from_plain(json.loads(json.dumps(as_plain(optimizer)))) == optimizer


def test_a_constant_is_a_rate():
    assert rate_at(0.3, 7) == 0.3


@pytest.mark.parametrize(
    "bad",
    [
        lambda: ExponentialDecay(0.0, 0.5, 1),
        lambda: ExponentialDecay(0.1, 1.5, 1),
        lambda: CosineDecay(0.1, 0),
        lambda: CosineDecay(0.1, 5, 0.0),
        lambda: Warmup(0.0, 5),
        lambda: Warmup(0.1, 0),
    ],
)
def test_rates_that_are_not_positive_are_refused(bad):
    with pytest.raises(InputError, match="must be"):
        bad()
