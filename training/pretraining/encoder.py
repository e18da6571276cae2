"""The node encoder h_i^k = relu(W^k [h_i^(k-1) || m_i1^k || … || m_iS^k] + c^k), the last layer without relu.

m_is^k is the mean or the sum of h^(k-1) over the sampled neighbours in slot s, one side of one relation. A field has kernels of
its own for its own slots. Written forward and backward in compiled loops and matrix products: no layer keeps more than its
inputs. A node's aggregation is of its neighbours' vectors, never of an edge's statistic, so the edge that is predicted stays in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.core.native import split_rows
from training.pretraining import kernels
from training.pretraining.adjacency import Adjacency, Block, Drawn, Slot
from training.pretraining.parameters import Parameters

Floats = NDArray[Any]
ByField = Mapping[str, Floats]
_FEW_ROWS = 4096


@dataclass(frozen=True)
class Tape:
    """What the way back needs: the vectors' shown share, and by layer from the inputs up the inputs and outputs by field."""

    shown: ByField
    inputs: list[dict[str, Floats]]
    outputs: list[dict[str, Floats]]


@dataclass(frozen=True)
class Encoder:
    """The encoder of a model.

    Attributes:
        slots: of each field.
        layers: how many; 0: a node's encoding is its vector.
        scaled: sums in place of means.
    """

    slots: Mapping[str, tuple[Slot, ...]]
    layers: int
    scaled: bool

    def forward(
        self, parameters: Parameters, block: Block, shown: ByField
    ) -> tuple[dict[str, Floats], Tape]:
        """Return the encodings [T, d] of a block's targets by field, and the tape.

        Args:
            parameters: the weights.
            block: the sampled neighbours.
            shown: by field [n, 1], 0 for the nodes of the lowest layer whose own vector is hidden, else 1.
        """
        lowest = block.nodes[self.layers]
        vectors = {
            f: _gathered(parameters.tables[f], nodes, shown[f], parameters.dim)
            for f, nodes in lowest.items()
        }
        tape = Tape(shown, [], [])
        for layer in range(1, self.layers + 1):
            level = self.layers - layer
            inputs = {
                f: self._inputs(f, vectors, block.drawn[level][f]) for f in block.nodes[level]
            }
            vectors = {f: self._layer(parameters, layer, f, x) for f, x in inputs.items()}
            tape.inputs.append(inputs)
            tape.outputs.append(vectors)
        return vectors, tape

    def backward(
        self, parameters: Parameters, block: Block, tape: Tape, gradients: dict[str, Floats]
    ) -> tuple[dict[str, Floats], dict[str, Floats]]:
        """Return the gradients of the lowest layer's vectors [n, d] by field, and of the dense weights by name.

        Args:
            parameters: as for `forward`.
            block: as for `forward`.
            tape: of `forward`.
            gradients: of the encodings [T, d] by field; used up.
        """
        dense: dict[str, Floats] = {}
        for layer in range(self.layers, 0, -1):
            level = self.layers - layer
            below = {
                f: np.zeros((len(n), parameters.dim), _dtype(gradients))
                for f, n in block.nodes[level + 1].items()
            }
            for field, x in tape.inputs[layer - 1].items():
                up = gradients[field]
                if layer < self.layers:
                    up = up * (tape.outputs[layer - 1][field] > 0)
                name = f"layer/{layer}/{field}"
                dense |= {f"{name}/kernel": x.T @ up, f"{name}/bias": up.sum(axis=0)}
                self._share(
                    field,
                    up @ parameters.dense[f"{name}/kernel"].T,
                    block.drawn[level][field],
                    below,
                )
            gradients = below
        for field, gradient in gradients.items():
            gradient *= tape.shown[field]
        return gradients, dense

    def all_nodes(
        self, parameters: Parameters, adjacency: Adjacency, fanouts: tuple[int, ...]
    ) -> dict[str, Floats]:
        """Return the encodings [N, d] of all nodes by field, from all of their neighbours: no draw.

        A sum is that of the mean times the number that would have been drawn, which is what a drawn sum is on average.
        """
        vectors = {
            f: np.ascontiguousarray(table[:, : parameters.dim])
            for f, table in parameters.tables.items()
        }
        for layer in range(1, self.layers + 1):
            most = fanouts[self.layers - layer] if self.scaled else 1
            inputs = {f: self._full_inputs(f, vectors, adjacency.slots[f], most) for f in vectors}
            vectors = {f: self._layer(parameters, layer, f, x) for f, x in inputs.items()}
        return vectors

    def _layer(self, parameters: Parameters, layer: int, field: str, x: Floats) -> Floats:
        name = f"layer/{layer}/{field}"
        z = x @ parameters.dense[f"{name}/kernel"]
        z += parameters.dense[f"{name}/bias"]
        return np.maximum(z, 0, out=z) if layer < self.layers else z

    def _inputs(self, field: str, vectors: ByField, drawn: tuple[Drawn, ...]) -> Floats:
        own = vectors[field]
        count, dim = len(drawn[0].counts) if drawn else len(own), own.shape[1]
        x = np.empty((count, (1 + len(drawn)) * dim), own.dtype)
        x[:, :dim] = own[:count]
        for i, (slot, each) in enumerate(zip(self.slots[field], drawn, strict=True)):
            gather = partial(
                kernels.gather_mean,
                vectors[slot.other],
                each.numbers,
                each.counts,
                self.scaled,
                x,
                (1 + i) * dim,
            )
            split_rows(gather, count, at_least=_FEW_ROWS)
        return x

    def _share(
        self, field: str, gradient: Floats, drawn: tuple[Drawn, ...], below: dict[str, Floats]
    ) -> None:
        """Give the gradient of a layer's inputs to the vectors that they were made of."""
        dim = below[field].shape[1]
        below[field][: len(gradient)] += gradient[:, :dim]
        for i, (slot, each) in enumerate(zip(self.slots[field], drawn, strict=True)):
            kernels.scatter_mean(
                gradient, (1 + i) * dim, each.numbers, each.counts, self.scaled, below[slot.other]
            )

    def _full_inputs(
        self, field: str, vectors: ByField, slots: tuple[Slot, ...], most: int
    ) -> Floats:
        own = vectors[field]
        dim = own.shape[1]
        x = np.empty((len(own), (1 + len(slots)) * dim), own.dtype)
        x[:, :dim] = own
        for i, slot in enumerate(slots):
            gather = partial(
                kernels.all_mean,
                vectors[slot.other],
                slot.offsets,
                slot.ends,
                most,
                x,
                (1 + i) * dim,
            )
            split_rows(gather, len(own), at_least=_FEW_ROWS)
        return x


def _gathered(table: Floats, nodes: NDArray[np.int32], shown: Floats, dim: int) -> Floats:
    out = np.empty((len(nodes), dim), table.dtype)
    split_rows(
        partial(kernels.gather_shown, table, nodes, shown, out), len(nodes), at_least=_FEW_ROWS
    )
    return out


def _dtype(gradients: ByField) -> Any:
    return next(iter(gradients.values())).dtype
