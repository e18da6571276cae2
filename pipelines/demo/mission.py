"""What follows the demo's days: the champion is compressed, questioned, kept fresh and compared.

Two DAG runs (the compression, and a day with a planted fault) are watched while commands run,
as an engineer would run them in another terminal.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from features.errors import ElasticCtrError, RetryableError
from features.files import folder_bytes
from pipelines.cli.console import format_bytes
from pipelines.config import Config, load_config
from pipelines.demo.watch import DAG_ID, DayRun, Watcher
from pipelines.services.airflow_api import AirflowApi
from pipelines.services.control import GRACE_S, Services
from pipelines.services.environment import REPOSITORY, inherited
from pipelines.services.processes import ServiceProcess, start, stop_all, wait_until

COMPRESSION_DAG = "compress_champion"
PLANS = 40
"""Plans that the search measures; a person would give it more."""

MAX_AUC_DROP = 0.0005
DUPLICATES = 0.2
FOLLOWED_ROWS = 4000
DROPPED_FIELDS = 2
"""How many inputs the selection shall drop."""

_TIMEOUT_S = 1800.0
_STEP_TIMEOUT_S = 300.0
_CAUSE = re.compile(r"failed its gate: (?P<cause>.*?); `(?P<setting>[\w.]+)` sets the limit")


@dataclass
class Mission:
    """The steps after the days.

    Attributes:
        console: gets a line per step.
        services: the running Airflow, MLflow and Spark.
        config: the YAML file.
        workspace: folder of the artifacts.
        last: the last trained day.
        notes: part → what it did, for parts that leave no artifact.
        failed: what did not work, in sentences.
    """

    console: Console
    services: Services
    config: Path
    workspace: Path
    last: date
    notes: dict[str, str] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Run all steps; those that need the simulator only for a simulated log."""
        # Files of an earlier demo would look like those of this one.
        shutil.rmtree(self._folder, ignore_errors=True)
        api = self.services.api()
        settings = load_config(self.config, [], self.workspace)
        conf = {"config": str(self.config), "workspace": str(self.workspace)}
        goal = {"max_auc_drop": MAX_AUC_DROP, "plans": PLANS}
        runs = [api.trigger(COMPRESSION_DAG, {**conf, **goal})]
        if settings.simulator:
            faulty = {**conf, "config": str(self._faulty_config())}
            runs.append(api.trigger(DAG_ID, {**faulty, "date": self._next.isoformat()}))
        watcher = Watcher(
            api,
            lambda: [api.refreshed(run) for run in runs],
            lambda line: self.console.print(line, highlight=False),
            lambda _done, _total: None,
        )
        with ThreadPoolExecutor(1) as pool:
            watched = pool.submit(watcher.follow, _TIMEOUT_S)
            self._attempt("feature selection", self._select_features, settings)
            if settings.simulator:
                self._attempt("follow mode", self._follow, settings)
            compression, *spoilt = watched.result()
        if compression.run.state != "success":
            self.failed.append(f"{COMPRESSION_DAG} failed: see its log in Airflow")
        for run in spoilt:
            self._read_refusal(api, run)
        if settings.simulator:
            self._attempt("lift", self._lift)

    @property
    def _next(self) -> date:
        return self.last + timedelta(days=1)

    @property
    def _folder(self) -> Path:
        return self.workspace / "demo"

    def _attempt(self, name: str, step: Callable[..., None], *arguments: Any) -> None:
        """Run a step; the other steps are worth showing without it."""
        began = time.monotonic()
        self.console.print(f"{name:<17} running")
        try:
            step(*arguments)
        except ElasticCtrError as error:
            self.failed.append(f"{name}: {error}")
            self.console.print(f"{name:<17} failed: {error}", markup=False, soft_wrap=True)
        else:
            self.console.print(f"{name:<17} done {time.monotonic() - began:24.1f} s")

    def _argv(self, name: str, *arguments: str) -> list[str]:
        argv = [sys.executable, "-m", "pipelines.cli", name, f"--config={self.config}"]
        return [*argv, f"--workspace={self.workspace}", *arguments]

    @property
    def _environment(self) -> dict[str, str]:
        return {**inherited(), "MLFLOW_TRACKING_URI": self.services.mlflow_url}

    def _complete(self, name: str, *arguments: str) -> None:
        """Run a command of the project to its end.

        Raises:
            RetryableError: it fails; the message has the end of its output.
        """
        done = subprocess.run(
            self._argv(name, *arguments),
            env=self._environment,
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            raise RetryableError(f"`elastic-ctr {name}` failed:\n{done.stdout[-2000:]}")

    def _select_features(self, settings: Config) -> None:
        fields = len(settings.features.fields) + len(settings.graph.relations)
        day = self.last.isoformat()
        keep = max(1, fields - DROPPED_FIELDS)
        self._complete("select-features", f"--from={day}", f"--to={day}", f"--keep={keep}")

    def _lift(self) -> None:
        self._complete("lift")

    def _faulty_config(self) -> Path:
        """Write the configuration with a fault on the next day: a part of it delivered twice."""
        document = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        fault = {"kind": "duplicate", "rate": DUPLICATES, "days": [self._next]}
        document["simulator"]["faults"] = [fault]
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{self.config.stem}-with-a-fault.yaml"
        path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
        return path

    def _read_refusal(self, api: AirflowApi, run: DayRun) -> None:
        """Note what the gate said of the planted fault, which must not pass."""
        refused = next((task for task in run.tasks if task.state == "failed"), None)
        if refused is None or refused.task_id != "validate_data":
            self.failed.append(f"the planted fault of {run.run.day} was not caught")
            return
        log = api.log(DAG_ID, run.run.run_id, refused.task_id, refused.tries)
        found = _CAUSE.search(log)
        cause = f"{found['cause']} ({found['setting']})" if found else "see its log in Airflow"
        self.notes["planted fault"] = (
            f"{DUPLICATES:.0%} of {run.run.day} delivered twice; refused before training: {cause}. "
            "The champion stays"
        )

    def _follow(self, settings: Config) -> None:
        """Train on the next day's first impressions as they arrive, and serve them."""
        import pyarrow.parquet as pq

        from simulator.impressions import Chunk, impressions
        from simulator.world import World

        assert settings.simulator is not None
        landing, published = self._folder / "landing", self._folder / "follow"
        served = self._folder / "served.jsonl"
        landing.mkdir(parents=True, exist_ok=True)
        chunk = Chunk(0, 0, min(FOLLOWED_ROWS, settings.simulator.impressions_per_day))
        rows = impressions(World(settings.simulator), self._next, chunk)
        with self._stopped_at_the_end():
            # 1. A trainer that publishes, and a server that has loaded its model.
            argv = self._argv("follow", f"--watch={landing}", f"--out={published}", "--every=0.2")
            trainer = start("follow", argv, self._environment, self._folder, REPOSITORY)
            full = _wait_for(lambda: _numbers(published / "full"), [trainer], "the first export")
            program = REPOSITORY / "compression" / "delta" / "delta_server.py"
            argv = [sys.executable, str(program), str(published), str(served), "0.1"]
            server = start("delta-server", argv, self._environment, self._folder, REPOSITORY)
            _wait_for(lambda: _served(served, "full"), [trainer, server], "the server")
            # 2. A file of the log arrives.
            partial = landing / ".arriving"
            pq.write_table(rows, partial)
            arrived_s = time.time()
            partial.rename(landing / f"{self._next}.parquet")
            applied = _wait_for(lambda: _served(served, "delta"), [trainer, server], "the delta")
            # Before the trainer stops: it writes a last export then, and removes old folders.
            delta = folder_bytes(published / "deltas" / max(_numbers(published / "deltas")))
            export = folder_bytes(published / "full" / max(full) / "saved_model")
        self.notes["follow mode"] = (
            f"{len(rows):,} new impressions were learned and served "
            f"{applied[0]['applied_s'] - arrived_s:.1f} s after they arrived: a delta of "
            f"{format_bytes(delta)} (an export is {format_bytes(export)})"
        )

    @contextmanager
    def _stopped_at_the_end(self) -> Iterator[None]:
        try:
            yield
        finally:
            stop_all(self._folder, GRACE_S)


def _wait_for(
    look: Callable[[], list[Any]], processes: list[ServiceProcess], what: str
) -> list[Any]:
    """Return what `look` finds as soon as it finds anything."""
    found: list[Any] = []

    def ready() -> bool:
        """Look once."""
        found[:] = look()
        return bool(found)

    wait_until(ready, processes, _STEP_TIMEOUT_S, what)
    return found


def _numbers(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("*/manifest.json"))


def _served(log: Path, kind: str) -> list[Mapping[str, Any]]:
    """Return the server's lines of a kind."""
    if not log.is_file():
        return []
    # A line that is still being written does not end yet.
    lines = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in map(json.loads, lines) if line["kind"] == kind]
