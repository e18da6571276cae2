"""What a compact model saves a server: requests per second, memory, load time and bytes, beside the
whole model's.

`python benchmarks/serving.py --json --plot FILE.png`. Models of drawn weights
(`serving_models.py`), since what serving costs depends on shapes: the whole one has 26 fields, 6 M
rows of width 16 and layers of 128 and 64; the others are what steps of compression leave of it. All
are written by the project's exporter and served in processes that know TensorFlow only, in turns.
`--other 2.18,2.16`: the compact one is also loaded by an unmodified TensorFlow of those versions,
in an environment of its own (made once below `--environments`), and its answers are compared.

To reach, compact over whole: requests per second at batch 32 at least 2, resident memory at most
.5; exported bytes a row at most 1.3 · (values + 8 + scale).
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from harness.environments import NoEnvironment, interpreter
from harness.options import print_json, progress
from serving_models import (
    COMPACT,
    FIELDS,
    SHAPES,
    WHOLE,
    model_of,
    requests_of,
    stored_bytes_per_row,
)

from compression.export.write import SAVED_MODEL, export_model
from pipelines.cli import console
from validation.serving.measure import ServingCosts, serve, serving_costs
from validation.serving.plot import plot_serving

_BATCHES = (1, 32, 512)


def main(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    rows: Annotated[int, typer.Option(min=FIELDS, help="Of the whole model.")] = 6_000_000,
    requests: Annotated[
        int, typer.Option(min=1, help="Answered in each process at the largest batch size.")
    ] = 20_480,
    rounds: Annotated[
        int, typer.Option(min=1, help="Processes of each model; figures are medians.")
    ] = 3,
    other: Annotated[
        str, typer.Option(help="TensorFlow versions to load the compact model in, comma-separated.")
    ] = "",
    environments: Annotated[
        Path, typer.Option(help="Where environments of other versions lie.")
    ] = Path("peer-environments"),
    plot: Annotated[Path | None, typer.Option(help="PNG to draw.")] = None,
) -> None:
    """Export the models, serve them in turns, and print what each costs."""
    with tempfile.TemporaryDirectory() as scratch:
        exports = {name: _export(name, rows, Path(scratch)) for name in SHAPES}
        asked = {name: requests_of(shape.fields, rows, requests) for name, shape in SHAPES.items()}
        costs = serving_costs(exports, asked, _BATCHES, rounds)
        results = _results(costs, rows) | {
            "other_tensorflow": _others(exports[COMPACT], rows, other, environments)
        }
    if plot:
        plot_serving(costs, f"{rows:,} rows, and what compression leaves of them", plot)
    _show(results, as_json)


def _export(name: str, rows: int, scratch: Path) -> Path:
    progress(f"exporting {name}: {SHAPES[name].words}")
    folder = scratch / name
    folder.mkdir()
    export_model(model_of(SHAPES[name], rows), folder)
    return folder / SAVED_MODEL


def _results(costs: dict[str, ServingCosts], rows: int) -> dict[str, Any]:
    whole, compact = costs[WHOLE], costs[COMPACT]
    return {
        "rows": rows,
        "qps_ratio_b32": compact.batches[32].per_second / whole.batches[32].per_second,
        "rss_ratio": compact.rss_bytes / whole.rss_bytes,
        "load_ratio": compact.load_s / whole.load_s,
        "bytes_ratio": compact.bytes / whole.bytes,
        "bytes_per_row": {name: _bytes_per_row(name, cost, rows) for name, cost in costs.items()},
        "shapes": {name: asdict(shape) for name, shape in SHAPES.items()},
        "costs": {name: cost.as_dict() for name, cost in costs.items()},
    }


def _bytes_per_row(name: str, cost: ServingCosts, rows: int) -> dict[str, float]:
    shape = SHAPES[name]
    live = shape.fields * int(rows // FIELDS * shape.kept)
    return {"exported": cost.bytes / live, "allowed": stored_bytes_per_row(shape)}


def _others(saved_model: Path, rows: int, versions: str, root: Path) -> dict[str, Any]:
    """The largest difference of the compact model's answers in other versions of TensorFlow from
    those in this one.
    """
    found: dict[str, Any] = {}
    requests = requests_of(SHAPES[COMPACT].fields, rows, 2048)
    ours = serve(saved_model, requests).probability if versions else None
    for version in filter(None, versions.split(",")):
        progress(f"loading in TensorFlow {version}")
        try:
            python = interpreter(f"tensorflow-{version}", root)
        except NoEnvironment as error:
            found[version] = {"missing": str(error)}
            continue
        theirs = serve(saved_model, requests, python=python).probability
        found[version] = {
            "max_abs_diff": float(np.abs(theirs - ours).max()),
            "requests": len(theirs),
        }
    return found


def _show(results: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(results)
        return
    columns = ("model", "MB", "bytes a row", "resident MB", "load s", "per s, batch 1", "32", "512")
    console.table("serving", columns, [_line(name, results) for name in results["costs"]])
    console.info(
        ", ".join(
            f"{name} {results[name]:.2f}"
            for name in ("qps_ratio_b32", "rss_ratio", "load_ratio", "bytes_ratio")
        )
    )
    console.info(f"other versions of TensorFlow: {results['other_tensorflow']}")


def _line(name: str, results: dict[str, Any]) -> tuple[str, ...]:
    cost, per_row = results["costs"][name], results["bytes_per_row"][name]["exported"]
    sizes = (f"{cost['batches'][str(size)]['per_second']:,.0f}" for size in _BATCHES)
    return (
        name,
        f"{cost['bytes'] / 1e6:.0f}",
        f"{per_row:.1f}",
        f"{cost['rss_bytes'] / 1e6:.0f}",
        f"{cost['load_s']:.2f}",
        *sizes,
    )


if __name__ == "__main__":
    typer.run(main)
