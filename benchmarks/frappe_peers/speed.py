"""Speeds that may be compared: every model learns a few epochs, in turn, round after round, on a machine that drifts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from frappe_peers.registry import FUSION
from frappe_peers.report import BEST
from frappe_peers.runs import Bench

EPOCHS = 4
"""Of a round: the first compiles and does not count."""

_SEED = 1


def examples_per_s(
    bench: Bench, models: Sequence[str], rounds: int, say: Callable[[str], None]
) -> dict[str, float]:
    """Return each model's median over the rounds; nothing of it is kept.

    Raises:
        NoEnvironment: a library could not be installed.
        ProcessFailed: a process ended without an answer.
    """
    found: dict[str, list[float]] = {model: [] for model in models}
    for number in range(rounds):
        for model, speeds in found.items():
            say(f"speed of {model}, round {number + 1} of {rounds}")
            speeds.append(
                bench.figures(model, _SEED, max_epochs=EPOCHS, patience=EPOCHS)["examples_per_s"]
            )
    return {model: float(np.median(speeds)) for model, speeds in found.items()}


def with_speeds(
    models: Mapping[str, Mapping[str, Any]], speeds: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """Return the models' figures with these speeds in place of those of the runs, which were made at different times."""
    known = dict(speeds)
    if set(FUSION) <= set(known):
        known[BEST] = 1 / sum(1 / known[member] for member in FUSION)
    return {
        name: {**row, "examples_per_s": known.get(name, row["examples_per_s"])}
        for name, row in models.items()
    }
