"""Mean and standard deviation of the numeric fields, computed on days before the training day."""

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
    """Standardises a number: (value - mean) / std."""

    mean: float = 0.0
    std: float = 1.0

    @classmethod
    def of(cls, mean: float | None, std: float | None) -> Scaler:
        """Return a usable scaler: missing, infinite and zero figures get the default values."""
        usable_std = std is not None and np.isfinite(std) and std > 0
        return cls(
            mean=float(mean) if mean is not None and np.isfinite(mean) else 0.0,
            # A constant field has std 0, by which nothing can be divided.
            std=float(std) if usable_std and std is not None else 1.0,
        )


def scalers_from_statistics(folder: Path, fields: Sequence[str]) -> dict[str, Scaler]:
    """Read the scalers of fields from a `feature_statistics` folder; unknown ones are left out.

    Raises InputError if the folder has no readable `fields.parquet`.
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
    """Compute the scalers of fields from values float64 [n, D] where present, bool [n, D]."""
    scalers = {}
    for i, name in enumerate(fields):
        known = values[:, i][present[:, i]]
        # Very large values overflow to infinity, which `Scaler.of` replaces.
        with np.errstate(over="ignore", invalid="ignore"):
            scalers[name] = (
                Scaler.of(float(known.mean()), float(known.std())) if len(known) else Scaler()
            )
    return scalers


def as_arrays(
    scalers: Mapping[str, Scaler], fields: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return `(means, stds)`, float64 [D] each; a field without a scaler is not changed by them."""
    chosen = [scalers.get(name, Scaler()) for name in fields]
    means, stds = ([getattr(s, figure) for s in chosen] for figure in ("mean", "std"))
    return np.array(means, np.float64), np.array(stds, np.float64)
