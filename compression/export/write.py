"""Write a compressed model as a SavedModel of stock ops, for any TensorFlow or TF Serving."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from compression.delta.content import graph_digest, why_no_delta
from compression.export import requests
from compression.export.rows import TableForm
from compression.export.served_model import DeltaSignatures, ServingModel
from compression.model import CompactModel, read_compact
from features.files import folder_bytes
from features.schema import Schema
from training.fit.threads import use_threads_for

SAVED_MODEL = "saved_model"
SIGNATURE = "serving_default"
STACKED = "serving_stacked"
OUTPUT = "probability"


@dataclass(frozen=True)
class ExportReport:
    """What was exported.

    Attributes:
        rows: keys in the hash tables, one table per group of fields.
        inputs: names of the signature's inputs, in the schema's order.
        bytes_exported: size of the SavedModel on disk.
        bytes_variables: part of it for tables, rows and dense weights.
        bytes_graph: part of it for the graph.
        version: base of deltas to the export; empty if it takes none
            (`compression.delta.content.why_no_delta`).
    """

    rows: int
    inputs: tuple[str, ...]
    bytes_exported: int
    bytes_variables: int
    bytes_graph: int
    version: str

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def export(compressed: Path, out: Path, form: TableForm = "rows") -> ExportReport:
    """Write `saved_model/` into `out`.

    The signature `serving_default` takes one string tensor per `schema.column_fields()`, named by
    the field ([batch]; multi-valued [batch, n] padded with `""`), and returns `probability` float32
    [batch]. The batch may be empty. `serving_stacked` gives the same answers at less cost per call:
    it takes all single-valued fields in one string tensor `values` [batch, S], columns in the
    schema's order. `apply_delta` (`DeltaSignatures`) changes the loaded model, if the form is
    `rows` and every slab one band without projection.

    Args:
        compressed: a `compressed` folder; a `checkpoint` is exported with its zero rows.
        out: an existing folder.
        form: of the tables: row numbers and stored rows, or vectors in float32.

    Raises:
        InputError: the folder is incomplete or damaged, or its weights do not fit its schema.
    """
    return export_model(read_compact(compressed), out, form)


def export_model(model: CompactModel, out: Path, form: TableForm = "rows") -> ExportReport:
    """Write `saved_model/` of a model in memory into `out`; see `export`.

    Raises:
        InputError: its weights do not fit its schema.
    """
    # TensorFlow fixes its threads at the first op: a training in this process comes later.
    use_threads_for(model.description.training.batch_size)
    return Exporter(form).write(model, out)


class Exporter:
    """Exports one model after another.

    A model with the graph of the previous one is loaded into that graph. TensorFlow never frees the
    memory of a traced graph, so a process that exports permanently must not trace one per export.
    """

    def __init__(self, form: TableForm = "rows") -> None:
        self._form, self._graph = form, ""
        self._served: ServingModel | None = None
        self._deltas: DeltaSignatures | None = None
        self._signatures: dict[str, Any] = {}

    def write(self, model: CompactModel, out: Path) -> ExportReport:
        """Write `saved_model/` of a model into `out`; see `export_model`."""
        # Only a model that takes deltas has variables whose shapes may change in its graph.
        if self._deltas and graph_digest(model) == self._graph:
            self._deltas.replace(model)
        else:
            self._trace(model)
        folder = out / SAVED_MODEL
        tf.saved_model.save(self._served, str(folder), signatures=self._signatures)
        return ExportReport(
            rows=model.rows,
            inputs=tuple(field.name for field in model.description.schema.column_fields()),
            bytes_exported=folder_bytes(folder),
            bytes_variables=folder_bytes(folder / "variables"),
            bytes_graph=(folder / "saved_model.pb").stat().st_size,
            version=self._deltas.digest if self._deltas else "",
        )

    def _trace(self, model: CompactModel) -> None:
        self._served = served = ServingModel(model, self._form)
        schema = model.description.schema
        self._signatures = {SIGNATURE: _named_signature(served, schema)}
        if requests.single_names(schema):
            self._signatures[STACKED] = _stacked_signature(served, schema)
        # Vectors in a hash table have no rows that a delta could change.
        changeable = self._form == "rows" and not why_no_delta(model)
        self._deltas = DeltaSignatures(served, model) if changeable else None
        if self._deltas:
            self._graph = graph_digest(model)
            # As an attribute of the saved module: otherwise its variables would not be saved.
            served.deltas = self._deltas
            self._signatures |= self._deltas.signatures()


def _named_signature(served: ServingModel, schema: Schema) -> Any:
    @tf.function(input_signature=[requests.input_specs(schema)], autograph=False)
    def serve(inputs: requests.RawTensors) -> dict[str, tf.Tensor]:
        return {OUTPUT: served.probability(inputs)}

    return serve


def _stacked_signature(served: ServingModel, schema: Schema) -> Any:
    values, lists = requests.stacked_specs(schema)

    @tf.function(input_signature=[{values.name: values, **lists}], autograph=False)
    def serve(inputs: requests.RawTensors) -> dict[str, tf.Tensor]:
        listed = {name: inputs[name] for name in lists}
        request = requests.StackedRequest(
            inputs[values.name], requests.single_names(schema), listed
        )
        return {OUTPUT: served.probability_of(request)}

    return serve
