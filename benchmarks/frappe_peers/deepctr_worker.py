"""DeepCTR 0.9.4: its WDL and DeepFM, learned by `fit` of legacy Keras, as documented. Runs in its
environment alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from deepctr.feature_column import SparseFeat
from deepctr.models import WDL, DeepFM
from harness.frappe_data import FIELDS, Frappe, Split
from numpy.typing import NDArray


class _Trainer:
    def __init__(self, model: tf.keras.Model, data: Frappe, batch: int) -> None:
        self._model, self._batch = model, batch
        self._columns, self._label = _columns(data.train), data.train.label

    def learn_epoch(self, number: int) -> None:
        """Learn all training rows once, in an order of Keras' own."""
        self._model.fit(
            self._columns, self._label, batch_size=self._batch, epochs=1, shuffle=True, verbose=0
        )

    def probabilities(self, split: Split) -> NDArray[np.floating]:
        """Return the probability of each row, float [n]."""
        probabilities: NDArray[np.floating] = self._model.predict(
            _columns(split), batch_size=self._batch, verbose=0
        )
        return probabilities.reshape(-1)

    def stalled(self) -> None:
        """It keeps its rate: what it ships has no rule for a plateau."""


def create(data: Frappe, settings: dict[str, Any], seed: int) -> _Trainer:
    """Return the trainer of `settings["kind"]`: wdl or deepfm."""
    tf.config.threading.set_intra_op_parallelism_threads(settings["threads"])
    tf.keras.utils.set_random_seed(seed)
    features = [
        SparseFeat(name, size + 1, settings["dim"])
        for name, size in zip(FIELDS, data.sizes, strict=True)
    ]
    options = {
        "dnn_hidden_units": settings["hidden"],
        "l2_reg_linear": settings["linear_l2"],
        "l2_reg_embedding": settings["embedding_l2"],
        "dnn_dropout": settings["dropout"],
        "seed": seed,
    }
    if settings["kind"] == "wdl":
        model = WDL(features, features, **options)
    else:
        model = DeepFM(features, features, dnn_use_bn=settings["batch_norm"], **options)
    model.compile(tf.keras.optimizers.Adam(settings["learning_rate"]), "binary_crossentropy")
    return _Trainer(model, data, settings["batch"])


def _columns(split: Split) -> dict[str, NDArray[np.int32]]:
    return {name: split.codes[:, i] for i, name in enumerate(FIELDS)}
