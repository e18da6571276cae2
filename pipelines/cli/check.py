"""The command `check`: whether every day that should have happened did."""

from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime, timedelta
from typing import Annotated

import typer

from features.errors import InputError
from features.partition import (
    HOURS_PER_DAY,
    Hour,
    Partition,
    end_h,
    parse_partition,
    partitions_between,
    same_kind,
)
from features.timezones import parse_timezone
from pipelines.cli import console, options
from pipelines.stages.freshness import Freshness, State, end_of
from pipelines.stages.ingest import changed_tables, table_digests
from pipelines.stages.report import days_with_artifacts
from pipelines.stages.stage import Context
from pipelines.store.lineage import champions

EXIT_CODES = {
    State.OK: 0,
    State.SKIPPED: 10,
    State.STALE: 11,
    State.INCOMPLETE: 12,
    State.LATE: 13,
    State.MISSING: 14,
    State.BLOCKED: 15,
}
EXIT_TOO_OLD = 16

_AGE = re.compile(r"(\d+(?:\.\d+)?)([hd])")


def check(
    config: options.ConfigFile,
    workspace: options.Workspace = None,
    first: Annotated[
        str | None,
        typer.Option("--from", help="First expected day or hour (default: the first committed)."),
    ] = None,
    last: Annotated[
        str | None,
        typer.Option("--to", help="Last one (default: the last whose deadline has passed)."),
    ] = None,
    max_age: Annotated[
        str | None,
        typer.Option(
            help="Greatest age of the last complete day and the last promoted one: 26h, 2d."
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Say whether every expected day or hour is there, complete, and made from current inputs.

    Needs neither Airflow nor MLflow. Exit codes, the worst wins: 0 all are complete, 10 skipped
    (without data, by `run` or by `schedule.missing_input`), 11 stale (its inputs changed since),
    12 incomplete, 13 late (deadline passed, nothing committed), 14 missing (later ones exist),
    15 blocked (its data or model is unsound), 16 older than --max-age. A changed side table without
    a date is named and is no error.
    """
    limit = None if max_age is None else _parse_age(max_age)
    base = options.stage_context(config, workspace, [], date.min)
    now = datetime.now(UTC)
    there = list(days_with_artifacts(base.store))
    expected = _expected(base, there, first, last, now)
    freshness = Freshness(base)
    last_there = there[-1] if there else None
    found = [(day, *freshness.state(day, last_there)) for day in expected]
    complete = [day for day, state, _ in found if state in (State.OK, State.STALE)]
    # The decisions of this workspace: the registry may be down.
    promoted = next(champions(base.store), None)
    ages = {
        "last complete": _age(base, complete[-1] if complete else None, now),
        "last promoted": _age(base, promoted.day if promoted else None, now),
    }
    too_old = limit is not None and any(age is None or age > limit for age in ages.values())
    tables = _changed_tables(base, expected)
    code = max((EXIT_CODES[state] for _, state, _ in found), default=0)
    if as_json:
        document = {
            "days": [{"day": str(d), "state": s, "reason": why} for d, s, why in found],
            "age_hours": {name: age and _hours(age) for name, age in ages.items()},
            "too_old": too_old,
            "side_tables": tables,
        }
        typer.echo(json.dumps(document, indent=1))
    else:
        console.table(f"workspace {base.store.workspace}", ("day", "state", "reason"), found)
        for name, age in ages.items():
            text = "none" if age is None else f"{_hours(age):,.1f} h old"
            console.info(f"{name}: {text}")
        for path, days in tables.items():
            console.info(
                f"side table {path} changed since {len(days)} days were made from it"
                f" ({days[0]} … {days[-1]}), which keep its values of then"
            )
    raise typer.Exit(EXIT_TOO_OLD if too_old else code)


def _expected(
    context: Context, there: list[Partition], first: str | None, last: str | None, now: datetime
) -> list[Partition]:
    if first is None and not there:
        raise InputError(
            f"nothing is committed in {context.store.workspace}: run the chain first, "
            "or name the first expected day with --from"
        )
    begin = parse_partition(first) if first else there[0]
    if last:
        return partitions_between(begin, parse_partition(last))
    zone = parse_timezone(context.config.features.timezone)
    due = now.astimezone(zone) - timedelta(hours=context.config.schedule.deadline_hours)
    # The last that ended before the deadline began to run.
    hour = due.date().toordinal() * HOURS_PER_DAY + due.hour - 1
    day, of_day = divmod(hour, HOURS_PER_DAY)
    end = (
        Hour(date.fromordinal(day), of_day)
        if isinstance(begin, Hour)
        else due.date() - timedelta(days=1)
    )
    later = [day for day in there if same_kind(day, begin)]
    # Days of the future, which tests and simulations have, are expected once they exist.
    end = max([end, *later[-1:]], key=end_h)
    return partitions_between(begin, end) if end_h(end) >= end_h(begin) else []


def _changed_tables(context: Context, days: list[Partition]) -> dict[str, list[str]]:
    """Return, by path, the days that were made from other content of a side table."""
    digests, found = table_digests(context.config.source), dict[str, list[str]]()
    for day in days if digests else ():
        for path in changed_tables(context.store.current("impressions", day), digests):
            found.setdefault(path, []).append(str(day))
    return found


def _age(context: Context, day: Partition | None, now: datetime) -> timedelta | None:
    if day is None:
        return None
    return now - end_of(context, day)


def _parse_age(text: str) -> timedelta:
    match = _AGE.fullmatch(text)
    if match is None:
        raise InputError(f"--max-age {text!r}: write hours or days, such as 26h or 2d")
    return timedelta(hours=float(match[1]) * (1 if match[2] == "h" else HOURS_PER_DAY))


def _hours(age: timedelta) -> float:
    return age.total_seconds() / 3600
