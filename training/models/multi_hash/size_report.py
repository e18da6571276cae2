"""What a day's multi-hash fields cost and how their ids collide, said before anything is learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.errors import InputError
from features.schema import Categorical, KeyField, Schema
from training.data.columns import read_impressions
from training.data.field_groups import groups_of
from training.data.layout import Layout
from training.data.own_rows import own_row_fields
from training.models.multi_hash.settings import multi_hash_of
from training.models.multi_hash.size import Size, size
from training.settings import AdmissionSettings, ModelSettings


@dataclass(frozen=True)
class Seen:
    """Where to look how often each id was seen.

    Attributes:
        partition: the day's `impressions` artifact.
        statistics: `feature_statistics` of a day before, which tell, if they know the field, in place of the day.
    """

    partition: Path
    statistics: Path | None

    def counts(self, schema: Schema, field: Categorical) -> NDArray[np.int64]:
        """Return how often each distinct value of a field was seen, int64 [ids].

        Raises:
            InputError: the statistics or the partition cannot be read.
        """
        before = _before(self.statistics, field) if self.statistics else _NONE
        return before if len(before) else _of_day(self.partition, schema, field)


def multi_hash_sizes(
    schema: Schema, model: ModelSettings, admission: AdmissionSettings, seen: Seen
) -> dict[str, Size]:
    """Return the size of each multi-hash field by name, for the ids seen so far; bytes are those of the deep vectors.

    Ids with rows of their own are those seen as often as the field's admission asks. They take hashed rows too, so others
    share rows with them, but none has all its rows in common with them.

    Raises:
        InputError: the statistics or the partition cannot be read, or the model's groups do not fit the schema.
    """
    dims = {
        name: group.dim
        for group in groups_of(Layout.of(schema), model)
        for name in group.layout.keyed
    }
    fields = [
        field for field in schema.fields if isinstance(field, Categorical) and field.multi_hash
    ]
    return {
        f.name: _size(f, dims[f.name], seen.counts(schema, f), _threshold(schema, f, admission))
        for f in fields
    }


def as_figures(sizes: Mapping[str, Size]) -> dict[str, float]:
    """Return the sizes as metrics, `multi_hash.<field>.<figure>`."""
    return {
        f"multi_hash.{name}.{figure}": float(getattr(size, figure))
        for name, size in sizes.items()
        for figure in _FIGURES
    }


_FIGURES = ("rows", "own_rows", "bytes", "collision_probability_full", "collision_probability_any")


_NONE = np.zeros(0, np.int64)


def _before(statistics: Path, field: Categorical) -> NDArray[np.int64]:
    path = statistics / "values.parquet"
    try:
        return pq.read_table(path, columns=["impressions"], filters=[("field", "==", field.name)])[
            "impressions"
        ].to_numpy()
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path}: cannot count the ids of {field.name} ({error}); run `feature_statistics` again"
        ) from error


def _of_day(partition: Path, schema: Schema, field: Categorical) -> NDArray[np.int64]:
    only = schema.model_copy(update={"fields": (field,)})
    return pc.value_counts(read_impressions(partition, only)[field.name]).field("counts").to_numpy()


def _threshold(schema: Schema, field: KeyField, admission: AdmissionSettings) -> int | None:
    return admission.threshold(field.name) if field.name in own_row_fields(schema) else None


def _size(field: KeyField, dim: int, counts: NDArray[np.int64], threshold: int | None) -> Size:
    settings, ids = multi_hash_of(field), len(counts)
    hashed = size(settings, dim, ids)
    if threshold is None:
        return hashed
    found = size(settings, dim, ids, own=int(np.count_nonzero(counts >= threshold)))
    return replace(
        found,
        expected_rows_used=found.own_rows + hashed.expected_rows_used,
        collision_probability_any=hashed.collision_probability_any,
    )
