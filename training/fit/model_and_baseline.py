"""The two learners of a day: the model and its baseline, a logistic regression.

They are built from a `LearnerConfig`, trained on the same batches, saved, and restored.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from elastic_embeddings.optimizers.optimizer import Optimizer
from elastic_embeddings.optimizers.rules import GroupAdam
from elastic_embeddings.slabs.slab import SlabSpec
from elastic_embeddings.table import ElasticTable
from features.schema import Relation, Schema
from training.data.arrays import read_arrays, write_arrays
from training.data.inputs import Inputs
from training.data.layout import DEFAULT_GROUP, split_slab
from training.fit import policies
from training.fit.checkpoints import DENSE, Description, rows_folder
from training.fit.grouped_table import GroupedTable, Routing, Rows, tables_of
from training.fit.learner import GraphStep, Learner, PreparedBatch, step_arguments
from training.fit.threads import use_threads_for
from training.models.ctr import build_model, logistic_regression
from training.models.parts.part import DEEP, WIDE, role_of
from training.models.weight_transfer import Weights, carry_over
from training.settings import ModelSettings, TrainingSettings

BASELINE = "baseline"
"""Folder of the baseline inside a checkpoint."""

OPTIMIZER = "optimizer.npz"
"""State of the dense weights' optimizer, as `<weight>/<slot>`."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LearnerConfig:
    """What learners are built from.

    Attributes:
        schema: the fields.
        model: widths, layers, optimizers.
        training: batch size, seed, admission, eviction.
        relations: pairs of fields whose p_uv enters the model.
        wrap_optimizer: replaces every optimizer by another, such as one with a warm-up
            (`training.fit.policies.WarmupRestart`); None: they are used as configured.
    """

    schema: Schema
    model: ModelSettings
    training: TrainingSettings
    relations: Sequence[Relation]
    wrap_optimizer: Callable[[Optimizer], Optimizer] | None = None

    def wrapped(self, optimizer: Optimizer) -> Optimizer:
        """Return the optimizer after `wrap_optimizer`."""
        return self.wrap_optimizer(optimizer) if self.wrap_optimizer else optimizer


@dataclass(frozen=True)
class ModelAndBaseline:
    """The model and the baseline, trained on the same batches."""

    model: Learner[Rows]
    baseline: Learner[Rows]

    def __iter__(self) -> Iterator[Learner[Rows]]:
        # The model comes first: `train_step` returns the first loss.
        yield self.model
        yield self.baseline

    @classmethod
    def new(cls, config: LearnerConfig) -> ModelAndBaseline:
        """Build both untrained, and set TensorFlow's threads if it is not running yet."""
        use_threads_for(config.training.batch_size)
        return cls(_new_model(config), _new_baseline(config))

    @classmethod
    def from_checkpoint(
        cls, config: LearnerConfig, folder: Path, saved: Description
    ) -> ModelAndBaseline:
        """Build both and load a checkpoint, as far as the config still has a place for it.

        Rows are kept by key, so every field that stays in its group keeps its rows. If a learning
        rate changed, the optimizer's dual sums are restated, and the weights stay the same. State
        of another rule is not used.

        Raises:
            InputError: the checkpoint is incomplete or damaged, or an embedding width changed.
        """
        learners = cls.new(config)
        # The saved model shows which rows of which weight belonged to which input.
        # Nothing reads its own weights, which stay untrained.
        before = cls.new(LearnerConfig(saved.schema, saved.model, saved.training, saved.relations))
        _restore(learners.model, before.model, folder)
        _restore(learners.baseline, before.baseline, folder / BASELINE)
        return learners

    @classmethod
    def from_state(cls, config: LearnerConfig, folder: Path) -> ModelAndBaseline:
        """Build both and load what `save_state` wrote, of the same config.

        Raises:
            InputError: the state is incomplete or damaged.
        """
        learners = cls.new(config)
        _restore(learners.model, learners.model, folder)
        _restore(learners.baseline, learners.baseline, folder / BASELINE)
        return learners

    def start_at_click_rate(self, label: NDArray[np.float32]) -> None:
        """Set both biases to the log-odds of labels float32 [n], which steps reach only slowly.

        Labels of one class leave the biases at 0.
        """
        rate = float(np.mean(label)) if len(label) else 0.0
        if 0 < rate < 1:
            for learner in self:
                learner.model.start_at(float(np.log(rate / (1 - rate))))

    def prepare(self, inputs: Inputs) -> list[PreparedBatch]:
        """Prepare a batch for both learners. Runs on the host only."""
        # Keys and arguments are computed once for both.
        keys, fields, arguments = inputs.flat_keys(), inputs.flat_fields(), step_arguments(inputs)
        return [
            PreparedBatch(learner.table.prepare(keys, fields, ahead=True), arguments, len(inputs))
            for learner in self
        ]

    def train_step(self, prepared: Sequence[PreparedBatch]) -> float:
        """Take one step of both and return the model's loss before it."""
        return self._step.run(prepared)[0]

    @cached_property
    def _step(self) -> GraphStep:
        return GraphStep(list(self))

    def start_day(self) -> None:
        """Begin a new day in both tables."""
        for learner in self:
            learner.table.start_day()

    def evict(self) -> None:
        """Run eviction on both tables, if configured."""
        for learner in self:
            if learner.table.eviction:
                learner.table.evict()

    def compact(self) -> None:
        """Release memory that the tables no longer need; see `ElasticTable.compact`."""
        for learner in self:
            for table in tables_of(learner.table).values():
                table.compact()

    def save(self, folder: Path) -> None:
        """Write both into a checkpoint folder."""
        for learner in self:
            # Deltas of a checkpoint's table start from it or later: older deletions are of no use.
            for table in tables_of(learner.table).values():
                table.forget_deletions()
        self.save_state(folder)

    def save_state(self, folder: Path) -> None:
        """Write both so that `from_state` continues exactly; neither is changed."""
        _save(self.model, folder)
        _save(self.baseline, folder / BASELINE)


def _new_model(config: LearnerConfig) -> Learner[Rows]:
    settings, seed, wrap = config.model, config.training.seed, config.wrapped
    model = build_model(config.schema, settings, config.relations, seed)
    keyed = model.layout.keyed
    tables = {}
    for group in model.groups:
        deep, storage = settings.deep, settings.storage
        if group.l21 is not None:
            deep = deep.model_copy(update={"l21": group.l21})
        wide_rule, deep_rule = (wrap(policies.optimizer(each)) for each in (settings.wide, deep))
        by_role = {
            WIDE: SlabSpec(1, wide_rule, 0.0, storage),
            DEEP: SlabSpec(group.row_dim, deep_rule, settings.init_scale, storage),
        }
        slabs = [own for name, own in map(split_slab, model.slabs) if name == group.name]
        specs = {slab: by_role[role_of(slab)] for slab in slabs}
        tables[group.name] = _table(specs, config, keyed, group.layout.keyed)
    # A model without groups has one table and no routing between tables.
    rows: Rows = (
        tables[DEFAULT_GROUP]
        if list(tables) == [DEFAULT_GROUP]
        else GroupedTable(tables, Routing.of(model.layout, model.groups))
    )
    return Learner(model, rows, wrap(policies.dense_optimizer(settings.dense)), seed)


def _new_baseline(config: LearnerConfig) -> Learner[Rows]:
    training = config.training
    # Without momentum, as the models' rows: found on KuaiRand's progressive AUC, and worth 0.0057
    # AUC to the baseline on the days after (docs/results/kuairand.md).
    rule = GroupAdam(learning_rate=training.baseline_learning_rate, beta_1=0.0, beta_2=0.99)
    optimizer = config.wrapped(rule)
    model = logistic_regression(config.schema, config.relations)
    keyed = model.layout.keyed
    table = _table({WIDE: SlabSpec(1, optimizer, 0.0)}, config, keyed, keyed)
    return Learner(model, table, optimizer, training.seed)


def _table(
    specs: Mapping[str, SlabSpec],
    config: LearnerConfig,
    keyed: tuple[str, ...],
    fields: tuple[str, ...],
) -> ElasticTable:
    """Return the table of some of the model's id fields `keyed`."""
    training = config.training
    # A schema may have no id field; a table needs at least one name.
    return ElasticTable(
        specs,
        policies.admission(training.admission, keyed, fields),
        training.seed,
        fields=fields or ("all",),
        eviction=policies.eviction(training.eviction),
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
    """Load the content of `folder`, which a learner like `before` saved."""
    # 1. Rows of the groups that the saved learner had too. A new group starts empty.
    tables, saved_tables = tables_of(learner.table), tables_of(before.table)
    for name, table in sorted(tables.items()):
        if name in saved_tables:
            table.restore(rows_folder(folder, name))
        else:
            group = f"group {name!r}" if name else "fields in no group"
            _log.warning("%s has no table of %s: its rows start empty", folder, group)

    # 2. Dense weights, input by input: an input of both models keeps its rows.
    old, new = before.model.blocks(), learner.model.blocks()

    def carried(saved: Weights, initial: Weights) -> Weights:
        return carry_over(saved, initial, old, new)

    learner.model.load(carried(read_arrays(folder / DENSE), learner.model.weights()))

    # 3. The optimizer's state, as long as the rule is the same: another one starts from zero, as in
    #    the tables. Adam's moments under AMSGrad would subtract the attraction to x twice.
    rule, previous = learner.optimizer, before.optimizer
    if type(rule) is not type(previous):
        _log.warning(
            "%s: the dense weights start with fresh optimizer state, they were trained with %s",
            folder,
            type(previous).__name__,
        )
        return
    states, restored = read_arrays(folder / OPTIMIZER), {}
    for slot in rule.slot_names:
        end = f"/{slot}"
        saved = {n.removesuffix(end): array for n, array in states.items() if n.endswith(end)}
        initial = {name: slots[slot].numpy() for name, slots in learner.slots.items()}
        restored[slot] = carried(saved, initial)
    weights = learner.model.weights()
    # The averages of batch norm are weights without an optimizer.
    for name in learner.slots:
        weight = weights[name]
        # Dense weights are no groups: each number is a row of width 1.
        packed = np.stack([restored[slot][name].ravel() for slot in restored], axis=1)
        packed = rule.restated(packed, weight.reshape(-1, 1), previous)
        for column, slot in zip(packed.T, restored, strict=True):
            learner.slots[name][slot].assign(column.reshape(weight.shape))
