"""From examples to the inputs of a training step: keys, standardised numbers and p_uv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from elastic_embeddings.core.ragged import Ragged
from features.schema import Relation, Schema
from training.data.examples import Examples
from training.data.scalers import Scaler, as_arrays
from training.models.encoding_inputs import Encodings
from training.models.pooling import dense_inputs

# Impressions that are featurised at a time, which bounds the memory for intermediate float64.
_BLOCK = 65_536


@dataclass(frozen=True)
class Inputs:
    """The inputs of the models, one impression per row.

    Attributes:
        keys: int64 [n, S], of the single-valued id fields.
        lists: keys of the pooled fields.
        dense: float32 [n, 2 * D], standardised numbers and flags.
        cross: float32 [n, R], p_uv of each relation.
        label: float32 [n].
        weight: float64 [n] ≥ 0, sample weights in any unit; None: all equal.
        importance: float32 [n], the expected share of impressions kept by sampling, divided by
            the impression's own probability of being kept; None: all were kept.
        log_odds_shift: what sampling added to the log-odds of a click (`training.fit.sampling`).
    """

    keys: NDArray[np.int64]
    lists: tuple[Ragged, ...]
    dense: NDArray[np.float32]
    cross: NDArray[np.float32]
    label: NDArray[np.float32]
    weight: NDArray[np.float64] | None = None
    importance: NDArray[np.float32] | None = None
    log_odds_shift: float = 0.0

    def __len__(self) -> int:
        return len(self.label)

    def take(self, indices: NDArray[np.int64]) -> Self:
        """Return the impressions at these positions, int64 [b], in that order."""
        return type(self)(
            keys=self.keys[indices],
            lists=tuple(values.take(indices) for values in self.lists),
            dense=self.dense[indices],
            cross=self.cross[indices],
            label=self.label[indices],
            weight=None if self.weight is None else self.weight[indices],
            importance=None if self.importance is None else self.importance[indices],
            log_odds_shift=self.log_odds_shift,
        )

    def loss_weights(self) -> NDArray[np.float32]:
        """Return each impression's factor in a batch's mean loss, float32 [n].

        The factor is weight / mean weight · importance; it is 0 where all weights are 0.
        """
        factors = np.ones(len(self))
        if self.weight is not None:
            largest = self.weight.max(initial=0.0)
            # Dividing by the mean keeps the step size the same as without weights: only their
            # ratios count. Dividing by the largest first keeps the mean's sum from overflowing.
            relative = self.weight / largest if largest else np.zeros(len(self))
            factors = relative / relative.mean() if largest else relative
        # Importance is not divided by its mean: that would bias the gradient.
        weighted = factors if self.importance is None else factors * self.importance
        return weighted.astype(np.float32)

    def flat_keys(self) -> NDArray[np.int64]:
        """Return all keys, int64 [n * S + k]: single-valued fields by row, then list after list."""
        return np.concatenate([self.keys.reshape(-1), *(values.values for values in self.lists)])

    def flat_fields(self) -> NDArray[np.int16]:
        """Return the position in `FieldLayout.keyed` of the field of each of `flat_keys`, int16."""
        # int16, because there is one number per key of the batch.
        count = self.keys.shape[1]
        listed = [
            np.full(len(values.values), count + i, np.int16) for i, values in enumerate(self.lists)
        ]
        return np.concatenate([np.tile(np.arange(count, dtype=np.int16), len(self)), *listed])

    def segments(self) -> NDArray[np.int32]:
        """Return for each key of a list, int32 [k], `impression * lists + list`.

        These are the segments that `training.models.pooling.pool_fields` sums over.
        """
        owners = [
            np.repeat(np.arange(len(self)), v.lengths()) * len(self.lists) + i
            for i, v in enumerate(self.lists)
        ]
        return np.concatenate([np.zeros(0, np.int64), *owners]).astype(np.int32)


@dataclass(frozen=True)
class Featurizer:
    """Converts examples to inputs by the schema, scalers and frozen encodings of a model."""

    schema: Schema
    relations: Sequence[Relation]
    scalers: Mapping[str, Scaler]
    encodings: Encodings

    def inputs(self, examples: Examples) -> Inputs:
        """Return the inputs of examples: standardised numbers and p_uv, computed in blocks."""
        means, stds = as_arrays(self.scalers, [field.name for field in self.schema.dense_fields()])
        dense, cross = [], []
        for start in range(0, max(1, len(examples)), _BLOCK):
            block = examples.slice(start, start + _BLOCK)
            # The operations of the exported graph, so that served inputs equal trained ones.
            scaled = dense_inputs(
                tf.constant(block.numbers),
                tf.constant(block.present),
                tf.constant(means),
                tf.constant(stds),
            )
            dense.append(scaled.numpy())
            p_uv = np.zeros((len(block), len(self.relations)), np.float32)
            for i, relation in enumerate(self.relations):
                if encoding := self.encodings.get(relation.name):
                    p_uv[:, i] = encoding.column(block.pairs[:, i])
            cross.append(p_uv)
        return Inputs(
            keys=examples.keys,
            lists=examples.lists,
            dense=np.concatenate(dense),
            cross=np.concatenate(cross),
            label=examples.label,
            weight=examples.weight,
        )
