"""Run the demo as `python -m pipelines.demo`, and `quickstart`, the same days without Airflow."""

from __future__ import annotations

import os
import signal
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from features.errors import ElasticCtrError
from pipelines.config import default_workspace
from pipelines.demo.run import DAYS, SIMULATED, last_of, run_demo
from pipelines.services.__main__ import Login

KEEP_VARIABLE = "KEEP"

_DATE = ["%Y-%m-%d"]


def demo(
    config: Annotated[
        Path, typer.Option(help="Configuration of the log to train.")
    ] = SIMULATED.config,
    workspace: Annotated[Path | None, typer.Option(help="Write artifacts to this folder.")] = None,
    first: Annotated[
        datetime | None, typer.Option("--from", formats=_DATE, help="First day (YYYY-MM-DD).")
    ] = None,
    last: Annotated[
        datetime | None, typer.Option("--to", formats=_DATE, help="Last day, inclusive.")
    ] = None,
    keep: Annotated[
        bool, typer.Option(help="Leave the services running (default: KEEP=1 in the environment).")
    ] = False,
    login: Login = True,
) -> None:
    """Train a few days through Airflow, and compress, question, follow and compare the result.

    Prints what each part did and writes it to WORKSPACE/demo/summary.html. Without options: three
    days of a simulated log.
    """
    begin = first.date() if first else SIMULATED.first
    end = last.date() if last else last_of(begin, DAYS)
    stay = keep or os.environ.get(KEEP_VARIABLE, "") not in ("", "0")
    home = workspace or default_workspace()
    sys.exit(run_demo(config, home, begin, end, keep=stay, login=login))


def main() -> None:
    """Run the command line. An error of the project becomes one message and its exit code."""
    # SIGTERM raises SystemExit, so that the services are stopped.
    # 143 is 128 + 15: what a shell reports of a process that SIGTERM ended.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    try:
        typer.run(demo)
    except ElasticCtrError as error:
        typer.echo(str(error), err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
