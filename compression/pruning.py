"""Reduce a checkpoint to what serving needs: nonzero admitted rows, dense weights, encodings.

Optimizer state, counts, keys that were never admitted, and rows that are zero in every slab are
dropped. An unknown key reads as the zero vector, so with a tolerance of 0 no prediction changes.
The lossy steps in the settings (`compression.steps`) run after that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from compression.model import CompactModel, write_compact
from compression.settings import CompressionSettings
from compression.steps.settings import StepSettings
from elastic_embeddings.storage.checkpoint import (
    HEADER,
    WEIGHTS,
    array_name,
    read_array,
    read_header,
)
from features.files import folder_bytes
from training.fit.checkpoints import (
    DENSE,
    DESCRIPTION,
    ENCODINGS,
    GROUPS,
    TABLE,
    Description,
    read_checkpoint,
    rows_folder,
    write_description,
)
from training.models.encoding_inputs import Encodings
from training.packed.dense import pack_dense, unpacked
from training.packed.matrix import Form
from training.packed.rows import PackedRows, PackedSlab

if TYPE_CHECKING:
    from compression.steps.sequence import StepReport
    from training.fit.learner import Learner

REPORT = "report.json"
PLAN = "plan.yaml"
"""The steps with their fitted plans; written if there are steps."""

_OPTIMIZER = "optimizer.npz"
_PARTS = (TABLE, GROUPS, DENSE, _OPTIMIZER, ENCODINGS, DESCRIPTION)


@dataclass(frozen=True)
class CompressionReport:
    """What was dropped.

    Attributes:
        rows_before: admitted rows of the checkpoint.
        rows_after: rows that are kept.
        zero_rows: rows dropped because no slab holds a value above the tolerance.
        bytes_before: the checkpoint on disk with optimizer state, counts and keys without a row.
        bytes_before_weights: part of it that a server needs: keys, weights, encodings.
        bytes_after: the compressed folder on disk without this report and the plan.
        parts_before: bytes of each part of the checkpoint.
        parts_after: bytes of each part of the compressed folder.
        lossless: whether the model gives the predictions of the checkpoint, bit for bit.
        saved: bytes by what saved them (`savings`).
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
    """Write the compressed form of a checkpoint, which is not changed.

    Args:
        checkpoint: a `checkpoint` folder (see docs/architecture.md).
        settings: the tolerance below which a row counts as zero, and the lossy steps after that.
        out: an existing folder; receives `model.json`, `dense.npz`, `encodings.npz`, `table/`,
            `report.json`, and with steps `plan.yaml`.
        impressions: the day's `impressions` artifact, for steps that train.

    Raises:
        InputError: the checkpoint is incomplete or damaged, or a step does not fit it.
        UnsoundError: it holds values that a step's form cannot.
    """
    # 1. Compress and write the model.
    full = CompactModel.of(read_checkpoint(checkpoint))
    cut = without_zero_rows(full, settings.zero_tolerance)
    small, steps = _run_steps(cut, checkpoint, settings.steps, impressions, out)

    # 2. Report what each part weighed on disk, before and after.
    before, after = _part_bytes(checkpoint), _part_bytes(out)
    served = full.rows_nbytes + sum(before[part] for part in (DENSE, ENCODINGS, DESCRIPTION))
    report = CompressionReport(
        rows_before=full.rows,
        rows_after=small.rows,
        zero_rows=full.rows - cut.rows,
        bytes_before=sum(before.values()),
        bytes_before_weights=served,
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
    """Return the model without rows that have no value above the tolerance in any slab.

    With a tolerance of 0 it gives the same predictions, bit for bit.
    """
    kept: dict[str, NDArray[np.bool_]] = {}
    for name, table in model.tables.items():
        zero = np.ones(len(table.keys), bool) if table.slabs else np.zeros(len(table.keys), bool)
        for vectors in table.vectors().values():
            # A row with NaN is kept, because NaN <= tolerance is false: it must not vanish here.
            zero &= np.all(np.abs(vectors) <= tolerance, axis=1)
        kept[name] = ~zero
    return model.take(kept)


def live_model(learner: Learner, description: Description, encodings: Encodings) -> CompactModel:
    """Return the model of a learner in its present state, float32, without zero rows.

    It equals what `compress` makes of a checkpoint that is saved now.
    """
    # Imported here: tables of a learner load TensorFlow.
    from training.fit.grouped_table import tables_of

    tables = {}
    for name, table in tables_of(learner.table).items():
        keys = table.keys()
        slabs = {slab: PackedSlab.of(rows) for slab, rows in table.lookup_all(keys).items()}
        tables[name] = PackedRows(keys, slabs)
    return without_zero_rows(CompactModel(description, learner.model.weights(), tables, encodings))


def stored_as(model: CompactModel, form: Form) -> CompactModel:
    """Return a float32 model with rows and kernels in a form, each slab in one band."""
    if form is Form.FLOAT32:
        return model
    tables = {}
    for name, rows in model.tables.items():
        slabs = {slab: PackedSlab.of(vectors, form) for slab, vectors in rows.vectors().items()}
        tables[name] = PackedRows(rows.keys, slabs)
    return replace(model, tables=tables, dense=pack_dense(unpacked(model.dense), form))


def savings(
    checkpoint: Path, full: CompactModel, cut: CompactModel, steps: Sequence[StepReport]
) -> dict[str, int]:
    """Return the bytes that each part of a compression saved, in order.

    Args:
        checkpoint: what was compressed; a folder that is compressed already has no optimizer slots.
        full: its model with every row.
        cut: the model without zero rows.
        steps: what was done after that.
    """
    slots = (checkpoint / _OPTIMIZER).stat().st_size if (checkpoint / _OPTIMIZER).exists() else 0
    others = 0
    for name in full.tables:
        folder = rows_folder(checkpoint, name)
        if (folder / HEADER).exists():
            of_slots, of_others = _training_bytes(folder)
            slots, others = slots + of_slots, others + of_others
    saved = {
        "optimizer_slots": slots,
        "counts_and_unadmitted_keys": others,
        "zero_rows": full.nbytes - cut.nbytes,
    }
    for step in steps:
        # A step that is there twice has a second name, `prune_rows 2`.
        earlier = sum(name.partition(" ")[0] == step.kind for name in saved)
        name = f"{step.kind} {earlier + 1}" if earlier else step.kind
        saved[name] = step.bytes_before - step.bytes_after
    return saved


def _training_bytes(folder: Path) -> tuple[int, int]:
    """Bytes of a saved table for optimizer slots, and for all but slots, weights and row keys."""
    # A checkpoint has float32 weights as well, and int64 keys of admitted rows: both are served.
    header = read_header(folder)
    weights = {array_name(slab, WEIGHTS) for slab in header.slabs}
    slots = {array_name(name, slot) for name, slab in header.slabs.items() for slot in slab.slots}
    sizes = {name: (folder / f"{name}.npy").stat().st_size for name in header.arrays}
    keys = 8 * int(np.count_nonzero(read_array(folder, header, "admitted")))
    slot_bytes, weight_bytes = (sum(sizes[name] for name in names) for names in (slots, weights))
    return slot_bytes, sum(sizes.values()) - slot_bytes - weight_bytes - keys


def _run_steps(
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
    # Imported here: steps load TensorFlow, which the lossless cut does not need.
    from compression.steps.sequence import run_steps
    from compression.steps.step import read_state

    state, reports = run_steps(read_state(cut, checkpoint, impressions), steps)
    write_compact(state.model, checkpoint / DESCRIPTION, out)
    # Steps that drop fields or units change the description, which was copied so far.
    if state.model.description != cut.description:
        write_description(out, state.model.description)
    document = {"steps": [step.settings | {"plan": step.plan} for step in reports]}
    plan = yaml.safe_dump(document, sort_keys=False, width=120, default_flow_style=None)
    (out / PLAN).write_text(plan, encoding="utf-8")
    return state.model, reports


def _part_bytes(folder: Path) -> dict[str, int]:
    """Bytes on disk of each part that a folder has."""
    sizes = {}
    for path in (folder / part for part in _PARTS):
        if path.exists():
            sizes[path.name] = folder_bytes(path) if path.is_dir() else path.stat().st_size
    return sizes
