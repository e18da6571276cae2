"""Cut a checkpoint down to what serving needs: admitted rows that are not zero, dense weights, encodings.

Dropped are the optimizer's state, the counts, keys that were never admitted, and rows whose value is zero in every slab:
an unknown key reads as the zero vector anyway, so with a tolerance of 0 no prediction changes by a bit. The lossy steps that
the settings name (`compression.steps`) come after.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from compression.model import CompactModel, write_compact
from compression.savings import OPTIMIZER, savings
from compression.settings import CompressionSettings
from compression.steps.settings import StepSettings
from training.fit.checkpoints import (
    DENSE,
    DESCRIPTION,
    ENCODINGS,
    GROUPS,
    TABLE,
    read_checkpoint,
    write_description,
)
from training.packed.rows import PackedRows

if TYPE_CHECKING:
    from compression.steps.sequence import StepReport

REPORT = "report.json"
PLAN = "plan.yaml"
"""The steps with their fitted plans, where there are steps."""

_PARTS = (TABLE, GROUPS, DENSE, OPTIMIZER, ENCODINGS, DESCRIPTION)


@dataclass(frozen=True)
class CompressionReport:
    """What was dropped.

    Attributes:
        rows_before: admitted rows of the checkpoint.
        rows_after: rows kept.
        zero_rows: rows dropped because no slab holds a value above the tolerance.
        bytes_before: the checkpoint on disk with optimizer state, counts and unadmitted keys.
        bytes_before_weights: of these, what a server would need without pruning: keys, weights, encodings.
        bytes_after: the compressed folder on disk, this report and the plan left out.
        parts_before: bytes of each part of the checkpoint.
        parts_after: bytes of each part of the compressed folder.
        lossless: whether the model predicts what the checkpoint does, to the bit.
        saved: bytes by what saved them (`compression.savings`).
        steps: what each lossy step did.
    """

    rows_before: int
    rows_after: int
    zero_rows: int
    bytes_before: int
    bytes_before_weights: int
    bytes_after: int
    parts_before: Mapping[str, int]
    parts_after: Mapping[str, int]
    lossless: bool
    saved: Mapping[str, int]
    steps: tuple[StepReport, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def compress(
    checkpoint: Path, settings: CompressionSettings, out: Path, impressions: Path | None = None
) -> CompressionReport:
    """Write the compressed form of a checkpoint, which stays as it is.

    Args:
        checkpoint: a `checkpoint` folder (see docs/architecture.md).
        settings: the tolerance below which a row counts as zero, and the lossy steps after that.
        out: an existing folder; receives `model.json`, `dense.npz`, `encodings.npz`, `table/`, `report.json`, and with steps
            `plan.yaml`.
        impressions: the day's `impressions` artifact, which steps that learn read.

    Raises:
        InputError: the checkpoint is incomplete or damaged, or a step does not fit it.
        UnsoundError: it holds values that a step's form cannot.
    """
    full = CompactModel.of(read_checkpoint(checkpoint))
    cut = without_zero_rows(full, settings.zero_tolerance)
    small, steps = _stepped(cut, checkpoint, settings.steps, impressions, out)
    before, after = _sizes(checkpoint), _sizes(out)
    report = CompressionReport(
        rows_before=full.rows,
        rows_after=small.rows,
        zero_rows=full.rows - cut.rows,
        bytes_before=sum(before.values()),
        bytes_before_weights=full.rows_nbytes
        + sum(before[part] for part in (DENSE, ENCODINGS, DESCRIPTION)),
        bytes_after=sum(after.values()),
        parts_before=before,
        parts_after=after,
        lossless=not steps and settings.zero_tolerance == 0,
        saved=savings(checkpoint, full, cut, steps),
        steps=steps,
    )
    (out / REPORT).write_text(json.dumps(report.as_dict(), indent=1) + "\n", encoding="utf-8")
    return report


def without_zero_rows(model: CompactModel, tolerance: float = 0.0) -> CompactModel:
    """Return the model without rows that no slab has a value above the tolerance for; at 0 it predicts the same, to the bit."""
    return model.take({name: ~_is_zero(rows, tolerance) for name, rows in model.tables.items()})


def _stepped(
    cut: CompactModel,
    checkpoint: Path,
    steps: Sequence[StepSettings],
    impressions: Path | None,
    out: Path,
) -> tuple[CompactModel, tuple[StepReport, ...]]:
    """Run the steps and write the model."""
    if not steps:
        write_compact(cut, checkpoint / DESCRIPTION, out)
        return cut, ()
    # Only here: steps that learn load TensorFlow, which a lossless cut has no use for.
    from compression.steps.sequence import run_steps
    from compression.steps.work import work_on

    work, done = run_steps(work_on(cut, checkpoint, impressions), steps)
    write_compact(work.model, checkpoint / DESCRIPTION, out)
    if work.model.description != cut.description:
        write_description(out, work.model.description)
    _write_plan(out / PLAN, done)
    return work.model, done


def _write_plan(path: Path, steps: Sequence[StepReport]) -> None:
    document = {"steps": [step.settings | {"plan": step.plan} for step in steps]}
    path.write_text(
        yaml.safe_dump(document, sort_keys=False, width=120, default_flow_style=None),
        encoding="utf-8",
    )


def _is_zero(table: PackedRows, tolerance: float) -> NDArray[np.bool_]:
    """Rows, bool [N], that no slab has a value above the tolerance for. NaN is a value: it must not vanish here."""
    within = [np.all(np.abs(rows) <= tolerance, axis=1) for rows in table.vectors().values()]
    return np.logical_and.reduce(within) if within else np.zeros(len(table.keys), bool)


def _sizes(folder: Path) -> dict[str, int]:
    return {part: _bytes(folder / part) for part in _PARTS if (folder / part).exists()}


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
