"""The models of `crosses.py`: their inputs, training, selection by FSCD and figures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from harness.cache import Cache, Result, digest
from harness.frappe_data import FIELDS, Frappe, Split, fit
from harness.frappe_ours import Trainer, inputs_of_keys, model_settings
from numpy.typing import NDArray

from compression.selection.footprint import Budget, Footprint, choose, measure, needs
from compression.selection.ranking import FieldRanking, TrainingSplit, rank, train_on_split
from compression.settings import SelectionSettings
from features import keys
from features.schema import Categorical, Cross, Schema, Timestamp
from pipelines.store.source_digest import source_digest
from training.data.columns import distinct_pairs
from training.data.inputs import Inputs
from training.evaluation.metrics import auc, log_loss
from training.fit.learner import Learner
from training.fit.model_and_baseline import LearnerConfig, ModelAndBaseline
from training.settings import (
    AdmissionSettings,
    ModelSettings,
    RelationNetworkSettings,
    TrainingSettings,
)

Pair = tuple[str, str]

CONTEXT = FIELDS[2:]
_BY_ID = tuple((one, other) for one in FIELDS[:2] for other in CONTEXT)


@dataclass(frozen=True)
class Variant:
    """One model's inputs.

    Attributes:
        fields: of `FIELDS`, in their order.
        crosses: pairs of them, each an id of its own.
        relations: the relation network, or None.
        min_count: occurrences that give a value of a cross its row; they count on over the passes.
    """

    fields: tuple[str, ...] = FIELDS
    crosses: tuple[Pair, ...] = ()
    relations: RelationNetworkSettings | None = None
    min_count: int = 1

    def schema(self) -> Schema:
        """Return the schema of the columns that are left, and of the crosses."""
        columns = [Categorical(name=own_name(name), column=name) for name in self.fields]
        crosses = [
            Cross(name=cross_name(pair), of=tuple(own_name(part) for part in pair))
            for pair in self.crosses
        ]
        timestamp = Timestamp(column="absent")
        return Schema(
            label="label",
            user="user",
            item="item",
            timestamp=timestamp,
            fields=(*columns, *crosses),
        )

    def model(self, base: ModelSettings) -> ModelSettings:
        """Return the model's settings with this variant's relation network."""
        return base.model_copy(update={"relations": self.relations})

    def training(self, batch: int, seed: int, rows: int) -> TrainingSettings:
        """Return the settings of learning `rows` impressions, shuffled as a whole."""
        counts = {cross_name(pair): self.min_count for pair in self.crosses}
        return TrainingSettings(
            batch_size=batch,
            seed=seed,
            shuffle_block=rows,
            admission=AdmissionSettings(min_counts=counts),
        )

    def keeping(self, kept: Collection[str]) -> Variant:
        """Return the variant with the uses of these names alone (see `own_name`, `cross_name`)."""
        fields = tuple(name for name in self.fields if own_name(name) in kept)
        return replace(
            self,
            fields=fields,
            crosses=tuple(pair for pair in self.crosses if cross_name(pair) in kept),
        )

    def described(self) -> Mapping[str, Any]:
        """Return all of it as data for JSON."""
        relations = self.relations.model_dump(mode="json") if self.relations else None
        return {
            "fields": self.fields,
            "crosses": self.crosses,
            "relations": relations,
            "min_count": self.min_count,
        }


def own_name(field: str) -> str:
    """Return a field's name in the schema, where `user` and `item` are taken."""
    return f"frappe_{field}"


def cross_name(pair: Pair) -> str:
    """Return a cross's name in the schema."""
    return f"{pair[0]}_x_{pair[1]}"


def variants(min_count: int, rank: int) -> dict[str, Variant]:
    """Return the variants by name.

    `crosses` are user and item with each context field: what a user would declare. User with item
    is left out there: two thirds of the validation rows have a pair that was not learned.
    `crosses_all` has all 45 pairs.

    Args:
        min_count: of `crosses_admitted`.
        rank: of `relations_vector`.
    """
    return {
        "neither": Variant(),
        "crosses": Variant(crosses=_BY_ID),
        "crosses_admitted": Variant(crosses=_BY_ID, min_count=min_count),
        "crosses_all": Variant(crosses=tuple(combinations(FIELDS, 2))),
        "relations": Variant(relations=RelationNetworkSettings()),
        "relations_vector": Variant(relations=RelationNetworkSettings(form="vector", rank=rank)),
    }


def inputs_of(variant: Variant, split: Split) -> Inputs:
    """Return the inputs of a variant: keys int64 [n, fields + crosses] in the schema's order,
    nothing else.
    """
    columns = [_field_keys(split, name) for name in variant.fields] + [
        _cross_keys(split, pair) for pair in variant.crosses
    ]
    return inputs_of_keys(columns, split.label)


def _field_keys(split: Split, name: str) -> NDArray[np.int64]:
    codes = _codes(split, name)
    return _keys(own_name(name), _tokens(np.arange(codes.max(initial=0) + 1)))[codes]


def _cross_keys(split: Split, pair: Pair) -> NDArray[np.int64]:
    """Hash each distinct pair once, as ingest's partitions are read (`training.data.examples`)."""
    codes, lefts, rights = distinct_pairs(*(_codes(split, name) for name in pair))
    return _keys(cross_name(pair), keys.cross_tokens([_tokens(lefts), _tokens(rights)]))[codes]


def _codes(split: Split, name: str) -> NDArray[np.int64]:
    return split.codes[:, FIELDS.index(name)].astype(np.int64)


def _tokens(codes: NDArray[np.int64]) -> tf.Tensor:
    return tf.strings.as_string(tf.constant(codes, tf.int64))


def _keys(vocabulary: str, tokens: tf.Tensor) -> NDArray[np.int64]:
    hashed: NDArray[np.int64] = keys.keys(vocabulary, tokens).numpy()
    return hashed


def trainer_of(variant: Variant, data: Frappe, settings: Mapping[str, Any], seed: int) -> Trainer:
    """Return a fresh model that is trained on a variant's inputs."""
    config = recipe_of(variant, settings, seed, len(data.train))
    return Trainer(config, data, lambda split: inputs_of(variant, split))


@dataclass(frozen=True)
class ModelSize:
    """What a model takes.

    Attributes:
        rows: in the table.
        bytes: of a model that answers: keys and vectors of rows that are not zero, dense weights.
        bytes_of_rows: the table's part of them.
        bytes_with_state: of one that learns: rows with optimizer state, their share of the index,
            dense weights with state.
    """

    rows: int
    bytes: int
    bytes_of_rows: int
    bytes_with_state: int

    @classmethod
    def by(cls, variant: Variant, learner: Learner) -> ModelSize:
        """Measure a model that has learned."""
        statistics = learner.table.statistics()
        dense = sum(weight.nbytes for weight in learner.model.weights().values())
        size = footprint_of(variant, learner).of(frozenset(learner.model.layout.keyed))
        in_table = sum(field.bytes for field in statistics.fields.values())
        return cls(
            statistics.rows,
            size.bytes,
            size.bytes - dense,
            in_table + dense * (1 + len(learner.optimizer.slot_names)),
        )


def footprint_of(variant: Variant, learner: Learner) -> Footprint:
    """Return what any set of the variant's uses takes in this model (`compression.selection`)."""
    nothing = np.zeros((0, 1), np.float32)
    none = Inputs(
        keys=np.zeros((0, 0), np.int64), lists=(), dense=nothing, cross=nothing, label=nothing[:, 0]
    )
    return measure(variant.schema(), learner, none, {})


def recipe_of(variant: Variant, settings: Mapping[str, Any], seed: int, rows: int) -> LearnerConfig:
    """Return how a variant's model is built and learned, with the settings of
    `harness.frappe_models`.
    """
    model = variant.model(model_settings(dict(settings)))
    return LearnerConfig(
        variant.schema(), model, variant.training(settings["batch"], seed, rows), ()
    )


def run(variant: Variant, data: Frappe, settings: Mapping[str, Any], seed: int) -> Result:
    """Learn a variant with one seed, to the best epoch by validation AUC."""
    trainer = trainer_of(variant, data, settings, seed)
    fitted = fit(trainer, data, settings["max_epochs"], settings["patience"])
    speed = fitted.examples_per_s(len(data.train))
    figures = {
        "valid_auc": fitted.valid_auc,
        "examples_per_s": speed,
        **asdict(ModelSize.by(variant, trainer.learner)),
    }
    return Result(figures, fitted.valid, fitted.test)


MAY_FALL_SHORT = 0.0005
_SIZES = ("rows", "bytes", "bytes_of_rows", "bytes_with_state")


def figures_of(
    runs: Sequence[Result], valid: NDArray[np.float32], test: NDArray[np.float32] | None
) -> dict[str, Any]:
    """Return the means over the seeds of one variant, and the deviation of its AUC.

    Args:
        runs: of its seeds.
        valid: labels float32 of the validation rows.
        test: of the test rows, or None: their figures are left out.
    """
    figures = {
        f"valid_{name}": value
        for name, value in _quality([run.valid for run in runs], valid).items()
    }
    if test is not None:
        figures |= {
            f"test_{name}": value
            for name, value in _quality([run.test for run in runs], test).items()
        }
    figures |= {name: round(float(np.mean([run.figures[name] for run in runs]))) for name in _SIZES}
    figures["examples_per_s"] = round(
        float(np.median([run.figures["examples_per_s"] for run in runs]))
    )
    figures["best_epoch"] = float(
        np.mean([1 + int(np.argmax(run.figures["valid_auc"])) for run in runs])
    )
    return figures | {"seeds": len(runs)}


def against(full: Mapping[str, Any], pruned: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a pruned variant takes of the full one's bytes, what its AUC is above it, and
    whether the target is reached.
    """
    part = "test" if "test_auc" in full else "valid"
    gain = pruned[f"{part}_auc"] - full[f"{part}_auc"]
    share = pruned["bytes"] / full["bytes"]
    return {
        "bytes_share": share,
        f"{part}_auc_gain": gain,
        "reached": bool(share <= 0.5 and gain >= -MAY_FALL_SHORT),
    }


def _quality(
    answers: Sequence[NDArray[np.float32]], label: NDArray[np.float32]
) -> dict[str, float | None]:
    aucs = [auc(label, answer) for answer in answers]
    return {
        "auc": float(np.mean(aucs)),
        "auc_std": float(np.std(aucs, ddof=1)) if len(aucs) > 1 else None,
        "log_loss": float(np.mean([log_loss(label, answer) for answer in answers])),
    }


SHARE = 0.5


@dataclass(frozen=True)
class Chosen:
    """What half the bytes have room for.

    Attributes:
        ranking: importance and cost of every use.
        fscd: uses kept in the order of importance.
        cheapest: uses kept in the order of their rows, the fewest first: what needs no gates.
    """

    ranking: FieldRanking
    fscd: frozenset[str]
    cheapest: frozenset[str]

    def as_dict(self) -> dict[str, Any]:
        """Return the uses as data for JSON, the most important first."""
        complexities, importance = self.ranking.footprint.complexities, self.ranking.importance
        return {
            name: {
                "importance": importance[name],
                "rows": complexities[name].rows,
                "kept": name in self.fscd,
                "kept_by_cheapest": name in self.cheapest,
            }
            for name in self.ranking.order()
        }


def choose_half(
    variant: Variant,
    data: Frappe,
    settings: Mapping[str, Any],
    selection: SelectionSettings,
    seed: int,
) -> Chosen:
    """Learn the training rows once, then on with gates, and choose; validation and test rows have
    no part in it.

    Raises:
        InputError: half the bytes have no room for any field.
    """
    recipe = recipe_of(variant, settings, seed, len(data.train))
    learner, split = (
        ModelAndBaseline.new(recipe).model,
        TrainingSplit((inputs_of(variant, data.train),), inputs_of(variant, data.valid)),
    )
    train_on_split(learner, split, recipe.training, passes=1)
    ranking = rank(learner, split, recipe, selection, footprint_of(variant, learner))
    sizes = footprint_of(variant, learner)  # by now values that had to wait for their row have it
    return Chosen(
        ranking,
        *(halved(variant, sizes, order) for order in (ranking.order(), cheapest_first(ranking))),
    )


def cheapest_first(ranking: FieldRanking) -> tuple[str, ...]:
    """Return the uses by their rows, the fewest first; of equals by name."""
    complexities = ranking.footprint.complexities
    return tuple(sorted(complexities, key=lambda name: (complexities[name].rows, name)))


def halved(variant: Variant, footprint: Footprint, order: tuple[str, ...]) -> frozenset[str]:
    """Return the uses that half the bytes have room for, taken in this order.

    Raises:
        InputError: there is room for none.
    """
    whole = footprint.of(frozenset(footprint.complexities)).bytes
    return choose(
        order, needs(variant.schema(), ()), footprint.of, Budget(bytes=int(SHARE * whole))
    )


_HERE = Path(__file__).resolve().parent
_LEARNS = "compression.selection.ranking"


@dataclass(frozen=True)
class Bench:
    """The data, the settings of every model, the seeds, the finished runs, and whether test figures
    are shown.
    """

    data: Frappe
    settings: Mapping[str, Any]
    seeds: Sequence[int]
    cache: Cache
    log: Callable[[str], None]
    blind: bool = False

    def figures(self, name: str, variant: Variant) -> dict[str, Any]:
        """Return a variant's figures over the seeds."""
        runs = [self._result(name, variant, seed) for seed in self.seeds]
        return figures_of(runs, self.data.valid.label, None if self.blind else self.data.test.label)

    def _result(self, name: str, variant: Variant, seed: int) -> Result:
        path = self.cache.path(
            name, seed, variant=variant.described(), settings=dict(self.settings), of=self._digests
        )

        def made(answer: Path) -> Mapping[str, Any]:
            """Learn a variant, keep its scores, and return its figures."""
            self.log(f"{name}, seed {seed}")
            done = run(variant, self.data, self.settings, seed)
            np.savez(answer, valid=done.valid, test=done.test)
            return done.figures

        return self.cache.get_or_run(path, made)

    @cached_property
    def _digests(self) -> tuple[str, ...]:
        names = ("crosses_model.py", "harness/frappe_data.py", "harness/frappe_ours.py")
        sources = [_HERE / name for name in names]
        return self.data.digest(), source_digest(_LEARNS), digest(sources)
