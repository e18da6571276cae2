"""Everything the model gate wants to know of a candidate, measured on one day's held-out impressions.

Candidate, its export, the champion and the baseline are all scored on the same impressions, so that differences are
differences of models.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.errors import InputError
from features.schema import Schema
from training.evaluation.metrics import (
    auc,
    calibration,
    expected_calibration_error,
    grouped_auc,
    log_loss,
)
from training.fit.checkpoints import read_description
from validation.model.gates import Evidence, Verdict, judge
from validation.model.parity import ParityReport, check_parity
from validation.model.requests import read_requests
from validation.serving.compare import folder_bytes
from validation.settings import ModelGateSettings

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Candidate:
    """Where the things to judge lie.

    Attributes:
        partition: the day's `impressions` artifact.
        checkpoint: the trained model, with its `heldout.parquet`.
        export: the `export` artifact.
        champion: the `compressed` artifact of the model that serves now; None when there is none.
        compressed: the candidate's own `compressed` artifact, for the picture of sizes, and for what the export is compared
            with where lossy steps were taken; None: the export is compared with the trained model.
    """

    partition: Path
    checkpoint: Path
    export: Path
    champion: Path | None
    compressed: Path | None = None


@dataclass(frozen=True)
class HeldOut:
    """The day's held-out slice: `record` int64 [n], `user` codes int64 [n], `label` float32 [n], and two models' scores."""

    record: NDArray[np.int64]
    user: NDArray[np.int64]
    label: Scores
    model: Scores
    baseline: Scores


def check_model(
    candidate: Candidate, schema: Schema, settings: ModelGateSettings, out: Path
) -> dict[str, Any]:
    """Judge a candidate; write `verdict.json`, `serving.json`, `predictions.npy` and `plots/` into `out`.

    Returns:
        The verdict, the evidence and what follows from it, flat: the stage's figures.

    Raises:
        InputError: a file is missing or unreadable.
        UnsoundError: the export does not load or does not answer.
    """
    from validation.model.report import plot_model

    heldout = read_heldout(candidate.checkpoint / "heldout.parquet")
    lossy = None if is_lossless(candidate.compressed) else candidate.compressed
    compressed = None if lossy is None else score_compressed(lossy, candidate.partition, heldout)
    asked = read_requests(
        candidate.partition, read_description(lossy).schema if lossy else schema, heldout.record
    )
    expected = heldout.model if compressed is None else compressed
    with ThreadPoolExecutor(1) as thread:
        # The champion is scored while the export's fresh process imports TensorFlow, seconds before it times its calls.
        checked = thread.submit(check_parity, candidate.export / "saved_model", asked, expected)
        champion = (
            None
            if candidate.champion is None
            else score_compressed(candidate.champion, candidate.partition, heldout)
        )
        parity = checked.result()
    exported = parity.serving.probability
    evidence = _evidence(heldout, exported, champion, parity, folder_bytes(candidate.export))
    if compressed is not None:
        evidence = replace(evidence, auc_compressed=auc(heldout.label, compressed))
    verdict = judge(evidence, settings)
    _write(out, verdict, parity, exported)
    plot_model(
        heldout.label, _curves(heldout, exported, champion), out / "plots", _sizes(candidate)
    )
    return _figures(verdict, heldout, exported)


def read_heldout(path: Path) -> HeldOut:
    """Read the held-out slice that training wrote; raises InputError when it is not there."""
    if not path.is_file():
        raise InputError(f"{path}: not there; train that day again")
    table = pq.read_table(path)
    user = np.unique(table["user"].to_numpy(zero_copy_only=False), return_inverse=True)[1]
    columns = [table[name].to_numpy() for name in ("label", "p_model", "p_baseline")]
    return HeldOut(table["record_id"].to_numpy(), user, *(c.astype(np.float32) for c in columns))


def is_lossless(compressed: Path | None) -> bool:
    """Return whether a compressed model predicts what the trained one does: no lossy step, no row above zero dropped."""
    return compressed is None or bool(_report(compressed).get("lossless", True))


def score_compressed(compressed: Path, partition: Path, heldout: HeldOut) -> Scores:
    """Return a compressed model's probabilities float32 [n] of the held-out impressions.

    A field that it knows and the day lacks is null.
    """
    from training.data.examples import AbsentFields, read_examples
    from training.evaluation.scoring import Scorer

    scorer = Scorer.load(compressed)
    description = scorer.description
    examples = read_examples(
        partition, description.schema, description.relations, AbsentFields.NULL
    )
    last = examples.slice(len(examples.label) - len(heldout.record), len(examples.label))
    if not np.array_equal(last.record_id, heldout.record):
        raise InputError(
            f"{partition}: its last records are not the held-out ones; train that day again on this partition"
        )
    return scorer.score(last)


def _evidence(
    heldout: HeldOut,
    exported: Scores,
    champion: Scores | None,
    parity: ParityReport,
    size_bytes: int,
) -> Evidence:
    label = heldout.label
    return Evidence(
        auc=auc(label, heldout.model),
        auc_exported=auc(label, exported),
        log_loss=log_loss(label, exported),
        calibration=calibration(label, exported),
        auc_baseline=auc(label, heldout.baseline),
        auc_champion=None if champion is None else auc(label, champion),
        parity_max_abs_diff=parity.max_abs_diff,
        bytes_exported=size_bytes,
        p99_ms=parity.serving.answers[1].p99_ms,
    )


def _write(out: Path, verdict: Verdict, parity: ParityReport, exported: Scores) -> None:
    (out / "verdict.json").write_text(json.dumps(verdict.as_dict(), indent=1), encoding="utf-8")
    (out / "serving.json").write_text(json.dumps(parity.as_dict(), indent=1), encoding="utf-8")
    np.save(out / "predictions.npy", exported, allow_pickle=False)


def _curves(heldout: HeldOut, exported: Scores, champion: Scores | None) -> Mapping[str, Scores]:
    curves = {"exported model": exported, "logistic regression": heldout.baseline}
    return curves if champion is None else {**curves, "champion": champion}


def _figures(verdict: Verdict, heldout: HeldOut, exported: Scores) -> dict[str, Any]:
    evidence = verdict.evidence
    more: dict[str, Callable[[], float]] = {
        "ece": lambda: expected_calibration_error(heldout.label, exported),
        "gauc": lambda: grouped_auc(heldout.label, exported, heldout.user),
    }
    lift = {"lift_auc_vs_baseline": evidence.auc_exported - evidence.auc_baseline}
    if evidence.auc_champion is not None:
        lift["lift_auc_vs_champion"] = evidence.auc_exported - evidence.auc_champion
    return {
        "verdict": str(verdict.outcome),
        **verdict.as_dict()["metrics"],
        **lift,
        **{k: f() for k, f in more.items()},
    }


def _sizes(candidate: Candidate) -> dict[str, int] | None:
    """Bytes of the model by form, from what compression reported and what lies on disk."""
    if candidate.compressed is None:
        return None
    report = _report(candidate.compressed)
    return {
        "trained": report["bytes_before"],
        "without optimizer state": report["bytes_before_weights"],
        "without zero rows" if is_lossless(candidate.compressed) else "by lossy steps": report[
            "bytes_after"
        ],
        "exported, with its graph": folder_bytes(candidate.export),
    }


def _report(compressed: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((compressed / "report.json").read_text(encoding="utf-8"))
    return report
