"""`elastic-ctr serve-check`: load time, memory, latency and throughput of a day's export, beside the whole model's."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from features.errors import InputError
from features.partition import folder_of, parse_partition
from pipelines.cli import console
from pipelines.config import default_workspace, load_config
from pipelines.stages.stage import Context, require
from pipelines.store.artifacts import Store

if TYPE_CHECKING:
    from validation.model.requests import RawRequests
    from validation.serving.compare import ServingCosts

REPORT, PLOT = "serving.json", "serving.png"
FULL, EXPORT = "whole model", "export"

_ConfigFile = Annotated[
    Path, typer.Option("--config", "-c", envvar="ELASTIC_CTR_CONFIG", help="The YAML file.")
]
_Day = Annotated[
    str,
    typer.Option(
        "--date", "-d", help="Day or hour whose export is checked, on its held-out impressions."
    ),
]
_Workspace = Annotated[Path | None, typer.Option("--workspace", "-w", help="Where artifacts lie.")]
_Other = Annotated[
    Path | None,
    typer.Option("--export", help="Check this SavedModel in place of the day's export."),
]
_Batches = Annotated[
    str, typer.Option(help="Batch sizes, comma-separated; the largest answers every request.")
]
_Rounds = Annotated[
    int,
    typer.Option(min=1, help="Fresh processes of each model, in turns; figures are their medians."),
]
_Calls = Annotated[
    int, typer.Option(min=1, help="Calls of a process at each batch size but the largest.")
]
_Out = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--out",
        "-o",
        help=f"Folder for {REPORT} and {PLOT} (default: <workspace>/serving/dt=<day>).",
    ),
]
_Overrides = Annotated[
    list[str], typer.Option("--set", help="Override a key of the configuration (repeatable).")
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def serve_check(
    config: _ConfigFile,
    day: _Day,
    workspace: _Workspace = None,
    export: _Other = None,
    batches: _Batches = "1,32,512",
    rounds: _Rounds = 3,
    max_calls: _Calls = 300,
    out: _Out = None,
    overrides: _Overrides = [],  # noqa: B006
    as_json: _Json = False,
) -> None:
    """Replay a day's held-out impressions by its export and by the whole model, each in processes that know TensorFlow only.

    The whole model is the day's checkpoint, every admitted row in float32, written by the same exporter.
    """
    home = workspace or default_workspace()
    context = Context(
        load_config(config, overrides, home),
        parse_partition(day),
        Store(home),
        _silent if as_json else console.say,
    )
    folder = out or home / "serving" / folder_of(context.day)
    found = _measure(context, export, _sizes(batches), rounds, max_calls)
    document = json.dumps(_told(found, context), indent=1)
    _write(found, f"{context.config.name}, held-out impressions of {context.day}", document, folder)
    if as_json:
        typer.echo(document)
    else:
        _show(found)
        console.say(f"wrote {REPORT} and {PLOT} to {folder}")


def _measure(
    context: Context, export: Path | None, batch_sizes: Sequence[int], rounds: int, max_calls: int
) -> dict[str, ServingCosts]:
    from validation.serving.compare import serving_costs

    served = export or require(context, "export", "export").path / "saved_model"
    if not served.is_dir():
        raise InputError(
            f"{served}: no SavedModel there; name the folder that holds saved_model.pb"
        )
    with _whole(context) as whole:
        context.report(f"serving {rounds} times each: the whole model, and {served}")
        return serving_costs(
            {FULL: whole, EXPORT: served}, _requests(context), batch_sizes, rounds, max_calls
        )


@contextmanager
def _whole(context: Context) -> Iterator[Path]:
    """Export the day's checkpoint as it is, for as long as it is measured."""
    from compression.export.write import SAVED_MODEL
    from compression.export.write import export as write

    checkpoint = require(context, "checkpoint", "train").path
    with tempfile.TemporaryDirectory(prefix="whole-") as scratch:
        context.report("exporting the checkpoint whole")
        write(checkpoint, Path(scratch))
        yield Path(scratch) / SAVED_MODEL


def _requests(context: Context) -> RawRequests:
    from validation.model.check import read_heldout
    from validation.model.requests import read_requests

    heldout = read_heldout(require(context, "checkpoint", "train").path / "heldout.parquet")
    return read_requests(
        require(context, "impressions", "ingest").path, context.config.features, heldout.record
    )


def _sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(
            f"--batches {text!r}: expected numbers separated by commas, such as 1,32,512"
        ) from error
    if min(sizes) < 1:
        raise InputError(f"--batches {text!r}: a batch holds one request or more")
    return sizes


def _told(found: dict[str, ServingCosts], context: Context) -> dict[str, Any]:
    models = {name: costs.as_dict() for name, costs in found.items()}
    return {
        "config": context.config.name,
        "date": str(context.day),
        "models": models,
        "export_over_whole": _ratios(found),
    }


def _ratios(found: dict[str, ServingCosts]) -> dict[str, Any]:
    """The export's figures over the whole model's."""
    whole, export = found[FULL], found[EXPORT]
    sizes = {
        str(b): c.per_second / whole.batches[b].per_second
        for b, c in export.batches.items()
        if whole.batches[b].per_second
    }
    return {
        "bytes": export.bytes / whole.bytes,
        "rss_bytes": export.rss_bytes / whole.rss_bytes if whole.rss_bytes else None,
        "load_s": export.load_s / whole.load_s,
        "per_second": sizes,
    }


def _write(found: dict[str, ServingCosts], what: str, document: str, folder: Path) -> None:
    from validation.serving.plot import plot_serving

    folder.mkdir(parents=True, exist_ok=True)
    (folder / REPORT).write_text(document + "\n", encoding="utf-8")
    plot_serving(found, what, folder / PLOT)


def _show(found: dict[str, ServingCosts]) -> None:
    columns = [dict(_lines(costs)) for costs in found.values()]
    console.table(
        "serving",
        ("", *found),
        [(words, *(column[words] for column in columns)) for words in columns[0]],
    )


def _lines(costs: ServingCosts) -> Iterator[tuple[str, str]]:
    yield "on disk", console.format_bytes(costs.bytes)
    yield "resident above TensorFlow", console.format_bytes(costs.rss_bytes)
    yield "load, s", f"{costs.load_s:.2f}"
    for size, batch in costs.batches.items():
        yield f"batch {size}: p50 / p99, ms", f"{batch.p50_ms:.2f} / {batch.p99_ms:.2f}"
        yield f"batch {size}: requests/s", f"{batch.per_second:,.0f}"


def _silent(_: str) -> None:
    return None
