"""Steps `quantize` and `encodings`: the values of rows, and of frozen encodings, in fewer bits.

The forms are those of `training.packed.matrix`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from compression.steps.settings import FloatEncodings, Quantize, SlabForm
from compression.steps.step import CompressionState, Plan, Step
from features.errors import UnsoundError
from training.data.layout import slab_of
from training.models.encoding_inputs import Encoding, Nodes
from training.packed.matrix import Form, Matrix
from training.packed.rows import Band, PackedSlab

_BITS = {"float16": 16, "int8": 8, "int4": 4}


class QuantizePlan(Plan):
    """The form of each slab's bands, by its name in the model."""

    forms: dict[str, tuple[SlabForm, ...]]


class Quantization(Step[Quantize, QuantizePlan]):
    """See `Quantize`. Projections stay float32, and zero rows stay exactly zero."""

    def fit(self, state: CompressionState) -> QuantizePlan:
        """Return for each band the configured form or float16, whichever is smaller."""
        wanted = self.settings.form

        def smaller(width: int) -> SlabForm:
            # Scale and offset cost 4 bytes per row.
            quantized = -(-width * _BITS[wanted] // 8) + 4
            return wanted if quantized < 2 * width else "float16"

        slabs = state.model.slabs()
        return QuantizePlan(
            forms={
                name: tuple(smaller(band.matrix.width) for band in slab.bands)
                for name, slab in slabs.items()
            }
        )

    def apply(self, state: CompressionState, plan: QuantizePlan) -> CompressionState:
        """Store the rows; raises UnsoundError if a value does not fit half precision."""

        def stored(_: str, name: str, slab: PackedSlab) -> PackedSlab:
            forms = zip(slab.bands, plan.forms[name], strict=True)
            return PackedSlab(
                tuple(Band(Matrix.of(b.matrix.rows(), Form(f)), b.projection) for b, f in forms)
            )

        return stored_slabs(state, stored)


def stored_slabs(
    state: CompressionState, store: Callable[[str, str, PackedSlab], PackedSlab]
) -> CompressionState:
    """Return the state with every slab stored in another form.

    `store` gets the name of a table, the slab's name in the model, and the slab.

    Raises:
        UnsoundError: a slab holds values that its new form cannot.
    """
    slabs: dict[str, dict[str, PackedSlab]] = {}
    for table, rows in state.model.tables.items():
        slabs[table] = {}
        for own_name, slab in rows.slabs.items():
            name = slab_of(table, own_name)
            # The message names the slab, which the error of a single matrix does not know.
            try:
                slabs[table][own_name] = store(table, name, slab)
            except (ValueError, FloatingPointError) as error:
                raise UnsoundError(
                    f"rows of {name}: {error}; no form of fewer bits can hold them"
                ) from error
    return state.with_slabs(slabs)


class EncodingsPlan(Plan):
    """Names of the relations whose encodings become float16."""

    relations: tuple[str, ...]


class EncodingPrecision(Step[FloatEncodings, EncodingsPlan]):
    """See `FloatEncodings`. Tables of pairs are not changed."""

    def fit(self, state: CompressionState) -> EncodingsPlan:
        """Return the relations with node vectors."""
        encodings = state.model.encodings.items()
        names = sorted(name for name, encoding in encodings if isinstance(encoding, Encoding))
        return EncodingsPlan(relations=tuple(names))

    def apply(self, state: CompressionState, plan: EncodingsPlan) -> CompressionState:
        """Round vectors and biases of the nodes, and corrections, to half precision."""
        encodings = dict(state.model.encodings)
        for name in plan.relations:
            encoding = encodings[name]
            if isinstance(encoding, Encoding):
                pairs = encoding.corrections
                encodings[name] = replace(
                    encoding,
                    left=_half_precision(encoding.left),
                    right=_half_precision(encoding.right),
                    corrections=pairs and replace(pairs, values=pairs.values.astype(np.float16)),
                )
        return replace(state, model=replace(state.model, encodings=encodings))


def _half_precision(nodes: Nodes) -> Nodes:
    return Nodes(nodes.keys, nodes.vectors.astype(np.float16), nodes.biases.astype(np.float16))
