"""Decay: decay · x is added to the gradient of each row once, more often for rare rows."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from optimizer_executions import GraphRows, HostRows, RowBatch, batches

from elastic_embeddings.optimizers.rules import (
    GroupAdagrad,
    GroupAdam,
    GroupAMSGrad,
    GroupFTRL,
    RowwiseGroupAdagrad,
)
from features.errors import InputError

DIM, ROWS, STEPS, DECAY = 4, 16, 60, 0.3
RULES = [
    GroupAdam(0.05),
    GroupAMSGrad(0.05),
    GroupAdagrad(0.05),
    GroupFTRL(0.05),
    RowwiseGroupAdagrad(0.05),
]


def pulled(batch: RowBatch, weights: np.ndarray, step: int, most: int) -> RowBatch:
    """The batch with decay · x, times the factor of rare rows, added to each first occurrence."""
    gradients = batch.gradients.copy()
    _, first = np.unique(batch.inverse, return_index=True)
    steps = np.clip(step / np.maximum(batch.counts, 1), 1, most).astype(np.float32)
    gradients[first] += np.float32(DECAY) * steps[:, np.newaxis] * weights[batch.rows]
    return replace(batch, gradients=gradients)


@pytest.mark.slow
@pytest.mark.parametrize("most", [1, 5])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("execution", [HostRows, GraphRows])
def test_decay_is_the_gradient_of_half_the_squared_norm_once_a_step_it_stands_for(
    rule, execution, most
):
    rng = np.random.default_rng(3)
    start = rng.uniform(-0.3, 0.3, (ROWS, DIM)).astype(np.float32)
    decayed, plain = (
        execution(replace(rule, decay=DECAY, decay_steps=most), start),
        execution(rule, start),
    )
    for step, batch in enumerate(batches(rng, ROWS, DIM, STEPS), start=1):
        plain.learn(pulled(batch, plain.weights, step, most), step)
        decayed.learn(batch, step)
        np.testing.assert_allclose(decayed.weights, plain.weights, rtol=1e-5, atol=1e-6)


def test_without_other_gradients_a_row_fades_and_one_that_is_not_in_the_batch_stays():
    start = np.full((2, DIM), 0.5, np.float32)
    rows = HostRows(GroupAdam(0.01, decay=1.0), start)
    only_first = RowBatch(
        np.array([1], np.int32),
        np.zeros(1, np.int32),
        np.zeros((1, DIM), np.float32),
        np.ones(1, np.int32),
    )
    for step in range(1, 101):
        rows.learn(only_first, step)
    assert np.abs(rows.weights[1]).max() < 0.1
    np.testing.assert_array_equal(rows.weights[2], start[1])


def test_a_negative_decay_is_refused():
    with pytest.raises(InputError, match="decay"):
        GroupAdam(decay=-0.1)
    with pytest.raises(InputError, match="decay_steps"):
        GroupAdam(decay_steps=0)


def test_rare_rows_need_counts_in_a_graph():
    one, slots = tf.zeros([1, 2]), {name: tf.zeros([1, 2]) for name in ("z", "m", "v")}
    with pytest.raises(InputError, match="counts"):
        GroupAdam(decay=0.1, decay_steps=5).update(one, slots, one, tf.constant(1))
