"""One model, its elastic table and its optimizer: learning batches and scoring without learning."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from training.arrays import Arrays
from training.elastic.batch import Batch
from training.elastic.optimizers import GroupAdam
from training.elastic.table import ElasticTable
from training.forward import Forward, ForwardModel, batch_arguments, batch_signature, pool_flat
from training.inputs import Inputs
from training.layout import Layout
from training.models.blocks import Blocks, Weights


class Model(ForwardModel, Protocol):
    """What the learner needs of a model; `CtrModel` and `LogisticRegression` are ones."""

    @property
    def slabs(self) -> dict[str, int]:
        """Names and widths of the slabs."""

    def blocks(self) -> dict[str, Blocks]:
        """Which rows of which weight belong to which input."""

    def variables_by_name(self) -> dict[str, tf.Variable]:
        """The dense weights as variables."""

    def weights(self) -> Arrays:
        """The dense weights as arrays."""

    def load(self, weights: Weights) -> None:
        """Set the dense weights."""


@dataclass(frozen=True)
class Prepared:
    """A batch whose rows are known: the table's part and the model's inputs."""

    rows: Batch
    inputs: Inputs


class Learner:
    """Learns and scores with one model over one table.

    The step is one `tf.function`: gather the batch's distinct rows, forward, gradients of those rows only, the row
    update, and the same rule without group penalties for the dense weights.
    """

    def __init__(self, model: Model, table: ElasticTable, optimizer: GroupAdam, seed: int = 0) -> None:
        self.model = model
        self.table = table
        self.optimizer = optimizer
        self.slots = {
            name: {slot: tf.Variable(tf.zeros_like(variable), trainable=False) for slot in optimizer.slot_names}
            for name, variable in model.variables_by_name().items()
        }
        self._seed = seed
        self._step = tf.function(self._learn, input_signature=_learning_signature(model.layout), autograph=False)
        self._forward = Forward(model, table.find, {name: slab.gather for name, slab in table.slabs.items()})

    def prepare(self, inputs: Inputs) -> Prepared:
        """Find or make the rows of a batch; host only, so it may run ahead of `learn` in another thread."""
        return Prepared(self.table.prepare(inputs.flat_keys()), inputs)

    def learn(self, prepared: Prepared) -> float:
        """Take one step on a prepared batch and return its mean log loss before the step."""
        self.table.materialise(prepared.rows)
        inputs = prepared.inputs
        loss = self._step(prepared.rows.rows, prepared.rows.inverse, *batch_arguments(inputs), inputs.label)
        return float(loss)

    def predict(self, inputs: Inputs) -> NDArray[np.float32]:
        """Return click probabilities float32 [n]; no row is made, counted or changed."""
        return self._forward.probabilities(inputs)

    def _learn(
        self,
        rows: tf.Tensor,
        inverse: tf.Tensor,
        segments: tf.Tensor,
        dense: tf.Tensor,
        cross: tf.Tensor,
        label: tf.Tensor,
    ) -> tf.Tensor:
        step = self.table.step.assign_add(1)
        gathered = {name: slab.gather(rows) for name, slab in self.table.slabs.items()}
        variables = self.model.variables_by_name()
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch((gathered, variables))
            flat = {name: tf.gather(vectors, inverse) for name, vectors in gathered.items()}
            pooled = pool_flat(self.model.layout, flat, segments, tf.shape(label)[0])
            logits = self.model.forward(pooled, dense, cross, tf.stack([tf.constant(self._seed, tf.int64), step * _LAYERS]))
            loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(label, logits))
        row_gradients, dense_gradients = tape.gradient(loss, (gathered, variables))
        for name, slab in self.table.slabs.items():
            slab.apply(rows, tf.convert_to_tensor(row_gradients[name]), step)
        self._apply_dense(variables, dense_gradients, step)
        return loss

    def _apply_dense(self, variables: Mapping[str, tf.Variable], gradients: Mapping[str, tf.Tensor], step: tf.Tensor) -> None:
        for name, variable in variables.items():
            slots = {slot: state.read_value() for slot, state in self.slots[name].items()}
            weights, slots = self.optimizer.update(variable.read_value(), slots, gradients[name], step)
            variable.assign(weights)
            for slot, state in self.slots[name].items():
                state.assign(slots[slot])


Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(function: Callable[[Item], Result], items: Iterable[Item], depth: int = 2) -> Iterator[Result]:
    """Yield `function(item)` in order, computed up to `depth` items ahead in one other thread.

    One thread works in order, so the results are those of a plain loop.
    """
    with ThreadPoolExecutor(max_workers=1) as thread:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(thread.submit(function, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


_LAYERS = 1 << 10
"""Room for a dropout seed of its own per layer."""


def _learning_signature(layout: Layout) -> list[tf.TensorSpec]:
    return [tf.TensorSpec([None], tf.int32), *batch_signature(layout), tf.TensorSpec([None], tf.float32)]
