"""The model gate: from measured numbers to a verdict. Pure: it reads no file and acts on nothing.

Two questions, in this order. Is the candidate *sound*: finite, the same after export, calibrated, better than chance?
Else the day is red. Is it *good enough to serve*: against the champion, the baseline and the latency limit? Else it is
refused, the day stays green and the champion stays.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from validation.checks import Check
from validation.settings import ModelGateSettings

BOOTSTRAP = (
    "there is no champion yet: bootstrap, the candidate was compared with the baseline alone"
)
"""The reason given when a model is blessed without having met a champion."""


class Outcome(StrEnum):
    """What a gate says of a candidate."""

    BLESSED = "blessed"
    REFUSED = "refused"
    UNSOUND = "unsound"


@dataclass(frozen=True)
class Evidence:
    """What was measured, all on the same held-out impressions.

    Attributes:
        auc: of the trained model.
        auc_exported: of the exported model's own answers; this is what would be served.
        log_loss: mean negative log-likelihood of the exported model, in nats.
        calibration: Σp / Σy of the exported model.
        auc_baseline: of the logistic regression trained beside it.
        auc_champion: of the model being served now; None when there is none (bootstrap).
        parity_max_abs_diff: largest difference between exported and expected probability.
        bytes_exported: size of the exported folder.
        p99_ms: 99th percentile of the latency of one request.
        auc_compressed: of the compressed model; None where compression was lossless and that of the trained one holds.
    """

    auc: float
    auc_exported: float
    log_loss: float
    calibration: float
    auc_baseline: float
    auc_champion: float | None
    parity_max_abs_diff: float
    bytes_exported: int
    p99_ms: float
    auc_compressed: float | None = None


@dataclass(frozen=True)
class Verdict:
    """The outcome with its reasons: what failed, or why a bootstrap was allowed; empty for a plain blessing."""

    outcome: Outcome
    reasons: tuple[str, ...]
    checks: tuple[Check, ...]
    evidence: Evidence

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `verdict.json`; numbers that are not finite become null."""
        metrics = {name: _json_number(value) for name, value in asdict(self.evidence).items()}
        checks = [check.as_dict() for check in self.checks]
        return {
            "verdict": str(self.outcome),
            "reasons": list(self.reasons),
            "checks": checks,
            "metrics": metrics,
        }


def judge(evidence: Evidence, settings: ModelGateSettings) -> Verdict:
    """Return the verdict on a candidate; what cannot be measured counts as failed."""
    soundness, merit = _soundness(evidence, settings), _merit(evidence, settings)
    failed = [check.finding for check in (*soundness, *merit) if not check.passed]
    outcome = Outcome.REFUSED if failed else Outcome.BLESSED
    if not all(check.passed for check in soundness):
        outcome = Outcome.UNSOUND
    if evidence.auc_champion is None:
        failed.append(BOOTSTRAP)
    return Verdict(outcome, tuple(failed), (*soundness, *merit), evidence)


def _soundness(evidence: Evidence, settings: ModelGateSettings) -> tuple[Check, ...]:
    low, high = settings.min_calibration, settings.max_calibration
    origin = "trained" if evidence.auc_compressed is None else "compressed"
    parity = f"largest difference between the exported and the {origin} model's probability"
    return (
        Check(
            "parity_max_abs_diff", evidence.parity_max_abs_diff, 0, settings.max_parity_diff, parity
        ),
        Check("auc", evidence.auc, settings.min_auc, 1, "AUC of the trained model"),
        Check(
            "auc_exported", evidence.auc_exported, settings.min_auc, 1, "AUC of the exported model"
        ),
        Check("log_loss", evidence.log_loss, 0, None, "log loss of the exported model"),
        Check("calibration", evidence.calibration, low, high, "predicted over observed clicks"),
    )


def _merit(evidence: Evidence, settings: ModelGateSettings) -> tuple[Check, ...]:
    to_baseline = evidence.auc_exported - evidence.auc_baseline
    limit = -settings.max_auc_drop_to_baseline
    words = "AUC of the exported model minus the baseline's"
    checks = [Check("auc_minus_baseline", to_baseline, limit, None, words)]
    if evidence.auc_compressed is not None:
        by_compression, limit = (
            evidence.auc_compressed - evidence.auc,
            -settings.max_auc_drop_by_compression,
        )
        words = "AUC of the compressed model minus the trained model's"
        checks.append(Check("auc_minus_trained", by_compression, limit, None, words))
    if evidence.auc_champion is not None:
        to_champion = evidence.auc_exported - evidence.auc_champion
        words = "AUC of the exported model minus the champion's"
        checks.append(
            Check(
                "auc_minus_champion", to_champion, -settings.max_auc_drop_to_champion, None, words
            )
        )
    checks.append(
        Check(
            "p99_ms",
            evidence.p99_ms,
            None,
            settings.max_p99_ms,
            "99th percentile of the latency of one request, in ms",
        )
    )
    return tuple(checks)


def _json_number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
