"""Stage `promote`: registers a blessed export and makes it the champion."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from features.errors import RetryableError, UnsoundError
from features.partition import end_h, parse_partition
from pipelines.stages.stage import Context, Inputs, Metrics, Stage
from pipelines.store.artifacts import Version
from pipelines.store.lineage import verdict_of
from pipelines.tracking.champion import registry_lease, serving_champion, version_of
from pipelines.tracking.mlflow_model import SAVED_MODEL, write_model
from pipelines.tracking.registry import CHAMPION, Registry
from pipelines.tracking.sync import Tracker, reachable


@dataclass(frozen=True)
class Decision:
    """What was decided about the day's candidate, and why."""

    promoted: bool
    reason: str
    model_version: str | None = None
    replaced: str | None = None


class Promote(Stage):
    """Move the champion alias to a blessed candidate; leave it for a refused one.

    The alias is moved by compare-and-set, and only forward in time.
    """

    name = "promote"
    artifact = "promotion"
    reads = ("impressions?", "validation_report", "export", "compressed")
    sections = ("tracking",)
    tracked = ("decision.json",)

    def run(self, context: Context, inputs: Inputs, out: Path) -> Metrics:
        """Decide, register, move the alias; write `decision.json`."""
        verdict = verdict_of(inputs["validation_report"])
        if verdict == "unsound":
            raise UnsoundError(
                f"the model of {context.day} is unsound: it is not promoted, "
                "and the last champion stays"
            )
        decision = Decision(False, "refused by the model gate")
        if verdict == "blessed":
            with registry_lease(context.store, context.config.tracking.registered_model):
                decision = _promote(context, inputs)
        facts = asdict(decision)
        (out / "decision.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
        context.report(f"{'promoted' if decision.promoted else 'not promoted'}: {decision.reason}")
        return facts


def _promote(context: Context, inputs: Inputs) -> Decision:
    settings, name, day = context.config.tracking, context.config.name, context.day.isoformat()
    tracker = Tracker(context.store.workspace, settings.experiment)
    client = tracker.client()
    # Sent before the day's run is looked up, so that the run begins with the day's first stage.
    tracker.sync()
    registry = Registry(client, settings.registered_model)
    with reachable(tracker.uri):
        # 1. Register the export, unless a version with its digest is registered.
        serving = registry.alias(CHAMPION)
        run_id = tracker.day_run(client, f"{name}/{day}", int(time.time() * 1000))
        parity, impressions = (
            inputs["validation_report"].path / "serving.json",
            inputs.get("impressions"),
        )
        write = partial(
            write_model,
            inputs["export"].path / SAVED_MODEL,
            context.config.features,
            impressions=impressions.path if impressions else None,
            parity=parity if parity.is_file() else None,
            run_id=run_id,
        )
        version = registry.register(
            write,
            run_id,
            day,
            inputs["export"].hash,
            {"elastic_ctr.pipeline": name},
            _described(day, name, inputs["validation_report"]),
        )

        # 2. A blocked version stays blocked. One that was promoted before keeps that decision, also
        # if another one serves now. If it replaced the model that still serves and the move was not
        # finished, it was interrupted and is done again.
        found = registry.read(version)
        if found.blocked:
            return Decision(False, f"version {version} is blocked: {found.blocked}", version)
        replaced = found.replaced
        if replaced is not None and (found.finished or replaced != (serving or "")):
            return Decision(True, "blessed by the model gate", version, replaced or None)

        # 3. Move the alias, but never back in time, and only away from the model that the candidate
        # was compared with.
        if serving is not None:
            served_day = registry.read(serving).day
            if served_day not in ("", day) and end_h(parse_partition(served_day)) >= end_h(
                context.day
            ):
                reason = f"version {serving} of {served_day}, which is not earlier, serves"
                return Decision(False, reason, version)
        if serving is not None:
            _require_compared(context, inputs["validation_report"], serving)
        registry.move(version, serving)
    serving_champion(context.store, registry.name)
    return Decision(True, "blessed by the model gate", version, serving)


def _described(day: str, pipeline: str, report: Version) -> str:
    """Return the description of a version: the day, and the gate's AUCs."""
    figures = {"the model": "auc_exported", "the champion": "auc_champion"}
    aucs = [
        f"{what} {report.metrics[name]:.4f}"
        for what, name in figures.items()
        if report.metrics.get(name) is not None
    ]
    measured = f" AUC on the day: {', '.join(aucs)}." if aucs else ""
    return f"Trained by {pipeline} up to {day}.{measured}"


def _require_compared(context: Context, report: Version, serving: str) -> None:
    """Check that the candidate was compared with the content of the version that serves.

    Raises:
        RetryableError: it was not.
    """
    compared = report.commit["inputs"].get("champion")
    if compared is None and context.config.model_gate.bootstrap == "always":
        return
    model = context.config.tracking.registered_model
    champion = version_of(context.store, model, serving)
    if compared is None or compared["hash"] != champion.compressed(context.store).hash:
        raise RetryableError(
            f"{champion} of {model} serves, and the candidate of {context.day} was compared with "
            f"{'no champion' if compared is None else 'another model'}: run "
            "`elastic-ctr validate-model` again, then promote"
        )
