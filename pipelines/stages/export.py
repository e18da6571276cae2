"""Stage `export`: the compressed model as a SavedModel."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from pipelines.stages.stage import Context, Inputs, Metrics, Stage


class Export(Stage):
    """Write the SavedModel of stock ops: raw strings in, probability out."""

    name = "export"
    artifact = "export"
    reads = ("compressed",)

    def run(self, context: Context, inputs: Inputs, out: Path) -> Metrics:
        """See `compression.export.write.export`."""
        from compression.export.write import export

        return asdict(export(inputs["compressed"].path, out))
