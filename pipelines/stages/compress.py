"""Stage `compress`: zero rows and optimizer state go, then what lossy steps take; the checkpoint stays as it is."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from features.errors import InputError
from pipelines.stages.stage import Context, Inputs, Metrics, Stage, require
from pipelines.store.digests import file_sha256


class Compress(Stage):
    """A copy for serving; without `compression.steps` it has the same predictions."""

    name = "compress"
    artifact = "compressed"
    sections = ("compression",)

    def inputs(self, context: Context) -> Inputs:
        """The day's checkpoint, and with steps that learn its impressions."""
        checkpoint = {"checkpoint": require(context, "checkpoint", "train")}
        learns = context.config.compression.learns
        return checkpoint | (
            {"impressions": require(context, "impressions", "ingest")} if learns else {}
        )

    def fingerprint(self, context: Context) -> object:
        """Return the digests of the files that steps read, so that another selection makes another version."""
        read = [
            step.chosen
            for step in context.config.compression.steps
            if step.kind == "drop_fields" and step.chosen
        ]
        return [file_sha256(_existing(path)) for path in read] or None

    def run(self, context: Context, inputs: Inputs, out: Path) -> Metrics:
        """See `compression.pruning.compress`."""
        from compression.pruning import compress

        impressions = inputs["impressions"].path if "impressions" in inputs else None
        return asdict(
            compress(inputs["checkpoint"].path, context.config.compression, out, impressions)
        )


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise InputError(
            f"compression.steps: drop_fields.chosen names {path}, which is no file: run select-features first"
        )
    return path
