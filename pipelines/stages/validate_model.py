"""Stage `validate_model`: parity in a fresh process, quality against champion and baseline, a verdict."""

from __future__ import annotations

import json
from pathlib import Path

from features.errors import UnsoundError
from pipelines.stages.stage import Context, Inputs, Metrics, Stage, require
from pipelines.store.artifacts import Version
from pipelines.store.lineage import champion_before, promoted


class ValidateModel(Stage):
    """Blessed or refused leaves the day green; unsound makes it red, and nobody learns on from its checkpoint."""

    name = "validate-model"
    artifact = "validation_report"
    sections = ("features", "model_gate")

    def inputs(self, context: Context) -> Inputs:
        """The day's candidate in its three forms, its impressions, and the champion of the days before."""
        decision = champion_before(context.store, context.day)
        champion = promoted(context.store, decision, "compressed") if decision else None
        return {
            "impressions": require(context, "impressions", "ingest"),
            "checkpoint": require(context, "checkpoint", "train"),
            "export": require(context, "export", "export"),
            "compressed": require(context, "compressed", "compress"),
            **({"champion": champion} if champion else {}),
        }

    def run(self, context: Context, inputs: Inputs, out: Path) -> Metrics:
        """See `validation.model.check.check_model`."""
        from validation.model.check import Candidate, check_model

        paths = {name: version.path for name, version in inputs.items()}
        candidate = Candidate(
            paths["impressions"],
            paths["checkpoint"],
            paths["export"],
            paths.get("champion"),
            paths["compressed"],
        )
        return check_model(candidate, context.config.features, context.config.model_gate, out)

    def judge(self, version: Version) -> None:
        """Stop the day when the model is unsound."""
        if version.metrics["verdict"] == "unsound":
            reasons = json.loads((version.path / "verdict.json").read_text(encoding="utf-8"))[
                "reasons"
            ]
            raise UnsoundError(
                f"the model of {version.day} is unsound: {'; '.join(reasons)}. The last champion stays."
            )
