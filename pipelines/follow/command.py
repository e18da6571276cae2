"""The command `follow`."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli import console
from pipelines.config import default_workspace, load_config
from pipelines.store.artifacts import Store

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", envvar="ELASTIC_CTR_CONFIG", help="The YAML file.")
]


WatchOption = Annotated[
    Path,
    typer.Option(
        "--watch", help="Folder that complete files (.parquet, .csv, .csv.gz) are renamed into."
    ),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Where exports appear (default: WORKSPACE/follow).")
]
EveryOption = Annotated[
    float | None,
    typer.Option("--every", help="Seconds between micro-batches (default: follow.every_s)."),
]
OnceOption = Annotated[
    bool, typer.Option("--once", help="Take what is there and end, instead of waiting for more.")
]
WorkspaceOption = Annotated[
    Path | None, typer.Option("--workspace", "-w", help="Where the chain's artifacts lie.")
]
Overrides = Annotated[
    list[str], typer.Option("--set", help="Override a key: --set follow.form=int8 (repeatable).")
]


def follow(
    config: ConfigOption,
    watch: WatchOption,
    out: OutOption = None,
    every: EveryOption = None,
    once: OnceOption = False,
    workspace: WorkspaceOption = None,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Learn files of the log as they land, and publish each change of the model for servers that run.

    Begins from the last sound checkpoint of the workspace, or where it stopped. Writes to --out: full/ (exports), deltas/,
    quarantine/, state/, batches.jsonl. SIGTERM or Ctrl-C ends it after the micro-batch in hand, with everything saved.
    Exit code 3: a micro-batch was unsound, it is not published, and the message says which files it was.
    """
    from pipelines.follow.follow import Follow, Job

    home, overridden = (
        workspace or default_workspace(),
        list(overrides) + ([f"follow.every_s={every}"] if every else []),
    )
    job = Job(load_config(config, overridden, home), Store(home), watch, out or home / "follow")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with Follow(job, console.say) as following:
        following.run(stop, once)
