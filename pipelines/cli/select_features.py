"""`elastic-ctr select-features`: rank the fields of a trained model, keep what a budget allows, and say what that costs."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from features.errors import InputError
from features.partition import Partition, folder_of, kind_of, parse_partition, partitions_between
from pipelines.cli import console
from pipelines.config import Config, default_workspace, load_config
from pipelines.stages.stage import Context
from pipelines.store.artifacts import Store, Version
from pipelines.store.lineage import sound_checkpoint
from pipelines.tracking.results import track_result

if TYPE_CHECKING:
    from compression.selection.report import Selection
    from training.fit.learners import Recipe

PRUNED, REPORT, PLOT = "pruned.yaml", "selection.json", "selection.png"
_TOLD_EVERY = 0.25

_ConfigFile = Annotated[
    Path, typer.Option("--config", "-c", envvar="ELASTIC_CTR_CONFIG", help="The YAML file.")
]
_First = Annotated[
    str,
    typer.Option(
        "--from", help="First ingested day (YYYY-MM-DD) or hour (…THH) to learn the gates on."
    ),
]
_Last = Annotated[
    str, typer.Option("--to", help="Last such day or hour; its last slice is held out.")
]
_Workspace = Annotated[Path | None, typer.Option("--workspace", "-w", help="Where artifacts lie.")]
_Keep = Annotated[Optional[int], typer.Option(min=1, help="Keep so many fields and relations.")]  # noqa: UP045
_Bytes = Annotated[
    int | None, typer.Option(min=1, help="Keep what fits: bytes of keys, vectors and weights.")
]
_Cost = Annotated[float | None, typer.Option(help="Keep what fits: values handled per impression.")]
_Out = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--out",
        "-o",
        help=f"Folder for {PRUNED}, {REPORT} and {PLOT} (default: <workspace>/selection/dt=<last day>).",
    ),
]
_Overrides = Annotated[
    list[str],
    typer.Option("--set", help="Override a key: --set selection.method=droprank (repeatable)."),
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True)
class Request:
    """What the user wants beside the configuration.

    Attributes:
        config: the YAML file to prune.
        overrides: of its keys.
        first: day or hour to learn the gates from.
        folder: for the results.
        keep: how many uses of fields to keep.
        bytes: that the pruned model may take.
        cost: values that it may handle per impression. No limit at all: the fields are ranked and none is dropped.
    """

    config: Path
    overrides: tuple[str, ...]
    first: Partition
    folder: Path
    keep: int | None
    bytes: int | None
    cost: float | None


def select_features(
    config: _ConfigFile,
    first: _First,
    last: _Last,
    workspace: _Workspace = None,
    keep: _Keep = None,
    budget_bytes: _Bytes = None,
    budget_cost: _Cost = None,
    out: _Out = None,
    overrides: _Overrides = [],  # noqa: B006
    as_json: _Json = False,
) -> None:
    """Rank fields by learned gates, write the YAML without those that a budget has no room for, and measure the loss.

    Starts from the last sound checkpoint before the first day; weights are inherited and gates learn on the days given.
    The next `run` with the pruned YAML warm-starts from the checkpoints that are there.
    """
    home = workspace or default_workspace()
    loaded = load_config(config, overrides, home)
    context = Context(
        loaded, parse_partition(last), Store(home), _silent if as_json else console.say
    )
    folder = out or home / "selection" / folder_of(context.day)
    started_ms = int(time.time() * 1000)
    request = Request(
        config, tuple(overrides), parse_partition(first), folder, keep, budget_bytes, budget_cost
    )
    found = _select(context, request)
    _write(found, loaded.name, folder)
    _track(context, found, folder, started_ms)
    if as_json:
        typer.echo((folder / REPORT).read_text(encoding="utf-8"))
    else:
        _show(found)
        console.say(f"wrote {PRUNED}, {REPORT} and {PLOT} to {folder}")


def _silent(_: str) -> None:
    return None


def _select(context: Context, request: Request) -> Selection:
    from compression.selection.choice import Budget
    from compression.selection.learning import Source
    from compression.selection.ranking import rank_fields
    from compression.selection.report import Selection
    from compression.selection.trial import try_recipe
    from pipelines.cli.pruned_config import write_pruned

    source = Source(
        _checkpoint(context.store, request.first).path, _partitions(context, request.first)
    )
    recipe = _recipe(context.config)
    ranking = rank_fields(source, recipe, context.config.selection, _teller(context.report))
    kept = Selection.kept_of(ranking, recipe, Budget(request.keep, request.bytes, request.cost))
    dropped = frozenset(ranking.importance) - kept
    pruned = _recipe(
        write_pruned(
            request.config,
            dropped,
            request.folder / PRUNED,
            context.store.workspace,
            request.overrides,
        )
    )
    context.report(
        f"{len(kept)} of {len(ranking.importance)} inputs stay; learning with all of them, and with these"
    )
    trials = (try_recipe(source, recipe), try_recipe(source, pruned))
    return Selection(context.config.selection.method, ranking, kept, *trials)


def _checkpoint(store: Store, first: Partition) -> Version:
    found = store.latest_before("checkpoint", first, lambda v: sound_checkpoint(store, v))
    if found is None:
        raise InputError(
            f"no checkpoint before {first} in {store.workspace}: `elastic-ctr run` an earlier day first"
        )
    return found


def _partitions(context: Context, first: Partition) -> tuple[Path, ...]:
    found = [
        context.store.current("impressions", day) for day in partitions_between(first, context.day)
    ]
    paths = tuple(version.path for version in found if version is not None)
    if not paths:
        wanted = f"no {kind_of(first)} from {first} to {context.day}"
        raise InputError(
            f"{wanted} is ingested in {context.store.workspace}: `elastic-ctr ingest` one first"
        )
    return paths


def _recipe(config: Config) -> Recipe:
    from training.fit.learners import Recipe

    return Recipe(config.features, config.model, config.training, config.graph.relations)


def _teller(report: Callable[[str], None]) -> Callable[[float], None]:
    """Report the share that is learned, now and then."""
    marks: Iterator[float] = iter(
        [n * _TOLD_EVERY for n in range(round(1 / _TOLD_EVERY))] + [math.inf]
    )
    state = {"next": next(marks)}

    def tell(share: float) -> None:
        """Report when the next mark is passed."""
        if share >= state["next"]:
            report(f"gates: {share:.0%} learned")
            state["next"] = next(marks)

    return tell


def _write(found: Selection, name: str, folder: Path) -> None:
    from pipelines.cli.select_plot import plot_selection

    (folder / REPORT).write_text(
        json.dumps(found.as_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8"
    )
    plot_selection(found, name, folder / PLOT)


def _track(context: Context, found: Selection, folder: Path, started_ms: int) -> None:
    params = {
        f"selection.{k}": str(v)
        for k, v in context.config.selection.model_dump(mode="json").items()
    }
    files = tuple(folder / name for name in (REPORT, PRUNED, PLOT))
    track_result(context, "select-features", started_ms, found.metrics(), params, files)


def _show(found: Selection) -> None:
    title = f"{found.method}: importance δ beside cost (values handled per impression, rows, bytes saved without the field)"
    console.table(title, ("field", "kept", "δ", "G(c)", "values", "rows", "bytes"), _lines(found))
    console.table("held-out slice", ("model", "AUC", "log loss", "bytes", "values"), _trials(found))


def _lines(found: Selection) -> Iterator[Sequence[Any]]:
    for line in found.lines():
        figures = (
            f"{line.importance:.3f}",
            f"{line.score:.3g}",
            line.online,
            line.rows,
            console.format_bytes(line.bytes),
        )
        yield line.name, line.kept, *figures


def _trials(found: Selection) -> Iterator[Sequence[Any]]:
    for name, quality, size in found.trials():
        yield name, quality.auc, quality.log_loss, console.format_bytes(size.bytes), size.cost
