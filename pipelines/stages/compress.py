"""Stage `compress`: a copy of the checkpoint for serving; the checkpoint itself is not changed."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from features.errors import InputError
from pipelines.stages.stage import Context, Inputs, Metrics, Stage, require
from pipelines.store.digests import file_sha256


def impressions_to_train_on(context: Context) -> Inputs:
    """Return the day's impressions if a compression step trains on them."""
    if not context.config.compression.trains:
        return {}
    return {"impressions": require(context, "impressions")}


class Compress(Stage):
    """Drop zero rows and optimizer state from a copy of the checkpoint.

    Without `compression.steps` the copy has the same predictions.
    """

    name = "compress"
    artifact = "compressed"
    reads = ("checkpoint", impressions_to_train_on)
    sections = ("compression",)
    tracked = ("report.json",)

    def fingerprint(self, context: Context) -> object:
        """Return the digests of the files that steps read: another selection is another version."""
        digests = []
        for step in context.config.compression.steps:
            if step.kind == "drop_fields" and step.chosen:
                if not step.chosen.is_file():
                    raise InputError(
                        f"compression.steps: drop_fields.chosen names {step.chosen}, which is no "
                        "file: run select-features first"
                    )
                digests.append(file_sha256(step.chosen))
        return digests or None

    def run(self, context: Context, inputs: Inputs, out: Path) -> Metrics:
        """See `compression.pruning.compress`."""
        from compression.pruning import compress

        impressions = inputs["impressions"].path if "impressions" in inputs else None
        settings = context.config.compression
        return asdict(compress(inputs["checkpoint"].path, settings, out, impressions))
