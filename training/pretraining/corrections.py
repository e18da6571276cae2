"""Pairs that a prediction misses most keep their own statistic, as a correction to it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from training.models.cross_input import Encoding, Encodings, PairTable
from training.pretraining.fitting import Task
from training.pretraining.targets import Targets


def corrected(encodings: Encodings, task: Task) -> Encodings:
    """Return encodings with corrections a_uv - p_uv for the share `corrections` of each relation's learned pairs.

    Those with the greatest w_uv (a_uv - p_uv)² have one: no other choice of as many leaves a smaller loss. Ties go to the
    pair that comes first in the graph. Tables of pairs have nothing to correct.
    """
    share, learned = task.settings.corrections, task.learned()
    if not share:
        return encodings
    return {
        name: _corrected(each, learned[name], task) if isinstance(each, Encoding) else each
        for name, each in encodings.items()
    }


def _corrected(encoding: Encoding, edges: Targets, task: Task) -> Encoding:
    pairs = edges.pairs_in(task.graph)
    missed = edges.value - encoding.column(pairs)
    worst = np.argsort(-edges.weight * missed**2, kind="stable")[
        : int(task.settings.corrections * len(edges))
    ]
    return replace(
        encoding,
        corrections=PairTable.of(pairs[worst], missed[worst], 0.0, np.dtype(task.settings.storage)),
    )
