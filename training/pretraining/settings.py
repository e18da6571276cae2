"""What YAML says of pretraining on the cross graph. Free of TensorFlow, so that anything may read it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from features.schema import Settings
from training.settings import Count, NonNegative, Positive, Seed

Kind = Literal["pcf_gnn", "factorisation", "node_bias", "lookup"]
Statistic = Literal["logit", "pmi", "log_count"]
Share = Annotated[float, Field(gt=0, lt=1)]


class WeightSettings(Settings):
    """The weight of an edge of n impressions in the square loss: `log`, ln(1 + n), or `saturating`, n / (n + kappa)."""

    kind: Literal["log", "saturating"] = "log"
    kappa: Positive = 20.0


class EncoderSettings(Settings):
    """The node encoder: layers of sampled-neighbour aggregation (0: a node is its own vector), and the neighbours drawn.

    `fanouts` names a number for each layer, the one next to the output first; `own_dropout` is the share of nodes whose own
    vector is hidden in a batch, so that the encoder learns to do without it, as it must for a node that is new.
    """

    layers: Annotated[int, Field(ge=0, le=3)] = 1
    aggregation: Literal["mean", "sum"] = "mean"
    fanouts: tuple[Annotated[int, Field(ge=1, le=64)], ...] = (10,)
    own_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    @model_validator(mode="after")
    def _a_fanout_a_layer(self) -> Self:
        if len(self.fanouts) < self.layers:
            raise ValueError(
                f"pretraining.encoder.fanouts has {len(self.fanouts)} numbers for {self.layers} layers: name one each"
            )
        return self


class CrossNetSettings(Settings):
    """What turns two encodings into a number: their `dot` product, or an `mlp` of [h_u, h_v, h_u * h_v] with ReLU layers."""

    kind: Literal["dot", "mlp"] = "dot"
    hidden: Annotated[tuple[Count, ...], Field(min_length=1)] = (16,)


class PretrainSettings(Settings):
    """What is fitted to the cross graph's statistic, how, and how often (`every_days`; 1: anew for every day).

    `epochs` are passes over the edges (`pcf_gnn`), at most, or sweeps (the others); `l2` is in units of edge weight.
    `corrections` is the share of a relation's pairs that keep their own statistic beside the encodings: `corrections.py`.
    `pcf_gnn` alone reads `encoder`, `cross_net`, `batch_size`, `learning_rate`, `patience` (epochs without a gain on the
    held-out edges before it stops), `refit` (fit once more with the held-out edges) and `warm_start` (from the fit before).
    """

    kind: Kind = "pcf_gnn"
    statistic: Statistic = "logit"
    weight: WeightSettings = WeightSettings()
    dim: Count = 8
    encoder: EncoderSettings = EncoderSettings()
    cross_net: CrossNetSettings = CrossNetSettings()
    epochs: Count = 30
    batch_size: Count = 1024
    learning_rate: Positive = 5e-3
    l2: NonNegative = 10.0
    patience: Count = 5
    refit: bool = True
    warm_start: bool = True
    heldout_fraction: Share = 0.1
    storage: Literal["float32", "float16"] = "float32"
    corrections: Annotated[float, Field(ge=0, le=1)] = 0.0
    seed: Seed = 17
    every_days: Annotated[int, Field(ge=1, exclude=True)] = 7
    """When, not what: it is no part of a version's configuration."""

    @model_validator(mode="after")
    def _sides_can_be_solved(self) -> Self:
        if self.kind in ("factorisation", "node_bias") and not self.l2:
            raise ValueError(
                f"pretraining.l2 of 0 leaves {self.kind} without a single solution: choose a number above 0"
            )
        return self
