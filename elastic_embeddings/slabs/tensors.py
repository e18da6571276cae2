"""Gathered vectors as tensors, without a copy where the memory allows it."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

_ALIGNMENT_BYTES = 64  # what TensorFlow's kernels expect of a tensor's memory


def as_tensor(vectors: Any) -> tf.Tensor:
    """Return a tensor of vectors: of an aligned array one over the same memory, which it keeps alive; of others a copy."""
    if (
        not isinstance(vectors, np.ndarray)
        or vectors.ctypes.data % _ALIGNMENT_BYTES
        or not vectors.size
    ):
        return tf.convert_to_tensor(vectors)
    return tf.experimental.dlpack.from_dlpack(vectors.__dlpack__())
