"""What the benchmarks' commands share: comma-separated names, lines of progress, refusals that end
them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from features.errors import ElasticCtrError
from pipelines.stages.registry import STAGES

LEARNING = tuple(STAGES)[: tuple(STAGES).index("train") + 1]
"""The stages of a day up to its training."""


def chosen(names: str, known: Iterable[str], option: str) -> tuple[str, ...]:
    """Return comma-separated names.

    Raises:
        BadParameter: one is not known.
    """
    found, all_of_them = tuple(filter(None, names.split(","))), list(known)
    if unknown := set(found) - set(all_of_them):
        raise typer.BadParameter(
            f"{', '.join(sorted(unknown))}: choose from {', '.join(all_of_them)}", param_hint=option
        )
    return found


def progress(text: str) -> None:
    """Print a line to standard error, where `--json` leaves room for it."""
    typer.echo(text, err=True)


@contextmanager
def refusals() -> Iterator[None]:
    """Print what the project refuses in its own words, and end with its exit code."""
    try:
        yield
    except ElasticCtrError as error:
        progress(str(error))
        raise typer.Exit(error.exit_code) from error


CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "elastic-ctr-benchmarks"
"""Where environments of peers and finished runs are kept by default."""


def print_json(figures: Any) -> None:
    """Print figures as JSON."""
    typer.echo(json.dumps(figures, indent=1))


def ratio(above: float | None, below: float | None) -> float | None:
    """Return a ratio; None where a figure is missing or the denominator is not positive."""
    return None if above is None or below is None or below <= 0 else above / below


def difference(left: float | None, right: float | None) -> float | None:
    """Return a difference; None where a figure is missing."""
    return None if left is None or right is None else left - right
