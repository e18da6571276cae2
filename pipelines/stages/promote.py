"""Stage `promote`: a blessed export becomes the champion; a refused one is passed over."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from features.errors import UnsoundError
from features.partition import Partition, end_h, parse_partition
from pipelines.stages.stage import Context, Inputs, Metrics, Stage, require
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
    """Moves the registry's alias by compare-and-set; the champion only moves forward in time."""

    name = "promote"
    artifact = "promotion"
    sections = ("tracking",)

    def inputs(self, context: Context) -> Inputs:
        """The day's verdict, what it judged, and records for an example of a request."""
        impressions = context.store.current("impressions", context.day)
        return {
            **({"impressions": impressions} if impressions else {}),
            "validation_report": require(context, "validation_report", "validate-model"),
            "export": require(context, "export", "export"),
            "compressed": require(context, "compressed", "compress"),
        }

    def run(self, context: Context, inputs: Inputs, out: Path) -> Metrics:
        """Decide, register, move the alias; write `decision.json`."""
        verdict = inputs["validation_report"].metrics["verdict"]
        if verdict == "unsound":
            raise UnsoundError(
                f"the model of {context.day} is unsound: it is not promoted, and the last champion stays"
            )
        decision = (
            _promote(context, inputs)
            if verdict == "blessed"
            else Decision(False, "refused by the model gate")
        )
        facts = {
            "promoted": decision.promoted,
            "reason": decision.reason,
            "model_version": decision.model_version,
            "replaced": decision.replaced,
        }
        (out / "decision.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
        context.report(f"{'promoted' if decision.promoted else 'not promoted'}: {decision.reason}")
        return facts


def _promote(context: Context, inputs: Inputs) -> Decision:
    settings, export = context.config.tracking, inputs["export"]
    tracker = Tracker(context.store.workspace, settings.experiment)
    client = tracker.client()
    tracker.sync()  # so that the day's run begins with its first stage
    registry = Registry(client, settings.registered_model)
    day = context.day.isoformat()
    with reachable(tracker.uri):
        serving = registry.alias(CHAMPION)
        run_id = tracker.day_run(client, f"{context.config.name}/{day}", int(time.time() * 1000))
        write = _writer(context, inputs, run_id)
        version = registry.register(
            write, run_id, day, export.hash, {"elastic_ctr.pipeline": context.config.name}
        )
        replaced = registry.decided(version)
        # A decision once taken stands, also when a later day serves by now; one whose move was cut off is finished.
        if replaced is None or replaced == (serving or ""):
            if serving is not None and _is_older(context.day, registry.day_of(serving)):
                return Decision(
                    False,
                    f"version {serving} of {registry.day_of(serving)}, which is not earlier, serves",
                    version,
                    None,
                )
            registry.move(version, serving)
            replaced = serving or ""
    return Decision(True, "blessed by the model gate", version, replaced or None)


def _writer(context: Context, inputs: Inputs, run_id: str) -> Callable[[Path], Path]:
    """What writes the export as an MLflow model."""
    parity = inputs["validation_report"].path / "serving.json"
    impressions = inputs.get("impressions")
    return partial(
        write_model,
        inputs["export"].path / SAVED_MODEL,
        context.config.features,
        impressions=impressions.path if impressions else None,
        parity=parity if parity.is_file() else None,
        run_id=run_id,
    )


def _is_older(day: Partition, serving: str) -> bool:
    """Whether another day or hour serves that ends no sooner than this one; one that does not say which is passed by."""
    return serving not in ("", day.isoformat()) and end_h(parse_partition(serving)) >= end_h(day)
