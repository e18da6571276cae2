"""The dense part in TensorFlow: an MLP, its loss and gradients, and Adam. Runs in TensorFlow 2.16 and later."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from elastic_peers.worker import Step
from elastic_peers.workload import Layers, Traffic, Workload, initial_layers

LEARNING_RATE, BETA_1, BETA_2, EPSILON = 1e-3, 0.9, 0.999, 1e-8


class DenseTf:
    """ReLU layers to one logit, with Adam as TensorFlow's fused kernel (`ResourceApplyAdam`)."""

    def __init__(self, layers: Layers) -> None:
        self.variables = [tf.Variable(array) for layer in layers for array in layer]
        self._moments = [
            (tf.Variable(tf.zeros_like(v)), tf.Variable(tf.zeros_like(v))) for v in self.variables
        ]
        self._steps = tf.Variable(0, dtype=tf.int64)

    def logits(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return float32 [batch] for inputs float32 [batch, fields · dim]."""
        *hidden, last = zip(self.variables[::2], self.variables[1::2], strict=True)
        for weights, bias in hidden:
            inputs = tf.nn.relu(tf.matmul(inputs, weights) + bias)
        return tf.squeeze(tf.matmul(inputs, last[0]) + last[1], axis=1)

    def loss_and_gradients(
        self, inputs: tf.Tensor, labels: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """Return the mean loss, its gradient by the inputs and those by the variables."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([inputs, *self.variables])
            loss = mean_loss(labels, self.logits(inputs))
        by_inputs, *by_variables = tape.gradient(loss, [inputs, *self.variables])
        return loss, by_inputs, by_variables

    def apply(self, gradients: Sequence[tf.Tensor]) -> tf.Tensor:
        """Take one step of Adam on the variables; return how many were taken, int64."""
        steps = self._steps.assign_add(1)
        power_1, power_2 = (
            tf.cast(tf.cast(beta, tf.float64) ** tf.cast(steps, tf.float64), tf.float32)
            for beta in (BETA_1, BETA_2)
        )
        for variable, (m, v), gradient in zip(
            self.variables, self._moments, gradients, strict=True
        ):
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle, m=m.handle, v=v.handle, beta1_power=power_1, beta2_power=power_2,
                lr=LEARNING_RATE, beta1=BETA_1, beta2=BETA_2, epsilon=EPSILON, grad=gradient,
            )  # fmt: skip
        return steps


def mean_loss(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return the mean sigmoid cross-entropy, a scalar."""
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits))


def dense_step(work: Workload, drawn: Traffic, mlp: str) -> Step:
    """Return the dense part alone: forward, gradients of variables and input, Adam, on a ready random input."""
    dense = DenseTf(initial_layers(work, mlp))
    inputs = tf.random.stateless_uniform(
        [work.batch, work.fields * work.dim], [work.seed, 0], -0.01, 0.01
    )
    labels = [tf.constant(label) for label in drawn.labels]

    @tf.function
    def step(inputs: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Take one step; return its loss."""
        loss, by_inputs, by_variables = dense.loss_and_gradients(inputs, label)
        dense.apply(by_variables)
        return (
            loss,
            by_inputs,
        )  # returned, or the graph would drop the gradient that an embedding needs

    return lambda number: float(step(inputs, labels[number])[0])
