"""FuxiCTR 2.3.10: its layers composed as LR, FM, DNN and DeepFM, and its own DCNv2. Runs in its
environment alone.

The wheel has no DeepFM and its DCNv2 takes a sequence beside the fields, so both are put together
here of its parts; the step (loss, regulariser, clipped gradients, Adam), the decay of the rate on a
plateau and the initial weights are the library's own. Batches are sliced from tensors: its own
loader goes through Ray.
"""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.layers import (
    FactorizationMachine,
    FeatureEmbedding,
    LogisticRegression,
    MLP_Block,
)
from fuxictr.pytorch.models import BaseModel
from fuxictr.pytorch.torch_utils import seed_everything
from harness.frappe_data import FIELDS, Frappe, Split, shuffled
from model_zoo.LongCTR.DCNv2 import DCNv2
from numpy.typing import NDArray

_LABEL = "label"
Batch = dict[str, torch.Tensor]


class _Summed(BaseModel):
    """The sigmoid of a sum of logits: linear or factorisation machine, and an MLP."""

    def __init__(
        self, fields: FeatureMap, settings: dict[str, Any], shallow: str, **common: Any
    ) -> None:
        super().__init__(fields, model_id="summed", **common)
        self.embedding_layer = (
            FeatureEmbedding(fields, settings["dim"]) if shallow != "linear" else None
        )
        self.shallow = {
            "linear": LogisticRegression,
            "fm": FactorizationMachine,
            "none": lambda _: None,
        }[shallow](fields)
        self.mlp = _mlp(len(FIELDS) * settings["dim"], settings) if settings["hidden"] else None
        self.compile("adam", "binary_crossentropy", settings["learning_rate"])
        self.reset_parameters()

    def forward(self, inputs: Batch) -> dict[str, torch.Tensor]:
        """Return `y_pred`, the probabilities."""
        fields = self.get_inputs(inputs)
        vectors = self.embedding_layer(fields) if self.embedding_layer else None
        logits = [self.mlp(vectors.flatten(start_dim=1))] if self.mlp else []
        if isinstance(self.shallow, LogisticRegression):
            logits.append(self.shallow(fields))
        elif self.shallow:
            logits.append(self.shallow(fields, vectors))
        return {"y_pred": self.output_activation(sum(logits))}


class _PlainDCNv2(DCNv2):
    """Its DCNv2, parallel, without the sequence."""

    get_inputs, get_labels, train_step = (
        BaseModel.get_inputs,
        BaseModel.get_labels,
        BaseModel.train_step,
    )

    def forward(self, inputs: Batch) -> dict[str, torch.Tensor]:
        """Return `y_pred`, the probabilities."""
        vectors = self.embedding_layer(self.get_inputs(inputs), flatten_emb=True)
        both = torch.cat([self.crossnet(vectors), self.parallel_dnn(vectors)], dim=-1)
        return {"y_pred": self.output_activation(self.fc(both))}


class _Trainer:
    def __init__(self, model: BaseModel, data: Frappe, batch: int, seed: int) -> None:
        self._model, self._batch, self._seed = model, batch, seed
        self._model._max_gradient_norm = 10.0  # what its `fit` sets
        self._train = _tensors(data.train)

    def learn_epoch(self, number: int) -> None:
        """Learn all training rows once, in the order that the number draws."""
        self._model.train()
        total = 0.0
        for rows in shuffled(len(self._train[_LABEL]), self._batch, (self._seed, number)):
            chosen = torch.from_numpy(rows)
            total += self._model.train_step(
                {name: column[chosen] for name, column in self._train.items()}
            ).item()

    def probabilities(self, split: Split) -> NDArray[np.floating]:
        """Return the probability of each row, float [n]."""
        columns = _tensors(split)
        cuts = [slice(start, start + self._batch) for start in range(0, len(split), self._batch)]
        probabilities: NDArray[np.floating] = self._model.predict(
            [{n: c[cut] for n, c in columns.items()} for cut in cuts]
        )
        return probabilities

    def stalled(self) -> None:
        """Learn on at a tenth of the rate."""
        self._model.lr_decay()


def create(data: Frappe, settings: dict[str, Any], seed: int) -> _Trainer:
    """Return the trainer of `settings["kind"]`: lr, fm, dnn, deepfm or dcnv2."""
    torch.set_num_threads(settings["threads"])
    seed_everything(seed)
    return _Trainer(
        _model(_feature_map(data, settings["dim"]), settings), data, settings["batch"], seed
    )


def _model(fields: FeatureMap, settings: dict[str, Any]) -> BaseModel:
    common = {
        "embedding_regularizer": settings["embedding_l2"],
        "verbose": 0,
        "model_root": tempfile.gettempdir(),
        "metrics": ["AUC"],
    }
    if settings["kind"] == "dcnv2":
        return _PlainDCNv2(
            fields,
            embedding_dim=settings["dim"],
            num_cross_layers=settings["cross_layers"],
            parallel_dnn_hidden_units=settings["hidden"],
            net_dropout=settings["dropout"],
            batch_norm=settings["batch_norm"],
            learning_rate=settings["learning_rate"],
            optimizer="adam",
            loss="binary_crossentropy",
            **common,
        )
    return _Summed(
        fields,
        settings,
        {"lr": "linear", "fm": "fm", "dnn": "none", "deepfm": "fm"}[settings["kind"]],
        **common,
    )


def _mlp(inputs: int, settings: dict[str, Any]) -> MLP_Block:
    return MLP_Block(
        input_dim=inputs,
        output_dim=1,
        hidden_units=settings["hidden"],
        dropout_rates=settings["dropout"],
        batch_norm=settings["batch_norm"],
    )


def _feature_map(data: Frappe, dim: int) -> FeatureMap:
    fields = FeatureMap("frappe", str(Path(tempfile.gettempdir())))
    fields.features = OrderedDict(
        (name, {"type": "categorical", "source": "", "vocab_size": size + 1})
        for name, size in zip(FIELDS, data.sizes, strict=True)
    )
    fields.labels, fields.num_fields, fields.default_emb_dim = [_LABEL], len(FIELDS), dim
    return fields


def _tensors(split: Split) -> Batch:
    columns = {
        name: torch.from_numpy(split.codes[:, i].astype(np.int64)) for i, name in enumerate(FIELDS)
    }
    return columns | {_LABEL: torch.from_numpy(split.label)}
