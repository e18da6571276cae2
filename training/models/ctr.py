"""Click models over vectors that were already looked up: one module for training, scoring, export.

`build_model` builds a model from its settings: a `CtrModel`, or a `FusionModel` of several.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from features.schema import Relation, Schema
from training.data.arrays import Arrays
from training.data.layout import ModelSpec, slab_of, split_slab
from training.models.parts.interactions import CrossNetwork, Factorisation, Linear
from training.models.parts.part import DEEP, WIDE, InputShape, Part, PooledBatch
from training.models.parts.perceptron import Perceptron
from training.models.parts.relation_network import RelationNetwork
from training.models.weight_transfer import Blocks, Weights, load_weights
from training.settings import ModelSettings

Value = TypeVar("Value")

__all__ = ["DEEP", "WIDE", "CtrModel", "FusionModel", "build_model", "logistic_regression"]


def build_model(
    schema: Schema, settings: ModelSettings, relations: Sequence[Relation] = (), seed: int = 0
) -> CtrModel | FusionModel:
    """Return a newly initialised model; the same arguments give the same weights.

    Raises:
        InputError: `relations` (of the graph), `model.relations` or `model.groups` name unsuitable
            fields, or a part needs vectors of one width and the groups' differ.
    """
    kind = FusionModel if settings.kind == "fusion" else CtrModel
    return kind(schema, settings, relations, seed)


def logistic_regression(schema: Schema, relations: Sequence[Relation] = ()) -> CtrModel:
    """Return the baseline of every model: logistic regression on the same ids and numbers."""
    return CtrModel(schema, ModelSettings(kind="logistic_regression"), relations)


class _ClickModel(tf.Module):
    """What single models and fusions have in common; arguments and errors are of `build_model`."""

    def __init__(
        self,
        schema: Schema,
        settings: ModelSettings,
        relations: Sequence[Relation] = (),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.spec = spec = ModelSpec(schema, settings, tuple(relations))
        self.layout, self.groups, self.settings = spec.layout, spec.groups, settings
        self._build(seed)

    @abstractmethod
    def _build(self, seed: int) -> None:
        """Create the variables."""

    @abstractmethod
    def all_variables(self) -> dict[str, tf.Variable]:
        """The dense weights by name, trainable or not."""

    def weights(self) -> Arrays:
        """Return all dense weights by name, as float32 arrays, running averages included."""
        return {name: variable.numpy() for name, variable in self.all_variables().items()}

    def load(self, weights: Weights) -> None:
        """Set all dense weights; raises InputError if names or shapes do not fit."""
        load_weights(self.all_variables(), weights)


class CtrModel(_ClickModel):
    """`logit = bias + Σ parts`; the embedding tables are not part of the model.

    | kind | parts |
    |---|---|
    | `logistic_regression` | linear |
    | `fm` | linear, second order (Rendle, ICDM 2010) |
    | `wide_deep` | linear, hidden layers (Cheng et al., DLRS 2016) |
    | `deepfm` | linear, second order, hidden layers (Guo et al., IJCAI 2017) |
    | `dcnv2` | cross network, hidden layers (Wang et al., WWW 2021) |
    """

    def _build(self, seed: int) -> None:
        self._parts = _parts(InputShape(self.layout, self.groups), self.settings)
        # One generator for all parts, in their order: a seed gives the same weights as before.
        draw = np.random.default_rng(seed)
        weights = _merged(part.initial_weights(draw) for part in self._parts)
        self._trainable = _variables({"bias": np.zeros((), np.float32)} | weights)
        self._state = _variables(_merged(part.initial_state() for part in self._parts))

    @property
    def slabs(self) -> dict[str, int]:
        """Names and widths of the slabs whose rows `forward` reads."""
        read = {name for part in self._parts for name in part.slabs}
        return {
            group.slab(name): width
            for group in self.groups
            for name, width in ((WIDE, 1), (DEEP, group.row_dim))
            if name in read
        }

    def blocks(self) -> dict[str, Blocks]:
        """Return the rows of each weight that belong to each input (see `weight_transfer`)."""
        return _merged(part.blocks() for part in self._parts)

    def variables_by_name(self) -> dict[str, tf.Variable]:
        """The trainable dense weights, for the optimizer."""
        return dict(self._trainable)

    def all_variables(self) -> dict[str, tf.Variable]:
        """The dense weights, trainable or not, as `load` sets them."""
        return self._trainable | self._state

    def start_at(self, logit: float) -> None:
        """Set the bias."""
        self._trainable["bias"].assign(logit)

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
            vectors: by slab float32 [b, F, width], of its group's id fields in the order of the
                group's layout, lists pooled.
            dense: float32 [b, 2 * D], as `training.models.pooling.dense_inputs` gives them.
            cross: float32 [b, R], p_uv of each relation.
            dropout_seed: int64 [2]; given in training only, where dropout and batch statistics
                apply.
            weights: float32 tensors by name, in place of the model's own.

        Returns:
            float32 [b].
        """
        batch = PooledBatch(vectors, dense, cross, dropout_seed, self.settings.matmul)
        read = weights or self.all_variables()
        return tf.add_n([part.logit(read, batch) for part in self._parts]) + read["bias"]


class FusionModel(_ClickModel):
    """The mean of several models' logits, each model trained by its own loss.

    Members share ids, groups and indices, but each has its own slabs (`<kind>_<slab>`) and weights
    (`<kind>/<weight>`).
    """

    def _build(self, seed: int) -> None:
        schema, settings, relations = self.spec.schema, self.settings, self.spec.relations
        self.members = {
            # Members with the same seed would start with the same weights.
            kind: CtrModel(schema, settings.of_member(kind), relations, seed + number)
            for number, kind in enumerate(settings.members)
        }

    @property
    def slabs(self) -> dict[str, int]:
        """Names and widths of the slabs whose rows `forward` reads."""
        return {
            _member_slab(kind, slab): width
            for kind, member in self.members.items()
            for slab, width in member.slabs.items()
        }

    def blocks(self) -> dict[str, Blocks]:
        """Return the rows of each weight that belong to each input (see `weight_transfer`)."""
        return self._by_member(CtrModel.blocks)

    def variables_by_name(self) -> dict[str, tf.Variable]:
        """The trainable dense weights of all members, for the optimizer."""
        return self._by_member(CtrModel.variables_by_name)

    def all_variables(self) -> dict[str, tf.Variable]:
        """The dense weights of all members, trainable or not, as `load` sets them."""
        return self._by_member(CtrModel.all_variables)

    def start_at(self, logit: float) -> None:
        """Set every member's bias."""
        for member in self.members.values():
            member.start_at(logit)

    def forward(
        self,
        vectors: Mapping[str, tf.Tensor],
        dense: tf.Tensor,
        cross: tf.Tensor,
        dropout_seed: tf.Tensor | None = None,
        weights: Mapping[str, Any] | None = None,
    ) -> tf.Tensor:
        """Return the mean of the members' logits, float32 [b]; in training [b, members].

        Arguments are those of `CtrModel.forward`, with the slabs of all members.
        """
        read = weights or self.all_variables()
        logits = []
        for kind, member in self.members.items():
            prefix = f"{kind}/"
            own_vectors = {slab: vectors[_member_slab(kind, slab)] for slab in member.slabs}
            own_weights = {
                name.removeprefix(prefix): weight
                for name, weight in read.items()
                if name.startswith(prefix)
            }
            logits.append(member.forward(own_vectors, dense, cross, dropout_seed, own_weights))
        # In training each member has its own loss, so that its gradient is the one it would have
        # if it were trained alone.
        return tf.add_n(logits) / len(logits) if dropout_seed is None else tf.stack(logits, axis=1)

    def _by_member(self, values: Callable[[CtrModel], Mapping[str, Value]]) -> dict[str, Value]:
        """Return what each member gives, under the names `<kind>/<name>`."""
        return {
            f"{kind}/{name}": value
            for kind, member in self.members.items()
            for name, value in values(member).items()
        }


def _parts(shape: InputShape, settings: ModelSettings) -> tuple[Part, ...]:
    network = None
    if settings.relations:
        width = shape.common_width("model.relations")
        network = RelationNetwork(shape.layout, width, settings.relations)
    # Parts hold no weights, so it costs nothing to make one that the kind does not use.
    linear, deep = Linear(shape), Perceptron(shape, settings, network)
    match settings.kind:
        case "logistic_regression":
            return (linear,)
        case "fm":
            return (linear, Factorisation(shape))
        case "wide_deep":
            return (linear, deep)
        case "deepfm":
            return (linear, Factorisation(shape), deep)
        case "dcnv2":
            return (CrossNetwork(shape, settings.cross_layers), deep)
    raise AssertionError(f"{settings.kind} is no single model")


def _member_slab(kind: str, slab: str) -> str:
    """Return a fusion's name for a slab of one of its members, in the same group."""
    group, name = split_slab(slab)
    return slab_of(group, f"{kind}_{name}")


def _merged(parts: Iterable[Mapping[str, Value]]) -> dict[str, Value]:
    return {name: value for part in parts for name, value in part.items()}


def _variables(arrays: Arrays) -> dict[str, tf.Variable]:
    # Not trainable for Keras: the learner applies its own optimizer to `variables_by_name`.
    return {
        name: tf.Variable(value, trainable=False, name=name.replace("/", "_"))
        for name, value in arrays.items()
    }
