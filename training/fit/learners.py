"""The day's two learners, the model and its baseline: built from settings, saved, and restored from a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from elastic_embeddings.optimizers.learning_rates import base_rate
from elastic_embeddings.optimizers.optimizer import Optimizer
from elastic_embeddings.optimizers.rules import GroupAdam
from elastic_embeddings.slabs.slab import SlabSpec
from elastic_embeddings.table import ElasticTable
from features.schema import Relation, Schema
from training.data.arrays import read_arrays, write_arrays
from training.data.field_groups import DEFAULT, Group, own_slab
from training.data.inputs import Inputs
from training.data.layout import Layout
from training.fit import policies
from training.fit.checkpoints import DENSE, Description, rows_folder
from training.fit.grouped_table import GroupedTable, Rows, tables_of
from training.fit.learner import GraphStep, Learner, Model, Prepared, step_arguments
from training.fit.routing import Routing
from training.fit.threads import use_threads_for
from training.models.blocks import Weights, carry_over
from training.models.build import build_model
from training.models.ctr import logistic_regression
from training.models.parts.part import DEEP, WIDE, role_of
from training.settings import ModelSettings, TrainingSettings

BASELINE = "baseline"
"""Folder of the baseline inside a checkpoint."""

_log = logging.getLogger(__name__)

OPTIMIZER = "optimizer.npz"
"""State of the dense weights' optimizer, as `<weight>/<slot>`."""


@dataclass(frozen=True)
class Recipe:
    """What learners are built from; `rewarmed` is put around every learning rate (`training.fit.staleness`), if given."""

    schema: Schema
    model: ModelSettings
    training: TrainingSettings
    relations: Sequence[Relation]
    rewarmed: Callable[[Optimizer], Optimizer] | None = None

    def rule(self, optimizer: Optimizer) -> Optimizer:
        """Return an optimizer as this recipe has it."""
        return self.rewarmed(optimizer) if self.rewarmed else optimizer


@dataclass(frozen=True)
class PreparedPair:
    """One batch, prepared for both learners."""

    model: Prepared
    baseline: Prepared

    @property
    def size(self) -> int:
        """Impressions."""
        return self.model.size


@dataclass(frozen=True)
class Learners:
    """The model and the baseline; they learn the same batches."""

    model: Learner[Rows]
    baseline: Learner[Rows]

    @classmethod
    def fresh(cls, recipe: Recipe) -> Learners:
        """Build both, with nothing learned, and choose TensorFlow's threads if it is not running yet."""
        use_threads_for(recipe.training.batch_size)
        return cls(_fresh_model(recipe), _fresh_baseline(recipe))

    @classmethod
    def restored(cls, recipe: Recipe, folder: Path, saved: Description) -> Learners:
        """Build both and take over what a checkpoint learned, as far as the recipe still has a place for it.

        Rows are kept by key, so every field that stayed in its group keeps its own. A changed learning rate restates the
        optimizer's dual sums, so that the weights stay what they are.

        Raises:
            InputError: the checkpoint is incomplete or damaged, or the embedding width (of a group) changed.
        """
        learners, before = (
            cls.fresh(recipe),
            cls.fresh(Recipe(saved.schema, saved.model, saved.training, saved.relations)),
        )
        _restore(learners.model, before.model, folder)
        _restore(learners.baseline, before.baseline, folder / BASELINE)
        return learners

    def start_at_click_rate(self, label: NDArray[np.float32]) -> None:
        """Set both biases to the log-odds of the labels float32 [n] about to be learned, which steps alone reach slowly.

        Labels of one class leave the biases at 0.
        """
        rate = float(np.mean(label)) if len(label) else 0.0
        if 0 < rate < 1:
            for learner in (self.model, self.baseline):
                learner.model.start_at(float(np.log(rate / (1 - rate))))

    def prepare(self, inputs: Inputs) -> PreparedPair:
        """Prepare a batch for both (host only)."""
        keys, fields, arguments = inputs.flat_keys(), inputs.flat_fields(), step_arguments(inputs)
        tables = self.model.table, self.baseline.table
        return PreparedPair(
            *(Prepared(t.prepare(keys, fields, ahead=True), arguments, len(inputs)) for t in tables)
        )

    def learn(self, prepared: PreparedPair) -> float:
        """Let both take one step; return the model's loss before it."""
        return self._step.take([prepared.model, prepared.baseline])[0]

    @cached_property
    def _step(self) -> GraphStep:
        return GraphStep([self.model, self.baseline])

    def start_day(self) -> None:
        """Say to both tables that a day begins."""
        for learner in (self.model, self.baseline):
            learner.table.start_day()

    def evict(self) -> None:
        """Let both tables' keys go, where they have a policy for it."""
        for learner in (self.model, self.baseline):
            if learner.table.eviction:
                learner.table.evict()

    def save(self, folder: Path) -> None:
        """Write both into a checkpoint folder."""
        _save(self.model, folder)
        _save(self.baseline, folder / BASELINE)


def _fresh_model(recipe: Recipe) -> Learner[Rows]:
    seed = recipe.training.seed
    model = build_model(recipe.schema, recipe.model, recipe.relations, seed)
    dense = recipe.rule(policies.dense_optimizer(recipe.model.dense))
    return Learner(model, _rows(model, recipe), dense, seed)


def _rows(model: Model, recipe: Recipe) -> Rows:
    """The table of a model's rows: one, or one a group."""
    tables = {
        group.name: _table(_specs(model, group, recipe), recipe, group.layout.keyed)
        for group in model.groups
    }
    return (
        tables[DEFAULT]
        if list(tables) == [DEFAULT]
        else GroupedTable(tables, Routing.of(model.layout, model.groups))
    )


def _specs(model: Model, group: Group, recipe: Recipe) -> dict[str, SlabSpec]:
    settings = recipe.model
    deep = (
        settings.deep if group.l21 is None else settings.deep.model_copy(update={"l21": group.l21})
    )
    specs = {
        WIDE: SlabSpec(1, recipe.rule(policies.optimizer(settings.wide)), 0.0, settings.storage),
        DEEP: SlabSpec(
            group.row_dim,
            recipe.rule(policies.optimizer(deep)),
            settings.init_scale,
            settings.storage,
        ),
    }
    return {
        own: specs[role_of(own)] for name, own in map(own_slab, model.slabs) if name == group.name
    }


def _fresh_baseline(recipe: Recipe) -> Learner[Rows]:
    optimizer = recipe.rule(GroupAdam(learning_rate=recipe.training.baseline_learning_rate))
    table = _table({WIDE: SlabSpec(1, optimizer, 0.0)}, recipe, Layout.of(recipe.schema).keyed)
    return Learner(
        logistic_regression(recipe.schema, recipe.relations), table, optimizer, recipe.training.seed
    )


def _table(specs: Mapping[str, SlabSpec], recipe: Recipe, fields: tuple[str, ...]) -> ElasticTable:
    training, every = recipe.training, Layout.of(recipe.schema).keyed
    admission, eviction = (
        policies.admission(training.admission, every, fields),
        policies.eviction(training.eviction),
    )
    return ElasticTable(
        specs, admission, training.seed, fields=fields or ("all",), eviction=eviction
    )


def _save(learner: Learner[Rows], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_arrays(folder / DENSE, learner.model.weights())
    states = {
        f"{name}/{slot}": state.numpy()
        for name, slots in learner.slots.items()
        for slot, state in slots.items()
    }
    write_arrays(folder / OPTIMIZER, states)
    for name, table in tables_of(learner.table).items():
        table.save(rows_folder(folder, name))


def _restore(learner: Learner[Rows], before: Learner[Rows], folder: Path) -> None:
    """Load what `folder` holds, which was saved by a learner like `before`."""
    _restore_rows(tables_of(learner.table), tables_of(before.table), folder)
    learner.model.load(
        _carried(read_arrays(folder / DENSE), learner.model.weights(), before, learner)
    )
    states = read_arrays(folder / OPTIMIZER)
    for slot in learner.optimizer.slot_names:
        _restore_slot(
            slot,
            {
                name.removesuffix(f"/{slot}"): a
                for name, a in states.items()
                if name.endswith(f"/{slot}")
            },
            before,
            learner,
        )


def _restore_rows(
    tables: Mapping[str, ElasticTable], before: Collection[str], folder: Path
) -> None:
    """Load the tables that the saved learner had too; a group that is new starts empty, its step counted from then on."""
    for name in sorted(set(tables) - set(before)):
        _log.warning(
            "%s has no table of %s: its rows start anew",
            folder,
            f"group {name!r}" if name else "fields in no group",
        )
    for name in set(tables) & set(before):
        tables[name].restore(rows_folder(folder, name))


def _restore_slot(slot: str, saved: Weights, before: Learner[Rows], learner: Learner[Rows]) -> None:
    fresh = {name: slots[slot].numpy() for name, slots in learner.slots.items()}
    for name, array in _carried(saved, fresh, before, learner).items():
        learner.slots[name][slot].assign(array)
        if slot == "z":
            _restate(learner.slots[name][slot], before.optimizer, learner.optimizer)


def _carried(
    saved: Weights, fresh: Weights, before: Learner[Rows], after: Learner[Rows]
) -> Weights:
    return carry_over(saved, fresh, before.model.blocks(), after.model.blocks())


def _restate(dual: tf.Variable, before: Optimizer, after: Optimizer) -> None:
    """Rescale z ∝ x/η₀ to another learning rate; otherwise the next step would scale x by the ratio."""
    rates = base_rate(before.learning_rate), base_rate(after.learning_rate)
    if rates[0] != rates[1]:
        dual.assign(dual * (rates[0] / rates[1]))
