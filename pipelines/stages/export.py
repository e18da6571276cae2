"""Stage `export`: the compressed model as a SavedModel of stock ops."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from pipelines.stages.stage import Context, Inputs, Metrics, Stage, require


class Export(Stage):
    """Raw strings in, probability out."""

    name = "export"
    artifact = "export"

    def inputs(self, context: Context) -> Inputs:
        """The day's compressed model."""
        return {"compressed": require(context, "compressed", "compress")}

    def run(self, context: Context, inputs: Inputs, out: Path) -> Metrics:
        """See `compression.export.write.export`."""
        from compression.export.write import export

        return asdict(export(inputs["compressed"].path, out))
