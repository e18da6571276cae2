"""Seconds from an event to a served model that learned it: `python benchmarks/follow.py --rate 1000
--minutes 10 --json`.

Three processes beside this one: a producer writes simulated events (`conf/simulated.yaml`), stamped
with the moment at which they happen, into small files; `elastic-ctr follow` learns and publishes;
`compression/delta/delta_server.py` applies each delta to the model it has loaded. An event counts
as served when the delta that learned it is applied. All clocks are this machine's.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
import typer
from follow_producer import LIVE
from harness.options import print_json

from pipelines.cli import console

Lines = Sequence[Mapping[str, Any]]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines; a missing one has none."""
    return (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if path.exists()
        else []
    )


def served_at(applied: Lines, content: int) -> float:
    """Return when a server first answered by this content or a later one, epoch seconds; infinite:
    it never did.
    """
    return min((line["applied_s"] for line in applied if line["number"] >= content), default=np.inf)


def latencies(landing: Path, batches: Lines, applied: Lines) -> np.ndarray:
    """Return seconds from each live event to the moment that a server answered by a model which had
    learned it, float64 [n].
    """
    parts = [np.zeros(0)]
    for batch in batches:
        served_s = served_at(applied, batch["content"])
        for name in (name for name in batch["files"] if name.startswith(LIVE)):
            moments_ms = pq.read_table(landing / name, columns=["timestamp_ms"])[
                "timestamp_ms"
            ].to_numpy()
            parts.append(served_s - moments_ms / 1000)
    return np.concatenate(parts)


def report(landing: Path, batches: Lines, applied: Lines) -> dict[str, float]:
    """Return the figures of a run."""
    seconds = latencies(landing, batches, applied)
    live = [batch for batch in batches if any(name.startswith(LIVE) for name in batch["files"])]
    deltas = [batch for batch in live if batch.get("delta_bytes")]
    p50, p95 = np.percentile(seconds, [50, 95])
    rows = sum(batch["rows_in"] for batch in live)
    return {
        "events": rows,
        "event_to_served_p50_s": float(p50),
        "event_to_served_p95_s": float(p95),
        "event_to_served_max_s": float(seconds.max()),
        "events_per_s": rows
        / (served_at(applied, live[-1]["content"]) - _first_event_s(landing, live)),
        "micro_batches": len(live),
        "deltas": len(deltas),
        "delta_rows_median": float(np.median([batch["delta_rows"] for batch in deltas])),
        "delta_bytes_median": float(np.median([batch["delta_bytes"] for batch in deltas])),
        "delta_bytes_sum": float(sum(batch["delta_bytes"] for batch in deltas)),
        "learn_s_median": float(np.median([batch["seconds"] for batch in live])),
        "between_publications_s_median": _median_gap([batch["published_s"] for batch in live]),
        "apply_s_median": float(
            np.median([line["seconds"] for line in applied if line["kind"] == "delta"])
        ),
        "rows_served": applied[-1]["rows"],
        "auc_last_quarter": float(np.mean([batch["auc"] for batch in live[3 * len(live) // 4 :]])),
    }


def _first_event_s(landing: Path, live: Lines) -> float:
    first = next(name for name in live[0]["files"] if name.startswith(LIVE))
    return (
        float(pq.read_table(landing / first, columns=["timestamp_ms"])["timestamp_ms"][0].as_py())
        / 1000
    )


def _median_gap(moments_s: Sequence[float]) -> float:
    return float(np.median(np.diff(moments_s))) if len(moments_s) > 1 else float("nan")


ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "conf" / "simulated.yaml"
_PATIENCE_S = 300.0


class Run:
    """The three processes of one run, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.landing, self.out, self.applied = (
            folder / "landing",
            folder / "follow",
            folder / "applied.jsonl",
        )
        self.landing.mkdir(parents=True)
        self._folder = folder
        self._running: list[subprocess.Popen[str]] = []

    def start(self, name: str, *command: str) -> subprocess.Popen[str]:
        """Start a Python process with this checkout on its path; it writes to `<name>.log`."""
        known = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'benchmarks'}",
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }
        log = (self._folder / f"{name}.log").open("w")
        process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            text=True,
            env=known,
        )
        self._running.append(process)
        return process

    def wait(self, what: str, there: Callable[[], bool]) -> None:
        """Wait until something is there; a process that ends with an error ends the run."""
        until = time.monotonic() + _PATIENCE_S
        while not there():
            failed = [process.args for process in self._running if process.poll()]
            if failed or time.monotonic() > until:
                raise SystemExit(
                    f"{what} did not come about (ended: {failed}); see the logs in {self._folder}"
                )
            time.sleep(0.1)

    def learned(self) -> set[str]:
        """Names of the files that are learned and published."""
        return {name for batch in read_lines(self.out / "batches.jsonl") for name in batch["files"]}

    def stop(self) -> None:
        """End what still runs, in order."""
        for process in self._running:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait()


def main(
    rate: Annotated[float, typer.Option(min=1, help="Events per second.")] = 1000,
    minutes: Annotated[float, typer.Option(min=0.05)] = 10,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between micro-batches.")] = 5,
    file_s: Annotated[
        float, typer.Option("--file-seconds", min=0.1, help="Seconds of events in a file.")
    ] = 1,
    warm: Annotated[int, typer.Option(min=0, help="Events that are learned before.")] = 200_000,
    overrides: Annotated[
        list[str], typer.Option("--set", help="Override a key of the configuration.")
    ] = [],  # noqa: B006
    quick: Annotated[bool, typer.Option("--quick", help="A few seconds: does it run?")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    folder: Annotated[
        Path | None, typer.Option(help="Where the run lies (default: a temporary folder, removed).")
    ] = None,
) -> None:
    """Run it and print the figures."""
    if quick:
        rate, minutes, every, file_s, warm = 200.0, 0.1, 1.0, 0.5, 2000
    with tempfile.TemporaryDirectory() as temporary:
        run = Run(folder or Path(temporary))
        try:
            figures = _run(
                run, [str(value) for value in (rate, minutes * 60, file_s, warm)], every, overrides
            )
        finally:
            run.stop()
    results = {
        "rate": rate,
        "minutes": minutes,
        "every_s": every,
        "file_s": file_s,
        "warm_up_events": warm,
        **figures,
    }
    if as_json:
        print_json(results)
    else:
        console.table("follow", ("figure", "value"), results.items())


def _run(
    run: Run, produced: Sequence[str], every: float, overrides: Sequence[str]
) -> dict[str, Any]:
    is_warmed = float(produced[-1]) > 0
    producer = run.start(
        "producer",
        str(ROOT / "benchmarks/follow_producer.py"),
        str(CONFIG),
        str(run.landing),
        *produced,
    )
    sets = [part for override in overrides for part in ("--set", override)]
    options = [
        "-c",
        str(CONFIG),
        "--workspace",
        str(run.out.parent / "workspace"),
        "--watch",
        str(run.landing),
        "--out",
        str(run.out),
    ]
    run.wait("the warm-up's file", lambda: not is_warmed or any(run.landing.glob("0-warm.parquet")))
    run.start("follow", "-m", "pipelines.cli", "follow", *options, "--every", str(every), *sets)
    run.start(
        "server",
        str(ROOT / "compression" / "delta" / "delta_server.py"),
        str(run.out),
        str(run.applied),
    )
    run.wait("the first served model", lambda: not is_warmed or run.applied.exists())
    assert producer.stdin
    producer.stdin.write("go\n")
    producer.stdin.flush()
    producer.wait()
    run.wait(
        "learning the last file",
        lambda: run.learned() >= {path.name for path in run.landing.glob("[01]-*.parquet")},
    )
    batches = read_lines(run.out / "batches.jsonl")
    run.wait(
        "the last delta",
        lambda: max(line["number"] for line in read_lines(run.applied)) >= batches[-1]["content"],
    )
    return report(run.landing, batches, read_lines(run.applied))


if __name__ == "__main__":
    typer.run(main)
