"""What is fitted to the cross graph, and what a fit returns: one interface for every kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from features.schema import Relation
from training.data.arrays import Arrays
from training.models.encoding_inputs import Encodings
from training.pretraining import kernels
from training.pretraining.graph import CrossGraph, EdgeMasks, RelationEdges
from training.pretraining.settings import PretrainSettings, WeightSettings

Floats = NDArray[np.float64]

_LEAST_SPREAD = 1e-9


@dataclass(frozen=True)
class Targets:
    """Edges of one relation as a weighted regression.

    Attributes:
        relation: its two fields.
        left: int32 [E].
        right: int32 [E].
        value: the statistic, float64 [E].
        weight: float64 [E].
        impressions: int64 [E].
    """

    relation: Relation
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    value: Floats
    weight: Floats
    impressions: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.left)

    def where(self, chosen: NDArray[np.bool_]) -> Self:
        """Return the edges where `chosen`, bool [E], is true."""
        names = ("left", "right", "value", "weight", "impressions")
        return replace(self, **{name: getattr(self, name)[chosen] for name in names})

    def pairs_in(self, graph: CrossGraph) -> NDArray[np.int64]:
        """Return the node keys int64 [E, 2] of these edges of a graph."""
        left, right = graph.sides(self.relation.name)
        return np.stack([left[self.left], right[self.right]], axis=1)

    def mean(self) -> float:
        """Return the weighted mean; 0 without edges."""
        return float(np.average(self.value, weights=self.weight)) if len(self) else 0.0

    def spread(self) -> float:
        """Return the weighted standard deviation; 1 if the values do not vary."""
        if not len(self):
            return 1.0
        deviation = float(np.sqrt(np.average((self.value - self.mean()) ** 2, weights=self.weight)))
        # Dividing by the spread of rounding errors would make noise the statistic.
        return deviation if deviation > _LEAST_SPREAD else 1.0

    def seen_in(self, other: Targets) -> NDArray[np.bool_]:
        """Return which of these edges have both their nodes among the other's, bool [E]."""
        return np.isin(self.left, other.left) & np.isin(self.right, other.right)


def targets(edges: RelationEdges, settings: PretrainSettings) -> Targets:
    """Return a relation's edges with the statistic and the weights that the settings name."""
    weight = edge_weights(edges.impressions, settings.weight)
    value = edges.statistics[settings.statistic]
    return Targets(edges.relation, edges.left, edges.right, value, weight, edges.impressions)


def edge_weights(impressions: NDArray[np.int64], settings: WeightSettings) -> Floats:
    """Return ln(1 + n) or n / (n + kappa) of impressions n, float64 in their shape.

    Li et al. (SIGIR 2021) weight edges by co-occurrence. Their formula was not accessible, so both
    forms are offered.
    """
    n = impressions.astype(np.float64)
    weight: Floats = np.log1p(n) if settings.kind == "log" else n / (n + settings.kappa)
    return weight


def held_out(graph: CrossGraph, name: str, settings: PretrainSettings) -> NDArray[np.bool_]:
    """Return which edges of a relation are held out, bool [E].

    The choice is a function of the pair's keys and the seed. A pair is therefore held out of every
    later graph too, and a warm start has not been trained on it either.
    """
    edges = graph.edges[name]
    left, right = graph.sides(name)
    bits = kernels.pair_hash(left[edges.left], right[edges.right], settings.seed)
    return bits.astype(np.float64) / 2**64 < settings.heldout_fraction


@dataclass(frozen=True)
class Task:
    """What to fit.

    Attributes:
        graph: nodes and edges.
        chosen: which edges to train on; the others are not aggregated over either.
        settings: how.
        heldout: edges for early stopping, by relation; empty: train for `settings.epochs`.
        previous: `FitResult.arrays` of an earlier fit to start from; empty: none.
    """

    graph: CrossGraph
    chosen: EdgeMasks
    settings: PretrainSettings
    heldout: Mapping[str, Targets] = field(default_factory=dict)
    previous: Arrays = field(default_factory=dict)

    @classmethod
    def of(cls, graph: CrossGraph, settings: PretrainSettings, previous: Arrays) -> Self:
        """Return the task that is measured: train on some edges, evaluate on the held-out ones."""
        masks = {name: held_out(graph, name, settings) for name in graph.edges}
        heldout = {n: targets(edges, settings).where(masks[n]) for n, edges in graph.edges.items()}
        return cls(graph, {n: ~mask for n, mask in masks.items()}, settings, heldout, previous)

    def whole(self, epochs: int) -> Self:
        """Return the task with all edges, for so many epochs."""
        all_edges = {
            name: np.ones(len(edges), np.bool_) for name, edges in self.graph.edges.items()
        }
        settings = self.settings.model_copy(update={"epochs": epochs})
        # Without held-out edges the fit cannot stop early: the epochs are fixed.
        return replace(self, chosen=all_edges, settings=settings, heldout={})

    @cached_property
    def training_edges(self) -> dict[str, Targets]:
        """The edges to train on, by relation; relations without any are left out."""
        edges = {
            name: targets(each, self.settings).where(self.chosen[name])
            for name, each in self.graph.edges.items()
        }
        return {name: each for name, each in edges.items() if len(each)}

    def heldout_pairs(self, name: str) -> NDArray[np.int64]:
        """Return the keys int64 [e, 2] of a relation's held-out edges."""
        return self.heldout[name].pairs_in(self.graph)


@dataclass(frozen=True)
class Epoch:
    """Mean weighted square errors in units of the variance: of a pass's batches, and after it.

    Epoch 0 is the state before the first pass.
    """

    number: int
    loss: float
    heldout_loss: float


@dataclass(frozen=True)
class FitResult:
    """What a fit returns.

    Attributes:
        encodings: p_uv of each relation, for the click model.
        curve: losses by epoch; empty for fits without epochs.
        best_epoch: the epoch of these weights.
        arrays: what a later fit may start from.
    """

    encodings: Encodings
    curve: tuple[Epoch, ...] = ()
    best_epoch: int = 0
    arrays: Arrays = field(default_factory=dict)


Fit = Callable[[Task], FitResult]
