"""Step `quantize`: the values of rows in fewer bits (see `training.packed.quantize`)."""

from __future__ import annotations

from compression.steps.settings import Quantize, SlabForm
from compression.steps.step import Plan, Step
from compression.steps.work import Work
from features.errors import UnsoundError
from training.packed.matrix import Form, Matrix
from training.packed.slab import Band, PackedSlab


class QuantizePlan(Plan):
    """The form of each slab's bands, by its name in the model."""

    forms: dict[str, tuple[SlabForm, ...]]


class Quantization(Step[Quantize, QuantizePlan]):
    """See `Quantize`. Projections stay float32; zero rows stay exactly zero."""

    def fit(self, work: Work) -> QuantizePlan:
        """Return the smaller of the wanted form and float16 for each band: scale and offset cost 4 bytes a row."""
        slabs = work.model.slabs()
        return QuantizePlan(
            forms={name: tuple(map(self._form, slab.bands)) for name, slab in slabs.items()}
        )

    def apply(self, work: Work, plan: QuantizePlan) -> Work:
        """Store the rows in their forms; raises UnsoundError where one holds what half precision cannot hold."""
        slabs: dict[str, dict[str, PackedSlab]] = {}
        for table, rows in work.model.tables.items():
            named = {own: f"{table}/{own}" if table else own for own in rows.slabs}
            slabs[table] = {
                own: _stored(rows.slabs[own], plan.forms[name], name) for own, name in named.items()
            }
        return work.with_slabs(slabs)

    def _form(self, band: Band) -> SlabForm:
        bits = {"float16": 16, "int8": 8, "int4": 4}[self.settings.form]
        width = band.matrix.width
        return self.settings.form if -(-width * bits // 8) + 4 < 2 * width else "float16"


def _stored(slab: PackedSlab, forms: tuple[SlabForm, ...], name: str) -> PackedSlab:
    try:
        bands = [
            Band(Matrix.of(b.matrix.rows(), Form(f)), b.projection)
            for b, f in zip(slab.bands, forms, strict=True)
        ]
    except (ValueError, FloatingPointError) as error:
        raise UnsoundError(
            f"rows of {name}: {error}; no form of fewer bits can hold them"
        ) from error
    return PackedSlab(tuple(bands))
