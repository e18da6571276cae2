"""A click model over vectors that were already looked up: the same module in training, in scoring and in the export."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from features.schema import Relation, Schema
from training.data.arrays import Arrays
from training.data.field_groups import groups_of
from training.data.layout import Layout
from training.models.blocks import Blocks, Weights, load_weights
from training.models.parts.cross_network import CrossNetwork
from training.models.parts.factorisation import Factorisation
from training.models.parts.linear import Linear
from training.models.parts.part import DEEP, WIDE, Part, Pooled, Shape
from training.models.parts.perceptron import Perceptron
from training.models.parts.relation_network import RelationNetwork
from training.settings import MemberKind, ModelSettings, RelationNetworkSettings

Value = TypeVar("Value")

__all__ = ["DEEP", "WIDE", "CtrModel", "logistic_regression"]


class CtrModel(tf.Module):
    """`logit = bias + Σ parts`, with the embedding tables left outside.

    | kind | parts |
    |---|---|
    | `logistic_regression` | linear |
    | `fm` | linear, second order (Rendle, ICDM 2010) |
    | `wide_deep` | linear, hidden layers (Cheng et al., DLRS 2016) |
    | `deepfm` | linear, second order, hidden layers (Guo et al., IJCAI 2017) |
    | `dcnv2` | cross network, hidden layers (Wang et al., WWW 2021) |

    Same schema, settings and seed: same weights.

    Raises:
        InputError: `relations` (of the graph), `model.relations` or `model.groups` name fields that are not fit, or a part
            needs vectors of one width and the groups' differ.
    """

    def __init__(
        self,
        schema: Schema,
        settings: ModelSettings,
        relations: Sequence[Relation] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(name="ctr")
        self.layout = Layout.of(schema, relations)
        self.settings = settings
        self.groups = groups_of(self.layout, settings)
        self._parts = _parts(Shape(self.layout, self.groups), settings)
        draw = np.random.default_rng(seed)
        learned = {"bias": np.zeros((), np.float32)} | _joined(
            part.fresh(draw) for part in self._parts
        )
        self._learned = _variables(learned)
        self._state = _variables(_joined(part.state() for part in self._parts))

    @property
    def slabs(self) -> dict[str, int]:
        """Names and widths of the slabs whose rows `forward` takes."""
        read = {name for part in self._parts for name in part.slabs}
        widths = [
            (group.slab(name), width, name)
            for group in self.groups
            for name, width in ((WIDE, 1), (DEEP, group.row_dim))
        ]
        return {slab: width for slab, width, name in widths if name in read}

    def blocks(self) -> dict[str, Blocks]:
        """Which rows of which weight belong to which input (see `training.models.blocks`)."""
        return _joined(part.blocks() for part in self._parts)

    def variables_by_name(self) -> dict[str, tf.Variable]:
        """The dense weights that a gradient changes, for the optimizer."""
        return dict(self._learned)

    def weights(self) -> Arrays:
        """Return all dense weights by name, as float32 arrays, running averages included."""
        return {name: variable.numpy() for name, variable in self.all_variables().items()}

    def load(self, weights: Weights) -> None:
        """Set all dense weights.

        Raises:
            InputError: a weight is missing, unknown, or of another shape.
        """
        load_weights(self.all_variables(), weights)

    def all_variables(self) -> dict[str, tf.Variable]:
        """The dense weights, learned or not, as `load` sets them."""
        return self._learned | self._state

    def start_at(self, logit: float) -> None:
        """Set the bias."""
        self._learned["bias"].assign(logit)

    def forward(
        self,
        vectors: Mapping[str, tf.Tensor],
        dense: tf.Tensor,
        cross: tf.Tensor,
        dropout_seed: tf.Tensor | None = None,
        weights: Mapping[str, Any] | None = None,
    ) -> tf.Tensor:
        """Return the logit of each impression.

        Args:
            vectors: by slab float32 [b, F, width], of its group's id fields in the order of the group's layout, lists pooled.
            dense: float32 [b, 2 * D], as `training.models.pooling.dense_inputs` gives them.
            cross: float32 [b, R], p_uv of each relation.
            dropout_seed: int64 [2]; given in learning only, where dropout and batch statistics apply.
            weights: float32 tensors by name, in place of the model's own.

        Returns:
            float32 [b].
        """
        batch, read = (
            Pooled(vectors, dense, cross, dropout_seed, self.settings.matmul),
            weights or self.all_variables(),
        )
        return tf.add_n([part.logit(read, batch) for part in self._parts]) + read["bias"]


def logistic_regression(schema: Schema, relations: Sequence[Relation] = ()) -> CtrModel:
    """Return what any model has to beat: logistic regression on the same ids and numbers."""
    return CtrModel(schema, ModelSettings(kind="logistic_regression"), relations)


def _parts(shape: Shape, settings: ModelSettings) -> tuple[Part, ...]:
    network = _relation_network(shape, settings.relations) if settings.relations else None
    linear, second_order = partial(Linear, shape), partial(Factorisation, shape)
    deep, crosses = (
        partial(Perceptron, shape, settings, network),
        partial(CrossNetwork, shape, settings.cross_layers),
    )
    by_kind: dict[MemberKind, tuple[Callable[[], Part], ...]] = {
        "logistic_regression": (linear,),
        "fm": (linear, second_order),
        "wide_deep": (linear, deep),
        "deepfm": (linear, second_order, deep),
        "dcnv2": (crosses, deep),
    }
    assert settings.kind != "fusion"
    return tuple(part() for part in by_kind[settings.kind])


def _relation_network(shape: Shape, settings: RelationNetworkSettings) -> RelationNetwork:
    return RelationNetwork(shape.layout, shape.common_width("model.relations"), settings)


def _joined(parts: Iterable[Mapping[str, Value]]) -> dict[str, Value]:
    return {name: value for part in parts for name, value in part.items()}


def _variables(arrays: Arrays) -> dict[str, tf.Variable]:
    return {
        name: tf.Variable(value, trainable=False, name=name.replace("/", "_"))
        for name, value in arrays.items()
    }
