"""Options that several commands share, and the objects that commands make from them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer
import yaml

from features.errors import InputError
from features.partition import Partition, parse_partition
from pipelines.cli import console
from pipelines.config import default_workspace, load_config
from pipelines.stages.stage import Context
from pipelines.store.artifacts import Store
from pipelines.tracking.champion import known_champion, named_model

ConfigFile = Annotated[
    Path,
    typer.Option(
        "--config", "-c", envvar="ELASTIC_CTR_CONFIG", help="YAML file of the configuration."
    ),
]
ConfigToCompare = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="ELASTIC_CTR_CONFIG",
        help="YAML file: with it, stages whose inputs changed since are shown as stale.",
    ),
]
Workspace = Annotated[
    Path | None,
    typer.Option(
        "--workspace",
        "-w",
        help="Folder of the artifacts (default: ELASTIC_CTR_WORKSPACE, else ./workspace).",
    ),
]
Overrides = Annotated[
    list[str],
    typer.Option("--set", help="Override a key: --set training.batch_size=1024 (repeatable)."),
]
Day = Annotated[str, typer.Option("--date", "-d", help="Day (YYYY-MM-DD) or hour (YYYY-MM-DDTHH).")]
DayOrChampion = Annotated[
    str,
    typer.Option(
        "--date",
        "-d",
        help="Day (YYYY-MM-DD), hour (YYYY-MM-DDTHH), or `champion`: that of the serving model.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", help="Folder for the results (default: a folder of the workspace)."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def chosen_workspace(arguments: Sequence[str]) -> Path:
    """Return the workspace that a command line names, for an error that ended its parsing."""
    for option, value in pairwise(arguments):
        if option in ("--workspace", "-w"):
            return Path(value)
    return default_workspace()


def open_store(workspace: Path | None) -> Store:
    """Return the artifacts of the workspace that `--workspace` names, or of the default one."""
    return Store(workspace or default_workspace())


def stage_context(
    config: Path,
    workspace: Path | None,
    overrides: list[str],
    day: Partition,
    report: Callable[[str], None] = console.info,
) -> Context:
    """Return the context of a stage or command from the values of its options."""
    home = workspace or default_workspace()
    return Context(load_config(config, overrides, home), day, Store(home), report)


def day_or_champion(text: str, store: Store) -> Partition:
    """Return the day or hour that a `--date` option names.

    Raises:
        InputError: `text` is neither a date nor `champion`, or no model was promoted yet.
    """
    if text != "champion":
        return parse_partition(text)
    serving = known_champion(store, named_model(store), console.warning)
    if serving is None or not serving.day:
        raise InputError(f"--date champion: MLflow names no champion of {named_model(store)}")
    day = serving.partition
    trained, now = serving.checkpoint(store), store.current("checkpoint", day)
    if trained is None or trained != now:
        raise InputError(
            f"--date champion: the checkpoint of {day} in {store.workspace} is not the one that "
            f"{serving} was made from; the day was trained again, or deleted. Name the day, or "
            "`elastic-ctr rollback` to a version that is there"
        )
    return day


def with_plan(overrides: list[str], plan: Path | None) -> list[str]:
    """Return the overrides, followed by one that replaces the section `compression` by a plan's.

    Args:
        overrides: values of `--set`.
        plan: a file that `search-compression` wrote, or None for no further override.

    Raises:
        InputError: the file cannot be read, or is not such a plan.
    """
    if plan is None:
        return overrides
    try:
        document = yaml.safe_load(plan.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(
            f"{plan}: cannot read the plan ({error}); `elastic-ctr search-compression` writes one"
        ) from error
    if not isinstance(document, dict) or set(document) != {"compression"}:
        raise InputError(
            f"{plan}: expected `compression` as the only section, as in a plan.yaml that "
            "`elastic-ctr search-compression` writes"
        )
    # Overrides are parsed as YAML, of which JSON is a subset.
    return [*overrides, f"compression={json.dumps(document['compression'])}"]
