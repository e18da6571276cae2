"""A process that trains the default model: one request a line of standard input, one answer a line
of standard output.

It is run against other revisions too (`PYTHONPATH` says which): it is given plain arrays, and uses
no more of the code than a day of training does.

    python day_steps_worker.py FOLDER BATCH

FOLDER is what `day_steps.write_inputs` wrote, BATCH the impressions a step.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def main(folder: Path, batch: int) -> None:
    """Answer requests `{"steps": s}` with `{"cpu_s", "wall_s", "examples"}` of as many steps, until
    the input ends.

    CPU seconds are user and system time of all threads of this process. The first answer comes
    before any request: `{"import_cpu_s", "first_cpu_s"}`, of the imports, and of building the
    learners and taking the first two steps.
    """
    from elastic_embeddings.core.ragged import Ragged
    from features.schema import Schema
    from training.data.inputs import Inputs
    from training.fit.model_and_baseline import LearnerConfig, ModelAndBaseline
    from training.fit.training_loop import train_model_and_baseline
    from training.settings import ModelSettings, TrainingSettings

    imported_s = time.process_time()
    arrays = np.load(folder / "inputs.npz")
    schema = Schema.model_validate_json((folder / "schema.json").read_text(encoding="utf-8"))
    day = Inputs(
        keys=arrays["keys"],
        lists=(Ragged(arrays["list_values"], arrays["list_offsets"]),),
        dense=arrays["dense"],
        cross=np.zeros((len(arrays["label"]), 0), np.float32),
        label=arrays["label"],
    )
    loaded_s = time.process_time()
    settings = TrainingSettings(batch_size=batch)
    learners = ModelAndBaseline.new(LearnerConfig(schema, ModelSettings(), settings, ()))
    place = 0

    def take(steps: int) -> int:
        """Learn the next impressions, from the first again after the last; return how many."""
        nonlocal place
        rows = np.arange(place, place + batch * steps) % len(day)
        place = int(rows[-1]) + 1
        train_model_and_baseline(learners, day.take(rows), settings, "benchmark", None)
        return len(rows)

    take(2)
    _answer({"import_cpu_s": imported_s, "first_cpu_s": time.process_time() - loaded_s})
    for line in sys.stdin:
        started, spent = time.perf_counter(), time.process_time()
        examples = take(json.loads(line)["steps"])
        spent, seconds = time.process_time() - spent, time.perf_counter() - started
        _answer({"cpu_s": spent, "wall_s": seconds, "examples": examples})


def _answer(figures: dict[str, Any]) -> None:
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
