"""The dense part alone: what a step would cost if embeddings were free."""

from __future__ import annotations

from elastic_peers.dense_tf import dense_step
from elastic_peers.worker import Step
from elastic_peers.workload import Traffic, Workload


def create(work: Workload, drawn: Traffic) -> Dense:
    """Return the system, its table filled."""
    return Dense(work, drawn)


class Dense:
    """No table at all."""

    def __init__(self, work: Workload, drawn: Traffic) -> None:
        self._work, self._drawn = work, drawn

    def step(self, mlp: str) -> Step:
        """Return the same as `dense`: there is nothing more."""
        return self.dense(mlp)

    def dense(self, mlp: str) -> Step:
        """Return the dense part of an MLP."""
        return dense_step(self._work, self._drawn, mlp)
