"""Does the exported model give the trained model's probabilities, in a stranger's process, at any batch size?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.errors import InputError
from validation.model.requests import RawRequests
from validation.serving.measure import BATCH_SIZES, Answers, ServingReport, serve


@dataclass(frozen=True)
class ParityReport:
    """The largest differences between exported and expected probabilities, and what serving costs.

    Attributes:
        max_abs_diff_by_batch_size: NaN where an answer is missing, NaN or of the wrong number.
        rows_by_batch_size: how many requests were compared.
        serving: the answers themselves, latency and memory.
    """

    max_abs_diff_by_batch_size: Mapping[int, float]
    rows_by_batch_size: Mapping[int, int]
    serving: ServingReport

    @property
    def max_abs_diff(self) -> float:
        """The largest difference at any batch size; NaN when one of them is NaN, so that a gate fails closed."""
        differences = list(self.max_abs_diff_by_batch_size.values())
        return float(np.max(differences)) if differences else math.nan

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        differences = {
            str(b): d if math.isfinite(d) else None
            for b, d in self.max_abs_diff_by_batch_size.items()
        }
        rows = {str(b): n for b, n in self.rows_by_batch_size.items()}
        return {"max_abs_diff": differences, "rows": rows, "serving": self.serving.as_dict()}


def check_parity(
    saved_model: Path,
    requests: RawRequests,
    expected: NDArray[np.float32],
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> ParityReport:
    """Compare an exported model with the probabilities that the trained one gives to the same requests.

    Args:
        saved_model: the exported folder.
        requests: raw values by field.
        expected: float32 [requests], the trained model's probabilities.
        batch_sizes: the largest is tried on every request, the others on a sample (see `validation.serving.measure.serve`).

    Raises:
        InputError: there is not one expected probability per request.
        UnsoundError: the model does not load or does not answer.
    """
    _refuse_other_shape(expected, len(requests))
    return compare(serve(saved_model, requests, batch_sizes), expected)


def compare(serving: ServingReport, expected: NDArray[np.float32]) -> ParityReport:
    """Compare answers that were already given with the expected probabilities, float32 [requests]."""
    differences = {
        size: _difference(answers, expected) for size, answers in serving.answers.items()
    }
    return ParityReport(
        differences,
        {size: len(answers.positions) for size, answers in serving.answers.items()},
        serving,
    )


def _refuse_other_shape(expected: NDArray[np.float32], rows: int) -> None:
    if expected.shape != (rows,):
        raise InputError(
            f"parity: {rows} requests but expected probabilities of shape {expected.shape}: give one each"
        )


def _difference(answers: Answers, expected: NDArray[np.float32]) -> float:
    """The largest absolute difference in float64; NaN when there is nothing to compare."""
    if not len(answers.positions) or answers.probability.shape != answers.positions.shape:
        return math.nan
    wanted = expected[answers.positions].astype(np.float64)
    return float(np.max(np.abs(answers.probability.astype(np.float64) - wanted)))
