"""Serve an exported click model through MLflow: rows of raw values in, `probability` out.

A copy of this file is stored with the model (`code/`), so it imports TensorFlow, NumPy and pandas
only. Values may be strings or numbers. A multi-valued field has a list of strings in each row.
"""

from __future__ import annotations

import os
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf

ROWS_VARIABLE = "ELASTIC_CTR_MAX_ROWS"
MAX_ROWS = int(os.environ.get(ROWS_VARIABLE) or 50_000)
"""How many rows a request may have: a larger one would hold a server for many seconds."""


class ClickModel:
    """An exported model with the `predict` that MLflow expects."""

    def __init__(self, saved_model: str) -> None:
        # Held, because TensorFlow frees the variables of a model that nothing refers to.
        self._loaded = tf.saved_model.load(saved_model)
        self._serve = self._loaded.signatures["serving_default"]
        specs = self._serve.structured_input_signature[1]
        self._ranks = {name: spec.shape.rank for name, spec in specs.items()}

    def predict(
        self, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Return the column `probability`, float32 in [0, 1], of rows in their order.

        Raises:
            ValueError: there are more than `MAX_ROWS` rows, a field's column is missing, or a
                single-valued field has a list.
        """
        if len(model_input) > MAX_ROWS:
            raise ValueError(
                f"{len(model_input):,} rows in one request, at most {MAX_ROWS:,}: send them in "
                f"parts, or set {ROWS_VARIABLE} of the server"
            )
        missing = sorted(set(self._ranks) - set(model_input.columns))
        if missing:
            raise ValueError(
                f"the columns {missing} are missing; the model reads {sorted(self._ranks)}"
            )
        inputs = {
            name: tf.constant(_strings(model_input[name], rank), tf.string)
            for name, rank in self._ranks.items()
        }
        probability = self._serve(**inputs)["probability"].numpy()
        return pd.DataFrame({"probability": probability}, index=model_input.index)


def _load_pyfunc(data_path: str) -> ClickModel:
    """Load the model. MLflow calls this function by its name."""
    return ClickModel(data_path)


def _strings(column: pd.Series, rank: int) -> Any:
    """Return raw strings [n], or [n, longest list] padded with `""`."""
    if rank == 1:
        return np.array([_text(column.name, value) for value in column], dtype=object)
    lists = [[_text(column.name, each) for each in _elements(value)] for value in column]
    width = max([1, *map(len, lists)])
    padded = [values + [""] * (width - len(values)) for values in lists]
    # Without rows NumPy cannot infer the second dimension.
    return np.array(padded, dtype=object).reshape(len(lists), width)


def _elements(value: Any) -> list[Any]:
    if isinstance(value, list | tuple | np.ndarray):
        return list(value)
    return [] if _is_null(value) else [value]


def _text(name: Any, value: Any) -> str:
    if isinstance(value, list | tuple | np.ndarray | dict):
        raise ValueError(
            f"the field {name!r} has one value per row, not {type(value).__name__}: {value!r}"
        )
    if _is_null(value):
        return ""
    # The spelling of ingest (`features.canonical.float_text`), which this copy cannot import.
    if isinstance(value, float | np.floating):
        if float(value).is_integer() and abs(float(value)) < 2.0**63:
            return str(int(value))
        return repr(float(str(value)))
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def _is_null(value: Any) -> bool:
    if isinstance(value, float | np.floating):
        return bool(np.isnan(value))
    return value is None or value is pd.NA or value is pd.NaT
