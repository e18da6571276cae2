"""`elastic-ctr search-compression`: find compression steps for a budget of bytes or of AUC."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from features.partition import folder_of
from pipelines.cli import console, options
from pipelines.cli.console import format_bytes
from pipelines.stages.chain import track_result
from pipelines.stages.stage import Context, no_report, require

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from compression.search.evaluator import EvaluatedPlan
    from compression.search.greedy_search import Goal
    from compression.search.search import SearchResult
    from compression.steps.settings import StepSettings

PLAN, REPORT, PLOT = "plan.yaml", "search.json", "pareto.png"

_BASELINE_STYLES = (
    ("#d98c2b", "s", "--"),
    ("#5a8f4e", "^", ":"),
    ("#7d5ba6", "D", "-."),
    ("#3a9a9a", "v", (0, (5, 1, 1, 1))),
)
"""Colour, marker and dashes of each baseline, which differ without colour as well."""


def search_compression(
    config: options.ConfigFile,
    day: options.DayOrChampion,
    budget_bytes: Annotated[
        int | None, typer.Option(min=1, help="Find the best AUC within this many bytes.")
    ] = None,
    max_auc_drop: Annotated[
        float | None, typer.Option(min=0, help="Find the fewest bytes within this loss of AUC.")
    ] = None,
    workspace: options.Workspace = None,
    plans: Annotated[
        int, typer.Option(min=1, help="Measure at most this many plans, and baselines.")
    ] = 150,
    fine_tune: Annotated[
        bool,
        typer.Option(
            "--fine-tune", help="Also measure the chosen plan after fine-tuning on the day."
        ),
    ] = False,
    out: options.Out = None,
    overrides: options.Overrides = [],  # noqa: B006
    as_json: options.Json = False,
) -> None:
    """Find compression steps for a budget.

    The budget limits the bytes or the loss of AUC. Plans are chosen on one half of the held-out
    users and reported on the other half. Put the written section `compression` into your
    configuration, or pass the plan to a stage by `--plan`; the model gate decides as before.
    Without a limit, the configured steps become the plan. Writes plan.yaml, search.json and
    pareto.png (default: to WORKSPACE/compression-search/dt=DAY).
    """
    from compression.search.greedy_search import Goal

    partition = options.day_or_champion(day, options.open_store(workspace))
    report = no_report if as_json else console.info
    context = options.stage_context(config, workspace, overrides, partition, report)
    name, settings = context.config.name, context.config.compression
    folder = out or context.store.workspace / "compression-search" / folder_of(context.day)
    # 1. Without a limit there is nothing to search for.
    if budget_bytes is None and max_auc_drop is None and settings.steps:
        _write_plan({"compression": settings.model_dump(mode="json")}, name, folder)
        console.info("no limit is given: the configured compression.steps are the plan")
        typer.echo(f"manifest={(folder / PLAN).resolve()}")
        return

    # 2. Search, and write the results.
    started_ms = int(time.time() * 1000)
    result = _search(context, Goal(budget_bytes, max_auc_drop), plans, fine_tune)
    _write_plan(result.section(), name, folder)
    document = json.dumps(result.as_dict(), indent=1, allow_nan=False)
    (folder / REPORT).write_text(document + "\n", encoding="utf-8")
    plot_search(result, name, folder / PLOT)

    # 3. Track and print them. The DAG reads the last line of the output.
    params = {"max_bytes": str(budget_bytes), "max_auc_drop": str(max_auc_drop)}
    files = (folder / REPORT, folder / PLAN, folder / PLOT)
    track_result(context, "search-compression", started_ms, result.metrics(), params, files)
    if as_json:
        typer.echo(document)
    else:
        console.say_links("search-compression", context)
        _show(result)
        console.info(f"wrote {PLAN}, {REPORT} and {PLOT} to {folder}")
        typer.echo(f"manifest={(folder / PLAN).resolve()}")


def _search(context: Context, goal: Goal, plans: int, fine_tune: bool) -> SearchResult:
    from compression.search.evaluator import PlanEvaluator
    from compression.search.search import search

    checkpoint = require(context, "checkpoint", "train").path
    impressions = require(context, "impressions", "ingest").path
    settings = context.config.compression
    bench = PlanEvaluator.of(checkpoint, impressions, settings.zero_tolerance)
    context.report(f"{format_bytes(bench.bytes)} before any step; measuring up to {plans} plans")

    def report_plan(number: int, plan: EvaluatedPlan) -> None:
        """Report a plan when it is measured."""
        change = f"AUC {-plan.drop:+.5f} ± {plan.error:.5f}"
        smaller = f"{bench.bytes / plan.bytes:>7.1f}×"
        context.report(f"{number:>4}  {smaller}  {change}  {_describe(plan.steps)}")

    return search(bench, settings, goal, plans, report_plan, tune=fine_tune)


def _write_plan(section: dict[str, Any], name: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    heading = (
        f"# For {name}: replace its section `compression` by this one, or pass this file to "
        "`--plan`.\n"
    )
    # Flow style None: lists of plain values stand on one line, all else in blocks.
    plan = yaml.safe_dump(section, sort_keys=False, width=120, default_flow_style=None)
    (folder / PLAN).write_text(heading + plan, encoding="utf-8")


def _describe(steps: Sequence[StepSettings]) -> str:
    """Return a plan in a few words, such as `rows ad 0.5, user 0.25 · int8`."""
    rows = []
    for step in steps:
        if step.kind == "prune_rows":
            fields = step.fields
            of = (
                f"of {len(fields)} fields " if len(fields) > 1 else "".join(f"{f} " for f in fields)
            )
            rows.append(f"{of}{step.keep:.3g}")
    others = [_describe_step(step) for step in steps if step.kind != "prune_rows"]
    return " · ".join([*([f"rows {', '.join(rows)}"] if rows else []), *others]) or "no step"


def _describe_step(step: StepSettings) -> str:
    match step.kind:
        case "drop_fields":
            return f"without {len(step.fields) or 'chosen'} fields"
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


def _show(result: SearchResult) -> None:
    by = next((step.by for step in result.chosen.steps if step.kind == "prune_rows"), "nothing")
    title = (
        "Pareto front, chosen on one half of the users and measured on the other; the chosen plan "
        f"is the last line; rows pruned by {by}"
    )
    rows = []
    for plan in (*result.front, result.chosen):
        drop = result.intervals[plan.steps]
        rows.append(
            (
                f"{result.bytes / plan.bytes:.1f}×",
                format_bytes(plan.bytes),
                f"{plan.auc_reported:.4f}",
                _change(plan.drop_reported),
                f"{_change(drop.high)} … {_change(drop.low)}",
                _describe(plan.steps),
            )
        )
    console.table(title, ("smaller", "bytes", "AUC", "change", "95 %", "plan"), rows)


def _change(drop: float) -> str:
    # 0.0 - x instead of -x: no change prints as +0.0000, not as -0.0000.
    return f"{0.0 - round(drop, 4):+.4f}"


def plot_search(result: SearchResult, name: str, path: Path) -> None:
    """Plot the change of AUC against bytes, for the searched plans and the baselines.

    Args:
        result: the search. Values are those of the reported half of the held-out users.
        name: name of the model, for the subtitle.
        path: PNG file to write; its folder is made if missing.
    """
    from features.plotting import BLUE, MUTED, RED, figure_file, plain_axes, title

    chosen, drop = result.chosen, result.intervals[result.chosen.steps]
    finding = (
        f"{result.bytes / chosen.bytes:.1f} times smaller ({format_bytes(chosen.bytes)}), AUC "
        f"{-chosen.drop_reported:+.4f} ({-drop.high:+.4f} to {-drop.low:+.4f})"
    )
    subject = (
        f"{name}, reported half of the held-out users; bars: 95 % of bootstrap samples; "
        f"{len(result.plans)} plans measured"
    )
    with figure_file(path, (9.5, 5.4)) as figure:
        axes = plain_axes(figure)
        baselines: dict[str, list[EvaluatedPlan]] = {}
        for plan in result.baselines:
            baselines.setdefault(plan.name, []).append(plan)
        # Not strict: a model may lack a baseline, and only as many are drawn as have a style.
        styles = zip(baselines.items(), _BASELINE_STYLES, strict=False)
        for (kind, plans), (colour, marker, dashes) in styles:
            label = f"{kind} alone"
            _curve(axes, plans, label=label, color=colour, marker=marker, linestyle=dashes)
        _curve(axes, result.front, label="searched", color=BLUE, marker="o", linewidth=2.2)
        sizes = [plan.bytes for plan in result.front]
        drops = [result.intervals[plan.steps] for plan in result.front]
        # A drop is a negative change, so the interval's ends change places.
        lows, highs = [-each.high for each in drops], [-each.low for each in drops]
        axes.vlines(sizes, lows, highs, color=BLUE, alpha=0.3, linewidth=1.5)
        point = [chosen.bytes], [-chosen.drop_reported]
        axes.plot(*point, "*", color=RED, markersize=17, label="chosen", zorder=5)
        if result.goal.max_bytes is not None:
            axes.axvline(result.goal.max_bytes, color=MUTED, linewidth=1, linestyle="--")
        if result.goal.max_drop is not None:
            axes.axhline(-result.goal.max_drop, color=MUTED, linewidth=1, linestyle="--")
        _scale_axes(axes, [-plan.drop_reported for plan in (*result.front, chosen)])
        axes.legend(frameon=False, loc="lower left")
        title(axes, finding, subject)


def _curve(axes: Axes, plans: Sequence[EvaluatedPlan], **style: Any) -> None:
    ordered = sorted(plans, key=lambda plan: plan.bytes)
    changes = [-plan.drop_reported for plan in ordered]
    axes.plot([plan.bytes for plan in ordered], changes, markersize=5, **style)


def _scale_axes(axes: Axes, changes: Sequence[float]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: format_bytes(count)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    # The searched plans set the scale; baselines may leave the plot at the bottom.
    size = max(0.001, *(abs(change) for change in changes))
    axes.set_ylim(-1.8 * size, max(0.5 * size, 1.3 * max(changes)))
    axes.set(
        xlabel="bytes of keys, rows, dense weights and encodings (log)",
        ylabel="AUC minus the trained model's",
    )
