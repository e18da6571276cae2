"""Calibration by hour of day, compared with that of earlier days' models over the same hours.

Click rates move with the hour, and so does the ratio of predicted to observed clicks. The part of a
day that is held out, or a day of which only a part arrived, must not be compared with other hours.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.timezones import utc_offsets

HOURS = "calibration_hours.json"
_HOURS_PER_DAY = 24
_LEAST_SHARE = 0.01
"""Hours with a smaller share of the held-out impressions are not compared."""


@dataclass(frozen=True)
class HourSums:
    """Sums by hour of the local day.

    Attributes:
        sums: float64 [24, 3]: rows, predicted clicks Σp, clicks Σy.
        heldout: bool [24], whether an hour's sums are of the exported model on held-out
            impressions. Those of other hours are of the predictions before training on them.
    """

    sums: NDArray[np.float64]
    heldout: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        hour: NDArray[np.int64],
        label: NDArray[np.float32],
        probability: NDArray[np.float32],
        progressive: Path | None = None,
    ) -> HourSums:
        """Sum the held-out impressions, given as arrays [n].

        Args:
            hour: of the local day, 0 to 23.
            label: 0 or 1.
            probability: by the exported model.
            progressive: the checkpoint's `progressive.json`, for hours of which nothing is held
                out; may be missing.
        """
        weights = np.ones(len(hour)), probability.astype(np.float64), label.astype(np.float64)
        sums = np.zeros((_HOURS_PER_DAY, 3))
        for column, each in enumerate(weights):
            sums[:, column] = np.bincount(hour, each, _HOURS_PER_DAY)
        heldout = sums[:, 0] > 0
        if progressive is not None and progressive.is_file():
            for each in json.loads(progressive.read_text(encoding="utf-8"))["hours"]:
                # Without clicks the file has no ratio, hence no predicted clicks.
                if each["calibration"] is not None and not heldout[each["hour"]]:
                    predicted = each["calibration"] * each["clicks"]
                    sums[each["hour"]] = each["scored"], predicted, each["clicks"]
        return cls(sums, heldout)

    def write(self, path: Path, *, comparable: bool) -> None:
        """Write JSON; `comparable`: whether later days may be compared with this one."""
        hours = [
            {"hour": hour, "rows": int(rows), "predicted": predicted, "clicks": int(clicks)}
            | {"heldout": bool(self.heldout[hour])}
            for hour, (rows, predicted, clicks) in enumerate(self.sums.tolist())
            if rows
        ]
        path.write_text(json.dumps({"comparable": comparable, "hours": hours}, indent=1), "utf-8")

    @classmethod
    def read(cls, path: Path) -> HourSums | None:
        """Read what `write` wrote; None if the day is not to be compared with."""
        document = json.loads(path.read_text(encoding="utf-8"))
        if not document["comparable"]:
            return None
        sums, heldout = np.zeros((_HOURS_PER_DAY, 3)), np.zeros(_HOURS_PER_DAY, np.bool_)
        for each in document["hours"]:
            sums[each["hour"]] = each["rows"], each["predicted"], each["clicks"]
            heldout[each["hour"]] = each["heldout"]
        return cls(sums, heldout)


@dataclass(frozen=True)
class SameHours:
    """A candidate's calibration and that of earlier days over the same hours.

    Attributes:
        hours: the hours, for instance `19 to 23`.
        days: earlier days that have them all; below 2 the figures that follow are NaN.
        calibration: Σp / Σy of the candidate in these hours.
        calibration_earlier: geometric mean of the same figure of the earlier days.
        error: standard error of the logarithm of their ratio.
        freedom: degrees of freedom of `error`.
        clicks: of the candidate's impressions in these hours.
    """

    hours: str
    days: int
    calibration: float
    calibration_earlier: float
    error: float
    freedom: float
    clicks: int

    def tolerance(self, standard_errors: float) -> float:
        """Return the difference of logarithms that is as rare as so many standard errors.

        `standard_errors` is of a normal distribution; Student's, of few days, has longer tails.
        """
        from scipy.stats import norm, t

        return float(t.isf(norm.sf(standard_errors), self.freedom)) * self.error


def compare_hours(today: HourSums, earlier: Sequence[HourSums]) -> SameHours:
    """Compare the candidate's held-out hours with the same hours of earlier days.

    An earlier day's hours are weighted to the candidate's numbers of impressions. The variance of
    the difference is the binomial one of the candidate, and of the earlier days the sample variance
    s², of which the part above their binomial variance also holds for the candidate's own day.
    Its degrees of freedom are by Welch and Satterthwaite.
    """
    rows = np.where(today.heldout, today.sums[:, 0], 0)
    seen = np.flatnonzero(rows >= max(1, _LEAST_SHARE * rows.sum()))
    if not len(seen):
        return SameHours("none", 0, math.nan, math.nan, math.nan, math.nan, 0)
    days = [day.sums[seen] for day in earlier if (day.sums[seen, 0] > 0).all()]
    ratio, binomial = _log_ratio(today.sums[seen], today.sums[seen, 0])
    mean = error = freedom = math.nan
    if len(days) > 1:
        n = len(days)
        figures = np.array([_log_ratio(day, today.sums[seen, 0]) for day in days])
        mean, known = figures.mean(axis=0)
        found = max(float(figures[:, 0].var(ddof=1)), float(known))
        between = found - float(known)
        # What is estimated from n days; the binomial part is known.
        estimated = found * (1 + 1 / n) if between else found / n
        variance = binomial + between + found / n
        error = math.sqrt(variance)
        freedom = (n - 1) * (variance / estimated) ** 2 if estimated else math.inf
    clicks = int(today.sums[seen, 2].sum())
    return SameHours(
        _text(seen), len(days), math.exp(ratio), math.exp(mean), error, freedom, clicks
    )


def _log_ratio(sums: NDArray[np.float64], rows: NDArray[np.float64]) -> tuple[float, float]:
    """Return log Σp / Σy, its hours weighted to `rows`, and its binomial variance."""
    weight = rows / sums[:, 0]
    predicted, clicks = weight @ sums[:, 1:]
    rate = min(1.0, clicks / rows.sum())
    # The half keeps a few clicks, or none, finite. Of both counts the smaller one gives the
    # variance: with few impressions the clicks alone would make the ratio look too certain.
    scale = float((weight**2 @ sums[:, 1]) / predicted) if predicted else 1.0
    variance = scale * (1 - rate) / (min(predicted, clicks) + 0.5)
    return math.log((predicted + 0.5) / (clicks + 0.5)), float(variance)


def _text(hours: NDArray[np.intp]) -> str:
    runs = np.split(hours, np.flatnonzero(np.diff(hours) > 1) + 1)
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def local_hours_of(partition: Path, records: NDArray[np.int64], timezone: str) -> NDArray[np.int64]:
    """Return the local hour, int64 [n] from 0 to 23, of records of an `impressions` artifact."""
    table = pq.read_table(partition / "impressions", columns=["record_id", "timestamp_ms"])
    table = table.take(pc.index_in(records, value_set=table["record_id"]))
    seconds = table["timestamp_ms"].to_numpy() // 1000
    starts, offsets = utc_offsets(timezone)
    local = seconds + np.asarray(offsets)[np.searchsorted(starts, seconds, side="right") - 1]
    hours: NDArray[np.int64] = local // 3600 % _HOURS_PER_DAY
    return hours
