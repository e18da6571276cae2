"""The networks of PCF-GNN (Li et al., SIGIR 2021): the node encoder and the CrossNet.

Node encoder, layer k of K, without relu in the last layer:

    h_i^k = relu(W^k [h_i^(k-1) || m_i1^k || ... || m_iS^k] + c^k)

m_is^k is the mean or the sum of h^(k-1) over the sampled neighbours in slot s, one side of one
relation. Each field has its own kernels for its own slots. A node aggregates its neighbours'
vectors, never an edge's statistic, so an edge that is predicted need not be left out.

CrossNet: two encodings to a number, either their dot product or an MLP with relu over
[h_u || h_v || h_u * h_v]. `compression.export.served_model.cross_value` is the same for serving.

Forward and backward passes are compiled loops and matrix products; a layer keeps only its inputs
and outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from elastic_embeddings.core.threads import split_rows
from training.pretraining import kernels
from training.pretraining.graph import Adjacency, NeighbourLists, SampledBlock
from training.pretraining.parameters import Floats, Parameters

ByField = Mapping[str, Floats]
CrossLayers = list[tuple[Floats, Floats]]

_ROWS_PER_THREAD = 4096


@dataclass(frozen=True)
class EncoderTape:
    """What the backward pass needs of the forward pass.

    Attributes:
        shown: by field [n, 1], as given to `Encoder.forward`.
        inputs: of each layer by field, the lowest layer first.
        outputs: of each layer by field, the lowest layer first.
    """

    shown: ByField
    inputs: list[dict[str, Floats]]
    outputs: list[dict[str, Floats]]


@dataclass(frozen=True)
class Encoder:
    """The encoder of a model.

    Attributes:
        slots: of each field.
        layers: their number; 0: a node's encoding is its vector.
        as_sum: aggregate by sums instead of means.
    """

    slots: Mapping[str, tuple[NeighbourLists, ...]]
    layers: int
    as_sum: bool

    def forward(
        self, parameters: Parameters, block: SampledBlock, shown: ByField
    ) -> tuple[dict[str, Floats], EncoderTape]:
        """Return the encodings [T, d] of a block's targets by field, and the tape.

        Args:
            parameters: the weights.
            block: the sampled neighbours.
            shown: by field [n, 1], 0 for lowest-layer nodes with a hidden vector, otherwise 1.
        """
        # 1. Gather the vectors of the lowest layer's nodes; a hidden one is zero.
        vectors: dict[str, Floats] = {}
        for field, nodes in block.nodes[self.layers].items():
            table = parameters.tables[field]
            vectors[field] = np.empty((len(nodes), parameters.dim), table.dtype)
            gather = partial(kernels.gather_shown, table, nodes, shown[field], vectors[field])
            split_rows(gather, len(nodes), at_least=_ROWS_PER_THREAD)
        # 2. Layer by layer: a node's own vector and the mean of each slot's sample.
        tape = EncoderTape(shown, [], [])
        for layer in range(1, self.layers + 1):
            # Layers are numbered from the vectors up, blocks are in order from the output down.
            level = self.layers - layer
            inputs = {}
            for field, nodes in block.nodes[level].items():
                gathers = []
                for slot, each in zip(self.slots[field], block.drawn[level][field], strict=True):
                    neighbours = (each.numbers, each.counts, self.as_sum)
                    gathers.append(partial(kernels.gather_mean, vectors[slot.other], *neighbours))
                # A layer's nodes are the first ones of the layer below (`SampledBlock`).
                inputs[field] = _concat_gathered(vectors[field][: len(nodes)], gathers)
            vectors = {f: self._apply_layer(parameters, layer, f, x) for f, x in inputs.items()}
            tape.inputs.append(inputs)
            tape.outputs.append(vectors)
        return vectors, tape

    def backward(
        self,
        parameters: Parameters,
        block: SampledBlock,
        tape: EncoderTape,
        gradients: dict[str, Floats],
    ) -> tuple[dict[str, Floats], dict[str, Floats]]:
        """Return gradients of the lowest layer's vectors [n, d] by field, and of dense weights.

        Args:
            parameters: as for `forward`.
            block: as for `forward`.
            tape: of `forward`.
            gradients: of the encodings [T, d] by field; overwritten.
        """
        dense: dict[str, Floats] = {}
        dtype = next(iter(gradients.values())).dtype
        for layer in range(self.layers, 0, -1):
            level = self.layers - layer
            below = {
                field: np.zeros((len(nodes), parameters.dim), dtype)
                for field, nodes in block.nodes[level + 1].items()
            }
            for field, x in tape.inputs[layer - 1].items():
                # 1. Through relu, which the last layer does not have, to the layer's weights.
                upstream = gradients[field]
                if layer < self.layers:
                    # The output of relu tells its slope, so its input is not kept.
                    upstream = upstream * (tape.outputs[layer - 1][field] > 0)
                name = f"layer/{layer}/{field}"
                dense[f"{name}/kernel"] = x.T @ upstream
                dense[f"{name}/bias"] = upstream.sum(axis=0)

                # 2. To the layer's inputs, and from there to the vectors they were made of.
                of_inputs = upstream @ parameters.dense[f"{name}/kernel"].T
                dim = parameters.dim
                below[field][: len(of_inputs)] += of_inputs[:, :dim]
                drawn = zip(self.slots[field], block.drawn[level][field], strict=True)
                for i, (slot, each) in enumerate(drawn, start=1):
                    neighbours = (each.numbers, each.counts, self.as_sum)
                    kernels.scatter_mean(of_inputs, i * dim, *neighbours, below[slot.other])
            gradients = below
        for field, gradient in gradients.items():
            # A hidden vector was replaced by 0, so it has no gradient.
            gradient *= tape.shown[field]
        return gradients, dense

    def all_nodes(
        self, parameters: Parameters, adjacency: Adjacency, fanouts: tuple[int, ...]
    ) -> dict[str, Floats]:
        """Return the encodings [N, d] of all nodes by field, from all of their neighbours.

        A sum is the mean times the number of neighbours that would have been drawn: the expected
        value of a drawn sum.
        """
        dim = parameters.dim
        # Copies without the biases behind the vectors: the kernels read whole rows.
        vectors = {f: np.ascontiguousarray(t[:, :dim]) for f, t in parameters.tables.items()}
        for layer in range(1, self.layers + 1):
            most = fanouts[self.layers - layer] if self.as_sum else 1
            inputs = {}
            for field in vectors:
                gathers = [
                    partial(kernels.all_mean, vectors[slot.other], slot.offsets, slot.ends, most)
                    for slot in adjacency.slots[field]
                ]
                inputs[field] = _concat_gathered(vectors[field], gathers)
            vectors = {f: self._apply_layer(parameters, layer, f, x) for f, x in inputs.items()}
        return vectors

    def _apply_layer(self, parameters: Parameters, layer: int, field: str, x: Floats) -> Floats:
        name = f"layer/{layer}/{field}"
        z = x @ parameters.dense[f"{name}/kernel"]
        # In place, because nothing but a layer's inputs and outputs is kept.
        z += parameters.dense[f"{name}/bias"]
        return np.maximum(z, 0, out=z) if layer < self.layers else z


def _concat_gathered(own: Floats, gathers: Sequence[Callable[..., None]]) -> Floats:
    """Return [own || slot 1 || ...]; a kernel takes the output, its column and a range of rows."""
    rows, dim = own.shape
    x = np.empty((rows, (1 + len(gathers)) * dim), own.dtype)
    x[:, :dim] = own
    for i, gather in enumerate(gathers):
        split_rows(partial(gather, x, (1 + i) * dim), rows, at_least=_ROWS_PER_THREAD)
    return x


def cross_layers(dense: Mapping[str, Floats], relation: str) -> CrossLayers:
    """Return kernel and bias of each layer of a relation's CrossNet; none for the dot product."""
    layers: CrossLayers = []
    while (kernel := dense.get(f"cross/{relation}/{len(layers)}/kernel")) is not None:
        layers.append((kernel, dense[f"cross/{relation}/{len(layers)}/bias"]))
    return layers


def cross_forward(left: Floats, right: Floats, layers: CrossLayers) -> tuple[Floats, list[Floats]]:
    """Return the CrossNet's values [b] of encodings [b, d] each, and the inputs of every layer."""
    if not layers:
        return np.einsum("ed,ed->e", left, right), []
    inputs = [np.concatenate([left, right, left * right], axis=1)]
    for kernel, bias in layers[:-1]:
        inputs.append(np.maximum(inputs[-1] @ kernel + bias, 0))
    kernel, bias = layers[-1]
    return (inputs[-1] @ kernel + bias)[:, 0], inputs


def cross_backward(
    left: Floats, right: Floats, layers: CrossLayers, inputs: list[Floats], gradient: Floats
) -> tuple[Floats, Floats, CrossLayers]:
    """Return the gradients of both encodings [b, d] and of the layers, from the values' [b].

    `inputs` are those that `cross_forward` returned.
    """
    upstream = gradient[:, None]
    if not layers:
        return upstream * right, upstream * left, []
    of_layers = []
    for (kernel, _), x in zip(reversed(layers), reversed(inputs), strict=True):
        of_layers.append((x.T @ upstream, upstream.sum(axis=0)))
        upstream = upstream @ kernel.T
        if x is not inputs[0]:  # the first inputs are the encodings, which no relu made
            upstream = upstream * (x > 0)
    # The inputs are [h_u || h_v || h_u * h_v]: the product passes its gradient on to both.
    of_left, of_right, of_product = np.split(upstream, 3, axis=1)
    return of_left + of_product * right, of_right + of_product * left, of_layers[::-1]
