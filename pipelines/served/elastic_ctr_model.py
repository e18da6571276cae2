"""Serve an exported click model through MLflow: rows of raw values in, `probability` out.

A copy of this file lies beside the model (`code/`), so it must import nothing but TensorFlow, NumPy and pandas. Values may be
strings or numbers; null is null. Of multi-valued fields a row holds a list of strings.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf

_SIGNATURE = "serving_default"


class ClickModel:
    """An exported model behind MLflow's `predict`."""

    def __init__(self, saved_model: str) -> None:
        self._loaded = tf.saved_model.load(saved_model)
        self._serve = self._loaded.signatures[_SIGNATURE]
        self._ranks = {
            name: spec.shape.rank
            for name, spec in self._serve.structured_input_signature[1].items()
        }

    def predict(
        self, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Return a frame with the column `probability`, float32 in [0, 1], of rows in their order.

        Raises:
            ValueError: a field's column is missing, or a single-valued field holds a list.
        """
        missing = sorted(set(self._ranks) - set(model_input.columns))
        if missing:
            raise ValueError(
                f"the columns {missing} are missing; the model reads {sorted(self._ranks)}"
            )
        inputs = {
            name: tf.constant(_strings(model_input[name], rank), tf.string)
            for name, rank in self._ranks.items()
        }
        return pd.DataFrame(
            {"probability": self._serve(**inputs)["probability"].numpy()}, index=model_input.index
        )


def _load_pyfunc(data_path: str) -> ClickModel:
    """What MLflow calls."""
    return ClickModel(data_path)


def _strings(column: pd.Series, rank: int) -> Any:
    """Raw strings [n], or [n, longest] padded with `""`."""
    if rank == 1:
        return np.array([_text(column.name, value) for value in column], dtype=object)
    lists = [[_text(column.name, v) for v in _listed(value)] for value in column]
    width = max([1, *map(len, lists)])
    return np.array(
        [values + [""] * (width - len(values)) for values in lists], dtype=object
    ).reshape(len(lists), width)


def _listed(value: Any) -> list[Any]:
    if isinstance(value, list | tuple | np.ndarray):
        return list(value)
    return [] if _is_null(value) else [value]


def _text(name: Any, value: Any) -> str:
    if isinstance(value, list | tuple | np.ndarray | dict):
        raise ValueError(
            f"the field {name!r} has one value a row, not {type(value).__name__}: {value!r}"
        )
    if _is_null(value):
        return ""
    return (
        str(int(value))
        if isinstance(value, float | np.floating) and float(value).is_integer()
        else str(value)
    )


def _is_null(value: Any) -> bool:
    return (
        value is None
        or value is pd.NA
        or value is pd.NaT
        or (isinstance(value, float | np.floating) and bool(np.isnan(value)))
    )
