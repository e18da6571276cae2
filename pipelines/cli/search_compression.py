"""`elastic-ctr search-compression`: the steps of compression that fit a budget, or cost little enough, found by measuring."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
import yaml

from features.partition import folder_of
from pipelines.cli import console
from pipelines.cli.champion_day import day_or_champion
from pipelines.config import default_workspace, load_config
from pipelines.stages.stage import Context, quiet, require
from pipelines.store.artifacts import Store
from pipelines.tracking.results import track_result

if TYPE_CHECKING:
    from compression.search.bench import Measured
    from compression.search.descent import Goal
    from compression.search.search import Found
    from compression.steps.settings import StepSettings

PLAN, REPORT, PLOT = "plan.yaml", "search.json", "pareto.png"

_ConfigFile = Annotated[
    Path, typer.Option("--config", "-c", envvar="ELASTIC_CTR_CONFIG", help="The YAML file.")
]
_Day = Annotated[
    str,
    typer.Option(
        "--date", "-d", help="A trained day or hour, or `champion`: measured on its held-out slice."
    ),
]
_Workspace = Annotated[Path | None, typer.Option("--workspace", "-w", help="Where artifacts lie.")]
_Bytes = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        min=1, help="The best AUC in so many bytes of keys, rows, dense weights and encodings."
    ),
]
_Drop = Annotated[
    float | None, typer.Option(min=0, help="The fewest bytes that lose at most so much AUC.")
]
_Plans = Annotated[
    int, typer.Option(min=1, help="Plans to measure at most; baselines come on top.")
]
_Tune = Annotated[
    bool,
    typer.Option(
        "--fine-tune", help="Measure the found plan with `fine_tune` too: it learns the day again."
    ),
]
_Out = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--out",
        "-o",
        help=f"Folder for {PLAN}, {REPORT}, {PLOT} (default: <workspace>/compression-search/dt=<day>).",
    ),
]
_Overrides = Annotated[list[str], typer.Option("--set", help="Override a key (repeatable).")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True)
class Request:
    """What the user wants beside the configuration: limits, plans to measure, whether to tune, the folder for the results."""

    goal: Goal
    plans: int
    fine_tune: bool
    folder: Path


def search_compression(
    config: _ConfigFile,
    day: _Day,
    budget_bytes: _Bytes = None,
    max_auc_drop: _Drop = None,
    workspace: _Workspace = None,
    plans: _Plans = 150,
    fine_tune: _Tune = False,
    out: _Out = None,
    overrides: _Overrides = [],  # noqa: B006
    as_json: _Json = False,
) -> None:
    """Search for compression.steps: the best AUC within a budget of bytes, or the fewest bytes within a loss of AUC.

    Plans are chosen on one half of the held-out users and reported on the other. The written section `compression` takes the
    place of the configuration's (or `--plan` names it to a stage); nothing else is changed, and the gate decides as always.
    Without a limit, the steps that are configured are the plan.
    """
    from compression.search.descent import Goal

    home = workspace or default_workspace()
    loaded = load_config(config, overrides, home)
    context = Context(
        loaded, day_or_champion(day, Store(home)), Store(home), quiet if as_json else console.say
    )
    folder = out or home / "compression-search" / folder_of(context.day)
    if budget_bytes is None and max_auc_drop is None and loaded.compression.steps:
        _write_plan(
            {"compression": loaded.compression.model_dump(mode="json")}, loaded.name, folder
        )
        console.say("no limit is given, and compression.steps are: they are the plan")
        typer.echo(f"manifest={(folder / PLAN).resolve()}")
        return
    started_ms = int(time.time() * 1000)
    found = _search(context, Request(Goal(budget_bytes, max_auc_drop), plans, fine_tune, folder))
    _write(found, loaded.name, folder)
    _track(context, found, folder, started_ms)
    if as_json:
        typer.echo((folder / REPORT).read_text(encoding="utf-8"))
    else:
        _show(found)
        console.say(f"wrote {PLAN}, {REPORT} and {PLOT} to {folder}")
        typer.echo(f"manifest={(folder / PLAN).resolve()}")


def _search(context: Context, request: Request) -> Found:
    from compression.search.bench import Bench
    from compression.search.search import search

    checkpoint, impressions = (
        require(context, "checkpoint", "train"),
        require(context, "impressions", "ingest"),
    )
    settings = context.config.compression
    bench = Bench.of(checkpoint.path, impressions.path, settings.zero_tolerance)
    context.report(
        f"{console.format_bytes(bench.bytes)} before any step; measuring {request.plans} plans at most"
    )

    def tell(number: int, one: Measured) -> None:
        """Report a plan as it is measured."""
        context.report(
            f"{number:>4}  {bench.bytes / one.bytes:>7.1f}×  AUC {-one.drop:+.5f} ± {one.error:.5f}  {_words(one.steps)}"
        )

    return search(bench, settings, request.goal, request.plans, tell, tune=request.fine_tune)


def _words(steps: Sequence[StepSettings]) -> str:
    """A plan in a few words."""
    rows = [f"{_which(step.fields)}{step.keep:.3g}" for step in steps if step.kind == "prune_rows"]
    others = [_word(step) for step in steps if step.kind != "prune_rows"]
    return " · ".join([*([f"rows {', '.join(rows)}"] if rows else []), *others]) or "no step"


def _which(fields: tuple[str, ...]) -> str:
    return f"{fields[0]} " if len(fields) == 1 else f"of {len(fields)} fields " if fields else ""


def _word(step: StepSettings) -> str:
    match step.kind:
        case "drop_fields":
            return f"without {len(step.fields) or 'chosen'} fields"
        case "prune_rows":
            return f"rows by {step.by}"
        case "widths":
            return f"columns {'/'.join(map(str, step.ranks))}"
        case "quantize":
            return step.form
        case "product":
            return f"codes of {step.columns}"
        case "dense":
            return f"kernels {step.form}" + (f", units {1 - step.relu:.3g}" if step.relu else "")
        case "encodings":
            return f"encodings {step.form}"
        case _:
            return step.kind


def _write(found: Found, name: str, folder: Path) -> None:
    from pipelines.cli.search_plot import plot_search

    _write_plan(found.section(), name, folder)
    (folder / REPORT).write_text(
        json.dumps(found.as_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8"
    )
    plot_search(found, name, folder / PLOT)


def _write_plan(section: dict[str, Any], name: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    heading = f"# For {name}: put this section in the place of its `compression`, or give this file to `--plan`.\n"
    plan = yaml.safe_dump(section, sort_keys=False, width=120, default_flow_style=None)
    (folder / PLAN).write_text(heading + plan, encoding="utf-8")


def _track(context: Context, found: Found, folder: Path, started_ms: int) -> None:
    params = {"max_bytes": str(found.goal.max_bytes), "max_auc_drop": str(found.goal.max_drop)}
    files = tuple(folder / name for name in (REPORT, PLAN, PLOT))
    track_result(context, "search-compression", started_ms, found.metrics(), params, files)


def _show(found: Found) -> None:
    columns = ("smaller", "bytes", "AUC", "change", "95 %", "plan")
    by = next((step.by for step in found.chosen.steps if step.kind == "prune_rows"), "nothing")
    title = f"the front, chosen on one half of the users, measured on the other; the chosen plan last; rows pruned by {by}"
    console.table(title, columns, (_row(found, one) for one in (*found.front, found.chosen)))


def _row(found: Found, one: Measured) -> Sequence[Any]:
    drop = found.intervals[one.steps]
    size = (f"{found.bytes / one.bytes:.1f}×", console.format_bytes(one.bytes))
    between = f"{_change(drop.high)} … {_change(drop.low)}"
    return (
        *size,
        f"{one.auc_reported:.4f}",
        _change(one.drop_reported),
        between,
        _words(one.steps),
    )


def _change(drop: float) -> str:
    return f"{0.0 - round(drop, 4):+.4f}"
