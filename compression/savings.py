"""Where the bytes of a checkpoint go: optimizer slots, counts and keys without a row, zero rows, and each step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compression.model import CompactModel
from elastic_embeddings.storage.checkpoint import (
    HEADER,
    WEIGHTS,
    array_name,
    read_array,
    read_header,
)
from training.fit.checkpoints import rows_folder

if TYPE_CHECKING:
    from compression.steps.sequence import StepReport

OPTIMIZER = "optimizer.npz"


def savings(
    checkpoint: Path, full: CompactModel, cut: CompactModel, steps: Sequence[StepReport]
) -> dict[str, int]:
    """Return the bytes that each part of a compression saved, in order; a folder that is compressed already has no slots.

    Args:
        checkpoint: what was compressed.
        full: its model, every row.
        cut: the model without zero rows.
        steps: what was done to that; a kind that is there twice is numbered from its second time on.
    """
    slots = (checkpoint / OPTIMIZER).stat().st_size if (checkpoint / OPTIMIZER).exists() else 0
    counts = 0
    for name in full.tables:
        own_slots, own_counts = _table(rows_folder(checkpoint, name))
        slots, counts = slots + own_slots, counts + own_counts
    saved = {
        "optimizer_slots": slots,
        "counts_and_unadmitted_keys": counts,
        "zero_rows": full.nbytes - cut.nbytes,
    }
    for step in steps:
        again = sum(name.partition(" ")[0] == step.kind for name in saved)
        saved[f"{step.kind} {again + 1}" if again else step.kind] = (
            step.bytes_before - step.bytes_after
        )
    return saved


def _table(folder: Path) -> tuple[int, int]:
    """Bytes of a saved table's optimizer slots, and of what is neither these, nor weights, nor keys of rows."""
    if not (folder / HEADER).exists():
        return 0, 0
    header = read_header(folder)
    weights = {array_name(slab, WEIGHTS) for slab in header.slabs}
    slots = {array_name(name, slot) for name, slab in header.slabs.items() for slot in slab.slots}
    sizes = {name: (folder / f"{name}.npy").stat().st_size for name in header.arrays}
    keys = 8 * int(np.count_nonzero(read_array(folder, header, "admitted")))
    own_slots = sum(sizes[name] for name in slots)
    return own_slots, sum(sizes.values()) - own_slots - sum(sizes[name] for name in weights) - keys
