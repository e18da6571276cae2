"""`python -m pipelines.demo`: by default three days of the real log where its folder is found, else of the simulator."""

from __future__ import annotations

import os
import signal
import sys
from datetime import date, datetime
from pathlib import Path
from typing import Annotated

import typer

from features.errors import ElasticCtrError
from pipelines.config import default_workspace
from pipelines.demo.run import DAYS, default_subject, last_of, run_demo

KEEP_VARIABLE = "KEEP"


def demo(
    config: Annotated[Path | None, typer.Option(help="The YAML file.")] = None,
    workspace: Annotated[Path | None, typer.Option(help="Where artifacts go.")] = None,
    first: Annotated[
        datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="First day.")
    ] = None,
    last: Annotated[
        datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="Last day, included.")
    ] = None,
    keep: Annotated[bool, typer.Option(help="Leave the services running (also KEEP=1).")] = False,
) -> None:
    """Train, shrink, check and promote a model for each of a few days, through Airflow."""
    subject = default_subject()
    begin = first.date() if first else subject.first
    end: date = last.date() if last else last_of(begin, DAYS)
    stay = keep or os.environ.get(KEEP_VARIABLE, "") not in ("", "0")
    sys.exit(
        run_demo(config or subject.config, workspace or default_workspace(), begin, end, keep=stay)
    )


def main() -> None:
    """Run the command line; an error of ours is one message and its exit code."""
    signal.signal(
        signal.SIGTERM, lambda _number, _frame: sys.exit(143)
    )  # so that the services are stopped then too
    try:
        typer.run(demo)
    except ElasticCtrError as error:
        typer.echo(str(error), err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
