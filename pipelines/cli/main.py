"""The command line. Exit codes: 0 done, 2 bad input or configuration, 3 unsound, 4 no data of that time, 75 worth a retry."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from features.errors import ElasticCtrError, InputError, NoDataError
from features.partition import Partition, kind_of, parse_partition, partitions_between
from pipelines.cli import commands, console
from pipelines.cli.champion_day import day_or_champion, with_plan
from pipelines.config import default_workspace, load_config
from pipelines.services.environment import QUIET
from pipelines.stages.chain import STAGES, run_day, run_stage, sync
from pipelines.stages.stage import Context
from pipelines.store.artifacts import Store

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=__doc__,
)
app.add_typer(commands.app)

ConfigFile = Annotated[
    Path, typer.Option("--config", "-c", envvar="ELASTIC_CTR_CONFIG", help="The YAML file.")
]
Workspace = Annotated[
    Path | None,
    typer.Option(
        "--workspace",
        "-w",
        help="Where artifacts go (default: ELASTIC_CTR_WORKSPACE, else ./workspace).",
    ),
]
Overrides = Annotated[
    list[str],
    typer.Option("--set", help="Override a key: --set training.batch_size=1024 (repeatable)."),
]
Day = Annotated[
    str,
    typer.Option(
        "--date",
        "-d",
        help="The day or hour: YYYY-MM-DD or YYYY-MM-DDTHH; `champion`: the one that serves.",
    ),
]
Plan = Annotated[
    Path | None,
    typer.Option("--plan", help="A plan of `search-compression`, in the place of `compression`."),
]


def context(config: Path, workspace: Path | None, overrides: list[str], day: Partition) -> Context:
    """Return what stages work with, from the options that every stage command takes."""
    home = workspace or default_workspace()
    return Context(load_config(config, overrides, home), day, Store(home), console.say)


def _stage_command(name: str) -> Callable[..., None]:
    def command(
        config: ConfigFile,
        day: Day,
        workspace: Workspace = None,
        plan: Plan = None,
        overrides: Overrides = [],  # noqa: B006
    ) -> None:
        """Run the stage."""
        chosen = day_or_champion(day, Store(workspace or default_workspace()))
        outcome = run_stage(name, context(config, workspace, with_plan(overrides, plan), chosen))
        console.show_outcome(outcome)
        typer.echo(f"manifest={outcome.version.manifest}")

    return command


for _name in STAGES:
    app.command(
        _name, help=f"Run the stage {_name} for one day or hour.", rich_help_panel="Stages"
    )(_stage_command(_name))


@app.command()
def run(
    config: ConfigFile,
    first: Annotated[
        str, typer.Option("--from", help="First day (YYYY-MM-DD) or hour (YYYY-MM-DDTHH).")
    ],
    last: Annotated[str, typer.Option("--to", help="Last day or hour, included.")],
    workspace: Workspace = None,
    overrides: Overrides = [],  # noqa: B006
    missing: Annotated[
        str, typer.Option(help="A day or hour without data: `skip` it or `fail`.")
    ] = "skip",
) -> None:
    """Run the whole chain for each day, or each hour, in order, without Airflow. What is committed already is not done again."""
    if missing not in ("skip", "fail"):
        raise InputError(f"--missing {missing!r}: expected skip or fail")
    partitions = partitions_between(parse_partition(first), parse_partition(last))
    base = context(config, workspace, overrides, partitions[0])
    worked = 0
    for day in partitions:
        worked += _run_one(Context(base.config, day, base.store, base.report), missing)
    sync(base)
    if not worked:
        console.say(
            f"nothing to do: every stage of every {kind_of(partitions[0])} is committed already"
        )


def _run_one(day_context: Context, missing: str) -> int:
    """Run a day or hour and return how many stages did work."""
    console.heading(str(day_context.day))
    worked = 0
    try:
        for outcome in run_day(day_context):
            console.show_outcome(outcome)
            worked += not outcome.reused
    except NoDataError as error:
        if missing == "fail":
            raise
        console.say(f"skipped: {error}")
    return worked


def main() -> None:
    """Run the command line; an error of ours becomes one clear message and its exit code."""
    quiet_libraries()
    try:
        app(standalone_mode=True)
    except ElasticCtrError as error:
        console.complain(str(error))
        sys.stdout.flush()
        sys.exit(error.exit_code)


def quiet_libraries() -> None:
    """Switch telemetry and start-up chatter of the libraries off, unless the user set them."""
    os.environ.update({k: v for k, v in QUIET.items() if k not in os.environ})
    for name in ("tensorflow", "great_expectations", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)


if __name__ == "__main__":
    main()
