"""A slab: the vectors of one width and their optimizer state. What it is made of, and what every kind of it can do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.core.hashing import uniform
from elastic_embeddings.errors import InputError
from elastic_embeddings.optimizers.optimizer import Optimizer
from elastic_embeddings.optimizers.rounding import Storage
from elastic_embeddings.optimizers.rules import GroupAdam

if TYPE_CHECKING:
    from elastic_embeddings.batch import Batch

Device = Literal["host", "device"]


@dataclass(frozen=True)
class SlabSpec:
    """What a slab is made of.

    Attributes:
        dim: the width of its vectors.
        optimizer: how they learn.
        init_scale: new vectors are uniform on [-init_scale, init_scale); 0 starts them at zero.
        fallback: what a key without a row reads, the same in every column; it does not learn.
        dtype: how vectors and optimizer state are stored; 16-bit kinds round stochastically, the arithmetic is float32.

    Raises:
        InputError: `dim` below 1, a negative scale, an unknown dtype, or Adam in float16.
    """

    dim: int
    optimizer: Optimizer = field(default_factory=GroupAdam)
    init_scale: float = 0.05
    dtype: Storage = "float32"
    fallback: float = 0.0

    def __post_init__(self) -> None:
        if self.dim < 1 or self.init_scale < 0:
            raise InputError(f"{self}: dim must be at least 1 and init_scale not negative")
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise InputError(f"{self}: dtype must be float32, bfloat16 or float16")
        if self.dtype == "float16" and isinstance(self.optimizer, GroupAdam):
            raise InputError(
                f"{self}: Adam's second moments vanish in float16: give dtype='bfloat16', or an Adagrad or FTRL"
            )


class Slab(Protocol):
    """Rows of weights [capacity, dim] and of packed optimizer state [capacity, S]. Row 0 is the fallback.

    Rows are numbered from 1 and come and go by number; what key a row belongs to is the index's business.
    """

    spec: SlabSpec

    def ensure(self, rows: int) -> None:
        """Make room for rows up to and including `rows`."""

    def initialise(self, rows: NDArray[np.int32], keys: NDArray[np.int64], seed: int) -> None:
        """Write the initial vectors of rows int32 [k], which depend on keys int64 [k] and the seed alone, and fresh state."""

    def gather(self, batch: Batch) -> Any:
        """Return the vectors float32 [n, dim] of a batch's keys, an array or a tensor; zeros where a key has no row."""

    def apply(self, batch: Batch, gradients: Any, step: int) -> None:
        """Take one optimizer step on the batch's rows; gradients float32 [n, dim] of repeated keys add up."""

    def vectors(self, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return the vectors float32 [k, dim] of rows int32 [k]."""

    def read_weights(self, rows: NDArray[np.int32]) -> NDArray[Any]:
        """Return weights [k, dim] of rows int32 [k], as stored (bfloat16 as uint16 bits)."""

    def read_state(self, rows: NDArray[np.int32], columns: slice) -> NDArray[Any]:
        """Return columns of the packed state [k, c] of rows int32 [k], as stored."""

    def write(self, rows: NDArray[np.int32], weights: NDArray[Any], state: NDArray[Any]) -> None:
        """Write weights [k, dim] and packed state [k, S] of rows int32 [k], as stored."""

    def compact(self, old_rows: NDArray[np.int32]) -> None:
        """Move row `old_rows[i]` to row i + 1, for ascending int32 [k], and give the memory behind row k back."""

    def nbytes(self, rows: int) -> tuple[int, int]:
        """Return the bytes of weights and of optimizer state that `rows` rows hold."""


def initial_vectors(keys: NDArray[np.int64], spec: SlabSpec, seed: int) -> NDArray[np.float32]:
    """Return float32 [k, dim] uniform on [-init_scale, init_scale), a function of (key, seed, column) alone.

    So the order in which keys arrive, threads and restarts do not matter.
    """
    if spec.init_scale == 0:
        return np.zeros((len(keys), spec.dim), np.float32)
    return (uniform(keys, spec.dim, seed) * 2 - 1) * np.float32(spec.init_scale)


def state_width(spec: SlabSpec) -> int:
    """Return how many numbers of optimizer state a row has."""
    return sum(spec.optimizer.slots(spec.dim).values())
