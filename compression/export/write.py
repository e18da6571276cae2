"""Write a compressed model as a SavedModel of stock ops, for any TensorFlow or TF Serving."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from compression.delta.changes import why_no_delta
from compression.delta.digest import graph_digest
from compression.export.changing import Changing
from compression.export.model import ServingModel
from compression.export.raw_values import Inputs, Together, input_specs, single_names, stacked_specs
from compression.export.rows import TableForm
from compression.model import CompactModel, read_compact
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
        rows: keys in the hash tables, one a group of fields.
        inputs: names of the signature's inputs, in the schema's order.
        bytes_exported: the SavedModel on disk.
        bytes_variables: of these, the table's contents, its rows and the dense weights.
        bytes_graph: of these, the graph.
        version: what deltas to it name as their base; empty: it takes none (`compression.delta.changes.why_no_delta`).
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

    Its signature `serving_default` takes one string tensor per `schema.column_fields()`, named by the field ([batch];
    multi-valued [batch, n] padded with `""`), and returns `probability` float32 [batch]. A batch of none works.
    `serving_stacked` answers the same and is called faster: it takes all single-valued fields in one string tensor `values`
    [batch, S], columns in the schema's order, and one tensor per multi-valued field.
    In the form `rows`, if every slab is one band without projection, `apply_delta` changes the model while it is loaded
    (`compression.export.changing`).

    Args:
        compressed: a `compressed` folder (a `checkpoint` works too, but its zero rows are then exported).
        out: an existing folder.
        form: of the tables: row numbers and stored rows, or the vectors themselves in float32.

    Raises:
        InputError: the folder is incomplete or damaged, or its weights do not fit its schema.
    """
    return export_model(read_compact(compressed), out, form)


def export_model(model: CompactModel, out: Path, form: TableForm = "rows") -> ExportReport:
    """Write `saved_model/` of a model in memory into `out`; see `export`.

    Raises:
        InputError: its weights do not fit its schema.
    """
    use_threads_for(
        model.description.training.batch_size
    )  # as a later training in this process would
    return Exporter(form).write(model, out)


class Exporter:
    """Exports one model after another. What has the graph of the one before is not traced anew: TensorFlow never gives back the
    memory of a graph, which a process that exports for ever would run out of.

    Args:
        form: of the tables.
    """

    def __init__(self, form: TableForm = "rows") -> None:
        self._form, self._graph = form, ""
        self._served: ServingModel | None = None
        self._changing: Changing | None = None
        self._signatures: dict[str, Any] = {}

    def write(self, model: CompactModel, out: Path) -> ExportReport:
        """Write `saved_model/` of a model into `out`; see `export_model`."""
        if self._changing and graph_digest(model) == self._graph:
            self._changing.replace(model)
        else:
            self._trace(model)
        folder = out / SAVED_MODEL
        tf.saved_model.save(self._served, str(folder), signatures=self._signatures)
        return ExportReport(
            rows=model.rows,
            inputs=tuple(field.name for field in model.description.schema.column_fields()),
            bytes_exported=_bytes(folder),
            bytes_variables=_bytes(folder / "variables"),
            bytes_graph=(folder / "saved_model.pb").stat().st_size,
            version=self._changing.digest if self._changing else "",
        )

    def _trace(self, model: CompactModel) -> None:
        self._served = served = ServingModel(model, self._form)
        schema = model.description.schema
        self._signatures = {SIGNATURE: _signature(served, input_specs(schema))}
        if single_names(schema):
            self._signatures[STACKED] = _stacked(served, schema)
        self._changing = (
            None if self._form != "rows" or why_no_delta(model) else Changing(served, model)
        )
        if self._changing:
            self._graph = graph_digest(model)
            served.changing = self._changing  # so that what it holds is saved
            self._signatures |= self._changing.signatures()


def _signature(served: ServingModel, specs: dict[str, tf.TensorSpec]) -> Any:
    @tf.function(input_signature=[specs], autograph=False)
    def serve(inputs: Inputs) -> dict[str, tf.Tensor]:
        """Raw strings by field in, `probability` float32 [batch] out."""
        return {OUTPUT: served.probability(inputs)}

    return serve


def _stacked(served: ServingModel, schema: Schema) -> Any:
    values, lists = stacked_specs(schema)

    @tf.function(input_signature=[{values.name: values, **lists}], autograph=False)
    def serve(inputs: Inputs) -> dict[str, tf.Tensor]:
        """Raw strings of all single-valued fields in one, and by list, in; `probability` float32 [batch] out."""
        return {
            OUTPUT: served.probability_of(
                Together(inputs[values.name], single_names(schema), {n: inputs[n] for n in lists})
            )
        }

    return serve


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
