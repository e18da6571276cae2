"""Configuration of pretraining on the cross graph. Does not import TensorFlow."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from features.schema import Settings
from training.settings import Count, NonNegative, Positive, Seed

Kind = Literal["pcf_gnn", "factorisation", "node_bias", "lookup"]
Statistic = Literal["logit", "pmi", "log_count"]
Share = Annotated[float, Field(gt=0, lt=1)]


class WeightSettings(Settings):
    """The weight of an edge of n impressions in the square loss.

    `log` is ln(1 + n), `saturating` is n / (n + kappa).
    """

    kind: Literal["log", "saturating"] = "log"
    kappa: Positive = 20.0


class EncoderSettings(Settings):
    """The node encoder.

    `layers` aggregate sampled neighbours (0: a node is its own vector). `fanouts` is the number of
    neighbours to draw in each layer, the layer next to the output first. `own_dropout` is the share
    of nodes whose own vector is hidden in a batch: the encoder learns to encode a node that is new.
    """

    layers: Annotated[int, Field(ge=0, le=3)] = 1
    aggregation: Literal["mean", "sum"] = "mean"
    fanouts: tuple[Annotated[int, Field(ge=1, le=64)], ...] = (10,)
    own_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    @model_validator(mode="after")
    def _check_fanouts(self) -> Self:
        if len(self.fanouts) < self.layers:
            raise ValueError(
                f"pretraining.encoder.fanouts has {len(self.fanouts)} numbers for {self.layers} "
                "layers: give one for each layer"
            )
        return self


class CrossNetSettings(Settings):
    """What maps two encodings to a number: their `dot` product, or an `mlp`.

    The MLP has ReLU layers and reads [h_u, h_v, h_u * h_v].
    """

    kind: Literal["dot", "mlp"] = "dot"
    hidden: Annotated[tuple[Count, ...], Field(min_length=1)] = (16,)


class PretrainSettings(Settings):
    """What is fitted to the cross graph's statistic, how, and how often (`every_days`; 1: daily).

    `epochs` is the most passes over the edges (`pcf_gnn`), or the number of sweeps (the others);
    `l2` is in units of edge weight. `corrections` is the share of a relation's pairs that keep
    their own statistic in addition to the encodings (`training.pretraining.pretrain.corrected`).
    Only `pcf_gnn` reads `encoder`, `cross_net`, `batch_size`, `learning_rate`, `patience` (epochs
    without a gain on the held-out edges before it stops), `refit` (fit again with the held-out
    edges) and `warm_start` (start from the previous fit).
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
    """Excluded from a version's configuration: it decides when to fit, not what."""

    @model_validator(mode="after")
    def _check_ridge(self) -> Self:
        if self.kind in ("factorisation", "node_bias") and not self.l2:
            raise ValueError(
                f"pretraining.l2 of 0 leaves {self.kind} without a single solution: "
                "choose a number above 0"
            )
        return self
