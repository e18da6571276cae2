"""One model, its elastic table and its optimizer: learning batches and scoring without learning."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from training.arrays import Arrays
from training.elastic.optimizers.optimizer import Optimizer
from training.elastic.slabs.tensors import as_tensor
from training.forward import Forward, ForwardModel, batch_arguments, batch_signature, pool_flat, vector_signature
from training.grouped_table import StepRows
from training.inputs import Inputs
from training.models.blocks import Blocks, Weights


class Model(ForwardModel, Protocol):
    """What the learner needs of a model; `CtrModel`, `FusionModel` and `GatedModel` are ones."""

    def blocks(self) -> dict[str, Blocks]:
        """Which rows of which weight belong to which input."""

    def variables_by_name(self) -> dict[str, tf.Variable]:
        """The dense weights as variables."""

    def weights(self) -> Arrays:
        """The dense weights as arrays."""

    def load(self, weights: Weights) -> None:
        """Set the dense weights."""

    def start_at(self, logit: float) -> None:
        """Set the bias of a model that has learned nothing yet."""


@runtime_checkable
class Penalised(Protocol):
    """A model that has something to learn for beside its predictions (`training.models.gates`)."""

    def penalty(self) -> tf.Tensor:
        """What learning adds to the mean log loss, float32 []."""


@dataclass(frozen=True)
class Prepared:
    """A batch whose rows are known: the table's part and the model's inputs."""

    rows: Any
    inputs: Inputs


Table = TypeVar("Table", bound=StepRows)


class Learner(Generic[Table]):
    """Learns and scores with one model over one table, or one a group of fields.

    A step gathers the vectors of the batch's keys, takes one `tf.function` from there to the loss and back, and hands the
    vectors' gradients to the table. The dense weights learn in the graph, by the same rule without group penalties.
    """

    def __init__(self, model: Model, table: Table, optimizer: Optimizer, seed: int = 0) -> None:
        self.model = model
        self.table = table
        self.optimizer = optimizer
        self.slots = {
            name: {slot: tf.Variable(tf.zeros_like(variable), trainable=False) for slot in optimizer.slot_names}
            for name, variable in model.variables_by_name().items()
        }
        self._seed = seed
        self._step = tf.function(self._learn, input_signature=_learning_signature(model), autograph=False)
        self._forward = Forward(model, table.lookup_all)

    def prepare(self, inputs: Inputs) -> Prepared:
        """Find or make the rows of a batch; host only, so it may run ahead of `learn` in another thread."""
        return Prepared(self.table.prepare(inputs.flat_keys(), inputs.flat_fields(), ahead=True), inputs)

    def learn(self, prepared: Prepared) -> float:
        """Take one step on a prepared batch and return its mean log loss before the step.

        The loss is weighted by `Inputs.loss_weights` and taken of logit + `Inputs.log_odds_shift`: the model's own logit is
        that of the stream which the batch was drawn from.
        """
        batch, inputs = self.table.begin(prepared.rows), prepared.inputs
        vectors = {name: as_tensor(found) for name, found in self.table.gather_all(batch).items()}
        step = tf.constant(self.table.step + 1, tf.int64)
        target = tf.constant(inputs.label), tf.constant(inputs.loss_weights()), tf.constant(inputs.log_odds_shift, tf.float32)
        loss, gradients = self._step(vectors, *map(tf.constant, batch_arguments(inputs)), *target, step)
        self.table.apply(batch, gradients)
        return float(loss)

    def predict(self, inputs: Inputs) -> NDArray[np.float32]:
        """Return click probabilities float32 [n]; no row is made, counted or changed."""
        return self._forward.probabilities(inputs)

    def _learn(
        self,
        flat: Mapping[str, tf.Tensor],
        segments: tf.Tensor,
        dense: tf.Tensor,
        cross: tf.Tensor,
        label: tf.Tensor,
        weight: tf.Tensor,
        shift: tf.Tensor,
        step: tf.Tensor,
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        variables = self.model.variables_by_name()
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch((flat, variables))
            pooled = pool_flat(self.model, flat, segments, tf.shape(label)[0])
            logits = self.model.forward(pooled, dense, cross, tf.stack([tf.constant(self._seed, tf.int64), step * _LAYERS]))
            errors = weight[:, tf.newaxis] * _log_losses(label, logits + shift)
            loss, objective = tf.reduce_mean(errors), tf.reduce_mean(tf.reduce_sum(errors, axis=1))
            objective += self.model.penalty() if isinstance(self.model, Penalised) else 0.0
        gradients, dense_gradients = tape.gradient(objective, (flat, variables))
        self._apply_dense(variables, dense_gradients, step)
        return loss, gradients

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


def _log_losses(label: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Log losses float32 [b, members] of labels [b] and logits [b], or [b, members] where a fusion's members learn apart."""
    columns = logits if logits.shape.rank == 2 else logits[:, tf.newaxis]
    return tf.nn.sigmoid_cross_entropy_with_logits(tf.broadcast_to(label[:, tf.newaxis], tf.shape(columns)), columns)


def _learning_signature(model: Model) -> list[object]:
    row, shift, step = tf.TensorSpec([None], tf.float32), tf.TensorSpec([], tf.float32), tf.TensorSpec([], tf.int64)
    return [vector_signature(model.slabs), *batch_signature(model.layout), row, row, shift, step]
