"""`elastic-ctr select-features`: rank the fields of a trained model and prune its configuration."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from features.errors import InputError
from features.partition import Partition, folder_of, kind_of, parse_partition, partitions_between
from features.schema import Relation
from pipelines.cli import console, options
from pipelines.cli.console import format_bytes
from pipelines.config import Config, load_config
from pipelines.stages.chain import track_result
from pipelines.stages.stage import Context, no_report
from pipelines.store.lineage import parent_checkpoint
from pipelines.tracking.champion import refresh_blocked

if TYPE_CHECKING:
    from compression.selection.footprint import Budget
    from compression.selection.report import FieldSelection
    from training.fit.model_and_baseline import LearnerConfig

PRUNED, REPORT, PLOT = "pruned.yaml", "selection.json", "selection.png"

_VARIABLE = re.compile(r"\$\{[^}]*\}")
_SECTIONS_WITH_FIELDS = ("model", "training", "data_gate")
"""Sections that may name fields, as keys (`min_counts: {tag: 2}`) or in lists (`fields: [ad]`)."""


def select_features(
    config: options.ConfigFile,
    first: Annotated[
        str, typer.Option("--from", help="First day or hour to train on; it must be ingested.")
    ],
    last: Annotated[str, typer.Option("--to", help="Last day or hour; its last part is held out.")],
    workspace: options.Workspace = None,
    keep: Annotated[
        int | None, typer.Option(min=1, help="Keep this many fields and relations.")
    ] = None,
    budget_bytes: Annotated[
        int | None, typer.Option(min=1, help="Keep fields within this many bytes of the model.")
    ] = None,
    budget_cost: Annotated[
        float | None, typer.Option(help="Keep fields within this many values per impression.")
    ] = None,
    out: options.Out = None,
    overrides: options.Overrides = [],  # noqa: B006
    as_json: options.Json = False,
) -> None:
    """Rank fields and prune a configuration.

    Fields are ranked by trained gates; the configuration keeps those within a budget. Starts from
    the last sound checkpoint before the first day, and trains gates on the given days. Without a
    budget, the fields are ranked and none is dropped. The next `run` with the written configuration
    warm-starts from the existing checkpoints. Writes pruned.yaml, selection.json and selection.png
    (default: to WORKSPACE/selection/dt=LAST_DAY).
    """
    # Imported here: Matplotlib and the model's libraries take seconds, which --help should not.
    from compression.selection.footprint import Budget
    from pipelines.cli.select_plot import plot_selection

    # 1. Select. The pruned configuration is written meanwhile, as its trial reads it.
    report = no_report if as_json else console.info
    context = options.stage_context(config, workspace, overrides, parse_partition(last), report)
    folder = out or context.store.workspace / "selection" / folder_of(context.day)
    # The tracking server needs the start; the run is recorded when its results are written.
    started_ms = int(time.time() * 1000)
    budget = Budget(keep, budget_bytes, budget_cost)

    # The configuration of the file, without --set: overrides stay options of the user.
    def write(dropped: frozenset[str]) -> Config:
        """Write the configuration without the dropped fields."""
        return write_pruned(config, dropped, folder / PRUNED, context.store.workspace, overrides)

    selection = _select(context, parse_partition(first), budget, write)
    # 2. Write the report and the plot.
    document = json.dumps(selection.as_dict(), indent=1, allow_nan=False)
    (folder / REPORT).write_text(document + "\n", encoding="utf-8")
    plot_selection(selection, context.config.name, folder / PLOT)
    # 3. Track and print them.
    settings = context.config.selection.model_dump(mode="json")
    params = {f"selection.{key}": str(value) for key, value in settings.items()}
    files = (folder / REPORT, folder / PRUNED, folder / PLOT)
    track_result(context, "select-features", started_ms, selection.metrics(), params, files)
    if as_json:
        typer.echo(document)
    else:
        _show(selection)
        console.info(f"wrote {PRUNED}, {REPORT} and {PLOT} to {folder}")


def _select(
    context: Context, first: Partition, budget: Budget, write: Callable[[frozenset[str]], Config]
) -> FieldSelection:
    from compression.selection.ranking import SelectionData, rank_fields
    from compression.selection.report import FieldSelection, run_trial

    # 1. Find the checkpoint to start from and the days to train on.
    store = context.store
    refresh_blocked(store, context.config.tracking.registered_model, context.report)
    unvalidated = context.config.training.unvalidated_parent
    checkpoint = parent_checkpoint(store, first, context.report, unvalidated=unvalidated)
    if checkpoint is None:
        raise InputError(
            f"no checkpoint before {first} in {store.workspace}: `elastic-ctr run` an earlier "
            "day first"
        )
    days = [store.current("impressions", day) for day in partitions_between(first, context.day)]
    paths = tuple(version.path for version in days if version is not None)
    if not paths:
        raise InputError(
            f"no {kind_of(first)} from {first} to {context.day} is ingested in "
            f"{store.workspace}: `elastic-ctr ingest` one first"
        )
    source = SelectionData(checkpoint.path, paths)

    # 2. Rank the fields and drop those that exceed the budget.
    recipe = _recipe(context.config)
    progress = _quarterly(context.report)
    ranking = rank_fields(source, recipe, context.config.selection, progress)
    kept = FieldSelection.kept_of(ranking, recipe, budget)
    pruned = _recipe(write(frozenset(ranking.importance) - kept))

    # 3. Measure the model before and after.
    context.report(
        f"{len(kept)} of {len(ranking.importance)} inputs are kept; training with all of them, "
        "and with the kept ones"
    )
    trials = (run_trial(source, recipe), run_trial(source, pruned))
    return FieldSelection(context.config.selection.method, ranking, kept, *trials)


def _recipe(config: Config) -> LearnerConfig:
    from training.fit.model_and_baseline import LearnerConfig

    return LearnerConfig(config.features, config.model, config.training, config.graph.relations)


def _quarterly(report: Callable[[str], None]) -> Callable[[float], None]:
    """Return a callback that reports the share done at the start and after each quarter."""
    # The infinite mark is never passed, so `next` never runs out of marks.
    marks = iter((0.0, 0.25, 0.5, 0.75, float("inf")))
    mark = next(marks)

    def progress(share: float) -> None:
        """Report the share if the next mark is passed."""
        nonlocal mark
        if share >= mark:
            report(f"gates: {share:.0%} trained")
            mark = next(marks)

    return progress


def _show(selection: FieldSelection) -> None:
    title = (
        f"{selection.method}: importance δ and cost (values processed per impression, rows, bytes "
        "saved without the field)"
    )
    lines = [
        (
            line.name,
            line.kept,
            f"{line.importance:.3f}",
            f"{line.score:.3g}",
            line.online,
            line.rows,
            format_bytes(line.bytes),
        )
        for line in selection.lines()
    ]
    console.table(title, ("field", "kept", "δ", "G(c)", "values", "rows", "bytes"), lines)
    trials = [
        (name, quality.auc, quality.log_loss, format_bytes(size.bytes), size.cost)
        for name, quality, size in selection.trials()
    ]
    console.table("held-out slice", ("model", "AUC", "log loss", "bytes", "values"), trials)


def write_pruned(
    source: Path,
    dropped: Collection[str],
    out: Path,
    workspace: Path,
    overrides: Sequence[str] = (),
) -> Config:
    """Write a configuration file without some fields and relations, and load it.

    Placeholders such as `${WORKSPACE}` are kept; comments are lost. A cross or relation with a
    dropped part must be dropped as well.

    Args:
        source: the YAML file, which is not changed.
        dropped: names of fields and of relations (`left__right`).
        out: the YAML file to write.
        workspace: the value of `${WORKSPACE}`.
        overrides: overrides for loading, as `load_config` takes them; they are not written.

    Raises:
        InputError: the file cannot be read, or is not valid without these fields; `out` does not
            exist then.
    """
    # 1. Read the file, without its placeholders.
    text = source.read_text(encoding="utf-8")
    # YAML would read a placeholder as a mapping, so words stand for placeholders meanwhile.
    # `END` keeps PLACEHOLDER1 from being found inside of PLACEHOLDER10.
    words = {
        variable: f"PLACEHOLDER{number}END"
        for number, variable in enumerate(dict.fromkeys(_VARIABLE.findall(text)))
    }
    for variable, word in words.items():
        text = text.replace(variable, word)
    # 2. Remove the fields, and put the placeholders back.
    document = prune_document(yaml.safe_load(text), frozenset(dropped))
    pruned = yaml.safe_dump(
        document, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None
    )
    for variable, word in words.items():
        pruned = pruned.replace(word, variable)
    # 3. Write the file. It is removed again if it is not valid.
    count = len(set(dropped))
    heading = (
        f"# {source.name} without {count} inputs that `elastic-ctr select-features` dropped.\n"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(heading + pruned, encoding="utf-8")
    # Loaded to validate it, for instance a cross whose part is dropped.
    try:
        return load_config(out, overrides, workspace)
    except InputError:
        out.unlink()
        raise


def prune_document(document: dict[str, Any], dropped: frozenset[str]) -> dict[str, Any]:
    """Return a configuration document without some fields and relations, in all its sections."""
    features, graph = document["features"], document.get("graph", {})
    fields = [field for field in features["fields"] if field["name"] not in dropped]
    pruned = {**document, "features": {**features, "fields": fields}}
    if "relations" in graph:
        kept = [r for r in graph["relations"] if Relation.model_validate(r).name not in dropped]
        pruned["graph"] = {**graph, "relations": kept}
    for name in _SECTIONS_WITH_FIELDS:
        if name in document:
            pruned[name] = _without_names(document[name], dropped)
    if "groups" in pruned.get("model", {}):
        # A group without fields is not valid, nor is an empty list of groups.
        model = dict(pruned["model"])
        groups = [group for group in model.pop("groups") if group["fields"]]
        pruned["model"] = {**model, "groups": groups} if groups else model
    return pruned


def _without_names(value: Any, dropped: frozenset[str]) -> Any:
    """Remove names from the keys of mappings and from lists."""
    if isinstance(value, dict):
        return {k: _without_names(part, dropped) for k, part in value.items() if k not in dropped}
    if isinstance(value, list):
        kept = [part for part in value if not (isinstance(part, str) and part in dropped)]
        return [_without_names(part, dropped) for part in kept]
    return value
