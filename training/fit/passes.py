"""Passes of one learner over impressions, with nothing scored between: how fields are ranked and dense weights tuned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from features.errors import UnsoundError
from training.data.examples import batches
from training.data.inputs import Inputs
from training.fit.learner import Learner, ahead
from training.settings import TrainingSettings


def learn_passes(
    learner: Learner[Any],
    parts: Sequence[Inputs],
    training: TrainingSettings,
    passes: int,
    cure: str,
    tell: Callable[[float], None] | None = None,
) -> None:
    """Learn parts in order, `passes` times over.

    Args:
        learner: learns.
        parts: impressions, shuffled within blocks by the seed, the pass and the part.
        training: batch size, shuffling, seed.
        passes: how often.
        cure: which rate to lower where the loss is not finite.
        tell: called before each step with the share of the impressions that is done.

    Raises:
        UnsoundError: the loss is not finite.
    """
    done, total = 0, passes * max(1, sum(len(part) for part in parts))
    for number in range(passes):
        for place, part in enumerate(parts):
            order = batches(
                len(part),
                training.batch_size,
                training.shuffle_block,
                (training.seed, number, place),
            )
            for prepared in ahead(lambda rows, part=part: learner.prepare(part.take(rows)), order):  # type: ignore[misc]
                if tell:
                    tell(done / total)
                _refuse_unsound(learner.learn(prepared), learner.table.step, cure)
                done += prepared.size


def _refuse_unsound(loss: float, step: int, cure: str) -> None:
    if not np.isfinite(loss):
        raise UnsoundError(f"the loss is {loss} at step {step}: nothing was saved; lower {cure}")
