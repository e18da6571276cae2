"""Going back to an earlier model, and blocking one that must not serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from features.errors import InputError
from pipelines.cli import console, options
from pipelines.config import load_config
from pipelines.store.artifacts import Store
from pipelines.tracking import champion as champions
from pipelines.tracking.registry import CHAMPION

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="Names the registered model; needed where the workspace has several, or none yet.",
    ),
]
Reason = Annotated[str, typer.Option("--reason", help="Is kept with the version.")]


def rollback(
    to: Annotated[
        str | None,
        typer.Option("--to", help="Version to serve (default: the one that served before)."),
    ] = None,
    reason: Reason = "rolled back",
    config: Config = None,
    workspace: options.Workspace = None,
) -> None:
    """Make an earlier version the champion again, and block the one that serves.

    A blocked version is not promoted again, and no training starts from its checkpoint:
    `elastic-ctr block VERSION --undo` takes that back.
    """
    store = options.open_store(workspace)
    model = _model(store, config)
    serving = champions.roll_back(store, model, to, reason, console.warning)
    console.info(f"champion of {model}: {serving}")


def block(
    version: Annotated[str, typer.Argument(help="Version of the registered model.")],
    reason: Reason = "blocked by hand",
    undo: Annotated[bool, typer.Option("--undo", help="Allow the version again.")] = False,
    config: Config = None,
    workspace: options.Workspace = None,
) -> None:
    """Keep a version from serving, and its checkpoint from being trained on."""
    store = options.open_store(workspace)
    model = _model(store, config)
    if undo:
        champions.unblock(store, model, version)
        console.info(f"version {version} of {model} may serve again")
        return
    registry, answered = champions.connect(store, model)
    with champions.registry_lease(store, model), answered:
        if registry.alias(CHAMPION) == version:
            raise InputError(f"version {version} of {model} serves: `elastic-ctr rollback` first")
        champions.block(store, model, registry.read(version), reason)
    console.info(f"version {version} of {model} is blocked: {reason}")


def _model(store: Store, config: Path | None) -> str:
    if config is None:
        return champions.named_model(store)
    return load_config(config, workspace=store.workspace).tracking.registered_model
