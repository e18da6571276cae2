"""The elastic table against what else there is, all in one run on the same batches: `python benchmarks/elastic.py --json`.

A step is forward, backward and update of a click model: 26 fields of width 16, batch 4,096, Zipf keys over 4 M rows that are
all there before the first step (`elastic_peers/workload.py` says the exact law), with MLPs 400×400 and 128×64. Systems run as
processes of their own, in rounds, so that whatever else the machine does hits all alike; ratios are of medians. Peers that
need other packages get environments of their own, made at the first run: 4 GB and some minutes. Without a network they are
left out and the reason is printed. Then come figures of ours alone: the index, growth, memory, saving and restoring.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from elastic_peers import report, workload
from elastic_peers.registry import IN_OUR_ENVIRONMENT, SYSTEMS
from elastic_peers.rounds import Measured, Plan, measure
from harness.options import chosen, progress
from harness.processes import ProcessFailed, run_function

from pipelines.cli import console

_CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "elastic-ctr-benchmarks"
_OWN = ("index_keys_per_s_core", "bytes_per_row_ratio", "key_cost_50m_over_10m")


@dataclass(frozen=True)
class Size:
    """How large a run is.

    Attributes:
        work: the batches and the table.
        index: arguments of `index_figures`: rows of the warm index, and of the small and the large table.
        grown_rows: rows to which a table is grown, saved and restored.
    """

    work: workload.Workload
    index: tuple[int, int, int]
    grown_rows: int


_FULL = Size(workload.Workload(), (4_000_000, 10_000_000, 50_000_000), 10_000_000)
_QUICK = Size(
    workload.Workload(rows=30_000, batch=64, smallest=20, batches=4),
    (20_000, 20_000, 40_000),
    250_000,
)


def main(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    correctness: Annotated[
        bool,
        typer.Option("--correctness", help="Also compare with float64 NumPy and over threads."),
    ] = False,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="A tiny run of the systems that need no other environment."),
    ] = False,
    systems: Annotated[str, typer.Option(help="Comma-separated; all by default.")] = "",
    steps_only: Annotated[
        bool,
        typer.Option("--steps-only", help="Leave out index, growth, memory, save and restore."),
    ] = False,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Timed steps a round, system and MLP.")] = 12,
    environments: Annotated[
        Path, typer.Option(help="Where the peers' environments are kept.")
    ] = _CACHE,
    plot: Annotated[Path | None, typer.Option(help="Draw the step times into this file.")] = None,
) -> None:
    """Measure, and print the figures, their targets and which are missed."""
    size = _QUICK if quick else _FULL
    asked = chosen(systems, SYSTEMS, "--systems") or (
        IN_OUR_ENVIRONMENT if quick else tuple(SYSTEMS)
    )
    plan = Plan(1, 2, 1) if quick else Plan(rounds, steps)
    with tempfile.TemporaryDirectory() as folder:
        drawn = workload.write(size.work, Path(folder))
        measured = measure(asked, size.work.hidden, plan, Path(folder), environments, progress)
    figures = report.step_figures(measured, size.work.batch) | dict.fromkeys(_OWN)
    if not steps_only:
        figures |= _own_figures(size, measured)
    if correctness:
        progress("correctness")
        figures["correctness"] = run_function(
            "elastic_peers.correctness", "measure", steps=20 if quick else 300
        )
    figures |= report.raw_figures(measured) | {
        "distinct_rows_per_batch": drawn.distinct(),
        "rounds": plan.rounds,
        "steps": plan.steps,
    }
    _show(report.with_targets(figures), as_json)
    if plot:
        _draw(figures, size, plot)


def _own_figures(size: Size, measured: Measured) -> dict[str, Any]:
    """Return the figures of ours alone; where they fail, the reason is among the missing."""
    warm, small, large = size.index
    figures: dict[str, Any] = {}
    parts = {
        "index_figures": {"warm": warm, "small": small, "large": large},
        "table_figures": {"rows": size.grown_rows},
    }
    for module, arguments in parts.items():
        progress(module.replace("_", " "))
        try:
            figures |= run_function(f"elastic_peers.{module}", "measure", **arguments)
        except ProcessFailed as error:
            measured.missing[module] = str(error)
    return figures


def _show(figures: dict[str, Any], as_json: bool) -> None:
    for name, reason in figures["missing"].items():
        console.error(f"{name} is left out: {reason}")
    if as_json:
        typer.echo(json.dumps(figures, indent=1))
        return
    medians = figures["median_ms"]
    mlps = list(next(iter(medians.values()), {}))
    rows = [(name, *times.values()) for name, times in medians.items()]
    console.table("Median step, ms", ("system", *mlps), rows)
    flat = report.flattened(
        {
            name: value
            for name, value in figures.items()
            if name not in ("median_ms", "targets", "losses", "missing")
        }
    )
    flat.pop("missed")
    lines = [
        (name, value, figures["targets"].get(name), name in figures["missed"] or None)
        for name, value in flat.items()
    ]
    console.table("Figures", ("figure", "value", "target", "missed"), lines)


def _draw(figures: dict[str, Any], size: Size, target: Path) -> None:
    from elastic_peers.plot import plot

    plot(figures["median_ms"], size.work.rows, target)


if __name__ == "__main__":
    typer.run(main)
