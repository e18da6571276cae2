"""Stage `compress`: zero rows and optimizer state go; the checkpoint that tomorrow starts from stays as it is."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from pipelines.stages.stage import Context, Inputs, Metrics, Stage, require


class Compress(Stage):
    """A copy for serving, with the same predictions."""

    name = "compress"
    artifact = "compressed"
    sections = ("compression",)

    def inputs(self, context: Context) -> Inputs:
        """The day's checkpoint."""
        return {"checkpoint": require(context, "checkpoint", "train")}

    def run(self, context: Context, inputs: Inputs, out: Path) -> Metrics:
        """See `compression.pruning.compress`."""
        from compression.pruning import compress

        return asdict(compress(inputs["checkpoint"].path, context.config.compression, out))
