"""Train and serve click models: the command line of elastic-ctr.

Exit codes: 0 success, 2 invalid input or configuration, 3 unsound data or model, 4 no data for the
day or hour, 75 temporary failure (try again).
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from features.errors import InputError, NoDataError, RetryableError
from features.partition import (
    Partition,
    end_h,
    kind_of,
    parse_partition,
    partitions_between,
    start_h,
)
from features.redaction import redact
from pipelines.cli import commands, console, options
from pipelines.failures import TRACEBACK_VARIABLE, explain, log_failure
from pipelines.services.environment import QUIET, RUN_URL_VARIABLE
from pipelines.stages.chain import run_day, run_stage, sync
from pipelines.stages.freshness import changed_inputs, end_of, record_skip
from pipelines.stages.registry import STAGES, make_stage
from pipelines.stages.report import days_with_artifacts
from pipelines.stages.stage import Context

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Rich would read brackets in help texts as markup, and draw frames that scripts cannot parse.
    rich_markup_mode=None,
    help=__doc__,
)
app.add_typer(commands.app)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Options of glibc's `mallopt`, in bytes."""

_BOOTSTRAP = ("model_gate.bootstrap=always",)

Plan = Annotated[
    Path | None,
    typer.Option(
        "--plan", help="Use this plan of `search-compression` instead of the section `compression`."
    ),
]


Bootstrap = Annotated[
    bool,
    typer.Option(
        "--bootstrap",
        help="Accept a candidate without a champion to compare it with: the same as "
        "--set model_gate.bootstrap=always.",
    ),
]


# A factory: a function made in the loop below would run the last stage under every name.
def _stage_command(name: str) -> Callable[..., None]:
    def command(
        config: options.ConfigFile,
        day: options.DayOrChampion,
        workspace: options.Workspace = None,
        plan: Plan = None,
        bootstrap: Bootstrap = False,
        overrides: options.Overrides = [],  # noqa: B006
    ) -> None:
        """Run the stage."""
        overrides = [*overrides, *_BOOTSTRAP] if bootstrap else overrides
        partition = options.day_or_champion(day, options.open_store(workspace))
        context = options.stage_context(
            config, workspace, options.with_plan(overrides, plan), partition
        )
        try:
            result = run_stage(name, context)
        except NoDataError as error:
            _say_missing_input(name, context, error)
            raise
        except Exception:
            console.say_links(name, context)
            raise
        console.show_result(result)
        if os.environ.get(RUN_URL_VARIABLE):
            # A task that ended has a link to its run, so that must not wait for the day's end.
            sync(context)
        console.say_links(name, context)
        # The DAG reads the last line of the output.
        typer.echo(f"manifest={result.version.manifest}")

    return command


for _name in STAGES:
    app.command(
        _name, help=f"Run the stage {_name} for one day or hour.", rich_help_panel="Stages"
    )(_stage_command(_name))


def _say_missing_input(stage: str, context: Context, error: NoDataError) -> None:
    """Print what becomes of a day or hour without data; the DAG reads the line.

    Raises:
        RetryableError: data may still come, because the deadline has not passed.
    """
    schedule = context.config.schedule
    deadline = end_of(context, context.day) + timedelta(hours=schedule.deadline_hours)
    if stage == "ingest" and datetime.now(UTC) < deadline:
        typer.echo("missing_input=wait")
        raise RetryableError(
            f"{error}; it is waited for until {deadline:%Y-%m-%d %H:%M %Z}: try again"
        ) from error
    if schedule.missing_input == "skip":
        record_skip(context.store, context.day)
        typer.echo("missing_input=skip")


@app.command()
def run(
    config: options.ConfigFile,
    first: Annotated[
        str | None, typer.Option("--from", help="First day (YYYY-MM-DD) or hour (YYYY-MM-DDTHH).")
    ] = None,
    last: Annotated[str | None, typer.Option("--to", help="Last day or hour, inclusive.")] = None,
    workspace: options.Workspace = None,
    overrides: options.Overrides = [],  # noqa: B006
    bootstrap: Bootstrap = False,
    missing: Annotated[
        str, typer.Option(help="What to do with a day or hour without data: `skip` or `fail`.")
    ] = "skip",
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Run only stages whose inputs changed since, of days and hours that are there "
            "(default: of all).",
        ),
    ] = False,
) -> None:
    """Run all stages for days or hours in order.

    Does not need Airflow. Stages whose result is already committed are not run again. Exit code 4:
    none of the days or hours had data.
    """
    if missing not in ("skip", "fail"):
        raise InputError(f"--missing {missing!r}: expected skip or fail")
    overrides = [*overrides, *_BOOTSTRAP] if bootstrap else overrides
    begin, end = (parse_partition(text) if text else None for text in (first, last))
    base = options.stage_context(config, workspace, overrides, begin or date.min)
    if repair:
        _repair(base, begin, end)
        return
    if not begin or not end:
        raise InputError("name the days: --from DAY --to DAY (only --repair finds them itself)")
    partitions = partitions_between(begin, end)
    without_data, ran = _run_partitions(base, partitions, missing == "skip")
    # Sends what is left in the journal. Events stay there while MLflow does not answer.
    sync(base)
    if len(without_data) == len(partitions):
        raise NoDataError(
            f"no {kind_of(begin)} from {begin} to {end} has data, nothing was trained: "
            "see `source.path`, and `elastic-ctr check` for what is missing"
        )
    if without_data:
        console.info(f"without data: {', '.join(without_data)}")
    if not ran:
        with_data = " with data" if without_data else ""
        console.info(
            f"nothing to do: every stage of every {kind_of(begin)}{with_data} is already committed"
        )


def _run_partitions(
    base: Context, partitions: list[Partition], skip: bool
) -> tuple[list[str], int]:
    """Run all stages of days or hours; return those without data, and how many stages ran."""
    without_data, ran = [], 0
    for partition in partitions:
        console.heading(str(partition))
        try:
            ran += _run_stages(replace(base, day=partition))
        except NoDataError as error:
            if not skip:
                raise
            record_skip(base.store, partition)
            without_data.append(str(partition))
            console.info(f"skipped: {error}")
    return without_data, ran


def _repair(base: Context, begin: Partition | None, end: Partition | None) -> None:
    """Run the stages whose inputs changed, of the days and hours that are there, in order."""
    repaired = 0
    for day in list(days_with_artifacts(base.store)):
        if (begin and start_h(day) < start_h(begin)) or (end and end_h(day) > end_h(end)):
            continue
        context = replace(base, day=day)
        for name in STAGES:
            # Only now: what was made again before may have changed the inputs of this one.
            stage = make_stage(name)
            version = base.store.current(stage.artifact, day)
            reason = version and changed_inputs(stage, base, version)
            if reason:
                console.info(f"{day} {name}: {reason}")
                console.show_result(run_stage(name, context))
                repaired += 1
    sync(base)
    console.info(f"made again: {repaired} stages" if repaired else "nothing to repair")


def _run_stages(context: Context) -> int:
    """Run all stages of a day or hour and return how many of them were not committed before."""
    ran = 0
    for result in run_day(context):
        console.show_result(result)
        ran += not result.reused
    return ran


def main() -> None:
    """Run the command line. An error of the project becomes one message and its exit code."""
    quiet_libraries()
    keep_freed_memory()
    try:
        app(standalone_mode=True)
    except Exception as error:
        known = explain(error)
        # No traceback: the message says what is wrong and what to do.
        console.error(str(known) if known else _unforeseen(error))
        sys.stdout.flush()
        sys.exit(known.exit_code if known else 1)


def _unforeseen(error: Exception) -> str:
    """Write the traceback to a log file and return the sentence that names it."""
    if os.environ.get(TRACEBACK_VARIABLE):
        console.error(redact("".join(traceback.format_exception(error))))
    try:
        where = f"the traceback is in {log_failure(error, options.chosen_workspace(sys.argv))}"
    except OSError as second:
        where = f"no log file could be written ({second.strerror})"
    said = " ".join(str(error).split())[:300]
    return f"unforeseen {type(error).__name__}: {said}; {where}"


def quiet_libraries() -> None:
    """Switch off telemetry and start-up messages of libraries, unless the user configured them."""
    # TensorFlow and MLflow read these variables when they are imported, so they are set first.
    os.environ.update({k: v for k, v in QUIET.items() if k not in os.environ})
    for name in ("tensorflow", "great_expectations", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)


def keep_freed_memory() -> None:
    """Let the C library keep what a step frees for the next one, where there is glibc.

    Otherwise the tensors of each batch are given back and fetched again, page by page: a tenth of
    the CPU time of a training, and a quarter of that of a compression search (glibc 2.36).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)


if __name__ == "__main__":
    main()
