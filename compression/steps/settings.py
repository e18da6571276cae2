"""Settings of the compression steps. Free of NumPy and TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from features.errors import InputError
from features.schema import Relation, Schema, Settings

Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
SlabForm = Literal["float16", "int8", "int4"]


class DropFields(Settings):
    """Removes fields (or relations, `left__right`) from the model.

    They are named by `fields`, or by a file: `chosen` is the path of a `selection.json` of
    `select-features`, or of a YAML whose `features` have fewer fields than the model.
    """

    kind: Literal["drop_fields"] = "drop_fields"
    fields: tuple[str, ...] = ()
    chosen: Path | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if bool(self.fields) == bool(self.chosen):
            raise ValueError(
                "drop_fields needs `fields`, or `chosen`, a file that names them: give one of the "
                "two"
            )
        return self


class PruneRows(Settings):
    """Removes the rows with the lowest scores from each table; a removed key reads as zero.

    The score is `norm`, the length of the row over all slabs; `count`, how often the key was seen;
    `weight`, norm · √count; or `idle`, the steps since the key was last seen, of which the longest
    are removed first. The limit is the share `keep` of the rows, `max_rows`, or `threshold`, the
    least score (for `idle` the greatest) that is kept. With `fields` only rows of these fields are
    counted and removed.
    """

    kind: Literal["prune_rows"] = "prune_rows"
    by: Literal["norm", "count", "idle", "weight"] = "weight"
    keep: Annotated[float, Field(ge=0, le=1)] | None = None
    max_rows: Annotated[int, Field(ge=0)] | None = None
    threshold: Annotated[float, Field(allow_inf_nan=False)] | None = None
    fields: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if sum(limit is not None for limit in (self.keep, self.max_rows, self.threshold)) != 1:
            raise ValueError("prune_rows needs one limit: give `keep`, `max_rows` or `threshold`")
        return self


class Widths(Settings):
    """Stores fewer columns of rows wider than 1, with a projection per slab and frequency band.

    `quantiles` of the rows' counts divide a table into bands. Give one of three: `ranks`, the
    columns of each band, the rarest band first; `energy`, the least share of the squared values,
    weighted by counts, that a band keeps; or `price`, with which masks over the columns are trained
    (`width_masks.py`): the log loss that all values of a slab together may cost, so a column that
    saves less than its share of it is removed. The masks are trained for `epochs` passes.
    """

    kind: Literal["widths"] = "widths"
    quantiles: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    ranks: tuple[Count, ...] = ()
    energy: Share | None = None
    price: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    epochs: Count = 1

    @model_validator(mode="after")
    def _bands_fit(self) -> Self:
        if [bool(self.ranks), self.energy is not None, self.price is not None].count(True) != 1:
            raise ValueError("widths needs `ranks`, `energy` or `price`: give one of the three")
        bands = len(self.quantiles) + 1
        if self.ranks and len(self.ranks) != bands:
            raise ValueError(
                f"{len(self.quantiles)} quantiles make {bands} bands: give as many ranks"
            )
        if any(low >= high for low, high in pairwise(self.quantiles)):
            raise ValueError(f"quantiles {self.quantiles} must ascend")
        return self


class Quantize(Settings):
    """Stores the values of rows in fewer bits.

    `int8` and `int4` have a scale and an offset per row; narrow rows become float16 if that is
    smaller.
    """

    kind: Literal["quantize"] = "quantize"
    form: SlabForm = "int8"


class ProductCodes(Settings):
    """Stores rows as codes: `columns` values of a row become one byte, an entry of a codebook.

    A codebook has `codes` entries, one of them zero; k-means finds the others in at most
    `iterations` from the random state `seed`. A band becomes float16 if codes and codebook are not
    smaller.
    """

    kind: Literal["product"] = "product"
    columns: Count = 4
    codes: Annotated[int, Field(ge=16, le=256)] = 256
    iterations: Count = 25
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


class Dense(Settings):
    """Stores kernels in fewer bits, and removes hidden units.

    `relu` is the share of the units of each hidden layer, the weakest, that is removed.
    """

    kind: Literal["dense"] = "dense"
    form: Literal["float32", "float16", "int8"] = "float16"
    relu: Annotated[float, Field(ge=0, lt=1)] = 0.0


class FineTune(Settings):
    """Trains the dense weights for `epochs` more on the day's training impressions.

    The stored rows are not changed. They were trained on these impressions and fit them too well:
    at the rate of training, 1e-3, the weights learn to rely on the rows more than other impressions
    justify (figures in docs/compression.md).
    """

    kind: Literal["fine_tune"] = "fine_tune"
    epochs: Count = 1
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-4


class FloatEncodings(Settings):
    """Stores the frozen encodings of the cross graph in half precision."""

    kind: Literal["encodings"] = "encodings"
    form: Literal["float16"] = "float16"


StepSettings = Annotated[
    DropFields | PruneRows | Widths | Quantize | ProductCodes | Dense | FloatEncodings | FineTune,
    Field(discriminator="kind"),
]


def check_step_fields(
    steps: Sequence[StepSettings], schema: Schema, relations: Sequence[Relation]
) -> None:
    """Check the names of fields in steps.

    Raises:
        InputError: a step drops an unknown field or relation, or prunes rows of a field without.
    """
    known = {
        "drop_fields": [*schema.names(), *(relation.name for relation in relations)],
        "prune_rows": [field.name for field in schema.key_fields()],
    }
    # Other kinds of steps have no `fields`.
    for step in steps:
        unknown = sorted(set(getattr(step, "fields", ())) - set(known.get(step.kind, ())))
        if unknown:
            raise InputError(
                f"compression.steps: {step.kind} names {unknown}; it can name {known[step.kind]}"
            )
