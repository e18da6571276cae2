"""A slab: the vectors of one width and their optimizer state. Its specification and interface."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from elastic_embeddings.core.hashing import uniform
from elastic_embeddings.errors import InputError
from elastic_embeddings.optimizers.optimizer import Optimizer
from elastic_embeddings.optimizers.row_storage import Storage
from elastic_embeddings.optimizers.rules import GroupAdam

if TYPE_CHECKING:
    from elastic_embeddings.batch import Batch

Device = Literal["host", "device"]

_ALIGNMENT_BYTES = 64  # TensorFlow's kernels assume it of a tensor's memory


@dataclass(frozen=True)
class SlabSpec:
    """The specification of a slab.

    Attributes:
        dim: width of its vectors.
        optimizer: update rule of its rows.
        init_scale: new vectors are uniform on [-init_scale, init_scale); 0: they start at zero.
        dtype: how vectors and optimizer state are stored. 16-bit numbers are rounded
            stochastically; the arithmetic is float32.
        fallback: value, in every column, of the vector of keys without a row; it is not trained.

    Raises:
        InputError: `dim` below 1, a negative scale, an unknown dtype, or Adam in float16.
    """

    dim: int
    optimizer: Optimizer = field(default_factory=GroupAdam)
    init_scale: float = 0.05
    dtype: Storage = "float32"
    fallback: float = 0.0

    def __post_init__(self) -> None:
        if self.dim < 1 or not 0 <= self.init_scale < math.inf or not math.isfinite(self.fallback):
            raise InputError(
                f"{self}: dim must be at least 1, init_scale finite and not negative, fallback "
                "finite"
            )
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise InputError(f"{self}: dtype must be float32, bfloat16 or float16")
        if self.dtype == "float16" and isinstance(self.optimizer, GroupAdam):
            raise InputError(
                f"{self}: Adam's second moments underflow in float16: "
                "give dtype='bfloat16', or an Adagrad or FTRL"
            )


class Slab(Protocol):
    """Rows of weights [capacity, dim] and of packed optimizer state [capacity, S].

    Rows are numbered from 1; row 0 is the fallback. The key index maps keys to rows.
    """

    spec: SlabSpec

    def ensure(self, rows: int) -> None:
        """Grow, if necessary, to hold rows up to and including `rows`."""

    def initialise(self, rows: NDArray[np.int32], keys: NDArray[np.int64], seed: int) -> None:
        """Write the initial vectors and state of rows int32 [k] with keys int64 [k]."""

    def gather(self, batch: Batch) -> Any:  # an array or a tensor, depending on the slab
        """Return the vectors float32 [n, dim] of a batch's keys: an array or a tensor."""

    def apply(self, batch: Batch, gradients: Any, step: int, seed: int) -> None:
        """Run one optimizer step on the batch's rows.

        Args:
            batch: the batch.
            gradients: float32 [n, dim], array or tensor; those of repeated keys are added.
            step: 1 at the table's first step.
            seed: of the stochastic rounding of 16-bit rows.
        """

    def vectors(self, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return the vectors float32 [k, dim] of rows int32 [k]."""

    def read_weights(self, rows: NDArray[np.int32]) -> NDArray[Any]:
        """Return weights [k, dim] of rows int32 [k], as stored (16-bit types as uint16 bits)."""

    def read_state(self, rows: NDArray[np.int32], columns: slice) -> NDArray[Any]:
        """Return columns of the packed state [k, c] of rows int32 [k], as stored."""

    def write(self, rows: NDArray[np.int32], weights: NDArray[Any], state: NDArray[Any]) -> None:
        """Write weights [k, dim] and packed state [k, S] of rows int32 [k], as stored."""

    def compact(self, old_rows: NDArray[np.int32]) -> None:
        """Move row `old_rows[i]` to row i + 1 and free the rows above k; ascending int32 [k]."""

    def nbytes(self, rows: int) -> tuple[int, int]:
        """Return the bytes of weights and of optimizer state of a slab with `rows` rows."""


def make_slab(spec: SlabSpec, device: Device | None = None) -> Slab:
    """Return an empty slab in host memory or in TensorFlow variables.

    Args:
        spec: its specification.
        device: None: "device" if TensorFlow has a GPU, else "host".
    """
    # Imported here because both modules import this one.
    from elastic_embeddings.slabs.device import DeviceSlab
    from elastic_embeddings.slabs.host import HostSlab

    if device is None:
        device = "device" if tf.config.get_visible_devices("GPU") else "host"
    return HostSlab(spec) if device == "host" else DeviceSlab(spec)


def initial_vectors(keys: NDArray[np.int64], spec: SlabSpec, seed: int) -> NDArray[np.float32]:
    """Return float32 [k, dim] uniform on [-init_scale, init_scale).

    Each number is a function of (key, seed, column), so the order of keys, threads and restarts
    do not change it.
    """
    if spec.init_scale == 0:
        return np.zeros((len(keys), spec.dim), np.float32)
    return (uniform(keys, spec.dim, seed) * 2 - 1) * np.float32(spec.init_scale)


def state_width(spec: SlabSpec) -> int:
    """Return the number of elements of a row's optimizer state, S."""
    return sum(spec.optimizer.slots(spec.dim).values())


def as_tensor(vectors: Any) -> tf.Tensor:
    """Return gathered vectors, an array or a tensor, as a tensor.

    The tensor shares the memory of an aligned array and keeps it alive; other arrays are copied.
    """
    is_array = isinstance(vectors, np.ndarray)
    if not is_array or vectors.ctypes.data % _ALIGNMENT_BYTES or not vectors.size:
        return tf.convert_to_tensor(vectors)
    return tf.experimental.dlpack.from_dlpack(vectors.__dlpack__())
