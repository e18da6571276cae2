"""Configuration of the table, the model and the trainer. Imports neither TensorFlow nor NumPy."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from features.schema import EvolvingSettings, Identifier, Settings

NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, le=1)]


class AdmissionSettings(Settings):
    """Which ids get a row: those seen `min_count` times (1: all).

    `count` counts every id exactly; `sketch` and `poisson` count ids without a row in bounded
    memory that forgets. `poisson` admits ids that are likely to be seen `min_count` times within
    the horizon, which counts the field's own keys: a list of three ids counts three times, so a
    field with lists reaches the horizon in fewer impressions. `min_counts` overrides `min_count`
    for the fields it names.
    """

    kind: Literal["count", "sketch", "poisson"] = "count"
    min_count: Count = 1
    min_counts: dict[str, Count] = {}
    horizon: Count = 1_000_000
    capacity: Count = 1 << 20
    false_positive_rate: Annotated[float, Field(gt=0, lt=1)] = 0.01

    def threshold(self, field: str) -> int:
        """Return how often an id of this field must be seen."""
        return self.min_counts.get(field, self.min_count)


class EvictionSettings(Settings):
    """Which ids lose their row at the end of a day's training; by default none.

    `zero_rows`: rows that group lasso set to zero. `idle_days`: ids not seen for so many days.
    `min_norm`: rows with shorter vectors. `max_rows`: the least frequent ids above a budget.
    All of them leave at least `keep_rows` rows.
    """

    zero_rows: bool = False
    idle_days: Count | None = None
    min_norm: Positive | None = None
    max_rows: Count | None = None
    keep_rows: Annotated[int, Field(ge=0)] = 0


class OptimizerSettings(Settings):
    """A group-lasso optimizer (Yue et al., ECML-PKDD 2021).

    With all penalties 0 it is the plain optimizer of that kind. `decay` adds decay · x to the
    gradient of each row of a batch, up to `decay_steps` times for rows that are in few batches; it
    restrains rare ids over several passes. `exact` takes the exact proximal step where the
    published closed form is approximate. `rare_multiple` C and `rare_count` N raise l1 for rare
    ids, by the factor 1 + C · max(N - count, 0) / N.
    """

    kind: Literal["adam", "amsgrad", "adagrad", "ftrl", "rowwise_adagrad"] = "adam"
    learning_rate: Positive = 1e-3
    beta_1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta_2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    epsilon: Positive = 1e-8
    l1: NonNegative = 0.0
    l2: NonNegative = 0.0
    l21: NonNegative = 0.0
    decay: NonNegative = 0.0
    decay_steps: Count = 1
    exact: bool = False
    rare_multiple: NonNegative = 0.0
    rare_count: Count = 1


class RelationNetworkSettings(Settings):
    """The relation network of the deep part: relations of all pairs of id fields.

    `fields` names the fields, or is `all`. The pairs share one symmetric matrix per head; `rank`
    makes it low-rank (empty: full). A relation enters as one number (`scalar`) or as a vector of
    the embeddings' width.
    """

    fields: Literal["all"] | tuple[Identifier, ...] = "all"
    heads: Count = 1
    rank: Count | None = None
    form: Literal["scalar", "vector"] = "scalar"


Pooling = Literal["concat", "mean", "sum"]
Precision = Literal["float32", "bfloat16"]


class GroupSettings(Settings):
    """Fields that share a table and a width.

    They enter the deep part together and `select-features` drops them together. `concat`
    concatenates their vectors, `mean` and `sum` make one vector of them. `l21` overrides that of
    `model.deep`.
    """

    name: Identifier
    fields: Annotated[tuple[Identifier, ...], Field(min_length=1)]
    dim: Count = 8
    pooling: Pooling = "concat"
    l21: NonNegative | None = None


MemberKind = Literal["logistic_regression", "fm", "wide_deep", "deepfm", "dcnv2"]
_WITHOUT_LAYERS = ("logistic_regression", "fm")


class ModelSettings(EvolvingSettings):
    """The model: kind, width, layers, storage of the rows, and the optimizers of its three parts.

    `norm` normalises the hidden layers by batch, by layer or not. `cross_layers` is for dcnv2.
    `relations` adds a relation network to the deep part, instead of declared id crosses. `groups`
    gives some fields their own tables. `fusion` is the mean of its `members`' logits; each member
    is trained on its own loss, with the other settings. `matmul` is the precision of the products
    of hidden and cross layers in training; weights, sums and all scoring are float32.
    """

    added_later = ("groups", "matmul")

    kind: MemberKind | Literal["fusion"] = "wide_deep"
    members: tuple[MemberKind, ...] = ()
    dim: Count = 16
    hidden: tuple[Count, ...] = (128, 64)
    norm: Literal["none", "batch", "layer"] = "none"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    cross_layers: Count = 3
    relations: RelationNetworkSettings | None = None
    groups: tuple[GroupSettings, ...] = ()
    init_scale: Positive = 0.01
    storage: Literal["float32", "bfloat16", "float16"] = "float32"
    matmul: Precision = "float32"
    deep: OptimizerSettings = OptimizerSettings(learning_rate=3e-3)
    wide: OptimizerSettings = OptimizerSettings()
    dense: OptimizerSettings = OptimizerSettings()

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        distinct = len(set(self.members))
        if (self.kind == "fusion") != (distinct > 1) or distinct < len(self.members):
            raise ValueError(
                "model.kind fusion goes with model.members, two different kinds or more"
            )
        if self.relations and self.kind in _WITHOUT_LAYERS:
            raise ValueError(
                f"model.relations needs hidden layers, which {self.kind} does not have: "
                "choose wide_deep, deepfm or dcnv2"
            )
        return self

    @field_validator("groups")
    @classmethod
    def _check_overlaps(cls, groups: tuple[GroupSettings, ...]) -> tuple[GroupSettings, ...]:
        names = [group.name for group in groups]
        fields = [field for group in groups for field in group.fields]
        for what, each in (("name", names), ("field", fields)):
            twice = sorted({name for name in each if each.count(name) > 1})
            if twice:
                raise ValueError(
                    f"model.groups has the {what} {', '.join(twice)} twice: "
                    "a field is in at most one group"
                )
        return groups

    def of_member(self, kind: MemberKind) -> ModelSettings:
        """Return the settings of one member of a fusion."""
        relations = None if kind in _WITHOUT_LAYERS else self.relations
        return self.model_copy(update={"kind": kind, "members": (), "relations": relations})

    @field_validator("dense")
    @classmethod
    def _check_dense_kind(cls, dense: OptimizerSettings) -> OptimizerSettings:
        if dense.kind not in ("adam", "amsgrad"):
            raise ValueError(
                f"dense weights are trained by adam or amsgrad; {dense.kind} is for rows "
                "(model.deep, model.wide)"
            )
        return dense


class StalenessSettings(Settings):
    """What to do about a checkpoint more than `max_days` older than the day (empty: nothing).

    `refuse` stops, `fresh` starts with an untrained model, `warn` logs a warning and continues.
    After `warn` the learning rates grow to their full value over `warmup_steps` steps (0: at once).
    """

    max_days: Count | None = None
    action: Literal["refuse", "warn", "fresh"] = "warn"
    warmup_steps: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _check_warmup(self) -> Self:
        if self.warmup_steps and (self.max_days is None or self.action != "warn"):
            raise ValueError(
                "warmup_steps go with max_days and action: warn: a model that continues after a gap"
            )
        return self


class TrainingSettings(EvolvingSettings):
    """One day of training: batches, passes, the held-out last slice by time, and the seed.

    `learn_by: hour` scores each local hour with the current model and then trains on it; `passes`
    and `shuffle_block` then count within an hour. `negative_rate` is the share of non-clicks to
    train on; the loss is corrected for it, so the model stays calibrated. `informative_rate` is the
    share of impressions to train on of those that an earlier model scored: the worse it scored one,
    the more likely it is kept, weighted by the inverse of that probability. A first slice without
    scores is kept whole. `weight` names a column of `features.extras` that weighs an impression in
    the loss; only the ratios within a batch matter. Held-out and progressive figures are always of
    all impressions, unweighted. `slices` are single-valued id fields whose values get their own
    held-out figures. `unvalidated_parent` allows a warm start from a checkpoint that has no verdict
    of `validate-model`; without it, training starts from the last one that was not unsound.
    `device: auto` uses a GPU if there is one; `gpu` fails where there is none, so that a day that
    needs one is not trained on the CPU for hours. The state of a training is saved every
    `save_every_s` seconds (0: never): a killed one continues from it, to the same result.
    """

    added_later = ("save_every_s",)

    batch_size: Count = 512
    passes: Count = 1
    holdout_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    shuffle_block: Count = 65_536
    seed: Seed = 17
    learn_by: Literal["day", "hour"] = "day"
    negative_rate: Rate = 1.0
    informative_rate: Rate = 1.0
    weight: Identifier | None = None
    slices: tuple[Identifier, ...] = ()
    staleness: StalenessSettings = StalenessSettings()
    admission: AdmissionSettings = AdmissionSettings()
    eviction: EvictionSettings = EvictionSettings()
    baseline_learning_rate: Positive = 1e-2
    unvalidated_parent: bool = False
    device: Literal["auto", "cpu", "gpu"] = "auto"
    save_every_s: NonNegative = 600.0
