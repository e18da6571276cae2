"""The simulated log: how much of what can be known is learned, and what each part is worth.

`python benchmarks/simulated.py --seeds 5 --json`. Per seed another world is simulated and three
days are learned with `conf/simulated.yaml`, then again without one part at a time. Figures are of
the last day's held-out slice, which nothing was chosen on: the profile's settings were chosen on
the world of seed 17. The peer in the same run is the built-in logistic regression on the same
fields; the true probabilities bound what any model can reach.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from harness.options import LEARNING, chosen, print_json, progress

from pipelines.cli import console
from pipelines.config import load_config
from pipelines.stages.chain import run_day
from pipelines.stages.report import day_report
from pipelines.stages.stage import Context
from pipelines.store.artifacts import Store

PROFILE = Path(__file__).parents[1] / "conf" / "simulated.yaml"
ARMS: Mapping[str, tuple[str, ...]] = {
    "whole": (),
    "without admission": ("training.admission.min_count=1",),
    "without penalties": ("model.deep.l21=0", "model.wide.l21=0"),
    "without relation network": ("model.relations=null",),
    "without PCF-GNN": ("graph.relations=[]",),
}
"""What is trained → what it sets beyond the profile."""

DAYS = 3
CHOSEN_ON = 17
"""The seed of the profile, which is not among those that are reported."""


def main(
    seeds: Annotated[int, typer.Option(help="Worlds.", min=1)] = 5,
    arms: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(ARMS),
    impressions: Annotated[int, typer.Option(help="A day.")] = 100_000,
    workspace: Annotated[
        Path, typer.Option(help="Where artifacts go; reused when they are there.")
    ] = Path("workspace-simulated"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Learn each world with every arm."""
    names = chosen(arms, ARMS, "--arms")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for seed in range(CHOSEN_ON + 1, CHOSEN_ON + 1 + seeds):
        for name in names:
            found[name].append(_figures(name, seed, impressions, workspace / str(seed)))
            progress(f"seed {seed}, {name}: {found[name][-1]}")
    result = {name: _summary(figures, found[names[0]]) for name, figures in found.items()}
    if as_json:
        print_json({"seeds": seeds, "impressions_per_day": impressions, "arms": result})
        return
    keys = ("auc", "auc_minus_first", "gap_closed", "rows_share", "exported_share")
    rows = [(name, *(f"{figures[key]:.4f}" for key in keys)) for name, figures in result.items()]
    console.table(f"Day {DAYS} of {seeds} worlds", ("arm", *keys), rows)


def _figures(arm: str, seed: int, impressions: int, workspace: Path) -> dict[str, float]:
    """Learn the days of one world with one arm; return the figures of the last day."""
    config = load_config(
        PROFILE,
        [
            f"simulator.seed={seed}",
            f"simulator.impressions_per_day={impressions}",
            # No model is validated here, so each day starts from a checkpoint without a verdict.
            "training.unvalidated_parent=true",
            *ARMS[arm],
        ],
        workspace,
    )
    store, started = Store(workspace), time.monotonic()
    first = config.simulator.first_day if config.simulator else date.min
    days = [first + timedelta(days=number) for number in range(DAYS)]
    for day in days:
        last = ("compress", "export") if day == days[-1] else ()
        list(run_day(Context(config, day, store), (*LEARNING, *last)))
    report = day_report(store, days[-1])
    compressed = store.current("compressed", days[-1])
    assert compressed is not None
    weights = compressed.metrics["bytes_before_weights"]
    possible = report["auc_possible"] - report["auc_lr_baseline"]
    return {
        "auc": report["auc"],
        "auc_logistic_regression": report["auc_lr_baseline"],
        "auc_possible": report["auc_possible"],
        "gap_closed": (report["auc"] - report["auc_lr_baseline"]) / possible,
        "log_loss": report["log_loss"],
        "log_loss_possible": report["log_loss_possible"],
        "ids_seen": float(_ids_seen(store, days)),
        "rows": float(report["rows_in_table"]),
        "rows_not_zero": float(report["rows_in_table"] - report["zero_rows"]),
        "bytes_trained": float(report["bytes_trained"]),
        "bytes_exported": float(report["bytes_exported"]),
        "exported_share": report["bytes_exported"] / report["bytes_trained"],
        "exported_share_of_weights": report["bytes_exported"] / weights,
        "seconds": time.monotonic() - started,
    }


def _ids_seen(store: Store, days: list[date]) -> int:
    """Return the distinct values of all id fields in the trained days."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from features.schema import Categorical, MultiValued
    from training.fit.checkpoints import read_description

    versions = [store.current("impressions", day) for day in days]
    checkpoint = store.current("checkpoint", days[-1])
    assert checkpoint is not None
    # Not times and numbers: their columns hold the raw values, not ids.
    fields = read_description(checkpoint.path).schema.fields
    names = [field.name for field in fields if isinstance(field, Categorical | MultiValued)]
    table = pa.concat_tables(
        pq.read_table(version.path / "impressions") for version in versions if version
    )
    total = 0
    for name in names:
        column = table[name].combine_chunks()
        flat = column.flatten() if pa.types.is_list(column.type) else column
        total += pc.count_distinct(flat).as_py()
    return total


def _summary(figures: list[dict[str, float]], whole: list[dict[str, float]]) -> dict[str, Any]:
    """Return means over the worlds, and the paired differences to the first arm with intervals."""
    result = {key: float(np.mean([each[key] for each in figures])) for key in figures[0]}
    result["rows_share"] = result["rows"] / result["ids_seen"]
    for key in ("auc", "log_loss"):
        paired = np.array([a[key] - b[key] for a, b in zip(figures, whole, strict=True)])
        error = paired.std(ddof=1) / math.sqrt(len(paired)) if len(paired) > 1 else math.nan
        result[f"{key}_minus_first"] = float(paired.mean())
        result[f"{key}_minus_first_standard_error"] = float(error)
    return result


if __name__ == "__main__":
    typer.run(main)
