"""What a day costs, in Airflow and by `elastic-ctr run`, cold and warm: `python benchmarks/day.py
--json`.

A day of KuaiRand-Pure (Gao et al., CIKM 2022, CC BY-SA 4.0; found through ELASTIC_CTR_DATA) and a
day of 100,000 simulated impressions. The first day of a way is cold: services or process have just
started. The days after it are warm.

CPU seconds are those of the whole tree of processes, Spark's JVM and Airflow's own included.
`airflow_day_s`, `airflow_day_cpu_s`, `run_day_s` and `run_day_cpu_s` are means over the warm days
of the first data set named; `stages` has, of the same days, each stage's seconds in both ways and
CPU seconds in the second. `steps` has what a training step costs (`day_steps.py`), with `--against
REVISION` in turns with that revision's code in the same run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import psutil
import typer
from day_run_worker import cpu_seconds
from day_steps import Plan, measure_steps
from harness.options import chosen, print_json, progress, refusals

from pipelines.cli.console import table
from pipelines.demo.run import SIMULATED, Subject
from pipelines.demo.watch import DAG_ID, DayRun, Watcher
from pipelines.services.airflow_api import DagRun
from pipelines.services.control import running
from pipelines.services.environment import DATA_VARIABLE, QUIET, data_folder
from pipelines.services.processes import tagged, wait_until
from pipelines.services.schedule import schedule_zone

ROOT = Path(__file__).resolve().parents[1]
KUAIRAND = Subject(ROOT / "conf" / "kuairand_pure.yaml", date(2022, 4, 25))
DATA = {"kuairand_pure": KUAIRAND, "simulated": SIMULATED}
_DAG_TIMEOUT_S = 240.0
_PATIENCE_S = 3600.0

Day = dict[str, Any]
"""`day`, `seconds`, `cpu_s`, and `stages`: by name, `seconds` and, where it is known, `cpu_s`."""


@dataclass
class AirflowDays:
    """Days in a freshly started Airflow; notes the tree's CPU seconds whenever a day has ended."""

    subject: Subject
    days: Sequence[date]
    folder: Path

    def run(self) -> dict[str, Any]:
        """Return what starting took, and each day."""
        began = time.monotonic()
        with running(self.folder / "run", keep=False) as services:
            api, zone = services.api(), schedule_zone()
            wait_until(
                lambda: api.has_dag(DAG_ID), services.processes, _DAG_TIMEOUT_S, f"the DAG {DAG_ID}"
            )
            start = {"seconds": time.monotonic() - began, "cpu_s": self._cpu()}
            conf = {"config": str(self.subject.config), "workspace": str(self.folder / "workspace")}
            api.backfill(DAG_ID, self.days[0], self.days[-1], conf, zone)
            used, ended = [start["cpu_s"]], 0

            def note(done: list[DayRun]) -> None:
                nonlocal ended
                for _ in range(ended, sum(day.run.state in ("success", "failed") for day in done)):
                    used.append(self._cpu())
                    ended += 1

            def runs() -> list[DagRun]:
                return api.runs(DAG_ID, self.days[0], self.days[-1], zone)

            watcher = Watcher(api, runs, progress, lambda _d, _n: None, note)
            done = watcher.follow(_PATIENCE_S)
        if failed := [day.run.day for day in done if day.run.state != "success"]:
            raise typer.BadParameter(
                f"Airflow could not run {failed}; see the logs in {self.folder}"
            )
        costs = [after - before for before, after in pairwise(used)]
        return {
            "start": start,
            "days": [_day_of(day, cpu) for day, cpu in zip(done, costs, strict=True)],
        }

    def _cpu(self) -> float:
        return cpu_seconds(tagged((self.folder / "run").resolve()))


def _day_of(day: DayRun, cpu_s: float) -> Day:
    stages = {task.task_id: {"seconds": task.seconds} for task in day.tasks}
    return {"day": day.run.day, "seconds": day.run.seconds, "cpu_s": cpu_s, "stages": stages}


def run_days(subject: Subject, days: Sequence[date], folder: Path) -> dict[str, Any]:
    """Return each day of one `elastic-ctr run`."""
    argv = [sys.executable, "-m", "day_run_worker", str(subject.config), str(folder / "workspace")]
    path = os.pathsep.join((str(ROOT), str(ROOT / "benchmarks")))
    known = {**os.environ, **QUIET, DATA_VARIABLE: str(data_folder()), "PYTHONPATH": path}
    found: dict[str, Day] = {}
    with subprocess.Popen(
        [*argv, *map(str, days)], cwd=ROOT, env=known, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if not line.startswith("{"):
                continue
            stage = json.loads(line)
            progress(
                f"{stage['day']}  {stage['stage']:<20} {stage['seconds']:6.1f} s  {stage['cpu_s']:6.1f} CPU-s"
            )
            day = found.setdefault(
                stage["day"], {"day": stage["day"], "seconds": 0.0, "cpu_s": 0.0, "stages": {}}
            )
            figures = {name: stage[name] for name in ("seconds", "cpu_s")}
            day["stages"][stage["stage"].replace("-", "_")] = figures
            for name, value in figures.items():
                day[name] += value
    if process.returncode:
        raise typer.BadParameter(
            f"`elastic-ctr run` ended with exit code {process.returncode}; see above"
        )
    return {"days": list(found.values())}


def summary(data: dict[str, Any]) -> dict[str, Any]:
    """Return the means over warm days of one data set's figures, by the names that the module
    explains.
    """
    figures: dict[str, Any] = {}
    stages: dict[str, dict[str, float]] = defaultdict(dict)
    for way in ("airflow", "run"):
        warm = data[way]["days"][1:] or data[way]["days"]
        figures |= {f"{way}_day_s": fmean(day["seconds"] for day in warm)}
        figures |= {f"{way}_day_cpu_s": fmean(day["cpu_s"] for day in warm)}
        for stage in warm[0]["stages"]:
            seconds = [day["stages"][stage]["seconds"] or 0.0 for day in warm]
            stages[stage][f"{way}_s"] = fmean(seconds)
            if "cpu_s" in warm[0]["stages"][stage]:
                stages[stage][f"{way}_cpu_s"] = fmean(day["stages"][stage]["cpu_s"] for day in warm)
    return {**figures, "stages": dict(stages)}


def main(
    data: Annotated[
        str, typer.Option(help="Comma-separated: kuairand_pure, simulated; the first is summed up.")
    ] = "",
    days: Annotated[int, typer.Option(min=2, help="Days in a row; the first is cold.")] = 3,
    steps: Annotated[
        bool, typer.Option("--steps/--no-steps", help="Measure training steps too.")
    ] = True,
    against: Annotated[
        str | None, typer.Option(help="A git revision whose training steps are measured in turns.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where runs lie (default: temporary, removed).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure days of the pipeline in Airflow and by `elastic-ctr run`."""
    present = [name for name in DATA if name == "simulated" or (data_folder() / name).is_dir()]
    names = chosen(data, present, "--data") or tuple(present)
    with tempfile.TemporaryDirectory(prefix="day-") as scratch, refusals():
        found = {name: _measured(name, days, (folder or Path(scratch)) / name) for name in names}
        learning = {"steps": measure_steps(Plan(), against)} if steps else {}
    cores = len(psutil.Process().cpu_affinity() or [])
    result = {**summary(found[names[0]]), **learning, "data": found, "cores": cores}
    if as_json:
        print_json(result)
    else:
        _show(names[0], result)


def _measured(name: str, days: int, folder: Path) -> dict[str, Any]:
    subject = DATA[name]
    when = [subject.first + timedelta(days=number) for number in range(days)]
    progress(f"{name}: {when[0]} to {when[-1]} in Airflow")
    (folder / "airflow").mkdir(parents=True)
    in_airflow = AirflowDays(subject, when, folder / "airflow").run()
    progress(f"{name}: the same by elastic-ctr run")
    return {"airflow": in_airflow, "run": run_days(subject, when, folder / "run")}


def _show(name: str, result: dict[str, Any]) -> None:
    ways = ("airflow_s", "run_s", "run_cpu_s")
    rows = [
        (stage, *(figures.get(way) for way in ways)) for stage, figures in result["stages"].items()
    ]
    day = ("day", result["airflow_day_s"], result["run_day_s"], result["run_day_cpu_s"])
    table(f"A warm day of {name}, seconds", ("stage", "Airflow", "run", "run, CPU"), [*rows, day])
    print(f"CPU seconds of a day in Airflow, all of it: {result['airflow_day_cpu_s']:.1f}")
    if "steps" in result:
        figures = ("cpu_ms_per_step", "examples_per_cpu_s", "examples_per_s")
        batches = result["steps"][figures[0]]
        rows = [
            (batch, *(result["steps"][figure][batch] for figure in figures)) for batch in batches
        ]
        table(
            "Training steps",
            ("batch", "CPU ms a step", "examples a CPU-second", "examples/s"),
            rows,
        )


if __name__ == "__main__":
    typer.run(main)
