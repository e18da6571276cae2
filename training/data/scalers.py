"""Mean and standard deviation of the numeric fields, from days before the one that is learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features.errors import InputError


@dataclass(frozen=True)
class Scaler:
    """How a number is standardised: (value - mean) / std."""

    mean: float = 0.0
    std: float = 1.0

    @classmethod
    def of(cls, mean: float | None, std: float | None) -> Scaler:
        """Make a usable scaler of figures that may be missing, infinite or, for a constant field, zero."""
        usable_std = std is not None and np.isfinite(std) and std > 0
        return cls(
            mean=float(mean) if mean is not None and np.isfinite(mean) else 0.0,
            std=float(std) if usable_std and std is not None else 1.0,
        )


def scalers_from_statistics(folder: Path, fields: Sequence[str]) -> dict[str, Scaler]:
    """Read the scalers of dense fields from a `feature_statistics` folder; a field it does not know is left out.

    Raises:
        InputError: the folder has no readable `fields.parquet`.
    """
    path = folder / "fields.parquet"
    try:
        rows = pq.read_table(path, columns=["field", "mean", "std"]).to_pylist()
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path}: cannot read the scalers ({error}); run `feature_statistics` again"
        ) from error
    return {
        r["field"]: Scaler.of(r["mean"], r["std"])
        for r in rows
        if r["field"] in fields and r["mean"] is not None
    }


def scalers_from_numbers(
    fields: Sequence[str], values: NDArray[np.float64], present: NDArray[np.bool_]
) -> dict[str, Scaler]:
    """Compute the scalers of present values; float64 [n, D] and bool [n, D], one column per field."""
    return {name: _measure(values[:, i][present[:, i]]) for i, name in enumerate(fields)}


def as_arrays(
    scalers: Mapping[str, Scaler], fields: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return `(means, stds)`, each float64 [D] in the order of `fields`; a field without a scaler is left as it is."""
    chosen = [scalers.get(name, Scaler()) for name in fields]
    return np.array([s.mean for s in chosen], np.float64), np.array(
        [s.std for s in chosen], np.float64
    )


def _measure(values: NDArray[np.float64]) -> Scaler:
    if not len(values):
        return Scaler()
    with np.errstate(over="ignore", invalid="ignore"):
        return Scaler.of(float(values.mean()), float(values.std()))
