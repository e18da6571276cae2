"""Training of a model on the days of a dataset by the project's trainer, kept, with the seconds it
needed.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from features.schema import Relation, Schema
from harness.cache import description_digest
from training.data.examples import batches
from training.data.inputs import Inputs
from training.fit.learner import Learner, ahead
from training.fit.trainer import TrainRequest, train_day
from training.settings import ModelSettings, TrainingSettings

Made = TypeVar("Made")


@dataclass(frozen=True)
class Spent:
    """Seconds.

    Attributes:
        clock: that went by.
        cpu: of all threads of this process.
    """

    clock: float = 0.0
    cpu: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.clock + other.clock, self.cpu + other.cpu)


def timed(work: Callable[[], Made]) -> tuple[Made, Spent]:
    """Do some work; return what it made and what it took."""
    clock, cpu = time.monotonic(), time.process_time()
    made = work()
    return made, Spent(time.monotonic() - clock, time.process_time() - cpu)


@dataclass(frozen=True)
class TrainedModel:
    """What was learned.

    Attributes:
        checkpoint: of the last day.
        partition: the last day, whose last slice is held out.
        auc: of that slice.
        spent: on learning all days; `cpu` is NaN where it was learned before that was noted.
    """

    checkpoint: Path
    partition: Path
    auc: float
    spent: Spent

    def of_day(self, number: int) -> Path:
        """Return the checkpoint of one of the days, from 0."""
        return self.checkpoint.with_name(str(number))


@dataclass(frozen=True)
class Crossed:
    """Pairs of fields whose p_uv the model reads.

    Attributes:
        relations: the pairs.
        encodings: for each day an `encodings` folder that was made of days before it, or None: p_uv
            is 0.
    """

    relations: tuple[Relation, ...]
    encodings: tuple[Path | None, ...]


def train_days(
    schema: Schema,
    model: ModelSettings,
    training: TrainingSettings,
    days: Sequence[Path],
    folder: Path,
    crossed: Crossed | None = None,
) -> TrainedModel:
    """Learn the days one after the other, the last slice of each day first on the next, or read
    what was learned before.
    """
    description = [
        schema.model_dump(mode="json"),
        model.model_dump(mode="json"),
        training.model_dump(mode="json"),
        list(map(str, days)),
    ]
    description[0]["forbidden"] = sorted(description[0]["forbidden"])
    description += (
        [[r.name for r in crossed.relations], list(map(str, crossed.encodings))] if crossed else []
    )
    home = folder / description_digest(description)
    if not (home / "done.json").is_file():
        shutil.rmtree(home, ignore_errors=True)
        auc, spent = timed(lambda: _learn(schema, model, training, days, home, crossed))
        done = {"auc": auc, "seconds": spent.clock, "cpu_seconds": spent.cpu}
        (home / "done.json").write_text(json.dumps(done), encoding="utf-8")
    done = json.loads((home / "done.json").read_text(encoding="utf-8"))
    spent = Spent(done["seconds"], done.get("cpu_seconds", math.nan))
    return TrainedModel(home / str(len(days) - 1), days[-1], done["auc"], spent)


def _learn(
    schema: Schema,
    model: ModelSettings,
    training: TrainingSettings,
    days: Sequence[Path],
    home: Path,
    crossed: Crossed | None,
) -> float:
    """Return the AUC of the last day's last slice."""
    figures, relations = {"auc": math.nan}, crossed.relations if crossed else ()
    for number, day in enumerate(days):
        last = number == len(days) - 1
        description = (
            training
            if last
            else training.model_copy(
                update={"holdout_fraction": min(0.02, training.holdout_fraction)}
            )
        )
        before = (home / str(number - 1), days[number - 1]) if number else (None, None)
        (home / str(number)).mkdir(parents=True)
        request = TrainRequest(
            schema,
            model,
            description,
            relations,
            day,
            previous_partition=before[1],
            previous_checkpoint=before[0],
            encodings=crossed.encodings[number] if crossed else None,
        )
        figures = train_day(request, home / str(number), log=lambda _: None)
    return figures["auc"]


def train_once(learner: Learner, inputs: Inputs, settings: TrainingSettings) -> None:
    """Train on inputs once, in batches, shuffled in blocks."""
    order = (settings.seed, learner.table.step)
    rows = batches(len(inputs), settings.batch_size, settings.shuffle_block, order)
    for prepared in ahead(lambda batch: learner.prepare(inputs.take(batch)), rows):
        learner.train_step(prepared)
