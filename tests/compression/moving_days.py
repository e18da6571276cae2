"""Days whose users come and go: rows change, appear, become zero and are evicted."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from compression.pruning import live_model
from features.schema import Categorical, MultiValued, Numeric, Schema, Timestamp, Transform
from training.data.examples import read_examples
from training.data.inputs import Featurizer
from training.data.scalers import scalers_from_numbers
from training.fit.checkpoints import Description
from training.fit.model_and_baseline import LearnerConfig, ModelAndBaseline
from training.fit.training_loop import train_model_and_baseline
from training.settings import (
    EvictionSettings,
    GroupSettings,
    ModelSettings,
    OptimizerSettings,
    TrainingSettings,
)

SCHEMA = Schema(
    label="click",
    user="uid",
    item="iid",
    timestamp=Timestamp(column="time"),
    fields=(
        Categorical(name="user_id"),
        Categorical(name="item_id"),
        MultiValued(name="tags"),
        Numeric(name="price", transform=Transform.LOG),
    ),
)
MODEL = ModelSettings(
    dim=4,
    hidden=(8,),
    groups=(GroupSettings(name="items", fields=("item_id", "tags"), dim=6),),
    deep=OptimizerSettings(learning_rate=0.02, l21=0.02),
    dense=OptimizerSettings(learning_rate=0.02),
)
TRAINING = TrainingSettings(batch_size=64, eviction=EvictionSettings(zero_rows=True, idle_days=2))
ROWS = 300


def columns_of(day):
    """Raw values by field; each day some users are new and some never come back."""
    draw = np.random.default_rng((5, day))
    users, items = draw.integers(day * 8, day * 8 + 60, ROWS), draw.integers(0, 25, ROWS)
    return {
        "user_id": [f"u{user}" for user in users],
        "item_id": [f"i{item}" for item in items],
        "tags": [[f"t{item % 5}", f"t{item % 3}"][: item % 3] for item in items],
        "price": [f"{price:.3f}" for price in draw.lognormal(day / 10, size=ROWS)],
    }


def examples_of(folder, day):
    """A day as the trainer reads it."""
    columns = columns_of(day)
    clicks = np.random.default_rng((6, day)).random(ROWS) < [
        0.2 + 0.6 * (int(item[1:]) % 2) for item in columns["item_id"]
    ]
    stamps = day * 86_400_000 + np.arange(ROWS)
    (folder / "impressions").mkdir(parents=True)
    table = pa.table(
        {
            "record_id": pa.array(stamps, pa.int64()),
            "label": pa.array(clicks.astype(np.int8)),
            "timestamp_ms": pa.array(stamps, pa.int64()),
            "user": columns["user_id"],
            "item": columns["item_id"],
            **columns,
        }
    )
    pq.write_table(table, folder / "impressions" / "part-0.parquet")
    return read_examples(folder, SCHEMA, ())


def learned_days(folder, days):
    """Yield the model after each of the days 0 … days - 1, float32, without zero rows."""
    learners = ModelAndBaseline.new(LearnerConfig(SCHEMA, MODEL, TRAINING, ()))
    for day in range(days):
        examples = examples_of(folder / str(day), day)
        scalers = scalers_from_numbers(("price",), examples.numbers, examples.present)
        learners.start_day()
        train_model_and_baseline(
            learners, Featurizer(SCHEMA, (), scalers, {}).inputs(examples), TRAINING, "day", None
        )
        learners.evict()
        yield live_model(
            learners.model,
            Description(SCHEMA, MODEL, TRAINING, scalers, (), learners.model.table.step),
            {},
        )
