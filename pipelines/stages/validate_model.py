"""Stage `validate_model`: parity in a fresh process, quality against champion and baseline."""

from __future__ import annotations

import json
from pathlib import Path

from features.errors import UnsoundError
from pipelines.stages.stage import Context, Inputs, Metrics, Stage
from pipelines.store.artifacts import Version
from pipelines.store.lineage import champion_before, input_of, verdict_of


def champion_model(context: Context) -> Inputs:
    """Return the compressed model of the last champion before the day or hour, if there is one."""
    decision = champion_before(context.store, context.day)
    champion = input_of(context.store, decision, "compressed") if decision else None
    return {"champion": champion} if champion else {}


class ValidateModel(Stage):
    """Compare the export with the trained model, the champion and the baselines; write the verdict.

    After `blessed` or `refused` the day goes on. `unsound` stops it, and later days do not
    warm-start from its checkpoint.
    """

    name = "validate-model"
    artifact = "validation_report"
    reads = ("impressions", "checkpoint", "export", "compressed", champion_model)
    sections = ("features", "model_gate")
    tracked = ("verdict.json", "plots")

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

    def check_result(self, version: Version) -> None:
        """Stop the day when the model is unsound."""
        if verdict_of(version) == "unsound":
            verdict = json.loads((version.path / "verdict.json").read_text(encoding="utf-8"))
            raise UnsoundError(
                f"the model of {version.day} is unsound: {'; '.join(verdict['reasons'])}. "
                "The last champion stays."
            )
