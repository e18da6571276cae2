"""Measure a candidate for the model gate on one day's held-out impressions.

Candidate, its export, champion and baseline are all scored on the same impressions, so that their
differences are differences of the models.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.errors import InputError
from features.files import folder_bytes
from features.json_safe import json_safe
from features.schema import Schema
from training.evaluation.metrics import (
    auc,
    auc_difference_error,
    calibration,
    expected_calibration_error,
    grouped_auc,
    in_reported_half,
    log_loss,
)
from training.fit.checkpoints import read_description
from validation.model.gates import SAME_HOURS, Evidence, GateResult, Verdict, decide
from validation.model.hours import HOURS, HourSums, compare_hours, local_hours_of
from validation.model.requests import RawRequests, read_requests
from validation.serving.measure import BATCH_SIZES, ServingReport, serve
from validation.settings import ModelGateSettings

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Candidate:
    """The folders of a candidate.

    Attributes:
        partition: the day's `impressions` artifact.
        checkpoint: the trained model, with its `heldout.parquet`.
        export: the `export` artifact.
        champion: the `compressed` artifact of the model that serves now; None if there is none.
        compressed: the candidate's `compressed` artifact, for the plot of sizes. After lossy steps
            the export is compared with it, otherwise with the trained model.
        recipe: the champion's settings trained on the same days, with its `heldout.parquet`; None
            if they are the candidate's.
        earlier: the `validation_report` artifacts of earlier days that calibration is compared
            with, where they have `calibration_hours.json`.
    """

    partition: Path
    checkpoint: Path
    export: Path
    champion: Path | None
    compressed: Path | None = None
    recipe: Path | None = None
    earlier: Sequence[Path] = ()


@dataclass(frozen=True)
class HeldOutScores:
    """The day's held-out slice with the scores of model and baseline.

    `record` and `user` (codes) are int64 [n]; `label`, `model` and `baseline` are float32 [n].
    `reported`, bool [n], are the users that had no part in the choice of a compression.
    """

    record: NDArray[np.int64]
    user: NDArray[np.int64]
    label: Scores
    model: Scores
    baseline: Scores
    reported: NDArray[np.bool_]


def check_model(
    candidate: Candidate, schema: Schema, settings: ModelGateSettings, out: Path
) -> dict[str, Any]:
    """Validate a candidate.

    Writes `verdict.json`, `serving.json`, `calibration_hours.json`, `predictions.npy` and `plots/`
    into `out`.

    Returns:
        The stage's figures: verdict, evidence, and metrics derived from it, in one flat dict.

    Raises:
        InputError: a file is missing or unreadable.
        UnsoundError: the export does not load or does not answer.
    """
    # Imported here: other users of this module need no matplotlib.
    from validation.model.plots import plot_model

    # 1. Score the compressed model, if it differs from the trained one.
    heldout = read_heldout(candidate.checkpoint / "heldout.parquet")
    label, partition = heldout.label, candidate.partition
    expected, auc_compressed, change = heldout.model, None, None
    if candidate.compressed is not None and not is_lossless(candidate.compressed):
        expected = score_compressed(candidate.compressed, partition, heldout)
        auc_compressed = auc(label, expected)
        # A search chose the steps on the other half of the users. In a small slice that half may
        # have clicks and no others, or the reverse.
        half = heldout.reported if len(np.unique(label[heldout.reported])) == 2 else label >= 0
        change = auc(label[half], expected[half]) - auc(label[half], heldout.model[half])
        # Lossy steps may drop fields, and the export takes only those that are left.
        schema = read_description(candidate.compressed).schema

    # 2. Serve the export. The champion is scored in the seconds in which the export's process
    #    imports TensorFlow, before it measures the latency of its calls.
    requests = read_requests(partition, schema, heldout.record)
    with ThreadPoolExecutor(1) as thread:
        checked = thread.submit(check_parity, candidate.export / "saved_model", requests, expected)
        champion = None
        if candidate.champion is not None:
            champion = score_compressed(candidate.champion, partition, heldout)
        parity = checked.result()
    exported = parity.serving.probability

    recipe = None
    if candidate.recipe is not None:
        same = read_heldout(candidate.recipe / "heldout.parquet")
        _check_same_records(partition, same.record, heldout)
        recipe = same.model

    # 3. Decide.
    progressive = candidate.checkpoint / "progressive.json"
    hour = local_hours_of(partition, heldout.record, schema.timezone)
    today = HourSums.of(hour, label, exported, progressive)
    files = (report / HOURS for report in candidate.earlier)
    earlier = [HourSums.read(file) for file in files if file.is_file()]
    evidence = Evidence(
        auc=auc(label, heldout.model),
        auc_exported=auc(label, exported),
        log_loss=log_loss(label, exported),
        calibration=calibration(label, exported),
        calibration_baseline=calibration(label, heldout.baseline),
        auc_baseline=auc(label, heldout.baseline),
        auc_champion=None if champion is None else auc(label, champion),
        parity_max_abs_diff=parity.max_abs_diff,
        bytes_exported=folder_bytes(candidate.export),
        p99_ms=parity.serving.answers[1].p99_ms,
        auc_compressed=auc_compressed,
        auc_change_by_compression=change,
        impressions=len(label),
        auc_champion_recipe=None if recipe is None else auc(label, recipe),
        same_hours=compare_hours(today, [day for day in earlier if day is not None]),
        errors={
            name: auc_difference_error(label, first, second, heldout.user)
            for name, first, second in (
                ("baseline", exported, heldout.baseline),
                ("champion", exported, champion),
                ("compressed", expected, heldout.model),
                ("champion_recipe", heldout.model, recipe),
            )
            if second is not None
        },
    )
    verdict = decide(evidence, settings)

    # 4. Write.
    for name, document in (("verdict", verdict.as_dict()), ("serving", parity.as_dict())):
        (out / f"{name}.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    # A fault that stays would pass on a later day, if the days with it were compared with.
    strange = any(check.name == SAME_HOURS and not check.passed for check in verdict.checks)
    sound = verdict.result is not GateResult.UNSOUND
    today.write(out / HOURS, comparable=sound and not strange)
    np.save(out / "predictions.npy", exported, allow_pickle=False)
    # The exported model first: the plots are about it.
    curves = {"exported model": exported, "logistic regression": heldout.baseline}
    if champion is not None:
        curves["champion"] = champion
    plot_model(label, curves, out / "plots", _bytes_by_form(candidate))
    return _figures(verdict, heldout, exported)


def read_heldout(path: Path) -> HeldOutScores:
    """Read the held-out slice that training wrote; raises InputError if it does not exist."""
    if not path.is_file():
        raise InputError(f"{path}: not there; train that day again")
    table = pq.read_table(path)
    # Codes in place of the users' ids, which only group the impressions.
    users, user = np.unique(table["user"].to_numpy(zero_copy_only=False), return_inverse=True)
    reported = in_reported_half(users)[user]
    columns = [table[name].to_numpy() for name in ("label", "p_model", "p_baseline")]
    label, model, baseline = (column.astype(np.float32) for column in columns)
    record = table["record_id"].to_numpy()
    return HeldOutScores(record, user, label, model, baseline, reported)


def is_lossless(compressed: Path) -> bool:
    """Return whether a compressed model gives the trained model's predictions, bit for bit."""
    return bool(_read_report(compressed).get("lossless", True))


def score_compressed(compressed: Path, partition: Path, heldout: HeldOutScores) -> Scores:
    """Return a compressed model's probabilities float32 [n] of the held-out impressions.

    Fields of the model that the day does not have are null.
    """
    # Imported here: the scorer loads TensorFlow.
    from training.data.examples import AbsentFields, read_examples
    from training.evaluation.scoring import Scorer

    scorer = Scorer.load(compressed)
    schema, relations = scorer.description.schema, scorer.description.relations
    examples = read_examples(partition, schema, relations, AbsentFields.NULL)
    last = examples.slice(len(examples.label) - len(heldout.record), len(examples.label))
    _check_same_records(partition, last.record_id, heldout)
    return scorer.score(last)


def _check_same_records(
    partition: Path, records: NDArray[np.int64], heldout: HeldOutScores
) -> None:
    # The day may have been ingested again since it was trained on.
    if not np.array_equal(records, heldout.record):
        raise InputError(
            f"{partition}: its last records are not the held-out ones; train that day again on "
            "this partition"
        )


@dataclass(frozen=True)
class ParityReport:
    """The largest differences between exported and expected probabilities, and serving costs.

    Attributes:
        max_abs_diff_by_batch_size: NaN if an answer is missing, NaN or there are too many.
        rows_by_batch_size: number of requests compared.
        serving: the answers, latency and memory.
    """

    max_abs_diff_by_batch_size: Mapping[int, float]
    rows_by_batch_size: Mapping[int, int]
    serving: ServingReport

    @property
    def max_abs_diff(self) -> float:
        """The largest difference at any batch size; NaN if one of them is, so that a gate fails."""
        differences = list(self.max_abs_diff_by_batch_size.values())
        return float(np.max(differences)) if differences else math.nan

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        differences, rows = self.max_abs_diff_by_batch_size, self.rows_by_batch_size
        return {
            "max_abs_diff": json_safe({str(size): diff for size, diff in differences.items()}),
            "rows": {str(size): count for size, count in rows.items()},
            "serving": self.serving.as_dict(),
        }


def check_parity(
    saved_model: Path,
    requests: RawRequests,
    expected: Scores,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> ParityReport:
    """Compare an exported model with expected probabilities of the same requests.

    Args:
        saved_model: the exported folder.
        requests: raw values by field.
        expected: float32 [requests], probabilities by the trained or compressed model.
        batch_sizes: see `validation.serving.measure.serve`.

    Raises:
        InputError: there is not one expected probability per request.
        UnsoundError: the model does not load or does not answer.
    """
    if expected.shape != (len(requests),):
        raise InputError(
            f"parity: {len(requests)} requests but expected probabilities of shape "
            f"{expected.shape}: give one each"
        )
    return compare(serve(saved_model, requests, batch_sizes), expected)


def compare(serving: ServingReport, expected: Scores) -> ParityReport:
    """Compare given answers with expected probabilities, float32 [requests]."""
    # NaN where there is nothing to compare, which no limit accepts.
    differences, rows = {}, {}
    for size, answers in serving.answers.items():
        rows[size], differences[size] = len(answers.positions), math.nan
        if len(answers.positions) and answers.probability.shape == answers.positions.shape:
            # In float64, so that the difference itself is not rounded.
            wanted = expected[answers.positions].astype(np.float64)
            found = answers.probability.astype(np.float64)
            differences[size] = float(np.max(np.abs(found - wanted)))
    return ParityReport(differences, rows, serving)


def _figures(verdict: Verdict, heldout: HeldOutScores, exported: Scores) -> dict[str, Any]:
    evidence = verdict.evidence
    figures = {"verdict": str(verdict.result), **verdict.as_dict()["metrics"]}
    figures["lift_auc_vs_baseline"] = evidence.auc_exported - evidence.auc_baseline
    if evidence.auc_champion is not None:
        figures["lift_auc_vs_champion"] = evidence.auc_exported - evidence.auc_champion
    figures["ece"] = expected_calibration_error(heldout.label, exported)
    figures["gauc"] = grouped_auc(heldout.label, exported, heldout.user)
    return figures


def _bytes_by_form(candidate: Candidate) -> dict[str, int] | None:
    """Bytes of the model by form, from the report of compression and the files on disk."""
    if candidate.compressed is None:
        return None
    report = _read_report(candidate.compressed)
    compressed = "without zero rows" if is_lossless(candidate.compressed) else "after lossy steps"
    return {
        "trained": report["bytes_before"],
        "without optimizer state": report["bytes_before_weights"],
        compressed: report["bytes_after"],
        "exported, with its graph": folder_bytes(candidate.export),
    }


def _read_report(compressed: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((compressed / "report.json").read_text(encoding="utf-8"))
    return report
