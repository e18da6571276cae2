"""The lossless cut: the same model exported whole and without what cannot be read, answered by strangers' processes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from compression.export.write import SAVED_MODEL, export
from compression.pruning import compress
from compression.settings import CompressionSettings
from compression_parts.learned import Learned
from training.fit.checkpoints import read_description
from validation.model.requests import read_requests
from validation.serving.measure import serve


def lossless(learned: Learned) -> dict[str, Any]:
    """Return the largest difference over all held-out impressions at batches of 512, 32 and 1, and what was cut.

    `lossless_ratio` counts all; `lossless_ratio_without_slots` leaves optimizer state, counts and unadmitted keys out.
    """
    schema = read_description(learned.checkpoint).schema
    heldout = pq.read_table(learned.checkpoint / "heldout.parquet", columns=["record_id"])[
        "record_id"
    ].to_numpy()
    requests = read_requests(learned.partition, schema, heldout)
    with tempfile.TemporaryDirectory() as scratch:
        whole, cut, small = (Path(scratch) / name for name in ("whole", "cut", "small"))
        for folder in (whole, cut, small):
            folder.mkdir()
        report = compress(learned.checkpoint, CompressionSettings(), small)
        export(learned.checkpoint, whole)
        export(small, cut)
        answers = [serve(folder / SAVED_MODEL, requests).answers for folder in (whole, cut)]
    differences = [
        np.abs(answers[0][size].probability - answers[1][size].probability).max()
        for size in answers[0]
    ]
    return {
        "lossless_max_abs_diff": float(max(differences)),
        "lossless_rows": len(requests),
        "lossless_ratio": report.bytes_before / report.bytes_after,
        "lossless_ratio_without_slots": report.bytes_before_weights / report.bytes_after,
        "bytes_with_slots": report.bytes_before,
        "bytes_without_slots": report.bytes_before_weights,
        "bytes_cut": report.bytes_after,
    }
