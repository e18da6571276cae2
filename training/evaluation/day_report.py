"""The report of a trained day: figures, plots, and the held-out impressions with probabilities."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from elastic_embeddings.statistics_plot import plot_statistics
from features.files import folder_bytes
from features.json_safe import json_safe
from training.data.examples import Examples
from training.evaluation.metrics import Slice, auc, calibration, everything, log_loss
from training.evaluation.plots import plot_calibration, plot_slices
from training.evaluation.progressive import progressive_figures
from training.evaluation.quality import HeldOutPredictions, evaluate_heldout
from training.evaluation.slices import Slicing, heldout_slices, read_key_counts
from training.fit.checkpoints import DENSE, DESCRIPTION, ENCODINGS, GROUPS, TABLE
from training.fit.model_and_baseline import BASELINE, OPTIMIZER, ModelAndBaseline
from training.fit.training_loop import Timing
from training.models.multi_hash.size import MultiHashSize, as_figures

HELDOUT = "heldout.parquet"
METRICS = "metrics.json"
QUALITY = "quality.json"
STATISTICS = "table_statistics.json"
PLOTS = "plots"

_BY_FIELD = (".rows", ".hit_rate")
"""Statistics of the table that are metrics for each field; the others are only in `STATISTICS`."""


@dataclass(frozen=True)
class DayResult:
    """The result of training a day.

    Attributes:
        examples: the whole day.
        heldout_start: the first impression of the held-out slice, which was not trained on.
        progressive: probabilities of the whole day before training on it, NaN without a model.
        heldout: probabilities of the held-out slice, by the model and by the baseline.
        timing: of the training.
        slicing: slices of the held-out impressions; None: only all of them.
        sizes: of the multi-hash fields.
    """

    examples: Examples
    heldout_start: int
    progressive: NDArray[np.float32]
    heldout: tuple[NDArray[np.float32], NDArray[np.float32]]
    timing: Timing
    slicing: Slicing | None = None
    sizes: Mapping[str, MultiHashSize] = field(default_factory=dict)


def write_day_report(result: DayResult, learners: ModelAndBaseline, out: Path) -> dict[str, float]:
    """Write the report into a checkpoint that holds the day's learners, and return the figures.

    Writes `heldout.parquet`, `metrics.json`, `quality.json`, `table_statistics.json` and `plots/`.
    NaN becomes null.

    Raises:
        InputError: the baseline's table or the partition cannot be read.
    """
    # 1. The held-out impressions with both probabilities, which the model gate reads.
    examples, start, timing = result.examples, result.heldout_start, result.timing
    part, (model, baseline) = examples.slice(start, len(examples)), result.heldout
    columns = {
        "record_id": part.record_id,
        "user": pa.array(part.users[part.user], pa.string()),
        "label": part.label.astype(np.int8),
        "p_model": model,
        "p_baseline": baseline,
    }
    pq.write_table(pa.table(columns), out / HELDOUT)
    # 2. The figures; the parts of the report add theirs.
    figures = {
        "rows": len(examples),
        "rows_learned": start,
        "rows_heldout": len(part),
        **progressive_figures(examples.label, result.progressive),
        "auc": auc(part.label, model),
        "log_loss": log_loss(part.label, model),
        "calibration": calibration(part.label, model),
        "auc_lr_baseline": auc(part.label, baseline),
        **_write_quality(result, part, out),
        **_write_table_statistics(learners, out),
        "examples_per_s": timing.examples_per_s,
        "examples_per_cpu_s": timing.examples_per_cpu_s,
        "step_s": timing.step_s,
        "input_s": timing.input_s,
        "cpu_s": timing.cpu_s,
        "input_share": timing.input_share,
        **as_figures(result.sizes),
    }
    text = json.dumps(json_safe(figures), indent=1)
    (out / METRICS).write_text(text + "\n", encoding="utf-8")
    return figures


def _write_quality(result: DayResult, heldout: Examples, out: Path) -> dict[str, float]:
    slices: tuple[Slice, ...] = (everything(len(heldout)),)
    if result.slicing:
        counts = read_key_counts(out / BASELINE / TABLE)
        slices = heldout_slices(result.slicing, result.examples, result.heldout_start, counts)
    scores = HeldOutPredictions(heldout.label, *result.heldout, heldout.user)
    quality = evaluate_heldout(scores, slices)
    quality.write(out / QUALITY)
    plot_calibration(quality.curves, out / PLOTS / "calibration.png")
    plot_slices(quality.slices, quality.baseline_slices, out / PLOTS / "slices.png")
    return dict(quality.figures)


def _write_table_statistics(learners: ModelAndBaseline, out: Path) -> dict[str, float]:
    statistics = learners.model.table.statistics()
    statistics.write_json(out / STATISTICS)
    plot_statistics(statistics, out / PLOTS / "table.png")
    # The model with its optimizer state; neither the baseline nor the reports belong to it.
    files = [out / name for name in (DESCRIPTION, DENSE, OPTIMIZER, ENCODINGS)]
    tables = sum(folder_bytes(out / name) for name in (TABLE, GROUPS))
    return {
        "rows_in_table": statistics.rows,
        "keys_seen": statistics.keys_seen,
        "zero_rows": statistics.zero_rows,
        "bytes_trained": tables + sum(file.stat().st_size for file in files),
        **{
            name: value
            for name, value in statistics.as_metrics().items()
            if name.startswith("table.") or name.endswith(_BY_FIELD)
        },
    }
