"""CrossNet: two encodings in, one number out, forward and backward. No weights: the dot product; else an MLP with ReLU.

The MLP reads [h_u || h_v || h_u * h_v]. `compression.export.crosses.cross_value` is the same in TensorFlow, for serving.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]


def layers_of(dense: Mapping[str, Floats], relation: str) -> list[tuple[Floats, Floats]]:
    """Return a relation's kernels and biases, first layer first; none for the dot product."""
    found: list[tuple[Floats, Floats]] = []
    while (kernel := dense.get(f"cross/{relation}/{len(found)}/kernel")) is not None:
        found.append((kernel, dense[f"cross/{relation}/{len(found)}/bias"]))
    return found


def forward(
    left: Floats, right: Floats, layers: list[tuple[Floats, Floats]]
) -> tuple[Floats, list[Floats]]:
    """Return the values [b] of encodings [b, d] each, and the inputs of every layer."""
    if not layers:
        return np.einsum("ed,ed->e", left, right), []
    inputs = [np.concatenate([left, right, left * right], axis=1)]
    for kernel, bias in layers[:-1]:
        inputs.append(np.maximum(inputs[-1] @ kernel + bias, 0))
    kernel, bias = layers[-1]
    return (inputs[-1] @ kernel + bias)[:, 0], inputs


def backward(
    left: Floats,
    right: Floats,
    layers: list[tuple[Floats, Floats]],
    inputs: list[Floats],
    gradient: Floats,
) -> tuple[Floats, Floats, list[tuple[Floats, Floats]]]:
    """Return the gradients of both encodings [b, d] and of the layers, from that of the values [b]."""
    up = gradient[:, None]
    if not layers:
        return up * right, up * left, []
    found = []
    for (kernel, _), x in zip(reversed(layers), reversed(inputs), strict=True):
        found.append((x.T @ up, up.sum(axis=0)))
        up = up @ kernel.T
        if x is not inputs[0]:
            up = up * (x > 0)
    own_left, own_right, product = np.split(up, 3, axis=1)
    return own_left + product * right, own_right + product * left, found[::-1]
