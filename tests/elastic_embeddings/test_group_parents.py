"""Without penalties a rule equals Keras' optimizer on a dense variable with all rows in each step.

Keras' Adam adds epsilon to √v without bias correction, as this one does. Its Adagrad adds epsilon
to the sum under the root, so the initial accumulator is higher by it here. Its Ftrl starts with
z = 0, as this one does with `keep_initial=False`.
"""

import numpy as np
import pytest
import tensorflow as tf
from optimizer_executions import GraphRows, HostRows, RowBatch

from elastic_embeddings.optimizers.learning_rates import CosineDecay, ExponentialDecay
from elastic_embeddings.optimizers.rules import (
    GroupAdagrad,
    GroupAdam,
    GroupAMSGrad,
    GroupFTRL,
    RowwiseGroupAdagrad,
)

ROWS, STEPS = 6, 300
keras = tf.keras.optimizers

PARENTS = {
    "adam": (GroupAdam(1e-3), lambda: keras.Adam(1e-3, epsilon=1e-8), 8),
    "adam, large epsilon": (
        GroupAdam(1e-3, epsilon=1e-3),
        lambda: keras.Adam(1e-3, epsilon=1e-3),
        8,
    ),
    "amsgrad": (GroupAMSGrad(1e-3), lambda: keras.Adam(1e-3, epsilon=1e-8, amsgrad=True), 8),
    "adagrad": (
        GroupAdagrad(0.01, 0.1 + 1e-7),
        lambda: keras.Adagrad(0.01, initial_accumulator_value=0.1, epsilon=1e-7),
        8,
    ),
    "ftrl": (GroupFTRL(0.01, keep_initial=False), lambda: keras.Ftrl(0.01), 8),
    "ftrl, l1, l2 and beta": (
        GroupFTRL(0.01, beta=0.3, l1=0.2, l2=0.1, keep_initial=False),
        lambda: keras.Ftrl(
            0.01, beta=0.3, l1_regularization_strength=0.2, l2_regularization_strength=0.1
        ),
        8,
    ),
    "row-wise adagrad of width 1": (
        RowwiseGroupAdagrad(0.01),
        lambda: keras.Adagrad(0.01, 0.1, epsilon=1e-12),
        1,
    ),
    "adam, exponential decay": (
        GroupAdam(ExponentialDecay(3e-3, 0.5, 100)),
        lambda: keras.Adam(keras.schedules.ExponentialDecay(3e-3, 100, 0.5), epsilon=1e-8),
        8,
    ),
    "adagrad, cosine decay": (
        GroupAdagrad(CosineDecay(0.01, 200, 0.1), 0.1 + 1e-7),
        lambda: keras.Adagrad(keras.schedules.CosineDecay(0.01, 200, 0.1), 0.1, epsilon=1e-7),
        8,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "parent", "dim"), PARENTS.values(), ids=PARENTS.keys())
def test_without_group_strength_it_is_the_parent(rule, parent, dim):
    rng = np.random.default_rng(1)
    start = rng.uniform(-0.1, 0.1, (ROWS, dim)).astype(np.float32)
    dense, optimizer, ours = (
        tf.Variable(start),
        parent(),
        [HostRows(rule, start), GraphRows(rule, start)],
    )
    rows = np.arange(1, ROWS + 1, dtype=np.int32)
    for t in range(1, STEPS + 1):
        g = rng.normal(size=(ROWS, dim)).astype(np.float32)
        optimizer.apply_gradients([(tf.constant(g), dense)])
        for execution in ours:
            execution.learn(RowBatch(rows, rows - 1, g, np.full(ROWS, t, np.int32)), t)
    for execution in ours:
        np.testing.assert_allclose(execution.weights[1:], dense, rtol=0, atol=1e-6)
    assert np.abs(dense.numpy() - start).max() > 1e-2
