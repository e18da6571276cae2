"""Figures of parts of the impressions: where a model is good and where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.errors import InputError
from training.evaluation.metrics.bootstrap import RESAMPLES, interval, resample_users
from training.evaluation.metrics.probability import calibration, log_loss
from training.evaluation.metrics.ranking import Floats, Integers, auc


@dataclass(frozen=True)
class Slice:
    """Some of the impressions: `inside` bool [n]."""

    name: str
    inside: NDArray[np.bool_]


def everything(rows: int) -> Slice:
    """Return the slice `all` of so many impressions."""
    return Slice("all", np.ones(rows, bool))


@dataclass(frozen=True)
class SliceFigures:
    """One model on one slice; a figure that is undefined there is NaN. `auc_low` and `auc_high` are 95 % by user."""

    name: str
    rows: int
    clicks: int
    users: int
    auc: float
    auc_low: float
    auc_high: float
    log_loss: float
    calibration: float


def slice_table(
    label: Floats,
    probability: Floats,
    user: Integers,
    slices: Sequence[Slice],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[SliceFigures, ...]:
    """Return the figures of each slice, in their order.

    Args:
        label: [n], 0 or 1.
        probability: [n].
        user: [n], any integers; equal ones are one user.
        slices: parts, which may overlap or be empty.
        resamples: draws of users behind an interval.
        seed: of the draws.

    Raises:
        InputError: a slice is not of these impressions.
    """
    wrong = {part.name: part.inside.shape for part in slices if part.inside.shape != label.shape}
    if wrong:
        raise InputError(
            f"slices {wrong} are not of the {len(label)} impressions: give one bool per impression"
        )
    return tuple(
        _figures(part.name, _taken(part, label, probability, user), resamples, seed)
        for part in slices
    )


Part = tuple[Floats, Floats, Integers]


def _taken(part: Slice, label: Floats, probability: Floats, user: Integers) -> Part:
    return label[part.inside], probability[part.inside], user[part.inside]


def _figures(name: str, part: Part, resamples: int, seed: int) -> SliceFigures:
    label, probability, user = part
    by_user = resample_users(label, {name: probability}, user, resamples, seed)
    reach = interval(by_user[name].auc)
    return SliceFigures(
        name=name,
        rows=len(label),
        clicks=int(np.count_nonzero(label)),
        users=len(np.unique(user)),
        auc=auc(label, probability),
        auc_low=reach.low,
        auc_high=reach.high,
        log_loss=log_loss(label, probability),
        calibration=calibration(label, probability),
    )
