"""Learned gates: every use of a field is switched by chance, so that learning tells which fields the model can do without.

Two rules of one form (papers: FSCD, Ma et al., SIGIR 2021; DropRank, Chang et al., 2017). Use j is kept with probability δ_j;
its values enter the model as `value / δ_j · z_j`, where z_j is a Bernoulli(δ_j), relaxed so that δ_j has a gradient. FSCD draws
one z for a batch, DropRank one for each impression; `penalty` is what keeping costs.

The division by δ is EasyRec's, and is what keeps gates honest. The mean of `z / δ` is 1, so there is no small factor that an
embedding or the next layer could grow to cancel; the gate acts through its noise alone, whose size relative to the signal,
√((1 - δ) / δ), is the same at every scale. For the same reason a model that learned with gates is scored, ranked by and exported
without them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from training.data.arrays import Arrays
from training.data.field_groups import Group, own_slab
from training.data.layout import Layout
from training.models.blocks import Blocks, Weights, load_weights

if TYPE_CHECKING:
    from training.fit.learner import Model

LOGITS = "gates/logits"
"""The gates among the dense weights: float32 [uses], each logit's way from where it began, in units of `GateRule.speed`."""


class Draw(StrEnum):
    """What shares one draw of the gates."""

    BATCH = "batch"
    EXAMPLE = "example"


@dataclass(frozen=True)
class GateRule:
    """How gates are drawn, and how they move while `GatedModel.progress` goes from 0 to 1.

    Attributes:
        draw: one z for a batch (FSCD) or for each impression (DropRank).
        temperatures: of the relaxation, at the start and at the end; geometric between.
        initial_keep: every δ at the start.
        keep_range: what no δ leaves, both ends in (0, 1); the smallest bounds `1 / δ`.
        speed: logits move this much faster than other dense weights: they have as many steps and further to go.
        ramp: share of learning in which the penalty rises from 0 to its whole; 0: it is whole from the start.
    """

    draw: Draw = Draw.BATCH
    temperatures: tuple[float, float] = (0.5, 0.1)
    initial_keep: float = 0.8
    keep_range: tuple[float, float] = (0.05, 0.99)
    speed: float = 1.0
    ramp: float = 0.0


class GatedModel:
    """A model with a gate before every use of a field; everything else is the inner model's.

    A use is an id field (its column in every slab), a number (value and flag) or a relation: fields that share a vocabulary
    have a gate each, those of a group in `model.groups` one together.

    Args:
        inner: the model, whose weights learn on.
        rule: of the gates.
        costs: float64 [uses], the price of keeping each use, in nats per unit of δ.

    Attributes:
        progress: float32 [], 0 … 1: how much of learning is done; the learning loop sets it.
    """

    def __init__(self, inner: Model, rule: GateRule, costs: NDArray[np.float64]) -> None:
        self.layout: Layout = inner.layout
        self.groups: tuple[Group, ...] = inner.groups
        self.inner = inner
        self.rule = rule
        self.progress = tf.Variable(0.0, trainable=False, name="progress")
        self._costs = tf.constant(costs, tf.float32)
        self._gate_of = _gates(inner.layout, inner.groups)
        self._moved = tf.Variable(
            tf.zeros(len(uses(inner.layout))), trainable=False, name=LOGITS.replace("/", "_")
        )

    @property
    def slabs(self) -> dict[str, int]:
        """Those of the inner model."""
        return self.inner.slabs

    def blocks(self) -> dict[str, Blocks]:
        """Those of the inner model, and which gate belongs to which use."""
        layout = self.layout
        kinds = [("field", layout.keyed), ("dense", layout.dense), ("cross", layout.relations)]
        return self.inner.blocks() | {
            LOGITS: Blocks.of([(f"{kind}:{name}", 1) for kind, names in kinds for name in names])
        }

    def variables_by_name(self) -> dict[str, tf.Variable]:
        """Dense weights and gates, for the optimizer."""
        return self.inner.variables_by_name() | {LOGITS: self._moved}

    def weights(self) -> Arrays:
        """Return dense weights and gates, as float32 arrays."""
        return self.inner.weights() | {LOGITS: self._moved.numpy()}

    def load(self, weights: Weights) -> None:
        """Set dense weights and gates.

        Raises:
            InputError: a weight is missing, unknown, or of another shape.
        """
        load_weights(
            {LOGITS: self._moved}, {name: w for name, w in weights.items() if name == LOGITS}
        )
        self.inner.load({name: w for name, w in weights.items() if name != LOGITS})

    def start_at(self, logit: float) -> None:
        """Set the bias of the inner model."""
        self.inner.start_at(logit)

    def keep(self) -> dict[str, float]:
        """Return δ of each use, by name: its importance."""
        return dict(zip(uses(self.layout), map(float, self._keep().numpy()), strict=True))

    def penalty(self) -> tf.Tensor:
        """Return `ramp · Σ cost_j · δ_j`, float32 []: what learning adds to the mean log loss."""
        rise = (
            tf.minimum(1.0, self.progress / self.rule.ramp) if self.rule.ramp else tf.constant(1.0)
        )
        return rise * tf.reduce_sum(self._costs * self._keep())

    def forward(
        self,
        vectors: Mapping[str, tf.Tensor],
        dense: tf.Tensor,
        cross: tf.Tensor,
        dropout_seed: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Return the inner model's logits [b]; in learning, where there is a seed, of gated inputs.

        Args:
            vectors: by slab float32 [b, F, width], of its group's fields.
            dense: float32 [b, 2 * D].
            cross: float32 [b, R].
            dropout_seed: int64 [2].
        """
        if dropout_seed is None:
            return self.inner.forward(vectors, dense, cross)
        ids, numbers, relations = tf.split(
            self._factors(tf.shape(dense)[0], dropout_seed), self._counts(), axis=1
        )
        gated = {
            name: rows * self._of_slab(name, ids)[:, :, None] for name, rows in vectors.items()
        }
        return self.inner.forward(
            gated, dense * tf.repeat(numbers, 2, axis=1), cross * relations, dropout_seed
        )

    def _factors(self, batch: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Return `z / δ`, float32 [b or 1, uses]."""
        keep = self._keep()
        rows = batch if self.rule.draw is Draw.EXAMPLE else tf.constant(1)
        shape = tf.stack([rows, tf.constant(keep.shape[0])])
        uniform = tf.random.stateless_uniform(shape, seed + tf.constant(_SALT, seed.dtype))
        return concrete(keep, self._shared(uniform), temperature(self.rule, self.progress)) / keep

    def _keep(self) -> tf.Tensor:
        least, most = self.rule.keep_range
        start = (self.rule.initial_keep - least) / (most - least)
        logits = float(np.log(start / (1 - start))) + self.rule.speed * self._moved
        return self._shared(least + (most - least) * tf.sigmoid(logits))

    def _shared(self, values: tf.Tensor) -> tf.Tensor:
        """Give each use of a group [..., uses] the value of the group's first; others stay as they are."""
        return (
            values
            if len(self.groups) == 1 and not self.groups[0].name
            else tf.gather(values, self._gate_of, axis=-1)
        )

    def _of_slab(self, slab: str, ids: tf.Tensor) -> tf.Tensor:
        """Factors [b or 1, F] of the fields of a slab's group, of those of all id fields."""
        if len(self.groups) == 1:
            return ids
        names = next(group.layout.keyed for group in self.groups if group.name == own_slab(slab)[0])
        return tf.gather(ids, [self.layout.keyed.index(name) for name in names], axis=1)

    def _counts(self) -> list[int]:
        return [len(self.layout.keyed), len(self.layout.dense), len(self.layout.relations)]


def uses(layout: Layout) -> tuple[str, ...]:
    """Return the names of what has a gate, in the order of the gates: id fields, numbers, relations."""
    return layout.keyed + layout.dense + layout.relations


def _gates(layout: Layout, groups: Sequence[Group]) -> list[int]:
    """By use, the place of the use whose gate it has: the first of its group, or itself."""
    names = uses(layout)
    first = {
        name: group.layout.keyed[0] for group in groups if group.name for name in group.layout.keyed
    }
    return [names.index(first.get(name, name)) for name in names]


def concrete(keep: tf.Tensor, uniform: tf.Tensor, temperature: tf.Tensor | float) -> tf.Tensor:
    """Return relaxed Bernoulli draws `σ((logit δ + logit u) / t)` in (0, 1) (Maddison et al., Jang et al., ICLR 2017).

    A draw is above ½ with probability δ at every temperature; as t → 0 it becomes 0 or 1.

    Args:
        keep: float [uses], δ in (0, 1).
        uniform: float [..., uses], in [0, 1).
        temperature: t > 0.
    """
    u = tf.clip_by_value(uniform, _TINY, 1 - _TINY)
    return tf.sigmoid((_logit(keep) + _logit(u)) / temperature)


def temperature(rule: GateRule, progress: tf.Tensor | float) -> tf.Tensor:
    """Return `t₀ · (t₁ / t₀)^progress`, float32 []."""
    first, last = rule.temperatures
    return first * tf.pow(tf.constant(last / first, tf.float32), progress)


def _logit(probability: tf.Tensor) -> tf.Tensor:
    return tf.math.log(probability) - tf.math.log1p(-probability)


_TINY = 1e-6

_SALT = (0x6A7E, 0)
"""Keeps the gates' draws apart from those of dropout, which has the same seed."""
