"""A slab: the vectors of one width and their optimizer state, as variables that grow without a retrace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from features.errors import InputError
from training.elastic.hashing import uniform
from training.elastic.optimizers import GroupAdam

WEIGHTS = "weights"
_FIRST_CAPACITY = 1024


@dataclass(frozen=True)
class SlabSpec:
    """What a slab is made of.

    Attributes:
        dim: the width of its vectors.
        optimizer: how they learn.
        init_scale: new vectors are uniform on [-init_scale, init_scale); 0 starts them at zero.

    Raises:
        InputError: `dim` below 1 or a negative scale.
    """

    dim: int
    optimizer: GroupAdam
    init_scale: float

    def __post_init__(self) -> None:
        if self.dim < 1 or self.init_scale < 0:
            raise InputError(f"{self}: dim must be at least 1 and init_scale not negative")


class Slab:
    """Variables of shape [capacity, dim], float32: the weights and each slot of the optimizer. Row 0 stays zero.

    The variables' static shape is [None, dim], so a `tf.function` that gathers and applies goes on after `ensure`.
    They are not trainable: no Keras optimizer ever sees them.
    """

    def __init__(self, spec: SlabSpec, name: str) -> None:
        self.spec = spec
        self.capacity = _FIRST_CAPACITY
        self.weights = _variable(spec.dim, f"{name}_{WEIGHTS}")
        self.slots = {slot: _variable(spec.dim, f"{name}_{slot}") for slot in spec.optimizer.slot_names}

    def gather(self, rows: tf.Tensor) -> tf.Tensor:
        """Return the vectors float32 [U, dim] of rows int32 [U]. Works inside a graph."""
        return tf.gather(self.weights, rows)

    def apply(self, rows: tf.Tensor, gradients: tf.Tensor, step: tf.Tensor) -> None:
        """Take one optimizer step on distinct rows. Works inside a graph.

        Args:
            rows: int32 [U], distinct; row 0 may be among them and gets no update.
            gradients: float32 [U, dim], a tensor or the `IndexedSlices` that a tape gives for a gathered block.
            step: int64 scalar, 1 at the table's first step.
        """
        has_vector = (rows > 0)[:, tf.newaxis]
        learned = tf.where(has_vector, tf.convert_to_tensor(gradients), 0)  # no gradient, no state: row 0 stays zero
        slots = {name: tf.gather(variable, rows) for name, variable in self.slots.items()}
        weights, slots = self.spec.optimizer.update(self.gather(rows), slots, learned, step)
        self.weights.scatter_update(tf.IndexedSlices(weights, rows))
        for name, variable in self.slots.items():
            variable.scatter_update(tf.IndexedSlices(slots[name], rows))

    def ensure(self, rows: int) -> None:
        """Make room for rows up to and including `rows`, by doubling. Host side, between steps."""
        if rows < self.capacity:
            return
        capacity = 1 << rows.bit_length()
        for _, variable in self.variables():
            variable.assign(tf.concat([variable, tf.zeros([capacity - self.capacity, self.spec.dim])], axis=0))
        self.capacity = capacity

    def initialise(self, rows: NDArray[np.int32], keys: NDArray[np.int64], seed: int) -> None:
        """Write the initial vectors of rows int32 [k], which depend on keys int64 [k] and the seed alone."""
        vectors = initial_vectors(keys, self.spec, seed)
        self.weights.scatter_update(tf.IndexedSlices(tf.constant(vectors), tf.constant(rows)))

    def variables(self) -> Iterator[tuple[str, tf.Variable]]:
        """Yield `(name, variable)`: the weights under the name `weights`, then each slot."""
        yield WEIGHTS, self.weights
        yield from self.slots.items()

    def read(self, name: str, rows: int) -> NDArray[np.float32]:
        """Return rows 1 … rows of a variable by name, float32 [rows, dim]."""
        variable = dict(self.variables())[name]
        return tf.gather(variable, tf.range(1, rows + 1)).numpy()

    def load(self, arrays: Mapping[str, NDArray[np.float32]]) -> None:
        """Replace the slab by arrays float32 [rows, dim] under the names of `variables`: rows 1 … rows."""
        rows = len(arrays[WEIGHTS])
        self.capacity = max(_FIRST_CAPACITY, 1 << rows.bit_length())
        for name, variable in self.variables():
            padded = np.zeros((self.capacity, self.spec.dim), np.float32)
            padded[1 : rows + 1] = arrays[name]
            variable.assign(padded)

    def zero_rows(self, rows: int) -> NDArray[np.bool_]:
        """Return bool [rows]: which of the rows 1 … rows have weights that are all exactly zero."""
        vectors = tf.gather(self.weights, tf.range(1, rows + 1))
        return tf.reduce_all(tf.equal(vectors, 0), axis=1).numpy()

    def nbytes(self) -> int:
        """Return the allocated bytes of one variable; there are `1 + len(slots)`."""
        return self.capacity * self.spec.dim * tf.float32.size


def initial_vectors(keys: NDArray[np.int64], spec: SlabSpec, seed: int) -> NDArray[np.float32]:
    """Return float32 [k, dim] uniform on [-init_scale, init_scale), a function of (key, seed, column) alone.

    So the order in which keys arrive, threads and restarts do not matter.
    """
    if spec.init_scale == 0:
        return np.zeros((len(keys), spec.dim), np.float32)
    return (uniform(keys, spec.dim, seed) * 2 - 1) * np.float32(spec.init_scale)


def _variable(dim: int, name: str) -> tf.Variable:
    return tf.Variable(tf.zeros([_FIRST_CAPACITY, dim]), shape=[None, dim], trainable=False, name=name)
