"""Scoring impressions with a trained or a compressed model, without a training table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.checkpoints import TrainedModel, read_checkpoint
from training.examples import Examples
from training.forward import Forward
from training.groups import own_slab
from training.inputs import Featurizer
from training.models.build import build_model
from training.routing import Routing


class Scorer:
    """Gives click probabilities; a key without a row counts as the zero vector.

        probabilities = Scorer.load(checkpoint).score(read_examples(partition, schema, relations))

    On a checkpoint it gives the trainer's probabilities, and on a losslessly compressed one the same, to the bit.
    """

    def __init__(self, trained: TrainedModel) -> None:
        about = trained.description
        self.description = about
        model = build_model(about.schema, about.model, about.relations)
        model.load(trained.dense)
        self._featurizer = Featurizer(about.schema, about.relations, about.scalers, trained.encodings)
        self._routing = Routing.of(model.layout, model.groups)
        self._keys = {name: rows.keys for name, rows in trained.tables().items()}
        self._slabs = {name: _with_zero_row(rows) for name, rows in trained.slabs().items()}
        self._forward = Forward(model, self._vectors)

    @classmethod
    def load(cls, folder: Path) -> Scorer:
        """Load a `checkpoint` or a `compressed` folder.

        Raises:
            InputError: the folder is incomplete or damaged.
        """
        return cls(read_checkpoint(folder))

    def score(self, examples: Examples) -> NDArray[np.float32]:
        """Return the click probabilities, float32 [n], of examples read with the model's schema and relations."""
        return self._forward.probabilities(self._featurizer.inputs(examples))

    def _vectors(self, keys: NDArray[np.int64], fields: NDArray[np.int16]) -> dict[str, NDArray[np.float32]]:
        rows = {name: _rows(self._keys[name], own) for name, own, _ in self._routing.split(keys, fields)}
        return {name: slab[rows[own_slab(name)[0]]] for name, slab in self._slabs.items()}


def _rows(known: NDArray[np.int64], keys: NDArray[np.int64]) -> NDArray[np.int32]:
    """Rows int32 of keys among the ascending known ones; the zero row 0 where the key is unknown."""
    if not len(known):
        return np.zeros(len(keys), np.int32)
    found = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[found] == keys, found + 1, 0).astype(np.int32)


def _with_zero_row(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([np.zeros((1, rows.shape[1]), np.float32), rows])
