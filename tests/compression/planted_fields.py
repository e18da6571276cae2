"""Clicks that depend on known fields, fields of noise, and a checkpoint trained on them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from elastic_embeddings.core.ragged import Ragged
from features.schema import Categorical, MultiValued, Numeric, Relation, Schema, Timestamp
from training.data.inputs import Inputs
from training.fit.model_and_baseline import LearnerConfig
from training.settings import ModelSettings, OptimizerSettings, TrainingSettings

SIGNAL = ("signal_0", "signal_1", "signal_2")
NOISE = ("noise_0", "noise_1", "noise_2", "noise_3")
VALUES = 20
MODEL = ModelSettings(dim=4, hidden=(16,), deep=OptimizerSettings(learning_rate=5e-3))
TRAINING = TrainingSettings(batch_size=64)
RELATIONS = (Relation(left="signal_0", right="noise_0"),)

SCHEMA = Schema(
    label="click",
    user="user_id",
    item="item_id",
    timestamp=Timestamp(column="time"),
    fields=(
        *(Categorical(name=name) for name in (*SIGNAL, *NOISE)),
        MultiValued(name="noise_list"),
        Numeric(name="signal_number"),
        Numeric(name="noise_number"),
    ),
)
SIGNAL_USES = (*SIGNAL, "signal_number")
NOISE_USES = (*NOISE, "noise_list", "noise_number")
RECIPE = LearnerConfig(SCHEMA, MODEL, TRAINING, ())
_EFFECTS = np.random.default_rng(1).normal(size=(3, VALUES))


def draw_log(rows, seed):
    """Values by field (integers, lists of integers, floats) and labels."""
    draw = np.random.default_rng(seed)
    ids = draw.integers(VALUES, size=(rows, len(SIGNAL) + len(NOISE)))
    numbers = draw.normal(size=(rows, 2))
    lists = [draw.integers(VALUES, size=n) for n in draw.integers(0, 4, rows)]
    logit = -0.5 + sum(effect[ids[:, i]] for i, effect in enumerate(_EFFECTS)) + numbers[:, 0]
    return ids, lists, numbers, (draw.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.float32)


def planted_inputs(rows, seed):
    """The log as a learner of `RECIPE` reads it."""
    ids, lists, numbers, label = draw_log(rows, seed)
    dense = np.stack([numbers, np.ones_like(numbers)], axis=2).reshape(rows, 4).astype(np.float32)
    offsets = np.concatenate([[0], np.cumsum([len(values) for values in lists])])
    listed = Ragged(np.concatenate(lists).astype(np.int64) + 100_000, offsets)
    return Inputs(
        ids + 1000 * np.arange(ids.shape[1]),
        (listed,),
        dense,
        np.zeros((rows, 0), np.float32),
        label,
    )


def write_planted_day(folder: Path, rows: int, seed: int) -> Path:
    """The log as an `impressions` artifact."""
    ids, lists, numbers, label = draw_log(rows, seed)
    columns = {
        name: [f"v{value}" for value in ids[:, i]] for i, name in enumerate((*SIGNAL, *NOISE))
    }
    columns |= {
        "signal_number": [f"{x:.4f}" for x in numbers[:, 0]],
        "noise_number": [f"{x:.4f}" for x in numbers[:, 1]],
    }
    table = {
        "record_id": pa.array(range(rows), pa.int64()),
        "label": pa.array(label.astype(np.int8)),
        "timestamp_ms": pa.array(seed * 86_400_000 + np.arange(rows), pa.int64()),
        "user": pa.array(["u"] * rows),
        "item": pa.array(["i"] * rows),
        "noise_list": pa.array(
            [[f"t{value}" for value in values] for values in lists], pa.list_(pa.string())
        ),
        **{name: pa.array(values, pa.string()) for name, values in columns.items()},
    }
    (folder / "impressions").mkdir(parents=True)
    pq.write_table(pa.table(table), folder / "impressions" / "part-00000.parquet")
    return folder


def write_planted_checkpoint(folder: Path, partition: Path, recipe: LearnerConfig = RECIPE) -> Path:
    """A checkpoint of `recipe` that learned a partition twice over."""
    from training.data.examples import batches, read_examples
    from training.data.inputs import Featurizer
    from training.fit.checkpoints import Description, write_description
    from training.fit.model_and_baseline import ModelAndBaseline
    from training.models.encoding_inputs import write_encodings

    folder.mkdir(parents=True, exist_ok=True)
    inputs = Featurizer(recipe.schema, recipe.relations, {}, {}).inputs(
        read_examples(partition, recipe.schema, recipe.relations)
    )
    learners = ModelAndBaseline.new(recipe)
    for seed in (0, 1):
        for rows in batches(len(inputs), recipe.training.batch_size, 1024, (seed,)):
            learners.train_step(learners.prepare(inputs.take(rows)))
    learners.save(folder)
    step = learners.model.table.step
    write_description(
        folder,
        Description(recipe.schema, recipe.model, recipe.training, {}, recipe.relations, step),
    )
    write_encodings(folder / "encodings.npz", {})
    return folder
