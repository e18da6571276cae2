"""The command of `spark_jobs.py`: sizes, the window, the hub, and what is printed of them."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from harness.environments import NoEnvironment, interpreter
from harness.options import CACHE, print_json, progress
from harness.processes import BENCHMARKS
from spark_data import RELATIONS, relations, require_equal, write_day
from spark_data import graph as graph_queries
from spark_data import statistics as statistics_queries
from spark_ours import FIRST, GRAPH, STATISTICS, answer

from pipelines.cli import console
from pipelines.services.control import START_TIMEOUT_S, start_spark
from pipelines.services.processes import ServiceProcess, free_ports, stop_all, wait_until
from spark_jobs.server import SparkServer
from spark_jobs.settings import SparkSettings

_MILLION = 1_000_000
_WORTH_A_RETRY = 75
_SHOWN = ("s", "cpu_s", "s_per_million", "peak_gib")


@dataclass(frozen=True)
class Machine:
    """What both systems may use."""

    threads: int
    memory: str
    shuffle_partitions: int
    server: ServiceProcess | None = None
    """The resident Spark server; None for a local session in each process."""
    before: int = 0
    """How often a day is worked through before it is measured."""

    @property
    def spark(self) -> dict[str, Any]:
        """As the section `spark` of a configuration."""
        master = f"local[{self.threads}]"
        return {
            "master": master,
            "driver_memory": self.memory,
            "shuffle_partitions": self.shuffle_partitions,
        }


def main(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    sizes: Annotated[
        str, typer.Option(help="Impressions, comma-separated: 500k, 1m, 10m …; may be empty.")
    ] = "1m,10m,50m",
    declared: Annotated[
        str, typer.Option("--relations", help="Pairs of fields, left__right, comma-separated.")
    ] = RELATIONS,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    memory: Annotated[str, typer.Option(help="Of Spark's driver, and DuckDB's limit.")] = "4g",
    shuffle_partitions: Annotated[int, typer.Option(min=1)] = 16,
    window: Annotated[
        int, typer.Option(help="W of the incremental part, in days; 0 leaves the part out.")
    ] = 4,
    day_rows: Annotated[
        int, typer.Option(help="Impressions a day of the incremental part.")
    ] = 300_000,
    repeats: Annotated[int, typer.Option(min=1, help="Of the incremental part.")] = 3,
    hub_rows: Annotated[
        int, typer.Option(help="Rows of the part with a hub; 0 leaves the part out.")
    ] = 2_000_000,
    warm: Annotated[
        int,
        typer.Option(help="Over one Spark server, each size so often before it counts; 0: local."),
    ] = 0,
    folder: Annotated[
        Path | None, typer.Option(help="Where scratch goes; a temporary folder by default.")
    ] = None,
    environments: Annotated[Path, typer.Option(help="Where DuckDB's environment is kept.")] = CACHE
    / "environments",
) -> None:
    """Measure each size, the window and the hub, and print seconds, ratios and memory."""
    machine, rows = (
        Machine(threads, memory, shuffle_partitions),
        {size: _rows(size) for size in filter(None, sizes.split(","))},
    )
    try:
        duck = interpreter("duckdb", environments)
    except NoEnvironment as error:
        console.error(f"DuckDB: {error}")
        raise typer.Exit(_WORTH_A_RETRY) from error
    scratch = Path(tempfile.mkdtemp(dir=folder))
    try:
        if warm:
            machine = replace(machine, server=_started(machine, scratch), before=warm)
        detail = {
            size: _size(count, declared, machine, duck, scratch / size)
            for size, count in rows.items()
        }
        results = _results(detail)
        if window:
            results |= _incremental(
                declared, machine, window, day_rows, repeats, scratch / "window"
            )
        if hub_rows:
            results |= _hub(machine, hub_rows, scratch / "hub")
    finally:
        stop_all(scratch, grace_s=10)
        shutil.rmtree(scratch)
    _show(results, as_json)


def _started(machine: Machine, folder: Path) -> ServiceProcess:
    """Start a Spark server, for this process and those that it starts."""
    server = SparkServer.new(free_ports(1)[0])
    process = start_spark(server, folder, SparkSettings(**machine.spark))
    wait_until(server.answers, [process], START_TIMEOUT_S, "Spark")
    os.environ.update(server.client_environment())
    return process


def _rows(size: str) -> int:
    units = {"k": 1000, "m": _MILLION}
    if size[:-1].isdigit() and size[-1] in units:
        return int(size[:-1]) * units[size[-1]]
    raise typer.BadParameter(
        f"{size!r}: a number with k or m behind it, such as 10m", param_hint="--sizes"
    )


def _size(rows: int, declared: str, machine: Machine, duck: Path, scratch: Path) -> dict[str, Any]:
    """One day of so many rows by both systems, and their results compared."""
    progress(f"{rows:,} impressions")
    impressions = write_day(scratch / "day", FIRST, rows)
    arguments = {"names": declared, "impressions": str(impressions), "out": str(scratch / "ours")}
    spark = _ours(machine, scratch, "once", **arguments, before=machine.before)
    theirs = scratch / "duckdb"
    theirs.mkdir()
    parts = {
        "statistics": list(statistics_queries(impressions, theirs, STATISTICS.smoothing)),
        "graph": list(
            graph_queries(relations(declared), theirs, GRAPH.smoothing, GRAPH.min_impressions)
        ),
    }
    limits = {
        "threads": machine.threads,
        "memory": f"{machine.memory}b",
        "scratch": str(scratch / "spill"),
    }
    duckdb = answer(
        [str(duck), str(BENCHMARKS / "spark_duck.py"), json.dumps({**limits, "parts": parts})]
    )
    compared = require_equal(
        scratch / "ours" / "statistics", scratch / "ours" / "graph", theirs, relations(declared)
    )
    shutil.rmtree(scratch)
    systems = {
        name: _system(results, rows) for name, results in (("spark", spark), ("duckdb", duckdb))
    }
    return {
        **systems,
        "records_compared": compared,
        "start_up": {k: spark[k] for k in ("session_s", "warm_up_s")},
    }


def _system(results: Mapping[str, Any], rows: int) -> dict[str, Any]:
    parts = results["result"]
    totals = {key: sum(part[key] for part in parts.values()) for key in ("s", "cpu_s")}
    return {
        **totals,
        "s_per_million": totals["s"] / rows * _MILLION,
        "peak_gib": results["peak_gib"],
        "parts": parts,
    }


def _ours(machine: Machine, scratch: Path, job: str, **arguments: Any) -> dict[str, Any]:
    request = {
        "spark": machine.spark,
        "scratch": str(scratch / "warm_up"),
        "job": job,
        "arguments": arguments,
    }
    command = [sys.executable, "-m", "spark_ours", json.dumps(request)]
    return answer(command, machine.server.pid if machine.server else None)


def _per_million(detail: Mapping[str, Any], system: str) -> dict[str, float]:
    return {size: figures[system]["s_per_million"] for size, figures in detail.items()}


def _results(detail: Mapping[str, Any]) -> dict[str, Any]:
    ratios = {
        key: {
            size: figures["spark"][unit] / figures["duckdb"][unit]
            for size, figures in detail.items()
        }
        for key, unit in (("over_duckdb", "s"), ("over_duckdb_cpu", "cpu_s"))
    }
    peak = max((figures["spark"]["peak_gib"] for figures in detail.values()), default=None)
    return {
        "seconds_per_million": _per_million(detail, "spark"),
        **ratios,
        "peak_gib": peak,
        "detail": dict(detail),
    }


def _incremental(
    declared: str, machine: Machine, window: int, rows: int, repeats: int, scratch: Path
) -> dict[str, Any]:
    """Three windows of days, several times. The graph's window, which ends before the day, is full
    from day W + 1 on.
    """
    progress(f"{3 * window} days of {rows:,} impressions")
    days = 3 * window
    for number in range(days):
        day = FIRST + timedelta(days=number)
        write_day(scratch / "days" / str(day), day, rows)
    runs = [
        _ours(
            machine, scratch, "daily", names=declared, root=str(scratch), days=days, window=window
        )["result"]
        for _ in range(repeats)
    ]
    shutil.rmtree(scratch)
    first = statistics.median(run[window] for run in runs)
    later = statistics.median(seconds for run in runs for seconds in run[window + 1 :])
    return {
        "incremental_over_day_w": later / first,
        "days_s": [statistics.median(day) for day in zip(*runs, strict=True)],
    }


def _hub(machine: Machine, rows: int, scratch: Path) -> dict[str, Any]:
    progress(f"a hub in {rows:,} impressions")
    plain, crowded = (
        str(write_day(scratch / name, FIRST, rows, hub=name == "hub")) for name in ("plain", "hub")
    )
    results = _ours(
        machine, scratch, "hub", plain=plain, crowded=crowded, out=str(scratch / "out")
    )["result"]
    shutil.rmtree(scratch)
    return {"hub_over_plain": results["hub"] / results["plain"], "hub_s": results}


def _show(results: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(results)
        return
    lines = [
        (
            size,
            *(figures["spark"][k] for k in ("s", "cpu_s", "s_per_million", "peak_gib")),
            figures["duckdb"]["s"],
            results["over_duckdb"][size],
        )
        for size, figures in results["detail"].items()
    ]
    columns = ("impressions", "s", "CPU s", "s a million", "peak GiB", "DuckDB s", "over DuckDB")
    console.table("Statistics and graph of a day", columns, lines)
    others = [
        (key, results[key])
        for key in ("incremental_over_day_w", "hub_over_plain")
        if key in results
    ]
    console.table("Also", ("figure", "value"), others)
