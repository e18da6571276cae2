"""One way to call every model of the cross graph: what it is given, what it leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from training.data.arrays import Arrays
from training.models.cross_input import Encodings
from training.pretraining.adjacency import Chosen
from training.pretraining.graph import Graph
from training.pretraining.settings import PretrainSettings
from training.pretraining.targets import Targets, held_out, targets


@dataclass(frozen=True)
class Task:
    """What is to be fitted.

    Attributes:
        graph: nodes and edges.
        chosen: which edges are learned, by relation bool [E]; the others are not aggregated over either.
        settings: how.
        heldout: edges to stop by, by relation; empty: learn for `settings.epochs`.
        previous: `Fitted.arrays` of an earlier fit to start from; empty: none.
    """

    graph: Graph
    chosen: Chosen
    settings: PretrainSettings
    heldout: Mapping[str, Targets] = field(default_factory=dict)
    previous: Arrays = field(default_factory=dict)

    @classmethod
    def of(cls, graph: Graph, settings: PretrainSettings, previous: Arrays) -> Self:
        """Return the task that is measured: the edges that are not held out, judged by those that are."""
        held = {name: held_out(graph, name, settings) for name in graph.edges}
        heldout = {
            name: targets(edges, settings).where(held[name]) for name, edges in graph.edges.items()
        }
        return cls(
            graph, {name: ~which for name, which in held.items()}, settings, heldout, previous
        )

    def whole(self, epochs: int) -> Self:
        """Return the task with all edges, for so many epochs."""
        everything = {
            name: np.ones(len(edges), np.bool_) for name, edges in self.graph.edges.items()
        }
        settings = self.settings.model_copy(update={"epochs": epochs})
        return replace(self, chosen=everything, settings=settings, heldout={})

    def learned(self) -> dict[str, Targets]:
        """Return the edges that are learned, by relation; relations without any are left out."""
        each = {
            n: targets(edges, self.settings).where(self.chosen[n])
            for n, edges in self.graph.edges.items()
        }
        return {name: edges for name, edges in each.items() if len(edges)}

    def heldout_pairs(self, name: str) -> NDArray[np.int64]:
        """Return the keys int64 [e, 2] of a relation's held-out edges."""
        return self.heldout[name].pairs_in(self.graph)


@dataclass(frozen=True)
class Epoch:
    """The loss of a pass: mean of its batches' weighted square errors, and of the held-out edges, in units of the variance."""

    number: int
    loss: float
    heldout_loss: float


@dataclass(frozen=True)
class Fitted:
    """What a fit leaves.

    Attributes:
        encodings: p_uv of each relation, for the click model.
        curve: losses by epoch; empty where there are no epochs.
        best_epoch: the one whose weights these are.
        arrays: what a later fit may start from.
    """

    encodings: Encodings
    curve: tuple[Epoch, ...] = ()
    best_epoch: int = 0
    arrays: Arrays = field(default_factory=dict)


Fit = Callable[[Task], Fitted]
