"""Spark's part of `spark_jobs.py` in a process of its own: prints seconds of each job as JSON.

What starts (the session, then one small day through every job, so that classes are loaded and loops
compiled) is measured separately.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from harness.processes import BENCHMARKS, ROOT, ProcessFailed
from pyspark.sql import SparkSession
from spark_data import RELATIONS, SCHEMA, relations, write_day

from features.schema import Relation
from spark_jobs.cross_counts import cross_counts
from spark_jobs.cross_graph import cross_graph
from spark_jobs.feature_statistics import feature_statistics
from spark_jobs.session import spark_session
from spark_jobs.settings import GraphSettings, SparkSettings, StatisticsSettings

SERVER_PID = "ELASTIC_CTR_BENCHMARK_SPARK"
"""The process id of the resident Spark server, where there is one."""

_MEMORY_EVERY_S = 0.1
_TAIL = 2000


def answer(command: Sequence[str], server: int | None = None) -> dict[str, Any]:
    """Run a command and return the JSON of its last line, with `peak_gib` beside: resident memory
    of the whole tree.

    Args:
        command: what to run.
        server: the process id of a Spark server that it uses, whose memory counts too.

    Raises:
        ProcessFailed: it ended with an error.
    """
    path = os.pathsep.join(filter(None, (str(BENCHMARKS), str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, SERVER_PID: str(server or 0)}
    process = subprocess.Popen(
        list(command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    watch = _MemoryWatch(process.pid, server)
    out, errors = process.communicate()
    peak = watch.stop()
    if process.returncode:
        raise ProcessFailed(
            f"{command[0]} {command[1]} …: exit code {process.returncode}: …{errors[-_TAIL:]}"
        )
    results: dict[str, Any] = json.loads(out.splitlines()[-1])
    return results | {"peak_gib": peak / 2**30}


class _MemoryWatch:
    """A thread that looks at a process tree, and at a server beside it, ten times a second."""

    def __init__(self, pid: int, server: int | None) -> None:
        self._roots = [psutil.Process(each) for each in (pid, server) if each]
        self._peak, self._over = 0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Return the peak in bytes."""
        self._over.set()
        self._thread.join()
        return self._peak

    def _look(self) -> None:
        while not self._over.wait(_MEMORY_EVERY_S):
            self._peak = max(self._peak, sum(_resident(root) for root in self._roots))


def _resident(root: psutil.Process) -> int:
    try:
        return sum(process.memory_info().rss for process in (root, *root.children(recursive=True)))
    except psutil.NoSuchProcess:
        return 0


FIRST = date(2026, 1, 1)
GRAPH, STATISTICS = GraphSettings(), StatisticsSettings()
HUB_RELATION = Relation(left="device", right="item_id")
_WARM_ROWS = 20_000
_EVERY_S = 1.0
_SERVER = int(os.environ.get(SERVER_PID, "0"))


def once(
    spark: SparkSession, names: str, impressions: str, out: str, before: int = 0
) -> dict[str, Any]:
    """Statistics and graph of one day, each from its impressions; results stay below `out`.

    The same day is worked through `before` times first: what a server that has run for days makes
    of it.
    """
    source, target = Path(impressions), Path(out)
    for _ in range(before):
        once(spark, names, impressions, out)
        shutil.rmtree(target)
    declared = GRAPH.model_copy(update={"relations": relations(names)})
    jobs: dict[str, Callable[[Path], Any]] = {
        "statistics": partial(
            feature_statistics, spark, SCHEMA, {FIRST: source}, {}, FIRST, STATISTICS
        ),
        "counts": partial(cross_counts, spark, SCHEMA, source, declared.relations),
        "graph": partial(
            cross_graph,
            spark,
            SCHEMA,
            {FIRST: target / "counts"},
            FIRST + timedelta(days=1),
            declared,
        ),
    }
    return {name: _measured(job, target / name) for name, job in jobs.items()}


def daily(spark: SparkSession, names: str, root: str, days: int, window: int) -> list[float]:
    """Return the seconds of each of several days, each based on the results of the days before."""
    source, target = Path(root) / "days", Path(root) / "daily"
    statistics = STATISTICS.model_copy(update={"window_days": window})
    graph = GRAPH.model_copy(update={"window_days": window, "relations": relations(names)})
    made: dict[str, dict[date, Path]] = {"statistics": {}, "counts": {}}
    seconds = []
    for day in (FIRST + timedelta(days=number) for number in range(days)):
        paths = {name: target / name / str(day) for name in ("statistics", "counts", "graph")}
        today = source / str(day)
        jobs: dict[str, Callable[[Path], Any]] = {
            "statistics": partial(
                feature_statistics, spark, SCHEMA, {day: today}, made["statistics"], day, statistics
            ),
            "counts": partial(cross_counts, spark, SCHEMA, today, graph.relations),
            "graph": partial(cross_graph, spark, SCHEMA, made["counts"], day, graph),
        }
        seconds.append(
            sum(
                _measured(jobs[name], paths[name])["s"]
                for name in ("graph", "statistics", "counts")
            )
        )
        for name, done in made.items():
            done[day] = paths[name]
    shutil.rmtree(target)
    return seconds


def hub(spark: SparkSession, plain: str, crowded: str, out: str) -> dict[str, float]:
    """Seconds of the counts of one relation, without and with a value that every row has; the
    lesser of two each.
    """
    seconds = {}
    for name, path in (("plain", plain), ("hub", crowded)):
        job = partial(cross_counts, spark, SCHEMA, Path(path), (HUB_RELATION,))
        seconds[name] = min(_measured(job, Path(out) / f"{name}{run}")["s"] for run in range(2))
    return seconds


def _measured(job: Callable[[Path], Any], folder: Path) -> dict[str, float]:
    folder.mkdir(parents=True)
    watch, started = _CpuWatch(), time.perf_counter()
    job(folder)
    return {"s": time.perf_counter() - started, "cpu_s": watch.stop()}


class _CpuWatch:
    """A thread that adds up the CPU of this process and the Spark server and of all that they
    start.

    Spark ends Python workers that were idle for a minute, and nobody waits for them, so that
    their CPU is in no parent's figures: each process counts with what it was last seen to have
    used.
    """

    def __init__(self) -> None:
        self._used: dict[psutil.Process, float] = {}
        self._look()
        self._before = sum(self._used.values())
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """Return the seconds used since the start."""
        self._over.set()
        self._thread.join()
        self._look()
        return sum(self._used.values()) - self._before

    def _run(self) -> None:
        while not self._over.wait(_EVERY_S):
            self._look()

    def _look(self) -> None:
        for root in (psutil.Process(), *([psutil.Process(_SERVER)] if _SERVER else [])):
            for process in (root, *root.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    self._used[process] = times.user + times.system


def main(request: Mapping[str, Any]) -> dict[str, Any]:
    """Start Spark, warm up below `scratch`, run the job that `job` names with `arguments`."""
    started = time.perf_counter()
    with spark_session(SparkSettings(**request["spark"])) as spark:
        session_s = time.perf_counter() - started
        scratch = Path(request["scratch"])
        write_day(scratch / "warm", FIRST, _WARM_ROWS)
        started = time.perf_counter()
        once(spark, RELATIONS, str(scratch / "warm"), str(scratch / "warmed"))
        warm_up_s = time.perf_counter() - started
        shutil.rmtree(scratch)
        jobs: dict[str, Callable[..., Any]] = {"once": once, "daily": daily, "hub": hub}
        result = jobs[request["job"]](spark, **request["arguments"])
    return {"session_s": session_s, "warm_up_s": warm_up_s, "result": result}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
