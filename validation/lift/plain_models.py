"""The models that a team has before elastic embeddings, retrained daily, and their fusion.

Logistic regression on one-hot ids and gradient-boosted trees on the ids' click rates, both
scikit-learn's. The fusion is the mean of their probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

LOGISTIC, TREES, FUSION = "logistic regression", "boosted trees", "fusion"

# Chosen on the first two days of another simulated world (seed 3), by log loss on the third.
_MIN_FREQUENCY, _INVERSE_PENALTY, _TREES, _LEAVES = 3, 0.05, 100, 63


class PlainModels:
    """Both models. They read columns of the log unchanged.

    Args:
        ids: columns of ids or texts; a joined list of values counts as one value.
        numbers: columns of numbers, in which NaN is missing.
    """

    def __init__(self, ids: Sequence[str], numbers: Sequence[str]) -> None:
        self._ids, self._numbers = list(ids), list(numbers)
        self._models: dict[str, Any] = {}

    def fit(self, rows: pd.DataFrame, label: NDArray[np.bool_]) -> PlainModels:
        """Train both models on rows of the log and return them.

        Args:
            rows: n rows with all columns.
            label: bool [n].
        """
        from sklearn.compose import make_column_transformer
        from sklearn.ensemble import HistGradientBoostingClassifier
        from sklearn.impute import SimpleImputer
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedKFold
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import OneHotEncoder, StandardScaler, TargetEncoder

        one_hot = OneHotEncoder(
            handle_unknown="infrequent_if_exist", min_frequency=_MIN_FREQUENCY, dtype=np.float32
        )
        # Rates of folds that a row is not in: its own label is not in its feature.
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        numbers = make_pipeline(SimpleImputer(), StandardScaler())
        self._models = {
            LOGISTIC: make_pipeline(
                make_column_transformer((one_hot, self._ids), (numbers, self._numbers)),
                LogisticRegression(C=_INVERSE_PENALTY, max_iter=300),
            ),
            TREES: make_pipeline(
                make_column_transformer(
                    (TargetEncoder(target_type="binary", cv=folds), self._ids),
                    ("passthrough", self._numbers),
                ),
                HistGradientBoostingClassifier(
                    max_iter=_TREES, max_leaf_nodes=_LEAVES, early_stopping=False, random_state=0
                ),
            ),
        }
        for model in self._models.values():
            model.fit(rows, label)
        return self

    def probabilities(self, rows: pd.DataFrame) -> Mapping[str, NDArray[np.float64]]:
        """Return each model's probabilities, and the fusion's, float64 [n]."""
        own = {name: model.predict_proba(rows)[:, 1] for name, model in self._models.items()}
        return {**own, FUSION: np.mean(list(own.values()), axis=0)}
