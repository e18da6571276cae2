"""What YAML says of each step. Free of NumPy and TensorFlow."""

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
    """Fields (or relations, `left__right`) leave the model: by name, or those that a file of `select-features` dropped.

    `chosen` is the path of a `selection.json`, or of a YAML whose `features` have fewer fields than the model.
    """

    kind: Literal["drop_fields"] = "drop_fields"
    fields: tuple[str, ...] = ()
    chosen: Path | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if bool(self.fields) == bool(self.chosen):
            raise ValueError(
                "drop_fields takes `fields`, or `chosen`, the file that names them: give one of the two"
            )
        return self


class PruneRows(Settings):
    """Rows leave each table, those of the lowest score first; a pruned key reads as the zero vector.

    `norm` is the length of the row over all slabs, `count` how often the key was seen, `weight` norm · √count, `idle` the steps
    since the key was last seen, of which the most go first. What stays: the share `keep` of the rows, at most `max_rows`, or
    rows of a score of at least `threshold` (of `idle`: at most). With `fields` only the rows of these are counted and pruned.
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
    """Rows wider than 1 keep fewer columns and share a projection back, one for each slab and band of frequency.

    `quantiles` of the rows' counts cut a table into bands. `ranks` are the columns kept in each, from the rarest band on (one
    for each band); or `energy` is the share of the squared values, weighted by counts, that a band keeps at least; or `price` has
    masks learn the columns (`masks.py`): it is the log loss that all the values of a slab together are worth, so that a column
    which saves less than its share of it goes. The masks learn the day's learned impressions `epochs` times.
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
        if self.ranks and len(self.ranks) != len(self.quantiles) + 1:
            raise ValueError(
                f"{len(self.quantiles)} quantiles make {len(self.quantiles) + 1} bands: give as many ranks"
            )
        if any(low >= high for low, high in pairwise(self.quantiles)):
            raise ValueError(f"quantiles {self.quantiles} must ascend")
        return self


class Quantize(Settings):
    """Values of rows in fewer bits: `int8` and `int4` with scale and offset by row; narrow rows float16 where that is smaller."""

    kind: Literal["quantize"] = "quantize"
    form: SlabForm = "int8"


class ProductCodes(Settings):
    """Rows as codes: every `columns` values of a row become one byte, the number of an entry of their codebook.

    A codebook has `codes` entries, one of them zero; k-means finds the others in at most `iterations`, starting as `seed` says.
    A band takes float16 where codes and codebook are no smaller.
    """

    kind: Literal["product"] = "product"
    columns: Count = 4
    codes: Annotated[int, Field(ge=16, le=256)] = 256
    iterations: Count = 25
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


class Dense(Settings):
    """Kernels in fewer bits, and hidden units away: `relu` is the share of each hidden layer's units, the weakest, that goes."""

    kind: Literal["dense"] = "dense"
    form: Literal["float32", "float16", "int8"] = "float16"
    relu: Annotated[float, Field(ge=0, lt=1)] = 0.0


class FineTune(Settings):
    """Dense weights learn the day's learned impressions `epochs` times more, over rows that stay as they are stored.

    The rows have learned these impressions already and know them too well: a rate like that of training, 1e-3, makes the weights
    trust them more than other impressions deserve (docs/compression.md has figures).
    """

    kind: Literal["fine_tune"] = "fine_tune"
    epochs: Count = 1
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-4


class FloatEncodings(Settings):
    """Frozen encodings of the cross graph in half precision."""

    kind: Literal["encodings"] = "encodings"
    form: Literal["float16"] = "float16"


StepSettings = Annotated[
    DropFields | PruneRows | Widths | Quantize | ProductCodes | Dense | FloatEncodings | FineTune,
    Field(discriminator="kind"),
]


def refuse_unknown_fields(
    steps: Sequence[StepSettings], schema: Schema, relations: Sequence[Relation]
) -> None:
    """Check the names that steps give.

    Raises:
        InputError: a step drops what is neither field nor relation, or prunes rows of what has none.
    """
    keyed = [field.name for field in schema.key_fields()]
    known = {
        "drop_fields": [*schema.names(), *(relation.name for relation in relations)],
        "prune_rows": keyed,
    }
    for step in steps:
        unknown = sorted(set(getattr(step, "fields", ())) - set(known.get(step.kind, ())))
        if unknown:
            raise InputError(
                f"compression.steps: {step.kind} names {unknown}; it can name {known[step.kind]}"
            )
