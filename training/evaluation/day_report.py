"""What a day of learning came to: figures, and the held-out impressions with their probabilities."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from elastic_embeddings.census.plot import plot_statistics
from training.data.examples import Examples
from training.evaluation.metrics import Slice, auc, calibration, everything, log_loss
from training.evaluation.plots import plot_calibration, plot_slices
from training.evaluation.quality import HeldOut, judge
from training.evaluation.slices import Slicing, heldout_slices, read_counts
from training.fit.checkpoints import DENSE, DESCRIPTION, ENCODINGS, GROUPS, TABLE
from training.fit.learners import BASELINE, OPTIMIZER, Learners
from training.fit.progressive import progressive_figures
from training.models.multi_hash.size import Size
from training.models.multi_hash.size_report import as_figures

HELDOUT = "heldout.parquet"
METRICS = "metrics.json"
QUALITY = "quality.json"
STATISTICS = "table_statistics.json"
PLOTS = "plots"

_BY_FIELD = (".rows", ".hit_rate")
"""Figures of the table that are kept as metrics for each field; the others are in `STATISTICS`."""


@dataclass(frozen=True)
class Timing:
    """What learning took.

    Attributes:
        examples: learned.
        step_s: seconds in steps.
        input_s: seconds in which the step waited for input.
        cpu_s: seconds of CPU of all threads of this process.
    """

    examples: int
    step_s: float
    input_s: float
    cpu_s: float

    def after_reading(self, reading_s: float, cpu_s: float) -> Timing:
        """Add the seconds, and the seconds of CPU, that it took to read and hash the partition."""
        return replace(self, input_s=self.input_s + reading_s, cpu_s=self.cpu_s + cpu_s)

    @property
    def examples_per_s(self) -> float:
        """Examples learned per second of steps and input together; NaN when nothing was learned."""
        seconds = self.step_s + self.input_s
        return self.examples / seconds if self.examples and seconds else math.nan

    @property
    def examples_per_cpu_s(self) -> float:
        """Examples learned per second of CPU, steps and input together; NaN when nothing was learned."""
        return self.examples / self.cpu_s if self.examples and self.cpu_s else math.nan

    @property
    def input_share(self) -> float:
        """Share of the time in which steps waited for input; NaN when no time went by."""
        seconds = self.step_s + self.input_s
        return self.input_s / seconds if seconds else math.nan


@dataclass(frozen=True)
class Outcome:
    """A learned day.

    Attributes:
        examples: the whole day.
        learned: how many of them were learned; the rest is the held-out slice.
        progressive: probabilities of the whole day before it was learned, NaN where nothing had been learned yet.
        heldout: probabilities of the held-out slice, by the model and by the baseline.
        timing: of learning the day.
        slicing: which slices of the held-out impressions are looked at beside all of them; None: no other.
        sizes: of the multi-hash fields, as they were foretold.
    """

    examples: Examples
    learned: int
    progressive: NDArray[np.float32]
    heldout: tuple[NDArray[np.float32], NDArray[np.float32]]
    timing: Timing
    slicing: Slicing | None = None
    sizes: Mapping[str, Size] = field(default_factory=dict)


def write_outcome(outcome: Outcome, learners: Learners, out: Path) -> dict[str, float]:
    """Write what a day came to into a checkpoint that holds its learners, and return the figures.

    Writes `heldout.parquet`, `metrics.json`, `quality.json` (what is undefined is null), `table_statistics.json` and `plots/`.

    Raises:
        InputError: the baseline's table or the partition cannot be read.
    """
    pq.write_table(_heldout(outcome), out / HELDOUT)
    figures = (
        _figures(outcome) | _quality(outcome, out) | _size(learners, out) | _speed(outcome.timing)
    )
    figures |= as_figures(outcome.sizes)
    document = {name: value if math.isfinite(value) else None for name, value in figures.items()}
    (out / METRICS).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return figures


def _heldout(outcome: Outcome) -> pa.Table:
    part = outcome.examples.slice(outcome.learned, len(outcome.examples))
    model, baseline = outcome.heldout
    columns = {
        "record_id": part.record_id,
        "user": pa.array(part.users[part.user], pa.string()),
        "label": part.label.astype(np.int8),
    }
    return pa.table(columns | {"p_model": model, "p_baseline": baseline})


def _figures(outcome: Outcome) -> dict[str, float]:
    examples, (model, baseline) = outcome.examples, outcome.heldout
    label = examples.label[outcome.learned :]
    return {
        "rows": len(examples),
        "rows_learned": outcome.learned,
        "rows_heldout": len(label),
        **progressive_figures(examples.label, outcome.progressive),
        "auc": auc(label, model),
        "log_loss": log_loss(label, model),
        "calibration": calibration(label, model),
        "auc_lr_baseline": auc(label, baseline),
    }


def _quality(outcome: Outcome, out: Path) -> dict[str, float]:
    part = outcome.examples.slice(outcome.learned, len(outcome.examples))
    quality = judge(HeldOut(part.label, *outcome.heldout, part.user), _slices(outcome, out))
    quality.write(out / QUALITY)
    plot_calibration(quality.curves, out / PLOTS / "calibration.png")
    plot_slices(quality.slices, quality.baseline_slices, out / PLOTS / "slices.png")
    return dict(quality.figures)


def _slices(outcome: Outcome, out: Path) -> tuple[Slice, ...]:
    if outcome.slicing is None:
        return (everything(len(outcome.examples) - outcome.learned),)
    return heldout_slices(
        outcome.slicing, outcome.examples, outcome.learned, read_counts(out / BASELINE / TABLE)
    )


def _size(learners: Learners, out: Path) -> dict[str, float]:
    statistics = learners.model.table.statistics()
    statistics.write_json(out / STATISTICS)
    (out / PLOTS).mkdir(exist_ok=True)
    plot_statistics(statistics, out / PLOTS / "table.png")
    return {
        "rows_in_table": statistics.rows,
        "keys_seen": statistics.keys_seen,
        "zero_rows": statistics.zero_rows,
        "bytes_trained": _trained_bytes(out),
        **{name: value for name, value in statistics.as_metrics().items() if _is_logged(name)},
    }


def _is_logged(figure: str) -> bool:
    return figure.startswith("table.") or figure.endswith(_BY_FIELD)


def _trained_bytes(out: Path) -> int:
    """Bytes on disk of the model with its optimizer state; the baseline and the reports are not part of it."""
    tables = [
        file
        for name in (TABLE, GROUPS)
        for file in sorted((out / name).rglob("*"))
        if file.is_file()
    ]
    files = [out / DESCRIPTION, out / DENSE, out / OPTIMIZER, out / ENCODINGS, *tables]
    return sum(file.stat().st_size for file in files)


def _speed(timing: Timing) -> dict[str, float]:
    return {
        "examples_per_s": timing.examples_per_s,
        "examples_per_cpu_s": timing.examples_per_cpu_s,
        "step_s": timing.step_s,
        "input_s": timing.input_s,
        "cpu_s": timing.cpu_s,
        "input_share": timing.input_share,
    }
