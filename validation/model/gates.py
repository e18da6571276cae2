"""The model gate: from measured numbers to a verdict. It reads no file and changes nothing.

It answers two questions. Is the candidate sound: finite, equal after export, calibrated, better
than chance? If not, the day fails. Is it good enough to serve, compared with the champion, the
baseline and the latency limit? If not, it is refused; the day succeeds and the champion stays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from features.json_safe import json_safe
from validation.checks import Check
from validation.model.hours import SameHours
from validation.settings import ModelGateSettings

BOOTSTRAP = (
    "there is no champion yet: bootstrap, the candidate was compared with the baseline alone"
)
"""The reason given when a model is blessed without a champion to compare with."""


SAME_HOURS = "calibration_same_hours"
"""The check of calibration against earlier days."""

_RATIO = "calibration of the exported model over the baseline's on the same impressions"
_DROPS = {
    "baseline": "AUC of the exported model minus the baseline's",
    "champion": "AUC of the exported model minus the champion's",
    "champion_recipe": "AUC of the trained model minus that of the champion's settings trained on "
    "the same days",
}
_TOO_GOOD = "AUC of the exported model (one that is too high means that a field tells the label)"


class GateResult(StrEnum):
    """What the gate decides about a candidate."""

    BLESSED = "blessed"
    REFUSED = "refused"
    UNSOUND = "unsound"


@dataclass(frozen=True)
class Evidence:
    """What was measured, all on the same held-out impressions.

    Attributes:
        auc: of the trained model.
        auc_exported: of the exported model's answers, which is what would be served.
        log_loss: mean negative log-likelihood of the exported model, in nats.
        calibration: Σp / Σy of the exported model.
        calibration_baseline: of the baseline.
        auc_baseline: of the logistic regression that is trained with the model.
        auc_champion: of the model that serves now; None if there is none (bootstrap).
        parity_max_abs_diff: largest difference between exported and expected probability.
        bytes_exported: size of the exported folder.
        p99_ms: 99th percentile of the latency of one request.
        auc_compressed: of the compressed model; None if compression was lossless.
        auc_change_by_compression: AUC of the compressed minus that of the trained model, on the
            half of the users that had no part in the choice of the compression.
        impressions: held-out impressions.
        errors: standard errors of the exported model's AUC minus that of `baseline` and of
            `champion`, of `compressed` minus the trained model's, and of the trained model's minus
            `champion_recipe`, by that name.
        auc_champion_recipe: of the champion's settings, trained on the candidate's days; None if
            they are the candidate's own, or could not be trained.
        same_hours: the exported model's calibration compared with that of earlier days.
    """

    auc: float
    auc_exported: float
    log_loss: float
    calibration: float
    calibration_baseline: float
    auc_baseline: float
    auc_champion: float | None
    parity_max_abs_diff: float
    bytes_exported: int
    p99_ms: float
    auc_compressed: float | None = None
    auc_change_by_compression: float | None = None
    impressions: int = 0
    errors: Mapping[str, float] = field(default_factory=dict)
    auc_champion_recipe: float | None = None
    same_hours: SameHours | None = None


@dataclass(frozen=True)
class Verdict:
    """The result with its reasons: what failed, or why a bootstrap was allowed.

    `notes` say what was not judged, and why.
    """

    result: GateResult
    reasons: tuple[str, ...]
    checks: tuple[Check, ...]
    evidence: Evidence
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `verdict.json`; numbers that are not finite are null."""
        return {
            "verdict": str(self.result),
            "reasons": list(self.reasons),
            "notes": list(self.notes),
            "checks": [check.as_dict() for check in self.checks],
            "metrics": json_safe(asdict(self.evidence)),
        }


def decide(evidence: Evidence, settings: ModelGateSettings) -> Verdict:
    """Return the verdict on a candidate; what cannot be measured counts as failed."""
    # An unsound candidate outweighs one that is merely not better: it stops the day.
    soundness, merit = _soundness(evidence, settings), _merit(evidence, settings)
    reasons = [check.finding for check in (*soundness, *merit) if not check.passed]
    result = GateResult.REFUSED if reasons else GateResult.BLESSED
    if not all(check.passed for check in soundness):
        result = GateResult.UNSOUND
    if evidence.auc_champion is None:
        reasons.append(BOOTSTRAP)
    notes = (_not_judged(evidence.same_hours, settings),) if evidence.same_hours else ()
    return Verdict(
        result, tuple(reasons), (*soundness, *merit), evidence, tuple(filter(None, notes))
    )


def _soundness(evidence: Evidence, settings: ModelGateSettings) -> list[Check]:
    exported, low, high = evidence.auc_exported, settings.min_calibration, settings.max_calibration
    most, baseline = settings.max_calibration_ratio, evidence.calibration_baseline
    ratio = evidence.calibration / baseline if baseline else math.nan
    diff, max_diff = evidence.parity_max_abs_diff, settings.max_parity_diff
    # Lossy steps change predictions on purpose: the export must then equal the compressed model.
    origin = "trained" if evidence.auc_compressed is None else "compressed"
    parity = f"largest difference between the exported and the {origin} model's probability"
    return [
        Check("parity_max_abs_diff", diff, 0, max_diff, parity),
        Check("auc", evidence.auc, settings.min_auc, 1, "AUC of the trained model"),
        Check("auc_exported", exported, settings.min_auc, settings.max_auc, _TOO_GOOD),
        Check("log_loss", evidence.log_loss, 0, None, "log loss of the exported model"),
        Check("calibration", evidence.calibration, low, high, "predicted over observed clicks"),
        Check("calibration_ratio", ratio, 1 / most, most, _RATIO),
    ]


def _merit(evidence: Evidence, settings: ModelGateSettings) -> list[Check]:
    exported = evidence.auc_exported
    checks = [_drop_check("baseline", exported - evidence.auc_baseline, evidence, settings)]
    if evidence.auc_champion_recipe is not None:
        # Trained against trained: neither is compressed.
        change = evidence.auc - evidence.auc_champion_recipe
        checks.append(_drop_check("champion_recipe", change, evidence, settings))
    if evidence.auc_change_by_compression is not None:
        words = _with_error(
            "AUC of the compressed model minus the trained model's", "compressed", evidence
        )
        limit = -settings.max_auc_drop_by_compression
        change = evidence.auc_change_by_compression
        checks.append(Check("auc_minus_trained", change, limit, None, words))
    if evidence.auc_champion is not None:
        checks.append(_drop_check("champion", exported - evidence.auc_champion, evidence, settings))
    same = evidence.same_hours
    if same is not None and not _not_judged(same, settings):
        checks.append(_same_hours_check(same, settings))
    # Latency is no matter of soundness: a slow model predicts well, but must not be served.
    words = "99th percentile of the latency of one request, in ms"
    checks.append(Check("p99_ms", evidence.p99_ms, None, settings.max_p99_ms, words))
    return checks


def _not_judged(same: SameHours, settings: ModelGateSettings) -> str:
    """Return why calibration is not compared with earlier days; empty if it is."""
    if same.days >= settings.calibration_min_days:
        return ""
    return (
        f"calibration against earlier days not judged: {same.days} of "
        f"{settings.calibration_min_days} earlier days with sound figures of hours {same.hours} "
        "(`model_gate.calibration_min_days`)"
    )


def _same_hours_check(same: SameHours, settings: ModelGateSettings) -> Check:
    most = max(
        settings.max_calibration_change,
        math.exp(same.tolerance(settings.max_calibration_standard_errors)),
    )
    words = (
        f"predicted over observed clicks in hours {same.hours}, over that of {same.days} earlier "
        "days in the same hours"
    )
    shown = (
        f"{same.calibration:.3g} against {same.calibration_earlier:.3g}, standard error "
        f"{same.error:.1%}, {same.clicks:,} clicks; look for clicks that are lost or late in the "
        "log, and for changed training settings"
    )
    ratio = same.calibration / same.calibration_earlier
    setting = "model_gate.max_calibration_change"
    return Check(SAME_HOURS, ratio, 1 / most, most, words, shown, setting)


def _drop_check(
    rival: str, change: float, evidence: Evidence, settings: ModelGateSettings
) -> Check:
    """Return the check of the exported model's AUC minus a rival's.

    The limit is the smaller of the allowed drop and of so many standard errors: a drop that is
    shown to be one is refused also where it is small.
    """
    limit = settings.max_auc_drop_to_champion
    if rival == "baseline":
        limit = settings.max_auc_drop_to_baseline
    error = evidence.errors.get(rival, math.nan)
    if math.isfinite(error):
        limit = min(limit, settings.max_standard_errors * error)
    else:
        # Without a standard error nothing is known about chance: the check fails.
        change = math.nan
    words = _with_error(_DROPS[rival], rival, evidence)
    return Check(f"auc_minus_{rival}", change, -limit, None, words)


def _with_error(words: str, rival: str, evidence: Evidence) -> str:
    error = evidence.errors.get(rival, math.nan)
    return f"{words} (standard error {error:.2g}, {evidence.impressions:,} impressions)"
