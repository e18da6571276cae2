"""One large table: learned, saved, restored and looked up on this machine, with times and peak
memory.

`python benchmarks/elastic_scale.py --rows 50000000 --json`. Every key is learned once, then batches
of Zipf traffic; the restored table's vectors are compared with the saved one's, bit for bit, on a
sample.
"""

from __future__ import annotations

import gc
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import typer
from harness.options import print_json
from numpy.typing import NDArray

from elastic_embeddings import ElasticTable, GroupAdam, SlabSpec
from pipelines.cli import console

_BATCH = 1_000_000
_TRAFFIC = 106_496
_GOLDEN = np.int64(0x9E3779B97F4A7C15 - 2**64)


def main(
    rows: Annotated[int, typer.Option(help="Keys to learn.")] = 50_000_000,
    dim: Annotated[int, typer.Option(help="Width of the vectors.")] = 8,
    folder: Annotated[
        Path | None, typer.Option(help="Where the checkpoint goes; a temporary folder by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Learn, save and restore one table."""
    scratch = Path(tempfile.mkdtemp(dir=folder))
    try:
        figures = measure(rows, dim, scratch)
    finally:
        shutil.rmtree(scratch)
    if as_json:
        print_json(figures)
    else:
        console.table(
            f"A table of {rows:,} rows of width {dim}", ("figure", "value"), figures.items()
        )


def measure(rows: int, dim: int, scratch: Path) -> dict[str, Any]:
    """Return the figures: seconds, bytes, and peak memory over the table's own bytes."""
    spec, draw = SlabSpec(dim, GroupAdam(1e-3, l21=1e-4)), np.random.default_rng(0)
    sample = _keys(draw.integers(0, rows, 100_000))
    figures, expected = _learned_and_saved(
        ElasticTable(spec, seed=1), rows, scratch / "table", sample, draw
    )
    # The first compilation of kernels leaves frames in cycles, which would keep the table alive.
    gc.collect()
    restored = ElasticTable(spec, seed=1)
    figures["restore_s"] = _timed(lambda: restored.restore(scratch / "table"))
    figures["restored_equal"] = bool(
        len(restored) == rows and np.array_equal(restored.lookup(sample), expected)
    )
    return {"rows": rows, "dim": dim, **figures, "peak_gb": _peak() / 1e9}


def _learned_and_saved(
    table: ElasticTable,
    rows: int,
    folder: Path,
    sample: NDArray[np.int64],
    draw: np.random.Generator,
) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """Fill, train and save the table; return figures and the sample's vectors. The table is gone
    afterwards.
    """
    dim = table.slabs["vectors"].spec.dim
    figures = {
        "learn_s": _timed(lambda: _learn_all(table, rows, dim)),
        "step_ms": _traffic_ms(table, rows, dim, draw),
    }
    held = table.memory_bytes()
    figures |= {
        "table_gb": held / 1e9,
        "bytes_per_row_ratio": held / (len(table) * (4 * dim * 4 + 8)),
    }
    figures["peak_over_table_learning"] = _peak() / held
    figures["save_s"] = _timed(lambda: table.save(folder))
    figures["peak_over_table_saving"] = _peak() / held
    return figures, table.lookup(sample)


def _learn_all(table: ElasticTable, rows: int, dim: int) -> None:
    for start in range(0, rows, _BATCH):
        keys = _keys(np.arange(start, min(start + _BATCH, rows)))
        table.apply_gradients(table.prepare(keys), np.full((len(keys), dim), 0.1, np.float32))


def _traffic_ms(table: ElasticTable, rows: int, dim: int, draw: np.random.Generator) -> float:
    """Median milliseconds of prepare, gather and update of a batch of Zipf(1.1) keys."""
    times, gradients = [], draw.normal(0, 0.01, (_TRAFFIC, dim)).astype(np.float32)
    for _ in range(20):
        keys = _keys(np.minimum(draw.zipf(1.1, _TRAFFIC), rows) - 1)
        times.append(_timed(lambda keys=keys: _step(table, keys, gradients)))
    return float(np.median(times)) * 1e3


def _step(table: ElasticTable, keys: NDArray[np.int64], gradients: NDArray[np.float32]) -> None:
    batch = table.begin(table.prepare(keys))
    table.gather(batch)
    table.apply(batch, {"vectors": gradients})


def _keys(ranks: NDArray[np.integer]) -> NDArray[np.int64]:
    """Distinct scattered int64 keys of ranks."""
    return ranks.astype(np.int64) * _GOLDEN


def _timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _peak() -> int:
    """Highest resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(status.read_text().split("VmHWM:")[1].split()[0])
    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    typer.run(main)
