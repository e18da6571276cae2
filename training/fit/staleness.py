"""What to do about a checkpoint that is older than a day: refuse it, go on with a warning, or start with nothing learned."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from elastic_embeddings.optimizers.learning_rates import Warmup
from elastic_embeddings.optimizers.optimizer import Optimizer
from features.errors import InputError
from training.settings import StalenessSettings

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rewarmed:
    """Lets learning rates grow again to their full value, linearly over the first `steps` steps after step `since`.

    A model that goes on after a gap meets a stream that has moved; full steps on gradients that are larger than usual
    would undo more than they mend. State and weights stay what they are: a schedule weights gradients alone.
    """

    since: int
    steps: int

    def __call__(self, optimizer: Optimizer) -> Optimizer:
        """Return the rule with the warm-up before its own rate."""
        return replace(
            optimizer, learning_rate=Warmup(optimizer.learning_rate, self.steps, self.since)
        )


def is_stale(settings: StalenessSettings, gap_days: float) -> bool:
    """Whether a checkpoint of so many days before the day is older than the policy allows."""
    return settings.max_days is not None and gap_days > settings.max_days


def starts_fresh(settings: StalenessSettings, gap_days: float) -> bool:
    """Judge a checkpoint's age, and return whether the day is to start with nothing learned instead.

    Raises:
        InputError: it is too old and the policy refuses that.
    """
    if not is_stale(settings, gap_days):
        return False
    what = f"the checkpoint is {gap_days:.3g} days older than the day, training.staleness.max_days allows {settings.max_days}"
    if settings.action == "refuse":
        raise InputError(
            f"{what}; train the days between first, or set training.staleness.action to warn or fresh"
        )
    _log.warning(
        "%s; %s",
        what,
        "starting with nothing learned" if settings.action == "fresh" else "going on from it",
    )
    return settings.action == "fresh"
