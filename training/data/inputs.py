"""From examples to what a step reads: keys, standardised numbers and p_uv, in batches."""

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
from training.data.layout import Layout
from training.data.scalers import Scaler, as_arrays
from training.models.cross_input import Encodings
from training.models.pooling import dense_inputs


@dataclass(frozen=True)
class Inputs:
    """What the models read of impressions, one per row.

    Attributes:
        keys: int64 [n, S], of the single-valued id fields.
        lists: keys of the multi-valued fields.
        dense: float32 [n, 2 * D], standardised numbers and flags.
        cross: float32 [n, R], p_uv of each relation.
        label: float32 [n].
        weight: float64 [n] ≥ 0, of an impression in the loss in any unit; None: the same for all.
        importance: float32 [n], expected share kept over an impression's own chance to be kept; None: all were kept.
        log_odds_shift: what drawing the impressions added to the log-odds of a click (`training.fit.sampling`).
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
        """Return each impression's factor in a batch's mean loss, float32 [n]: weight / mean weight · importance.

        The weights of the log are in units of their mean over the batch, so that only their ratios count and a step is as
        long as without them; where all are 0 nothing is learned. Importance is not divided by its mean: the gradient would
        no longer be unbiased.
        """
        factors = np.ones(len(self)) if self.weight is None else _in_units_of_mean(self.weight)
        return (factors if self.importance is None else factors * self.importance).astype(
            np.float32
        )

    def flat_keys(self) -> NDArray[np.int64]:
        """Return all keys, int64 [n * S + k]: the single-valued ones row by row, then list after list."""
        return np.concatenate([self.keys.reshape(-1), *(values.values for values in self.lists)])

    def flat_fields(self) -> NDArray[np.int16]:
        """Return for each of `flat_keys` its field's place in `Layout.keyed`, int16 [n * S + k]."""
        count = self.keys.shape[1]
        listed = [
            np.full(len(values.values), count + i, np.int16) for i, values in enumerate(self.lists)
        ]
        return np.concatenate([np.tile(np.arange(count, dtype=np.int16), len(self)), *listed])

    def segments(self) -> NDArray[np.int32]:
        """Return for each key of a list, int32 [k], `impression * lists + list` (see `pool_fields`)."""
        owners = [
            np.repeat(np.arange(len(self)), v.lengths()) * len(self.lists) + i
            for i, v in enumerate(self.lists)
        ]
        return np.concatenate([np.zeros(0, np.int64), *owners]).astype(np.int32)


@dataclass(frozen=True)
class Featurizer:
    """What turns examples into inputs: the schema, the scalers and the frozen encodings of one model."""

    schema: Schema
    relations: Sequence[Relation]
    scalers: Mapping[str, Scaler]
    encodings: Encodings

    def inputs(self, examples: Examples) -> Inputs:
        """Standardise the numbers and compute p_uv, block by block."""
        starts = range(0, max(1, len(examples)), _BLOCK)
        blocks = [examples.slice(start, start + _BLOCK) for start in starts]
        return Inputs(
            keys=examples.keys,
            lists=examples.lists,
            dense=np.concatenate([self._dense(block) for block in blocks]),
            cross=np.concatenate([self._cross(block) for block in blocks]),
            label=examples.label,
            weight=examples.weight,
        )

    def _dense(self, examples: Examples) -> NDArray[np.float32]:
        means, stds = as_arrays(self.scalers, Layout.of(self.schema).dense)
        values: NDArray[np.float32] = dense_inputs(
            tf.constant(examples.numbers),
            tf.constant(examples.present),
            tf.constant(means),
            tf.constant(stds),
        ).numpy()
        return values

    def _cross(self, examples: Examples) -> NDArray[np.float32]:
        columns = [
            self._column(relation.name, examples.pairs[:, i])
            for i, relation in enumerate(self.relations)
        ]
        return np.stack(columns, axis=1) if columns else np.zeros((len(examples), 0), np.float32)

    def _column(self, relation: str, pairs: NDArray[np.int64]) -> NDArray[np.float32]:
        encoding = self.encodings.get(relation)
        return np.zeros(len(pairs), np.float32) if encoding is None else encoding.column(pairs)


_BLOCK = 65_536


def _in_units_of_mean(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    largest = weights.max(initial=0.0)
    if not largest:
        return np.zeros(len(weights))
    parts = weights / largest  # a sum of very large weights must not overflow
    return parts / parts.mean()
