"""Progressive validation: how good the probabilities were that were given before the impressions were learned, hour by hour.

Each impression is used first to test and then to train, so the figures are of data the model had not seen (Blum, Kalai and
Langford, Beating the Hold-Out, COLT 1999; McMahan et al., KDD 2013, section 5).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.evaluation.metrics import auc, calibration, log_loss

PROGRESSIVE = "progressive.json"


@dataclass(frozen=True)
class HourFigures:
    """An hour's impressions.

    Attributes:
        hour: of the local day, 0 … 23.
        rows: impressions.
        scored: those of them that a model scored before they were learned; the rest are of these.
        clicks: on the scored impressions.
        auc: NaN without both classes, as the others where they are undefined.
        log_loss: nats an impression.
        calibration: expected over observed clicks.
    """

    hour: int
    rows: int
    scored: int
    clicks: int
    auc: float
    log_loss: float
    calibration: float


def progressive_figures(
    label: NDArray[np.float32], probability: NDArray[np.float32]
) -> dict[str, float]:
    """Return the figures of the whole day.

    Args:
        label: float32 [n], 0 or 1.
        probability: float32 [n], NaN where an impression was not scored before it was learned; those are left out.
    """
    scored = ~np.isnan(probability)
    label, probability = label[scored], probability[scored]
    return {
        "auc_progressive": auc(label, probability),
        "log_loss_progressive": log_loss(label, probability),
    }


def by_hour(
    hour: NDArray[np.int64], label: NDArray[np.float32], probability: NDArray[np.float32]
) -> tuple[HourFigures, ...]:
    """Return the figures of each hour that has impressions, ascending.

    Args:
        hour: int64 [n], local hour of the day.
        label: as of `progressive_figures`, like `probability`.
        probability: float32 [n].
    """
    return tuple(
        _figures(int(h), label[hour == h], probability[hour == h]) for h in np.unique(hour)
    )


def write_progressive(
    hours: Sequence[HourFigures], timezone: str, learn_by: str, path: Path
) -> None:
    """Write figures as strict JSON: `{"timezone", "learn_by", "hours": [one object an hour]}`, NaN as null."""
    document = {
        "timezone": timezone,
        "learn_by": learn_by,
        "hours": [_plain(asdict(figures).items()) for figures in hours],
    }
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _figures(
    hour: int, label: NDArray[np.float32], probability: NDArray[np.float32]
) -> HourFigures:
    scored = ~np.isnan(probability)
    y, p = label[scored], probability[scored]
    return HourFigures(
        hour=hour,
        rows=len(label),
        scored=len(y),
        clicks=int(y.sum(dtype=np.float64)),
        auc=auc(y, p),
        log_loss=log_loss(y, p),
        calibration=calibration(y, p),
    )


def _plain(figures: Iterable[tuple[str, float]]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in figures}
