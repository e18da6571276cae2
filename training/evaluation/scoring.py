"""Scoring of impressions with a trained or a compressed model, without a training table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.examples import Examples
from training.data.inputs import Featurizer
from training.fit.checkpoints import TrainedModel, read_checkpoint
from training.fit.frozen_rows import FrozenRows
from training.fit.grouped_table import Routing
from training.fit.inference import Forward
from training.fit.threads import use_threads_for
from training.models.ctr import build_model


class Scorer:
    """Computes click probabilities; a key without a row counts as the zero vector.

        probabilities = Scorer.load(checkpoint).score(read_examples(partition, schema, relations))

    With a checkpoint they are the trainer's probabilities, and with a losslessly compressed one the
    same, bit by bit.
    """

    def __init__(self, trained: TrainedModel) -> None:
        self.description = saved = trained.description
        # As in training: a process that scores before it trains gives the same bytes as others.
        use_threads_for(saved.training.batch_size)
        model = build_model(saved.schema, saved.model, saved.relations)
        model.load(trained.dense)
        self._featurizer = Featurizer(
            saved.schema, saved.relations, saved.scalers, trained.encodings
        )
        # The same forward pass as in training, over the rows as arrays.
        rows = FrozenRows(trained, Routing.of(model.layout, model.groups))
        self._forward = Forward(model, rows.lookup_all)

    @classmethod
    def load(cls, folder: Path) -> Scorer:
        """Load a `checkpoint` or a `compressed` folder.

        Raises:
            InputError: the folder is incomplete or damaged.
        """
        return cls(read_checkpoint(folder))

    def score(self, examples: Examples) -> NDArray[np.float32]:
        """Return click probabilities, float32 [n], of examples with the model's schema."""
        return self._forward.probabilities(self._featurizer.inputs(examples))
