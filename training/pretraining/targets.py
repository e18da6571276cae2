"""What is fitted: the statistic of each edge in units of its spread, the edge's weight, and which edges are held out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from features.schema import Relation
from training.pretraining import kernels
from training.pretraining.graph import Edges, Graph
from training.pretraining.settings import PretrainSettings, WeightSettings

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Targets:
    """Edges of one relation as a regression.

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

    def pairs_in(self, graph: Graph) -> NDArray[np.int64]:
        """Return the node keys int64 [E, 2] of these edges of a graph."""
        left, right = graph.sides(self.relation.name)
        return np.stack([left[self.left], right[self.right]], axis=1)

    def mean(self) -> float:
        """Return the weighted mean; 0 without edges."""
        return float(np.average(self.value, weights=self.weight)) if len(self) else 0.0

    def spread(self) -> float:
        """Return the weighted standard deviation; 1 where the values do not vary."""
        if not len(self):
            return 1.0
        deviation = float(np.sqrt(np.average((self.value - self.mean()) ** 2, weights=self.weight)))
        return deviation if deviation > _NO_SPREAD else 1.0

    def seen_in(self, other: Targets) -> NDArray[np.bool_]:
        """Return which of these edges have both their nodes among the other's, bool [E]."""
        return np.isin(self.left, other.left) & np.isin(self.right, other.right)


_NO_SPREAD = 1e-9


def targets(edges: Edges, settings: PretrainSettings) -> Targets:
    """Return a relation's edges with the statistic and the weights that the settings name."""
    weight = edge_weights(edges.impressions, settings.weight)
    value = edges.statistics[settings.statistic]
    return Targets(edges.relation, edges.left, edges.right, value, weight, edges.impressions)


def edge_weights(impressions: NDArray[np.int64], settings: WeightSettings) -> Floats:
    """Return ln(1 + n) or n / (n + kappa) of impressions n, float64 in their shape.

    Li et al. (SIGIR 2021) weight edges by co-occurrence; their formula could not be read, so both are offered.
    """
    n = impressions.astype(np.float64)
    weight: Floats = np.log1p(n) if settings.kind == "log" else n / (n + settings.kappa)
    return weight


def held_out(graph: Graph, name: str, settings: PretrainSettings) -> NDArray[np.bool_]:
    """Return which edges of a relation are held out, bool [E].

    The pair's keys and the seed decide, so that a pair that is held out once is held out of every later graph: what a warm
    start takes over has not seen it either.
    """
    edges = graph.edges[name]
    left, right = graph.sides(name)
    uniform = (
        kernels.pair_hash(left[edges.left], right[edges.right], settings.seed).astype(np.float64)
        / 2**64
    )
    return uniform < settings.heldout_fraction
