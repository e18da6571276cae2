"""The experiment in the simulated world: every arm chooses among the same kind of candidates.

A live test needs a site. The simulated world has visits, candidates and true probabilities, so the
estimate can be shown with what it estimates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.evaluation.metrics import auc
from validation.lift.experiment import METRICS, Lift, assign_arms, lifts

RANDOM = "random"
"""The arm that shows any candidate."""

TRUTH = "true probabilities"


@dataclass(frozen=True)
class SimulatedExperiment:
    """What an experiment would say, and the truth.

    Attributes:
        visits: number of visits of each arm.
        metrics: arm → metric → its true value if all visits were the arm's.
        auc: arm → AUC of its scores over all candidates, with clicks drawn for each; `TRUTH` is
            that of the true probabilities.
        lifts: each arm against each control.
    """

    visits: Mapping[str, int]
    metrics: Mapping[str, Mapping[str, float]]
    auc: Mapping[str, float]
    lifts: tuple[Lift, ...]

    def true_lift(self, lift: Lift) -> float:
        """Return the lift that `lift` estimates."""
        arms = self.metrics[lift.arm], self.metrics[lift.control]
        return arms[0][lift.metric] / arms[1][lift.metric] - 1

    def find(self, metric: str, arm: str, control: str) -> Lift:
        """Return one comparison."""
        wanted = (metric, arm, control)
        return next(x for x in self.lifts if (x.metric, x.arm, x.control) == wanted)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        estimates = [{**asdict(each), "true_lift": self.true_lift(each)} for each in self.lifts]
        figures = {"visits": self.visits, "true": self.metrics, "auc": self.auc}
        return {**figures, "lifts": estimates}


def run_experiment(
    users: NDArray[np.int64],
    probability: NDArray[np.float64],
    scores: Mapping[str, NDArray[np.floating[Any]]],
    controls: tuple[str, ...],
    salt: str,
    seed: int,
) -> SimulatedExperiment:
    """Give each user to an arm, let it choose, draw clicks, and compare the arms.

    Args:
        users: of each visit, int64 [n].
        probability: true probability of a click on each candidate, [n, candidates].
        scores: arm → what it ranks candidates by, [n, candidates]; the first one is shown. The arm
            RANDOM is added.
        controls: the arms to compare with.
        salt: name of the experiment, which decides who is in which arm.
        seed: of the random arm's choices and of the clicks.

    Raises:
        UnsoundError: `validation.lift.experiment.lifts` rejects the arms.
    """
    rng, visits = np.random.default_rng(seed), np.arange(len(users))
    names = (RANDOM, *scores)
    # 1. What each arm would show in every visit. A tie is decided by lot, not by position.
    lots = rng.random(probability.shape)
    shown = [lots.argmax(axis=1)]
    for score in scores.values():
        best = score >= score.max(axis=1, keepdims=True)
        shown.append(np.where(best, lots, -1).argmax(axis=1))
    true = np.stack([probability[visits, choice] for choice in shown])
    # 2. What happens: each user meets one arm.
    arms = assign_arms(users, len(names), salt)
    clicks = rng.random(len(users)) < true[arms, visits]
    counts = np.bincount(arms, minlength=len(names))
    label = (rng.random(probability.shape) < probability).astype(np.float32).ravel()
    rankings = {**scores, TRUTH: probability}
    return SimulatedExperiment(
        visits=dict(zip(names, counts.tolist(), strict=True)),
        metrics={n: _true_metrics(users, p) for n, p in zip(names, true, strict=True)},
        auc={name: auc(label, score.ravel()) for name, score in rankings.items()},
        lifts=tuple(lifts(users, arms, clicks, names, controls)),
    )


def _true_metrics(users: NDArray[np.int64], probability: NDArray[np.float64]) -> dict[str, float]:
    """Return the expected metrics of visits, float64 [n], of which a user may have several."""
    _, inverse = np.unique(users, return_inverse=True)
    # Probability that none of the user's visits has a click.
    none = np.exp(np.bincount(inverse, weights=np.log1p(-probability)))
    return dict(zip(METRICS, (float(probability.mean()), float(1 - none.mean())), strict=True))
