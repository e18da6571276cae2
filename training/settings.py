"""What YAML says of the table, the model and the trainer. Free of TensorFlow, so that anything may read it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from features.schema import Frozen

NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]


class AdmissionSettings(Frozen):
    """Which ids get a row: all (`min_count: 1`), or those seen at least `min_count` times."""

    min_count: Count = 1


class OptimizerSettings(Frozen):
    """Group-lasso Adam (Yue et al., ECML-PKDD 2021). All λ at 0 is plain Adam."""

    learning_rate: Positive = 1e-3
    beta_1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta_2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    epsilon: Positive = 1e-8
    l1: NonNegative = 0.0
    l2: NonNegative = 0.0
    l21: NonNegative = 0.0


class ModelSettings(Frozen):
    """Wide & Deep: embedding width, hidden layers, dropout, and the optimizers of its three parts."""

    kind: Literal["wide_deep"] = "wide_deep"
    dim: Count = 16
    hidden: tuple[Count, ...] = (128, 64)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    init_scale: Positive = 0.01
    deep: OptimizerSettings = OptimizerSettings(learning_rate=3e-3)
    wide: OptimizerSettings = OptimizerSettings()
    dense: OptimizerSettings = OptimizerSettings()


class TrainingSettings(Frozen):
    """One day of learning: batches, passes, the held-out last slice by time, and the seed of everything drawn."""

    batch_size: Count = 512
    passes: Count = 1
    holdout_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    shuffle_block: Count = 65_536
    seed: Seed = 17
    admission: AdmissionSettings = AdmissionSettings()
    baseline_learning_rate: Positive = 5e-3


class PretrainSettings(Frozen):
    """The model of the cross graph: dot products of node encodings, fitted to smoothed logit CTRs.

    `epochs` are alternating least-squares sweeps. `l2` is in units of edge weight, log(1 + impressions).
    """

    dim: Count = 8
    epochs: Count = 10
    l2: Positive = 10.0
    heldout_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    seed: Seed = 17
