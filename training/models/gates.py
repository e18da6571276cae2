"""Trainable gates: every use of a field is switched at random, which shows the uses that matter.

Two rules of one form (FSCD: Ma et al., SIGIR 2021; DropRank: Chang et al., 2017). Use j is kept
with probability δ_j. Its values enter the model as `value / δ_j · z_j`, where z_j is a
Bernoulli(δ_j) variable, relaxed so that δ_j has a gradient. FSCD draws one z for a batch, DropRank
one for each impression; `penalty` is the cost of keeping.

The division by δ is EasyRec's. It keeps the mean of `z / δ` near 1, so there is no small factor
that an embedding or the next layer could grow to cancel. The mean is 1 only for unrelaxed z: at
temperature 0.5, where training starts by default, it is 1.37 at δ = 0.05, 1.08 at δ = 0.3 and 0.96
at δ = 0.8; at 0.1, where training ends, it is within 2 % of 1. So the gate acts through its noise,
whose size relative to the signal, √((1 - δ) / δ) as t → 0, is the same at every scale. For the same
reason a model that was trained with gates is scored, ranked and exported without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from training.data.arrays import Arrays
from training.data.layout import FieldLayout, Group, split_slab
from training.models.weight_transfer import Blocks, Weights, load_weights

if TYPE_CHECKING:
    from training.fit.learner import Model

LOGITS = "gates/logits"
"""Name of the gates' weight: float32 [uses], each logit's change since the start / `speed`."""

# Keeps logarithms of uniform draws finite.
_TINY = 1e-6

# Separates the gates' draws from those of dropout, which have the same seed.
_SALT = (0x6A7E, 0)


class Draw(StrEnum):
    """What shares one draw of the gates."""

    BATCH = "batch"
    EXAMPLE = "example"


@dataclass(frozen=True)
class GateRule:
    """How gates are drawn, and how they move while `GatedModel.progress` goes from 0 to 1.

    Attributes:
        draw: one z for a batch (FSCD) or for each impression (DropRank).
        temperatures: of the relaxation, at the start and at the end; geometric in between.
        initial_keep: every δ at the start.
        keep_range: limits of every δ, both in (0, 1); the lower one bounds `1 / δ`.
        speed: factor on the steps of the logits, which have as many steps as other dense weights
            but have to move further.
        ramp: share of training in which the penalty rises from 0 to its full size; 0: no ramp.
    """

    draw: Draw = Draw.BATCH
    temperatures: tuple[float, float] = (0.5, 0.1)
    initial_keep: float = 0.8
    keep_range: tuple[float, float] = (0.05, 0.99)
    speed: float = 1.0
    ramp: float = 0.0


class GatedModel:
    """A model with a gate in front of every use of a field.

    A use is an id field (its column in every slab), a number (value and flag) or a relation.
    Fields that share a vocabulary have a gate each; those of a group in `model.groups` share one.

    Args:
        inner: the model, whose weights continue to be trained.
        rule: of the gates.
        costs: float64 [uses], the price of keeping each use, in nats per unit of δ.

    Attributes:
        progress: float32 [], from 0 to 1, the share of training that is done; set by the caller.
    """

    def __init__(self, inner: Model, rule: GateRule, costs: NDArray[np.float64]) -> None:
        self.layout: FieldLayout = inner.layout
        self.groups: tuple[Group, ...] = inner.groups
        self.inner = inner
        self.rule = rule
        self.progress = tf.Variable(0.0, trainable=False, name="progress")
        self._costs = tf.constant(costs, tf.float32)
        names = uses(self.layout)
        self._moved = tf.Variable(
            tf.zeros(len(names)), trainable=False, name=LOGITS.replace("/", "_")
        )
        # Position of each use's gate: that of the first field of its group, or its own.
        first = {
            name: group.layout.keyed[0]
            for group in self.groups
            if group.name
            for name in group.layout.keyed
        }
        self._gate_of = [names.index(first.get(name, name)) for name in names]

    @property
    def slabs(self) -> dict[str, int]:
        """The slabs of the inner model."""
        return self.inner.slabs

    def blocks(self) -> dict[str, Blocks]:
        """Return the blocks of the inner model, and the gate of each use."""
        layout = self.layout
        kinds = [("field", layout.keyed), ("dense", layout.dense), ("cross", layout.relations)]
        gates = Blocks.of([(f"{kind}:{name}", 1) for kind, names in kinds for name in names])
        return self.inner.blocks() | {LOGITS: gates}

    def variables_by_name(self) -> dict[str, tf.Variable]:
        """Dense weights and gates, for the optimizer."""
        return self.inner.variables_by_name() | {LOGITS: self._moved}

    def weights(self) -> Arrays:
        """Return dense weights and gates, as float32 arrays."""
        return self.inner.weights() | {LOGITS: self._moved.numpy()}

    def load(self, weights: Weights) -> None:
        """Set dense weights and gates; raises InputError if names or shapes do not fit."""
        gates = {name: weight for name, weight in weights.items() if name == LOGITS}
        load_weights({LOGITS: self._moved}, gates)
        self.inner.load({name: weight for name, weight in weights.items() if name != LOGITS})

    def start_at(self, logit: float) -> None:
        """Set the bias of the inner model."""
        self.inner.start_at(logit)

    def keep(self) -> dict[str, float]:
        """Return δ of each use, by name: its importance."""
        return dict(zip(uses(self.layout), map(float, self._keep().numpy()), strict=True))

    def penalty(self) -> tf.Tensor:
        """Return `ramp · Σ cost_j · δ_j`, float32 []: the gates' term of the loss."""
        rise = tf.constant(1.0)
        if self.rule.ramp:
            rise = tf.minimum(1.0, self.progress / self.rule.ramp)
        return rise * tf.reduce_sum(self._costs * self._keep())

    def forward(
        self,
        vectors: Mapping[str, tf.Tensor],
        dense: tf.Tensor,
        cross: tf.Tensor,
        dropout_seed: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Return the inner model's logits [b]; in training, with a seed, of gated inputs.

        Arguments are those of `CtrModel.forward`.
        """
        if dropout_seed is None:
            return self.inner.forward(vectors, dense, cross)

        # 1. Draw `z / δ` of each use, float32 [b or 1, uses].
        keep = self._keep()
        rows = tf.shape(dense)[0] if self.rule.draw is Draw.EXAMPLE else tf.constant(1)
        shape = tf.stack([rows, tf.constant(keep.shape[0])])
        seed = dropout_seed + tf.constant(_SALT, dropout_seed.dtype)
        uniform = self._shared(tf.random.stateless_uniform(shape, seed))
        factors = concrete(keep, uniform, temperature(self.rule, self.progress)) / keep

        # 2. Multiply the inputs. A number's value and flag have the same factor.
        kinds = (self.layout.keyed, self.layout.dense, self.layout.relations)
        ids, numbers, relations = tf.split(factors, [len(names) for names in kinds], axis=1)
        gated = {
            name: rows * self._of_slab(name, ids)[:, :, None] for name, rows in vectors.items()
        }
        numbers = tf.repeat(numbers, 2, axis=1)
        return self.inner.forward(gated, dense * numbers, cross * relations, dropout_seed)

    def _keep(self) -> tf.Tensor:
        """Return δ of each use, float32 [uses]: a sigmoid scaled to the limits of the rule."""
        # The variable is the change from the start, so that a new gate's 0 is `initial_keep`.
        least, most = self.rule.keep_range
        start = (self.rule.initial_keep - least) / (most - least)
        logits = float(np.log(start / (1 - start))) + self.rule.speed * self._moved
        return self._shared(least + (most - least) * tf.sigmoid(logits))

    def _shared(self, values: tf.Tensor) -> tf.Tensor:
        """Give each use of a group, in values [..., uses], the value of the group's first use."""
        # Without named groups every use has its own gate: the gather would change nothing.
        if len(self.groups) == 1 and not self.groups[0].name:
            return values
        return tf.gather(values, self._gate_of, axis=-1)

    def _of_slab(self, slab: str, ids: tf.Tensor) -> tf.Tensor:
        """Return the factors [b or 1, F] of the fields of a slab's group, from all id fields'."""
        if len(self.groups) == 1:
            return ids
        names = next(
            group.layout.keyed for group in self.groups if group.name == split_slab(slab)[0]
        )
        return tf.gather(ids, [self.layout.keyed.index(name) for name in names], axis=1)


def uses(layout: FieldLayout) -> tuple[str, ...]:
    """Return the names of what has a gate, in order: id fields, numbers, relations."""
    return layout.keyed + layout.dense + layout.relations


def concrete(keep: tf.Tensor, uniform: tf.Tensor, temperature: tf.Tensor | float) -> tf.Tensor:
    """Return relaxed Bernoulli draws `σ((logit δ + logit u) / t)` in (0, 1).

    A draw is above ½ with probability δ at every temperature; as t → 0 it becomes 0 or 1.
    Source: Maddison et al. and Jang et al., both ICLR 2017.

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
