"""`elastic-ctr serve-check`: serving costs of a day's export, compared with the whole model's."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from features.errors import InputError
from features.partition import folder_of, parse_partition
from pipelines.cli import console, options
from pipelines.stages.stage import Context, no_report, require

if TYPE_CHECKING:
    from validation.serving.measure import ServingCosts

REPORT, PLOT = "serving.json", "serving.png"
FULL, EXPORT = "whole model", "export"


def serve_check(
    config: options.ConfigFile,
    day: options.Day,
    workspace: options.Workspace = None,
    export: Annotated[
        Path | None,
        typer.Option("--export", help="Check this SavedModel instead of the day's export."),
    ] = None,
    batches: Annotated[
        str, typer.Option(help="Batch sizes; the largest one is run on all requests.")
    ] = "1,32,512",
    rounds: Annotated[
        int, typer.Option(min=1, help="Processes per model; medians are reported.")
    ] = 3,
    max_calls: Annotated[
        int, typer.Option(min=1, help="Calls per process and smaller batch size.")
    ] = 300,
    out: options.Out = None,
    overrides: options.Overrides = [],  # noqa: B006
    as_json: options.Json = False,
) -> None:
    """Measure the serving costs of an export.

    Compares load time, memory, latency and throughput of a day's export and of the whole model.
    The requests are the day's held-out impressions. The whole model is the day's checkpoint, all
    rows in float32, written by the same exporter. Each model runs in separate processes, which
    load TensorFlow only. Writes serving.json and serving.png (default: to
    WORKSPACE/serving/dt=DAY).
    """
    report = no_report if as_json else console.info
    context = options.stage_context(config, workspace, overrides, parse_partition(day), report)
    folder = out or context.store.workspace / "serving" / folder_of(context.day)
    costs = _measure(context, export, _batch_sizes(batches), rounds, max_calls)
    document = json.dumps(
        {
            "config": context.config.name,
            "date": str(context.day),
            "models": {name: cost.as_dict() for name, cost in costs.items()},
            "export_over_whole": _ratios(costs[EXPORT], costs[FULL]),
        },
        indent=1,
    )
    _write(costs, f"{context.config.name}, held-out impressions of {context.day}", document, folder)
    if as_json:
        typer.echo(document)
    else:
        _show(costs)
        console.info(f"wrote {REPORT} and {PLOT} to {folder}")


def _batch_sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(
            f"--batches {text!r}: expected numbers separated by commas, such as 1,32,512"
        ) from error
    if min(sizes) < 1:
        raise InputError(f"--batches {text!r}: a batch size is at least 1")
    return sizes


def _measure(
    context: Context, export: Path | None, sizes: tuple[int, ...], rounds: int, max_calls: int
) -> dict[str, ServingCosts]:
    from validation.model.check import read_heldout
    from validation.model.requests import read_requests
    from validation.serving.measure import serving_costs

    served = export or require(context, "export", "export").path / "saved_model"
    if not served.is_dir():
        raise InputError(f"{served}: no SavedModel there; name a folder that has saved_model.pb")
    # It also has the held-out impressions, which are the requests to both models.
    checkpoint = require(context, "checkpoint", "train").path
    # Both models answer the same requests, in turns, so that a busy machine slows both.
    with _whole_model(context, checkpoint) as whole:
        context.report(f"serving {rounds} times each: the whole model, and {served}")
        heldout = read_heldout(checkpoint / "heldout.parquet")
        impressions = require(context, "impressions", "ingest").path
        requests = read_requests(impressions, context.config.features, heldout.record)
        return serving_costs({FULL: whole, EXPORT: served}, requests, sizes, rounds, max_calls)


@contextmanager
def _whole_model(context: Context, checkpoint: Path) -> Iterator[Path]:
    """Export a checkpoint without compression to a temporary folder."""
    from compression.export.write import SAVED_MODEL
    from compression.export.write import export as write

    with tempfile.TemporaryDirectory(prefix="whole-") as scratch:
        context.report("exporting the checkpoint whole")
        write(checkpoint, Path(scratch))
        yield Path(scratch) / SAVED_MODEL


def _ratios(export: ServingCosts, whole: ServingCosts) -> dict[str, Any]:
    """Return the export's figures divided by the whole model's."""
    return {
        "bytes": export.bytes / whole.bytes,
        # Memory may be too small to measure, and a fast model may answer in no measurable time.
        "rss_bytes": export.rss_bytes / whole.rss_bytes if whole.rss_bytes else None,
        "load_s": export.load_s / whole.load_s,
        "per_second": {
            str(size): batch.per_second / whole.batches[size].per_second
            for size, batch in export.batches.items()
            if whole.batches[size].per_second
        },
    }


def _write(costs: dict[str, ServingCosts], what: str, document: str, folder: Path) -> None:
    from validation.serving.plot import plot_serving

    folder.mkdir(parents=True, exist_ok=True)
    (folder / REPORT).write_text(document + "\n", encoding="utf-8")
    plot_serving(costs, what, folder / PLOT)


def _show(costs: dict[str, ServingCosts]) -> None:
    columns = [dict(_figures(cost)) for cost in costs.values()]
    rows = [(label, *(column[label] for column in columns)) for label in columns[0]]
    console.table("serving", ("", *costs), rows)


def _figures(cost: ServingCosts) -> Iterator[tuple[str, str]]:
    yield "on disk", console.format_bytes(cost.bytes)
    yield "resident above TensorFlow", console.format_bytes(cost.rss_bytes)
    yield "load, s", f"{cost.load_s:.2f}"
    for size, batch in cost.batches.items():
        yield f"batch {size}: p50 / p99, ms", f"{batch.p50_ms:.2f} / {batch.p99_ms:.2f}"
        yield f"batch {size}: requests/s", f"{batch.per_second:,.0f}"
