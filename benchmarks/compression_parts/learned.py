"""A model taken through a log's days by the project's trainer, kept by everything that it depends on."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from features.schema import Schema
from training.settings import ModelSettings, TrainingSettings
from training.trainer import TrainRequest, train_day


@dataclass(frozen=True)
class Learned:
    """What was learned.

    Attributes:
        checkpoint: of the last day.
        partition: the last day, whose last slice is held out.
        auc: of that slice.
        seconds: of learning all days.
    """

    checkpoint: Path
    partition: Path
    auc: float
    seconds: float


def learn(schema: Schema, model: ModelSettings, training: TrainingSettings, days: Sequence[Path], folder: Path) -> Learned:
    """Learn the days one after the other, the last slice of each day first on the next, or read what was learned before."""
    told = [schema.model_dump(mode="json"), model.model_dump(mode="json"), training.model_dump(mode="json"), list(map(str, days))]
    told[0]["forbidden"] = sorted(told[0]["forbidden"])
    home = folder / hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
    if not (home / "done.json").is_file():
        shutil.rmtree(home, ignore_errors=True)
        _learn(schema, model, training, days, home)
    done = json.loads((home / "done.json").read_text(encoding="utf-8"))
    return Learned(home / str(len(days) - 1), days[-1], done["auc"], done["seconds"])


def _learn(schema: Schema, model: ModelSettings, training: TrainingSettings, days: Sequence[Path], home: Path) -> None:
    started, figures = time.monotonic(), {"auc": float("nan")}
    for number, day in enumerate(days):
        last = number == len(days) - 1
        told = training if last else training.model_copy(update={"holdout_fraction": min(0.02, training.holdout_fraction)})
        before = (home / str(number - 1), days[number - 1]) if number else (None, None)
        (home / str(number)).mkdir(parents=True)
        request = TrainRequest(schema, model, told, (), day, previous_partition=before[1], previous_checkpoint=before[0])
        figures = train_day(request, home / str(number), tell=lambda _: None)
    done = {"auc": figures["auc"], "seconds": time.monotonic() - started}
    (home / "done.json").write_text(json.dumps(done), encoding="utf-8")
