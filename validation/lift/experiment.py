"""Bucket experiments: users in arms, clicks per user and per impression, lift with intervals.

The unit is the user: one user's clicks are not independent, so intervals that count impressions
would be too narrow. Ratios and their intervals (delta method) are tea-tasting's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.errors import UnsoundError
from features.fingerprint import fingerprint64

METRICS = ("pvctr", "uvctr")
"""Clicks per impression, and the share of users who clicked."""

_SRM_ALPHA = 0.001
"""Below this p-value the arms' sizes are not what was asked for (Fabijan et al., KDD 2019)."""


@dataclass(frozen=True)
class Lift:
    """The relative difference of a metric between two arms.

    Attributes:
        metric: one of METRICS.
        arm: the arm that is judged.
        control: the arm that it is compared with.
        value: the metric in `arm`, and `control_value` in `control`.
        lift: `value / control_value - 1`.
        low: lower end of its confidence interval, and `high` the upper one.
        p_value: two-sided, of no difference.
    """

    metric: str
    arm: str
    control: str
    value: float
    control_value: float
    lift: float
    low: float
    high: float
    p_value: float


def assign_arms(users: NDArray[np.int64], arms: int, salt: str) -> NDArray[np.int64]:
    """Return the arm of each user, int64 [n]: a function of user, salt and number of arms only.

    Args:
        users: ids, int64 [n].
        arms: their number; each gets an equal share of the users.
        salt: name of the experiment, so that the arms of two experiments are independent.
    """
    distinct, inverse = np.unique(users, return_inverse=True)
    texts = pa.array([f"{salt}\x1f{user}" for user in distinct.tolist()], pa.string())
    hashed = fingerprint64(texts).view(np.uint64)
    return (hashed % np.uint64(arms)).astype(np.int64)[inverse]


def lifts(
    users: NDArray[np.int64],
    arms: NDArray[np.int64],
    clicks: NDArray[np.bool_],
    names: Sequence[str],
    controls: Sequence[str],
    confidence: float = 0.95,
) -> list[Lift]:
    """Compare each arm with each control.

    Args:
        users: of each impression, int64 [n].
        arms: of each impression, as a number into `names`, int64 [n].
        clicks: bool [n].
        names: of the arms, which shall be of equal size.
        controls: names of the arms to compare with.
        confidence: of the intervals.

    Raises:
        UnsoundError: an arm has no users, a user is in two arms, or the arms' sizes differ by more
            than chance.
    """
    import tea_tasting as tt

    # 1. One row per user: the unit that was assigned.
    table = pa.table({"user": users, "arm": arms, "click": clicks.astype(np.int64)})
    by_user = table.group_by(["user", "arm"]).aggregate([("click", "sum"), ("click", "count")])
    in_two = len(by_user) - len(np.unique(users))
    if in_two:
        raise UnsoundError(
            f"{in_two} users are in more than one arm: their clicks cannot be attributed; the "
            "bucket must be a function of the user alone"
        )
    data = pa.table(
        {
            "arm": by_user["arm"],
            "clicks": by_user["click_sum"],
            "impressions": by_user["click_count"],
            "clicked": pa.array(by_user["click_sum"].to_numpy() > 0).cast(pa.int64()),
        }
    )
    sizes = np.bincount(data["arm"].to_numpy(), minlength=len(names))
    if not sizes.all():
        raise UnsoundError(f"no user is in the arm {names[int(np.argmin(sizes))]!r}")

    # 2. Compare. The sizes are checked first: what they spoil is not worth reading.
    experiment = tt.Experiment(
        {
            "pvctr": tt.RatioOfMeans("clicks", "impressions", confidence_level=confidence),
            "uvctr": tt.Mean("clicked", confidence_level=confidence),
            "sizes": tt.SampleRatio(),
        },
        variant="arm",
    )
    found = []
    for control in controls:
        number = names.index(control)
        results = experiment.analyze(data, control=number, all_variants=True)
        for (_, arm), result in results.items():
            _check_sizes(result["sizes"], names[arm], control)
            found += [_lift(metric, names[arm], control, result[metric]) for metric in METRICS]
    return found


def _check_sizes(sizes: Any, arm: str, control: str) -> None:
    if sizes.pvalue < _SRM_ALPHA:
        raise UnsoundError(
            f"{sizes.treatment:.0f} users in {arm!r} and {sizes.control:.0f} in {control!r} differ "
            f"by more than chance (p = {sizes.pvalue:.1e}): users were lost or assigned otherwise, "
            "so no lift can be read from them"
        )


def _lift(metric: str, arm: str, control: str, result: Any) -> Lift:
    return Lift(
        metric,
        arm,
        control,
        value=float(result.treatment),
        control_value=float(result.control),
        lift=float(result.rel_effect_size),
        low=float(result.rel_effect_size_ci_lower),
        high=float(result.rel_effect_size_ci_upper),
        p_value=float(result.pvalue),
    )
