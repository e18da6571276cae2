"""Scoring impressions with a trained or a compressed model, without a training table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.data.examples import Examples
from training.data.inputs import Featurizer
from training.fit.checkpoints import TrainedModel, read_checkpoint
from training.fit.frozen_rows import FrozenRows
from training.fit.inference import Forward
from training.fit.routing import Routing
from training.fit.threads import use_threads_for
from training.models.build import build_model


class Scorer:
    """Gives click probabilities; a key without a row counts as the zero vector.

        probabilities = Scorer.load(checkpoint).score(read_examples(partition, schema, relations))

    On a checkpoint it gives the trainer's probabilities, and on a losslessly compressed one the same, to the bit.
    """

    def __init__(self, trained: TrainedModel) -> None:
        about = trained.description
        # Like training, so that a process that scores before it learns gives the same bytes as one that only learns.
        use_threads_for(about.training.batch_size)
        self.description = about
        model = build_model(about.schema, about.model, about.relations)
        model.load(trained.dense)
        self._featurizer = Featurizer(
            about.schema, about.relations, about.scalers, trained.encodings
        )
        self._forward = Forward(
            model, FrozenRows(trained, Routing.of(model.layout, model.groups)).lookup_all
        )

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
