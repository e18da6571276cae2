"""One model, its elastic table and its optimizer: learning batches and scoring without learning."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from elastic_embeddings.optimizers.optimizer import Optimizer
from elastic_embeddings.slabs.tensors import as_tensor
from training.data.arrays import Arrays
from training.data.inputs import Inputs
from training.fit.grouped_table import StepRows
from training.fit.inference import (
    Forward,
    ForwardModel,
    batch_arguments,
    batch_signature,
    pool_flat,
    unpool_flat,
)
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
    """A batch whose rows are known.

    Attributes:
        rows: the table's part.
        arguments: what a step reads of the impressions beside their vectors, see `step_arguments`.
        size: impressions.
    """

    rows: Any
    arguments: tuple[tf.Tensor, ...]
    size: int


Table = TypeVar("Table", bound=StepRows)


class Learner(Generic[Table]):
    """Learns and scores with one model over one table, or one a group of fields.

    A step gathers the vectors of the batch's keys, takes one `GraphStep` from there to the loss and back, and hands the vectors'
    gradients to the table. The dense weights learn in the graph, by the same rule without group penalties.
    """

    def __init__(self, model: Model, table: Table, optimizer: Optimizer, seed: int = 0) -> None:
        self.model = model
        self.table = table
        self.optimizer = optimizer
        self.slots = {
            name: {
                slot: tf.Variable(tf.zeros_like(variable), trainable=False)
                for slot in optimizer.slot_names
            }
            for name, variable in model.variables_by_name().items()
        }
        self._seed = seed
        self._step = GraphStep([self])
        self._forward = Forward(model, table.lookup_all)

    def prepare(self, inputs: Inputs) -> Prepared:
        """Find or make the rows of a batch; host only, so it may run ahead of `learn` in another thread."""
        rows = self.table.prepare(inputs.flat_keys(), inputs.flat_fields(), ahead=True)
        return Prepared(rows, step_arguments(inputs), len(inputs))

    def learn(self, prepared: Prepared) -> float:
        """Take one step on a prepared batch and return its mean log loss before the step.

        The loss is weighted by `Inputs.loss_weights` and taken of logit + `Inputs.log_odds_shift`: the model's own logit is
        that of the stream which the batch was drawn from.
        """
        return self._step.take([prepared])[0]

    def predict(self, inputs: Inputs) -> NDArray[np.float32]:
        """Return click probabilities float32 [n]; no row is made, counted or changed."""
        return self._forward.probabilities(inputs)

    def step_graph(
        self, flat: Mapping[str, tf.Tensor], arguments: Sequence[tf.Tensor], step: tf.Tensor
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Learn the dense weights; return the mean log loss before, and the gradients of the vectors. A graph operation.

        Args:
            flat: float32 [m, width] by slab, in the order of `Inputs.flat_keys`.
            arguments: as `step_arguments` gives them.
            step: int64 [], 1 at the first step.
        """
        segments, dense, cross, label, weight, shift = arguments
        variables, batch = self.model.variables_by_name(), tf.shape(label)[0]
        pooled = pool_flat(self.model, flat, segments, batch)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch((pooled, variables))
            logits = self.model.forward(
                pooled, dense, cross, tf.stack([tf.constant(self._seed, tf.int64), step * _LAYERS])
            )
            errors = tf.expand_dims(weight, 1) * log_losses(label, logits + shift)
            loss, objective = tf.reduce_mean(errors), tf.reduce_mean(tf.reduce_sum(errors, axis=1))
            objective += self.model.penalty() if isinstance(self.model, Penalised) else 0.0
        gradients, dense_gradients = tape.gradient(objective, (pooled, variables))
        self.apply_dense(dense_gradients, step)
        return loss, unpool_flat(self.model, gradients, segments, batch)

    def apply_dense(self, gradients: Mapping[str, tf.Tensor], step: tf.Tensor) -> None:
        """Take one optimizer step on the dense weights. A graph operation.

        They are updated as one vector: the same arithmetic as weight by weight, in a fraction of the operations.

        Args:
            gradients: by weight, shaped as these.
            step: int64 [], 1 at the first step.
        """
        variables = self.model.variables_by_name()

        def joined(tensors: Iterable[tf.Tensor]) -> tf.Tensor:
            return tf.concat(
                [
                    tensor if len(tensor.shape) == 1 else tf.reshape(tensor, [-1])
                    for tensor in tensors
                ],
                axis=0,
            )

        states = {
            slot: [self.slots[name][slot] for name in variables]
            for slot in self.optimizer.slot_names
        }
        before = {slot: joined(state) for slot, state in states.items()}
        weights, slots = self.optimizer.update(
            joined(variables.values()), before, joined(gradients[name] for name in variables), step
        )
        for targets, vector in [
            (list(variables.values()), weights),
            *((states[slot], slots[slot]) for slot in states),
        ]:
            parts = tf.split(vector, [target.shape.num_elements() for target in targets])
            for target, part in zip(targets, parts, strict=True):
                target.assign(part if len(target.shape) == 1 else tf.reshape(part, target.shape))


class GraphStep:
    """A step of one learner, or of several that read the same impressions: one graph, run by one call.

    TensorFlow's own call of a `tf.function` binds its arguments to a signature in Python, which takes as long as the graph
    of a small batch. `StatefulPartitionedCall`, the operation behind it, takes the flat list of tensors and runs on the
    thread that calls it.

    Args:
        learners: read the same layout; each one's table and weights are its own.
    """

    def __init__(self, learners: Sequence[Learner[Any]]) -> None:
        self._learners = learners
        self._slabs = [sorted(learner.model.slabs) for learner in learners]
        self._graph: Any = None

    def take(self, batches: Sequence[Prepared]) -> list[float]:
        """Let each learner take a step on its preparation of the same impressions; return the losses before it."""
        self._graph = self._graph or self._traced()
        vectors, begun = [], []
        for learner, slabs, batch in zip(self._learners, self._slabs, batches, strict=True):
            begun.append(learner.table.begin(batch.rows))
            found = learner.table.gather_all(begun[-1])
            vectors += [as_tensor(found[name]) for name in slabs]
        steps = tf.constant([learner.table.step + 1 for learner in self._learners], tf.int64)
        losses, *gradients = tf.raw_ops.StatefulPartitionedCall(
            args=[*vectors, *batches[0].arguments, steps, *self._graph.captured_inputs],
            Tout=[output.dtype for output in self._graph.outputs],
            f=self._graph,
        )
        for learner, slabs, batch in zip(self._learners, self._slabs, begun, strict=True):
            own, gradients = gradients[: len(slabs)], gradients[len(slabs) :]
            learner.table.apply(batch, dict(zip(slabs, own, strict=True)))
        return [float(loss) for loss in losses.numpy()]

    def _traced(self) -> Any:
        models = [learner.model for learner in self._learners]
        vectors = [
            tf.TensorSpec([None, m.slabs[s]], tf.float32)
            for m, slabs in zip(models, self._slabs, strict=True)
            for s in slabs
        ]
        row, shift = tf.TensorSpec([None], tf.float32), tf.TensorSpec([], tf.float32)
        steps = tf.TensorSpec([len(models)], tf.int64)
        signature = [*vectors, *batch_signature(models[0].layout), row, row, shift, steps]
        return tf.function(
            self._of_all, input_signature=signature, autograph=False
        ).get_concrete_function()

    def _of_all(self, *flat: tf.Tensor) -> list[tf.Tensor]:
        """The graph: losses float32 [learners], then the gradients of the vectors, in the order of the arguments."""
        *tensors, steps = flat
        count = sum(map(len, self._slabs))
        vectors, arguments = iter(tensors[:count]), tensors[count:]
        losses, gradients = [], []
        for number, (learner, slabs) in enumerate(zip(self._learners, self._slabs, strict=True)):
            loss, own = learner.step_graph(
                {name: next(vectors) for name in slabs}, arguments, steps[number]
            )
            losses.append(loss)
            gradients += [own[name] for name in slabs]
        return [tf.stack(losses), *gradients]


def step_arguments(inputs: Inputs) -> tuple[tf.Tensor, ...]:
    """Return what a step reads of impressions beside their keys' vectors: segments, numbers, p_uv, label, weight, shift."""
    target = inputs.label, inputs.loss_weights(), np.float32(inputs.log_odds_shift)
    return tuple(map(tf.constant, (*batch_arguments(inputs), *target)))


Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    function: Callable[[Item], Result], items: Iterable[Item], depth: int = 2
) -> Iterator[Result]:
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


def log_losses(label: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Log losses float32 [b, members] of labels [b] and logits [b], or [b, members] where a fusion's members learn apart."""
    columns = logits if logits.shape.rank == 2 else tf.expand_dims(logits, 1)
    labels = tf.broadcast_to(tf.expand_dims(label, 1), tf.shape(columns))

    @tf.custom_gradient
    def losses(columns: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        """The losses, and their gradient, which a tape takes from a dozen operations of the stable formula."""
        found = tf.nn.sigmoid_cross_entropy_with_logits(labels, columns)
        return found, lambda upstream: upstream * (tf.sigmoid(columns) - labels)

    return losses(columns)
