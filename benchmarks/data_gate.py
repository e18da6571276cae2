"""False alarms of the data gate: 14 days of KuaiRand and 30 clean simulated days.

`python benchmarks/data_gate.py --json`. Every day is ingested and validated with the settings of
`conf/`; a day that fails is a false alarm. `closest` are the checks that came nearest to their
limits. Data: KuaiRand (Gao et al., CIKM 2022, CC BY-SA 4.0), found through ELASTIC_CTR_DATA.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from harness.options import print_json

from features.errors import UnsoundError
from features.partition import days_between
from pipelines.cli import console
from pipelines.config import load_config
from pipelines.stages.chain import run_day
from pipelines.stages.stage import Context
from pipelines.store.artifacts import Store

LOGS = {"kuairand_pure": (date(2022, 4, 25), 14), "simulated": (date(2026, 1, 1), 30)}
SHOWN = 8


def main(
    workspace: Annotated[
        Path, typer.Option(help="Where artifacts go; reused when they are there.")
    ] = Path("workspace-data-gate"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a configuration key.")
    ] = None,
    log: Annotated[list[str] | None, typer.Option(help="Only these logs.")] = None,
) -> None:
    """Validate every day and count those that fail."""
    figures = {name: _judged(name, workspace / name, overrides or []) for name in log or LOGS}
    if as_json:
        print_json(figures)
        return
    for name, found in figures.items():
        rows = [(key, value) for key, value in found.items() if key != "closest"]
        console.table(f"Data gate on {name}", ("figure", "value"), [*rows, *found["closest"]])


def _judged(name: str, workspace: Path, overrides: list[str]) -> dict[str, Any]:
    config = load_config(Path(__file__).parents[1] / "conf" / f"{name}.yaml", overrides, workspace)
    store, alarms, drift_judged = Store(workspace), {}, 0
    nearest: dict[str, float] = {}
    first, days = LOGS[name]
    for day in days_between(first, first + timedelta(days=days - 1)):
        try:
            list(run_day(Context(config, day, store), ("ingest", "validate-data")))
        except UnsoundError as error:
            alarms[str(day)] = str(error)
        made = store.current("data_verdict", day)
        assert made is not None
        verdict = json.loads((made.path / "verdict.json").read_text(encoding="utf-8"))
        drift_judged += not verdict["notes"]
        for check, share in _used(verdict["checks"]):
            nearest[check] = max(share, nearest.get(check, 0.0))
    closest = sorted(nearest.items(), key=lambda item: -item[1])[:SHOWN]
    return {
        "days": days,
        "days_with_drift_judged": drift_judged,
        "false_alarms": len(alarms),
        "alarms": alarms,
        "closest": closest,
    }


def _used(checks: list[dict[str, Any]]) -> Iterator[tuple[str, float]]:
    """Yield the share of its upper limit that each check used."""
    for check in checks:
        words, _, limit = check["limit"].rpartition(" ")
        if words == "at most" and float(limit) > 0 and check["value"] is not None:
            yield check["name"], round(check["value"] / float(limit), 3)


if __name__ == "__main__":
    typer.run(main)
