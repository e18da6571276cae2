"""One model, its elastic table and its optimizer: training steps and scoring."""

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
from elastic_embeddings.slabs.slab import as_tensor
from training.data.arrays import Arrays
from training.data.inputs import Inputs
from training.fit.grouped_table import StepRows
from training.fit.inference import (
    Forward,
    ForwardModel,
    batch_arguments,
    batch_signature,
    pool_ragged,
    unpool_ragged,
)
from training.models.weight_transfer import Blocks, Weights

_SEEDS_PER_STEP = 1 << 10
"""Distance of two steps' dropout seeds, so that each layer of a step has its own."""


class Model(ForwardModel, Protocol):
    """What a learner needs of a model: `CtrModel`, `FusionModel` and `GatedModel`."""

    def blocks(self) -> dict[str, Blocks]:
        """Which rows of which weight belong to which input."""

    def variables_by_name(self) -> dict[str, tf.Variable]:
        """The dense weights as variables."""

    def weights(self) -> Arrays:
        """The dense weights as arrays."""

    def load(self, weights: Weights) -> None:
        """Set the dense weights."""

    def start_at(self, logit: float) -> None:
        """Set the bias of an untrained model."""


@runtime_checkable
class HasPenalty(Protocol):
    """A model whose loss has a term besides the log loss (`training.models.gates`)."""

    def penalty(self) -> tf.Tensor:
        """Return what is added to the mean log loss, float32 []."""


@dataclass(frozen=True)
class PreparedBatch:
    """A batch whose rows are known.

    Attributes:
        rows: the table's prepared batch.
        arguments: what else a step reads, see `step_arguments`.
        size: impressions.
    """

    rows: Any
    arguments: tuple[tf.Tensor, ...]
    size: int


Table = TypeVar("Table", bound=StepRows)


class Learner(Generic[Table]):
    """Trains and scores with one model over one table, or one table per group of fields.

    A step gathers the vectors of the batch's keys, runs one `GraphStep` from there to the loss and
    back, and applies the vectors' gradients to the table. The dense weights are updated inside the
    graph by the same rule, without group penalties.

    Args:
        model: with its dense weights.
        table: of the rows.
        optimizer: of the dense weights.
        seed: of dropout.
    """

    def __init__(self, model: Model, table: Table, optimizer: Optimizer, seed: int = 0) -> None:
        self.model = model
        self.table = table
        self.optimizer = optimizer
        # The optimizer's state of each dense weight, updated inside the graph.
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

    def prepare(self, inputs: Inputs) -> PreparedBatch:
        """Find or make a batch's rows. Runs on the host only, possibly ahead in another thread."""
        rows = self.table.prepare(inputs.flat_keys(), inputs.flat_fields(), ahead=True)
        return PreparedBatch(rows, step_arguments(inputs), len(inputs))

    def train_step(self, prepared: PreparedBatch) -> float:
        """Take one step on a prepared batch and return its mean log loss before the step.

        The loss is weighted by `Inputs.loss_weights` and computed from
        logit + `Inputs.log_odds_shift`: the model's own logit is that of the stream which the batch
        was sampled from.
        """
        return self._step.run([prepared])[0]

    def predict(self, inputs: Inputs) -> NDArray[np.float32]:
        """Return click probabilities float32 [n]; no row is made, counted or changed."""
        return self._forward.probabilities(inputs)

    def step_graph(
        self, flat: Mapping[str, tf.Tensor], arguments: Sequence[tf.Tensor], step: tf.Tensor
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Update the dense weights; return the loss before, and the vectors' gradients.

        A graph operation.

        Args:
            flat: float32 [m, width] by slab, in the order of `Inputs.flat_keys`.
            arguments: as `step_arguments` returns them.
            step: int64 [], 1 at the first step.
        """
        segments, dense, cross, label, weight, shift = arguments
        variables, batch = self.model.variables_by_name(), tf.shape(label)[0]
        pooled = pool_ragged(self.model, flat, segments, batch)
        # Only what is needed: pooling is outside the tape, `unpool_ragged` is its adjoint.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch((pooled, variables))
            seed = tf.stack([tf.constant(self._seed, tf.int64), step * _SEEDS_PER_STEP])
            logits = self.model.forward(pooled, dense, cross, seed)
            errors = tf.expand_dims(weight, 1) * log_losses(label, logits + shift)
            # A fusion's members are trained on their own losses: the objective is their sum.
            loss, objective = tf.reduce_mean(errors), tf.reduce_mean(tf.reduce_sum(errors, axis=1))
            objective += self.model.penalty() if isinstance(self.model, HasPenalty) else 0.0
        gradients, dense_gradients = tape.gradient(objective, (pooled, variables))
        self.apply_dense(dense_gradients, step)
        return loss, unpool_ragged(self.model, gradients, segments, batch)

    def apply_dense(self, gradients: Mapping[str, tf.Tensor], step: tf.Tensor) -> None:
        """Take one optimizer step on the dense weights. A graph operation.

        Args:
            gradients: by weight, of the weight's shape.
            step: int64 [], 1 at the first step.
        """
        variables = self.model.variables_by_name()

        def flattened(tensors: Iterable[tf.Tensor]) -> tf.Tensor:
            """Return all tensors as one vector."""
            # A vector needs no reshape: each operation counts in the step of a small batch.
            vectors = [t if len(t.shape) == 1 else tf.reshape(t, [-1]) for t in tensors]
            return tf.concat(vectors, axis=0)

        # All weights as one vector: the same arithmetic in a fraction of the operations.
        states = {
            slot: [self.slots[name][slot] for name in variables]
            for slot in self.optimizer.slot_names
        }
        before = {slot: flattened(state) for slot, state in states.items()}
        ordered = flattened(gradients[name] for name in variables)
        weights, slots = self.optimizer.update(flattened(variables.values()), before, ordered, step)
        updated = [(list(variables.values()), weights)]
        updated += [(states[slot], slots[slot]) for slot in states]
        for targets, vector in updated:
            parts = tf.split(vector, [target.shape.num_elements() for target in targets])
            for target, part in zip(targets, parts, strict=True):
                target.assign(part if len(target.shape) == 1 else tf.reshape(part, target.shape))


class GraphStep:
    """A step of one learner, or of several that read the same impressions: one graph, one call.

    Args:
        learners: with the same layout; each has its own table and weights.
    """

    def __init__(self, learners: Sequence[Learner[Any]]) -> None:
        self._learners = learners
        self._slabs = [sorted(learner.model.slabs) for learner in learners]
        self._graph: Any = None

    def run(self, batches: Sequence[PreparedBatch]) -> list[float]:
        """Take a step of each learner on its own preparation of the same impressions.

        Returns:
            The losses before the step.
        """
        # Traced at the first step: a learner that only scores needs no such graph.
        self._graph = self._graph or self._traced()
        # 1. Gather the vectors of every learner's rows.
        vectors, begun = [], []
        for learner, slabs, batch in zip(self._learners, self._slabs, batches, strict=True):
            # Rows may have moved since the batch was prepared: `begin` returns the current ones.
            begun.append(learner.table.begin(batch.rows))
            gathered = learner.table.gather_all(begun[-1])
            vectors += [as_tensor(gathered[name]) for name in slabs]

        # 2. Run the graph. A call of a `tf.function` binds its arguments to a signature in Python,
        #    which takes as long as the graph of a small batch. The operation behind it takes the
        #    flat list of tensors and runs on the calling thread.
        steps = tf.constant([learner.table.step + 1 for learner in self._learners], tf.int64)
        losses, *gradients = tf.raw_ops.StatefulPartitionedCall(
            args=[*vectors, *batches[0].arguments, steps, *self._graph.captured_inputs],
            Tout=[output.dtype for output in self._graph.outputs],
            f=self._graph,
        )

        # 3. Update the rows.
        for learner, slabs, batch in zip(self._learners, self._slabs, begun, strict=True):
            own, gradients = gradients[: len(slabs)], gradients[len(slabs) :]
            learner.table.apply(batch, dict(zip(slabs, own, strict=True)))
        return [float(loss) for loss in losses.numpy()]

    def _traced(self) -> Any:
        models = [learner.model for learner in self._learners]
        vectors = [
            tf.TensorSpec([None, model.slabs[slab]], tf.float32)
            for model, slabs in zip(models, self._slabs, strict=True)
            for slab in slabs
        ]
        row, shift = tf.TensorSpec([None], tf.float32), tf.TensorSpec([], tf.float32)
        steps = tf.TensorSpec([len(models)], tf.int64)
        signature = [*vectors, *batch_signature(models[0].layout), row, row, shift, steps]
        graph = tf.function(self._step_all, input_signature=signature, autograph=False)
        return graph.get_concrete_function()

    def _step_all(self, *flat: tf.Tensor) -> list[tf.Tensor]:
        """Return losses float32 [learners] and the vectors' gradients in the arguments' order."""
        *tensors, steps = flat
        count = sum(map(len, self._slabs))
        vectors, arguments = iter(tensors[:count]), tensors[count:]
        losses, gradients = [], []
        for number, (learner, slabs) in enumerate(zip(self._learners, self._slabs, strict=True)):
            own_vectors = {name: next(vectors) for name in slabs}
            loss, own_gradients = learner.step_graph(own_vectors, arguments, steps[number])
            losses.append(loss)
            gradients += [own_gradients[name] for name in slabs]
        return [tf.stack(losses), *gradients]


def step_arguments(inputs: Inputs) -> tuple[tf.Tensor, ...]:
    """Return what a step reads besides the keys' vectors.

    These are segments, numbers, p_uv, label, weight and shift.
    """
    target = inputs.label, inputs.loss_weights(), np.float32(inputs.log_odds_shift)
    return tuple(map(tf.constant, (*batch_arguments(inputs), *target)))


Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    function: Callable[[Item], Result], items: Iterable[Item], depth: int = 2
) -> Iterator[Result]:
    """Yield `function(item)` in order, computed up to `depth` items ahead in another thread.

    There is one other thread, so the results are those of a plain loop.
    """
    with ThreadPoolExecutor(max_workers=1) as thread:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(thread.submit(function, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def log_losses(label: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return log losses float32 [b, members].

    Args:
        label: float32 [b].
        logits: [b], or [b, members] of a fusion whose members are trained separately.
    """
    columns = logits if logits.shape.rank == 2 else tf.expand_dims(logits, 1)
    labels = tf.broadcast_to(tf.expand_dims(label, 1), tf.shape(columns))

    @tf.custom_gradient
    def losses(columns: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        """Return the losses and their gradient, sigmoid - label."""
        # A tape needs a dozen operations for the gradient of the numerically stable formula.
        values = tf.nn.sigmoid_cross_entropy_with_logits(labels, columns)
        return values, lambda upstream: upstream * (tf.sigmoid(columns) - labels)

    return losses(columns)
